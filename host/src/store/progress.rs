//! Progress: the checkpoints, ledgers and positions of subscriptions, sources and sinks, and the outbox.

use super::{Error, Ledger, Part, Place};
use crate::ack::Ack;
use crate::model::*;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::watch;

/// The writing side of progress.
pub trait Progress: Send + Sync + 'static {
    /// Records a step of a subscription: its progress and its effects, in one transaction. Blocks while the queue is
    /// full.
    fn advance(&self, step: Step, ack: Ack<Result<Advanced, Error>>);

    /// Moves a sink's position by compare-and-set. The same transaction keeps the dead letters of messages that Kafka
    /// refused, and removes the messages of the outbox that all of its sinks have published. The sink's name says what
    /// the position counts; see [`SinkName`].
    fn published(&self, sink: &str, from: u64, to: u64, refused: Vec<DeadLetter>, ack: Ack<Result<(), Error>>);

    /// Sets where a ledger starts: everything below `next` counts as settled. Does nothing if the ledger is already
    /// past `next`.
    fn start_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>);

    /// Begins a ledger: everything below `next` counts as settled. Does nothing if there is one of this name, which another host may use.
    fn begin_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>);

    /// Sets where a ledger resumes: everything below `next` counts as settled, and nothing else. Items that are settled
    /// a second time take effect again. So only a person may request this, while nobody uses the ledger.
    fn reset_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>);

    /// Keeps or removes a text under a name, in its own transaction. See [`ProgressReader::fact`].
    fn set_fact(&self, name: &str, value: Option<String>, ack: Ack<Result<(), Error>>);

    /// Keeps a text under a name that has none. Does nothing if it has one, which another host may have kept.
    fn keep_first_fact(&self, name: &str, value: String, ack: Ack<Result<(), Error>>);

    /// Moves the places of parts to other names, all or none of them: checkpoints, ledgers, the outbox, positions, dead letters and
    /// facts. Fails if the other name of one already has a place. Call this before the parts start.
    fn carry_over(&self, moves: &[(Part, String)], ack: Ack<Result<(), Error>>);

    /// Gives the subscription of a plugin this many segments, each with a checkpoint. All that it has in other segments moves there, all
    /// or nothing: held keys, callbacks, HTTP requests and facts. Attempts at requests that were under way count as interrupted. A segment that
    /// takes over nothing begins at `start`. Fails with [`Error::Unsettled`] while commands of the other segments are not settled, and with
    /// [`Error::NotYet`] while another host may run one of them, or if two timers would have one name.
    fn divide(&self, plugin: &Arc<str>, segments: u32, start: Position, ack: Ack<Result<(), Error>>);

    /// Removes the place of a part, and the commands and messages that it has not sent. Its dead letters stay.
    fn forget(&self, part: &Part, ack: Ack<Result<(), Error>>);

    /// Watches the number of the newest message in the outbox, to wake those who wait for new ones.
    fn outbox_head(&self) -> watch::Receiver<u64>;

    /// Changes when a callback may be due earlier than before.
    fn callbacks_changed(&self) -> watch::Receiver<u64>;

    /// Cancels a timer for a person. Fails with [`Error::NotFound`] if no timer has this number.
    fn cancel_timer(&self, number: u64, ack: Ack<Result<(), Error>>);
}

/// The reading side of progress.
pub trait ProgressReader: Send {
    /// Returns the state of a ledger. A new one starts at 0.
    fn ledger(&mut self, name: &str) -> Result<Ledger, Error>;

    /// Returns all ledgers whose name starts with `prefix`.
    fn ledgers(&mut self, prefix: &str) -> Result<Vec<(String, Ledger)>, Error>;

    /// Returns the checkpoint of a subscription, if it ever had one.
    fn checkpoint(&mut self, subscription: &str) -> Result<Option<Position>, Error>;

    /// Returns the checkpoints of all subscriptions, by name.
    fn checkpoints(&mut self) -> Result<Vec<(String, Position)>, Error>;

    /// Returns the held keys of a subscription, in the order of their streams.
    fn held_keys(&mut self, subscription: &str) -> Result<Vec<HeldKey>, Error>;

    /// Returns the parts that have a place in the store, ordered by kind and name.
    fn places(&mut self) -> Result<Vec<Place>, Error>;

    /// Returns the commands of a subscription that are not settled, in order.
    fn pending_commands(&mut self, subscription: &str) -> Result<Vec<Command>, Error>;

    /// Returns about `limit` messages of the outbox after a number, in order.
    fn messages(&mut self, after: u64, limit: usize) -> Result<Vec<(u64, Message)>, Error>;

    /// Returns the number of the last message that a sink has published, or `None` if it never had a position.
    fn sink_position(&mut self, sink: &str) -> Result<Option<u64>, Error>;

    /// Returns the text that was kept under a name. With facts a part remembers something outside of the store, such as
    /// the id of the Kafka cluster, and notices if it has changed. [`FactName`] has their names.
    fn fact(&mut self, name: &str) -> Result<Option<String>, Error>;

