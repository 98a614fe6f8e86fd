//! One shard: a thread, a wasm store, its live aggregates.
//!
//! A command is decided by the live aggregate, appended with the version it was decided on, and answered after the
//! commit. Only then are its events applied ([`Shard::settled`]): a live aggregate never knows more than the store.
//! While one aggregate waits for its commit, the shard works on others; commands to the waiting one queue up behind it.

use super::{Options, Reply};
use crate::model::{Command, ExpectedVersion, Outcome, Version};
use crate::plugin::{self, AggregateGuest, Live, Plugin, Refusal, Slot};
use crate::store::{self, Append, Appended, Decision, EventStore, Reader};
use crossbeam_channel::{Receiver, Sender, TryRecvError, select};
use lru::LruCache;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Events read and applied at once when an aggregate is rebuilt.
const HISTORY_PAGE: usize = 500;

/// A command and who waits for it.
pub(super) struct Order {
    /// Shared with the store, which still needs it when the shard is done with it.
    pub(super) command: Arc<Command>,
    pub(super) waiter: Waiter,
    attempts: u32,
}

/// Who waits for a command. While it lives the command counts as pending.
pub(super) struct Waiter {
    reply: Reply,
    gauges: Arc<Gauges>,
}

impl Order {
    pub(super) fn new(command: Arc<Command>, reply: Reply, gauges: &Arc<Gauges>) -> Self {
        gauges.pending.fetch_add(1, Ordering::Relaxed);
        Self { command, waiter: Waiter { reply, gauges: gauges.clone() }, attempts: 0 }
    }

    /// Back to the sender, as if it had never been sent.
    pub(super) fn withdraw(self) -> (Arc<Command>, Reply) {
        self.waiter.gauges.pending.fetch_sub(1, Ordering::Relaxed);
        (self.command, self.waiter.reply)
    }
}

impl Waiter {
    pub(super) fn answer(self, outcome: Outcome) {
        (self.reply)(outcome);
        self.gauges.pending.fetch_sub(1, Ordering::Release);
    }
}

/// What others may know of a shard.
#[derive(Default)]
pub(super) struct Gauges {
    /// Live aggregates.
    pub(super) live: AtomicUsize,
    /// Commands that are accepted and not answered.
    pub(super) pending: AtomicUsize,
}

/// The news that an append is durable, or failed.
struct Settled {
    aggregate: Arc<str>,
    result: Result<Appended, store::Error>,
}

/// An aggregate with a decision on its way to the disk.
struct Unrecorded {
    /// `None` when its wasm store was lost meanwhile.
    live: Option<Live>,
    order: Order,
    events: u32,
    waiting: VecDeque<Order>,
}

/// A live aggregate that waits for nothing.
struct Ready {
    live: Live,
    version: Version,
}

pub(super) struct Shard {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    /// `None` when the last one was lost and none could be made since.
    guest: Option<AggregateGuest>,
    store: Arc<dyn EventStore>,
    reader: Box<dyn Reader>,
    options: Options,
    ready: LruCache<Arc<str>, Ready>,
    unrecorded: HashMap<Arc<str>, Unrecorded>,
    /// Commands in `unrecorded`, waiting ones included.
    in_flight: usize,
    settled: (Sender<Settled>, Receiver<Settled>),
    gauges: Arc<Gauges>,
}

/// Why a command could not be decided.
enum Undone {
    /// The wasm store is lost.
    Trap(String),
    /// The aggregate can't be built from its history.
    History(String),
    /// The store can't be read.
    Store(store::Error),
}

impl Shard {
    pub(super) fn new(
        slot: Arc<Slot>,
        store: Arc<dyn EventStore>,
        options: Options,
        gauges: Arc<Gauges>,
    ) -> Result<Self, super::StartError> {
        let plugin = slot.current();
        Ok(Self {
            guest: Some(AggregateGuest::new(&plugin)?),
            reader: store.reader()?,
            // Unbounded by the plugin's limit: `keep` discards what it pushes out.
            ready: LruCache::unbounded(),
            unrecorded: HashMap::new(),
            in_flight: 0,
            // The writer must never wait for a shard: what comes back is bounded by what is in flight.
            settled: crossbeam_channel::unbounded(),
            slot,
            plugin,
            store,
            options,
            gauges,
        })
    }

