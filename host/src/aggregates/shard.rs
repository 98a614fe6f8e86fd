//! One shard: a thread with a guest and its live aggregates.
//!
//! The live aggregate decides on a command, the store appends the events at the version of the decision, and the sender
//! is answered after the commit. While the append is under way, the live aggregate decides on the next commands
//! ([`Shard::decide_ahead`]), each on the state after the decision before. Their appends are a chain: once one fails, the store
//! refuses those after it. So many commands to one aggregate share a commit, and nobody but the guest knows of an event
//! before it is durable. If an append fails, the live aggregate is dropped, and the commands behind it are decided again on what the
//! store has.
//!
//! While an aggregate waits for its commits or for a retry, the shard works on others, and commands to the waiting one queue
//! up behind it in their order.
//!
//! A refusal is recorded in the same way, at the version of the decision. If others wrote to the stream meanwhile, the
//! command is decided again. If the refusal could not be recorded, no later command to the aggregate is durable when
//! the source sends this one again.

use super::Options;
use super::chain::{Decisions, SenderAnswer, SettledDecisions, Unappended};
use super::handlers::{GuestDecision, Handlers};
use super::instances::{HandleError, InstanceOf, Instances};
use super::mailbox::Receivers;
use super::pending_command::{Gauges, PendingCommand};
use super::prebuild::PrebuildRequest;
use super::redelivery::CommandRedeliveries;
use super::second_opinion::CodeWatch;
use crate::ack::Ack;
use crate::bell::{Bell, Waiter};
use crate::framing;
use crate::model::{
    Command, ExpectedVersion, Failing, NewEvent, Outcome, OutcomeUse, QuickMap, Refusal, Undecided, Version,
};
use crate::store::{self, Append, Appended, Decision, EventStore};
use crate::supervise::{self, Held as _};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often a shard with commands that wait for a retry checks for new code, which ends their pauses.
const LOOK_FOR_CODE: Duration = Duration::from_millis(250);

/// How long a sender should wait if too many commands wait for one aggregate.
const BUSY_RETRY_AFTER_MS: u64 = 50;

/// The number of commands to one aggregate that are decided ahead before other aggregates get their turn.
const AHEAD_AT_ONCE: usize = 32;

/// The divisor of `in_flight_max`: senders' commands to one aggregate may take up this fraction of it.
const SHARE_OF_ONE: usize = 4;

/// A version that no stream has. If a live aggregate is not at the version that the sender expects, it is not asked.
/// Instead, an append at this version makes the store answer: with the outcome if it knows the command's id, or else
/// with the version of the stream.
const NOWHERE: ExpectedVersion = ExpectedVersion::Exact(Version(u64::MAX));

/// The result of an append: it is durable, or it failed.
struct Settled {
    aggregate: Arc<str>,
    /// The number of the decision.
    number: u64,
    result: Result<Appended, store::Error>,
}

/// How often a command is decided while others write to its stream each time.
const CONFLICTS_MAX: u32 = 20;

/// The longest pause between two of these decisions.
const CONFLICT_PAUSE_MAX: Duration = Duration::from_millis(50);

/// The way of decisions to the store and back.
struct Appends {
    store: Arc<dyn EventStore>,
    returns: Arc<Returns>,
    results: Receiver<Settled>,
}

/// The way of the results to the shard.
struct Returns {
    results: Sender<Settled>,
    bell: Bell,
}

impl Appends {
    /// Results that come to queues before this one are lost.
    #[expect(clippy::disallowed_methods, reason = "what comes back is bounded by what is in flight")]
    fn new(store: Arc<dyn EventStore>, bell: Bell) -> Self {
        // The store's writer must never wait for a shard.
        let (sender, results) = crossbeam_channel::unbounded();
        Self { store, returns: Arc::new(Returns { results: sender, bell }), results }
    }

