//! The host: everything a manifest asks for, started in order, and stopped in order.
//!
//! It builds the parts and hands each what it needs; the work is theirs. Commands go to `aggregates`, queries to
//! `projection`, and what people ask of a running host is answered from here.

mod drain;
mod idle_keys;
mod maintenance;
mod orphans;
mod parts;
mod pauses;
mod readiness;
mod replays;
mod stalls;
mod startup;
mod traffic;

use crate::ack::{self, Unanswered as _};
use crate::aggregates::{Inbox, Unaccepted};
use crate::clock::Clock;
use crate::manifest::Manifest;
use crate::metrics::{self, Family, Measured};
use crate::model::{Command, Outcome, Position, SubscriptionName};
use crate::plugin::{FileWatch, Plugin};
use crate::projection::{self, SkipError, Takeover};
use crate::status::{
    AggregateStatus, CommandStatus, DeadLetterItem, DeadLetterStatus, Drained, HostStatus, KafkaStatus, PluginStatus,
    Readiness, Rebuilding, Reloaded, SkippedEvent, SourceProgress, Status, StoreStatus,
};
use crate::store::{self, EventStore, Letters};
use crate::supervise::Held as _;
use parts::Parts;
use stalls::Stalled;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

pub(crate) use orphans::{is_named, orphans};
pub use parts::{Checked, Error, check, demand};
pub use pauses::Unpaused;
pub use replays::Unreplayed;
pub use startup::Startup;
pub use traffic::{Counted, Traffic};

/// Dead letters shown in the status.
const PARKED_SHOWN: usize = 20;

/// How often the parts are looked at, unasked, for those that make no progress.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a sender should wait when a queue is full.
const BUSY_RETRY_AFTER_MS: u64 = 50;

/// A running host.
pub struct Host {
    manifest: Manifest,
    parts: Parts,
    clock: Clock,
    instance: String,
    started: Instant,
    /// Ends when the host stops.
    watch: Mutex<Option<FileWatch>>,
    /// A reader for the questions that are asked now and then.
    reader: Mutex<Box<dyn store::Reader>>,
    stalls: stalls::Stalls,
    traffic: Traffic,
}

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// Nobody serves its aggregate type.
    UnknownAggregate {
        /// The types that are served.
        known: Vec<String>,
    },
    /// Its aggregate's id or its name breaks the rule for ids; the text says what is wrong with it.
    InvalidId(String),
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No projection has this name.
    #[error("no projection of that name; there are {}", .known.join(", "))]
    UnknownProjection {
        /// The projections there are.
        known: Vec<String>,
    },
    /// The projection has no such query; names those it has.
    #[error("{0}")]
    UnknownQuery(String),
    /// The parameters do not decode.
    #[error("{0}")]
    Malformed(String),
    /// The position was not reached in time.
    #[error("{0}")]
    TimedOut(String),
    /// Nothing can answer now; tells how far the read model is.
    #[error("{0}")]
    Unavailable(String),
    /// The plugin or the read model failed.
    #[error("{0}")]
    Failed(String),
}

impl Host {
    /// Starts everything in the manifest, or nothing, and tells `startup` what is being done. Serving the API is left to
    /// the caller.
    pub async fn start(manifest: Manifest, startup: Startup) -> Result<Arc<Self>, Error> {
        let runtime = Handle::current();
        let started = Instant::now();
        let host = tokio::task::spawn_blocking(move || {
            let clock = Clock::system();
            let instance = uuid::Uuid::now_v7().to_string();
            let parts = Parts::start(&manifest, &clock, &runtime, &startup)?;
            let watch = Mutex::new(Some(parts.catalog.watch()?));
            let reader = Mutex::new(parts.store.reader()?);
            let (stalls, traffic) = Default::default();
            Ok::<_, Error>(Self { manifest, parts, clock, instance, started, watch, reader, stalls, traffic })
        });
        let host = host.await.map_err(|error| Error::One(format!("starting failed: {error}")))??;
        tracing::info!(elapsed_ms = started.elapsed().as_millis() as u64, "started");
        let host = Arc::new(host);
        tokio::spawn(watch(Arc::downgrade(&host)));
        Ok(host)
    }

    /// Interrupts guests that are called for long: the host will stop, and waits for nothing that might never end.
    pub fn interrupt(&self) {
        self.parts.catalog.interrupt();
    }

