//! `/v1/subscriptions`: lists, pauses, resumes and resets subscriptions.

use super::Server;
use super::answer::HttpError;
use super::body::Whole;
use super::problem::ProblemType;
use super::wording;
use crate::host::Unchanged;
use crate::manifest::Start;
use crate::model::Position;
use crate::status::{Paused, Reset, SubscriptionStatus};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::Deserialize;
use std::num::NonZeroU64;

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
    body: Result<Whole, HttpError>,
) -> Result<Json<Reset>, HttpError> {
    let (Path(name), Whole(body)) = (name?, body?);
    let to = place(&body)?;
    server.host.reset(&name, to).await.map(Json).map_err(|error| refused(&name, error))
}

/// The body of a request that resets a subscription.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResetTo {
    to: To,
}

/// Where a subscription resumes.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum To {
    Word(Word),
    /// The position of the first event to handle.
    Position(NonZeroU64),
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// At the oldest event.
    Beginning,
    /// After the newest event.
    Now,
}

/// Returns the place that a request names.
fn place(body: &[u8]) -> Result<Start, HttpError> {
    let expected = r#"{"to":"beginning"}, {"to":"now"} or {"to":N}, N being the position of the first event"#;
    let ResetTo { to } = wording::body(body, expected)?;
    Ok(match to {
        To::Word(Word::Beginning) => Start::Beginning,
        To::Word(Word::Now) => Start::Now,
        To::Position(position) => Start::At(Position(position.get())),
    })
}

fn refused(name: &str, error: Unchanged) -> HttpError {
    match error {
        Unchanged::Unknown { known } => HttpError::unknown("subscription", name, &known),
        Unchanged::Impossible(text) => HttpError::new(ProblemType::NotPossibleNow, text),
        Unchanged::Store(error) => HttpError::new(ProblemType::StoreUnavailable, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_word_or_a_position_and_nothing_else() {
        assert_eq!(place(br#"{"to":"beginning"}"#).ok(), Some(Start::Beginning));
        assert_eq!(place(br#"{"to":"now"}"#).ok(), Some(Start::Now));
        assert_eq!(place(br#"{"to":17}"#).ok(), Some(Start::At(Position(17))));
        for wrong in
            ["", "{}", "17", r#"{"to":0}"#, r#"{"to":-1}"#, r#"{"to":"17"}"#, r#"{"to":1.5}"#, r#"{"to":1,"at":2}"#]
        {
            assert!(place(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
