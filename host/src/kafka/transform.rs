//! Consume, transform, produce: the records of a source through a subscriber into messages, as Kafka transactions.
//!
//! One thread has a member of a consumer group and a transactional producer. A batch of records, the messages that the
//! subscriber makes of them and the offsets that are reached are one transaction, so a `read_committed` reader sees the
//! messages of each record once, whatever crashes. The event store has no part in it.
//!
//! What keeps two hosts from doing the same work: the group's metadata goes with the offsets, so a member that was
//! taken for dead can't commit; and the transactional id is made from the store's identity, so that a host that comes
//! back ends what it had begun at once. A record that fails for good goes to the dead-letter topic in its place, in the
//! same transaction.

mod assignment;
mod batch;
pub(super) mod guard;
mod retries;
mod view;
mod worker;

use super::context::Health;
use super::headers::Dropped;
use super::message::CloudEvents;
use super::transaction;
use super::{Connection, Error, start_thread};
use crate::bounds::Bounds;
use crate::manifest::{self, Deliveries};
use crate::plugin::Slot;
use crate::status::SourceStatus;
use crate::store::EventStore;
use crate::subscriptions::{Transformer, Transforming};
use crate::supervise;
use guard::Guard;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use view::View;
use worker::Worker;

/// How long the brokers may take to answer a question.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long the transaction in work may take when it is time to end, and leaving the group.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// The time that Kafka gives a transaction, in milliseconds. While the one of a host that was killed is open, nobody
/// learns where its partitions resume.
const TRANSACTION_MS: &str = "10000";

/// What is read, by whom, and where what fails goes.
#[derive(Clone, Debug)]
pub struct Config {
    /// The source's name.
    pub name: Arc<str>,
    /// Topics by name, or patterns, which begin with `^`.
    pub topics: Vec<String>,
    /// Topics that the host writes to, which no pattern finds.
    pub written: Vec<String>,
    /// The consumer group: its offsets are what is done.
    pub group: String,
    /// Where a partition starts of which the group has no offset.
    pub from: manifest::From,
    /// What to do about records that retention removed before they were read.
    pub lost: manifest::Lost,
    /// What to do about a topic that was recreated.
    pub recreated: manifest::Recreated,
    /// Where records go that fail for good.
    pub dead_letter_topic: String,
    /// What bounds its pauses and its chains of causes.
    pub bounds: Bounds,
    /// Headers of records that are not kept.
    drop_headers: Dropped,
    /// How much at a time, and how often.
    pub deliveries: Deliveries,
}

impl Config {
    /// A source of the manifest.
    pub fn new(name: &str, source: &manifest::Source, deliveries: &Deliveries, written: &[String]) -> Self {
        Self {
            name: name.into(),
            topics: source.topics.clone(),
            written: written.to_vec(),
            group: source.group_of(name),
            from: source.from,
            lost: source.lost,
            recreated: source.recreated,
            dead_letter_topic: source.dead_letter_topic.clone().expect("the manifest was checked"),
            bounds: Bounds::default(),
            drop_headers: Dropped::new(&source.drop_headers),
            deliveries: deliveries.clone(),
        }
    }
}

/// The producer of a transform.
pub(super) fn producer_config(name: &str, connection: &Connection, transactional_id: &str) -> ClientConfig {
    let mut config = connection.transactional_producer(name, transactional_id);
    if config.get(transaction::TIMEOUT).is_none() {
        config.set(transaction::TIMEOUT, TRANSACTION_MS);
    }
    config
}

/// Why the thread does not go on with what it is doing.
#[derive(Debug)]
enum Broken {
    /// It is time to end.
    Stopped,
    /// Resume from what is committed, with a new producer.
    Again(String),
    /// The member is none any more: join the group again.
    StartOver(String),
    /// Another try would do harm: a person must act.
    GiveUp(String),
}

