//! The answers to clients: JSON, or a refusal as text.

use crate::escape::escape;
use crate::model::StreamId;
use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::error::Error;

/// The reason why a request is refused: a status and `{"error": "…"}`.
#[derive(Debug)]
pub(super) struct HttpError {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl HttpError {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// Makes the refusal of a name in the path that does not exist. `known` has the existing names.
    pub(super) fn unknown(kind: &str, name: &str, known: &[String]) -> Self {
        let known = if known.is_empty() { "there is none".to_owned() } else { format!("known: {}", known.join(", ")) };
        Self::new(StatusCode::NOT_FOUND, format!("no {kind} `{name}`; {known}"))
    }

    pub(super) fn no_such_stream(stream: &StreamId) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no stream {stream}"))
    }

    pub(super) fn no_such_path(path: &str) -> Self {
        let text = format!(
            "nothing is at {path}; there are /v1/commands/TYPE/ID/COMMAND, /v1/queries/PROJECTION/QUERY, /v1/events, \
             /v1/status, /v1/ready, /v1/live, /metrics, /v1/drained, /v1/sources/NAME/wait, /v1/plugins/NAME, /v1/plugins/NAME/reload, \
             /v1/subscriptions, /v1/timers, /v1/requests, /v1/clock, /v1/projections/NAME/skip, /v1/projections/NAME/rebuild, /v1/dead-letters, \
             /v1/streams/TYPE/ID, /v1/trace/ID, /v1/store/stats, /v1/store/backup and /v1/store/export"
        );
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn body_too_long() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than the manifest's `api.body_mib` allows")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "wrong method; commands, queries and other changes are POST, everything else is GET",
        )
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        (self.status, Json(serde_json::json!({ "error": self.text }))).into_response()
    }
}

/// The framework's messages describe its own types, so they are reworded to describe the request.
impl From<QueryRejection> for HttpError {
    fn from(rejection: QueryRejection) -> Self {
        let cause = rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
        Self::malformed(wrong_query(&cause))
    }
}

fn wrong_query(cause: &str) -> String {
    let cause = cause
        .replace("unknown field", "there is no parameter")
        .replace(", expected one of", "; there are")
        .replace(", expected", "; there is")
        .replace("missing field", "the request needs the parameter")
        .replace("duplicate field", "there must be only one")
        .replace("invalid digit found in string", "must be a whole number")
        .replace("cannot parse integer from empty string", "must be a whole number")
        .replace("number too large to fit in target type", "is too large a number");
    format!("the query string is wrong: {cause}")
}

impl From<PathRejection> for HttpError {
    fn from(rejection: PathRejection) -> Self {
        use axum::extract::path::ErrorKind::{InvalidUtf8InPathParam, ParseError, ParseErrorAtIndex, ParseErrorAtKey};
        let PathRejection::FailedToDeserializePathParams(failed) = &rejection else {
            return Self::new(rejection.status(), rejection.body_text());
        };
        match failed.kind() {
            InvalidUtf8InPathParam { key } => {
                Self::malformed(format!("the {key} in the path is not UTF-8 when its percent signs are decoded"))
            }
            ParseErrorAtKey { value, .. } | ParseErrorAtIndex { value, .. } | ParseError { value, .. } => {
                Self::malformed(format!("the path must have a whole number where it has \"{}\"", escape(value)))
            }
            _ => Self::new(rejection.status(), rejection.body_text()),
        }
    }
}

impl From<BytesRejection> for HttpError {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::body_too_long(),
            status => Self::new(status, rejection.body_text()),
        }
    }
}

/// Makes an answer from bytes that are JSON already.
pub(super) fn json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
