//! The host: everything that a manifest asks for, started and stopped in order.
//!
//! It builds the parts and gives each what it needs. It passes commands to `aggregates` and queries to `projection`,
//! and answers what people ask of a running host.

mod canary;
mod change;
mod checking;
mod configurations;
mod descriptions;
mod drain;
mod fitting;
mod flow;
mod idle_keys;
mod inventory;
mod location;
mod maintenance;
mod manual_clock;
mod offers;
mod options;
mod orphans;
mod parts;
mod pauses;
mod plan;
mod plugin_handlers;
mod readiness;
mod replays;
mod reverts;
mod sharing;
mod stalls;
mod startup;
mod states;
mod traffic;
mod unmatched;
mod untried;
mod watching;

use crate::ack::{self, Unanswered as _};
use crate::aggregates::Aggregates;
use crate::clock::Clock;
use crate::file_watch::FileWatch;
use crate::flows::Flows;
use crate::http::{self, Network, Transport};
use crate::manifest::Manifest;
use crate::metrics::{self, Family, Measured};
use crate::model::{Command, IdRule, LedgerName, Outcome, Position, SubscriptionName};
use crate::names::Name;
use crate::plugin::{Compiler, History, Plugin, Slot};
use crate::projection::{self, SkipError};
use crate::status::{
    AggregateStatus, CommandStatus, DeadLetterItem, DeadLetterStatus, Drained, HostStatus, KafkaStatus, PluginStatus,
    Readiness, SkippedEvent, SourceProgress, Status, StoreStatus,
};
use crate::store::{self, DeadLetterQuery, EventStore};
use crate::subscriptions::Environment;
use crate::supervise::Held as _;
use change::OnDisk;
use checking::{load_checked, refuse_idle, subscribed};
use idle_keys::idle_keys;
use options::store_options;
use parts::{Core, Moves, Parts};
use plan::{Plan, Recipe};
use sharing::{Applied, Shared};
use stalls::Stalled;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use unmatched::{Unmatched, unmatched};
use watching::HostFiles;

pub use checking::{Checked, check, subscribers};
pub use flow::{Followed, Following};
pub use inventory::{Inventory, RoleInventory};
pub use location::store_location;
pub use manual_clock::Unmoved;
pub use offers::Unqueued;
pub use options::demand;
pub(crate) use orphans::{is_named, orphans};
pub use parts::Error;
pub use pauses::Unchanged;
pub use plugin_handlers::aggregate_services;
pub use replays::Unreplayed;
pub use startup::Startup;
pub use states::{AggregateState, Unshown};
pub use traffic::{Counted, Traffic};

/// Number of dead letters shown in the status.
const DEAD_LETTERS_SHOWN: usize = 20;

/// Interval at which the parts are checked for progress, even if nobody asks for the status.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time for which a sender should wait if a queue is full.
const BUSY_RETRY_AFTER_MS: u64 = 50;

/// A running host.
pub struct Host {
    core: Core,
    /// The running parts. A change of the host replaces them, and wakes those who wait for parts that are gone.
    parts: watch::Sender<Arc<Parts>>,
    /// Whether parts are being stopped and started, so that what is in flight can't be seen.
    changing: AtomicBool,
    /// Held while a person does something with a part, and by a change while it stops and starts parts.
    in_use: tokio::sync::RwLock<()>,
    stopping: AtomicBool,
    on_disk: Mutex<OnDisk>,
    clock: Clock,
    instance: String,
    started: Instant,
    /// The watch on the files of the manifest and the plugins, which ends when the host stops.
    watch: Mutex<Option<FileWatch>>,
    /// A reader of the store for occasional questions.
    reader: Mutex<Box<dyn store::Reader>>,
    /// Held while the manual clock is moved.
    clock_moves: tokio::sync::Mutex<()>,
    stalls: stalls::Stalls,
    traffic: Arc<Traffic>,
}

/// Reason for which a command was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// Nobody serves its aggregate type.
    UnknownAggregate {
        /// The types that are served.
        known: Vec<String>,
    },
    /// The id of its aggregate or its name breaks the rule for ids. The text says what is wrong.
    InvalidId(String),
}

