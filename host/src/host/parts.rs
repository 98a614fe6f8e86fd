//! Building the parts of a host in order, and stopping them in order.

use super::configurations::{FromManifest, configuration};
use super::fitting::{has_subscription, problems};
use super::idle_keys::idle_keys;
use super::orphans;
use super::plugin_handlers;
use super::startup::Startup;
use super::unmatched::{Unmatched, unmatched};
use crate::aggregates::{self, Aggregates, Service};
use crate::backoff::Backoff;
use crate::bounds::Bounds;
use crate::clock::Clock;
use crate::flows::Flows;
use crate::http::{self, Grant, Http, Transport};
use crate::kafka::{self, Connection, Sink, Source, Transform, dev_broker::DevBroker};
use crate::manifest::{
    Brokers, Deliveries, Kafka, Manifest, Plugin as PluginSettings, Refusals, Source as SourceSettings, Target,
    Transaction, WhenFull,
};
use crate::model::{IdRule, SubscriptionName};
use crate::plugin::{self, Catalog, Compiler, Demand, Limits, Role, Slot};
use crate::projection::{self, Projection};
use crate::schedules::Schedules;
use crate::status::SourceStatus;
use crate::store::{self, EventStore};
use crate::subscriptions::{self, Environment, RecordInbox, RecordOptions, RecordSubscription, Subscription};
use crate::supervise;
use crate::supervise::Held as _;
use std::collections::BTreeMap;
use std::iter;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
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
pub(super) type ByName<P> = BTreeMap<Arc<str>, P>;

/// The parts, in the order in which data goes through them. Each can be started and stopped by itself.
pub(super) struct Parts {
    pub(super) catalog: Arc<Catalog>,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) aggregates: Arc<Aggregates>,
    pub(super) subscriptions: ByName<Box<dyn Subscription>>,
    /// One for each source that delivers to a subscriber, by the name of the source.
    pub(super) records: ByName<RecordSubscription>,
    pub(super) projections: ByName<Projection>,
    pub(super) sources: ByName<Source>,
    /// Sources whose batches are Kafka transactions.
    pub(super) transforms: ByName<Transform>,
    pub(super) sinks: ByName<Sink>,
    /// The schedules, if the manifest has any.
    pub(super) schedules: Option<Schedules>,
    /// The HTTP requests of plugins, if there can be any.
    pub(super) http: Option<Http>,
    /// The flows that somebody watches.
    pub(super) flows: Flows,
    /// The task that creates missing topics as soon as the cluster answers. It ends when this is dropped.
    pub(super) topics: Option<kafka::topics::Pending>,
    /// The development broker. The mutex is there only because `stop` takes it out.
    broker: Mutex<Option<DevBroker>>,
}

/// Reason for which a host does not start. Nothing is left running.
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

/// Result of checking a manifest before anything is started.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// One line for each plugin.
    pub plugins: Vec<String>,
    /// Keys of the manifest that have no effect, in words.
    pub idle_keys: Vec<String>,
    /// Subscriptions to events of aggregate types that no plugin of the manifest has, in words.
    pub unmatched: Vec<String>,
    /// Parts that the store knows and the manifest does not, in words.
    pub orphans: Vec<String>,
    /// Parts whose place the next start renames, in words.
    pub moves: Vec<String>,
    /// Why the store could not be checked, if there is one.
    pub unread: Option<String>,
}

