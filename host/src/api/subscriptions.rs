//! `/v1/subscriptions`: lists, pauses and resumes subscriptions.

use super::Server;
use super::answer::HttpError;
use crate::host::Unpaused;
use crate::status::{Paused, SubscriptionStatus};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

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
    server.host.set_paused(name, paused).await.map(Json).map_err(|error| match error {
        Unpaused::Unknown { known } => HttpError::unknown("subscription", name, &known),
        Unpaused::Store(error) => HttpError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })
}
