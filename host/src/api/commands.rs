//! `POST /v1/commands/TYPE/ID/COMMAND`: one command, answered after its events are durable.

use super::Server;
use super::answer::{HttpError, json};
use super::body::Whole;
use super::flows;
use super::operations::TIMEOUT_MS;
use super::queries::timeout;
use crate::clock::Clock;
use crate::host::{Following, Untaken};
use crate::model::{Command, ExpectedVersion, Outcome, Remembered, StreamId, Version};
use crate::status::Flow;
use crate::trace;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// The longest id that a client may choose, in bytes.
const ID_BYTES_MAX: usize = 256;

/// The longest answer without a reason, for which the memory is taken at once.
const ANSWER_BYTES: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    wait: Option<Wait>,
    timeout_ms: Option<u64>,
}

/// What the answer waits for besides the outcome.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wait {
    /// Everything that follows from the command.
    Flow,
}

pub(super) async fn send(State(server): State<Server>, request: Request) -> Result<Response, HttpError> {
    let sent = match requested(&server, request).await {
        Ok((command, None)) => take(&server, command, None).await,
        Ok((command, Some(timeout))) => {
            let (_room, timeout) = flows::room(&server, timeout).await?;
            let following = server.host.follow(command.correlation_id.clone());
            take(&server, command, Some((following, timeout))).await
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = &sent {
        server.host.traffic().count_refused();
        tracing::info!("a request is not a valid command: {}", refusal.text);
    }
    sent
}

/// Makes the command that is requested. The time is how long the sender waits for its flow, if it does. The parts are
/// taken from the request by hand, because the extractor of headers would copy them.
async fn requested(server: &Server, request: Request) -> Result<(Command, Option<Duration>), HttpError> {
    let (mut parts, body) = request.into_parts();
    let path = Path::<(String, String, String)>::from_request_parts(&mut parts, server).await;
    let wanted = Query::<Wanted>::from_request_parts(&mut parts, server).await;
    let headers = std::mem::take(&mut parts.headers);
    // The body is read in any case: a sender that is cut off while it writes does not see the refusal.
    let body = Whole::from_request(Request::from_parts(parts, body), server).await;
    let Path((aggregate_type, aggregate_id, name)) = path?;
    let Query(Wanted { wait, timeout_ms }) = wanted?;
    let wait = match wait {
        Some(Wait::Flow) => Some(timeout(timeout_ms, TIMEOUT_MS)?),
        None if timeout_ms.is_some() => {
            return Err(HttpError::malformed("`timeout_ms` is only for `wait=flow`: add that, or remove it"));
        }
        None => None,
    };
    let stream = StreamId::new(aggregate_type, aggregate_id);
    Ok((command(stream, name, &headers, body?.0, server.host.clock())?, wait))
}

/// Sends a command and makes the answer, with what follows from the command if the sender waits for that.
async fn take(
    server: &Server,
    command: Command,
    waiting: Option<(Following, Duration)>,
) -> Result<Response, HttpError> {
    let (command_id, aggregate_type) = (command.id.clone(), command.stream.aggregate_type.clone());
    let sent = server.host.send(command).await;
    let flow = match (&sent, waiting) {
        (Ok(outcome), Some((following, timeout))) => Some(flows::flow(server, following, outcome, timeout).await?),
        _ => None,
    };
    match sent {
        Ok(outcome) => Ok(answer(&command_id, &outcome, flow.as_ref())),
        Err(untaken) => Err(refusal(untaken, &aggregate_type)),
    }
}

/// Makes the refusal of a command that no shard takes.
pub(super) fn refusal(untaken: Untaken, aggregate_type: &str) -> HttpError {
    match untaken {
        Untaken::UnknownAggregate { known } => {
            HttpError::unknown("plugin serves aggregates of type", aggregate_type, &known)
        }
        Untaken::InvalidId(reason) => HttpError::malformed(reason),
    }
}

fn command(
    stream: StreamId,
    name: String,
    headers: &HeaderMap,
    body: Bytes,
    clock: &Clock,
) -> Result<Command, HttpError> {
    let payload = if body.is_empty() { b"null".to_vec() } else { body.into() };
    let expected = text(headers, "x-expected-version")?.map(expected_version).transpose();
    let said = Said {
        id: id(headers, "idempotency-key")?,
        correlation_id: id(headers, "x-correlation-id")?,
        trace_parent: trace_text(headers, trace::PARENT),
        trace_state: trace_text(headers, trace::STATE),
        expected: expected.map_err(|cause| HttpError::malformed(format!("header x-expected-version {cause}")))?,
    };
    Ok(made(stream, name.into(), payload, said, clock))
}

/// What a sender says about a command, besides its aggregate, its name and its payload.
#[derive(Default)]
pub(super) struct Said<'s> {
    /// The id that the sender chose.
    pub(super) id: Option<Arc<str>>,
    pub(super) correlation_id: Option<Arc<str>>,
    pub(super) trace_parent: Option<&'s str>,
    pub(super) trace_state: Option<&'s str>,
    pub(super) expected: Option<ExpectedVersion>,
}

/// Makes a command of a sender, of a single request or of a line.
pub(super) fn made(stream: StreamId, name: Arc<str>, payload: Vec<u8>, said: Said<'_>, clock: &Clock) -> Command {
    let durable_id = said.id.is_some();
    let id = said.id.unwrap_or_else(new_id);
    Command {
        stream,
        name,
        payload,
        time_ms: clock.now_ms(),
        correlation_id: said.correlation_id.unwrap_or_else(|| id.clone()),
        causation_id: id.clone(),
        id,
        headers: trace::headers(said.trace_parent, said.trace_state),
        origin: None,
        hops: 0,
        durable_id,
        outcome_use: Default::default(),
        first_ms: None,
        expected: said.expected,
    }
}

fn new_id() -> Arc<str> {
    let mut text = uuid::Uuid::encode_buffer();
    (&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text)).into()
}

