//! `/v1/timers`: lists and cancels timers.

use super::Server;
use super::answer::{HttpError, Numbered};
use crate::status::{TimerItem, Timers};
use crate::store::TimerQuery;
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use schemars::JsonSchema;
use serde::Deserialize;

/// The default and the largest number of timers in an answer.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The name of a plugin, or `source/NAME`; by default the timers of all subscriptions are listed.
    subscription: Option<String>,
    /// The maximum number of timers; 100 by default, at most 1,000.
    limit: Option<usize>,
}

pub(super) async fn list(
    State(server): State<Server>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Timers>, HttpError> {
    let Query(Wanted { subscription, limit }) = wanted?;
    let limit = limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let found = server.host.read(move |reader| {
        let wanted = TimerQuery { subscription: subscription.as_deref(), limit };
        reader.timers(&wanted)
    });
    let (timers, total) = found.await?;
    Ok(Json(Timers { total, timers: timers.into_iter().map(TimerItem::from).collect() }))
}

pub(super) async fn cancel(
    State(server): State<Server>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Json<Numbered>, HttpError> {
    let Path(number) = number?;
    server.host.change(move |store, done| store.cancel_timer(number, done)).await?;
    tracing::info!("timer {number} is cancelled by a person");
    Ok(Json(Numbered { number }))
}
