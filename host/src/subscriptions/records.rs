//! Subscriptions to the records of a Kafka source: a subscriber turns them into commands and messages.
//!
//! A source hands its records to a bounded queue and learns when each is settled. A record is settled in one
//! transaction with all that the subscriber asked for, so it has its effects once. Order holds within a key of a
//! partition. A record that fails is retried and at last dead-lettered, and records of other keys proceed meanwhile. Later
//! records of its key are deferred then: they wait in the store until the dead letter is removed.
//!
//! Nothing here knows Kafka. Only the user of the [`RecordInbox`] knows where records come from.

mod key_queues;
mod redelivery;
pub(super) mod run;
mod worker;

use super::callbacks::{CallbackLinks, CallbackOptions, Callbacks, DeferredRecords, Environment};
use super::handler::Handler;
use super::outbox::Outbox;
use super::pausing::Pausing;
use super::replay::{Again, ReplayError};
use crate::aggregates::Aggregates;
use crate::backoff::Backoff;
use crate::bounds::Bounds;
use crate::manifest::OnFailure;
use crate::model::{DeadLetter, DeadLetterContent, Record, StreamId, SubscriptionName, key_text};
use crate::plugin::Slot;
use crate::status::State;
use crate::store::{self, EventStore};
use crate::supervise::{self, Held as _};
use crossbeam_channel::Sender;
pub use run::RecordRun;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use worker::{Ends, RecordWorker};

/// A receiver of records that does not block.
pub trait RecordInbox: Send + Sync {
    /// Queues records, or hands them back if the queue is full. Then the caller offers them again after a completion.
    fn offer(&self, run: RecordRun) -> Result<(), RecordRun>;
}

/// Settings of a source's deliveries, from the manifest.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// The name of the source. Its subscription is named `source/SOURCE` in the store.
    pub source: Arc<str>,
    /// Largest number of records in one call.
    pub batch_max: usize,
    /// Number of tries before a record is dead-lettered.
    pub attempts_max: u32,
    /// The pauses between the tries.
    pub backoff: Backoff,
    /// What happens to later records of the same key after one was dead-lettered. A record without a key is always passed.
    pub on_failure: OnFailure,
    /// Bounds of its pauses and of its chains of causes.
    pub bounds: Bounds,
}

/// A request to the worker, beside its records.
enum Ask {
    /// The source ends, so records that wait for a retry must be given back.
    GiveBack,
    Stop,
}

/// A running subscription to the records of a source.
pub struct RecordSubscription {
    source: Arc<str>,
    slot: Arc<Slot>,
    bounds: Bounds,
    shared: RecordLinks,
    inbox: Arc<Queue>,
    asks: Sender<Ask>,
    thread: supervise::Thread,
    callbacks: Callbacks,
}

/// The parts that the subscription and its worker share.
#[derive(Clone)]
struct RecordLinks {
    /// The subscription's name in the store.
    subscription: Arc<str>,
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    pausing: Arc<Pausing>,
    /// The state of the worker, and the reason for it.
    condition: Arc<Mutex<(State, Option<String>)>>,
    /// Number of steps whose answer from the store is not processed yet.
    steps: Arc<AtomicUsize>,
    /// The records that are deferred.
    deferred: DeferredRecords,
}

impl RecordOptions {
    fn of_callbacks(&self) -> CallbackOptions {
        let Self { batch_max, attempts_max, backoff, bounds, .. } = *self;
        CallbackOptions { batch_max, attempts_max, backoff, bounds }
    }
}

impl RecordLinks {
    fn callback_links(&self, slot: &Arc<Slot>) -> CallbackLinks {
        let Self { subscription, store, outbox, pausing, deferred, .. } = self.clone();
        let (consumer, slot) = (subscription.clone(), slot.clone());
        CallbackLinks { subscription, consumer, slot, store, outbox, pausing, records: Some(deferred) }
    }

    /// Takes over from the store which records are deferred. No step with such a record may be under way.
    fn load_deferred(&self) -> Result<(), store::Error> {
        let _turn = self.deferred.turns.held();
        let mut reader = self.store.reader()?;
        let (deferred, held) = (reader.deferred(&self.subscription)?, reader.held_keys(&self.subscription)?);
        self.deferred.keys.held().restart(deferred, held);
        Ok(())
    }
}

/// Returns the key under which a record is deferred: its topic, its partition and its key, as text. A record without a key
/// has none.
fn deferral_key(record: &Record) -> Option<Arc<str>> {
    let Record { topic, partition, key, .. } = record;
    let key = key.as_deref()?;
    let key = match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => format!("text:{text}"),
        _ => format!("bytes:{}", base16ct::lower::encode_string(key)),
    };
    Some(format!("{topic}:{partition}:{key}").into())
}

/// Returns the name in the store of the key under which a record is deferred.
pub(super) fn held_record_key(key: &Arc<str>) -> StreamId {
    StreamId { aggregate_type: "record".into(), aggregate_id: key.clone() }
}

/// Makes the dead letter of a record that a source's subscriber can't handle.
pub(super) fn failed_record(source: &str, record: &Record, reason: String) -> DeadLetter {
    let place = record.place();
    tracing::warn!("source {source}: {place} can't be handled: {reason}");
    DeadLetter {
        consumer: source.to_owned(),
        place,
        key: key_text(record.key.as_deref()),
        reason,
        time_ms: Some(record.time_ms),
        content: DeadLetterContent::Record(record.clone()),
    }
}