/// Reads a tracing header. If it can't be read, it counts as absent, because tracing must not make a command fail.
fn trace_text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn id(headers: &HeaderMap, name: &str) -> Result<Option<Arc<str>>, HttpError> {
    let id = text(headers, name)?;
    id.map(|id| checked_id(id).map_err(|cause| HttpError::malformed(format!("header {name} {cause}")))).transpose()
}

/// Checks an id that a sender chose. The error completes a sentence about its place.
pub(super) fn checked_id(id: &str) -> Result<Arc<str>, String> {
    match id.len() {
        1..=ID_BYTES_MAX => Ok(id.into()),
        bytes => Err(format!("must be 1 to {ID_BYTES_MAX} bytes long, found {bytes}")),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, HttpError> {
    let text = headers.get(name).map(|value| value.to_str()).transpose();
    text.map_err(|_| HttpError::malformed(format!("header {name} must be printable ASCII")))
}

/// Parses the version that a sender expects of a stream. The error completes a sentence about the header or option.
pub(crate) fn expected_version(text: &str) -> Result<ExpectedVersion, String> {
    match text {
        "any" => Ok(ExpectedVersion::Any),
        "no-stream" => Ok(ExpectedVersion::NoStream),
        "stream-exists" => Ok(ExpectedVersion::StreamExists),
        number => match number.parse() {
            Ok(version) => Ok(ExpectedVersion::Exact(Version(version))),
            Err(_) => Err(format!("must be a version, no-stream, stream-exists or any, found {text:?}")),
        },
    }
}

fn answer(command_id: &str, outcome: &Outcome, flow: Option<&Flow>) -> Response {
    let mut body = Vec::with_capacity(ANSWER_BYTES);
    body.push(b'{');
    write_members(&mut body, command_id, outcome);
    if let Some(flow) = flow {
        body.extend_from_slice(b",\"flow\":");
        write_json(&mut body, flow);
    }
    body.push(b'}');
    let mut response = json(body);
    *response.status_mut() = status(outcome);
    if let Outcome::Busy { retry_after_ms } = outcome {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000)));
    }
    response
}

