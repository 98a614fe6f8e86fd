//! The answers to commands: what was recorded, or the problem of a refused command.

use super::answer::HttpError;
use super::problem::{PROBLEM_JSON, Problem, ProblemType};
use crate::model::{ExpectedVersion, Outcome, Position, Version};
use crate::status::Flow;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use std::borrow::Cow;

/// The longest answer without a reason, for which the memory is taken at once.
const ANSWER_BYTES: usize = 256;

/// The answer to a command that was accepted.
#[derive(Serialize, JsonSchema)]
pub(super) struct AcceptedCommand<'c> {
    /// The id of the command: the `idempotency-key`, or the one that the host made.
    command_id: &'c str,
    outcome: Accepted,
    /// The version of the stream after the command.
    version: Version,
    /// The position of its last event, or of the store's newest event if it has none. A query that waits for this position
    /// sees the effects of the command.
    position: Position,
    /// The number of its events.
    events: u32,
    #[serde(flatten)]
    more: More<'c>,
}

/// What an answer may have in addition, whether the command was accepted or refused.
#[derive(Serialize, JsonSchema)]
struct More<'c> {
    /// The time when the outcome was recorded, if it is that of an earlier request with the same id, in milliseconds since
    /// 1970-01-01T00:00:00Z.
    #[serde(skip_serializing_if = "Option::is_none")]
    remembered_from_ms: Option<u64>,
    /// What followed from the command, if the sender waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    flow: Option<&'c Flow>,
}

/// The word for the outcome of a command that was accepted.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
#[cfg_attr(not(test), expect(dead_code, reason = "only its schema is used, because the answer is written by hand"))]
enum Accepted {
    Accepted,
}

/// The answer to a command that was refused: a problem, with what its sender needs to know about the command.
#[derive(Serialize, JsonSchema)]
pub(super) struct RefusedCommand<'c> {
    #[serde(flatten)]
    problem: Problem<'c>,
    /// The id of the command: the `idempotency-key`, or the one that the host made.
    command_id: &'c str,
    outcome: Refused,
    /// The version of the stream, if it is not the expected one.
    #[serde(skip_serializing_if = "Option::is_none")]
    actual: Option<Version>,
    /// The version that the sender expected, if the stream does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<ExpectedVersion>,
    /// The pause before the command should be sent again, if the host is busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(flatten)]
    more: More<'c>,
}

/// The word for the outcome of a command that was refused.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Refused {
    Rejected,
    Malformed,
    Conflict,
    IdReused,
    Archived,
    Failed,
    Busy,
}

/// Makes the answer to a command from its outcome.
pub(super) fn answer(command_id: &str, outcome: &Outcome, flow: Option<&Flow>) -> Response {
    let mut body = Vec::with_capacity(ANSWER_BYTES);
    body.push(b'{');
    write_members(&mut body, command_id, outcome, flow);
    body.push(b'}');
    let (kind, status) = match problem_type(outcome) {
        None => ("application/json", StatusCode::OK),
        Some(problem) => (PROBLEM_JSON, problem.status()),
    };
    let mut response = (status, [(header::CONTENT_TYPE, kind)], body).into_response();
    if let Outcome::Busy { retry_after_ms } = outcome {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_ms.div_ceil(1000)));
    }
    response
}

/// Writes the answer to a line of a batch.
pub(super) fn write_line(to: &mut Vec<u8>, line: u64, command_id: &str, outcome: &Outcome) {
    to.extend_from_slice(b"{\"line\":");
    write_number(to, line);
    // A problem has its own status.
    to.extend_from_slice(if problem_type(outcome).is_none() { b",\"status\":200," } else { b"," });
    write_members(to, command_id, outcome, None);
    to.extend_from_slice(b"}\n");
}

/// Writes the answer to a line of a batch that is no command, or that no shard takes.
pub(super) fn write_refused_line(to: &mut Vec<u8>, line: u64, refusal: &HttpError) {
    to.extend_from_slice(b"{\"line\":");
    write_number(to, line);
    to.push(b',');
    write_members_of(to, &Problem::new(refusal.problem, &refusal.detail));
    to.extend_from_slice(b"}\n");
}

