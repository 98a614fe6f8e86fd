//! A Kafka topic as a stream of commands, each of which takes effect exactly once.
//!
//! A source has two threads. The *reader* owns the consumer's queues, one per partition. It turns records into
//! commands, offers them to the aggregates and learns when they are settled. *Partition discovery* asks the brokers the
//! questions that block: which partitions exist, and where they begin and end. It opens each partition at the offset
//! that the store's ledger gives.
//!
//! - A record is settled in the transaction of its events, so a redelivery adds nothing.
//! - A record that can't become a command is dead-lettered, and reading of its partition continues.
//! - Records that retention removed unread are dead-lettered as a range and counted.
//! - Back-pressure means that a partition is not read while too many of its records are in flight.
//! - Broker trouble never ends a source.

mod completions;
mod destination;
mod discovery;
mod membership;
mod partition_state;
mod reader;
pub(super) mod starts;
mod topics;
mod view;

use super::context::{Context, Health};
use super::headers::Dropped;
use super::record::Mapping;
use super::{Connection, Error, Statistics, client_error, start_thread};
use crate::bounds::Bounds;
use crate::manifest;
use crate::model::{Command, Origin, Record};
use crate::status::SourceStatus;
use crate::store::EventStore;
use crate::supervise;
use completions::Completions;
use destination::Destination;
pub use destination::Targets;
use discovery::{Discovery, DiscoveryState};
pub(super) use membership::{Rebalance, Rebalances};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use reader::{Reader, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
pub(super) use topics::TopicPartition;
pub(super) use topics::Topics;
use view::SourceView;

/// Longest time for closing the consumer. While a commit is in flight and the broker is away, it would take forever.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Divisor of `in_flight_max`. The quotient is the number of completions that wakes the reader.
const WORTH_A_WAKE_UP: usize = 8;

/// Configuration of a source: what it reads, and what it turns records into.
#[derive(Clone, Debug)]
pub struct Config {
    /// The source's name. It is part of the names of its ledgers, so a source with another name starts from scratch.
    pub name: Arc<str>,
    topics: Topics,
    /// Bounds of the chains of causes that come back through Kafka.
    pub bounds: Bounds,
    /// Destination of the records.
    pub target: manifest::Target,
    /// Start of a partition that has no ledger yet.
    pub from: manifest::From,
    /// Reaction to records that retention removed before they were read.
    pub lost: manifest::Lost,
    /// Reaction to a recreated topic.
    pub recreated: manifest::Recreated,
    /// How the source gets its partitions.
    pub membership: manifest::Membership,
    /// The consumer group. If the source assigns itself its partitions, only the offsets for lag tools are in it.
    pub group: Arc<str>,
    /// Record headers that are not kept.
    drop_headers: Dropped,
    /// Largest number of records of one partition that may be in flight.
    pub in_flight_max: usize,
    /// Largest size of the records of all partitions that may be in flight, in bytes.
    pub in_flight_bytes_max: usize,
    /// Longest time for which `stop` waits for records in flight.
    pub drain_max: Duration,
    /// Longest time for which partitions that the group takes wait for records in flight. At most half the session.
    pub give_back_max: Duration,
}

impl Config {
    /// Makes the configuration of a source of the manifest. `written` are the topics that the host writes to, which no
    /// pattern matches.
    pub fn new(name: &str, source: &manifest::Source, written: &[String]) -> Self {
        Self {
            name: name.into(),
            topics: Topics::new(&source.topics, written),
            bounds: Bounds::default(),
            target: source.target.clone(),
            from: source.from,
            lost: source.lost,
            recreated: source.recreated,
            membership: source.membership,
            group: source.group_of(name).into(),
            drop_headers: Dropped::new(&source.drop_headers),
            in_flight_max: source.in_flight_max,
            in_flight_bytes_max: source.in_flight_mib << 20,
            drain_max: Duration::from_secs(10),
            give_back_max: Duration::from_secs(10),
        }
    }
}

/// Measurements of a source since its start.
#[derive(Clone, Debug)]
pub struct Measures {
    /// Time during which some partition had a record for which there was no room.
    pub back_pressure: Duration,
    /// The last statistics of its Kafka client.
    pub statistics: Option<Statistics>,
}

/// A running source.
pub struct Source {
    config: Arc<Config>,
    view: Arc<SourceView>,
    completions: Arc<Completions>,
    discovery: crossbeam_channel::Sender<discovery::Request>,
    /// Disconnected as soon as the start offsets of partitions are fixed.
    fixed: crossbeam_channel::Receiver<()>,
    /// Disconnected as soon as the reader has nothing more to settle.
    drained: crossbeam_channel::Receiver<()>,
    threads: Vec<supervise::Thread>,
}

impl Source {
    /// Starts to read. The brokers need not be reachable yet; only a wrong configuration is an error.
    pub fn start(
        config: Config,
        connection: Connection,
        store: Arc<dyn EventStore>,
        targets: Targets,
    ) -> Result<Self, Error> {
        let session = connection.session_timeout(store.sharing().is_some());
        let give_back_max = config.give_back_max.min(session / 2);
        let config = Arc::new(Config { give_back_max, ..config });
        let health = Health::default();
        let view = Arc::new(SourceView::new(health.clone()));
        let completions = Arc::new(Completions::new((config.in_flight_max / WORTH_A_WAKE_UP).max(1)));
        #[expect(
            clippy::disallowed_methods,
            reason = "the reader asks a few times for each assignment, and a caller waits for its answer"
        )]
        let (requests, discovery_requests) = crossbeam_channel::unbounded();
        #[expect(
            clippy::disallowed_methods,
            reason = "the partitions bound what is found of them between two looks of the reader"
        )]
        let (findings, reader_findings) = crossbeam_channel::unbounded();
        let (fixing, fixed) = crossbeam_channel::bounded(0);
        let (draining, drained) = crossbeam_channel::bounded(0);
        let (consumer_out, consumer_in) = crossbeam_channel::bounded(1);

        let client = client(&config, &connection, &*store)?;
        let consumers = Consumers { config: config.clone(), client, health, completions: completions.clone() };
        let reader = {
            let (config, store, view) = (config.clone(), store.clone(), view.clone());
            let (completions, requests) = (completions.clone(), requests.clone());
            move || {
                let consumer = consumers.make()?;
                let _ = consumer_out.send(consumer.clone());
                let rebalances = consumer.context().rebalances().clone();
                let destination = Destination::new(&config.name, &config.target, config.bounds, targets);
                let bytes_in_flight = Arc::default();
                let work =
                    Work { config, consumer, rebalances, destination, store, view, completions, bytes_in_flight };
                Ok(Reader::new(
                    work,
                    consumers,
                    reader::Ends { discovery: requests, findings: reader_findings, draining: Some(draining) },
                ))
            }
        };
        let reader = start_thread(format!("source-{}", config.name), reader, Reader::begin_again, Reader::run)?;
        let consumer = consumer_in.recv().expect("the reader's thread has sent it");
        let discovery = {
            let (config, view, completions) = (config.clone(), view.clone(), completions.clone());
            move || {
                Ok(Discovery {
                    config,
                    connection,
                    consumer,
                    store,
                    view,
                    requests: discovery_requests,
                    findings,
                    completions,
                    fixed: Some(fixing),
                    known: DiscoveryState::default(),
                })
            }
        };
        let mut source = Self {
            config: config.clone(),
            view,
            completions,
            discovery: requests,
            fixed,
            drained,
            threads: vec![reader],
        };
        // From here on, an error drops the source, which stops the reader.
        let discovery =
            start_thread(format!("discovery-{}", config.name), discovery, Discovery::begin_again, Discovery::run)?;
        source.threads.push(discovery);
        Ok(source)
    }

    /// Returns the source's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns the command that a record of this source becomes, or why it can't become one. It is `None` if a
    /// subscriber gets the records as they are.
    pub fn command(&self, record: &Record, origin: Origin) -> Result<Option<Command>, String> {
        let manifest::Target::Commands(commands) = &self.config.target else { return Ok(None) };
        let mut mapping = Mapping::new(self.config.name.clone(), commands, self.config.bounds);
        mapping.take_again(record, origin).map(Some).map_err(|letter| letter.reason)
    }

    /// Returns what the source measured.
    pub fn measures(&self) -> Measures {
        self.view.measures()
    }

    /// Waits until the start offsets of the present partitions are fixed, at most until the deadline. Whatever is
    /// written afterwards is read. If the result is false, they are fixed as soon as the brokers answer.
    pub fn is_fixed_by(&self, deadline: Instant) -> bool {
        self.fixed.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }

    /// Returns the source's status. The `end` of a partition is the last known one; `refresh_ends` updates it.
    pub fn status(&self) -> SourceStatus {
        let mut status = self.view.status(&self.config);
        if let Some((state, reason)) = self.threads.iter().find_map(|thread| thread.monitor().trouble()) {
            (status.state, status.error) = (state, Some(reason));
        }
        status
    }

    /// Returns a watch on the sum of `next` of all partitions, which wakes its holder when records are settled.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.view.progress()
    }

    /// Asks the brokers for the partitions and their ends now. It blocks until they answer, so an async worker must not
    /// call it. The error says what is in the way.
    pub fn refresh_ends(&self) -> Result<(), String> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        let asked = self.discovery.send(discovery::Request::Refresh(sender));
        asked
            .ok()
            .and_then(|()| answer.recv().ok())
            .unwrap_or_else(|| Err(format!("source {} is stopped", self.name())))
    }

    /// Returns whether everything up to the last known ends is settled.
    pub fn is_caught_up(&self) -> bool {
        self.view.is_caught_up()
    }

    /// Stops reading, waits for records in flight (up to `drain_max`), commits for lag tools, and closes. It blocks.
    pub fn stop(&self) {
        self.stop_by(Instant::now() + self.config.drain_max);
    }

    /// Stops like [`Source::stop`], but waits no longer than until the deadline.
    pub fn stop_by(&self, deadline: Instant) {
        let deadline = deadline.min(Instant::now() + self.config.drain_max);
        self.view.stop(deadline);
        self.completions.wake();
        let _ = self.discovery.send(discovery::Request::Stop);
        self.threads.iter().for_each(supervise::Thread::end);
        let _ = self.drained.recv_deadline(deadline + CLOSE_MAX);
        let closed_by = Instant::now() + CLOSE_MAX;
        for thread in &self.threads {
            thread.join_within(closed_by.saturating_duration_since(Instant::now()));
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop();
    }
}