/// Returns the HTTP status of an outcome.
pub(super) fn status(outcome: &Outcome) -> StatusCode {
    match outcome.what() {
        Outcome::Accepted { .. } => StatusCode::OK,
        Outcome::Rejected { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::Malformed { .. } => StatusCode::BAD_REQUEST,
        Outcome::Conflict { .. } | Outcome::IdReused { .. } | Outcome::Archived { .. } => StatusCode::CONFLICT,
        Outcome::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        Outcome::Busy { .. } => StatusCode::SERVICE_UNAVAILABLE,
        // A remembered outcome is never itself of this kind.
        Outcome::Remembered(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Writes the members of an answer, without braces around them: the command's id, the outcome, and if the outcome is that
/// of an earlier request with the same id, the time when it was recorded. Nearly all outcomes are accepted, so those are
/// written by hand.
pub(super) fn write_members(to: &mut Vec<u8>, command_id: &str, outcome: &Outcome) {
    to.extend_from_slice(b"\"command_id\":");
    write_json(to, command_id);
    match outcome.what() {
        Outcome::Accepted { version, position, events } => {
            to.extend_from_slice(b",\"outcome\":\"accepted\",\"version\":");
            write_number(to, version.0);
            to.extend_from_slice(b",\"position\":");
            write_number(to, position.0);
            to.extend_from_slice(b",\"events\":");
            write_number(to, (*events).into());
        }
        other => {
            let begin = to.len();
            write_json(to, other);
            // Its members are members of this object.
            to[begin] = b',';
            to.pop();
        }
    }
    if let Outcome::Remembered(Remembered { remembered_from_ms, .. }) = outcome {
        to.extend_from_slice(b",\"remembered_from_ms\":");
        write_number(to, *remembered_from_ms);
    }
}

/// Writes a value as JSON.
pub(super) fn write_json(to: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    // Writing these types to memory never fails.
    serde_json::to_writer(to, value).expect("an answer is JSON");
}

/// Writes a number as JSON.
pub(super) fn write_number(to: &mut Vec<u8>, number: u64) {
    to.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(pairs: &[(&'static str, &str)], body: &'static str) -> Result<Command, HttpError> {
        let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        command(StreamId::new("order", "1"), "Create".into(), &headers, Bytes::from(body), &Clock::system())
    }

    #[test]
    fn a_command_without_headers_gets_an_id_of_its_own() {
        let command = make(&[], "").unwrap();
        assert_eq!((&*command.payload, command.durable_id, command.expected), (&b"null"[..], false, None));
        assert_eq!((&command.correlation_id, &command.causation_id), (&command.id, &command.id));
    }

    #[test]
    fn headers_name_id_correlation_and_expected_version() {
        let pairs = [("idempotency-key", "a"), ("x-correlation-id", "b"), ("x-expected-version", "3")];
        let command = make(&pairs, "{}").unwrap();
        assert_eq!((&*command.id, &*command.correlation_id, &*command.causation_id), ("a", "b", "a"));
        assert_eq!((command.durable_id, command.expected), (true, Some(ExpectedVersion::Exact(Version(3)))));
    }

    #[test]
    fn a_trace_goes_along() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let command = make(&[("traceparent", parent), ("tracestate", "a=b")], "{}").unwrap();
        let names: Vec<&str> = command.headers.iter().map(|header| header.name.as_str()).collect();
        assert_eq!(names, ["traceparent", "tracestate"]);
        assert!(make(&[("traceparent", "no")], "{}").unwrap().headers.is_empty());
    }

    #[test]
    fn a_bad_header_is_named() {
        let long = "x".repeat(257);
        for (name, value, text) in [
            (
                "x-expected-version",
                "no",
                "header x-expected-version must be a version, no-stream, stream-exists or any, found \"no\"",
            ),
            ("idempotency-key", "", "header idempotency-key must be 1 to 256 bytes long, found 0"),
            ("x-correlation-id", &long, "header x-correlation-id must be 1 to 256 bytes long, found 257"),
        ] {
            assert_eq!(make(&[(name, value)], "").unwrap_err().text, text);
        }
    }

    #[test]
    fn each_outcome_has_its_status() {
        for (outcome, status) in outcomes() {
            let response = answer("a", &outcome, None);
            assert_eq!(response.status(), status);
            let retry = response.headers().get(header::RETRY_AFTER);
            assert_eq!(retry.map(|seconds| seconds.to_str().unwrap()), (status == 503).then_some("2"));
        }
    }

    fn outcomes() -> [(Outcome, u16); 8] {
        [
            (Outcome::Accepted { version: Version(1), position: crate::model::Position(2), events: 1 }, 200),
            (Outcome::Rejected { reason: "no \"n\"".into() }, 422),
            (Outcome::Malformed { reason: "no".into() }, 400),
            (Outcome::Conflict { actual: Version(2), expected: ExpectedVersion::NoStream }, 409),
            (Outcome::IdReused { reason: "no".into() }, 409),
            (Outcome::Archived { reason: "no".into() }, 409),
            (Outcome::Failed { reason: "no".into() }, 500),
            (Outcome::Busy { retry_after_ms: 1001 }, 503),
        ]
    }

    #[test]
    fn what_is_written_by_hand_is_what_serde_writes() {
        #[derive(serde::Serialize)]
        struct Answer<'a> {
            command_id: &'a str,
            #[serde(flatten)]
            outcome: &'a Outcome,
            #[serde(skip_serializing_if = "Option::is_none")]
            remembered_from_ms: Option<u64>,
        }
        for (outcome, _) in outcomes() {
            for remembered_from_ms in [None, Some(7)] {
                let command_id = "an \"id\"";
                let expected = serde_json::to_string(&Answer { command_id, outcome: &outcome, remembered_from_ms });
                let given = match remembered_from_ms {
                    Some(remembered_from_ms) => {
                        Outcome::Remembered(Remembered { outcome: Box::new(outcome.clone()), remembered_from_ms })
                    }
                    None => outcome.clone(),
                };
                let mut written = vec![b'{'];
                write_members(&mut written, command_id, &given);
                written.push(b'}');
                assert_eq!(String::from_utf8(written).unwrap(), expected.unwrap());
            }
        }
    }
}