    /// Returns the callbacks of a subscription that are due at a time, in the order in which they are to be handled, without
    /// those of some keys. The list ends at the limit or at [`PAGE_BYTES_MAX`](super::PAGE_BYTES_MAX).
    fn due_callbacks(
        &mut self,
        subscription: &str,
        now_ms: u64,
        without: &HashSet<CallbackKey>,
        limit: usize,
    ) -> Result<Vec<KeptCallback>, Error>;

    /// Returns the keys for which events or records were deferred, with their number.
    fn deferred(&mut self, subscription: &str) -> Result<Vec<(CallbackKey, u64)>, Error>;

    /// Returns whether a callback is neither handled nor cancelled.
    fn has_callback(&mut self, number: u64) -> Result<bool, Error>;

    /// Returns whether a callback of a subscription is due at a time, and when the next one is due.
    fn next_callback(&mut self, subscription: &str, now_ms: u64) -> Result<NextCallback, Error>;

    /// Returns the timers that are due first, in the order of their times, and the number of all timers of the query's
    /// subscription.
    fn timers(&mut self, wanted: &TimerQuery<'_>) -> Result<(Vec<KeptTimer>, u64), Error>;

    /// Returns what is under way of a flow, all at one moment.
    fn under_way(&mut self, flow: &FlowQuery<'_>) -> Result<UnderWay, Error>;

    /// Returns all facts whose name starts with `prefix`, by name.
    fn facts(&mut self, prefix: &str) -> Result<Vec<(String, String)>, Error>;
}

/// One step of a subscription. It takes effect as a whole or not at all.
#[derive(Debug)]
pub struct Step {
    /// The subscription.
    pub subscription: Arc<str>,
    /// The progress of the step.
    pub reached: Reached,
    /// The commands to send. The store numbers them in the ledger `subscription/NAME` and sets their origin.
    pub commands: Vec<Command>,
    /// The messages for the outbox, in order.
    pub messages: Vec<Message>,
    /// The events of sagas, in the order of their inputs.
    pub sagas: Vec<SagaAppend>,
    /// The changes of callbacks, in their order.
    pub callbacks: Vec<CallbackChange>,
    /// The HTTP requests to send, in order.
    pub requests: Vec<HttpRequest>,
    /// The dead letters.
    pub dead_letters: Vec<DeadLetter>,
    /// What becomes of a key, if the step changes one.
    pub key: Option<KeyChange>,
    /// The name and the text of a fact to keep. See [`ProgressReader::fact`].
    pub fact: Option<(String, String)>,
    /// The step's number in a row of steps, if it is in one. What [`Reached::Records`] says of its number holds for it.
    pub row: Option<u64>,
}

impl Step {
    /// Makes a step without effects.
    pub fn new(subscription: Arc<str>, reached: Reached) -> Self {
        let (commands, messages, sagas) = Default::default();
        let (callbacks, requests, dead_letters, key, fact, row) = Default::default();
        Self { subscription, reached, commands, messages, sagas, callbacks, requests, dead_letters, key, fact, row }
    }
}

/// The events of one input of a saga.
#[derive(Debug)]
pub struct SagaAppend {
    /// The saga's stream in `stream`, and what the events have from their input: `id` becomes their causation id.
    pub input: Command,
    /// The version that the stream must have, with the events of the inputs before it in the step.
    pub expected: Version,
    /// The events, which may be none.
    pub events: Vec<NewEvent>,
    /// Whether the saga ends: its stream is archived, and its named timers are cancelled.
    pub ends: bool,
}

impl SagaAppend {
    /// Returns roughly how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        self.input.size() + self.events.iter().map(|event| event.name.len() + event.payload.len()).sum::<usize>()
    }
}

/// A key of a subscription whose events or records wait because one of them failed. The key of an event is its stream. For
/// a saga it is the saga's stream, and for a record it has the type `record`; what waits are callbacks then.
///
/// The checkpoint moves past the events of a held key. They are read from their stream, from `next` on, when they can be
/// handled. So a held key takes one row, however many of its events wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldKey {
    /// The stream.
    pub stream: StreamId,
    /// The version of the first event that is not handled. [`NO_VERSION`](Self::NO_VERSION) if what waits are callbacks.
    pub next: Version,
    /// The number of the dead letter that the key waits behind. `None` if the event is to be retried.
    pub behind: Option<u64>,
}

impl HeldKey {
    /// The version of a key for which callbacks wait: that of a saga, or of a record.
    pub const NO_VERSION: Version = Version(0);
}

/// A change of a held key, by compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// The stream.
    pub stream: StreamId,
    /// The version from which the caller expects the key to be held, behind no dead letter. `None` if it expects the key
    /// not to be held. If the store says otherwise, the step fails.
    pub from: Option<Version>,
    /// The state of the key after the step.
    pub to: KeyState,
}

/// The state of a key of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It is not held: its events are handled as they are read.
    Free,
    /// It is held from this version on, to be retried.
    Retried(Version),
    /// It is held from this version on, behind the only dead letter of the step. When that dead letter is removed, in
    /// whatever way, the key is to be retried from the next version on.
    ///
    /// With [`HeldKey::NO_VERSION`], the callbacks that were deferred for the key are not due while it is held. They are due
    /// again when the dead letter is removed.
    BehindDeadLetter(Version),
}