    /// Has the store record one more decision of an aggregate.
    fn begin<I>(
        &self,
        decisions: &mut Decisions<I>,
        order: PendingCommand,
        expected: ExpectedVersion,
        decision: Decision,
        answer: SenderAnswer,
    ) {
        let chain = Some(decisions.chain().clone());
        let append = Append { command: order.command.clone(), expected, decision, chain };
        let number = decisions.add(order, answer);
        let (aggregate, returns) = (decisions.stream().aggregate_id.clone(), self.returns.clone());
        self.store.append(
            append,
            Ack::new(move |result| {
                // An error means that the shard has ended or restarted.
                let _ = returns.results.send(Settled { aggregate, number, result });
                returns.bell.ring();
            }),
        );
    }
}

/// An aggregate that waits for something, and the commands that wait behind it.
struct Busy<H: Handlers> {
    with: BusyWith<H>,
    waiting: VecDeque<PendingCommand>,
}

/// What an aggregate waits for.
enum BusyWith<H: Handlers> {
    /// The appends of its decisions.
    Appends(Decisions<InstanceOf<H>>),
    /// The retry of a command.
    Retry(PendingCommand),
}

impl<H: Handlers> Busy<H> {
    /// Returns the number of its commands.
    fn len(&self) -> usize {
        self.waiting.len()
            + match &self.with {
                BusyWith::Appends(decisions) => decisions.len(),
                BusyWith::Retry(_) => 1,
            }
    }
}

/// What comes to a shard from outside.
pub(super) struct Inbound<H: Handlers> {
    pub(super) receivers: Receivers,
    /// Requests for what new code is prepared with.
    pub(super) requests: Receiver<PrebuildRequest<H::Guest>>,
    /// The bell that is rung for everything.
    pub(super) bell: Bell,
    pub(super) waiter: Waiter,
}

pub(super) struct Shard<H: Handlers> {
    instances: Instances<H>,
    appends: Appends,
    options: Options,
    busy: QuickMap<Arc<str>, Busy<H>>,
    /// Commands in `busy`.
    in_flight: usize,
    /// The times of the retries, with the aggregate of each.
    retries: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    redeliveries: CommandRedeliveries,
    inbound: Inbound<H>,
    gauges: Arc<Gauges>,
    /// Whether the gauges show trouble.
    is_troubled: bool,
}

impl<H: Handlers> Shard<H> {
    pub(super) fn new(
        handlers: Arc<H>,
        store: Arc<dyn EventStore>,
        options: Options,
        inbound: Inbound<H>,
        gauges: Arc<Gauges>,
    ) -> Result<Self, super::StartError> {
        Ok(Self {
            instances: Instances::new(handlers, store.clone(), options.snapshot_every)?,
            busy: QuickMap::default(),
            in_flight: 0,
            retries: BinaryHeap::new(),
            redeliveries: CommandRedeliveries::default(),
            appends: Appends::new(store, inbound.bell.clone()),
            options,
            inbound,
            gauges,
            is_troubled: false,
        })
    }

    /// Takes over the pending redeliveries of the shards before.
    pub(super) fn after(mut self, redeliveries: CommandRedeliveries) -> Self {
        self.redeliveries = redeliveries;
        self
    }

    /// Resets the shard after a panic. The senders of unfinished commands are told that these failed, and live
    /// aggregates are rebuilt. Appends that are under way still become durable, but the shard does not wait for them
    /// any more.
    pub(super) fn begin_again(&mut self) -> Result<(), super::StartError> {
        self.busy.clear();
        self.in_flight = 0;
        self.retries.clear();
        self.appends = Appends::new(self.appends.store.clone(), self.inbound.bell.clone());
        let dropped = std::mem::take(&mut *self.gauges.dropped.held());
        dropped.iter().for_each(|command| self.redeliveries.add(command));
        self.instances.lose();
        Ok(())
    }