    /// Sends a command and waits for its outcome.
    pub async fn send(&self, command: Command) -> Result<Outcome, Untaken> {
        let outcome = self.offer(command).await?;
        self.traffic.count(&outcome);
        Ok(outcome)
    }

    async fn offer(&self, command: Command) -> Result<Outcome, Untaken> {
        let (ack, outcome) = ack::channel();
        match self.parts.aggregates.offer(command.into(), ack) {
            Ok(()) => Ok(outcome.await.unwrap_or_else(|_| Outcome::unanswered())),
            Err(Unaccepted::Full(..)) => Ok(Outcome::Busy { retry_after_ms: BUSY_RETRY_AFTER_MS }),
            Err(Unaccepted::NoSuchAggregate { known, .. }) => Err(Untaken::UnknownAggregate { known }),
            Err(Unaccepted::InvalidId { reason, .. }) => Err(Untaken::InvalidId(reason)),
        }
    }

    /// Asks a projection. With `after`, waits until its read model has that position, so that a sender reads its writes.
    pub async fn query(
        &self,
        projection: &str,
        query: &str,
        params: Vec<u8>,
        after: Option<Position>,
        timeout: Duration,
    ) -> Result<Vec<u8>, QueryError> {
        let Some(found) = self.parts.projections.iter().find(|other| other.name() == projection) else {
            let known = self.parts.projections.iter().map(|projection| projection.name().to_string()).collect();
            return Err(QueryError::UnknownProjection { known });
        };
        if let Some(after) = after {
            let mut reached = found.reached();
            if tokio::time::timeout(timeout, reached.wait_for(|reached| *reached >= after)).await.is_err() {
                let reached = *reached.borrow();
                if !found.answers() {
                    return Err(QueryError::Unavailable(found.unanswered()));
                }
                return Err(QueryError::TimedOut(format!(
                    "projection {projection} is at position {reached} and did not reach {after} within {timeout:?}"
                )));
            }
        }
        let failed = match found.query(query.to_owned(), params).await {
            Ok(answer) => return Ok(answer),
            Err(projection::QueryError::Unavailable(reason)) => return Err(QueryError::Unavailable(reason)),
            Err(projection::QueryError::Plugin(failed)) => failed,
        };
        Err(match failed {
            crate::plugin::QueryError::Unknown { known } => QueryError::UnknownQuery(format!(
                "projection {projection} has no query {query}; it answers {}",
                known.join(", ")
            )),
            crate::plugin::QueryError::Malformed(reason) => {
                QueryError::Malformed(format!("query {query} of projection {projection}: {reason}"))
            }
            crate::plugin::QueryError::Failed(reason) => {
                QueryError::Failed(format!("query {query} of projection {projection}: {reason}"))
            }
        })
    }