/// Returns the kind of problem that an outcome is, if its command was refused.
fn problem_type(outcome: &Outcome) -> Option<ProblemType> {
    match outcome.what() {
        Outcome::Accepted { .. } => None,
        Outcome::Rejected { .. } => Some(ProblemType::CommandRejected),
        Outcome::Malformed { .. } => Some(ProblemType::MalformedCommand),
        Outcome::Conflict { .. } => Some(ProblemType::VersionConflict),
        Outcome::IdReused { .. } => Some(ProblemType::CommandIdReused),
        Outcome::Archived { .. } => Some(ProblemType::StreamArchived),
        // A remembered outcome is never itself of this kind.
        Outcome::Failed { .. } | Outcome::Remembered(_) => Some(ProblemType::CommandFailed),
        Outcome::Busy { .. } => Some(ProblemType::Busy),
    }
}

/// Writes the members of an answer, without braces around them. Nearly all commands are accepted, so those answers are written by
/// hand.
fn write_members(to: &mut Vec<u8>, command_id: &str, outcome: &Outcome, flow: Option<&Flow>) {
    let remembered_from_ms = match outcome {
        Outcome::Remembered(remembered) => Some(remembered.remembered_from_ms),
        _ => None,
    };
    let outcome = outcome.what();
    let Some(problem) = problem_type(outcome) else {
        if let Outcome::Accepted { version, position, events } = outcome {
            to.extend_from_slice(b"\"command_id\":");
            write_json(to, command_id);
            to.extend_from_slice(b",\"outcome\":\"accepted\",\"version\":");
            write_number(to, version.0);
            to.extend_from_slice(b",\"position\":");
            write_number(to, position.0);
            to.extend_from_slice(b",\"events\":");
            write_number(to, (*events).into());
        }
        if let Some(ms) = remembered_from_ms {
            to.extend_from_slice(b",\"remembered_from_ms\":");
            write_number(to, ms);
        }
        if let Some(flow) = flow {
            to.extend_from_slice(b",\"flow\":");
            write_json(to, flow);
        }
        return;
    };
    let (word, detail) = refused(outcome);
    let (actual, expected) = match outcome {
        Outcome::Conflict { actual, expected } => (Some(*actual), Some(*expected)),
        _ => (None, None),
    };
    let retry_after_ms = match outcome {
        Outcome::Busy { retry_after_ms } => Some(*retry_after_ms),
        _ => None,
    };
    let (outcome, problem) = (word, Problem::new(problem, &detail));
    let refused = RefusedCommand {
        problem,
        command_id,
        outcome,
        actual,
        expected,
        retry_after_ms,
        more: More { remembered_from_ms, flow },
    };
    write_members_of(to, &refused);
}

/// Returns the word for the outcome of a refused command, and what its sender is told.
fn refused(outcome: &Outcome) -> (Refused, Cow<'_, str>) {
    match outcome {
        Outcome::Rejected { reason } => (Refused::Rejected, reason.into()),
        Outcome::Malformed { reason } => (Refused::Malformed, reason.into()),
        Outcome::Conflict { actual, expected } => {
            (Refused::Conflict, format!("the stream is at version {actual}, expected {expected}").into())
        }
        Outcome::IdReused { reason } => (Refused::IdReused, reason.into()),
        Outcome::Archived { reason } => (Refused::Archived, reason.into()),
        Outcome::Failed { reason } => (Refused::Failed, reason.into()),
        Outcome::Busy { retry_after_ms } => {
            (Refused::Busy, format!("too many commands wait; send this one again in {retry_after_ms} ms").into())
        }
        Outcome::Accepted { .. } | Outcome::Remembered(_) => {
            (Refused::Failed, "the outcome is none of a command".into())
        }
    }
}

/// Writes the members of an object as JSON, without braces around them.
fn write_members_of(to: &mut Vec<u8>, object: &impl Serialize) {
    let begin = to.len();
    write_json(to, object);
    to.remove(begin);
    to.pop();
}

/// Writes a value as JSON.
fn write_json(to: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Writing these types to memory never fails.
    serde_json::to_writer(to, value).expect("an answer is JSON");
}