    /// Works until the senders are dropped and every command is answered.
    pub(super) fn run(&mut self) {
        let mut open = true;
        while open || self.in_flight > 0 {
            supervise::round();
            // Settled appends go first: they free aggregates and make room.
            while let Ok(settled) = self.appends.results.try_recv() {
                self.settled(settled);
            }
            while let Ok(request) = self.inbound.requests.try_recv() {
                self.prepare(request);
            }
            self.try_again(open);
            self.gauges.live.store(self.instances.len(), Ordering::Relaxed);
            let room = open && self.in_flight < self.options.in_flight_max;
            match if room { self.inbound.receivers.next() } else { Err(TryRecvError::Empty) } {
                Ok(order) => self.accept(order),
                Err(TryRecvError::Disconnected) => open = false,
                Err(TryRecvError::Empty) if open || self.in_flight > 0 => self.wait(),
                Err(TryRecvError::Empty) => {}
            }
        }
    }

    /// Waits until there is something to do or the senders are dropped.
    fn wait(&self) {
        let due = self.retries.peek().map(|Reverse((due, _))| (*due).min(Instant::now() + LOOK_FOR_CODE));
        self.inbound.waiter.wait(due);
    }

    /// Answers those who prepare new code.
    fn prepare(&mut self, request: PrebuildRequest<H::Guest>) {
        match request {
            PrebuildRequest::Recent(answer) => {
                // Under load most of those in use wait for their commit.
                let ids = self.busy.keys().chain(self.instances.recent()).cloned().collect();
                // An error means that nobody waits for it any more.
                let _ = answer.send(ids);
            }
            PrebuildRequest::Adopt(prebuilt) => self.instances.adopt(prebuilt),
        }
    }

    fn accept(&mut self, order: PendingCommand) {
        match self.busy.get_mut(&order.command.stream.aggregate_id) {
            Some(busy)
                if order.command.origin.is_none()
                    && busy.len() > (self.options.in_flight_max / SHARE_OF_ONE).max(1) =>
            {
                order.answer(Outcome::Busy { retry_after_ms: BUSY_RETRY_AFTER_MS });
            }
            Some(busy) => {
                let aggregate = order.command.stream.aggregate_id.clone();
                busy.waiting.push_back(order);
                self.in_flight += 1;
                self.decide_ahead(&aggregate);
            }
            None => self.decide(order),
        }
    }

    /// Decides the commands that waited for an aggregate, until it has to wait again. `has_failed` says that its last append failed.
    fn go_on(&mut self, aggregate: &Arc<str>, mut waiting: VecDeque<PendingCommand>, has_failed: bool) {
        while !self.busy.contains_key(aggregate) {
            let Some(order) = waiting.pop_front() else { return };
            self.in_flight -= 1;
            self.decide(order);
        }
        if let Some(busy) = self.busy.get_mut(aggregate) {
            // It has just become busy, so no command waits for it yet.
            busy.waiting = waiting;
            if let BusyWith::Appends(decisions) = &mut busy.with
                && has_failed
            {
                decisions.begin_short();
            }
            self.decide_ahead(aggregate);
        }
    }

    /// Decides the commands that wait for an aggregate, although its last decisions are not durable yet. Whatever is neither
    /// accepted nor rejected waits until they are, and is then decided alone.
    fn decide_ahead(&mut self, aggregate: &Arc<str>) {
        for _ in 0..AHEAD_AT_ONCE {
            let Some(Busy { with: BusyWith::Appends(decisions), waiting }) = self.busy.get_mut(aggregate) else {
                return;
            };
            let (Some((instance, version)), Some(order)) = (decisions.open(), waiting.front()) else { return };
            let command = &order.command;
            let may_decide = self.instances.may_decide_ahead(instance, version)
                && command.expected.is_none_or(|expected| expected.allows(version))
                && !self.redeliveries.is_overtaken_by(command, self.instances.reader());
            let (decision, answer) = match may_decide.then(|| self.instances.handle(instance, command)) {
                Some(Ok(Ok(events))) => {
                    let answer = SenderAnswer::Accepted(events.len() as u32);
                    (Decision::Events(events), answer)
                }
                Some(Ok(Err(Refusal::Rejected(reason)))) => rejected(&order.command, reason),
                None | Some(Ok(Err(_))) => return decisions.close(),
                Some(Err(_)) => {
                    decisions.close();
                    return self.instances.lose();
                }
            };
            if let Some(watch) = self.instances.watch() {
                watch.handled();
            }
            let Some(order) = waiting.pop_front() else { return };
            self.appends.begin(decisions, order, ExpectedVersion::Exact(version), decision, answer);
        }
    }