/// Loads every plugin of a manifest and checks that all fits together, also with the store if it can be read. It starts
/// nothing. It returns what there is, or a line for each problem.
pub fn check(manifest: &Manifest) -> Result<Checked, Vec<String>> {
    refuse_idle(manifest).map_err(|problem| vec![problem])?;
    let compiler = Compiler::new(None, demand(manifest)).map_err(|error| vec![error.to_string()])?;
    let loaded = load_checked(manifest, compiler, &Startup::default());
    let of_endpoints = http::check(manifest);
    let catalog = match loaded {
        Ok(catalog) if of_endpoints.is_empty() => catalog,
        Ok(_) => return Err(of_endpoints),
        Err(problems) => return Err([problems, of_endpoints].concat()),
    };
    let lines = catalog.slots().map(|slot| {
        let plugin = slot.current();
        let roles: Vec<String> = plugin.description.roles.iter().map(ToString::to_string).collect();
        format!("{}: {}", plugin.label(), roles.join(", "))
    });
    let Unmatched { unknown_events, unknown_types } = unmatched(&catalog);
    if !unknown_events.is_empty() {
        return Err(unknown_events);
    }
    let mut checked = Checked {
        plugins: lines.collect(),
        idle_keys: idle_keys(manifest, &catalog),
        unmatched: unknown_types,
        ..Checked::default()
    };
    let location = store::Location::of_folder(&manifest.data);
    if store::exists(&location) {
        match store::places(&location) {
            Ok(places) => {
                let moves = orphans::decide(manifest, &subscribed(&catalog), &places)?;
                let mut left = orphans::orphans(manifest, &places);
                left.retain(|orphan| !moves.iter().any(|(old, _)| *old == orphan.part));
                checked.orphans = left.iter().map(ToString::to_string).collect();
                checked.moves = moves.iter().map(|(old, new)| format!("{old} will be named {new}")).collect();
            }
            Err(error) => checked.unread = Some(error.to_string()),
        }
    }
    Ok(checked)
}

/// Refuses a manifest without a plugin, because its host would never do anything.
fn refuse_idle(manifest: &Manifest) -> Result<(), String> {
    if !manifest.plugins.is_empty() {
        return Ok(());
    }
    let remedy = "add a section [plugins.NAME] with its `file`";
    Err(format!("{} has no plugin, so a host of it does nothing: {remedy}", manifest.path.display()))
}

/// Returns the plugins that have a subscription.
fn subscribed(catalog: &Catalog) -> Vec<String> {
    catalog.slots().filter(|slot| has_subscription(&slot.current())).map(|slot| slot.name.to_string()).collect()
}

/// Loads the plugins and checks the properties of Kafka. The problems of both are reported together.
fn load_checked(manifest: &Manifest, compiler: Compiler, startup: &Startup) -> Result<Catalog, Vec<String>> {
    let problems = kafka::check(manifest);
    match load(manifest, compiler, startup) {
        Ok(catalog) if problems.is_empty() => Ok(catalog),
        Ok(_) => Err(problems),
        Err(mut all) => {
            all.extend(problems);
            Err(all)
        }
    }
}

impl Parts {
    /// Starts all parts. Plugins come first, because most mistakes are there and nothing is running yet. Parts that
    /// produce work come last.
    pub(super) fn start(
        manifest: &Manifest,
        clock: &Clock,
        runtime: &Handle,
        startup: &Startup,
        transport: &dyn Transport,
    ) -> Result<Self, Error> {
        refuse_idle(manifest).map_err(Error::One)?;
        let data = &manifest.data;
        std::fs::create_dir_all(data).map_err(|error| {
            Error::One(format!("can't make the data folder {}: {error}; choose another with `data`", data.display()))
        })?;
        let compiler = Compiler::new(Some(&data.join("compiled")), demand(manifest))?;
        let catalog = Arc::new(load_checked(manifest, compiler, startup).map_err(Error::Many)?);
        let Unmatched { unknown_events, unknown_types } = unmatched(&catalog);
        let warnings = idle_keys(manifest, &catalog).into_iter().chain(unknown_events).chain(unknown_types);
        warnings.for_each(|sentence| tracing::warn!("{sentence}"));
        startup.does("opening the store".to_owned());
        let store = store::open(&store::Location::of_folder(data), store_options(manifest, clock))?;
        // This is safe only now, because the open store keeps other hosts out of the folder.
        catalog.clean();
        orphans::settle(manifest, &subscribed(&catalog), &*store)?;
        startup.does("starting the aggregates".to_owned());
        let services = catalog.slots().flat_map(|slot| services(slot, &manifest.plugins[&*slot.name], manifest.bounds));
        let ids = IdRule { bytes_max: manifest.store.id_bytes_max };
        let aggregates = Arc::new(Aggregates::start(services, &store)?.with_ids(ids));
        let mut parts = Self {
            catalog,
            store,
            aggregates,
            subscriptions: ByName::new(),
            records: ByName::new(),
            projections: ByName::new(),
            sources: ByName::new(),
            transforms: ByName::new(),
            sinks: ByName::new(),
            schedules: None,
            http: None,
            flows: Flows::default(),
            topics: None,
            broker: Mutex::default(),
        };
        let environment = Environment { runtime: runtime.clone(), clock: clock.clone(), flows: parts.flows.clone() };
        let started = parts.start_followers(manifest, &environment, startup).and_then(|()| {
            if let Some(kafka) = &manifest.kafka {
                startup.does("starting sources and sinks".to_owned());
                parts.start_kafka(manifest, kafka, &environment)?;
            }
            parts.http = Http::start(grants(manifest, &parts.catalog), transport, &parts.store, clock, runtime)?;
            parts.schedules = Schedules::start(&manifest.schedules, clock, &parts.store, &parts.aggregates)?;
            Ok(())
        });
        match started {
            Ok(()) => Ok(parts),
            Err(error) => {
                parts.stop(Instant::now() + manifest.host.stop_max());
                Err(error)
            }
        }
    }

