//! Projections: events into read models, and the answers to queries.
//!
//! A projection has a thread that folds events into its read model: a SQLite file of its own, whose rows and whose
//! checkpoint are one transaction. The file is named by the digest of the plugin's code. Changed code therefore
//! starts with an empty file; the old code and its file keep answering until the new one has caught up, and then
//! the switch is one step (`generation`).

mod generation;
mod read_model;
mod worker;

use crate::bounds::Bounds;
use crate::follow::{Progress, Running, Stop};
use crate::model::Position;
use crate::plugin::{self, QueryError, Role, Slot};
use crate::status::ProjectionStatus;
use crate::store::{self, EventStore};
use arc_swap::ArcSwap;
use generation::Generation;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use worker::Worker;

/// Settings of a projection, from the manifest.
#[derive(Clone, Debug)]
pub struct Options {
    /// Events in one transaction at most.
    pub batch_max: usize,
    /// Times an event is tried before the projection stops.
    pub attempts_max: u32,
    /// The pause before the second try; it doubles with each.
    pub backoff: Duration,
    /// What bounds the pauses that it asks for.
    pub bounds: Bounds,
    /// Queries that run at the same time.
    pub queries_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        let bounds = Bounds::default();
        Self { batch_max: 1_000, attempts_max: 5, backoff: Duration::from_millis(100), bounds, queries_max: 4 }
    }
}

/// A running projection.
pub struct Projection {
    slot: Arc<Slot>,
    live: Arc<ArcSwap<Generation>>,
    queries: Arc<tokio::sync::Semaphore>,
    running: Running,
}

/// Why a projection does not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The plugin failed.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// The read model failed; it can be deleted, it is built again from the store.
    #[error("read model {file}: {cause}")]
    ReadModel {
        /// The file.
        file: String,
        /// What SQLite said.
        cause: String,
    },
    /// A call has undone those before it in its transaction: begin again at the checkpoint.
    #[error("the transaction was undone")]
    Undone,
    /// An event can't be folded in. Nothing is skipped.
    #[error("{0}")]
    Event(String),
}

impl Error {
    /// Whether it is the host's trouble, which may be over soon: nothing of the data is at fault.
    fn is_passing(&self) -> bool {
        match self {
            Self::Store(_) | Self::ReadModel { .. } => true,
            Self::Plugin(error) => error.is_of_host(),
            Self::Undone | Self::Event(_) => false,
        }
    }
}

impl Projection {
    /// Starts the projection of a plugin, if it has the role. Read models lie in the folder `read_models`.
    pub fn start(
        slot: &Arc<Slot>,
        options: Options,
        read_models: &Path,
        store: &Arc<dyn EventStore>,
        runtime: &Handle,
    ) -> Result<Option<Self>, Error> {
        let plugin = slot.current();
        let name = plugin.description.roles.iter().find_map(|role| match role {
            Role::Projection { name, .. } => Some(name.clone()),
            _ => None,
        });
        let Some(name) = name else { return Ok(None) };
        let folder = name.within(read_models);
        let name: Arc<str> = name.into();
        let (stop, stopped) = Stop::new();
        let progress = Arc::new(Progress::default());
        let first = Generation::open(&plugin, &folder)?;
        progress.reach(first.checkpoint());
        let live = Arc::new(ArcSwap::from_pointee(first));
        let queries = Arc::new(tokio::sync::Semaphore::new(options.queries_max));
        let worker = Worker::new(
            name.clone(),
            slot.clone(),
            options,
            folder,
            &**store,
            live.clone(),
            progress.clone(),
            stopped,
            runtime.clone(),
        )?;
        let running = Running::start(name, &**store, progress, stop, worker, |_| Ok(()), Worker::run)?;
        Ok(Some(Self { slot: slot.clone(), live, queries, running }))
    }

    /// What queries call it.
    pub fn name(&self) -> &str {
        self.running.name()
    }

    /// Answers a query from what serves now, on a thread that may block.
    pub async fn query(&self, query: String, params: Vec<u8>) -> Result<Vec<u8>, QueryError> {
        let failed = |what: &str| QueryError::Failed(format!("projection {}: {what}", self.name()));
        let permit = self.queries.clone().acquire_owned().await.map_err(|_| failed("the host is stopping"))?;
        let live = self.live.load_full();
        let answered = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            live.query(&query, &params)
        });
        answered.await.map_err(|error| failed(&error.to_string()))?
    }

    /// How far its read model is.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.running.reached()
    }

    /// How it is doing.
    pub fn status(&self) -> ProjectionStatus {
        let (state, error) = self.running.condition();
        let (checkpoint, behind) = self.running.place();
        let name = self.running.name().to_string();
        ProjectionStatus { name, plugin: self.slot.name.to_string(), state, error, checkpoint, behind }
    }

    /// Ends after the transaction it is at.
    pub fn stop(&self) {
        self.running.stop();
    }
}