fn client(config: &Config, connection: &Connection, store: &dyn EventStore) -> Result<ClientConfig, Error> {
    match config.membership {
        manifest::Membership::Assigned => Ok(connection.consumer(&config.name, &config.group)),
        manifest::Membership::Group => {
            let instance = format!("wasmill-{}-{}", config.name, store.identity());
            // If hosts share the store, no instance is its only one, and the others should not wait for one that stops.
            let instance = store.sharing().is_none().then_some(&*instance);
            connection.member(&config.name, &config.group, instance, config.topics.excluded())
        }
    }
}

/// Factory for the consumers of a source: the first one, and those that replace one that Kafka refuses for good.
struct Consumers {
    config: Arc<Config>,
    client: ClientConfig,
    health: Health,
    completions: Arc<Completions>,
}

impl Consumers {
    /// Makes a consumer that wakes the calling thread.
    fn make(&self) -> Result<Arc<BaseConsumer<Context>>, Error> {
        let name = format!("source {}", self.config.name);
        let failed = |error| client_error(&name, error);
        let context = Context::new(name.as_str(), self.health.clone());
        let mut consumer: BaseConsumer<Context> = self.client.create_with_context(context).map_err(failed)?;
        self.completions.wakes_this_thread();
        let waker = self.completions.clone();
        consumer.set_nonempty_callback(move || waker.wake());
        if self.config.membership == manifest::Membership::Group {
            let topics: Vec<&str> = self.config.topics.written().iter().map(String::as_str).collect();
            consumer.subscribe(&topics).map_err(failed)?;
        }
        Ok(Arc::new(consumer))
    }
}

#[cfg(test)]
mod tests;
