//! Aggregates: they turn commands into events and outcomes.
//!
//! One plugin serves each aggregate type, on a few shards. A shard is a thread with its own wasm store and the live
//! aggregates in it. The id of an aggregate decides its shard, so an aggregate is only ever live in one place.
//!
//! The code of a type is a plugin, or native [`Handlers`] of the caller. The latter run the same host without
//! WebAssembly, for benchmarks and for embedding it.

mod handlers;
mod instances;
mod mailbox;
mod pending_command;
mod redelivery;
mod shard;

pub use handlers::{Guest, GuestError, Handlers};

use crate::ack::{Ack, Unanswered};
use crate::bounds::Bounds;
use crate::model::{Command, IdRule, Outcome, QuickMap};
use crate::status::State;
use crate::store::{self, EventStore};
use crate::supervise::{self, Held as _, Shared as _};
use crossbeam_channel::TrySendError;
use mailbox::Senders;
use pending_command::{Gauges, PendingCommand};
use shard::Shard;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A receiver of commands that does not block.
pub trait Inbox: Send + Sync {
    /// Queues a command.
    ///
    /// The acknowledgement is given after the commit, if there is something to commit. A command with an origin is then
    /// settled in its ledger, whatever the outcome, and one that could not be handled is a dead letter. Only
    /// `Outcome::Failed` means that it is not settled, because the store failed or is closing.
    fn offer(&self, command: Arc<Command>, ack: Ack<Outcome>) -> Result<(), Unaccepted>;
}

/// A command that was not queued and is handed back.
pub enum Unaccepted {
    /// The shard's queue is full. The command may be offered again when another one has completed.
    Full(Arc<Command>, Ack<Outcome>),
    /// No plugin serves its aggregate type.
    NoSuchAggregate {
        /// The types that are served.
        known: Vec<String>,
        /// The command.
        command: Arc<Command>,
        /// Its acknowledgement, which is not given yet.
        ack: Ack<Outcome>,
    },
    /// The aggregate id or the command name breaks the [`IdRule`], so the command can never be accepted.
    InvalidId {
        /// A sentence that says what is wrong with it.
        reason: String,
        /// The command.
        command: Arc<Command>,
        /// Its acknowledgement, which is not given yet.
        ack: Ack<Outcome>,
    },
}

/// The outcome of a command that nobody answered, for example because its shard panicked. Its sender or its source
/// sends it again.
impl Unanswered for Outcome {
    fn unanswered() -> Self {
        let reason = "the host could not finish it: send the command again, with the same id if it has one";
        Self::Failed { reason: reason.into() }
    }
}

/// Wraps the acknowledgement of a command that can't be handled: its outcome is malformed once the store has recorded
/// that.
pub fn when_recorded<T>(reason: String, ack: Ack<Outcome>) -> Ack<Result<T, store::Error>>
where
    Result<T, store::Error>: Unanswered,
{
    Ack::new(move |kept: Result<T, store::Error>| {
        ack.give(match kept {
            Ok(_) => Outcome::Malformed { reason },
            Err(error) => Outcome::Failed { reason: error.to_string() },
        });
    })
}

/// Returns the default number of shards of a type: one for each core.
pub fn shards_by_default() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Limits of the shards.
#[derive(Clone, Debug)]
pub struct Options {
    /// Commands that may wait for a shard.
    pub queue_max: usize,
    /// Bytes of a shard's pending commands. At the limit it accepts no commands that are offered.
    pub queue_bytes_max: usize,
    /// Commands a shard works on at the same time: those that wait for their commit or behind a busy aggregate.
    pub in_flight_max: usize,
    /// Attempts to handle a command with an origin before it is dead-lettered.
    pub attempts_max: u32,
    /// Events of a stream after which a snapshot of its aggregate is kept; 0 keeps none.
    pub snapshot_every: u64,
    /// The longest pause before a retry of a command, whatever its aggregate asks for, because other commands wait
    /// behind it.
    pub retry_after_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_max: 4_096,
            queue_bytes_max: 64 << 20,
            in_flight_max: 4_096,
            attempts_max: 3,
            snapshot_every: 0,
            retry_after_max: Bounds::default().retry_after_max,
        }
    }
}

/// All aggregate types that are served.
pub struct Aggregates {
    served: QuickMap<Arc<str>, Served>,
    /// The hash that decides the shard of an aggregate. It stays the same while the host runs.
    shard_of: foldhash::quality::RandomState,
    ids: IdRule,
}

/// An aggregate type to be served, by a plugin or by native handlers.
pub struct Service {
    aggregate_type: String,
    /// The name of the plugin or handlers.
    name: Arc<str>,
    start: Start,
}

