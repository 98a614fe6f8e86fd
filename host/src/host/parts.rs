//! Building the parts of a host in order, checking that they fit together, and stopping them in order.

use crate::aggregates::{self, Aggregates};
use crate::kafka::{self, Connection, Sink, Source, dev_broker::DevBroker};
use crate::manifest::{Brokers, Kafka, Manifest, Plugin as PluginSettings};
use crate::plugin::{self, AggregateGuest, Catalog, Compiler, Limits, Role};
use crate::projection::{self, Projection};
use crate::store::sqlite::{self, Options as StoreOptions, SqliteStore};
use crate::store::{self, EventStore};
use crate::subscriptions::{self, Subscription};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;

/// The parts, in the order in which data goes through them.
pub(super) struct Parts {
    pub(super) catalog: Arc<Catalog>,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) aggregates: Arc<Aggregates>,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) projections: Vec<Projection>,
    pub(super) sources: Vec<Source>,
    pub(super) sink: Option<Sink>,
    /// Makes missing topics as soon as the cluster answers, for as long as it is held.
    _topics: Option<kafka::topics::Pending>,
    /// Behind a mutex only to be taken at the end.
    broker: Mutex<Option<DevBroker>>,
}

/// Why a host does not start. Nothing is left running.
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
    /// Kafka is configured wrongly, or the development broker does not start.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
}

/// Loads every plugin of a manifest and checks that all fits together, without starting anything: a line for each
/// plugin, or for each thing that is wrong.
pub fn check(manifest: &Manifest) -> Result<Vec<String>, Vec<String>> {
    let compiler = Compiler::new(None).map_err(|error| vec![error.to_string()])?;
    let catalog = load(manifest, compiler)?;
    let lines = catalog.slots().map(|slot| {
        let plugin = slot.current();
        let roles: Vec<String> = plugin.description.roles.iter().map(ToString::to_string).collect();
        format!("{}: {}", plugin.label(), roles.join(", "))
    });
    Ok(lines.collect())
}

impl Parts {
    /// Plugins first, since most mistakes are there and nothing is running yet; what produces work comes last.
    pub(super) fn start(manifest: &Manifest, runtime: &Handle) -> Result<Self, Error> {
        let data = &manifest.data;
        std::fs::create_dir_all(data).map_err(|error| {
            Error::One(format!("can't make the data folder {}: {error}; choose another with `data`", data.display()))
        })?;
        let compiler = Compiler::new(Some(&data.join("compiled")))?;
        let catalog = Arc::new(load(manifest, compiler).map_err(Error::Many)?);
        let store: Arc<dyn EventStore> =
            Arc::new(SqliteStore::open(&data.join(sqlite::FILE_NAME), store_options(manifest))?);
        let shards = catalog.slots().map(|slot| (slot.clone(), shards(&manifest.plugins[&*slot.name])));
        let aggregates = Arc::new(Aggregates::start(shards, &store, &aggregates::Options::default())?);
        let mut parts = Self {
            catalog,
            store,
            aggregates,
            subscriptions: Vec::new(),
            projections: Vec::new(),
            sources: Vec::new(),
            sink: None,
            _topics: None,
            broker: Mutex::default(),
        };
        let started = parts
            .start_followers(manifest, runtime)
            .and_then(|()| manifest.kafka.as_ref().map_or(Ok(()), |kafka| parts.start_kafka(manifest, kafka)));
        match started {
            Ok(()) => Ok(parts),
            Err(error) => {
                parts.stop();
                Err(error)
            }
        }
    }

    fn start_followers(&mut self, manifest: &Manifest, runtime: &Handle) -> Result<(), Error> {
        let read_models = manifest.data.join("read-models");
        for slot in self.catalog.slots() {
            let options = projection_options(manifest, &slot.current());
            self.projections.extend(Projection::start(slot, options, &read_models, &self.store, runtime)?);
        }
        for slot in self.catalog.slots() {
            let options = subscription_options(manifest, &slot.name);
            self.subscriptions.extend(Subscription::start(slot, options, &self.store, &self.aggregates, runtime)?);
        }
        Ok(())
    }

    /// Nothing here waits for a real cluster: it may come later.
    fn start_kafka(&mut self, manifest: &Manifest, kafka: &Kafka) -> Result<(), Error> {
        let connection = match &kafka.brokers {
            Brokers::Addresses(brokers) => Connection::new(brokers, &kafka.properties)?,
            Brokers::Embedded => {
                let program = std::env::current_exe().map_err(|error| {
                    Error::One(format!("can't find the program to start a development broker: {error}"))
                })?;
                let topics = kafka.topics.iter().map(|(name, topic)| (name.clone(), topic.partitions)).collect();
                let broker = kafka::dev_broker::ensure(&program, &manifest.data, &topics)?;
                let connection = Connection::embedded(&broker, &kafka.properties);
                *self.broker.lock().expect("no holder panics") = Some(broker);
                connection?
            }
        };
        self._topics = Some(kafka::topics::ensure_when_reachable(connection.clone(), kafka.topics.clone())?);
        self.sink =
            Some(Sink::start(kafka::sink::Config::new(&manifest.sink), connection.clone(), self.store.clone())?);
        for (name, source) in &manifest.sources {
            let config = kafka::source::Config::new(name, source);
            let source = Source::start(config, connection.clone(), self.store.clone(), self.aggregates.clone())?;
            self.sources.push(source);
        }
        Ok(())
    }