    fn start_followers(
        &mut self,
        manifest: &Manifest,
        environment: &Environment,
        startup: &Startup,
    ) -> Result<(), Error> {
        let runtime = &environment.runtime;
        let read_models = manifest.data.join("read-models");
        for slot in self.catalog.slots() {
            let options = projection_options(manifest, &slot.current());
            startup.does(format!("starting what plugin {} follows", slot.name));
            let started = Projection::start(slot, &self.catalog, options, &read_models, &self.store, runtime)?;
            self.projections.extend(started.map(|projection| (projection.name().into(), projection)));
        }
        for slot in self.catalog.slots() {
            let options = subscription_options(manifest, &slot.name);
            let started = subscriptions::start(slot, options, &self.store, &self.aggregates, environment)?;
            self.subscriptions.extend(started.map(|subscription| (subscription.name().clone(), subscription)));
        }
        Ok(())
    }

    /// Starts the parts that use Kafka. Nothing here waits for a real cluster, which may start later.
    fn start_kafka(&mut self, manifest: &Manifest, kafka: &Kafka, environment: &Environment) -> Result<(), Error> {
        let connection = match &kafka.brokers {
            Brokers::Addresses(brokers) => {
                Connection::new(brokers, &kafka.properties)?.with_oauth(kafka.oauth.as_ref())?
            }
            Brokers::Embedded => {
                let program = std::env::current_exe().map_err(|error| {
                    Error::One(format!("can't find the program to start a development broker: {error}"))
                })?;
                let topics = kafka.topics.iter().map(|(name, topic)| (name.clone(), topic.partitions)).collect();
                let broker = kafka::dev_broker::ensure(&program, &manifest.data, &topics)?;
                let connection = Connection::embedded(&broker, &kafka.properties);
                *self.broker.held() = Some(broker);
                connection?
            }
        };
        let connection = connection.with_cloud_events(&kafka.cloud_events);
        self.topics = Some(kafka::topics::ensure_when_reachable(connection.clone(), kafka.topics.clone())?);
        self.start_sinks(manifest, &connection)?;
        let written = manifest.written_topics();
        for (name, source) in &manifest.sources {
            let deliveries = self.start_deliveries(name, source, manifest.bounds, environment)?;
            self.start_source(name, source, manifest.bounds, &written, &connection, deliveries)?;
        }
        self.await_starts();
        Ok(())
    }

    /// Starts a source, or a transform. `written`: the topics that the host writes to, which no pattern finds.
    fn start_source(
        &mut self,
        name: &str,
        source: &SourceSettings,
        bounds: Bounds,
        written: &[String],
        connection: &Connection,
        subscriber: Option<Arc<dyn RecordInbox>>,
    ) -> Result<(), Error> {
        let section = format!("sources.{name}.properties");
        let connection = connection.with_properties(&section, &source.properties)?;
        if let Target::Deliveries(deliveries) = &source.target
            && deliveries.transaction == Transaction::Kafka
        {
            let mut config = kafka::transform::Config::new(name, source, deliveries, written);
            config.bounds = bounds;
            let slot = self.subscriber(&deliveries.subscriber);
            let transform = Transform::start(config, connection, self.store.clone(), slot)?;
            self.transforms.insert(name.into(), transform);
            return Ok(());
        }
        let mut config = kafka::source::Config::new(name, source, written);
        config.bounds = bounds;
        let targets = kafka::source::Targets { aggregates: self.aggregates.clone(), subscriber };
        let source = Source::start(config, connection, self.store.clone(), targets)?;
        self.sources.insert(name.into(), source);
        Ok(())
    }

