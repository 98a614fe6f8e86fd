//! `POST /v1/queries/PROJECTION/QUERY`: one query to a read model, which may first wait for a position.

use super::answer::{HttpError, json};
use super::body::Whole;
use super::problem::ProblemType;
use super::{Server, WAIT_MS_MAX};
use crate::host::QueryError;
use crate::model::Position;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// The default time that a query waits for its position.
const TIMEOUT_MS: u64 = 5_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    /// The position up to which the read model must contain everything.
    position: Option<u64>,
    /// The longest wait for it, in ms; 5,000 by default, at most 3,600,000.
    timeout_ms: Option<u64>,
}

pub(super) async fn query(
    State(server): State<Server>,
    path: Result<Path<(String, String)>, PathRejection>,
    wait: Result<Query<Wait>, QueryRejection>,
    body: Result<Whole, HttpError>,
) -> Result<Response, HttpError> {
    let (Path((projection, query)), Query(wait), Whole(body)) = (path?, wait?, body?);
    let params = if body.is_empty() { b"null".to_vec() } else { body.into() };
    let timeout = timeout(wait.timeout_ms, TIMEOUT_MS)?;
    let asking = server.host.query(&projection, &query, params, wait.position.map(Position), timeout);
    server.unless_closing(asking).await?.map(json).map_err(|error| refusal(error, &projection))
}

/// Returns how long a request may wait: the time that it asks for, within the limit, or the default.
pub(super) fn timeout(asked_ms: Option<u64>, default_ms: u64) -> Result<Duration, HttpError> {
    match asked_ms.unwrap_or(default_ms) {
        ms if ms <= WAIT_MS_MAX => Ok(Duration::from_millis(ms)),
        ms => Err(HttpError::malformed(format!("timeout_ms must be at most {WAIT_MS_MAX}, found {ms}"))),
    }
}

fn refusal(error: QueryError, projection: &str) -> HttpError {
    match error {
        QueryError::UnknownProjection { known } => HttpError::unknown("projection", projection, &known),
        QueryError::UnknownQuery(text) => HttpError::no_such_name(text),
        QueryError::Malformed(text) => HttpError::new(ProblemType::MalformedQuery, text),
        QueryError::TimedOut(text) => HttpError::new(ProblemType::PositionNotReached, text),
        QueryError::Unavailable(text) => HttpError::new(ProblemType::NotCaughtUp, text),
        QueryError::Failed(text) => HttpError::new(ProblemType::QueryFailed, text),
    }
}
