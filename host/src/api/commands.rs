//! `POST /v1/commands/TYPE/ID/COMMAND`: one command, answered after its events are durable.

use super::Server;
use super::answer::HttpError;
use super::body::Whole;
use super::command_answers;
use super::flows;
use super::openapi::operation::HeaderParameter;
use super::operations::TIMEOUT_MS;
use super::problem::ProblemType;
use super::queries::timeout;
use crate::access::Caller;
use crate::clock::Clock;
use crate::host::{Following, Untaken};
use crate::manifest::Scope;
use crate::model::{Command, ExpectedVersion, Header, StreamId, Version};
use crate::trace;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// The longest id that a client may choose, in bytes.
const ID_BYTES_MAX: usize = 256;

/// The header of a command that names its client.
const CLIENT: &str = "wasmill-client";

const TRACE: &str = "The W3C trace context. A malformed one counts as absent.";

/// The headers that a command may have.
pub(super) const HEADERS: [HeaderParameter; 5] = [
    HeaderParameter {
        name: "idempotency-key",
        description: "An id that the sender chooses for the command. The same command under the same id gets the first \
                      outcome again.",
        pattern: Some("^[!-~]([ -~]{0,254}[!-~])?$"),
    },
    HeaderParameter {
        name: "x-correlation-id",
        description: "The id that everything gets that follows from the command; by default the command's own id.",
        pattern: Some("^[!-~]([ -~]{0,254}[!-~])?$"),
    },
    HeaderParameter {
        name: "x-expected-version",
        description: "The state that the stream must have: a version (0 means no events), `no-stream`, `stream-exists` or \
                      `any`.",
        pattern: Some("^([0-9]{1,19}|no-stream|stream-exists|any)$"),
    },
    HeaderParameter { name: "traceparent", description: TRACE, pattern: None },
    HeaderParameter { name: "tracestate", description: TRACE, pattern: None },
];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// What the answer waits for besides the outcome.
    wait: Option<Wait>,
    /// The longest wait, in ms; 30,000 by default, at most 3,600,000. It is only for `wait=flow`.
    timeout_ms: Option<u64>,
}

/// What the answer waits for besides the outcome.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
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
        tracing::info!("a request is not a valid command: {}", refusal.detail);
    }
    sent
}

/// Makes the command that is requested. The time is how long the sender waits for its flow, if it does. The parts are
/// taken from the request by hand, because the extractor of headers would copy them.
async fn requested(server: &Server, request: Request) -> Result<(Command, Option<Duration>), HttpError> {
    let (mut parts, body) = request.into_parts();
    let caller = parts.extensions.remove::<Caller>().ok_or_else(HttpError::unchecked)?;
    let path = Path::<(String, String, String)>::from_request_parts(&mut parts, server).await;
    let wanted = Query::<Wanted>::from_request_parts(&mut parts, server).await;
    let headers = std::mem::take(&mut parts.headers);
    // The body is read in any case: a sender that is cut off while it writes does not see the refusal.
    let body = Whole::from_request(Request::from_parts(parts, body), server).await;
    let Path((aggregate_type, aggregate_id, name)) = path?;
    let Query(Wanted { wait, timeout_ms }) = wanted?;
    let wait = match wait {
        // What followed from a command are events of any type.
        Some(Wait::Flow) if !caller.has(Scope::Read) || caller.aggregates().is_some() => {
            let text = "`wait=flow` shows events of every type, so it needs the scope `read` and no limit to some aggregate types";
            return Err(HttpError::new(ProblemType::Forbidden, text));
        }
        Some(Wait::Flow) => Some(timeout(timeout_ms, TIMEOUT_MS)?),
        None if timeout_ms.is_some() => {
            return Err(HttpError::malformed("`timeout_ms` is only for `wait=flow`: add that, or remove it"));
        }
        None => None,
    };
    let stream = StreamId::new(aggregate_type, aggregate_id);
    Ok((command(stream, name, &headers, body?.0, server.host.clock(), &caller)?, wait))
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
        Ok(outcome) => Ok(command_answers::answer(&command_id, &outcome, flow.as_ref())),
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
    caller: &Caller,
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
    Ok(made(stream, name.into(), payload, said, clock, caller))
}

/// What a sender says about a command, besides its aggregate, its name and its payload.
pub(super) struct Said<'s> {
    /// The id that the sender chose.
    pub(super) id: Option<Arc<str>>,
    pub(super) correlation_id: Option<Arc<str>>,
    pub(super) trace_parent: Option<&'s str>,
    pub(super) trace_state: Option<&'s str>,
    pub(super) expected: Option<ExpectedVersion>,
}

/// Makes a command of a sender, of a single request or of a line.
pub(super) fn made(
    stream: StreamId,
    name: Arc<str>,
    payload: Vec<u8>,
    said: Said<'_>,
    clock: &Clock,
    caller: &Caller,
) -> Command {
    let mut headers = trace::headers(said.trace_parent, said.trace_state);
    if let Some(client) = caller.shown_name() {
        headers.push(Header { name: CLIENT.into(), value: Some(client.as_bytes().to_vec()) });
    }
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
        headers,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn make(pairs: &[(&'static str, &str)], body: &'static str) -> Result<Command, HttpError> {
        let headers = pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        command(
            StreamId::new("order", "1"),
            "Create".into(),
            &headers,
            Bytes::from(body),
            &Clock::system(),
            &Caller::Anyone,
        )
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
            assert_eq!(make(&[(name, value)], "").unwrap_err().detail, text);
        }
    }
}