    /// Decides on a command whose aggregate is not busy.
    fn decide(&mut self, order: PendingCommand) {
        if self.redeliveries.is_overtaken_by(&order.command, self.instances.reader()) {
            return self.give_back(order, "an earlier command of its source has to be settled first".into());
        }
        self.instances.renew();
        self.show_trouble();
        let watch = self.instances.watch();
        if let Some(watch) = &watch {
            watch.handled();
        }
        match self.ask(&order.command) {
            Ok((instance, Some(Ok(events)))) => {
                let expected = ExpectedVersion::Exact(instance.version);
                self.append_events(order, instance, expected, events);
            }
            Ok((instance, Some(Err(refusal)))) => self.refused(order, instance, refusal, watch),
            Ok((instance, None)) => self.append_events(order, instance, NOWHERE, Vec::new()),
            Err(HandleError::Trap(reason)) => {
                self.instances.lose();
                self.failed(order, reason, watch);
            }
            Err(HandleError::Host(reason)) => {
                self.instances.lose();
                self.give_back(order, reason);
            }
            Err(HandleError::History(reason)) => self.failed(order, reason, watch),
            Err(HandleError::Store(error)) => {
                tracing::error!("{} can't be read: {error}", order.command.stream);
                self.give_back(order, error.to_string());
            }
        }
    }

    /// Shows in the gauges why there is no guest, or that there is one again.
    fn show_trouble(&mut self) {
        let trouble = self.instances.trouble();
        if trouble.is_some() || self.is_troubled {
            self.is_troubled = trouble.is_some();
            let shown = trouble.map(ToString::to_string);
            *self.gauges.trouble.held() = shown;
        }
    }

    /// Has the live aggregate decide. The decision is `None` if the aggregate is not at the version that the sender
    /// expects.
    fn ask(&mut self, command: &Command) -> Result<(InstanceOf<H>, Option<GuestDecision>), HandleError> {
        let instance = self.instances.take(&command.stream)?;
        if command.expected.is_some_and(|expected| !expected.allows(instance.version)) {
            return Ok((instance, None));
        }
        let decision = self.instances.handle(&instance, command)?;
        Ok((instance, Some(decision)))
    }

    fn append_events(
        &mut self,
        order: PendingCommand,
        instance: InstanceOf<H>,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) {
        let answer = SenderAnswer::Accepted(events.len() as u32);
        self.append(order, expected, Decision::Events(events), Some(instance), answer);
    }

    /// Has the store record a decision of an aggregate that is not busy.
    fn append(
        &mut self,
        order: PendingCommand,
        expected: ExpectedVersion,
        decision: Decision,
        instance: Option<InstanceOf<H>>,
        answer: SenderAnswer,
    ) {
        let aggregate = order.command.stream.aggregate_id.clone();
        let version = instance.as_ref().map_or(Version(0), |instance| instance.version);
        let mut decisions = Decisions::new(order.command.stream.clone(), instance, version);
        if expected == NOWHERE {
            decisions.close();
        }
        self.appends.begin(&mut decisions, order, expected, decision, answer);
        self.make_busy(aggregate, BusyWith::Appends(decisions));
    }

    fn make_busy(&mut self, aggregate: Arc<str>, with: BusyWith<H>) {
        self.busy.insert(aggregate, Busy { with, waiting: VecDeque::new() });
        self.in_flight += 1;
    }