    /// Waits until the start offsets of sources are fixed, if Kafka answers. So every record is read that is written
    /// after the host says that it serves.
    fn await_starts(&self) {
        let deadline = Instant::now() + STARTS_MAX;
        let sources = self.sources.values().filter(|source| !source.is_fixed_by(deadline)).map(Source::name);
        let transforms = self.transforms.values().filter(|source| !source.is_fixed_by(deadline)).map(Transform::name);
        for source in sources.chain(transforms) {
            tracing::warn!(source, "Kafka does not answer: where it starts (`from`) is fixed once it does");
        }
    }

    /// Starts the subscription that takes the records of a source, if the source delivers to a subscriber.
    fn start_deliveries(
        &mut self,
        name: &str,
        source: &SourceSettings,
        bounds: Bounds,
        environment: &Environment,
    ) -> Result<Option<Arc<dyn RecordInbox>>, Error> {
        let Target::Deliveries(deliveries) = &source.target else { return Ok(None) };
        if deliveries.transaction == Transaction::Kafka {
            return Ok(None);
        }
        let slot = self.subscriber(&deliveries.subscriber);
        let options = record_options(name, deliveries, bounds);
        let subscription = RecordSubscription::start(slot, options, &self.store, &self.aggregates, environment)?;
        let inbox = subscription.inbox();
        self.records.insert(name.into(), subscription);
        Ok(Some(inbox))
    }

    fn subscriber(&self, name: &str) -> &Arc<Slot> {
        let slot = self.catalog.slots().find(|slot| *slot.name == *name);
        slot.expect("the manifest was checked against the plugins")
    }

    fn start_sinks(&mut self, manifest: &Manifest, connection: &Connection) -> Result<(), Error> {
        let outbox = (kafka::sink::Config::new(&manifest.sink), &manifest.sink);
        let events = manifest.sinks.iter();
        let upcasts = self.catalog.upcasts();
        let events = events.map(|(name, sink)| (kafka::sink::Config::events(name, sink, &upcasts), &sink.settings));
        let letters = manifest.sources.iter().filter_map(|(name, source)| {
            let config = kafka::sink::Config::letters(name, source, &manifest.sink)?;
            Some((config, &manifest.sink))
        });
        for (config, settings) in iter::once(outbox).chain(events).chain(letters) {
            let section = format!("{}.properties", config.section);
            let connection = connection.with_properties(&section, &settings.properties)?;
            let sink = Sink::start(config, connection, self.store.clone())?;
            self.sinks.insert(sink.name().into(), sink);
        }
        Ok(())
    }

    /// Returns a watch on a source's progress, if there is such a source.
    pub(super) fn source_progress(&self, name: &str) -> Option<watch::Receiver<u64>> {
        let source = self.sources.get(name).map(Source::progress);
        source.or_else(|| self.transforms.get(name).map(Transform::progress))
    }

    /// Returns the status of all sources, with the problems of the subscribers that take their records.
    pub(super) fn source_statuses(&self) -> Vec<SourceStatus> {
        let mut statuses: Vec<_> = self.sources.values().map(Source::status).collect();
        for status in &mut statuses {
            let records = self.records.get(&*status.name);
            let (state, error) = records.map(RecordSubscription::condition).unwrap_or_default();
            if status.error.is_none() && error.is_some() {
                (status.state, status.error) = (state, error);
            }
        }
        statuses.extend(self.transforms.values().map(Transform::status));
        statuses.sort_by(|one, other| one.name.cmp(&other.name));
        statuses
    }