    /// Works until the senders are gone and everything is answered.
    pub(super) fn run(mut self, orders: Receiver<Order>) {
        let mut open = true;
        let appended = self.settled.1.clone();
        while open || self.in_flight > 0 {
            // What is settled first: it frees aggregates and makes room.
            while let Ok(settled) = appended.try_recv() {
                self.settled(settled);
            }
            self.gauges.live.store(self.ready.len(), Ordering::Relaxed);
            let room = open && self.in_flight < self.options.in_flight_max;
            match if room { orders.try_recv() } else { Err(TryRecvError::Empty) } {
                Ok(order) => self.accept(order),
                Err(TryRecvError::Disconnected) => open = false,
                Err(TryRecvError::Empty) if room => select! {
                    recv(appended) -> settled => settled.into_iter().for_each(|settled| self.settled(settled)),
                    recv(orders) -> order => match order {
                        Ok(order) => self.accept(order),
                        Err(_) => open = false,
                    },
                },
                Err(TryRecvError::Empty) if self.in_flight > 0 => {
                    appended.recv().into_iter().for_each(|settled| self.settled(settled));
                }
                Err(TryRecvError::Empty) => {}
            }
        }
    }

    fn accept(&mut self, order: Order) {
        match self.unrecorded.get_mut(&order.command.stream.aggregate_id) {
            Some(unrecorded) => {
                unrecorded.waiting.push_back(order);
                self.in_flight += 1;
            }
            None => self.decide(order),
        }
    }

    /// Decides on a command whose aggregate waits for nothing.
    fn decide(&mut self, order: Order) {
        self.renew_guest();
        match self.ask(&order.command) {
            Ok((ready, Ok(events))) => self.append_events(order, ready, events),
            Ok((ready, Err(refusal))) => {
                self.keep(order.command.stream.aggregate_id.clone(), ready);
                self.refused(order, refusal);
            }
            Err(Undone::Trap(reason)) => {
                self.lose_guest();
                self.undone(order, reason);
            }
            Err(Undone::History(reason)) => self.undone(order, reason),
            Err(Undone::Store(error)) => order.waiter.answer(Outcome::Failed { reason: error.to_string() }),
        }
    }

    /// Has the live aggregate decide.
    #[allow(clippy::type_complexity)] // a decision and the aggregate that made it
    fn ask(&mut self, command: &Command) -> Result<(Ready, Result<Vec<crate::model::NewEvent>, Refusal>), Undone> {
        let ready = match self.ready.pop(&command.stream.aggregate_id) {
            Some(ready) => ready,
            None => self.rebuild(command)?,
        };
        if command.expected.is_some_and(|expected| !expected.allows(ready.version)) {
            // Appending nothing has the writer refuse it, unless it knows the command already.
            return Ok((ready, Ok(Vec::new())));
        }
        let decision = self.guest()?.handle(&ready.live, command)?;
        Ok((ready, decision))
    }

    /// The aggregate from its history.
    fn rebuild(&mut self, command: &Command) -> Result<Ready, Undone> {
        let stream = &command.stream;
        let live = self.guest()?.create(&stream.aggregate_id)?;
        let mut version = Version(0);
        loop {
            let events = self.reader.read_stream(stream, version, HISTORY_PAGE).map_err(Undone::Store)?;
            let Some(last) = events.last() else { break };
            let reached = last.version;
            if let Err(failure) = self.guest()?.apply(&live, &events)? {
                self.guest()?.discard(live)?;
                let event = &events[failure.index.min(events.len() - 1)];
                return Err(Undone::History(format!(
                    "plugin {} can't rebuild {stream}: event {} at version {} ({}); repair the plugin, its history is unchanged",
                    self.plugin.label(),
                    event.name,
                    event.version,
                    failure.refusal
                )));
            }
            version = reached;
            if events.len() < HISTORY_PAGE {
                break;
            }
        }
        Ok(Ready { live, version })
    }