    /// Ends an append of an aggregate, and answers the commands whose decisions are durable. After the last one, the live aggregate is put back, or it
    /// is discarded if an append failed. Then the commands that waited are decided.
    fn settled(&mut self, Settled { aggregate, number, result }: Settled) {
        let Some(Busy { with: BusyWith::Appends(mut decisions), mut waiting }) = self.busy.remove(&aggregate) else {
            unreachable!("an aggregate stays busy until its appends are settled");
        };
        decisions.take_result(number, result);
        while let Some((order, outcome)) = decisions.settle() {
            self.in_flight -= 1;
            order.answer(outcome);
        }
        if !decisions.are_settled() {
            self.busy.insert(aggregate.clone(), Busy { with: BusyWith::Appends(decisions), waiting });
            return self.decide_ahead(&aggregate);
        }
        let SettledDecisions { stream, instance, recorded, failed, mut undone } = decisions.end();
        let has_failed = failed.is_some();
        match (failed.map(|failed| *failed), instance, recorded) {
            (Some(Unappended { command, answer, error }), instance, _) => {
                self.in_flight -= 1;
                if let Some(instance) = instance {
                    self.instances.discard(instance);
                }
                self.not_appended(command, answer, error);
            }
            (None, Some(instance), Some(version)) => self.instances.recorded(&stream, instance, version),
            (None, instance, _) => self.put_back(&aggregate, instance),
        }
        undone.append(&mut waiting);
        self.go_on(&aggregate, undone, has_failed);
    }

    /// Puts a live aggregate back whose state has not changed, if there is one.
    fn put_back(&mut self, aggregate: &Arc<str>, instance: Option<InstanceOf<H>>) {
        if let Some(instance) = instance {
            self.instances.keep(aggregate.clone(), instance);
        }
    }

    fn not_appended(&mut self, mut order: PendingCommand, answer: SenderAnswer, error: store::Error) {
        match (error, answer) {
            (error @ store::Error::Conflict { actual, .. }, _) => {
                if let Some(expected) = order.command.expected
                    && !expected.allows(actual)
                {
                    let conflict = Undecided::Conflict { actual, expected };
                    return match order.command.origin {
                        Some(_) => self.undecided(order, conflict),
                        None => order.answer(conflict.into()),
                    };
                }
                // Others wrote to the stream, so the command is decided again on its new state.
                order.conflicts += 1;
                match order.conflicts {
                    1 => self.decide(order),
                    // Two hosts that write all the time would hinder each other for ever. Whoever waits longer lets the other one through.
                    2..CONFLICTS_MAX => {
                        let longest = CONFLICT_PAUSE_MAX.min(Duration::from_millis(1 << order.conflicts.min(16)));
                        self.retry_after(order, longest.mul_f64(fastrand::f64()));
                    }
                    _ => {
                        let reason = format!("{error}: others write to it at the same time; send the command again");
                        self.give_back(order, reason);
                    }
                }
            }
            (error @ store::Error::Invalid(_), SenderAnswer::Accepted(_)) if order.command.origin.is_some() => {
                self.dead_letter(order, None, error.to_string());
            }
            (error @ store::Error::Archived { .. }, SenderAnswer::Accepted(_)) if order.command.origin.is_some() => {
                self.undecided(order, Undecided::Archived(error.to_string()));
            }
            (error, _) => match outcome_of(error) {
                Outcome::Failed { reason } => self.give_back(order, reason),
                outcome => order.answer(outcome),
            },
        }
    }

    /// Gives a command back that the host could not handle. If it has an origin, its source sends it again, before all
    /// later ones.
    fn give_back(&mut self, order: PendingCommand, reason: String) {
        self.redeliveries.add(&order.command);
        order.answer(Outcome::Failed { reason });
    }

