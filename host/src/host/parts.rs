//! The running parts of a host: starting them in order, stopping them in order, and restarting those that a plan makes from
//! something else.

use super::options::record_options;
use super::orphans;
use super::plan::{Kind, PartName, Plan, Recipe, SinkContent, SourceRecipe};
use super::plugin_handlers::aggregate_service;
use super::sharing::{Applied, Shared};
use super::startup::Startup;
use crate::aggregates::{self, Aggregates, Interlude, Service};
use crate::flows::Flows;
use crate::http::{self, Grant, Http, Transport};
use crate::kafka::{self, Connection, Sink, Source, Transform, dev_broker::DevBroker};
use crate::manifest::{Manifest, Target, Transaction};
use crate::model::SubscriptionName;
use crate::plugin::{self, Catalog, Slot};
use crate::projection::{self, Projection};
use crate::schedules::Schedules;
use crate::status::SourceStatus;
use crate::store::{self, EventStore, Part, PartKind};
use crate::subscriptions::{self, Environment, RecordInbox, RecordSubscription, Subscription};
use crate::supervise::{self, Held as _};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Share of the time for a stop during which sources may wait for records in flight.
const SOURCES_SHARE: f64 = 0.4;

/// Time that is left for a stop when sinks give up. Their clients and the store are closed in it.
const AFTER_SINKS: Duration = Duration::from_secs(8);

/// Time that is left for a stop when attempts at HTTP requests are interrupted. The store is closed in it.
const AFTER_HTTP: Duration = Duration::from_secs(1);

/// Longest time for which a host waits until Kafka says where new sources start.
const STARTS_MAX: Duration = Duration::from_secs(5);

/// Parts of one kind, by their names.
pub(super) type ByName<P> = BTreeMap<Arc<str>, Arc<P>>;

/// What all parts use. It stays while the host runs.
#[derive(Clone)]
pub(super) struct Core {
    pub(super) catalog: Arc<Catalog>,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) aggregates: Arc<Aggregates>,
    /// The flows that somebody watches.
    pub(super) flows: Flows,
    pub(super) environment: Environment,
    /// The way to the servers of endpoints.
    pub(super) transport: Arc<dyn Transport>,
    /// Which parts run on this host and which on others.
    pub(super) shared: Arc<Shared>,
    /// The data folder.
    pub(super) data: PathBuf,
    /// The development broker, while a plan needs it.
    pub(super) broker: Arc<Mutex<Option<DevBroker>>>,
}

/// The running parts, and the manifest that they are of. A change of the manifest makes new `Parts`, which share those that the
/// change does not concern.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) manifest: Arc<Manifest>,
    pub(super) core: Core,
    /// What the manifest asks for in all, on this host or on others.
    pub(super) applied: Arc<Applied>,
    pub(super) subscriptions: ByName<dyn Subscription>,
    /// One for each source that delivers to a subscriber, by the name of the source.
    pub(super) records: ByName<RecordSubscription>,
    pub(super) projections: ByName<Projection>,
    pub(super) sources: ByName<Source>,
    /// Sources whose batches are Kafka transactions.
    pub(super) transforms: ByName<Transform>,
    pub(super) sinks: ByName<Sink>,
    /// The schedules, if the manifest has any.
    pub(super) schedules: Option<Arc<Schedules>>,
    /// The HTTP requests of plugins, by plugin.
    pub(super) requests: ByName<Http>,
    /// The task that creates missing topics as soon as the cluster answers. It ends when this is dropped.
    pub(super) topics: Option<Arc<kafka::topics::Pending>>,
    /// The parts that run, and what each was made from.
    running: Plan,
    /// The parts that should run and could not be started again, and why.
    pub(super) missing: BTreeMap<String, String>,
}

/// The parts whose place in the store gets another name.
pub(super) struct Moves {
    moves: Vec<(Part, String)>,
    are_done: bool,
}

