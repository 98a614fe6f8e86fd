//! Consume, transform, produce: a subscriber turns the records of a source into messages, in Kafka transactions.
//!
//! One thread owns a member of a consumer group and a transactional producer. A batch of records, the messages that the
//! subscriber makes of them and the offsets reached are one Kafka transaction, so a `read_committed` reader sees the
//! messages of each record once, whatever crashes. The event store has no part in it.
//!
//! Two hosts can't do the same work. The offsets are sent with the group's metadata, so a member that the group took
//! for dead can't commit. The transactional id contains the store's identity, so a host that restarts ends its own open
//! transaction at once. A record that fails for good is published to the dead-letter topic in the same transaction.

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
use view::TransformView;
use worker::TransformWorker;

/// Longest time for the brokers' answer to a question.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest time at a stop for finishing the open transaction and leaving the group.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Default of `transaction.timeout.ms`. It is short because nobody learns from where to read a partition while the
/// transaction of a killed host is open.
const TRANSACTION_MS: &str = "10000";

/// Configuration of a transform.
#[derive(Clone, Debug)]
pub struct Config {
    /// The source's name.
    pub name: Arc<str>,
    /// Topics by name, or patterns, which begin with `^`.
    pub topics: Vec<String>,
    /// Topics that the host writes to, which no pattern matches.
    pub written: Vec<String>,
    /// The consumer group, whose offsets record the progress.
    pub group: String,
    /// Start of a partition for which the group has no offset.
    pub from: manifest::From,
    /// Reaction to records that retention removed before they were read.
    pub lost: manifest::Lost,
    /// Reaction to a recreated topic.
    pub recreated: manifest::Recreated,
    /// Topic for records that fail for good.
    pub dead_letter_topic: String,
    /// Bounds of its pauses and of its chains of causes.
    pub bounds: Bounds,
    /// Record headers that are not kept.
    drop_headers: Dropped,
    /// Batch size and retries.
    pub deliveries: Deliveries,
}

impl Config {
    /// Makes the configuration of a source of the manifest.
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

/// Returns the configuration of a transform's producer.
pub(super) fn producer_config(name: &str, connection: &Connection, transactional_id: &str) -> ClientConfig {
    let mut config = connection.transactional_producer(name, transactional_id);
    if config.get(transaction::TIMEOUT).is_none() {
        config.set(transaction::TIMEOUT, TRANSACTION_MS);
    }
    config
}

/// Reason for which the thread gives up its current work.
#[derive(Debug)]
enum Broken {
    /// The transform is to stop.
    Stopped,
    /// The thread must resume from the committed offsets, with a new producer.
    Again(String),
    /// The membership has ended, and the thread must join the group again.
    StartOver(String),
    /// The broker says that another member has taken this one's `group.instance.id`. The thread joins again, unless
    /// this happens too often.
    Fenced,
    /// A retry would do harm, so a person must act.
    GiveUp(String),
}

impl From<transaction::Broken> for Broken {
    fn from(broken: transaction::Broken) -> Self {
        match broken {
            transaction::Broken::Stopped => Self::Stopped,
            // Usually the group is about to rebalance and accepts no offsets meanwhile.
            transaction::Broken::Abort(reason) | transaction::Broken::Renew(reason) => Self::Again(reason),
            transaction::Broken::Rival(reason) => Self::GiveUp(reason),
        }
    }
}

/// A running transform.
pub struct Transform {
    config: Arc<Config>,
    view: Arc<TransformView>,
    /// A client that asks for the ends of partitions, for `refresh_ends`.
    asker: BaseConsumer,
    /// Disconnected as soon as the start offsets of partitions are fixed.
    fixed: crossbeam_channel::Receiver<()>,
    thread: supervise::Thread,
}

impl Transform {
    /// Starts the thread. The brokers need not be reachable yet; only a wrong configuration is an error.
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
        let view = Arc::new(TransformView::new(config.name.clone(), Health::default()));
        let asker = connection.client(&format!("source-{}-ends", config.name));
        let asker: BaseConsumer = asker.create().map_err(|error| super::client_error(&config.name, error))?;
        connection.log_in(asker.client())?;
        let (fixing, fixed) = crossbeam_channel::bounded(0);
        let make = {
            let (config, view) = (config.clone(), view.clone());
            let guard = Guard::new(config.clone(), connection.clone(), store, fixing);
            move || TransformWorker::new(config, &connection, &identity, cloud_events, transformer, view, guard)
        };
        let thread = start_thread(
            format!("transform-{}", config.name),
            make,
            TransformWorker::begin_again,
            TransformWorker::run,
        )?;
        view.wakes(thread.thread().clone());
        Ok(Self { config, view, asker, fixed, thread })
    }

    /// Returns the source's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Waits until the start offsets of the present partitions are fixed, as `Source::is_fixed_by` does.
    pub fn is_fixed_by(&self, deadline: Instant) -> bool {
        self.fixed.recv_deadline(deadline) == Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    }

    /// Returns the source's status. The `end` of a partition is the last known one; `refresh_ends` updates it.
    pub fn status(&self) -> SourceStatus {
        let mut status = self.view.status(&self.config);
        if let Some((state, reason)) = self.thread.monitor().trouble() {
            (status.state, status.error) = (state, Some(reason));
        }
        status
    }

    /// Returns a watch on the sum of the partitions' next offsets, which wakes its holder when records are committed.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.view.progress()
    }

    /// Asks the brokers for the ends of its partitions and blocks until they answer.
    pub fn refresh_ends(&self) -> Result<(), String> {
        // Nobody else polls this client, and librdkafka asks for a new token by an event.
        let _ = self.asker.poll(Duration::ZERO);
        for partition in self.view.partitions() {
            let found = self.asker.fetch_watermarks(&partition.topic, partition.partition, ANSWER_MAX);
            let (_, end) = found.map_err(|error| format!("{partition}: {error}"))?;
            self.view.is_stable_to(&partition, u64::try_from(end).unwrap_or(0));
        }
        Ok(())
    }

    /// Returns whether everything up to the last known ends is committed.
    pub fn is_caught_up(&self) -> bool {
        self.view.is_caught_up()
    }

    /// Stops after the current batch and leaves the group. It blocks.
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