    /// What comes in over the API.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The event store.
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.parts.store
    }

    /// What tells this process from every other host, before and after it.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The time, for all parts of this host.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Waits until the store is not this host's any more: what it does from then on has no effect, and it should end.
    pub async fn lost_store(&self) -> String {
        let mut loss = self.parts.store.loss();
        let lost = loss.wait_for(Option::is_some).await.ok().and_then(|lost| lost.as_ref().map(ToString::to_string));
        match lost {
            Some(lost) => lost,
            // A store that is gone was closed by this host.
            None => std::future::pending().await,
        }
    }

    /// Everything a person needs to see whether the host does its work.
    pub async fn status(&self) -> Status {
        self.judged(self.stalled_after()).0
    }

    fn stalled_after(&self) -> Duration {
        Duration::from_millis(self.manifest.host.stalled_after_ms)
    }

    /// The status, in which parts that have made no progress for so long are stalled.
    fn judged(&self, stalled_after: Duration) -> (Status, Stalled) {
        let mut status = self.own_words();
        let stalled = self.stalls.look(&status, stalled_after);
        stalled.mark(&mut status);
        (status, stalled)
    }

    /// What each part says of itself.
    fn own_words(&self) -> Status {
        let parts = &self.parts;
        // It reads the store: a moment, but not one for a thread that others wait for.
        let (commands, dead_letters) = tokio::task::block_in_place(|| self.counts());
        // A statement of its own: in the expression below its lock would be held while parts look at the head again,
        // and a writer that came in between would wait for this thread, and this thread for the writer.
        let position = parts.store.head().borrow().0;
        Status {
            host: HostStatus {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
                uptime_ms: self.started.elapsed().as_millis() as u64,
                data: self.manifest.data.display().to_string(),
                url: format!("http://{}", self.manifest.api.listen),
            },
            store: StoreStatus { position, identity: parts.store.identity().to_string(), error: parts.store.trouble() },
            plugins: parts.catalog.slots().map(|slot| plugin_status(slot)).collect(),
            aggregates: parts.aggregates.status().into_iter().map(aggregate_status).collect(),
            commands,
            kafka: parts
                .topics
                .as_ref()
                .map(|topics| KafkaStatus { brokers: topics.brokers().to_owned(), topics: topics.notes() }),
            sources: parts.source_statuses(),
            subscriptions: parts.subscriptions.iter().map(|subscription| subscription.status()).collect(),
            projections: parts.projections.iter().map(|projection| projection.status()).collect(),
            sinks: parts.sinks.iter().map(|sink| sink.status()).collect(),
            api: self.traffic.status(),
            dead_letters,
        }
    }

    /// What Prometheus is shown.
    pub async fn metrics(&self) -> Vec<Family> {
        let status = self.status().await;
        let measured = tokio::task::block_in_place(|| self.measured(&status));
        metrics::families(&status, &measured)
    }

    fn measured(&self, status: &Status) -> Measured {
        let mut reader = self.reader.held();
        let sources =
            status.sources.iter().flat_map(|one| [one.name.clone(), SubscriptionName::Source(&one.name).to_string()]);
        let others = status.subscriptions.iter().map(|one| one.name.clone());
        let sinks = status.sinks.iter().map(|one| one.name.clone());
        let mut consumers: Vec<String> = sources.chain(others).chain(sinks).collect();
        consumers.sort();
        consumers.dedup();
        let count = |consumer: String| {
            let wanted = Letters { consumer: Some(&consumer), before: None, limit: 0 };
            let (_, count) = reader.dead_letters(&wanted).unwrap_or_else(|error| unreadable(&error));
            (consumer, count)
        };
        Measured {
            store: self.parts.store.measures(),
            dead_letters: consumers.into_iter().map(count).collect(),
            sources: self.parts.sources.iter().map(|one| (one.name().to_owned(), one.measures())).collect(),
            sinks: self.parts.sinks.iter().map(|one| (one.name().to_owned(), one.measures())).collect(),
        }
    }

    /// Whether it does its work. `stalled_after`: how long a part with work may make no progress; by default as the
    /// manifest says.
    pub async fn readiness(&self, stalled_after: Option<Duration>) -> Readiness {
        let (status, stalled) = self.judged(stalled_after.unwrap_or_else(|| self.stalled_after()));
        let mut readiness = readiness::readiness(&status, &stalled);
        readiness.paused = pauses::paused(&self.subscriptions().await);
        readiness
    }

    /// Waits until everything that is there has gone all its way, or the time is up.
    pub async fn drained(&self, timeout: Duration) -> Drained {
        let mut drained = drain::drained(&self.parts, timeout).await;
        let (status, _) = self.judged(self.stalled_after());
        drained.dead_letters = status.dead_letters.total;
        drained.waiting_for = drained.waiting_for.map(|part| drain::explained(part, &status));
        drained.paused = pauses::paused(&self.subscriptions().await);
        drained
    }

    /// Waits until a source has handled so many records in all, or the time is up. `None` where there is no such source.
    pub async fn wait_source(&self, name: &str, handled: u64, timeout: Duration) -> Option<SourceProgress> {
        let mut progress = self.parts.source_progress(name)?;
        // In either case the answer is where it is now.
        let _ = tokio::time::timeout(timeout, progress.wait_for(|sum| *sum >= handled)).await;
        let status = self.parts.source_statuses().into_iter().find(|source| source.name == name)?;
        Some(drain::source_progress(status))
    }

    /// Loads a plugin's file again. If the plugin has a projection, waits until that one answers with the new code, can't,
    /// or the time is up.
    pub async fn reload(self: &Arc<Self>, plugin: &str, timeout: Duration) -> Result<Reloaded, String> {
        let (host, name) = (self.clone(), plugin.to_owned());
        let reloaded = tokio::task::spawn_blocking(move || host.parts.catalog.reload(&name));
        let plugin = reloaded.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(Reloaded {
            plugin: plugin.name.to_string(),
            version: plugin.description.version.clone(),
            digest: format!("sha256:{}", plugin.digest),
            building: self.taken_over(&plugin, timeout).await?,
        })
    }

    /// What the projection of a plugin makes of new code.
    async fn taken_over(&self, plugin: &Plugin, timeout: Duration) -> Result<Option<Rebuilding>, String> {
        let Some(found) = self.parts.projections.iter().find(|other| other.plugin() == &*plugin.name) else {
            return Ok(None);
        };
        let projection = found.name().to_owned();
        match found.takeover(&plugin.digest, timeout).await {
            Takeover::Answers => Ok(None),
            Takeover::Building { reached } => {
                let of = self.parts.store.head().borrow().0;
                Ok(Some(Rebuilding { projection, position: reached.0, of }))
            }
            Takeover::Failed(reason) => Err(format!("projection {projection} does not take the new code: {reason}")),
        }
    }

    /// Has a projection pass over an event that it has stopped at. `None` if there is no such projection.
    pub async fn skip_event(&self, projection: &str, position: Position) -> Option<Result<SkippedEvent, SkipError>> {
        let found = self.parts.projections.iter().find(|other| other.name() == projection)?;
        Some(found.skip(position, self.clock.now_ms(), &*self.parts.store).await)
    }

    /// Why a plugin can't be reloaded that this host does not have; `None` where it has it.
    pub fn unknown_plugin(&self, name: &str) -> Option<String> {
        let known: Vec<String> = self.parts.catalog.slots().map(|slot| slot.name.to_string()).collect();
        if known.iter().any(|other| other == name) {
            return None;
        }
        let path = &self.manifest.path;
        let is_new = Manifest::load(path).is_ok_and(|now| now.plugins.contains_key(name));
        Some(match is_new {
            true => format!(
                "plugin {name} is in {} since after this host was started: restart the host to take it in",
                path.display()
            ),
            false => format!("no plugin is named {name}; this host has {}", known.join(", ")),
        })
    }

    /// Stops in order, finishing what has begun as far as there is time.
    pub async fn stop(self: &Arc<Self>, deadline: Instant) {
        let host = self.clone();
        let stopped = tokio::task::spawn_blocking(move || {
            drop(host.watch.held().take());
            host.parts.stop(deadline);
        });
        if let Err(error) = stopped.await {
            tracing::error!("stopping failed: {error}");
        }
    }

    fn counts(&self) -> (Vec<CommandStatus>, DeadLetterStatus) {
        let mut reader = self.reader.held();
        let tallies = reader.tallies().unwrap_or_else(|error| unreadable(&error));
        let (newest, total) =
            reader.dead_letters(&Letters::newest(PARKED_SHOWN)).unwrap_or_else(|error| unreadable(&error));
        let commands = tallies.into_iter().map(CommandStatus::from).collect();
        let newest = newest.into_iter().map(DeadLetterItem::from).collect();
        let (limits, measures) = (&self.manifest.store, self.parts.store.measures());
        let dead_letters = DeadLetterStatus {
            total,
            total_max: limits.dead_letters_max,
            bytes: measures.letter_bytes,
            bytes_max: limits.dead_letters_mib << 20,
            dropped: measures.letters_dropped,
            newest,
        };
        (commands, dead_letters)
    }
}

/// Looks at the parts again and again, so that whoever asks is told since when one stands.
async fn watch(host: Weak<Host>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(host) = host.upgrade() else { return };
        host.judged(host.stalled_after());
    }
}

fn unreadable<T: Default>(error: &store::Error) -> T {
    tracing::error!("the status is incomplete: {error}");
    T::default()
}

fn plugin_status(slot: &crate::plugin::Slot) -> PluginStatus {
    let plugin = slot.current();
    PluginStatus {
        name: slot.name.to_string(),
        file: slot.file().display().to_string(),
        version: plugin.description.version.clone(),
        digest: format!("sha256:{}", plugin.digest),
        roles: plugin.description.roles.iter().map(ToString::to_string).collect(),
        loads: slot.loads(),
        error: slot.error(),
    }
}

fn aggregate_status(status: crate::aggregates::TypeStatus) -> AggregateStatus {
    AggregateStatus {
        aggregate_type: status.aggregate_type,
        plugin: status.plugin,
        shards: status.shards,
        live: status.live as u64,
        queued: status.pending as u64,
        state: status.condition.0,
        error: status.condition.1,
    }
}
