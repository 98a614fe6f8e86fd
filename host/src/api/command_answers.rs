//! The answers to commands: what was recorded, or the problem of a refused command.

use super::problem::{self, Problem, ProblemType};
use crate::model::{ExpectedVersion, Outcome, Position, Version};
use crate::status::Flow;
use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

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
    /// The time when the outcome was recorded, if it is that of an earlier request with the same id, in milliseconds since
    /// 1970-01-01T00:00:00Z.
    #[serde(skip_serializing_if = "Option::is_none")]
    remembered_from_ms: Option<u64>,
    /// What followed from the command, if the sender waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    flow: Option<&'c Flow>,
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

/// Makes the answer to a command from its outcome. `remembered_from_ms` is the time of the outcome if it is that of an
/// earlier request.
pub(super) fn answer(
    command_id: &str,
    outcome: &Outcome,
    remembered_from_ms: Option<u64>,
    flow: Option<&Flow>,
) -> Response {
    let (refused, problem, detail) = match outcome {
        Outcome::Accepted { version, position, events } => {
            let (version, position, events) = (*version, *position, *events);
            let outcome = Accepted::Accepted;
            let accepted = AcceptedCommand { command_id, outcome, version, position, events, remembered_from_ms, flow };
            return Json(accepted).into_response();
        }
        Outcome::Remembered(remembered) => {
            return answer(command_id, &remembered.outcome, Some(remembered.remembered_from_ms), flow);
        }
        Outcome::Rejected { reason } => (Refused::Rejected, ProblemType::CommandRejected, reason.clone()),
        Outcome::Malformed { reason } => (Refused::Malformed, ProblemType::MalformedCommand, reason.clone()),
        Outcome::Conflict { actual, expected } => {
            let detail = format!("the stream is at version {actual}, expected {expected}");
            (Refused::Conflict, ProblemType::VersionConflict, detail)
        }
        Outcome::IdReused { reason } => (Refused::IdReused, ProblemType::CommandIdReused, reason.clone()),
        Outcome::Archived { reason } => (Refused::Archived, ProblemType::StreamArchived, reason.clone()),
        Outcome::Failed { reason } => (Refused::Failed, ProblemType::CommandFailed, reason.clone()),
        Outcome::Busy { retry_after_ms } => {
            let detail = format!("too many commands wait; send this one again in {retry_after_ms} ms");
            (Refused::Busy, ProblemType::Busy, detail)
        }
    };
    let (actual, expected) = match outcome {
        Outcome::Conflict { actual, expected } => (Some(*actual), Some(*expected)),
        _ => (None, None),
    };
    let retry_after_ms = match outcome {
        Outcome::Busy { retry_after_ms } => Some(*retry_after_ms),
        _ => None,
    };
    let (outcome, of) = (refused, Problem::new(problem, &detail));
    let body =
        RefusedCommand { problem: of, command_id, outcome, actual, expected, retry_after_ms, remembered_from_ms, flow };
    let mut response = problem::answer(problem, &body);
    if let Some(ms) = retry_after_ms {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shown(outcome: Outcome, remembered_from_ms: Option<u64>) -> (u16, Option<String>, Value) {
        let answer = answer("a", &outcome, remembered_from_ms, None);
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
        assert_eq!(shown(accepted, None), (200, None, expected));
    }
}