type Start = Box<dyn FnOnce(&str, &Arc<dyn EventStore>) -> Result<Served, StartError>>;

impl Service {
    /// Creates an aggregate type with native handlers. They run in the shards' threads without a sandbox, so no limit
    /// of time or memory holds for them. If they panic, the shard restarts and its senders are told.
    pub fn new(aggregate_type: &str, handlers: impl Handlers, shards: usize, options: Options) -> Self {
        Self {
            aggregate_type: aggregate_type.to_owned(),
            name: handlers.name(),
            start: Box::new(move |name, store| Served::start(&Arc::new(handlers), name, shards, store, &options)),
        }
    }
}

struct Served {
    name: Arc<str>,
    threads: Vec<supervise::Thread>,
    shards: Vec<Mailbox>,
}

struct Mailbox {
    /// `None` once stopping.
    queues: std::sync::RwLock<Option<Senders>>,
    gauges: Arc<Gauges>,
    queue_bytes_max: usize,
}

/// The state of one aggregate type.
#[derive(Clone, Debug)]
pub struct TypeStatus {
    /// The type.
    pub aggregate_type: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// The number of its shards.
    pub shards: usize,
    /// The number of live aggregates.
    pub live: usize,
    /// The number of pending commands.
    pub pending: usize,
    /// The state of its shards, and what is in the way.
    pub condition: (State, Option<String>),
}

impl Aggregates {
    /// Starts the shards of every type.
    pub fn start(services: impl IntoIterator<Item = Service>, store: &Arc<dyn EventStore>) -> Result<Self, StartError> {
        let mut served: QuickMap<Arc<str>, Served> = QuickMap::default();
        for Service { aggregate_type, name, start } in services {
            if let Some(other) = served.get(aggregate_type.as_str()) {
                return Err(StartError::ServedTwice {
                    aggregate_type,
                    first: other.name.to_string(),
                    second: name.to_string(),
                });
            }
            served.insert(aggregate_type.as_str().into(), start(&aggregate_type, store)?);
        }
        Ok(Self { served, shard_of: Default::default(), ids: IdRule::default() })
    }

    /// Sets the rule that ids must keep.
    pub fn with_ids(self, ids: IdRule) -> Self {
        Self { ids, ..self }
    }

    /// Queues a command that follows from recorded events, ahead of those that are offered. This blocks while the queue
    /// is full, so it is for threads that have nothing else to do.
    pub fn send(&self, command: Arc<Command>, ack: Ack<Outcome>) -> Result<(), Unaccepted> {
        let mailbox = match self.mailbox(&command) {
            Ok(mailbox) => mailbox,
            Err(closed) => return Err(self.unaccepted(closed, command, ack)),
        };
        mailbox.with_queues(PendingCommand::new(command, ack, &mailbox.gauges), |queues, order| {
            queues.follow_ups.send(order).map_err(|refused| refused.0)
        });
        Ok(())
    }

    /// Returns the types that are served, in alphabetical order.
    pub fn types(&self) -> Vec<String> {
        let mut types: Vec<_> = self.served.keys().map(ToString::to_string).collect();
        types.sort();
        types
    }

    /// Returns the state of each type, in alphabetical order.
    pub fn status(&self) -> Vec<TypeStatus> {
        let mut status: Vec<_> = self
            .served
            .iter()
            .map(|(aggregate_type, served)| TypeStatus {
                aggregate_type: aggregate_type.to_string(),
                plugin: served.name.to_string(),
                shards: served.shards.len(),
                live: served.shards.iter().map(|shard| shard.gauges.live.load(Ordering::Relaxed)).sum(),
                pending: served.shards.iter().map(Mailbox::pending).sum(),
                condition: served.condition(),
            })
            .collect();
        status.sort_by(|one, other| one.aggregate_type.cmp(&other.aggregate_type));
        status
    }

    /// Stops accepting commands, finishes the pending ones, and ends the shards.
    pub fn stop(&self) {
        for served in self.served.values() {
            // A shard that waits for its restart does not dequeue. Ending it first keeps senders from waiting for room
            // in its queue for ever.
            served.threads.iter().for_each(supervise::Thread::end);
            for shard in &served.shards {
                drop(shard.queues.held_alone().take());
            }
        }
        for served in self.served.values() {
            served.threads.iter().for_each(supervise::Thread::join);
        }
    }

