//! Requests of operators and scripts: the state of the host, waiting for its work, and reloading a plugin.

use super::Server;
use super::access::Sender;
use super::answer::HttpError;
use super::body::Whole;
use super::problem::ProblemType;
use super::queries::timeout;
use super::wording;
use crate::model::Position;
use crate::projection::SkipError;
use crate::status::{
    AllReloaded, Drained, ManifestChange, PluginDescription, PluginHistory, Readiness, Reloaded, SkippedEvent,
    SourceProgress, Status,
};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// What somebody without a token gets instead of the reasons why a host is not ready.
const HIDDEN: &str = "the reasons are shown to clients with a token";

/// The default time of requests that wait.
pub(super) const TIMEOUT_MS: u64 = 30_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stalled {
    /// The time without progress after which a part counts as not ready, in ms.
    stalled_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    /// The longest wait, in ms; 30,000 by default, at most 3,600,000.
    timeout_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reload {
    /// The longest wait for the read model of new code, in ms; 30,000 by default, at most 3,600,000.
    timeout_ms: Option<u64>,
    /// Whether code is taken that is held back after a revert.
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitHandled {
    /// The number of records that the source must have processed.
    handled: u64,
    /// The longest wait, in ms; 30,000 by default, at most 3,600,000.
    timeout_ms: Option<u64>,
}

pub(super) async fn status(State(server): State<Server>) -> Json<Status> {
    Json(server.host.status().await)
}

/// The answer that the process is alive.
#[derive(Serialize, JsonSchema)]
pub(super) struct Live {
    /// That it is alive, which the answer itself shows.
    live: bool,
}

/// Answers that the process is alive.
pub(super) async fn live() -> Json<Live> {
    Json(Live { live: true })
}

pub(super) async fn ready(
    State(server): State<Server>,
    sender: Option<Extension<Sender>>,
    stalled: Result<Query<Stalled>, QueryRejection>,
) -> Result<(StatusCode, Json<Readiness>), HttpError> {
    let Query(Stalled { stalled_ms }) = stalled?;
    let after = stalled_ms.map(|ms| timeout(Some(ms), ms)).transpose()?;
    let mut readiness = server.host.readiness(after).await;
    if *server.closing.borrow() {
        readiness.ready = false;
        readiness.reasons = vec!["the host is stopping".to_owned()];
    }
    // The reasons name parts and show errors, which are not for everybody who reaches the address.
    if matches!(sender, Some(Extension(Sender(Err(_))))) && !readiness.reasons.is_empty() {
        readiness = Readiness { reasons: vec![HIDDEN.to_owned()], ready: readiness.ready, ..Readiness::default() };
    }
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(readiness)))
}

