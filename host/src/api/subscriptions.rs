//! `/v1/subscriptions`: lists, pauses, resumes and resets subscriptions.

use super::Server;
use super::answer::HttpError;
use crate::host::Unchanged;
use crate::manifest::Start;
use crate::model::Position;
use crate::status::{Paused, Reset, SubscriptionStatus};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

pub(super) async fn list(State(server): State<Server>) -> Json<Vec<SubscriptionStatus>> {
    Json(server.host.subscriptions().await)
}

pub(super) async fn pause(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Paused>, HttpError> {
    set_paused(&server, &name?.0, true).await
}

pub(super) async fn resume(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Paused>, HttpError> {
    set_paused(&server, &name?.0, false).await
}

async fn set_paused(server: &Server, name: &str, paused: bool) -> Result<Json<Paused>, HttpError> {
    server.host.set_paused(name, paused).await.map(Json).map_err(|error| refused(name, error))
}

/// Moves the checkpoint of a subscription. The body is `{"to": PLACE}`.
pub(super) async fn reset(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> Result<Json<Reset>, HttpError> {
    let Path(name) = name?;
    let to = place(&body).ok_or_else(|| {
        let expected =
            r#"the body must be {"to":"beginning"}, {"to":"now"} or {"to":N}, N being the position of the first event"#;
        HttpError::new(StatusCode::BAD_REQUEST, expected)
    })?;
    server.host.reset(&name, to).await.map(Json).map_err(|error| refused(&name, error))
}

/// Returns the place that a request names.
fn place(body: &[u8]) -> Option<Start> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Request {
        to: Value,
    }
    let Request { to } = serde_json::from_slice(body).ok()?;
    match (to.as_str(), to.as_u64()) {
        (Some("beginning"), _) => Some(Start::Beginning),
        (Some("now"), _) => Some(Start::Now),
        (None, Some(position)) if position > 0 => Some(Start::At(Position(position))),
        _ => None,
    }
}

fn refused(name: &str, error: Unchanged) -> HttpError {
    match error {
        Unchanged::Unknown { known } => HttpError::unknown("subscription", name, &known),
        Unchanged::Impossible(text) => HttpError::new(StatusCode::CONFLICT, text),
        Unchanged::Store(error) => HttpError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_word_or_a_position_and_nothing_else() {
        assert_eq!(place(br#"{"to":"beginning"}"#), Some(Start::Beginning));
        assert_eq!(place(br#"{"to":"now"}"#), Some(Start::Now));
        assert_eq!(place(br#"{"to":17}"#), Some(Start::At(Position(17))));
        for wrong in
            ["", "{}", "17", r#"{"to":0}"#, r#"{"to":-1}"#, r#"{"to":"17"}"#, r#"{"to":1.5}"#, r#"{"to":1,"at":2}"#]
        {
            assert_eq!(place(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
