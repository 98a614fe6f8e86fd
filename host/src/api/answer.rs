//! The answers to clients: JSON, or a refusal, which is a problem.

use super::problem::{self, Problem, ProblemType};
use super::wording;
use crate::escape::escape;
use crate::model::StreamId;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use std::convert::Infallible;
use std::error::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// The media type of lines of JSON.
pub(super) const LINES: &str = "application/x-ndjson";

/// The most characters of a name that its refusal repeats.
pub(super) const SHOWN_MAX: usize = 100;

/// The reason why a request is refused.
#[derive(Debug)]
pub(super) struct HttpError {
    pub(super) problem: ProblemType,
    /// What went wrong, for people.
    pub(super) detail: String,
}

impl HttpError {
    pub(super) fn new(problem: ProblemType, detail: impl Into<String>) -> Self {
        Self { problem, detail: detail.into() }
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::MalformedRequest, detail)
    }

    pub(super) fn no_such_name(detail: impl Into<String>) -> Self {
        Self::new(ProblemType::NoSuchName, detail)
    }

    /// Makes the refusal of a name in the path that does not exist. `known` has the existing names.
    pub(super) fn unknown(kind: &str, name: &str, known: &[String]) -> Self {
        let known = if known.is_empty() { "there is none".to_owned() } else { format!("known: {}", known.join(", ")) };
        Self::no_such_name(format!("no {kind} `{}`; {known}", shown(name)))
    }

    pub(super) fn no_such_stream(stream: &StreamId) -> Self {
        Self::no_such_name(format!("there is no stream {stream}"))
    }

    pub(super) fn no_such_path(path: &str) -> Self {
        Self::new(ProblemType::NoSuchPath, format!("nothing is at {path}; GET /v1/openapi.json lists every path"))
    }

    /// Makes the refusal of a request that nobody has checked. No route is without its check.
    pub(super) fn unchecked() -> Self {
        Self::new(ProblemType::HostFailed, "the host has not checked who sends the request")
    }

    pub(super) fn body_too_long() -> Self {
        Self::new(ProblemType::BodyTooLong, "the body is longer than the manifest's `api.body_mib` allows")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            ProblemType::MethodNotAllowed,
            "wrong method; the header Allow has those of this path, and GET /v1/openapi.json those of all paths",
        )
    }
}

/// Makes a name fit for a refusal, which repeats it: what a terminal would obey is escaped, and a long name is cut.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", escape(&name[..end])),
        None => escape(name).into_owned(),
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        problem::answer(self.problem, &Problem::new(self.problem, &self.detail))
    }
}

// The frameworks' texts describe their own types, so they are replaced by what describes the request.

impl From<QueryRejection> for HttpError {
    fn from(rejection: QueryRejection) -> Self {
        let cause = rejection.source().map(ToString::to_string).unwrap_or_default();
        Self::malformed(wording::query(&cause))
    }
}

impl From<PathRejection> for HttpError {
    fn from(rejection: PathRejection) -> Self {
        use axum::extract::path::ErrorKind::{InvalidUtf8InPathParam, ParseError, ParseErrorAtIndex, ParseErrorAtKey};
        let kind = match &rejection {
            PathRejection::FailedToDeserializePathParams(failed) => Some(failed.kind()),
            _ => None,
        };
        match kind {
            Some(InvalidUtf8InPathParam { key }) => {
                Self::malformed(format!("the {key} in the path is not UTF-8 when its percent signs are decoded"))
            }
            Some(ParseErrorAtKey { value, .. } | ParseErrorAtIndex { value, .. } | ParseError { value, .. }) => {
                Self::malformed(format!("the path must have a whole number where it has \"{}\"", escape(value)))
            }
            _ => Self::malformed("the path can't be read"),
        }
    }
}

impl From<BytesRejection> for HttpError {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::body_too_long(),
            _ => Self::malformed("the body ended early or is not framed as HTTP/1.1 says"),
        }
    }
}

/// The answer of a change to something that has a number.
#[derive(Serialize, JsonSchema)]
pub(super) struct Numbered {
    /// Its number.
    pub(super) number: u64,
}

/// Makes an answer of lines, which are sent as they are made. Each part has whole lines.
pub(super) fn lines(parts: mpsc::Receiver<Result<Bytes, Infallible>>) -> Response {
    ([(header::CONTENT_TYPE, LINES)], streamed(parts)).into_response()
}

/// Makes a body of parts that are sent as they are made.
pub(super) fn streamed(parts: mpsc::Receiver<Result<Bytes, Infallible>>) -> Body {
    Body::from_stream(ReceiverStream::new(parts))
}

/// Makes an answer from bytes that are JSON already.
pub(super) fn json(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_does_not_repeat_a_long_or_hostile_name() {
        let refusal = HttpError::unknown("source", &"é".repeat(5_000), &[]);
        assert_eq!(refusal.detail, format!("no source `{}…`; there is none", "é".repeat(100)));
        let refusal = HttpError::unknown("source", "a\u{1b}[2J\n", &["b".to_owned()]);
        assert_eq!(refusal.detail, "no source `a\\u{1b}[2J\\n`; known: b");
        assert_eq!(shown(&"x".repeat(100)), "x".repeat(100));
    }
}
