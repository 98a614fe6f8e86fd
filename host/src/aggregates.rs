//! Aggregates: they turn commands into events and outcomes.
//!
//! One plugin serves each aggregate type, on a few shards. A shard is a thread with its own wasm store and the live
//! aggregates in it. The id of an aggregate decides its shard, so an aggregate is only ever live in one place.
//!
//! The code of a type is a plugin, or native [`Handlers`] of the caller. The latter run the same host without
//! WebAssembly, for benchmarks and for embedding it.

mod chain;
mod handlers;
mod instances;
mod mailbox;
mod pending_command;
mod prebuild;
mod redelivery;
mod second_opinion;
mod shard;

pub use handlers::{Guest, GuestError, Handlers};
pub use second_opinion::CodeWatch;

use crate::ack::{Ack, Unanswered};
use crate::bell;
use crate::bounds::Bounds;
use crate::model::{Command, IdRule, Outcome, QuickMap};
use crate::status::State;
use crate::store::{self, EventStore};
use crate::supervise::{self, Held as _, Shared as _};
use arc_swap::ArcSwap;
use crossbeam_channel::TrySendError;
use mailbox::Senders;
use pending_command::{Gauges, PendingCommand};
use redelivery::CommandRedeliveries;
use shard::{Inbound, Shard};
use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    served: ArcSwap<ServedTypes>,
    /// The hash that decides the shard of an aggregate. It stays the same while the host runs.
    shard_of: foldhash::quality::RandomState,
    ids: IdRule,
    store: Arc<dyn EventStore>,
    /// Held while the types are changed.
    changes: Mutex<()>,
}

type ServedTypes = QuickMap<Arc<str>, Arc<Served>>;

/// An aggregate type to be served, by a plugin or by native handlers.
pub struct Service {
    aggregate_type: String,
    /// The name of the plugin or handlers.
    name: Arc<str>,
    prepare: Prepare,
}

type Prepare = Box<dyn FnOnce(&str, &Arc<dyn EventStore>) -> Result<Prepared, StartError>>;

impl Service {
    /// Creates an aggregate type with native handlers. They run in the shards' threads without a sandbox, so no limit
    /// of time or memory holds for them. If they panic, the shard restarts and its senders are told.
    pub fn new(aggregate_type: &str, handlers: impl Handlers, shards: usize, options: Options) -> Self {
        Self {
            aggregate_type: aggregate_type.to_owned(),
            name: handlers.name(),
            prepare: Box::new(move |name, store| Prepared::new(&Arc::new(handlers), name, shards, store, &options)),
        }
    }
}

/// An aggregate type whose shards take commands and do not work yet.
struct Prepared {
    served: Arc<Served>,
    /// Starts the shards, each with the pending redeliveries of the shards that it replaces.
    start: Vec<StartShard>,
}

type StartShard = Box<dyn FnOnce(CommandRedeliveries) -> Result<supervise::Thread, StartError>>;

struct Served {
    name: Arc<str>,
    shards: Vec<Mailbox>,
    /// Set once all shards are started.
    threads: OnceLock<Vec<supervise::Thread>>,
}

struct Mailbox {
    /// `None` once the shard takes no more commands.
    queues: std::sync::RwLock<Option<Senders>>,
    gauges: Arc<Gauges>,
    queue_bytes_max: usize,
    prebuild: Prebuild,
}

/// Has the aggregates that a shard used last rebuilt in a guest of the code that is about to serve, until the time is up.
type Prebuild = Box<dyn Fn(Instant) + Send + Sync>;

/// A command that a mailbox does not take.
enum Untaken {
    /// Its queue is full.
    Full(PendingCommand),
    /// Its shard takes no more commands.
    Ended(PendingCommand),
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

/// What is done while aggregate types change and none of their shards has a command.
pub struct Interlude<'i> {
    /// Whether the source of these commands, by its ledger, sends those again that came back to it under another name. Later commands
    /// under this name do not wait for them.
    pub forgets: &'i dyn Fn(&str) -> bool,
    /// What is done.
    pub work: Box<dyn FnOnce() + 'i>,
}

