//! The plan of a host: the parts that a manifest and its plugins ask for, and what each is made from.
//!
//! A part is started, stopped or restarted by comparing plans. What a part is made from has everything that it is given at its
//! start, with the values of secrets, so a part whose entry is the same need not be restarted.

use super::fitting::has_subscription;
use super::options::{of_aggregates, projection_options, subscription_options};
use super::plugin_handlers::aggregate_type;
use crate::aggregates;
use crate::bounds::Bounds;
use crate::http::Grant;
use crate::kafka::{self, Connection};
use crate::manifest::{Brokers, EventSink, Kafka, Manifest, Properties, Schedule, Sink, Source, Target, Topic};
use crate::model::{Segment, SubscriptionName};
use crate::plugin::{Plugin, Role};
use crate::projection;
use crate::subscriptions;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The kinds of parts, in the order in which they are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The shards of an aggregate type.
    Aggregate,
    Projection,
    Subscription,
    /// The creation of topics.
    Topics,
    Sink,
    Source,
    /// The HTTP requests of a plugin.
    Requests,
    /// All schedules, which share a thread.
    Schedules,
}

/// The name of a part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartName {
    pub(super) kind: Kind,
    pub(super) name: Arc<str>,
}

/// What a part is made from.
#[derive(Clone, PartialEq)]
pub(super) enum Recipe {
    Aggregate { plugin: Arc<str>, shards: usize, options: aggregates::Options },
    Projection { plugin: Arc<str>, options: projection::Options },
    Subscription { plugin: Arc<str>, segment: Segment, sagas: Option<Arc<str>>, options: subscriptions::Options },
    Topics { connection: Connection, topics: BTreeMap<String, Topic> },
    Sink { connection: Connection, content: SinkContent },
    Source(Box<SourceRecipe>),
    Requests(Grant),
    Schedules(BTreeMap<String, Schedule>),
}

#[derive(Clone, PartialEq)]
pub(super) enum SinkContent {
    Outbox(Sink),
    Events(Box<EventSink>),
    DeadLetters(Box<Source>, Sink),
}

#[derive(Clone, PartialEq)]
pub(super) struct SourceRecipe {
    pub(super) connection: Connection,
    pub(super) settings: Source,
    pub(super) bounds: Bounds,
    /// The topics that the host writes to, which no pattern finds. It is empty if the source has no pattern.
    pub(super) written: Vec<String>,
}

/// The parts of a host, each with what it is made from.
#[derive(Clone, Default)]
pub(super) struct Plan(BTreeMap<PartName, Recipe>);

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self.kind {
            Kind::Aggregate => write!(f, "aggregate {name}"),
            Kind::Projection => write!(f, "projection {name}"),
            Kind::Subscription => write!(f, "subscription {name}"),
            Kind::Topics => write!(f, "the creation of topics"),
            Kind::Sink => write!(f, "sink {name}"),
            Kind::Source => write!(f, "source {name}"),
            Kind::Requests => write!(f, "HTTP requests of plugin {name}"),
            Kind::Schedules => write!(f, "schedules"),
        }
    }
}