/// A queue of runs that is bounded by the number of records. One run may exceed the bound.
struct Queue {
    runs: Sender<RecordRun>,
    /// Number of queued records. The worker decrements it when it takes a run out.
    queued: Arc<AtomicUsize>,
    queued_max: usize,
}

impl RecordInbox for Queue {
    fn offer(&self, run: RecordRun) -> Result<(), RecordRun> {
        if self.queued.load(Ordering::Relaxed) >= self.queued_max {
            return Err(run);
        }
        self.queued.fetch_add(run.len(), Ordering::Relaxed);
        // If the worker has ended, the run is dropped, which acknowledges its records as not settled.
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
        environment: &Environment,
    ) -> Result<Self, store::Error> {
        let (source, bounds) = (options.source.clone(), options.bounds);
        let subscription: Arc<str> = SubscriptionName::Source(&source).to_string().into();
        let shared = RecordLinks {
            outbox: Arc::new(Outbox::new(
                subscription.clone(),
                store.clone(),
                aggregates.clone(),
                environment.flows.clone(),
            )),
            pausing: Arc::new(Pausing::load(subscription.clone(), store.clone())?),
            condition: Arc::new(Mutex::new((State::Starting, None))),
            steps: Arc::default(),
            store: store.clone(),
            subscription,
            deferred: DeferredRecords {
                source: source.clone(),
                on_failure: options.on_failure,
                keys: Arc::default(),
                turns: Arc::default(),
            },
        };
        shared.load_deferred()?;
        let callbacks = Callbacks::start(shared.callback_links(slot), options.of_callbacks(), environment.clone())?;
        // There is room for the batch that is being processed and for the next one.
        let queued_max = 2 * options.batch_max;
        let queued = Arc::new(AtomicUsize::new(0));
        #[expect(clippy::disallowed_methods, reason = "`offer` bounds it by records, which a run has many of")]
        let (runs, records) = crossbeam_channel::unbounded();
        #[expect(clippy::disallowed_methods, reason = "its source asks twice: to give back, and to stop")]
        let (asks, asked) = crossbeam_channel::unbounded();
        let ends = Ends { records, queued: queued.clone(), asked };
        let worker = RecordWorker::new(Handler::new(slot.clone()), options, shared.clone(), ends);
        let thread = supervise::restarting(
            format!("records-{source}"),
            || Ok(worker),
            RecordWorker::begin_again,
            RecordWorker::run,
        )
        .map_err(|error| store::Error::Failed(format!("can't start the thread of source {source}: {error}")))?;
        Ok(Self {
            source,
            slot: slot.clone(),
            bounds,
            shared,
            inbox: Arc::new(Queue { runs, queued, queued_max }),
            asks,
            thread,
            callbacks,
        })
    }

    /// Returns the source whose records it gets.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Returns the plugin that gets them.
    pub fn subscriber(&self) -> &str {
        &self.slot.name
    }

    /// Returns the queue for the source's records.
    pub fn inbox(&self) -> Arc<dyn RecordInbox> {
        self.inbox.clone()
    }

    /// Returns its name in the store.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.subscription
    }

    /// Returns whether a person has paused it.
    pub fn is_paused(&self) -> bool {
        self.shared.pausing.is_paused()
    }

    /// Pauses or resumes it. The setting survives restarts. It blocks.
    pub fn set_paused(&self, paused: bool) -> Result<(), store::Error> {
        self.shared.pausing.set(paused)
    }

    /// Returns its state and what is in the way.
    pub fn condition(&self) -> (State, Option<String>) {
        let (mut state, mut reason) = self.shared.condition.held().clone();
        if state == State::Running
            && let Some(trouble) = self.callbacks.trouble()
        {
            (state, reason) = (State::Retrying, Some(trouble));
        }
        self.callbacks.monitor().state(self.thread.monitor().state((state, reason)))
    }

    /// Returns the number of keys whose records wait behind a dead letter, or were released and are being handled.
    pub fn waiting_keys(&self) -> u64 {
        self.shared.deferred.keys.held().held() as u64
    }

    /// Returns when the next timer is due, if there is one.
    pub fn next_timer_ms(&self) -> Option<u64> {
        self.callbacks.progress().next_timer_ms
    }

    /// Returns whether commands to the store or to the aggregates are in flight, or callbacks are due.
    pub fn has_commands(&self) -> bool {
        let sends = || self.shared.steps.load(Ordering::Acquire) > 0 || self.shared.outbox.is_busy();
        // A command that is settled may leave an outcome, and an outcome may send a command.
        sends() || (!self.is_paused() && self.callbacks.progress().is_busy) || sends()
    }

    /// Retries a dead-lettered record. The dead letter is deleted in the transaction of its effects. It blocks.
    pub fn replay(&self, number: u64, content: &DeadLetterContent) -> Result<(), ReplayError> {
        let _turn = self.shared.deferred.turns.held();
        Again {
            slot: &self.slot,
            bounds: self.bounds,
            subscription: &self.shared.subscription,
            consumer: &self.source,
            store: &self.shared.store,
            outbox: &self.shared.outbox,
        }
        .replay(number, content)
    }

    /// Gives back the records that wait for a retry, now and from now on, because the source is about to end.
    pub fn give_back(&self) {
        let _ = self.asks.send(Ask::GiveBack);
    }

    /// Stops after the current step.
    pub fn stop(&self) {
        self.shared.outbox.stop();
        // An error means that the worker has ended already.
        let _ = self.asks.send(Ask::Stop);
        self.thread.join();
        self.callbacks.stop();
    }
}