impl Interlude<'_> {
    /// Nothing is done.
    pub fn none() -> Self {
        Self { forgets: &|_| false, work: Box::new(|| {}) }
    }
}

impl Aggregates {
    /// Starts the shards of every type.
    pub fn start(services: impl IntoIterator<Item = Service>, store: &Arc<dyn EventStore>) -> Result<Self, StartError> {
        let aggregates = Self {
            served: ArcSwap::default(),
            shard_of: Default::default(),
            ids: IdRule::default(),
            store: store.clone(),
            changes: Mutex::default(),
        };
        aggregates.change(&BTreeSet::new(), services, Interlude::none())?;
        Ok(aggregates)
    }

    /// Sets the rule that ids must keep.
    pub fn with_ids(self, ids: IdRule) -> Self {
        Self { ids, ..self }
    }

    /// Returns the rule that ids must keep.
    pub fn ids(&self) -> IdRule {
        self.ids
    }

    /// Changes which types are served, and how. A type that is removed finishes its pending commands. A type that is removed and
    /// served again takes commands all the time: they wait until the shards before have finished theirs, so that each aggregate is
    /// live in one place. This blocks until then, and does what the interlude says in between. After an error, none of the services
    /// is served.
    pub fn change(
        &self,
        removed: &BTreeSet<String>,
        services: impl IntoIterator<Item = Service>,
        interlude: Interlude<'_>,
    ) -> Result<(), StartError> {
        let _alone = self.changes.held();
        let (mut served, mut started) = ((**self.served.load()).clone(), Vec::new());
        let ended: Vec<_> = removed.iter().filter_map(|name| served.remove_entry(name.as_str())).collect();
        for Service { aggregate_type, name, prepare } in services {
            if let Some(other) = served.get(aggregate_type.as_str()) {
                let (first, second) = (other.name.to_string(), name.to_string());
                return Err(StartError::ServedTwice { aggregate_type, first, second });
            }
            let prepared = prepare(&aggregate_type, &self.store)?;
            served.insert(aggregate_type.as_str().into(), prepared.served.clone());
            started.push((aggregate_type, prepared));
        }
        // A sender that finds its mailbox closed looks here again.
        self.served.store(Arc::new(served));
        ended.iter().for_each(|(_, served)| served.close());
        let mut redeliveries: QuickMap<Arc<str>, CommandRedeliveries> =
            ended.into_iter().map(|(name, served)| (name, served.finish())).collect();
        redeliveries.values_mut().for_each(|pending| pending.forget(interlude.forgets));
        (interlude.work)();
        let (mut failed, mut new) = (Ok(()), Vec::new());
        for (aggregate_type, prepared) in started {
            let pending = redeliveries.remove(aggregate_type.as_str()).unwrap_or_default();
            new.push(aggregate_type);
            if let Err(error) = prepared.start(&pending) {
                failed = Err(error);
            }
        }
        if failed.is_err() {
            let mut served = (**self.served.load()).clone();
            let unserved: Vec<_> = new.iter().filter_map(|name| served.remove_entry(name.as_str())).collect();
            self.served.store(Arc::new(served));
            unserved.iter().for_each(|(_, served)| served.close());
            unserved.into_iter().for_each(|(_, served)| _ = served.finish());
        }
        failed
    }

