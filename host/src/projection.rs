//! Projections: they fold events into read models and answer queries.
//!
//! A projection has a thread that folds events into its read model: its own SQLite file, in which rows and checkpoint
//! change in one transaction. A read model belongs to the code that built it and to one history of one store. Changed
//! code therefore starts with an empty read model. The old code and its read model keep answering, even after a
//! restart, until the new one has caught up, and then the host switches in one step. A read model that can't be used is
//! set aside and rebuilt. Nothing is lost by that, because all of its content comes from the store. This module uses
//! neither Kafka nor wasmtime.

mod board;
mod builder;
mod folding;
mod generation;
mod inspection;
mod memory;
mod opening;
mod read_model;
mod shelf;
mod skips;
mod trial;
mod worker;

use crate::ack;
use crate::bounds::Bounds;
use crate::follow::{Follower, Running, Stop};
use crate::model::Position;
use crate::plugin::{self, Catalog, Role, Slot};
use crate::status::{BuildingStatus, ProjectionStatus, SkippedEvent};
use crate::store::{self, EventStore};
use board::BoardView;
use builder::EventAt;
use folding::Folding;
use opening::Opener;
use shelf::Shelf;
use skips::{Skip, Skips};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::watch;
use worker::{ProjectionWorker, Shared};

pub use board::Takeover;
pub use inspection::{Unfit, unfit};
pub use trial::Trial;

/// Settings of a projection, from the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The maximum number of events in one transaction.
    pub batch_max: usize,
    /// The number of attempts to fold an event before the projection stops.
    pub attempts_max: u32,
    /// The pause before the first retry. It doubles with each further one.
    pub backoff: Duration,
    /// The bounds of the pauses that it asks for.
    pub bounds: Bounds,
    /// The maximum number of queries that run at the same time.
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
    shared: Arc<Shared>,
    queries: Arc<tokio::sync::Semaphore>,
    running: Running,
}

/// Why a projection can't work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The plugin failed.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// The read model can't be used now, because the disk is full or fails, or another process holds the file.
    #[error("read model {file}: {cause}")]
    ReadModel {
        /// The file.
        file: String,
        /// What SQLite said.
        cause: String,
    },
    /// The read model is damaged and must be rebuilt from the store.
    #[error("read model {file} is damaged: {cause}")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The plugin's schema can't be used.
    #[error("{0}")]
    Schema(String),
    /// A call has rolled back the calls before it in its transaction. Folding restarts at the checkpoint.
    #[error("the transaction was undone")]
    Undone,
    /// An event can't be folded into the read model. It is not skipped.
    #[error("{reason}")]
    Event {
        /// The event.
        at: EventAt,
        /// Why, and what can be done.
        reason: String,
    },
}

impl Error {
    /// Whether the host is at fault, not the data, so that the problem may be temporary.
    fn is_passing(&self) -> bool {
        match self {
            Self::Store(_) | Self::ReadModel { .. } => true,
            Self::Plugin(error) => error.is_of_host(),
            Self::Damaged { .. } | Self::Schema(_) | Self::Undone | Self::Event { .. } => false,
        }
    }

    fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The plugin has no answer.
    #[error(transparent)]
    Plugin(#[from] plugin::QueryError),
    /// No code can answer now.
    #[error("{0}")]
    Unavailable(String),
}

/// Why an event is not skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipError {
    /// The projection has not stopped at this event.
    #[error("{0}")]
    NotThere(String),
    /// The store did not record the decision.
    #[error("{0}")]
    Store(String),
}

impl Projection {
    /// Starts the projection of a plugin, if it has the role. Read models lie in the folder `read_models`. A damaged
    /// read model or an invalid schema does not keep the rest of the host from starting: the status shows it.
    pub fn start(
        slot: &Arc<Slot>,
        catalog: &Arc<Catalog>,
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
        let shelf = Shelf::new(name.within(read_models));
        let name: Arc<str> = name.into();
        let (stop, stopped) = Stop::new();
        let mut follower = Follower::new(&**store, stopped, runtime.clone())?;
        let skips = Skips::load(follower.reader(), &name)?;
        let shared = Arc::new(Shared { skips, ..Shared::default() });
        let queries = Arc::new(tokio::sync::Semaphore::new(options.queries_max));
        let progress = shared.progress.clone();
        let opener = Opener { projection: name.clone(), shelf, store: store.identity(), set_aside: None };
        let (projection, slot) = (name.clone(), slot.clone());
        let (catalog, skips) = (catalog.clone(), Default::default());
        let folding = Folding { projection, slot: slot.clone(), options, progress: progress.clone(), follower, skips };
        let mut worker = ProjectionWorker {
            name: name.clone(),
            catalog,
            opener,
            shared: shared.clone(),
            folding,
            live: None,
            next: None,
            is_rebuilding: false,
            unrebuilt: None,
            refused: None,
            unopened: None,
            looks_for_older: true,
            upcasting_code: None,
            is_shared: store.sharing().is_some(),
            skips_read: Instant::now(),
        };
        worker.begin();
        let running = Running::start(name, &**store, progress, stop, worker, |_| Ok(()), ProjectionWorker::run)?;
        Ok(Some(Self { slot, shared, queries, running }))
    }

    /// Returns the name that queries use.
    pub fn name(&self) -> &str {
        self.running.name()
    }

    /// Returns the name of the plugin that serves it.
    pub fn plugin(&self) -> &str {
        &self.slot.name
    }