    /// Stops all parts: those that produce work first, the store near the end. Subscriptions end before the aggregates
    /// to which they send. Parts of one stage stop side by side. Parts that wait for brokers give up early enough to
    /// leave time for the others, and what they leave undone is done after the next start.
    pub(super) fn stop(&self, deadline: Instant) {
        self.catalog.interrupt();
        self.records.values().for_each(RecordSubscription::give_back);
        let sources_by = Instant::now() + deadline.saturating_duration_since(Instant::now()).mul_f64(SOURCES_SHARE);
        let sources = self.sources.values().map(|source| job(move || source.stop_by(sources_by)));
        let transforms = self.transforms.values().map(|transform| job(|| transform.stop()));
        let schedules = self.schedules.iter().map(|schedules| job(|| schedules.stop()));
        supervise::side_by_side("stop-sources", sources.chain(transforms).chain(schedules));
        let records = self.records.values().map(|records| job(|| records.stop()));
        let subscriptions = self.subscriptions.values().map(|subscription| job(|| subscription.stop()));
        supervise::side_by_side("stop-subscriptions", records.chain(subscriptions));
        self.aggregates.stop();
        let sinks_by = deadline.checked_sub(AFTER_SINKS).unwrap_or(deadline);
        let projections = self.projections.values().map(|projection| job(|| projection.stop()));
        let sinks = self.sinks.values().map(|sink| job(move || sink.stop_by(sinks_by)));
        let http_by = deadline.checked_sub(AFTER_HTTP).unwrap_or(deadline);
        let http = self.http.iter().map(|http| job(move || http.stop_by(http_by)));
        supervise::side_by_side("stop-sinks", projections.chain(sinks).chain(http));
        self.store.close();
        if let Some(broker) = self.broker.held().take() {
            broker.stop();
        }
    }
}

/// Returns what the manifest grants each plugin that may send HTTP requests.
fn grants(manifest: &Manifest, catalog: &Catalog) -> Vec<Grant> {
    let grant = |name: String| {
        let of_sources = manifest.sources.iter().filter_map(|(source, settings)| match &settings.target {
            Target::Deliveries(deliveries) if *deliveries.subscriber == *name => {
                Some(SubscriptionName::Source(source).to_string().into())
            }
            _ => None,
        });
        let endpoints = &manifest.plugins[&name].http;
        let endpoints = endpoints.iter().map(|(endpoint, settings)| (endpoint.as_str().into(), settings.clone()));
        let plugin: Arc<str> = name.as_str().into();
        let subscriptions = iter::once(plugin.clone()).chain(of_sources).collect();
        Grant { plugin, subscriptions, endpoints: endpoints.collect() }
    };
    subscribed(catalog).into_iter().map(grant).collect()
}

fn job<'job>(stop: impl FnOnce() + Send + 'job) -> Box<dyn FnOnce() + Send + 'job> {
    Box::new(stop)
}

/// Returns how many guests a host may have at the same time: one for each shard, for each follower, for the retries and
/// the callbacks of each subscription, and for each query of a projection, and as many again while code is swapped. The plugins
/// are not known yet, so each counts as having one aggregate type.
pub fn demand(manifest: &Manifest) -> Demand {
    let queries = projection::Options::default().queries_max;
    let of_plugin = |plugin: &PluginSettings| {
        let shards = plugin.shards.unwrap_or_else(aggregates::shards_by_default);
        shards + 4 + queries
    };
    let guests = manifest.plugins.values().map(of_plugin).sum::<usize>() + 2 * manifest.sources.len();
    let memory_mib = manifest.plugins.values().map(|plugin| plugin.limits.memory_mib).max().unwrap_or_default();
    Demand { guests: guests * 2, memory_bytes_max: memory_mib << 20 }
}

/// Loads the plugins and checks that they fit each other and the rest of the manifest.
fn load(manifest: &Manifest, compiler: Compiler, startup: &Startup) -> Result<Catalog, Vec<String>> {
    let configured = manifest.plugins.iter().map(|(name, plugin)| Ok((name, plugin, configuration(name, plugin)?)));
    let (configured, unread): (Vec<_>, Vec<_>) = configured.partition(Result::is_ok);
    if !unread.is_empty() {
        return Err(unread.into_iter().filter_map(Result::err).collect());
    }
    let count = configured.len();
    let plugins = configured.into_iter().flatten().enumerate().map(|(index, (name, plugin, configuration))| {
        startup.does(format!("loading plugin {name}, {} of {count}", index + 1));
        (name.as_str(), plugin.file.clone(), limits(plugin), configuration)
    });
    let catalog = Catalog::open(compiler, plugins, Some(Box::new(FromManifest(manifest.path.clone()))))
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let problems = problems(manifest, &catalog);
    if problems.is_empty() { Ok(catalog) } else { Err(problems) }
}