    /// What makes work ends first, what keeps it last. Subscriptions end before the aggregates that they send to.
    pub(super) fn stop(&self) {
        self.sources.iter().for_each(Source::stop);
        self.subscriptions.iter().for_each(Subscription::stop);
        self.aggregates.stop();
        self.projections.iter().for_each(Projection::stop);
        self.sink.iter().for_each(Sink::stop);
        self.store.close();
        if let Some(broker) = self.broker.lock().expect("no holder panics").take() {
            broker.stop();
        }
    }
}

/// Loads the plugins and checks them against each other and against the rest of the manifest.
fn load(manifest: &Manifest, compiler: Compiler) -> Result<Catalog, Vec<String>> {
    let plugins = manifest.plugins.iter().map(|(name, plugin)| (name.as_str(), plugin.file.clone(), limits(plugin)));
    let catalog = Catalog::open(compiler, plugins)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let problems = problems(manifest, &catalog);
    if problems.is_empty() { Ok(catalog) } else { Err(problems) }
}

fn problems(manifest: &Manifest, catalog: &Catalog) -> Vec<String> {
    let mut problems = Vec::new();
    let mut served: Vec<(String, Arc<plugin::Plugin>)> = Vec::new();
    let mut projections: Vec<(String, String)> = Vec::new();
    for plugin in catalog.slots().map(|slot| slot.current()) {
        for role in plugin.description.roles.clone() {
            match role {
                Role::Aggregate { aggregate_type } => match served.iter().find(|(other, _)| *other == aggregate_type) {
                    Some((_, other)) => problems.push(format!(
                        "plugins {} and {} both serve aggregate type {aggregate_type}: remove one of them from the manifest",
                        other.name, plugin.name
                    )),
                    None => served.push((aggregate_type, plugin.clone())),
                },
                Role::Projection { name, .. } => match projections.iter().find(|(other, _)| *other == name) {
                    Some((_, other)) => problems.push(format!(
                        "plugins {other} and {} both have a projection {name}: remove one of them from the manifest",
                        plugin.name
                    )),
                    None => projections.push((name, plugin.name.to_string())),
                },
                Role::Subscriber { .. } => {}
            }
        }
    }
    let place = manifest.path.display();
    for (name, source) in &manifest.sources {
        let served = served.iter().find(|(aggregate_type, _)| *aggregate_type == source.aggregate);
        problems.extend(
            source_problem(name, source, served.map(|(_, plugin)| plugin)).map(|problem| format!("{place}: {problem}")),
        );
    }
    for name in manifest.subscriptions.keys() {
        if !catalog.slots().any(|slot| &*slot.name == name && is_subscriber(&slot.current())) {
            problems.push(format!("{place}: `subscriptions.{name}` names no plugin that is a subscriber"));
        }
    }
    for name in
        manifest.projections.keys().filter(|name| !projections.iter().any(|(projection, _)| projection == *name))
    {
        problems.push(format!("{place}: `projections.{name}` names no projection of any plugin"));
    }
    problems
}

/// A source whose commands nobody would understand.
fn source_problem(
    name: &str,
    source: &crate::manifest::Source,
    plugin: Option<&Arc<plugin::Plugin>>,
) -> Option<String> {
    let Some(plugin) = plugin else {
        return Some(format!("`sources.{name}.aggregate`: no plugin serves aggregate type {}", source.aggregate));
    };
    match AggregateGuest::new(plugin).and_then(|mut guest| guest.describe()) {
        Ok(names) if names.commands.contains(&source.command) => None,
        Ok(names) => Some(format!(
            "`sources.{name}.command`: aggregate {} has no command {}; it has {}",
            source.aggregate,
            source.command,
            names.commands.join(", ")
        )),
        Err(error) => Some(error.to_string()),
    }
}

fn is_subscriber(plugin: &plugin::Plugin) -> bool {
    plugin.description.roles.iter().any(|role| matches!(role, Role::Subscriber { .. }))
}

fn limits(plugin: &PluginSettings) -> Limits {
    let limits = &plugin.limits;
    Limits {
        event_time: Duration::from_millis(limits.event_time_ms),
        memory_bytes_max: limits.memory_mib << 20,
        table_elements_max: limits.table_elements,
        instances_max: limits.instances,
        effects_max: limits.effects_max,
        output_bytes_max: limits.output_mib << 20,
    }
}

fn shards(plugin: &PluginSettings) -> usize {
    plugin.shards.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn store_options(manifest: &Manifest) -> StoreOptions {
    StoreOptions { queue_max: manifest.store.queue_max, batch_max: manifest.store.batch_max, ..StoreOptions::default() }
}

fn subscription_options(manifest: &Manifest, name: &str) -> subscriptions::Options {
    let settings = manifest.subscriptions.get(name).cloned().unwrap_or_default();
    subscriptions::Options {
        start: settings.start,
        batch_max: settings.batch_max,
        attempts_max: settings.attempts_max,
        backoff: Duration::from_millis(settings.backoff_ms),
    }
}

fn projection_options(manifest: &Manifest, plugin: &plugin::Plugin) -> projection::Options {
    let settings = plugin.description.roles.iter().find_map(|role| match role {
        Role::Projection { name, .. } => manifest.projections.get(name),
        _ => None,
    });
    projection::Options { batch_max: settings.cloned().unwrap_or_default().batch_max, ..projection::Options::default() }
}