    /// Handles a refusal of the aggregate.
    fn refused(
        &mut self,
        order: PendingCommand,
        instance: InstanceOf<H>,
        refusal: Refusal,
        watch: Option<Arc<dyn CodeWatch>>,
    ) {
        match refusal {
            Refusal::Rejected(reason) => {
                let (decision, answer) = rejected(&order.command, reason);
                self.append(order, ExpectedVersion::Exact(instance.version), decision, Some(instance), answer);
            }
            Refusal::Malformed(reason) => {
                let reason = framing::explained(reason, "payload", &order.command.payload);
                match self.against(&order.command, Failing::Malformed, &reason, watch) {
                    Some(rest) if order.command.origin.is_some() => {
                        self.put_back(&order.command.stream.aggregate_id, Some(instance));
                        self.retry_after(order, rest);
                    }
                    _ => self.dead_letter(order, Some(instance), reason),
                }
            }
            Refusal::Retry { after, reason } => {
                // Nothing is recorded that would tell whether another host has recorded more.
                match self.instances.are_shared() {
                    true => self.instances.discard(instance),
                    false => self.put_back(&order.command.stream.aggregate_id, Some(instance)),
                }
                self.undone(order, reason, after);
            }
        }
    }

    /// Handles a command at which the code failed.
    fn failed(&mut self, order: PendingCommand, reason: String, watch: Option<Arc<dyn CodeWatch>>) {
        match self.against(&order.command, Failing::Trap, &reason, watch) {
            Some(rest) if order.command.origin.is_some() => self.retry_after(order, rest),
            _ => self.undone(order, reason, Duration::ZERO),
        }
    }

    /// Counts a failure against code that is watched, unless the code before fails in the same way. Returns the rest of the watch if
    /// it was counted.
    fn against(
        &mut self,
        command: &Command,
        how: Failing,
        reason: &str,
        watch: Option<Arc<dyn CodeWatch>>,
    ) -> Option<Duration> {
        let watch = watch?;
        if self.instances.fails_before(command, how) {
            return None;
        }
        watch.failed(reason);
        Some(watch.rest())
    }

    /// Has a command, and with it its aggregate, wait before the next attempt, but not longer than until the code changes.
    fn retry_after(&mut self, order: PendingCommand, time: Duration) {
        let aggregate = order.command.stream.aggregate_id.clone();
        self.retries.push(Reverse((Instant::now() + time, aggregate.clone())));
        self.make_busy(aggregate, BusyWith::Retry(order));
    }

    /// Handles a command that was not decided: it is retried if it has an origin; otherwise the sender is told.
    fn undone(&mut self, mut order: PendingCommand, reason: String, after: Duration) {
        order.attempts += 1;
        if order.command.origin.is_none() {
            tracing::error!(
                command = &*order.command.id,
                "{} to {}: {reason}",
                order.command.name,
                order.command.stream
            );
            order.answer(Outcome::Failed { reason });
        } else if order.attempts < self.options.attempts_max {
            self.retry_after(order, after.min(self.options.retry_after_max));
        } else {
            let attempts = order.attempts;
            self.undecided(order, Undecided::Exhausted(format!("{reason} (tried {attempts} times)")));
        }
    }

    /// Retries the commands that are due, and all waiting ones if there is new code. If the host is stopping, it gives
    /// them back instead.
    fn try_again(&mut self, open: bool) {
        if self.retries.is_empty() {
            return;
        }
        let now = Instant::now();
        if !open || self.instances.is_outdated() {
            let waiting = std::mem::take(&mut self.retries);
            self.retries = waiting.into_iter().map(|Reverse((_, aggregate))| Reverse((now, aggregate))).collect();
        }
        while let Some(Reverse((due, _))) = self.retries.peek()
            && *due <= now
        {
            let Some(Reverse((_, aggregate))) = self.retries.pop() else { return };
            let Some(Busy { with: BusyWith::Retry(order), waiting }) = self.busy.remove(&aggregate) else {
                unreachable!("an aggregate stays busy until its command is tried again");
            };
            self.in_flight -= 1;
            if open {
                self.decide(order);
            } else {
                self.give_back(order, "its shard is stopping".into());
            }
            self.go_on(&aggregate, waiting, false);
        }
    }

