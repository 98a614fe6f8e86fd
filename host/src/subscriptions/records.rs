//! The records of a Kafka source, through a subscriber, into commands and messages.
//!
//! A source hands its records to a bounded queue and is told of each when it is settled: in one transaction with all
//! that the subscriber asked for, so that a record has its effects once. Order holds within a key of a partition. A
//! record that fails is tried again and then dead-lettered; meanwhile records of other keys go on.
//!
//! Nothing here knows Kafka: where records come from is the [`RecordInbox`]'s user's business.

mod key_queues;
mod redelivery;
pub(super) mod run;
mod worker;

use super::handler::Handler;
use super::outbox::Outbox;
use super::pausing::Pausing;
use super::replay::{Again, ReplayError};
use crate::aggregates::Aggregates;
use crate::bounds::Bounds;
use crate::model::{DeadLetterContent, SubscriptionName};
use crate::plugin::Slot;
use crate::status::State;
use crate::store::{self, EventStore};
use crate::supervise::{self, Held as _};
use crossbeam_channel::Sender;
pub use run::RecordRun;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use worker::{Ends, Worker};

/// Takes records without blocking.
pub trait RecordInbox: Send + Sync {
    /// Queues records, or hands them back where the queue is full: offer them again when something has completed.
    fn offer(&self, run: RecordRun) -> Result<(), RecordRun>;
}

/// Settings of a source's deliveries, from the manifest.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// The source; its subscription is named `source/SOURCE` in the store.
    pub source: Arc<str>,
    /// Records in one call at most.
    pub batch_max: usize,
    /// Times a record is tried before it is dead-lettered.
    pub attempts_max: u32,
    /// The pause before the second try; it doubles with each.
    pub backoff: Duration,
    /// What bounds its pauses and its chains of causes.
    pub bounds: Bounds,
}

/// What the worker is asked beside its records.
enum Ask {
    /// Records that wait to be tried again are given back untried: the source ends.
    GiveBack,
    Stop,
}

/// A running subscription to the records of a source.
pub struct RecordSubscription {
    source: Arc<str>,
    subscription: Arc<str>,
    slot: Arc<Slot>,
    bounds: Bounds,
    pausing: Arc<Pausing>,
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    condition: Arc<Mutex<(State, Option<String>)>>,
    /// Steps on their way to the disk.
    steps: Arc<AtomicUsize>,
    inbox: Arc<Queue>,
    asks: Sender<Ask>,
    thread: supervise::Thread,
}

/// Bounded by the number of records. One run may go beyond it.
struct Queue {
    runs: Sender<RecordRun>,
    /// Records in it; the worker takes off what it takes out.
    queued: Arc<AtomicUsize>,
    queued_max: usize,
}

impl RecordInbox for Queue {
    fn offer(&self, run: RecordRun) -> Result<(), RecordRun> {
        if self.queued.load(Ordering::Relaxed) >= self.queued_max {
            return Err(run);
        }
        self.queued.fetch_add(run.len(), Ordering::Relaxed);
        // Where the worker has ended the run is dropped, which tells that its records are not settled.
        let _ = self.runs.send(run);
        Ok(())
    }
}

impl RecordSubscription {
    /// Starts the thread that delivers the records of a source to a plugin.
    pub fn start(
        slot: &Arc<Slot>,
        options: RecordOptions,
        store: &Arc<dyn EventStore>,
        aggregates: &Arc<Aggregates>,
    ) -> Result<Self, store::Error> {
        let (source, bounds) = (options.source.clone(), options.bounds);
        let subscription: Arc<str> = SubscriptionName::Source(&source).to_string().into();
        let outbox = Arc::new(Outbox::new(subscription.clone(), store.clone(), aggregates.clone()));
        let pausing = Arc::new(Pausing::load(subscription.clone(), store.clone())?);
        let condition = Arc::new(Mutex::new((State::Starting, None)));
        // Room for the batch that is being handled and for the next one.
        let queued_max = 2 * options.batch_max;
        let queued = Arc::new(AtomicUsize::new(0));
        #[expect(clippy::disallowed_methods, reason = "`offer` bounds it by records, which a run has many of")]
        let (runs, records) = crossbeam_channel::unbounded();
        #[expect(clippy::disallowed_methods, reason = "its source asks twice: to give back, and to stop")]
        let (asks, asked) = crossbeam_channel::unbounded();
        let ends = Ends { records, queued: queued.clone(), asked };
        let steps = Arc::new(AtomicUsize::new(0));
        let worker = Worker::new(
            Handler::new(slot.clone()),
            options,
            subscription.clone(),
            store.clone(),
            outbox.clone(),
            pausing.clone(),
            condition.clone(),
            steps.clone(),
            ends,
        );
        let thread =
            supervise::restarting(format!("records-{source}"), || Ok(worker), Worker::begin_again, Worker::run)
                .map_err(|error| store::Error::Failed(format!("can't start the thread of source {source}: {error}")))?;
        Ok(Self {
            source,
            subscription,
            slot: slot.clone(),
            bounds,
            pausing,
            store: store.clone(),
            outbox,
            condition,
            steps,
            inbox: Arc::new(Queue { runs, queued, queued_max }),
            asks,
            thread,
        })
    }

    /// The source whose records it gets.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The plugin that gets them.
    pub fn subscriber(&self) -> &str {
        &self.slot.name
    }

    /// Where the source puts its records.
    pub fn inbox(&self) -> Arc<dyn RecordInbox> {
        self.inbox.clone()
    }

    /// Its name in the store.
    pub fn name(&self) -> &Arc<str> {
        &self.subscription
    }

    /// Whether a person has paused it.
    pub fn is_paused(&self) -> bool {
        self.pausing.is_paused()
    }

    /// Pauses or resumes it, also over restarts. Blocks.
    pub fn set_paused(&self, paused: bool) -> Result<(), store::Error> {
        self.pausing.set(paused)
    }

    /// What it is doing, and what is in the way.
    pub fn condition(&self) -> (State, Option<String>) {
        self.thread.monitor().state(self.condition.held().clone())
    }

    /// Whether commands are on their way to the disk or to the aggregates.
    pub fn has_commands(&self) -> bool {
        self.steps.load(Ordering::Acquire) > 0 || self.outbox.is_busy()
    }

    /// Tries a record again that was dead-lettered; with its effects the dead letter goes. Blocks.
    pub fn replay(&self, number: u64, content: &DeadLetterContent) -> Result<(), ReplayError> {
        Again {
            slot: &self.slot,
            bounds: self.bounds,
            subscription: &self.subscription,
            consumer: &self.source,
            store: &self.store,
            outbox: &self.outbox,
        }
        .replay(number, content)
    }

    /// Gives back the records that wait to be tried again, also from now on: the source is about to end.
    pub fn give_back(&self) {
        let _ = self.asks.send(Ask::GiveBack);
    }

    /// Ends after the step it is at.
    pub fn stop(&self) {
        self.outbox.stop();
        // Nobody left to tell is as good.
        let _ = self.asks.send(Ask::Stop);
        self.thread.join();
    }
}
