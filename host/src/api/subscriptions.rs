//! `/v1/subscriptions`: what there is, and pausing and resuming one.

use super::Server;
use super::answer::Refusal;
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
) -> Result<Json<Paused>, Refusal> {
    set_paused(&server, &name?.0, true).await
}

pub(super) async fn resume(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Paused>, Refusal> {
    set_paused(&server, &name?.0, false).await
}

async fn set_paused(server: &Server, name: &str, paused: bool) -> Result<Json<Paused>, Refusal> {
    server.host.set_paused(name, paused).await.map(Json).map_err(|error| match error {
        Unpaused::Unknown { known } => Refusal::unknown("subscription", name, &known),
        Unpaused::Store(error) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })
}