/// Reason for which a host does not start, or does not change. Nothing new is left running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Several things are wrong, a sentence each.
    #[error("{}", .0.join("\n"))]
    Many(Vec<String>),
    /// One thing is wrong.
    #[error("{0}")]
    One(String),
    /// The store can't be opened.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A plugin, or the engine for it, failed.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// A projection can't be started.
    #[error(transparent)]
    Projection(#[from] projection::Error),
    /// The aggregates can't be started.
    #[error(transparent)]
    Aggregates(#[from] aggregates::StartError),
    /// HTTP requests can't be sent as the manifest says.
    #[error(transparent)]
    Http(#[from] http::StartError),
    /// Kafka is configured wrongly, or the development broker does not start.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
}

impl Parts {
    /// Returns a host without a running part.
    pub(super) fn none(manifest: Arc<Manifest>, core: Core) -> Self {
        Self {
            manifest,
            core,
            applied: Arc::default(),
            subscriptions: ByName::new(),
            records: ByName::new(),
            projections: ByName::new(),
            sources: ByName::new(),
            transforms: ByName::new(),
            sinks: ByName::new(),
            schedules: None,
            requests: ByName::new(),
            topics: None,
            running: Plan::default(),
            missing: BTreeMap::new(),
        }
    }

    /// Returns the plan of the parts that run.
    pub(super) fn running(&self) -> &Plan {
        &self.running
    }

    /// Gives the places of parts other names, and starts the parts of a plan that do not run. It stops at the first that fails.
    pub(super) fn start_all(&mut self, plan: &Plan, moves: &mut Moves, startup: &Startup) -> Result<(), Error> {
        self.serve(plan, moves, startup)?;
        self.provide_dev_broker(plan)?;
        let mut new_sources = Vec::new();
        for (name, recipe) in self.to_start(plan) {
            startup.does(format!("starting {name}"));
            self.start_one(&name, &recipe)?;
            new_sources.extend((name.kind == Kind::Source).then_some(name.name));
        }
        self.await_starts(&new_sources);
        self.end_types(plan)
    }

    /// Gives the places of parts the names that they had before, and starts the parts of a plan that do not run, as far as that is
    /// possible.
    pub(super) fn start_what_can_be(&mut self, plan: &Plan, mut moves: Moves) {
        let mut missing: Vec<(String, Error)> = Vec::new();
        let mut failed = |what: &str, done: Result<(), Error>| {
            missing.extend(done.err().map(|error| (what.to_owned(), error)));
        };
        failed("aggregates", self.serve(plan, &mut moves, &Startup::default()));
        failed("development broker", self.provide_dev_broker(plan));
        for (name, recipe) in self.to_start(plan) {
            // It would do everything from the beginning.
            let started = match moves.misses(&name) {
                Some(place) => Err(Error::One(format!("its place in the store is named {place} now"))),
                None => self.start_one(&name, &recipe),
            };
            failed(&name.to_string(), started);
        }
        failed("aggregates", self.end_types(plan));
        for (name, error) in missing {
            tracing::error!("{name} could not be started again: {error}");
            self.missing.insert(name, error.to_string());
        }
    }

    /// Starts the parts of a plan beside those that run, as far as that is possible.
    pub(super) fn start_more(&mut self, plan: &Plan) {
        for (name, recipe) in plan.parts().filter(|(name, _)| name.kind != Kind::Aggregate) {
            if let Err(error) = self.start_one(name, recipe) {
                tracing::error!("{name} could not be started: {error}");
                self.missing.insert(name.to_string(), error.to_string());
            }
        }
    }

    fn to_start(&self, plan: &Plan) -> Vec<(PartName, Recipe)> {
        let missing = plan.without(&self.running).filter(|(name, _)| name.kind != Kind::Aggregate);
        missing.map(|(name, recipe)| (name.clone(), recipe.clone())).collect()
    }

    /// Serves the aggregate types of a plan, and gives the places of parts other names. Types that are served in another way take
    /// commands all the time. Types that the plan does not have end last, in [`Self::end_types`].
    fn serve(&mut self, plan: &Plan, moves: &mut Moves, startup: &Startup) -> Result<(), Error> {
        let is_aggregate = |(name, _): &(&PartName, &Recipe)| name.kind == Kind::Aggregate;
        let renames = !moves.moves.is_empty();
        // While places get other names, no shard may have a command: it would be settled under the old name, and sent again under
        // the new one.
        let is_ending =
            |(name, recipe): &(&PartName, &Recipe)| renames || (plan.has(name) && !plan.has_same(name, recipe));
        let ending: Vec<PartName> =
            self.running.parts().filter(is_aggregate).filter(is_ending).map(|(name, _)| name.clone()).collect();
        let is_starting = |(name, recipe): &(&PartName, &Recipe)| renames || !self.running.has_same(name, recipe);
        let starting: Vec<(PartName, Recipe)> = plan
            .parts()
            .filter(is_aggregate)
            .filter(is_starting)
            .map(|(name, recipe)| (name.clone(), recipe.clone()))
            .collect();
        if starting.is_empty() && !renames {
            return Ok(());
        }
        startup.does("starting the aggregates".to_owned());
        let services: Vec<Service> = starting.iter().filter_map(|(name, recipe)| self.service(name, recipe)).collect();
        let removed: BTreeSet<String> = ending.iter().map(|name| name.name.to_string()).collect();
        let mut carried = Ok(());
        let forgets = |ledger: &str| {
            store::part_of_ledger(ledger).is_some_and(|part| moves.moves.iter().any(|(old, _)| *old == part))
        };
        let work = Box::new(|| carried = orphans::carry_over(&*self.core.store, &moves.moves));
        let changed = self.core.aggregates.change(&removed, services, Interlude { forgets: &forgets, work });
        let serves = self.core.aggregates.types();
        if changed.is_ok() || !ending.iter().all(|name| serves.iter().any(|served| **served == *name.name)) {
            ending.iter().for_each(|name| self.running.remove(name));
        }
        moves.are_done = carried.is_ok() && changed.is_ok();
        changed?;
        starting.into_iter().for_each(|(name, recipe)| self.running.insert(name, recipe));
        Ok(carried?)
    }

    /// Ends the aggregate types that a plan does not have, once everything else runs: until then nothing that is sent to them is
    /// refused, and a change can be undone.
    fn end_types(&mut self, plan: &Plan) -> Result<(), Error> {
        let is_ending = |name: &PartName| name.kind == Kind::Aggregate && !plan.has(name);
        let ending: Vec<PartName> =
            self.running.parts().map(|(name, _)| name).filter(|name| is_ending(name)).cloned().collect();
        if ending.is_empty() {
            return Ok(());
        }
        let removed = ending.iter().map(|name| name.name.to_string()).collect();
        self.core.aggregates.change(&removed, [], Interlude::none())?;
        ending.iter().for_each(|name| self.running.remove(name));
        Ok(())
    }

    fn service(&self, name: &PartName, recipe: &Recipe) -> Option<Service> {
        let Recipe::Aggregate { plugin, shards, options } = recipe else { return None };
        Some(aggregate_service(&self.slot(plugin), &name.name, *shards, options))
    }

    fn slot(&self, plugin: &str) -> Arc<Slot> {
        self.core.catalog.slot(plugin).expect("the plan is of the plugins in the catalog")
    }

    /// Starts a part.
    fn start_one(&mut self, name: &PartName, recipe: &Recipe) -> Result<(), Error> {
        let Core { store, aggregates, environment, .. } = self.core.clone();
        let key = name.name.clone();
        match recipe {
            Recipe::Aggregate { .. } => unreachable!("aggregates change together"),
            Recipe::Projection { plugin, options } => {
                let read_models = self.core.data.join("read-models");
                let (catalog, runtime) = (&self.core.catalog, &environment.runtime);
                let slot = self.slot(plugin);
                let started = Projection::start(&slot, catalog, options.clone(), &read_models, &store, runtime)?;
                self.projections.extend(started.map(|projection| (key, Arc::new(projection))));
            }
            Recipe::Subscription { plugin, segment, options, .. } => {
                let slot = self.slot(plugin);
                let started =
                    subscriptions::start(&slot, *segment, options.clone(), &store, &aggregates, &environment)?;
                self.subscriptions.extend(started.map(|subscription| (key, subscription)));
            }
            Recipe::Topics { connection, topics } => {
                let connection = self.connected(connection);
                let started = kafka::topics::ensure_when_reachable(connection, topics.clone())?;
                self.topics = Some(Arc::new(started));
            }
            Recipe::Sink { connection, content } => {
                let config = self.sink_config(&key, content);
                let sink = Sink::start(config, self.connected(connection), store)?;
                self.sinks.insert(key, Arc::new(sink));
            }
            Recipe::Source(recipe) => self.start_source(&key, recipe)?,
            Recipe::Requests(grant) => self.start_requests(key, grant)?,
            Recipe::Schedules(schedules) => {
                let started = Schedules::start(schedules, &environment.clock, &store, &aggregates)?;
                self.schedules = started.map(Arc::new);
            }
        }
        self.running.insert(name.clone(), recipe.clone());
        Ok(())
    }

    fn sink_config(&self, name: &str, content: &SinkContent) -> kafka::sink::Config {
        match content {
            SinkContent::Outbox(settings) => kafka::sink::Config::new(settings),
            SinkContent::Events(sink) => kafka::sink::Config::events(name, sink, &self.core.catalog.upcasts()),
            SinkContent::DeadLetters(source, settings) => {
                let source_name = name.strip_prefix(kafka::sink::DEAD_LETTERS).unwrap_or(name);
                let config = kafka::sink::Config::letters(source_name, source, settings);
                config.expect("the plan has this sink because its source has a topic for dead letters")
            }
        }
    }

    fn start_requests(&mut self, plugin: Arc<str>, grant: &Grant) -> Result<(), Error> {
        let Core { store, environment, transport, .. } = &self.core;
        let started = Http::start(grant.clone(), &**transport, store, &environment.clock, &environment.runtime)?;
        self.requests.extend(started.map(|http| (plugin, Arc::new(http))));
        Ok(())
    }

    /// Starts a source, or a transform, with the subscription that takes its records.
    fn start_source(&mut self, name: &Arc<str>, recipe: &SourceRecipe) -> Result<(), Error> {
        let SourceRecipe { connection, settings, bounds, written } = recipe;
        let Core { store, aggregates, environment, .. } = self.core.clone();
        let connection = self.connected(connection);
        if let Target::Deliveries(deliveries) = &settings.target
            && deliveries.transaction == Transaction::Kafka
        {
            let mut config = kafka::transform::Config::new(name, settings, deliveries, written);
            config.bounds = *bounds;
            let transform = Transform::start(config, connection, store, &self.slot(&deliveries.subscriber))?;
            self.transforms.insert(name.clone(), Arc::new(transform));
            return Ok(());
        }
        let mut subscription = None;
        if let Target::Deliveries(deliveries) = &settings.target {
            let (slot, options) = (self.slot(&deliveries.subscriber), record_options(name, deliveries, *bounds));
            subscription = Some(RecordSubscription::start(&slot, options, &store, &aggregates, &environment)?);
        }
        let subscriber: Option<Arc<dyn RecordInbox>> = subscription.as_ref().map(RecordSubscription::inbox);
        let mut config = kafka::source::Config::new(name, settings, written);
        config.bounds = *bounds;
        let started = Source::start(config, connection, store, kafka::source::Targets { aggregates, subscriber });
        match started {
            Ok(source) => {
                self.records.extend(subscription.map(|subscription| (name.clone(), Arc::new(subscription))));
                self.sources.insert(name.clone(), Arc::new(source));
                Ok(())
            }
            Err(error) => {
                subscription.iter().for_each(RecordSubscription::stop);
                Err(error.into())
            }
        }
    }

    /// Returns the connection of a plan with the address of the development broker, if it is that one.
    fn connected(&self, connection: &Connection) -> Connection {
        match &*self.core.broker.held() {
            Some(broker) if connection.is_embedded() => connection.at(broker),
            _ => connection.clone(),
        }
    }

    /// Starts the development broker, if a plan needs it, or stops it, if the plan does not.
    fn provide_dev_broker(&self, plan: &Plan) -> Result<(), Error> {
        let mut held = self.core.broker.held();
        match (&*held, plan.needs_dev_broker()) {
            (Some(_), true) if plan.topics() == self.running.topics() => {}
            (Some(broker), true) => broker.make_topics(&plan.topics())?,
            (None, true) => {
                let program = std::env::current_exe().map_err(|error| {
                    Error::One(format!("can't find the program to start a development broker: {error}"))
                })?;
                *held = Some(kafka::dev_broker::ensure(&program, &self.core.data, &plan.topics())?);
            }
            (Some(_), false) => held.take().into_iter().for_each(DevBroker::stop),
            (None, false) => {}
        }
        Ok(())
    }

    /// Waits until the start offsets of sources are fixed, if Kafka answers. So every record is read that is written
    /// after the host says that it serves.
    fn await_starts(&self, names: &[Arc<str>]) {
        let deadline = Instant::now() + STARTS_MAX;
        for name in names {
            let is_fixed = match (self.sources.get(name), self.transforms.get(name)) {
                (Some(source), _) => source.is_fixed_by(deadline),
                (None, Some(transform)) => transform.is_fixed_by(deadline),
                (None, None) => true,
            };
            if !is_fixed {
                tracing::warn!(
                    source = &**name,
                    "Kafka does not answer: where it starts (`from`) is fixed once it does"
                );
            }
        }
    }

    /// Returns a watch on a source's progress, if there is such a source.
    pub(super) fn source_progress(&self, name: &str) -> Option<watch::Receiver<u64>> {
        let source = self.sources.get(name).map(|source| source.progress());
        source.or_else(|| self.transforms.get(name).map(|transform| transform.progress()))
    }

    /// Returns the status of all sources, with the problems of the subscribers that take their records.
    pub(super) fn source_statuses(&self) -> Vec<SourceStatus> {
        let mut statuses: Vec<_> = self.sources.values().map(|source| source.status()).collect();
        for status in &mut statuses {
            let records = self.records.get(&*status.name);
            let (state, error) = records.map(|records| records.condition()).unwrap_or_default();
            if status.error.is_none() && error.is_some() {
                (status.state, status.error) = (state, error);
            }
        }
        statuses.extend(self.transforms.values().map(|transform| transform.status()));
        statuses.sort_by(|one, other| one.name.cmp(&other.name));
        statuses
    }

    /// Stops the parts that a plan has not, or makes from something else, in the order of a stop. Aggregates are not among them: see
    /// [`Aggregates::change`].
    pub(super) fn stop_unless_in(&mut self, plan: &Plan, deadline: Instant) {
        let ending: BTreeSet<PartName> = self.running.without(plan).map(|(name, _)| name.clone()).collect();
        let is_ending = |kind: Kind| {
            let ending = &ending;
            move |name: &str| ending.contains(&PartName::new(kind, name))
        };
        self.stop_sources_if(is_ending(Kind::Source), !is_ending(Kind::Schedules)("schedules"), deadline);
        self.stop_subscriptions_if(is_ending(Kind::Subscription), is_ending(Kind::Source));
        let (projections, sinks) = (is_ending(Kind::Projection), is_ending(Kind::Sink));
        self.stop_last_if(projections, sinks, is_ending(Kind::Requests), deadline);
        fn keep<P: ?Sized>(parts: &mut ByName<P>, is_ending: impl Fn(&str) -> bool) {
            parts.retain(|name, _| !is_ending(name));
        }
        keep(&mut self.sources, is_ending(Kind::Source));
        keep(&mut self.transforms, is_ending(Kind::Source));
        keep(&mut self.records, is_ending(Kind::Source));
        keep(&mut self.subscriptions, is_ending(Kind::Subscription));
        keep(&mut self.projections, is_ending(Kind::Projection));
        keep(&mut self.sinks, is_ending(Kind::Sink));
        keep(&mut self.requests, is_ending(Kind::Requests));
        self.schedules.take_if(|_| is_ending(Kind::Schedules)("schedules"));
        self.topics.take_if(|_| is_ending(Kind::Topics)("topics"));
        let stopped = ending.iter().filter(|name| name.kind != Kind::Aggregate);
        stopped.for_each(|name| self.running.remove(name));
    }

    /// Stops all parts: those that produce work first, the store near the end. Subscriptions end before the aggregates
    /// to which they send. Parts of one stage stop side by side. Parts that wait for brokers give up early enough to
    /// leave time for the others, and what they leave undone is done after the next start.
    pub(super) fn stop(&self, deadline: Instant) {
        let every = |_: &str| true;
        self.core.catalog.interrupt();
        self.stop_sources_if(every, false, deadline);
        self.stop_subscriptions_if(every, every);
        self.core.aggregates.stop();
        self.stop_last_if(every, every, every, deadline);
        self.core.store.close();
        if let Some(broker) = self.core.broker.held().take() {
            broker.stop();
        }
    }

    fn stop_sources_if(&self, is_ending: impl Fn(&str) -> bool, schedules_stay: bool, deadline: Instant) {
        fn of<P: ?Sized>(parts: &ByName<P>, is_ending: impl Fn(&str) -> bool) -> impl Iterator<Item = &Arc<P>> {
            parts.iter().filter(move |(name, _)| is_ending(name)).map(|(_, part)| part)
        }
        of(&self.records, &is_ending).for_each(|records| records.give_back());
        let sources_by = Instant::now() + deadline.saturating_duration_since(Instant::now()).mul_f64(SOURCES_SHARE);
        let sources = of(&self.sources, &is_ending).map(|source| job(move || source.stop_by(sources_by)));
        let transforms = of(&self.transforms, &is_ending).map(|transform| job(|| transform.stop()));
        let schedules = self.schedules.iter().filter(|_| !schedules_stay).map(|schedules| job(|| schedules.stop()));
        supervise::side_by_side("stop-sources", sources.chain(transforms).chain(schedules));
    }

    fn stop_subscriptions_if(&self, is_ending: impl Fn(&str) -> bool, of_records: impl Fn(&str) -> bool) {
        let records = self.records.iter().filter(|(name, _)| of_records(name));
        let records = records.map(|(_, records)| job(|| records.stop()));
        let subscriptions = self.subscriptions.iter().filter(|(name, _)| is_ending(name));
        let subscriptions = subscriptions.map(|(_, subscription)| job(|| subscription.stop()));
        supervise::side_by_side("stop-subscriptions", records.chain(subscriptions));
    }

    fn stop_last_if(
        &self,
        projections: impl Fn(&str) -> bool,
        sinks: impl Fn(&str) -> bool,
        requests: impl Fn(&str) -> bool,
        deadline: Instant,
    ) {
        let sinks_by = deadline.checked_sub(AFTER_SINKS).unwrap_or(deadline);
        let http_by = deadline.checked_sub(AFTER_HTTP).unwrap_or(deadline);
        let projections = self.projections.iter().filter(|(name, _)| projections(name));
        let projections = projections.map(|(_, projection)| job(|| projection.stop()));
        let sinks = self.sinks.iter().filter(|(name, _)| sinks(name));
        let sinks = sinks.map(|(_, sink)| job(move || sink.stop_by(sinks_by)));
        let requests = self.requests.iter().filter(|(name, _)| requests(name));
        let requests = requests.map(|(_, http)| job(move || http.stop_by(http_by)));
        supervise::side_by_side("stop-sinks", projections.chain(sinks).chain(requests));
    }
}

impl Moves {
    pub(super) fn new(moves: Vec<(Part, String)>) -> Self {
        Self { moves, are_done: false }
    }

    /// Returns the way back of what was done.
    pub(super) fn back(self) -> Self {
        let back = |(old, new): (Part, String)| (Part { kind: old.kind, name: new }, old.name);
        Self::new(if self.are_done { self.moves.into_iter().rev().map(back).collect() } else { Vec::new() })
    }

    /// Returns under which name the store has the place of a part, if it was to get it back and did not.
    fn misses(&self, part: &PartName) -> Option<&Part> {
        let is_of = |kind: PartKind, name: &str| match kind {
            PartKind::Subscription => {
                part.kind == Kind::Subscription && SubscriptionName::parse(&part.name).owner() == name
            }
            PartKind::Source => *part == PartName::new(Kind::Source, name),
            PartKind::Sink => *part == PartName::new(Kind::Sink, name),
            PartKind::Schedule => part.kind == Kind::Schedules,
        };
        let missed = self.moves.iter().find(|(place, to)| is_of(place.kind, to));
        missed.map(|(place, _)| place).filter(|_| !self.are_done)
    }
}

fn job<'job>(stop: impl FnOnce() + Send + 'job) -> Box<dyn FnOnce() + Send + 'job> {
    Box::new(stop)
}