    /// Answers a query with the code that serves now, on a thread that may block.
    pub async fn query(&self, query: String, params: Vec<u8>) -> Result<Vec<u8>, QueryError> {
        let failed = |what: &str| plugin::QueryError::Failed(format!("projection {}: {what}", self.name()));
        let permit = self.queries.clone().acquire_owned().await.map_err(|_| failed("the host is stopping"))?;
        let Some(live) = self.shared.answering.load_full() else {
            return Err(QueryError::Unavailable(self.unanswered()));
        };
        let answered = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            live.query(&query, &params)
        });
        answered.await.map_err(|error| failed(&error.to_string()))?
    }

    /// Describes why no code answers.
    pub fn unanswered(&self) -> String {
        let view = self.shared.view.borrow();
        let why = match (&view.building, &view.refused) {
            (Some(building), _) => {
                let trouble = building.trouble.as_ref().map_or(String::new(), |trouble| format!(" ({trouble})"));
                format!("its read model is being built, at position {} of {}{trouble}", building.reached, self.head())
            }
            (None, Some((_, reason))) => reason.to_string(),
            (None, None) => "it is starting".to_owned(),
        };
        format!("projection {} does not answer yet: {why}", self.name())
    }

    /// Whether any code answers queries.
    pub fn answers(&self) -> bool {
        self.shared.answering.load().is_some()
    }

    fn head(&self) -> u64 {
        let (checkpoint, behind) = self.running.place();
        checkpoint + behind
    }

    /// Subscribes to the position of its read model.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.running.reached()
    }

    /// Waits until code answers or has failed, and returns which. After `timeout` it returns the progress of the read
    /// model.
    pub async fn takeover(&self, digest: &str, timeout: Duration) -> Takeover {
        let mut view = self.shared.view.subscribe();
        let is_decided = |view: &BoardView| !matches!(view.takeover(digest), Takeover::Building { .. });
        // The result is what the view shows now, whether or not the time is up.
        let _ = tokio::time::timeout(timeout, view.wait_for(is_decided)).await;
        view.borrow().takeover(digest)
    }

    /// Has the projection skip an event that it has stopped at, now and each time that it is rebuilt.
    pub async fn skip(
        &self,
        position: Position,
        time_ms: u64,
        store: &dyn EventStore,
    ) -> Result<SkippedEvent, SkipError> {
        let (at, reason) = self.stopped_at(position)?;
        let skip = Skip { event: at.event.to_string(), what: at.what.clone(), reason: reason.clone(), time_ms };
        let failed = |error: &dyn std::fmt::Display| SkipError::Store(format!("the event is not skipped: {error}"));
        let value = serde_json::to_string(&skip).map_err(|error| failed(&error))?;
        let (ack, kept) = ack::channel();
        store.set_fact(&skips::fact(self.name(), position), Some(value), ack);
        kept.await.map_err(|_| failed(&"the host is stopping"))?.map_err(|error| failed(&error))?;
        tracing::warn!("projection {} passes over {} ({position}), as it was asked to", self.name(), at.what);
        self.shared.skips.add(position, skip);
        Ok(SkippedEvent { position: position.0, event: at.what, reason, time_ms })
    }

    /// Has the projection build its read model again, with the code that answers. The old read model answers until the new
    /// one has caught up. Fails with a text if no code answers, because its read model is being built then in any case.
    pub fn rebuild(&self) -> Result<(), String> {
        if !self.answers() {
            return Err(self.unanswered());
        }
        self.shared.must_rebuild.store(true, Ordering::Release);
        Ok(())
    }

    fn stopped_at(&self, position: Position) -> Result<(EventAt, String), SkipError> {
        let view = self.shared.view.borrow();
        if let Some(at) = view.stopped_at.iter().find(|at| at.position == position) {
            let reasons = [view.stopped.clone(), view.refused.as_ref().map(|(_, reason)| reason.clone())];
            let reason = reasons.into_iter().flatten().find(|reason| reason.contains(&at.what)).unwrap_or_default();
            return Ok((at.clone(), reason.to_string()));
        }
        let at: Vec<String> = view.stopped_at.iter().map(|at| format!("{} ({})", at.position, at.what)).collect();
        let at = if at.is_empty() {
            "it has not stopped at any event".to_owned()
        } else {
            format!("it has stopped at {}", at.join(", "))
        };
        Err(SkipError::NotThere(format!("projection {} has not stopped at position {position}: {at}", self.name())))
    }

    /// Returns whether a read model is being built.
    pub fn is_building(&self) -> bool {
        self.shared.view.borrow().building.is_some()
    }

    /// Returns its status.
    pub fn status(&self) -> ProjectionStatus {
        let (state, error) = self.running.condition();
        let (checkpoint, behind) = self.running.place();
        let view = self.shared.view.borrow().clone();
        let shown = |digest: &str| format!("sha256:{digest}");
        ProjectionStatus {
            name: self.running.name().to_string(),
            plugin: self.slot.name.to_string(),
            state,
            error,
            checkpoint,
            behind,
            answers: view.answers.as_ref().map(|code| shown(code.digest())),
            answers_plugin: view.answers.as_ref().map(|code| code.label().to_owned()),
            building: view.building.map(|building| BuildingStatus {
                plugin: building.code.label().to_owned(),
                digest: shown(building.code.digest()),
                position: building.reached.0,
            }),
            set_aside: view.set_aside.map(|reason| reason.to_string()),
            skipped: self.shared.skips.shown(),
        }
    }

    /// Stops the projection after its current transaction.
    pub fn stop(&self) {
        self.running.stop();
        // Once no query uses the read model, SQLite copies its write-ahead log into its file.
        self.shared.answering.store(None);
    }
}

#[cfg(test)]
mod tests;