    /// Has the aggregates that the shards of these types used last rebuilt by the code that is about to serve. This blocks until they are
    /// rebuilt, or the time is up.
    pub fn prebuild(&self, types: &[String], until: Instant) {
        let served = self.served.load();
        let shards = types.iter().filter_map(|name| served.get(name.as_str())).flat_map(|served| &served.shards);
        let jobs = shards.map(|shard| -> Box<dyn FnOnce() + Send + '_> { Box::new(|| (shard.prebuild)(until)) });
        supervise::behind_others("prebuild", jobs);
    }

    /// Queues a command that follows from recorded events, ahead of those that are offered. This blocks while the queue
    /// is full, so it is for threads that have nothing else to do.
    pub fn send(&self, command: Arc<Command>, ack: Ack<Outcome>) -> Result<(), Unaccepted> {
        self.queue(command, ack, |_, queues, pending| {
            queues.follow_up(pending).map_err(|refused| Untaken::Ended(refused.0))
        })
    }

    /// Puts a command into the mailbox of its aggregate with `put`.
    fn queue(
        &self,
        mut command: Arc<Command>,
        mut ack: Ack<Outcome>,
        put: impl Fn(&Mailbox, &Senders, PendingCommand) -> Result<(), Untaken>,
    ) -> Result<(), Unaccepted> {
        loop {
            let types = self.served.load();
            let (served, mailbox) = match self.mailbox(&types, &command) {
                Ok(found) => found,
                Err(Closed::Unknown) => {
                    return Err(Unaccepted::NoSuchAggregate { known: self.types(), command, ack });
                }
                Err(Closed::Invalid(reason)) => return Err(Unaccepted::InvalidId { reason, command, ack }),
            };
            let pending = PendingCommand::new(command, ack, &mailbox.gauges);
            let untaken = match &*mailbox.queues.held_shared() {
                Some(queues) => put(mailbox, queues, pending),
                None => Err(Untaken::Ended(pending)),
            };
            match untaken {
                Ok(()) => return Ok(()),
                Err(Untaken::Full(pending)) => {
                    let (command, ack) = pending.withdraw();
                    return Err(Unaccepted::Full(command, ack));
                }
                Err(Untaken::Ended(pending)) if self.is_served_by(&pending.command, served) => {
                    pending.answer(Outcome::Failed { reason: "the host is stopping: send the command again".into() });
                    return Ok(());
                }
                // The type is served by other shards by now, or by none.
                Err(Untaken::Ended(pending)) => (command, ack) = pending.withdraw(),
            }
        }
    }

    fn is_served_by(&self, command: &Command, served: &Arc<Served>) -> bool {
        let types = self.served.load();
        types.get(&command.stream.aggregate_type).is_some_and(|now| Arc::ptr_eq(now, served))
    }

    /// Returns the types that are served, in alphabetical order.
    pub fn types(&self) -> Vec<String> {
        let mut types: Vec<_> = self.served.load().keys().map(ToString::to_string).collect();
        types.sort();
        types
    }

    /// Returns the state of each type, in alphabetical order.
    pub fn status(&self) -> Vec<TypeStatus> {
        let types = self.served.load();
        let mut status: Vec<_> = types
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
        let served = self.served.load_full();
        served.values().for_each(|served| served.close());
        served.values().for_each(|served| drop(served.finish()));
    }

    fn mailbox<'t>(&self, types: &'t ServedTypes, command: &Command) -> Result<(&'t Arc<Served>, &'t Mailbox), Closed> {
        let Some(served) = types.get(&command.stream.aggregate_type) else { return Err(Closed::Unknown) };
        let id = &command.stream.aggregate_id;
        let checked = self.ids.check("aggregate id", id);
        checked.and_then(|()| self.ids.check("command name", &command.name)).map_err(Closed::Invalid)?;
        let hash = self.shard_of.hash_one(id);
        Ok((served, &served.shards[(hash % served.shards.len() as u64) as usize]))
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
        self.queue(command, ack, |mailbox, queues, pending| {
            // The command itself counts already.
            if mailbox.gauges.pending.now().without(pending.weight()).bytes() >= mailbox.queue_bytes_max {
                return Err(Untaken::Full(pending));
            }
            queues.arrive(pending).map_err(|refused| match refused {
                TrySendError::Full(pending) => Untaken::Full(pending),
                TrySendError::Disconnected(pending) => Untaken::Ended(pending),
            })
        })
    }
}