    /// Ends a command that can't be handled. If it has an origin, it is dead-lettered; otherwise the sender is told.
    fn dead_letter(&mut self, order: PendingCommand, instance: Option<InstanceOf<H>>, reason: String) {
        let Command { id, name, stream, .. } = &*order.command;
        if order.command.origin.is_some() {
            tracing::warn!(command = &**id, "{name} to {stream} can't be handled: {reason}");
        } else {
            tracing::info!(command = &**id, "{name} to {stream} is malformed: {reason}");
        }
        if order.command.origin.is_none() && !order.command.durable_id {
            // The store does not record it: its name may be anything, and counting it would fill the store with names.
            self.put_back(&stream.aggregate_id, instance);
            return order.answer(Outcome::Malformed { reason });
        }
        let answer = Outcome::Malformed { reason: reason.clone() };
        self.record(order, instance, Decision::Malformed(reason), answer);
    }

    /// Ends a command with an origin that is not decided, and never will be.
    fn undecided(&mut self, order: PendingCommand, undecided: Undecided) {
        let Command { id, name, stream, .. } = &*order.command;
        match order.command.outcome_use {
            OutcomeUse::Delivered(_) => tracing::debug!(command = &**id, "{name} to {stream}: {undecided}"),
            _ => tracing::warn!(command = &**id, "{name} to {stream} can't be handled: {undecided}"),
        }
        let answer = undecided.clone().into();
        self.record(order, None, Decision::Undecided(undecided), answer);
    }

    /// Has the store record a decision without events.
    fn record(&mut self, order: PendingCommand, instance: Option<InstanceOf<H>>, decision: Decision, answer: Outcome) {
        let version = instance.as_ref().map(|instance| instance.version);
        let expected = version.map_or(ExpectedVersion::Any, ExpectedVersion::Exact);
        self.append(order, expected, decision, instance, SenderAnswer::Refused(answer));
    }
}

impl<H: Handlers> Drop for Shard<H> {
    fn drop(&mut self) {
        *self.gauges.redeliveries.held() = std::mem::take(&mut self.redeliveries);
    }
}

/// Returns what is recorded of a command that a business rule refused, and what its sender is told.
fn rejected(command: &Command, reason: String) -> (Decision, SenderAnswer) {
    let Command { id, name, stream, .. } = command;
    if command.outcome_use == OutcomeUse::DeadLettered {
        tracing::warn!("command {id} ({name} to {stream}) is dead-lettered: rejected: {reason}");
    }
    // A rejection concerns the sender, not the operator. The status counts it.
    tracing::debug!(command = &**id, "{name} to {stream} rejected: {reason}");
    (Decision::Rejected(reason.clone()), SenderAnswer::Refused(Outcome::Rejected { reason }))
}

/// Converts a store's error to the outcome for the sender.
fn outcome_of(error: store::Error) -> Outcome {
    match error {
        store::Error::Duplicate { outcome: Some(remembered), .. } => Outcome::Remembered(remembered),
        store::Error::Duplicate { outcome: None, .. } => {
            Outcome::Accepted { version: Version(0), position: crate::model::Position(0), events: 0 }
        }
        store::Error::Conflict { actual, expected, .. } => Outcome::Conflict { actual, expected },
        error @ store::Error::IdReused { .. } => Outcome::IdReused { reason: error.to_string() },
        error @ store::Error::Invalid(_) => Outcome::Malformed { reason: error.to_string() },
        error @ store::Error::Archived { .. } => Outcome::Archived { reason: error.to_string() },
        error => Outcome::Failed { reason: error.to_string() },
    }
}
