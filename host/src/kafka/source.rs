//! A Kafka topic as a stream of commands, each of which takes effect exactly once.
//!
//! Two threads. The *reader* owns the consumer's queues, one per partition: it turns records into commands, offers
//! them to the aggregates and learns when they are settled. *Partition discovery* asks the brokers the questions that block:
//! which partitions there are, where they begin and end. It opens each partition where the store's ledger says.
//!
//! Promises: a record is settled in the transaction of its events, so redelivery adds nothing; a record that can't
//! be a command is dead-lettered and its partition goes on; what retention removed unread is dead-lettered as a range and counted.
//! Back-pressure is not reading a partition whose records are not settled yet. Broker trouble never ends a source.

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
use discovery::Discovery;
pub(super) use membership::{Rebalance, Rebalances};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use reader::{Reader, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
pub(super) use topics::TopicPartition;
pub(super) use topics::Topics;
use view::View;

/// How long closing the consumer may take: with a commit on its way and the broker away it would take for ever.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// The share of `in_flight_max` that must complete before the reader is woken to read on.
const WORTH_A_WAKE_UP: usize = 8;

/// What a source reads, and into which commands it turns it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The source's name; part of its ledgers' names, so another name starts anew.
    pub name: Arc<str>,
    topics: Topics,
    /// What bounds the chains of causes that come back through Kafka.
    pub bounds: Bounds,
    /// What records become.
    pub target: manifest::Target,
    /// Where a partition without a ledger starts.
    pub from: manifest::From,
    /// What to do about records that retention removed before they were read.
    pub lost: manifest::Lost,
    /// What to do about a topic that was recreated.
    pub recreated: manifest::Recreated,
    /// How it gets its partitions.
    pub membership: manifest::Membership,
    /// The consumer group: of the members, or of the offsets for lag tools alone.
    pub group: Arc<str>,
    /// Headers of records that are not kept.
    drop_headers: Dropped,
    /// How many records of a partition may be handed on and not settled.
    pub in_flight_max: usize,
    /// The bytes of the records of all partitions that may be handed on and not settled.
    pub in_flight_bytes_max: usize,
    /// How long `stop` waits for records that are handed on.
    pub drain_max: Duration,
    /// How long partitions that the group takes wait for records that are handed on. At most half the session.
    pub give_back_max: Duration,
}

