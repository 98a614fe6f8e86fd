//! `/v1/requests`: lists HTTP requests of plugins, and gives one up.

use super::Server;
use super::answer::{HttpError, Numbered};
use crate::status::{RequestItem, Requests};
use crate::store::RequestQuery;
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use schemars::JsonSchema;
use serde::Deserialize;

/// The default and the largest number of requests in an answer.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1_000;

/// The answer of a request that a person has given up.
const GIVEN_UP: &str = "a person has given it up";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The name of a plugin, or `source/NAME`; by default the requests of all subscriptions are listed.
    subscription: Option<String>,
    /// The number after which requests are listed.
    after: Option<u64>,
    /// The maximum number of requests; 100 by default, at most 1,000.
    limit: Option<usize>,
}

pub(super) async fn list(
    State(server): State<Server>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Requests>, HttpError> {
    let Query(Wanted { subscription, after, limit }) = wanted?;
    let limit = limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let found = server.host.read(move |reader| {
        let wanted = RequestQuery { subscription: subscription.as_deref(), after: after.unwrap_or_default(), limit };
        reader.requests(&wanted)
    });
    let (requests, total) = found.await?;
    Ok(Json(Requests { total, requests: requests.into_iter().map(RequestItem::from).collect() }))
}

pub(super) async fn give_up(
    State(server): State<Server>,
    number: Result<Path<u64>, PathRejection>,
) -> Result<Json<Numbered>, HttpError> {
    let Path(number) = number?;
    server.host.change(move |store, done| store.give_up_request(number, GIVEN_UP.to_owned(), done)).await?;
    tracing::info!("HTTP request {number} is given up by a person");
    Ok(Json(Numbered { number }))
}