impl From<transaction::Broken> for Broken {
    fn from(broken: transaction::Broken) -> Self {
        match broken {
            transaction::Broken::Stopped => Self::Stopped,
            // As a rule the group is about to rebalance, and takes no offsets meanwhile.
            transaction::Broken::Abort(reason) | transaction::Broken::Renew(reason) => Self::Again(reason),
            transaction::Broken::Rival(reason) => Self::GiveUp(reason),
        }
    }
}

/// A running transform.
pub struct Transform {
    config: Arc<Config>,
    view: Arc<View>,
    /// Asks for the ends of partitions, for those who wait.
    asker: BaseConsumer,
    /// Disconnected once it is fixed where partitions start.
    fixed: crossbeam_channel::Receiver<()>,
    thread: supervise::Thread,
}

impl Transform {
    /// Starts the thread. The brokers need not be there yet; only a wrong configuration is an error.
    pub fn start(
        config: Config,
        connection: Connection,
        store: Arc<dyn EventStore>,
        slot: &Arc<Slot>,
    ) -> Result<Self, Error> {
        let transformer = Box::new(Transformer::new(slot, config.name.clone(), config.bounds));
        Self::start_with(config, connection, store, transformer)
    }

    fn start_with(
        config: Config,
        connection: Connection,
        store: Arc<dyn EventStore>,
        transformer: Box<dyn Transforming>,
    ) -> Result<Self, Error> {
        let cloud_events = CloudEvents::new(connection.cloud_events(), &*store);
        let identity = store.identity().to_string();
        let config = Arc::new(config);
        let view = Arc::new(View::new(config.name.clone(), Health::default()));
        let asker = connection.client(&format!("source-{}-ends", config.name));
        let asker: BaseConsumer = asker.create().map_err(|error| super::client_error(&config.name, error))?;
        connection.log_in(asker.client())?;
        let (fixing, fixed) = crossbeam_channel::bounded(0);
        let make = {
            let (config, view) = (config.clone(), view.clone());
            let guard = Guard::new(config.clone(), connection.clone(), store, fixing);
            move || Worker::new(config, &connection, &identity, cloud_events, transformer, view, guard)
        };
        let thread = start_thread(format!("transform-{}", config.name), make, Worker::begin_again, Worker::run)?;
        view.wakes(thread.thread().clone());
        Ok(Self { config, view, asker, fixed, thread })
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Waits until it is fixed where the partitions start that are there now: see `Source::is_fixed_by`.
    pub fn is_fixed_by(&self, deadline: Instant) -> bool {
        self.fixed.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }

    /// What it is doing. `end` of a partition is as last seen; `refresh_ends` looks again.
    pub fn status(&self) -> SourceStatus {
        let mut status = self.view.status(&self.config);
        if let Some((state, reason)) = self.thread.monitor().trouble() {
            (status.state, status.error) = (state, Some(reason));
        }
        status
    }

    /// Wakes its holder when more is done: the sum of the partitions' next offsets.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.view.progress()
    }

    /// Asks the brokers for the ends of its partitions. Blocks up to their answer.
    pub fn refresh_ends(&self) -> Result<(), String> {
        // Nobody else does: a token that is about to end is asked for by an event.
        let _ = self.asker.poll(Duration::ZERO);
        for partition in self.view.partitions() {
            let found = self.asker.fetch_watermarks(&partition.topic, partition.partition, ANSWER_MAX);
            let (_, end) = found.map_err(|error| format!("{partition}: {error}"))?;
            self.view.is_stable_to(&partition, u64::try_from(end).unwrap_or(0));
        }
        Ok(())
    }

    /// Whether everything up to the ends as last seen is done.
    pub fn is_caught_up(&self) -> bool {
        self.view.is_caught_up()
    }

    /// Ends after the batch it is at, and leaves the group. Blocks.
    pub fn stop(&self) {
        self.view.stop();
        self.thread.join_within(CLOSE_MAX);
    }
}

impl Drop for Transform {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