    fn append_events(&mut self, order: Order, ready: Ready, events: Vec<crate::model::NewEvent>) {
        let aggregate = order.command.stream.aggregate_id.clone();
        // What the sender expects was met, or is given to the store to refuse.
        let expected = match order.command.expected {
            Some(expected) if !expected.allows(ready.version) => expected,
            _ => ExpectedVersion::Exact(ready.version),
        };
        let append = Append { command: order.command.clone(), expected, decision: Decision::Events(events) };
        let Decision::Events(events) = &append.decision else { unreachable!("it was just made") };
        let unrecorded =
            Unrecorded { live: Some(ready.live), order, events: events.len() as u32, waiting: VecDeque::new() };
        self.unrecorded.insert(aggregate.clone(), unrecorded);
        self.in_flight += 1;
        let settled = self.settled.0.clone();
        self.store.append(
            append,
            Box::new(move |result| {
                // A shard that is gone has nobody left to tell.
                let _ = settled.send(Settled { aggregate, result });
            }),
        );
    }

    /// An append has ended: apply its events, or throw the live aggregate away; then go on with what waited.
    fn settled(&mut self, settled: Settled) {
        let Some(Unrecorded { live, mut order, events, waiting }) = self.unrecorded.remove(&settled.aggregate) else {
            return;
        };
        self.in_flight -= 1 + waiting.len();
        match settled.result {
            Ok(Appended { version, position }) => {
                self.apply(settled.aggregate, live, version);
                order.waiter.answer(Outcome::Accepted { version, position, events });
            }
            Err(error) => {
                if let Some(live) = live {
                    self.discard(live);
                }
                match error {
                    store::Error::Conflict { actual, expected, .. }
                        if order.command.expected.is_some_and(|expected| !expected.allows(actual)) =>
                    {
                        order.waiter.answer(Outcome::Conflict { actual, expected });
                    }
                    store::Error::Conflict { .. } if order.attempts < self.options.attempts_max => {
                        order.attempts += 1;
                        self.accept(order);
                    }
                    store::Error::Invalid(reason) if order.command.origin.is_some() => self.put_aside(order, reason),
                    error => order.waiter.answer(outcome_of(error)),
                }
            }
        }
        for order in waiting {
            self.accept(order);
        }
    }

    fn apply(&mut self, aggregate: Arc<str>, live: Option<Live>, version: Version) {
        let (Some(live), Some(guest)) = (live, &mut self.guest) else { return };
        match guest.recorded(&live) {
            Ok(()) => self.keep(aggregate, Ready { live, version }),
            Err(error) => {
                tracing::error!("applying recorded events: {error}; the shard's aggregates will be rebuilt");
                self.lose_guest();
            }
        }
    }

    /// The aggregate said no. Nothing changed, so the shard need not wait for the record of it.
    fn refused(&mut self, order: Order, refusal: Refusal) {
        match refusal {
            Refusal::Rejected(reason) => {
                tracing::info!(
                    command = &*order.command.id,
                    "{} to {} rejected: {reason}",
                    order.command.name,
                    order.command.stream
                );
                self.record(order, Decision::Rejected(reason.clone()), Outcome::Rejected { reason });
            }
            Refusal::Malformed(reason) => self.put_aside(order, reason),
            Refusal::Retry { reason, .. } => self.undone(order, reason),
        }
    }

    /// It was not decided at all: try again where a ledger waits for it, else tell the sender.
    fn undone(&mut self, mut order: Order, reason: String) {
        order.attempts += 1;
        if order.command.origin.is_none() {
            tracing::error!(
                command = &*order.command.id,
                "{} to {}: {reason}",
                order.command.name,
                order.command.stream
            );
            order.waiter.answer(Outcome::Failed { reason });
        } else if order.attempts < self.options.attempts_max {
            self.accept(order);
        } else {
            let attempts = order.attempts;
            self.put_aside(order, format!("{reason} (tried {attempts} times)"));
        }
    }