/// Reason for which a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No projection has this name.
    #[error("no projection of that name; there are {}", .known.join(", "))]
    UnknownProjection {
        /// The names of all projections.
        known: Vec<String>,
    },
    /// The projection has no such query. The text names those it has.
    #[error("{0}")]
    UnknownQuery(String),
    /// The parameters do not decode.
    #[error("{0}")]
    Malformed(String),
    /// The position was not reached in time.
    #[error("{0}")]
    TimedOut(String),
    /// Nothing can answer now. The text says how far the read model is.
    #[error("{0}")]
    Unavailable(String),
    /// The plugin or the read model failed.
    #[error("{0}")]
    Failed(String),
}

impl Host {
    /// Starts everything in the manifest, or nothing, and reports its steps to `startup`. The caller serves the API.
    pub async fn start(manifest: Manifest, startup: Startup) -> Result<Arc<Self>, Error> {
        Self::start_with(manifest, startup, Network).await
    }

    /// Starts as [`start`](Self::start) does, with another way to the servers of endpoints.
    pub async fn start_with(
        manifest: Manifest,
        startup: Startup,
        transport: impl Transport + 'static,
    ) -> Result<Arc<Self>, Error> {
        let runtime = Handle::current();
        let started = Instant::now();
        let host = tokio::task::spawn_blocking(move || {
            manual_clock::stop(&manifest);
            let clock = Clock::system();
            let instance = uuid::Uuid::now_v7().to_string();
            let parts = Self::start_parts(manifest, &clock, runtime, &startup, Arc::new(transport))?;
            let core = parts.core.clone();
            let reader = Mutex::new(core.store.reader()?);
            let parts = watch::Sender::new(Arc::new(parts));
            let (stalls, traffic, clock_moves) = Default::default();
            let (changing, in_use, stopping, on_disk, watch) = Default::default();
            let host = Arc::new(Self {
                core,
                parts,
                changing,
                in_use,
                stopping,
                on_disk,
                clock,
                instance,
                started,
                watch,
                reader,
                clock_moves,
                stalls,
                traffic,
            });
            let files = HostFiles { host: Arc::downgrade(&host), refused: BTreeSet::new() };
            *host.watch.held() = Some(FileWatch::start(files).map_err(Error::One)?);
            Ok::<_, Error>(host)
        });
        let host = host.await.map_err(|error| Error::One(format!("starting failed: {error}")))??;
        tracing::info!(elapsed_ms = started.elapsed().as_millis() as u64, "started");
        tokio::spawn(watch_progress(Arc::downgrade(&host)));
        if host.core.shared.is_possible() {
            tokio::spawn(sharing::keep_divided(Arc::downgrade(&host)));
        }
        Ok(host)
    }

    /// Starts all parts. Plugins come first, because most mistakes are there and nothing is running yet. Parts that
    /// produce work come last.
    fn start_parts(
        manifest: Manifest,
        clock: &Clock,
        runtime: Handle,
        startup: &Startup,
        transport: Arc<dyn Transport>,
    ) -> Result<Parts, Error> {
        refuse_idle(&manifest).map_err(Error::One)?;
        let data = manifest.data.clone();
        std::fs::create_dir_all(&data).map_err(|error| {
            Error::One(format!("can't make the data folder {}: {error}; choose another with `data`", data.display()))
        })?;
        let compiler = Compiler::new(Some(&data.join("compiled")), demand(&manifest))?;
        let history = History::open(data.join("plugins"), manifest.host.history_max);
        let catalog = load_checked(&manifest, compiler, Some(history), startup).map_err(Error::Many)?;
        let catalog = Arc::new(catalog);
        startup.does("opening the store".to_owned());
        let location = location::store_location(&manifest).map_err(Error::One)?;
        let store = store::open_shared(&location, store_options(&manifest, clock))?;
        let shared = Arc::new(Shared::new(store.clone(), &data)?);
        // This is safe only now, because the open store keeps other hosts out of the folder.
        catalog.clean();
        untried::have_replayed(&catalog, &manifest, &*store, clock.now_ms(), startup);
        let plugins = catalog.plugins();
        let Unmatched { unknown_events, unknown_types } = unmatched(&plugins);
        let warnings = idle_keys(&manifest, &plugins).into_iter().chain(unknown_events).chain(unknown_types);
        warnings.for_each(|sentence| tracing::warn!("{sentence}"));
        let plan = Plan::of(&manifest, &plugins)?;
        let applied = Applied::of(&manifest, &plugins, plan.clone());
        let has_others = shared.has_others()?;
        if has_others && plan.needs_dev_broker() {
            return Err(Error::One(format!(
                "{}: hosts that share a store can't each have a development broker: name the brokers of a cluster in \
                 `kafka.brokers`",
                manifest.path.display()
            )));
        }
        orphans::settle(&manifest, &subscribed(&plugins), &*store, &shared, has_others)?;
        let granted = plan.parts().filter_map(|(_, recipe)| match recipe {
            Recipe::Requests(grant) => Some(grant.subscriptions.clone()),
            _ => None,
        });
        if shared.knows_all(&plan)? {
            http::interrupt_others(&*store, granted.flatten().collect())?;
        }
        // A host that finds others asks for its parts when it is able to run them.
        if !has_others {
            shared.introduce(&manifest, &applied)?;
        }
        let plan = shared.granted(&plan)?;
        let ids = IdRule { bytes_max: manifest.store.id_bytes_max };
        let aggregates = Arc::new(Aggregates::start([], &store)?.with_ids(ids));
        let flows = Flows::default();
        let environment = Environment { runtime, clock: clock.clone(), flows: flows.clone() };
        let broker = Arc::default();
        let core = Core { catalog, store, aggregates, flows, environment, transport, shared, data, broker };
        let mut parts = Parts::none(Arc::new(manifest), core);
        parts.applied = applied.into();
        match parts.start_all(&plan, &mut Moves::new(Vec::new()), startup) {
            Ok(()) => {
                parts.core.catalog.change().record(clock.now_ms(), "the host was started with other code");
                Ok(parts)
            }
            Err(error) => {
                parts.stop(Instant::now() + parts.manifest.host.stop_max());
                Err(error)
            }
        }
    }

