//! `/v1/store` and `/v1/streams`: statistics and backups of the store; showing, archiving and restoring streams.

use super::Server;
use super::answer::HttpError;
use super::body::Whole;
use super::problem::ProblemType;
use super::wording;
use crate::model::{StreamId, Version};
use crate::status::StreamStatus;
use crate::store::{self, Backup, CopyName, Statistics};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use schemars::JsonSchema;
use serde::Deserialize;

/// The most copies of the store that are made at the same time.
pub(super) const BACKUPS_MAX: usize = 1;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Depth {
    /// Whether every event is read for the statistics that need it, which takes long on a large store.
    #[serde(default)]
    count: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The name of the new file in the folder of backups. The host makes one if there is none.
    file: Option<String>,
}

type Stream = Result<Path<(String, String)>, PathRejection>;

pub(super) async fn statistics(
    State(server): State<Server>,
    depth: Result<Query<Depth>, QueryRejection>,
) -> Result<Json<Statistics>, HttpError> {
    let Query(Depth { count }) = depth?;
    let counting = server.host.statistics(count);
    Ok(Json(server.unless_closing(counting).await??))
}

pub(super) async fn backup(
    State(server): State<Server>,
    body: Result<Whole, HttpError>,
) -> Result<Json<Backup>, HttpError> {
    let Wanted { file } = wording::body(&body?.0, r#"JSON such as {"file":"copy.sqlite"} or {}"#)?;
    let name = file.map(|name| CopyName::parse(&name)).transpose();
    let name = name.map_err(|cause| HttpError::malformed(format!("`file` {cause}")))?;
    let permit = server.backups.clone().try_acquire_owned().map_err(|_| {
        let text = "another copy of the store is being made, and one is made at a time: try again when it has ended";
        HttpError::new(ProblemType::NoRoom, text)
    })?;
    // A copy goes on if its client disconnects, so it keeps its permit on a task of its own.
    let copying = tokio::spawn(async move {
        let _permit = permit;
        let closing = server.closing.clone();
        server.host.backup(name, move || *closing.borrow()).await
    });
    let copied = copying.await.unwrap_or_else(|panic| Err(store::Error::Failed(format!("copying the store: {panic}"))));
    Ok(Json(copied?))
}

pub(super) async fn show(State(server): State<Server>, stream: Stream) -> Result<Json<StreamStatus>, HttpError> {
    let Path((aggregate_type, aggregate_id)) = stream?;
    status(&server, StreamId::new(aggregate_type, aggregate_id)).await
}

pub(super) async fn archive(State(server): State<Server>, stream: Stream) -> Result<Json<StreamStatus>, HttpError> {
    let Path((aggregate_type, aggregate_id)) = stream?;
    let stream = StreamId::new(aggregate_type, aggregate_id);
    let archived = stream.clone();
    server.host.change(move |store, done| store.archive(archived, done)).await?;
    status(&server, stream).await
}

pub(super) async fn restore(State(server): State<Server>, stream: Stream) -> Result<Json<StreamStatus>, HttpError> {
    let Path((aggregate_type, aggregate_id)) = stream?;
    let stream = StreamId::new(aggregate_type, aggregate_id);
    let restored = stream.clone();
    server.host.change(move |store, done| store.restore(restored, done)).await?;
    status(&server, stream).await
}

async fn status(server: &Server, stream: StreamId) -> Result<Json<StreamStatus>, HttpError> {
    let asked = stream.clone();
    let found = server.host.read(move |reader| Ok((reader.stream_version(&asked)?, reader.is_archived(&asked)?)));
    match found.await? {
        (Version(0), _) => Err(HttpError::no_such_stream(&stream)),
        (version, archived) => Ok(Json(StreamStatus {
            stream: stream.to_string(),
            aggregate_type: stream.aggregate_type.to_string(),
            aggregate_id: stream.aggregate_id.to_string(),
            version: version.0,
            archived,
        })),
    }
}

impl From<store::Error> for HttpError {
    fn from(error: store::Error) -> Self {
        let problem = match &error {
            store::Error::NotFound(_) => ProblemType::NoSuchName,
            store::Error::Invalid(_) | store::Error::NotYet(_) => ProblemType::NotPossible,
            store::Error::Closed => ProblemType::HostStopping,
            _ => ProblemType::HostFailed,
        };
        Self::new(problem, error.to_string())
    }
}
