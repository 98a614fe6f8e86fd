//! The problems that the API answers with, as RFC 9457 describes them: each kind has a stable name, a status and a title.
//!
//! What went wrong with one request is its `detail`, which the place that refuses it writes. This file has the table of all
//! kinds, which `docs/api.md` shows; a test compares both.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

/// The media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Defines [`ProblemType`] with its table.
macro_rules! problem_types {
    ($($variant:ident: $status:ident, $name:literal, $title:literal;)+) => {
        /// A kind of problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum ProblemType {
            $(#[doc = $title] $variant,)+
        }

        impl ProblemType {
            /// All kinds, in the order of the documentation.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the status of an answer with such a problem.
            pub(super) fn status(self) -> StatusCode {
                match self {
                    $(Self::$variant => StatusCode::$status,)+
                }
            }

            /// Returns the name by which programs know the kind. It never changes.
            pub(super) fn urn(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("urn:problem-type:wasmill:", $name),)+
                }
            }

            /// Returns a summary, which is the same for every problem of the kind.
            pub(super) fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)+
                }
            }
        }
    };
}

problem_types! {
    MalformedRequest: BAD_REQUEST, "malformed-request", "The request is malformed";
    TlsRequired: BAD_REQUEST, "tls-required", "The address serves TLS";
    MalformedCommand: BAD_REQUEST, "malformed-command", "The command is malformed";
    MalformedQuery: BAD_REQUEST, "malformed-query", "The parameters of the query are malformed";
    Unauthorized: UNAUTHORIZED, "unauthorized", "The sender is not recognised";
    Forbidden: FORBIDDEN, "forbidden", "The client may not do this";
    ForeignRequest: FORBIDDEN, "foreign-request", "The request comes from a foreign web page or names a foreign host";
    NoSuchPath: NOT_FOUND, "no-such-path", "Nothing is at this path";
    NoSuchName: NOT_FOUND, "no-such-name", "What the request names does not exist";
    MethodNotAllowed: METHOD_NOT_ALLOWED, "method-not-allowed", "The path does not have this method";
    BodyTooSlow: REQUEST_TIMEOUT, "body-too-slow", "The body did not arrive in time";
    NotPossibleNow: CONFLICT, "not-possible-now", "This is not possible in the present state";
    VersionConflict: CONFLICT, "version-conflict", "The stream is not at the expected version";
    CommandIdReused: CONFLICT, "command-id-reused", "Another command had the same id";
    StreamArchived: CONFLICT, "stream-archived", "The stream is archived";
    BodyTooLong: PAYLOAD_TOO_LARGE, "body-too-long", "The body is too long";
    Misdirected: MISDIRECTED_REQUEST, "misdirected", "The request is meant for another host process";
    CommandRejected: UNPROCESSABLE_ENTITY, "command-rejected", "A business rule rejected the command";
    ChangeRefused: UNPROCESSABLE_ENTITY, "change-refused", "The manifest or the code can't be applied";
    ReplayFailed: UNPROCESSABLE_ENTITY, "replay-failed", "The dead letter failed again";
    NotPossible: UNPROCESSABLE_ENTITY, "not-possible", "This is not possible";
    CommandFailed: INTERNAL_SERVER_ERROR, "command-failed", "The plugin or the host failed at the command";
    QueryFailed: INTERNAL_SERVER_ERROR, "query-failed", "The plugin or the read model failed at the query";
    HostFailed: INTERNAL_SERVER_ERROR, "host-failed", "The host failed";
    Busy: SERVICE_UNAVAILABLE, "busy", "Too many commands wait";
    NoRoom: SERVICE_UNAVAILABLE, "no-room", "There is no room for the request";
    TooManyBytes: SERVICE_UNAVAILABLE, "too-many-bytes", "The requests under way have too many bytes";
    NotCaughtUp: SERVICE_UNAVAILABLE, "not-caught-up", "No read model can answer yet";
    StoreUnavailable: SERVICE_UNAVAILABLE, "store-unavailable", "The store can't keep the change now";
    AuditFailed: SERVICE_UNAVAILABLE, "audit-failed", "The audit log can't be written";
    HostStarting: SERVICE_UNAVAILABLE, "host-starting", "The host is starting";
    HostStopping: SERVICE_UNAVAILABLE, "host-stopping", "The host is stopping";
    PositionNotReached: GATEWAY_TIMEOUT, "position-not-reached", "The read model did not reach the position in time";
}

/// A problem (RFC 9457). Some kinds have further members.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Problem<'p> {
    /// The kind of problem: a name that never changes, for programs.
    #[serde(rename = "type")]
    urn: &'static str,
    /// A summary, which is the same for every problem of the kind.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What went wrong, and what to do about it, for people.
    detail: &'p str,
}

impl<'p> Problem<'p> {
    pub(super) fn new(problem: ProblemType, detail: &'p str) -> Self {
        Self { urn: problem.urn(), title: problem.title(), status: problem.status().as_u16(), detail }
    }
}

/// Makes the answer for a problem. `body` has the members of [`Problem`], and may have more.
pub(super) fn answer(problem: ProblemType, body: &impl Serialize) -> Response {
    // Writing these types to memory never fails.
    let body = serde_json::to_vec(body).expect("a problem is JSON");
    (problem.status(), [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    #[test]
    fn the_documentation_lists_every_problem() {
        let page = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
            .with_file_name("docs")
            .join("api.md");
        let page = std::fs::read_to_string(page).expect("docs/api.md");
        let listed = page.split("\n### Problems\n").nth(1).and_then(|rest| rest.split("\n### ").next());
        let rows = listed.expect("a section on problems").lines().filter(|line| line.starts_with("| `"));
        // The first of them is the head of the table.
        let rows: Vec<&str> = rows.skip(1).collect();
        let row = |problem: &ProblemType| {
            let name = problem.urn().rsplit(':').next().unwrap_or_default();
            format!("| `{name}` | {} | {} |", problem.status().as_u16(), problem.title())
        };
        assert_eq!(rows, ProblemType::ALL.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn each_problem_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ProblemType::ALL.iter().map(|problem| problem.urn()).collect();
        assert_eq!(names.len(), ProblemType::ALL.len());
        for name in names {
            let name = name.strip_prefix("urn:problem-type:wasmill:").expect("a name of this host");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        }
    }
}