impl PartName {
    pub(super) fn new(kind: Kind, name: impl Into<Arc<str>>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl Plan {
    /// Returns the plan of a manifest with these plugins. The error says what is wrong with a property of Kafka.
    pub(super) fn of(manifest: &Manifest, plugins: &[Arc<Plugin>]) -> Result<Self, kafka::Error> {
        let mut plan = Self::default();
        for plugin in plugins {
            plan.add_plugin(manifest, plugin);
        }
        if let Some(kafka) = &manifest.kafka {
            plan.add_kafka(manifest, kafka)?;
        }
        if !manifest.schedules.is_empty() {
            plan.add(Kind::Schedules, "schedules", Recipe::Schedules(manifest.schedules.clone()));
        }
        Ok(plan)
    }

    fn add(&mut self, kind: Kind, name: &str, recipe: Recipe) {
        self.0.insert(PartName::new(kind, name), recipe);
    }

    fn add_plugin(&mut self, manifest: &Manifest, plugin: &Plugin) {
        let (name, settings) = (plugin.name.clone(), &manifest.plugins[&*plugin.name]);
        for role in &plugin.description.roles {
            if let Some(aggregate_type) = aggregate_type(role) {
                let (shards, options) = of_aggregates(settings, manifest.bounds);
                self.add(Kind::Aggregate, aggregate_type, Recipe::Aggregate { plugin: name.clone(), shards, options });
            }
            if let Role::Projection { name: projection, .. } = role {
                let options = projection_options(manifest, projection);
                self.add(Kind::Projection, projection, Recipe::Projection { plugin: name.clone(), options });
            }
        }
        if has_subscription(plugin) {
            let sagas = plugin.description.roles.iter().find_map(|role| match role {
                Role::Saga { aggregate_type, .. } => Some(aggregate_type.to_string().into()),
                _ => None,
            });
            let options = subscription_options(manifest, &name);
            for segment in manifest.segments(&name) {
                let subscription = SubscriptionName::Plugin(&name, segment).to_string();
                let (plugin, sagas, options) = (name.clone(), sagas.clone(), options.clone());
                self.add(Kind::Subscription, &subscription, Recipe::Subscription { plugin, segment, sagas, options });
            }
            self.add(Kind::Requests, &name, Recipe::Requests(grant(manifest, &name)));
        }
    }

    fn add_kafka(&mut self, manifest: &Manifest, kafka: &Kafka) -> Result<(), kafka::Error> {
        let cluster = cluster(kafka)?;
        let topics = kafka.topics.clone();
        self.add(Kind::Topics, "topics", Recipe::Topics { connection: cluster.clone(), topics });
        let with = |section: &str, properties: &Properties| {
            cluster.with_properties(&format!("{section}.properties"), properties)
        };
        let connection = with("sink", &manifest.sink.properties)?;
        let content = SinkContent::Outbox(manifest.sink.clone());
        self.add(Kind::Sink, "outbox", Recipe::Sink { connection: connection.clone(), content });
        for (name, sink) in &manifest.sinks {
            let connection = with(&format!("sinks.{name}"), &sink.settings.properties)?;
            self.add(Kind::Sink, name, Recipe::Sink { connection, content: SinkContent::Events(sink.clone().into()) });
        }
        for (name, source) in &manifest.sources {
            if let Some(config) = kafka::sink::Config::letters(name, source, &manifest.sink) {
                let content = SinkContent::DeadLetters(source.clone().into(), manifest.sink.clone());
                self.add(Kind::Sink, &config.name, Recipe::Sink { connection: connection.clone(), content });
            }
            let connection = with(&format!("sources.{name}"), &source.properties)?;
            let written = if source.has_patterns() { manifest.written_topics() } else { Vec::new() };
            let recipe = SourceRecipe { connection, settings: source.clone(), bounds: manifest.bounds, written };
            self.add(Kind::Source, name, Recipe::Source(recipe.into()));
        }
        Ok(())
    }

    /// Returns the plan without the parts of other names.
    pub(super) fn only(mut self, is_wanted: impl Fn(&PartName, &Recipe) -> bool) -> Self {
        self.0.retain(|name, recipe| is_wanted(name, recipe));
        self
    }

    /// Returns the parts, in the order in which they are started.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&PartName, &Recipe)> {
        self.0.iter()
    }

    /// Returns the names of the subscriptions to recorded events, and of the segments of those that are divided.
    pub(super) fn subscriptions(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter(|name| name.kind == Kind::Subscription).map(|name| &*name.name)
    }

    /// Whether a part is in both plans and made from the same.
    pub(super) fn has_same(&self, name: &PartName, recipe: &Recipe) -> bool {
        self.0.get(name) == Some(recipe)
    }

    /// Returns what a part is made from.
    pub(super) fn recipe(&self, name: &PartName) -> Option<&Recipe> {
        self.0.get(name)
    }

    pub(super) fn has(&self, name: &PartName) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn insert(&mut self, name: PartName, recipe: Recipe) {
        self.0.insert(name, recipe);
    }

    pub(super) fn remove(&mut self, name: &PartName) {
        self.0.remove(name);
    }

    /// Returns the parts of this plan that the other has not, or makes from something else.
    pub(super) fn without<'p>(&'p self, other: &Self) -> impl Iterator<Item = (&'p PartName, &'p Recipe)> {
        self.0.iter().filter(|(name, recipe)| !other.has_same(name, recipe))
    }

    /// Whether a part needs the development broker.
    pub(super) fn needs_dev_broker(&self) -> bool {
        let topics = PartName::new(Kind::Topics, "topics");
        matches!(self.0.get(&topics), Some(Recipe::Topics { connection, .. }) if connection.is_embedded())
    }

    /// Returns the topics that must exist, with their partitions.
    pub(super) fn topics(&self) -> BTreeMap<String, i32> {
        match self.0.get(&PartName::new(Kind::Topics, "topics")) {
            Some(Recipe::Topics { topics, .. }) => {
                topics.iter().map(|(name, topic)| (name.clone(), topic.partitions)).collect()
            }
            _ => BTreeMap::new(),
        }
    }
}

/// Returns the connection to a cluster. That of the development broker has no address before the broker runs.
fn cluster(kafka: &Kafka) -> Result<Connection, kafka::Error> {
    let connection = match &kafka.brokers {
        Brokers::Addresses(brokers) => Connection::new(brokers, &kafka.properties)?.with_oauth(kafka.oauth.as_ref())?,
        Brokers::Embedded => Connection::of_dev_broker(&kafka.properties)?,
    };
    Ok(connection.with_cloud_events(&kafka.cloud_events))
}

/// Returns what the manifest grants a plugin that may send HTTP requests.
fn grant(manifest: &Manifest, name: &Arc<str>) -> Grant {
    let of_sources = manifest.sources.iter().filter_map(|(source, settings)| match &settings.target {
        Target::Deliveries(deliveries) if *deliveries.subscriber == **name => {
            Some(SubscriptionName::Source(source).to_string().into())
        }
        _ => None,
    });
    let endpoints = &manifest.plugins[&**name].http;
    let endpoints = endpoints.iter().map(|(endpoint, settings)| (endpoint.as_str().into(), settings.clone()));
    let of_segments = manifest.segments(name).map(|segment| SubscriptionName::Plugin(name, segment).to_string().into());
    let subscriptions = of_segments.chain(of_sources).collect();
    Grant { plugin: name.clone(), subscriptions, endpoints: endpoints.collect() }
}