pub(super) async fn drained(
    State(server): State<Server>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Result<Json<Drained>, HttpError> {
    let Query(wait) = wait?;
    let draining = server.host.drained(timeout(wait.timeout_ms, TIMEOUT_MS)?);
    Ok(Json(server.unless_closing(draining).await?))
}

pub(super) async fn wait_source(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
    wait: Result<Query<WaitHandled>, QueryRejection>,
) -> Result<Json<SourceProgress>, HttpError> {
    let (Path(name), Query(wait)) = (name?, wait?);
    let timeout = timeout(wait.timeout_ms, TIMEOUT_MS)?;
    match server.unless_closing(server.host.wait_source(&name, wait.handled, timeout)).await? {
        Some(progress) => Ok(Json(progress)),
        None => {
            if let Some(elsewhere) = server.host.source_elsewhere(&name) {
                return Err(HttpError::new(ProblemType::NotPossibleNow, elsewhere));
            }
            let known: Vec<String> = server.host.status().await.sources.into_iter().map(|source| source.name).collect();
            Err(HttpError::unknown("source", &name, &known))
        }
    }
}

pub(super) async fn reload(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
    reload: Result<Query<Reload>, QueryRejection>,
) -> Result<(StatusCode, Json<Reloaded>), HttpError> {
    let (Path(name), Query(Reload { timeout_ms, force })) = (name?, reload?);
    let timeout = timeout(timeout_ms, TIMEOUT_MS)?;
    let mut reloaded = reloaded(&server, BTreeSet::from([name]), force, timeout).await?;
    let reloaded = reloaded.pop().expect("it was asked for one plugin");
    Ok((reload_status(&[&reloaded]), Json(reloaded)))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Apply {
    /// Whether nothing is applied and the answer says what would change.
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn reload_manifest(
    State(server): State<Server>,
    apply: Result<Query<Apply>, QueryRejection>,
) -> Result<Json<ManifestChange>, HttpError> {
    let Query(Apply { dry_run }) = apply?;
    let changed = server.host.reload_manifest(dry_run).await;
    changed.map(Json).map_err(|cause| HttpError::new(ProblemType::ChangeRefused, cause))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Together {
    /// The names of the plugins.
    #[schemars(with = "Vec<String>")]
    plugins: BTreeSet<String>,
}

pub(super) async fn reload_together(
    State(server): State<Server>,
    reload: Result<Query<Reload>, QueryRejection>,
    body: Result<Whole, HttpError>,
) -> Result<(StatusCode, Json<AllReloaded>), HttpError> {
    let (Query(Reload { timeout_ms, force }), Whole(body)) = (reload?, body?);
    let timeout = timeout(timeout_ms, TIMEOUT_MS)?;
    let Together { plugins } = wording::body(&body, r#"{"plugins":[NAME, …]}"#)?;
    let plugins = reloaded(&server, plugins, force, timeout).await?;
    Ok((reload_status(&plugins.iter().collect::<Vec<_>>()), Json(AllReloaded { plugins })))
}

pub(super) async fn describe(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<PluginDescription>, HttpError> {
    let Path(name) = name?;
    server.host.description(&name).map(Json).ok_or_else(|| unknown(&server, &name))
}

pub(super) async fn history(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<PluginHistory>, HttpError> {
    let Path(name) = name?;
    let found = tokio::task::block_in_place(|| server.host.plugin_history(&name));
    found.map(Json).ok_or_else(|| unknown(&server, &name))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revert {
    /// The beginning of the digest of the code; by default it is the newest code that was not reverted.
    digest: Option<String>,
}

pub(super) async fn revert(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
    revert: Result<Query<Revert>, QueryRejection>,
) -> Result<Json<PluginHistory>, HttpError> {
    let (Path(name), Query(Revert { digest })) = (name?, revert?);
    if server.host.description(&name).is_none() {
        return Err(unknown(&server, &name));
    }
    let reverted = server.host.revert(&name, digest.as_deref()).await;
    reverted.map(Json).map_err(|cause| HttpError::new(ProblemType::ChangeRefused, cause))
}

/// Returns the error for a plugin that this host does not have.
fn unknown(server: &Server, name: &str) -> HttpError {
    let unknown = tokio::task::block_in_place(|| server.host.unknown_plugin(name));
    HttpError::no_such_name(unknown.unwrap_or_default())
}

async fn reloaded(
    server: &Server,
    plugins: BTreeSet<String>,
    is_forced: bool,
    timeout: Duration,
) -> Result<Vec<Reloaded>, HttpError> {
    let unknown = || plugins.iter().find_map(|name| server.host.unknown_plugin(name));
    if let Some(unknown) = tokio::task::block_in_place(unknown) {
        return Err(HttpError::no_such_name(unknown));
    }
    let reloaded = server.unless_closing(server.host.reload(plugins, is_forced, timeout)).await?;
    reloaded.map_err(|cause| HttpError::new(ProblemType::ChangeRefused, cause))
}

/// Returns the status of an answer: whether all of the new code answers.
fn reload_status(reloaded: &[&Reloaded]) -> StatusCode {
    if reloaded.iter().any(|one| one.building.is_some()) { StatusCode::ACCEPTED } else { StatusCode::OK }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SkipAt {
    /// The position of the event at which the projection has stopped.
    position: u64,
}

pub(super) async fn skip_event(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
    at: Result<Query<SkipAt>, QueryRejection>,
) -> Result<Json<SkippedEvent>, HttpError> {
    let (Path(name), Query(SkipAt { position })) = (name?, at?);
    match server.host.skip_event(&name, Position(position)).await {
        Some(Ok(skipped)) => Ok(Json(skipped)),
        Some(Err(SkipError::NotThere(text))) => Err(HttpError::new(ProblemType::NotPossibleNow, text)),
        Some(Err(SkipError::Store(text))) => Err(HttpError::new(ProblemType::StoreUnavailable, text)),
        None => Err(unknown_projection(&server, &name).await),
    }
}

/// The answer to a request for a rebuild, which goes on.
#[derive(Serialize, JsonSchema)]
pub(super) struct Rebuilt {
    /// The projection.
    name: String,
    /// That its read model is being built.
    building: bool,
}

pub(super) async fn rebuild(
    State(server): State<Server>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<Rebuilt>, HttpError> {
    let Path(name) = name?;
    match server.host.rebuild(&name).await {
        Some(Ok(())) => Ok(Json(Rebuilt { name, building: true })),
        Some(Err(text)) => Err(HttpError::new(ProblemType::NotPossibleNow, text)),
        None => Err(unknown_projection(&server, &name).await),
    }
}

async fn unknown_projection(server: &Server, name: &str) -> HttpError {
    let known = server.host.status().await.projections.into_iter().map(|one| one.name).collect::<Vec<_>>();
    HttpError::unknown("projection", name, &known)
}