    fn mailbox(&self, command: &Command) -> Result<&Mailbox, Closed> {
        let Some(served) = self.served.get(&command.stream.aggregate_type) else { return Err(Closed::Unknown) };
        let id = &command.stream.aggregate_id;
        let checked = self.ids.check("aggregate id", id);
        checked.and_then(|()| self.ids.check("command name", &command.name)).map_err(Closed::Invalid)?;
        let hash = self.shard_of.hash_one(id);
        Ok(&served.shards[(hash % served.shards.len() as u64) as usize])
    }

    fn unaccepted(&self, closed: Closed, command: Arc<Command>, ack: Ack<Outcome>) -> Unaccepted {
        match closed {
            Closed::Unknown => Unaccepted::NoSuchAggregate { known: self.types(), command, ack },
            Closed::Invalid(reason) => Unaccepted::InvalidId { reason, command, ack },
        }
    }
}

/// Why no shard accepts a command.
enum Closed {
    /// No plugin serves its aggregate type.
    Unknown,
    /// The aggregate id or the command name breaks the rule.
    Invalid(String),
}

impl Inbox for Aggregates {
    fn offer(&self, command: Arc<Command>, ack: Ack<Outcome>) -> Result<(), Unaccepted> {
        let mailbox = match self.mailbox(&command) {
            Ok(mailbox) => mailbox,
            Err(closed) => return Err(self.unaccepted(closed, command, ack)),
        };
        if mailbox.gauges.pending.now().bytes() >= mailbox.queue_bytes_max {
            return Err(Unaccepted::Full(command, ack));
        }
        let mut full = None;
        let order = PendingCommand::new(command, ack, &mailbox.gauges);
        mailbox.with_queues(order, |queues, order| match queues.arrivals.try_send(order) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(order)) => {
                full = Some(order);
                Ok(())
            }
            Err(TrySendError::Disconnected(order)) => Err(order),
        });
        match full {
            None => Ok(()),
            Some(order) => {
                let (command, ack) = order.withdraw();
                Err(Unaccepted::Full(command, ack))
            }
        }
    }
}

impl Served {
    fn start<H: Handlers>(
        handlers: &Arc<H>,
        aggregate_type: &str,
        shards: usize,
        store: &Arc<dyn EventStore>,
        options: &Options,
    ) -> Result<Self, StartError> {
        let mut served = Self { name: handlers.name(), threads: Vec::new(), shards: Vec::new() };
        for number in 0..shards.max(1) {
            let (senders, receivers) = mailbox::queues(options.queue_max);
            let gauges = Arc::new(Gauges::default());
            let shard = Shard::new(handlers.clone(), store.clone(), options.clone(), receivers, gauges.clone())?;
            let name = format!("{aggregate_type}-{number}");
            let thread = supervise::restarting(name, || Ok(shard), Shard::begin_again, Shard::run);
            served
                .threads
                .push(thread.map_err(|error: supervise::Unstarted<StartError>| StartError::Thread(error.to_string()))?);
            let (queues, queue_bytes_max) = (std::sync::RwLock::new(Some(senders)), options.queue_bytes_max);
            served.shards.push(Mailbox { queues, gauges, queue_bytes_max });
        }
        Ok(served)
    }
}

impl Served {
    fn condition(&self) -> (State, Option<String>) {
        let trouble = self.threads.iter().find_map(|thread| thread.monitor().trouble());
        let lacks = || self.shards.iter().find_map(Mailbox::trouble).map(|reason| (State::Retrying, reason));
        trouble.or_else(lacks).map_or((State::Running, None), |(state, reason)| (state, Some(reason)))
    }
}

impl Mailbox {
    /// Queues a command. If the shard has ended, the command is answered here.
    fn with_queues(
        &self,
        order: PendingCommand,
        queue_it: impl FnOnce(&Senders, PendingCommand) -> Result<(), PendingCommand>,
    ) {
        let refused = match &*self.queues.held_shared() {
            Some(queues) => queue_it(queues, order).err(),
            None => Some(order),
        };
        if let Some(order) = refused {
            order.answer(Outcome::Failed { reason: "the host is stopping: send the command again".into() });
        }
    }

    /// Returns why the shard can't decide, if the host is at fault.
    fn trouble(&self) -> Option<String> {
        self.gauges.trouble.held().clone()
    }

    fn pending(&self) -> usize {
        self.gauges.pending.now().count()
    }
}

/// Why the shards did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Two plugins serve the same aggregate type.
    #[error(
        "plugins {first} and {second} both serve aggregate type {aggregate_type}: remove one of them from the manifest"
    )]
    ServedTwice {
        /// The type.
        aggregate_type: String,
        /// One plugin.
        first: String,
        /// The other plugin.
        second: String,
    },
    /// The plugin can't be instantiated.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The system gives no thread.
    #[error("can't start a shard's thread: {0}")]
    Thread(String),
}