fn limits(plugin: &PluginSettings) -> Limits {
    let limits = &plugin.limits;
    Limits {
        event_time: Duration::from_millis(limits.event_time_ms),
        memory_bytes_max: limits.memory_mib << 20,
        live_bytes_max: limits.live_mib.map_or((limits.memory_mib << 20) / 2, |mib| mib << 20),
        table_elements_max: limits.table_elements,
        instances_max: limits.instances,
        effects_max: limits.effects_max,
        output_bytes_max: limits.output_mib << 20,
        sql_value_bytes_max: limits.sql_value_mib << 20,
        sql_memory_bytes_max: limits.sql_memory_mib << 20,
        read_model_bytes_max: limits.read_model_mib << 20,
    }
}

fn services(slot: &Arc<Slot>, plugin: &PluginSettings, bounds: Bounds) -> Vec<Service> {
    let shards = plugin.shards.unwrap_or_else(aggregates::shards_by_default);
    let options = aggregates::Options {
        queue_max: plugin.queue_max,
        queue_bytes_max: plugin.queue_mib << 20,
        in_flight_max: plugin.in_flight_max,
        attempts_max: plugin.attempts_max,
        snapshot_every: plugin.snapshot_every,
        retry_after_max: bounds.retry_after_max,
    };
    plugin_handlers::aggregate_services(slot, shards, &options)
}

fn store_options(manifest: &Manifest, clock: &Clock) -> store::Options {
    let settings = &manifest.store;
    store::Options {
        queue_max: settings.queue_max,
        queue_bytes_max: settings.queue_mib << 20,
        batch_max: settings.batch_max,
        batch_bytes_max: settings.transaction_mib << 20,
        log_bytes_max: settings.log_mib << 20,
        event_bytes_max: settings.event_bytes_max,
        outcomes_window_ms: settings.command_id_hours * 60 * 60 * 1_000,
        remember_refusals: settings.refusals == Refusals::Remember,
        dead_letters: store::DeadLetterLimits {
            count_max: settings.dead_letters_max,
            bytes_max: settings.dead_letters_mib << 20,
            age_max_ms: (settings.dead_letters_days > 0).then_some(settings.dead_letters_days * 24 * 60 * 60 * 1_000),
            drops_oldest: settings.dead_letters_full == WhenFull::DropOldest,
        },
        clock: clock.clone(),
        ..store::Options::default()
    }
}

fn subscription_options(manifest: &Manifest, name: &str) -> subscriptions::Options {
    let settings = manifest.subscriptions.get(name).cloned().unwrap_or_default();
    subscriptions::Options {
        start: settings.start,
        batch_max: settings.batch_max,
        attempts_max: settings.attempts_max,
        backoff: Backoff::from_ms(settings.backoff_ms, settings.backoff_max_ms),
        on_failure: settings.on_failure,
        held_keys_max: settings.held_keys_max,
        bounds: manifest.bounds,
        ids: IdRule { bytes_max: manifest.store.id_bytes_max },
        event_bytes_max: manifest.store.event_bytes_max,
    }
}

fn record_options(source: &str, deliveries: &Deliveries, bounds: Bounds) -> RecordOptions {
    RecordOptions {
        source: source.into(),
        batch_max: deliveries.batch_max,
        attempts_max: deliveries.attempts_max,
        backoff: deliveries.backoff(),
        on_failure: deliveries.on_failure,
        bounds,
    }
}

fn projection_options(manifest: &Manifest, plugin: &plugin::Plugin) -> projection::Options {
    let settings = plugin.description.roles.iter().find_map(|role| match role {
        Role::Projection { name, .. } => manifest.projections.get(&**name),
        _ => None,
    });
    projection::Options {
        batch_max: settings.cloned().unwrap_or_default().batch_max,
        bounds: manifest.bounds,
        ..projection::Options::default()
    }
}
