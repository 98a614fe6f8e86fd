//! Aggregates: commands in, outcomes out.
//!
//! Every aggregate type is served by one plugin on a few shards. A shard is a thread with a wasm store of its own
//! and the live aggregates in it; an aggregate's id decides its shard, so one aggregate is only ever in one place.
//!
//! The code of a type is a plugin's, or native [`Handlers`] of the caller: the same host without WebAssembly, for
//! benchmarks and for embedding it.

mod handlers;
mod instances;
mod mailbox;
mod pending_command;
mod redelivery;
mod shard;

pub use handlers::{Guest, Handlers};

use crate::ack::{Ack, Unanswered};
use crate::bounds::Bounds;
use crate::model::{Command, IdRule, Outcome, QuickMap};
use crate::plugin::{Role, Slot};
use crate::status::State;
use crate::store::{self, EventStore};
use crate::supervise::{self, Held as _, Shared as _};
use crossbeam_channel::TrySendError;
use handlers::WasmHandlers;
use mailbox::Senders;
use pending_command::{Gauges, PendingCommand};
use shard::Shard;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Takes commands without blocking.
pub trait Inbox: Send + Sync {
    /// Queues a command.
    ///
    /// The acknowledgement is given after the commit, if there is something to commit. For a command with an origin it says
    /// that the store has settled its ledger, whatever the outcome, and what could not be handled is in the dead letters.
    /// Only `Outcome::Failed` means that it is not settled, because the store failed or closes.
    fn offer(&self, command: Arc<Command>, ack: Ack<Outcome>) -> Result<(), Unaccepted>;
}

/// A command that was not queued, handed back.
pub enum Unaccepted {
    /// The shard's queue is full: offer it again when something has completed.
    Full(Arc<Command>, Ack<Outcome>),
    /// No plugin serves its aggregate type.
    NoSuchAggregate {
        /// The types that are served.
        known: Vec<String>,
        /// The command.
        command: Arc<Command>,
        /// Its acknowledgement, not given.
        ack: Ack<Outcome>,
    },
    /// Its aggregate's id or its name breaks the [`IdRule`]: it can never be taken.
    InvalidId {
        /// What is wrong with it, as a sentence.
        reason: String,
        /// The command.
        command: Arc<Command>,
        /// Its acknowledgement, not given.
        ack: Ack<Outcome>,
    },
}

/// A command that nobody answered, as when its shard panics: its sender, or its source, sends it again.
impl Unanswered for Outcome {
    fn unanswered() -> Self {
        let reason = "the host could not finish it: send the command again, under the same id where it has one";
        Self::Failed { reason: reason.into() }
    }
}

/// The acknowledgement of a command that is dead-lettered, for the store that keeps it: malformed once it is kept.
pub fn when_dead_lettered(reason: String, ack: Ack<Outcome>) -> Ack<Result<(), store::Error>> {
    Ack::new(move |kept| {
        ack.give(match kept {
            Ok(()) => Outcome::Malformed { reason },
            Err(error) => Outcome::Failed { reason: error.to_string() },
        });
    })
}

/// How many shards serve a type where nothing is said: one for each core.
pub fn shards_by_default() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Limits of the shards.
#[derive(Clone, Debug)]
pub struct Options {
    /// Commands that may wait for a shard.
    pub queue_max: usize,
    /// Bytes of commands that a shard has accepted and not answered; at the limit it takes none from outside.
    pub queue_bytes_max: usize,
    /// Commands a shard works on at once: decided, and waiting for their commit or for their aggregate.
    pub in_flight_max: usize,
    /// Times a command from a ledger is tried before it is dead-lettered.
    pub attempts_max: u32,
    /// Events of a stream after which a snapshot of its aggregate is kept; 0 is never.
    pub snapshot_every: u64,
    /// The longest pause before a command is tried again, whatever its aggregate asks for: others wait behind it.
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
    /// Decides the shard of an aggregate, for as long as the host runs.
    shard_of: foldhash::quality::RandomState,
    ids: IdRule,
}

/// An aggregate type to be served: by a plugin, or by native handlers.
pub struct Service {
    aggregate_type: String,
    /// Who serves it.
    name: Arc<str>,
    start: Start,
}

type Start = Box<dyn FnOnce(&str, &Arc<dyn EventStore>) -> Result<Served, StartError>>;

impl Service {
    /// The aggregate types of a plugin, each on so many shards. None where it has no aggregate role.
    pub fn of_plugin(slot: &Arc<Slot>, shards: usize, options: &Options) -> Vec<Self> {
        let roles = slot.current();
        let types = roles.description.roles.iter().filter_map(|role| match role {
            Role::Aggregate { aggregate_type } => Some(aggregate_type),
            _ => None,
        });
        types.map(|name| Self::native(name, WasmHandlers(slot.clone()), shards, options.clone())).collect()
    }

    /// An aggregate type with handlers of the caller's. They run in the shards' threads, without a sandbox: no limit
    /// of time or memory holds for them. After a panic the shard begins again, and its senders are told.
    pub fn native(aggregate_type: &str, handlers: impl Handlers, shards: usize, options: Options) -> Self {
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

/// How one aggregate type is doing.
#[derive(Clone, Debug)]
pub struct TypeStatus {
    /// The type.
    pub aggregate_type: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// Its shards.
    pub shards: usize,
    /// Live aggregates.
    pub live: usize,
    /// Commands that are accepted and not answered.
    pub pending: usize,
    /// What its shards are doing, and what is in the way.
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

    /// Queues a command that follows from recorded events, before those that are offered. Waits while its queue is
    /// full: for threads that have nothing else to do.
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

    /// The types that are served, in order.
    pub fn types(&self) -> Vec<String> {
        let mut types: Vec<_> = self.served.keys().map(ToString::to_string).collect();
        types.sort();
        types
    }

    /// How each type is doing, in order.
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

    /// Takes no more commands, finishes those it has, and ends the shards.
    pub fn stop(&self) {
        for served in self.served.values() {
            // One that waits for its restart takes nothing out: whoever waits for room in its queue must not wait for it.
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

/// Why no shard takes a command.
enum Closed {
    /// Nobody serves its type.
    Unknown,
    /// Its id or its name breaks the rule.
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
    /// Queues an order; one that can't be queued because the shard is gone is answered here.
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

    /// Why the host can't have the shard decide.
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
    /// Two plugins want the same commands.
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
    Plugin(#[from] crate::plugin::Error),
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The system gives no thread.
    #[error("can't start a shard's thread: {0}")]
    Thread(String),
}