    /// Returns the manifest that the host applies, with the ports that it has bound.
    pub fn manifest(&self) -> Arc<Manifest> {
        self.parts().manifest.clone()
    }

    /// Returns the parts that run now.
    fn parts(&self) -> Arc<Parts> {
        self.parts.borrow().clone()
    }

    /// Waits for something of the running parts, but not longer than until other parts run. Then it returns `None`.
    async fn unless_changed<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut parts = self.parts.subscribe();
        tokio::select! {
            waited = wait => Some(waited),
            // The sender lives as long as the host.
            _ = parts.changed() => None,
        }
    }

    /// Interrupts long calls of guests, because a host that stops must not wait for calls that may never end.
    pub fn interrupt(&self) {
        self.core.catalog.interrupt();
    }

    /// Sends a command and waits for its outcome.
    pub async fn send(&self, command: Command) -> Result<Outcome, Untaken> {
        let (ack, outcome) = ack::channel();
        let outcome = match self.offer(command.into(), ack) {
            Ok(()) => outcome.await.unwrap_or_else(|_| Outcome::unanswered()),
            Err(Unqueued::Full) => Outcome::Busy { retry_after_ms: BUSY_RETRY_AFTER_MS },
            Err(Unqueued::Untaken(untaken)) => return Err(untaken),
        };
        self.traffic.count(&outcome);
        Ok(outcome)
    }

    /// Runs a query of a projection. With `after` it first waits until the read model has reached that position, so
    /// that a sender reads its own writes.
    pub async fn query(
        &self,
        projection: &str,
        query: &str,
        params: Vec<u8>,
        after: Option<Position>,
        timeout: Duration,
    ) -> Result<Vec<u8>, QueryError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let failed = loop {
            let mut others = self.parts.subscribe();
            let parts = self.parts();
            let Some(found) = parts.projections.get(projection) else {
                let known = parts.projections.keys().map(ToString::to_string).collect();
                return Err(QueryError::UnknownProjection { known });
            };
            if let Some(after) = after
                && !self.reached(found, after, deadline, timeout).await?
            {
                continue;
            }
            match found.query(query.to_owned(), params.clone()).await {
                Ok(answer) => return Ok(answer),
                // It is being restarted with other settings.
                Err(projection::QueryError::Unavailable(_)) if self.changing.load(Ordering::Acquire) => {
                    let _ = tokio::time::timeout_at(deadline, others.changed()).await;
                }
                Err(projection::QueryError::Unavailable(_)) if others.has_changed().unwrap_or_default() => {}
                Err(projection::QueryError::Unavailable(reason)) => return Err(QueryError::Unavailable(reason)),
                Err(projection::QueryError::Plugin(failed)) => break failed,
            }
            if tokio::time::Instant::now() > deadline {
                return Err(QueryError::TimedOut(format!(
                    "projection {projection} is being restarted, which takes longer than {timeout:?}"
                )));
            }
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

    /// Waits until a projection has reached a position, or other parts run. Returns whether it has.
    async fn reached(
        &self,
        found: &projection::Projection,
        after: Position,
        deadline: tokio::time::Instant,
        timeout: Duration,
    ) -> Result<bool, QueryError> {
        let mut reached = found.reached();
        let wait = self.unless_changed(reached.wait_for(|reached| *reached >= after));
        if let Ok(waited) = tokio::time::timeout_at(deadline, wait).await {
            return Ok(waited.is_some());
        }
        if !found.answers() {
            return Err(QueryError::Unavailable(found.unanswered()));
        }
        let (projection, reached) = (found.name(), *found.reached().borrow());
        Err(QueryError::TimedOut(format!(
            "projection {projection} is at position {reached} and did not reach {after} within {timeout:?}"
        )))
    }

    /// Returns the counters of the API's requests.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Returns the flows that are watched.
    pub fn flows(&self) -> &Flows {
        &self.core.flows
    }

    /// Returns the names of the events that each aggregate type and type of sagas records or reads.
    pub fn recorded_events(&self) -> Vec<(String, Vec<String>)> {
        let plugins = self.core.catalog.plugins().into_iter();
        let owned = |(name, events): (&Name, Vec<&str>)| {
            (name.to_string(), events.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        plugins.flat_map(|plugin| plugin.recorded_events().map(owned).collect::<Vec<_>>()).collect()
    }

    /// Returns the endpoints to which plugins may send HTTP requests.
    pub fn declared_endpoints(&self) -> Vec<String> {
        let plugins = self.core.catalog.plugins().into_iter();
        let names = |plugin: Arc<Plugin>| plugin.description.endpoints().map(ToString::to_string).collect::<Vec<_>>();
        let mut endpoints: Vec<String> = plugins.flat_map(names).collect();
        endpoints.sort();
        endpoints.dedup();
        endpoints
    }

    /// Returns the event store.
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.core.store
    }

    /// Returns an id of this process, which no other host has or had.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Returns the clock of all parts of this host.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Waits until this host has lost the store, and returns why. From then on its work has no effect, and its process
    /// should end.
    pub async fn lost_store(&self) -> String {
        let mut loss = self.core.store.loss();
        let lost = loss.wait_for(Option::is_some).await.ok().and_then(|lost| lost.as_ref().map(ToString::to_string));
        match lost {
            Some(lost) => lost,
            // This host itself has closed the store.
            None => std::future::pending().await,
        }
    }

    /// Returns everything that a person needs to see whether the host does its work.
    pub async fn status(&self) -> Status {
        self.judged(self.stalled_after()).0
    }

    fn stalled_after(&self) -> Duration {
        Duration::from_millis(self.parts().manifest.host.stalled_after_ms)
    }

    /// Returns the status, with the state *stalled* for parts that have made no progress for `stalled_after`.
    fn judged(&self, stalled_after: Duration) -> (Status, Stalled) {
        let mut status = self.own_words();
        let stalled = self.stalls.look(&status, stalled_after);
        stalled.mark(&mut status);
        (status, stalled)
    }

    /// Returns the status as the parts report it.
    fn own_words(&self) -> Status {
        let (parts, core) = (self.parts(), &self.core);
        // This reads the store, so it may block for a moment.
        let (commands, dead_letters) = tokio::task::block_in_place(|| self.counts());
        // This must be a statement of its own. In the expression below its lock would be held while parts read the head
        // again. If a writer came in between, it and this thread would wait for each other.
        let position = core.store.head().borrow().0;
        // So must this: the lock of the watch is taken for each plugin, too.
        let file_watch = self.watch.held().as_ref().and_then(FileWatch::trouble);
        Status {
            host: HostStatus {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
                uptime_ms: self.started.elapsed().as_millis() as u64,
                data: core.data.display().to_string(),
                url: format!("http://{}", parts.manifest.api.listen),
                file_watch,
            },
            manifest: self.manifest_status(),
            store: StoreStatus { position, identity: core.store.identity().to_string(), error: core.store.trouble() },
            hosts: core.shared.status(),
            plugins: core.catalog.slots().map(|slot| self.plugin_status(&slot)).collect(),
            aggregates: core.aggregates.status().into_iter().map(aggregate_status).collect(),
            commands,
            kafka: parts
                .topics
                .as_ref()
                .map(|topics| KafkaStatus { brokers: topics.brokers().to_owned(), topics: topics.notes() }),
            sources: parts.source_statuses(),
            schedules: parts.schedules.as_ref().map(|schedules| schedules.status()).unwrap_or_default(),
            subscriptions: parts.subscriptions.values().map(|subscription| subscription.status()).collect(),
            projections: parts.projections.values().map(|projection| projection.status()).collect(),
            endpoints: parts.requests.values().flat_map(|http| http.status()).collect(),
            sinks: parts.sinks.values().map(|sink| sink.status()).collect(),
            api: self.traffic.status(),
            dead_letters,
        }
    }

    /// Returns the metrics for Prometheus.
    pub async fn metrics(&self) -> Vec<Family> {
        let status = self.status().await;
        let measured = tokio::task::block_in_place(|| self.measured(&status));
        metrics::families(&status, &measured)
    }

    fn measured(&self, status: &Status) -> Measured {
        let parts = self.parts();
        let mut reader = self.reader.held();
        let sources =
            status.sources.iter().flat_map(|one| [one.name.clone(), SubscriptionName::Source(&one.name).to_string()]);
        let others = status.subscriptions.iter().map(|one| one.plugin.clone());
        let schedules = status.schedules.iter().map(|one| LedgerName::Schedule(&one.name).to_string());
        let sinks = status.sinks.iter().map(|one| one.name.clone());
        let mut consumers: Vec<String> = sources.chain(others).chain(schedules).chain(sinks).collect();
        consumers.sort();
        consumers.dedup();
        let count = |consumer: String| {
            let wanted = DeadLetterQuery { consumer: Some(&consumer), before: None, limit: 0 };
            let (_, count) = reader.dead_letters(&wanted).unwrap_or_else(|error| unreadable(&error));
            (consumer, count)
        };
        let plugins = self.core.catalog.plugins().into_iter();
        Measured {
            plugins: plugins.map(|plugin| (plugin.name.to_string(), plugin.used())).collect(),
            store: self.core.store.measures(),
            dead_letters: consumers.into_iter().map(count).collect(),
            sources: parts.sources.iter().map(|(name, source)| (name.to_string(), source.measures())).collect(),
            sinks: parts.sinks.iter().map(|(name, sink)| (name.to_string(), sink.measures())).collect(),
        }
    }

    /// Returns whether the host does its work. A part with work is stalled if it makes no progress for `stalled_after`,
    /// by default the manifest's value.
    pub async fn readiness(&self, stalled_after: Option<Duration>) -> Readiness {
        let (status, stalled) = self.judged(stalled_after.unwrap_or_else(|| self.stalled_after()));
        let mut readiness = readiness::readiness(&status, &stalled);
        for unreverted in self.core.catalog.slots().filter_map(|slot| slot.unreverted()) {
            readiness.ready = false;
            readiness.reasons.push(unreverted);
        }
        for (part, error) in &self.parts().missing {
            readiness.ready = false;
            readiness.reasons.push(format!("{part} could not be started again, `wasmill reload` tries it: {error}"));
        }
        readiness.paused = pauses::paused(&self.subscriptions().await);
        readiness
    }

    /// Waits until the host is drained or the time is up.
    pub async fn drained(&self, timeout: Duration) -> Drained {
        let mut drained = self.until_drained(timeout).await;
        let (status, _) = self.judged(self.stalled_after());
        drained.dead_letters = status.dead_letters.total;
        drained.waiting_for = drained.waiting_for.map(|part| drain::explained(part, &status));
        let subscriptions = self.subscriptions().await;
        drained.next_timer_ms = subscriptions.iter().filter_map(|subscription| subscription.next_timer_ms).min();
        drained.paused = pauses::paused(&subscriptions);
        drained.elsewhere = self.parts_elsewhere();
        drained
    }

    /// Waits until the sum of a source's next offsets is at least `handled`, or the time is up. Returns `None` if there
    /// is no such source.
    pub async fn wait_source(&self, name: &str, handled: u64, timeout: Duration) -> Option<SourceProgress> {
        let mut progress = self.parts().source_progress(name)?;
        // In either case the answer is its present progress.
        let _ = tokio::time::timeout(timeout, progress.wait_for(|sum| *sum >= handled)).await;
        let status = self.parts().source_statuses().into_iter().find(|source| source.name == name)?;
        Some(drain::source_progress(status))
    }

    /// Makes a projection skip the event at which it has stopped. Returns `None` if there is no such projection.
    pub async fn skip_event(&self, projection: &str, position: Position) -> Option<Result<SkippedEvent, SkipError>> {
        let _used = self.in_use.read().await;
        let found = self.parts().projections.get(projection)?.clone();
        Some(found.skip(position, self.clock.now_ms(), &*self.core.store).await)
    }

    /// Has a projection build its read model again. Returns `None` if there is no such projection.
    pub async fn rebuild(&self, projection: &str) -> Option<Result<(), String>> {
        let _used = self.in_use.read().await;
        self.parts().projections.get(projection).map(|found| found.rebuild())
    }

    /// Returns why a plugin can't be reloaded that this host does not have, or `None` if the host has it.
    pub fn unknown_plugin(&self, name: &str) -> Option<String> {
        let known: Vec<String> = self.core.catalog.slots().map(|slot| slot.name.to_string()).collect();
        if known.iter().any(|other| other == name) {
            return None;
        }
        let path = &self.parts().manifest.path;
        let is_new = Manifest::load(path).is_ok_and(|now| now.plugins.contains_key(name));
        Some(match is_new {
            true => format!("plugin {name} is new in {}: `wasmill reload` takes it in", path.display()),
            false => format!("no plugin is named {name}; this host has {}", known.join(", ")),
        })
    }

    /// Returns the longest time of a stop.
    pub fn stop_max(&self) -> Duration {
        self.parts().manifest.host.stop_max()
    }

    /// Stops all parts in order. They finish what they have begun as far as there is time.
    pub async fn stop(self: &Arc<Self>, deadline: Instant) {
        let host = self.clone();
        let stopped = tokio::task::spawn_blocking(move || {
            host.stopping.store(true, Ordering::Release);
            drop(host.watch.held().take());
            let _alone = host.core.catalog.change();
            host.parts().stop(deadline);
        });
        if let Err(error) = stopped.await {
            tracing::error!("stopping failed: {error}");
        }
    }

    fn counts(&self) -> (Vec<CommandStatus>, DeadLetterStatus) {
        let mut reader = self.reader.held();
        let tallies = reader.tallies().unwrap_or_else(|error| unreadable(&error));
        let (newest, total) = reader
            .dead_letters(&DeadLetterQuery::newest(DEAD_LETTERS_SHOWN))
            .unwrap_or_else(|error| unreadable(&error));
        let commands = tallies.into_iter().map(CommandStatus::from).collect();
        let newest = newest.into_iter().map(DeadLetterItem::from).collect();
        let (parts, measures) = (self.parts(), self.core.store.measures());
        let limits = &parts.manifest.store;
        let dead_letters = DeadLetterStatus {
            total,
            total_max: limits.dead_letters_max,
            bytes: measures.dead_letter_bytes,
            bytes_max: limits.dead_letters_mib << 20,
            dropped: measures.dead_letters_dropped,
            newest,
        };
        (commands, dead_letters)
    }
}

impl Host {
    fn plugin_status(&self, slot: &Slot) -> PluginStatus {
        let plugin = slot.current();
        PluginStatus {
            name: slot.name.to_string(),
            file: plugin.file().display().to_string(),
            version: plugin.description.version.clone(),
            contract: plugin.description.api_version.to_string(),
            digest: format!("sha256:{}", plugin.digest),
            roles: plugin.description.roles.iter().map(ToString::to_string).collect(),
            loads: slot.loads(),
            error: slot.error(),
            held_back: self.held_back(&slot.name),
            unwatched: self.watch.held().as_ref().and_then(|watch| watch.unseen(plugin.file())),
            unknown_events: plugin.unknown_events(),
            settings: plugin.configuration.settings().clone(),
            secrets: plugin.configuration.secret_names().map(str::to_owned).collect(),
        }
    }
}

/// Checks the progress of the parts regularly, so that the status can say since when one is stalled.
async fn watch_progress(host: Weak<Host>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(host) = host.upgrade() else { return };
        host.judged(host.stalled_after());
        host.revert_condemned().await;
    }
}

fn unreadable<T: Default>(error: &store::Error) -> T {
    tracing::error!("the status is incomplete: {error}");
    T::default()
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