/// The progress of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// The step has processed events up to a position.
    Events {
        /// The checkpoint that the caller expects. If the store has another one, the step fails.
        from: Position,
        /// The checkpoint after the step.
        to: Position,
    },
    /// The step has processed events of a held key, and [`Step::key`] has the progress. The checkpoint stays.
    Key,
    /// The step has processed records and settles them in their ledgers. If one is already settled, the step fails.
    Records {
        /// The step's number in a row of steps, which begins with 0. A step is accepted only directly after the
        /// previous one. If a step fails, all later steps of the row fail too, so no record overtakes a failed record
        /// of the same key. A new row may begin at any time.
        number: u64,
        /// The records.
        records: Vec<Origins>,
    },
    /// A person moves the checkpoint to this position, in whichever direction. All keys of the subscription are free.
    Reset(Position),
    /// The step has processed the dead letter with this number and removes it. If it no longer exists, the step fails.
    Replayed(u64),
    /// The step has processed the callbacks with these numbers and removes them. If one no longer exists, the step fails
    /// with [`Error::CallbackGone`].
    Callbacks(Vec<u64>),
}

/// A change of a subscription's callbacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallbackChange {
    /// Sets a timer. It replaces the timer of the same name.
    Set {
        /// The name, by which it can be cancelled.
        name: Option<Arc<str>>,
        /// When it is due.
        due: Due,
        /// What happens then.
        callback: Box<Callback>,
    },
    /// Cancels the timer of this name, if there is one.
    Cancel(Arc<str>),
    /// Defers an event of a saga or a record: it is delivered as a callback. It is due at once, unless its key is held
    /// behind a dead letter.
    Defer {
        /// The key, as it is held.
        key: StreamId,
        /// The callback, whose key is the id of this key.
        callback: Box<Callback>,
    },
}

impl CallbackChange {
    /// Returns roughly how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Set { callback, .. } | Self::Defer { callback, .. } => callback.size(),
            Self::Cancel(name) => name.len(),
        }
    }
}

/// What is known of the next callback of a subscription. Times are in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextCallback {
    /// Whether one is due.
    pub is_due: bool,
    /// When the next one is due of those that are not due yet.
    pub later_ms: Option<u64>,
    /// The time of the first timer, whether it is due or not.
    pub timer_ms: Option<u64>,
}

/// A selection of timers to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerQuery<'a> {
    /// The subscription, with all of its segments, or a segment. `None` selects those of all.
    pub subscription: Option<&'a str>,
    /// The most timers.
    pub limit: usize,
}

/// A flow: everything that has one correlation id.
#[derive(Clone, Copy, Debug)]
pub struct FlowQuery<'a> {
    /// The correlation id.
    pub correlation_id: &'a str,
    /// The subscriptions.
    pub subscriptions: &'a [String],
    /// The streams of its events, with the version of its newest one in each.
    pub streams: &'a HashMap<StreamId, Version>,
    /// The time, in milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
}

/// What is under way of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// The position of the store's newest event at that moment.
    pub position: Position,
    /// The number of commands of subscriptions that have not ended.
    pub commands: u64,
    /// The number of callbacks that are due: outcomes, timers, responses, and what was deferred.
    pub callbacks: u64,
    /// The number of HTTP requests that have not ended.
    pub requests: u64,
    /// The number of held keys with an event that is to be retried.
    pub retried_keys: u64,
    /// The subscriptions and keys that wait behind a dead letter with something of the flow. Each is there once.
    pub held_keys: BTreeSet<(String, StreamId)>,
}

impl UnderWay {
    /// Counts a held key of a subscription. `waiting` has the keys of the flow's callbacks that wait behind a dead letter.
    pub(super) fn count_key(
        &mut self,
        subscription: &str,
        key: HeldKey,
        waiting: &HashSet<CallbackKey>,
        flow: &FlowQuery<'_>,
    ) {
        let waits_for_events = key.next != HeldKey::NO_VERSION;
        let newest = flow.streams.get(&key.stream).filter(|_| waits_for_events);
        let has_event = newest.is_some_and(|newest| *newest >= key.next);
        let has_callback = || waiting.contains(&Some(key.stream.aggregate_id.as_bytes().to_vec()));
        match key.behind {
            Some(_) if has_event || has_callback() => {
                self.held_keys.insert((subscription.to_owned(), key.stream));
            }
            None if has_event => self.retried_keys += 1,
            _ => {}
        }
    }

    /// Returns whether nothing moves without a person, the clock or other input.
    pub fn is_at_rest(&self) -> bool {
        self.commands == 0 && self.callbacks == 0 && self.requests == 0 && self.retried_keys == 0
    }
}

/// A timer, with the subscription that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTimer {
    /// The subscription.
    pub subscription: String,
    /// The timer.
    pub callback: KeptCallback,
}

/// The answer to a step of a subscription.
#[derive(Debug)]
pub struct Advanced {
    /// The step's commands, which are durable, have their origins, and can be sent.
    pub commands: Vec<Command>,
}