    /// It can't be handled. Where a sender waits, the sender is told; else the store keeps it as a dead letter.
    fn put_aside(&mut self, order: Order, reason: String) {
        let Command { id, name, stream, .. } = &*order.command;
        if order.command.origin.is_some() {
            tracing::warn!(command = &**id, "{name} to {stream} put aside: {reason}");
        } else if order.command.durable_id {
            tracing::info!(command = &**id, "{name} to {stream} is malformed: {reason}");
        } else {
            // Nothing is remembered of it: its name may be anything, and counting it would fill the store with names.
            return order.waiter.answer(Outcome::Malformed { reason });
        }
        self.record(order, Decision::Malformed(reason.clone()), Outcome::Malformed { reason });
    }

    /// Records a decision without events and answers after the commit.
    fn record(&self, order: Order, decision: Decision, outcome: Outcome) {
        let Order { command, waiter, .. } = order;
        self.store.append(
            Append { command, expected: ExpectedVersion::Any, decision },
            Box::new(move |result| {
                waiter.answer(match result {
                    Ok(_) => outcome,
                    Err(error) => outcome_of(error),
                });
            }),
        );
    }

    fn keep(&mut self, aggregate: Arc<str>, ready: Ready) {
        self.ready.push(aggregate, ready);
        if self.ready.len() > self.plugin.limits.instances_max
            && let Some((_, oldest)) = self.ready.pop_lru()
        {
            self.discard(oldest.live);
        }
    }

    fn discard(&mut self, live: Live) {
        if let Some(guest) = &mut self.guest
            && let Err(error) = guest.discard(live)
        {
            tracing::error!("discarding an aggregate: {error}; the shard's aggregates will be rebuilt");
            self.lose_guest();
        }
    }

    fn guest(&mut self) -> Result<&mut AggregateGuest, Undone> {
        self.guest.as_mut().ok_or_else(|| Undone::Trap(format!("plugin {} can't be instantiated", self.plugin.label())))
    }

    /// A fresh wasm store where the old one is lost, worn, or of code that no longer serves.
    fn renew_guest(&mut self) {
        let swapped = !self.slot.is_current(&self.plugin);
        let worn = self.guest.as_ref().is_none_or(AggregateGuest::is_worn);
        if !swapped && !worn {
            return;
        }
        let plugin = self.slot.current();
        match AggregateGuest::new(&plugin) {
            Ok(guest) => {
                self.lose_guest();
                self.guest = Some(guest);
                self.plugin = plugin;
            }
            // The old one, if there is one, goes on serving.
            Err(error) => tracing::error!("a shard can't instantiate plugin {}: {error}", plugin.label()),
        }
    }

    /// The live aggregates go with their wasm store; the next commands rebuild them from the store.
    fn lose_guest(&mut self) {
        self.guest = None;
        self.ready.clear();
        for unrecorded in self.unrecorded.values_mut() {
            unrecorded.live = None;
        }
    }
}

impl From<plugin::Error> for Undone {
    fn from(error: plugin::Error) -> Self {
        Self::Trap(error.to_string())
    }
}

/// What the sender is told of a store's error.
fn outcome_of(error: store::Error) -> Outcome {
    match error {
        store::Error::Duplicate { outcome: Some(outcome), .. } => outcome,
        store::Error::Duplicate { outcome: None, .. } => {
            Outcome::Accepted { version: Version(0), position: crate::model::Position(0), events: 0 }
        }
        store::Error::Conflict { actual, expected, .. } => Outcome::Conflict { actual, expected },
        error @ store::Error::IdReused { .. } => Outcome::IdReused { reason: error.to_string() },
        error @ store::Error::Invalid(_) => Outcome::Malformed { reason: error.to_string() },
        error => Outcome::Failed { reason: error.to_string() },
    }
}