/// Writes a number as JSON.
fn write_number(to: &mut Vec<u8>, number: u64) {
    to.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shown(outcome: Outcome, remembered_from_ms: Option<u64>) -> (u16, Option<String>, Value) {
        let outcome = match remembered_from_ms {
            Some(remembered_from_ms) => {
                Outcome::Remembered(crate::model::Remembered { outcome: Box::new(outcome), remembered_from_ms })
            }
            None => outcome,
        };
        let answer = answer("a", &outcome, None);
        let header = |name| answer.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
        let (status, retry, kind) = (answer.status(), header(header::RETRY_AFTER), header(header::CONTENT_TYPE));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(axum::body::to_bytes(answer.into_body(), usize::MAX)).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        match body.get("type") {
            Some(_) => assert_eq!(
                (kind.as_deref(), &body["status"]),
                (Some("application/problem+json"), &json!(status.as_u16()))
            ),
            None => assert_eq!(kind.as_deref(), Some("application/json")),
        }
        (status.as_u16(), retry, body)
    }

    #[test]
    fn each_outcome_has_its_status_and_its_problem() {
        let reason = || "no".to_owned();
        for (outcome, status, word, problem) in [
            (Outcome::Rejected { reason: reason() }, 422, "rejected", "command-rejected"),
            (Outcome::Malformed { reason: reason() }, 400, "malformed", "malformed-command"),
            (
                Outcome::Conflict { actual: Version(2), expected: ExpectedVersion::NoStream },
                409,
                "conflict",
                "version-conflict",
            ),
            (Outcome::IdReused { reason: reason() }, 409, "id_reused", "command-id-reused"),
            (Outcome::Archived { reason: reason() }, 409, "archived", "stream-archived"),
            (Outcome::Failed { reason: reason() }, 500, "failed", "command-failed"),
            (Outcome::Busy { retry_after_ms: 1001 }, 503, "busy", "busy"),
        ] {
            let (found, retry, body) = shown(outcome, None);
            assert_eq!((found, &body["outcome"], &body["command_id"]), (status, &json!(word), &json!("a")), "{body}");
            assert_eq!(body["type"], json!(format!("urn:problem-type:wasmill:{problem}")));
            assert_eq!(retry, (word == "busy").then(|| "2".to_owned()));
            assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        }
    }

    #[test]
    fn a_refusal_has_what_its_sender_needs() {
        let conflict = Outcome::Conflict { actual: Version(2), expected: ExpectedVersion::Exact(Version(3)) };
        let (_, _, body) = shown(conflict, Some(7));
        assert_eq!(body["detail"], "the stream is at version 2, expected version 3");
        let rest = (&body["actual"], &body["expected"], &body["remembered_from_ms"]);
        assert_eq!(rest, (&json!(2), &json!({ "exact": 3 }), &json!(7)), "{body}");
    }

    #[test]
    fn what_is_accepted_is_no_problem() {
        let accepted = Outcome::Accepted { version: Version(1), position: Position(2), events: 1 };
        let expected = json!({ "command_id": "a", "outcome": "accepted", "version": 1, "position": 2, "events": 1 });
        assert_eq!(shown(accepted.clone(), None), (200, None, expected));
        // The fields are written by hand. They are those that the OpenAPI document describes.
        let described = AcceptedCommand {
            command_id: "a\"b",
            outcome: Accepted::Accepted,
            version: Version(1),
            position: Position(2),
            events: 1,
            more: More { remembered_from_ms: Some(7), flow: Some(&Flow::default()) },
        };
        let remembered = crate::model::Remembered { outcome: Box::new(accepted), remembered_from_ms: 7 };
        let mut written = vec![b'{'];
        write_members(&mut written, "a\"b", &Outcome::Remembered(remembered), Some(&Flow::default()));
        written.push(b'}');
        let written: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written, serde_json::to_value(described).unwrap());
    }

    #[test]
    fn a_line_says_its_number_and_its_status_once() {
        let accepted = Outcome::Accepted { version: Version(1), position: Position(2), events: 1 };
        for (outcome, status) in [(accepted, 200), (Outcome::Rejected { reason: "no".into() }, 422)] {
            let mut line = Vec::new();
            write_line(&mut line, 7, "a", &outcome);
            let text = String::from_utf8(line).unwrap();
            assert_eq!(text.matches("\"status\"").count(), 1, "{text}");
            let line: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&line["line"], &line["status"], &line["command_id"]), (&json!(7), &json!(status), &json!("a")));
        }
        let mut line = Vec::new();
        write_refused_line(&mut line, 8, &HttpError::malformed("no"));
        let line: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&line["line"], &line["status"], &line["detail"]), (&json!(8), &json!(400), &json!("no")));
    }
}