fn prebuilding<H: Handlers>(
    handlers: Arc<H>,
    store: Arc<dyn EventStore>,
    aggregate_type: Arc<str>,
    shard: prebuild::Requests<H::Guest>,
) -> Prebuild {
    Box::new(move |until| {
        let (Some(Ok(guest)), Ok(mut reader)) = (handlers.candidate(), store.reader()) else { return };
        prebuild::prebuild(guest, &mut *reader, &aggregate_type, &shard, until);
    })
}

impl Prepared {
    fn new<H: Handlers>(
        handlers: &Arc<H>,
        aggregate_type: &str,
        shards: usize,
        store: &Arc<dyn EventStore>,
        options: &Options,
    ) -> Result<Self, StartError> {
        let (mut mailboxes, mut start) = (Vec::new(), Vec::<StartShard>::new());
        for number in 0..shards.max(1) {
            let (bell, waiter) = bell::bell();
            let (senders, receivers) = mailbox::queues(options.queue_max, bell.clone());
            let gauges = Arc::new(Gauges::default());
            let (requests, requested) = prebuild::requests(bell.clone());
            let inbound = Inbound { bell, waiter, receivers, requests: requested };
            let shard = Shard::new(handlers.clone(), store.clone(), options.clone(), inbound, gauges.clone())?;
            let prebuild = prebuilding(handlers.clone(), store.clone(), aggregate_type.into(), requests);
            let name = format!("{aggregate_type}-{number}");
            start.push(Box::new(move |redeliveries| {
                let first = || Ok::<_, StartError>(shard.after(redeliveries));
                supervise::restarting(name, first, Shard::begin_again, Shard::run)
                    .map_err(|error| StartError::Thread(error.to_string()))
            }));
            let (queues, queue_bytes_max) = (std::sync::RwLock::new(Some(senders)), options.queue_bytes_max);
            mailboxes.push(Mailbox { queues, gauges, queue_bytes_max, prebuild });
        }
        let served = Served { name: handlers.name(), shards: mailboxes, threads: OnceLock::new() };
        Ok(Self { served: Arc::new(served), start })
    }

    /// Starts the shards. If one does not start, none of them works.
    fn start(self, redeliveries: &CommandRedeliveries) -> Result<(), StartError> {
        let (mut threads, mut failed) = (Vec::new(), Ok(()));
        for start in self.start {
            match start(redeliveries.clone()) {
                Ok(thread) => threads.push(thread),
                Err(error) => failed = Err(error),
            }
        }
        let _ = self.served.threads.set(threads);
        if failed.is_err() {
            self.served.close();
            self.served.finish();
        }
        failed
    }
}

impl Served {
    fn threads(&self) -> &[supervise::Thread] {
        self.threads.get().map_or(&[], Vec::as_slice)
    }

    /// Takes no more commands.
    fn close(&self) {
        // A shard that waits for its restart does not dequeue. Ending it first keeps senders from waiting for room in its
        // queue for ever.
        self.threads().iter().for_each(supervise::Thread::end);
        for shard in &self.shards {
            drop(shard.queues.held_alone().take());
        }
    }

    /// Waits until the pending commands are finished. Returns those that their sources send again.
    fn finish(&self) -> CommandRedeliveries {
        self.threads().iter().for_each(supervise::Thread::join);
        let mut redeliveries = CommandRedeliveries::default();
        for Mailbox { gauges, .. } in &self.shards {
            redeliveries.add_all(std::mem::take(&mut *gauges.redeliveries.held()));
            gauges.dropped.held().iter().for_each(|command| redeliveries.add(command));
        }
        redeliveries
    }

    fn condition(&self) -> (State, Option<String>) {
        let trouble = self.threads().iter().find_map(|thread| thread.monitor().trouble());
        let lacks = || self.shards.iter().find_map(Mailbox::trouble).map(|reason| (State::Retrying, reason));
        trouble.or_else(lacks).map_or((State::Running, None), |(state, reason)| (state, Some(reason)))
    }
}

impl Mailbox {
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