impl Config {
    /// A source of the manifest. `written`: the topics that the host writes to, which no pattern finds.
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

/// What a source measured since it started.
#[derive(Clone, Debug)]
pub struct Measures {
    /// How long some partition had a record for which there was no room.
    pub back_pressure: Duration,
    /// Of its client, as of its last report.
    pub statistics: Option<Statistics>,
}

/// A running source.
pub struct Source {
    config: Arc<Config>,
    view: Arc<View>,
    completions: Arc<Completions>,
    discovery: crossbeam_channel::Sender<discovery::Request>,
    /// Disconnected once it is fixed where partitions start.
    fixed: crossbeam_channel::Receiver<()>,
    /// Disconnected once the reader has nothing more to settle.
    drained: crossbeam_channel::Receiver<()>,
    threads: Vec<supervise::Thread>,
}

impl Source {
    /// Starts to read. The brokers need not be there yet; only a wrong configuration is an error.
    pub fn start(
        config: Config,
        connection: Connection,
        store: Arc<dyn EventStore>,
        targets: Targets,
    ) -> Result<Self, Error> {
        let give_back_max = config.give_back_max.min(connection.session_timeout() / 2);
        let config = Arc::new(Config { give_back_max, ..config });
        let health = Health::default();
        let view = Arc::new(View::new(health.clone()));
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
        let reader = {
            let (config, store, view) = (config.clone(), store.clone(), view.clone());
            let (completions, requests) = (completions.clone(), requests.clone());
            move || {
                let consumer = consumer(&config, &client, health, &completions)?;
                let _ = consumer_out.send(consumer.clone());
                let rebalances = consumer.context().rebalances().clone();
                let destination = Destination::new(&config.name, &config.target, config.bounds, targets);
                let bytes_in_flight = Arc::default();
                let work =
                    Work { config, consumer, rebalances, destination, store, view, completions, bytes_in_flight };
                Ok(Reader::new(
                    work,
                    reader::Ends { discovery: requests, findings: reader_findings, draining: Some(draining) },
                ))
            }
        };
        let reader = start_thread(format!("source-{}", config.name), reader, Reader::begin_again, Reader::run)?;
        let consumer = consumer_in.recv().expect("the reader's thread has sent it");
        let discovery = {
            let (config, view, completions) = (config.clone(), view.clone(), completions.clone());
            move || {
                Ok(Discovery::new(
                    config,
                    connection,
                    consumer,
                    store,
                    view,
                    discovery_requests,
                    findings,
                    completions,
                    fixing,
                ))
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
        // From here on an error stops the reader, by dropping the source.
        let discovery =
            start_thread(format!("discovery-{}", config.name), discovery, Discovery::begin_again, Discovery::run)?;
        source.threads.push(discovery);
        Ok(source)
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The command that a record of this source becomes, or why it can't be one. `None` where a subscriber gets the
    /// records as they are.
    pub fn command(&self, record: &Record, origin: Origin) -> Result<Option<Command>, String> {
        let manifest::Target::Commands(commands) = &self.config.target else { return Ok(None) };
        let mut mapping = Mapping::new(self.config.name.clone(), commands, self.config.bounds);
        mapping.take_again(record, origin).map(Some).map_err(|letter| letter.reason)
    }

    /// What it measured.
    pub fn measures(&self) -> Measures {
        self.view.measures()
    }

    /// Waits until it is fixed where the partitions start that are there now, for as long as the brokers may take to say
    /// so. Whatever is written afterwards is read. False where it is not fixed yet: then it is as soon as they answer.
    pub fn is_fixed_by(&self, deadline: Instant) -> bool {
        self.fixed.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }

    /// What it is doing. `end` of a partition is as last seen; `refresh_ends` looks again.
    pub fn status(&self) -> SourceStatus {
        let mut status = self.view.status(&self.config);
        if let Some((state, reason)) = self.threads.iter().find_map(|thread| thread.monitor().trouble()) {
            (status.state, status.error) = (state, Some(reason));
        }
        status
    }

    /// Wakes its holder when records were settled: the sum of `next` of all partitions.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.view.progress()
    }

    /// Asks the brokers for the partitions and their ends now. Blocks up to the brokers' answer: not for an async
    /// worker. The error says what is in the way.
    pub fn refresh_ends(&self) -> Result<(), String> {
        let (sender, answer) = crossbeam_channel::bounded(1);
        let asked = self.discovery.send(discovery::Request::Refresh(sender));
        asked
            .ok()
            .and_then(|()| answer.recv().ok())
            .unwrap_or_else(|| Err(format!("source {} is stopped", self.name())))
    }

    /// Whether everything up to the ends as last seen is settled.
    pub fn is_caught_up(&self) -> bool {
        self.view.is_caught_up()
    }

    /// Stops reading, waits for what is handed on (up to `drain_max`), commits for lag tools, and closes. Blocks.
    pub fn stop(&self) {
        self.stop_by(Instant::now() + self.config.drain_max);
    }

    /// The same, with another end to waiting.
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
            connection.member(&config.name, &config.group, &instance, config.topics.excluded())
        }
    }
}

fn consumer(
    config: &Config,
    client: &ClientConfig,
    health: Health,
    completions: &Arc<Completions>,
) -> Result<Arc<BaseConsumer<Context>>, Error> {
    let name = format!("source {}", config.name);
    let failed = |error| client_error(&name, error);
    let context = Context::new(name.as_str(), health);
    let mut consumer: BaseConsumer<Context> = client.create_with_context(context).map_err(failed)?;
    completions.wakes_this_thread();
    let waker = completions.clone();
    consumer.set_nonempty_callback(move || waker.wake());
    if config.membership == manifest::Membership::Group {
        let topics: Vec<&str> = config.topics.written().iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(failed)?;
    }
    Ok(Arc::new(consumer))
}

#[cfg(test)]
mod tests;
