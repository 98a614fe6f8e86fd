//! The thread that handles the callbacks of a subscription: the outcomes of its commands, and its timers.
//!
//! A callback is a row in the store. It is handled in a guest of this thread, and the row is deleted in the transaction of
//! the effects, so a callback takes effect once. If it was cancelled meanwhile, the store refuses the step.
//!
//! A callback that fails pauses its key: no callback of the key is read until the pause is over. The pauses and the number
//! of attempts are in memory, so a restart ends the pauses and counts from 0, as it does for events.

use super::consumer;
use super::deferred::DeferredKeys;
use super::effects::{Outgoing, outgoing};
use super::handler::{Handler, RetryDecision, Unhandled};
use super::outbox::Outbox;
use super::pausing::Pausing;
use super::records::{failed_record, held_record_key};
use crate::ack;
use crate::backoff::{Backoff, Pauses};
use crate::bounds::Bounds;
use crate::clock::Clock;
use crate::flows::Flows;
use crate::follow::{Follower, Stop};
use crate::manifest::OnFailure;
use crate::model::{
    CallbackContent, CallbackKey, DeadLetter, DeadLetterContent, KeptCallback, Position, Record, key_text,
};
use crate::plugin::{Effect, Effects, Slot};
use crate::store::{self, Error, EventStore, HeldKey, KeyChange, KeyState, NextCallback, Reached, Reader, Step};
use crate::supervise::{self, Held as _};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The longest wait for a callback. After it the thread reads the clock again, which may have jumped.
const IDLE: Duration = Duration::from_secs(1);

/// How often a paused thread looks whether a person has resumed the subscription.
const LOOK: Duration = Duration::from_millis(100);

/// The most keys that are paused at the same time. A callback that fails beyond that is tried again in place, and all
/// others wait for it.
const PAUSED_KEYS_MAX: usize = 10_000;

/// Why an event that was deferred for a saga is dead-lettered.
const NO_SAGA: &str = "it was deferred for a saga, and the plugin has none: load the saga again, or discard it";

/// Settings of the callbacks of a subscription.
pub(super) struct CallbackOptions {
    /// The largest number of callbacks in one call.
    pub(super) batch_max: usize,
    /// The number of attempts before a callback is dead-lettered.
    pub(super) attempts_max: u32,
    /// The pauses between the attempts.
    pub(super) backoff: Backoff,
    /// Bounds of its pauses and of its chains of causes.
    pub(super) bounds: Bounds,
}

/// The parts of the host that a subscription needs.
#[derive(Clone)]
pub struct Environment {
    /// The runtime in which the thread waits.
    pub runtime: Handle,
    /// The clock by which timers are due.
    pub clock: Clock,
    /// The flows that somebody watches.
    pub flows: Flows,
}

/// The parts of a subscription that its callbacks share with it.
pub(super) struct CallbackLinks {
    /// The name of the subscription in the store, or of the segment.
    pub(super) subscription: Arc<str>,
    /// The consumer of its dead letters, after which the ids of its effects are named.
    pub(super) consumer: Arc<str>,
    pub(super) slot: Arc<Slot>,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) pausing: Arc<Pausing>,
    /// The records that are deferred, if the subscription is that of a source.
    pub(super) records: Option<DeferredRecords>,
}

/// The records of a source that are deferred, because one of the same key before them is a dead letter.
#[derive(Clone)]
pub(super) struct DeferredRecords {
    pub(super) source: Arc<str>,
    pub(super) on_failure: OnFailure,
    pub(super) keys: Arc<Mutex<DeferredKeys>>,
    /// Held while a record that was deferred is handled, while a dead letter is replayed until its commands are sent, and
    /// while the keys are read from the store.
    pub(super) turns: Arc<Mutex<()>>,
}

impl DeferredRecords {
    fn change(&self, key: &Arc<str>, is_held: bool, to: KeyState) -> KeyChange {
        KeyChange { stream: held_record_key(key), from: is_held.then_some(HeldKey::NO_VERSION), to }
    }
}

/// The callbacks of a running subscription.
pub(super) struct Callbacks {
    subscription: Arc<str>,
    reader: Mutex<Box<dyn Reader>>,
    clock: Clock,
    view: Arc<CallbackView>,
    stop: watch::Sender<bool>,
    thread: supervise::Thread,
}

/// How far the callbacks of a subscription are.
pub(super) struct CallbackProgress {
    /// The number of callbacks that were handled since the host started.
    pub(super) handled: u64,
    /// Whether callbacks move without any input. A timer that is not due does not count.
    pub(super) is_busy: bool,
    /// When the next timer is due, if there is one.
    pub(super) next_timer_ms: Option<u64>,
}

/// What others may know of the thread.
#[derive(Default)]
struct CallbackView {
    /// Whether callbacks are being handled, until their commands are sent.
    is_working: AtomicBool,
    /// Why callbacks are retried or can't be handled.
    trouble: Mutex<Option<String>>,
    /// The number of callbacks that were handled since the host started.
    handled: AtomicU64,
}

/// A key of which a callback failed.
struct PausedKey {
    /// The number of the callback.
    number: u64,
    /// The number of its attempts that count.
    attempts: u32,
    until: Instant,
}

impl Callbacks {
    /// Starts the thread.
    pub(super) fn start(
        links: CallbackLinks,
        options: CallbackOptions,
        environment: Environment,
    ) -> Result<Self, Error> {
        let (stop, stopped) = Stop::new();
        let Environment { runtime, clock, .. } = environment;
        let view: Arc<CallbackView> = Arc::default();
        let (subscription, store) = (links.subscription.clone(), links.store.clone());
        let worker = CallbackWorker {
            handler: Handler::new(links.slot.clone()),
            follower: Follower::new(&*store, stopped, runtime)?,
            changed: store.callbacks_changed(),
            paused: HashMap::new(),
            known: None,
            clock: clock.clone(),
            view: view.clone(),
            links,
            options,
        };
        let name = format!("callbacks-{subscription}");
        let thread = supervise::restarting(name, || Ok(worker), CallbackWorker::begin_again, CallbackWorker::run)
            .map_err(|error| {
                Error::Failed(format!("can't start the thread of callbacks of {subscription}: {error}"))
            })?;
        let reader = Mutex::new(store.reader()?);
        Ok(Self { subscription, reader, clock, view, stop, thread })
    }

    /// Returns how far they are. It reads the store.
    pub(super) fn progress(&self) -> CallbackProgress {
        // The rows are read first: when they are gone, their commands may not be sent yet.
        let next = self.reader.held().next_callback(&self.subscription, self.clock.now_ms());
        let NextCallback { is_due, timer_ms, .. } = next.unwrap_or_default();
        let is_working = self.view.is_working.load(Ordering::Acquire);
        let handled = self.view.handled.load(Ordering::Relaxed);
        CallbackProgress { handled, is_busy: is_due || is_working, next_timer_ms: timer_ms }
    }

    /// Returns why callbacks are retried or can't be handled.
    pub(super) fn trouble(&self) -> Option<String> {
        self.view.trouble.held().clone()
    }

    /// Returns the monitor of the thread.
    pub(super) fn monitor(&self) -> &supervise::Monitor {
        self.thread.monitor()
    }

    /// Stops after the current step.
    pub(super) fn stop(&self) {
        // An error means that the thread has already ended.
        let _ = self.stop.send(true);
        self.thread.join();
    }
}

/// The state of the thread.
struct CallbackWorker {
    links: CallbackLinks,
    options: CallbackOptions,
    handler: Handler,
    follower: Follower,
    changed: watch::Receiver<u64>,
    clock: Clock,
    paused: HashMap<CallbackKey, PausedKey>,
    /// A callback that is known to fail, once those before it are handled.
    known: Option<(u64, Unhandled)>,
    view: Arc<CallbackView>,
}

impl CallbackWorker {
    /// Restarts after a panic. Commands of a step may be durable and not sent.
    fn begin_again(&mut self) -> Result<(), Error> {
        self.handler.replace();
        self.links.outbox.resend()?;
        self.view.is_working.store(false, Ordering::Release);
        self.paused.clear();
        Ok(())
    }

    /// Works until it is stopped. If the store fails, the work restarts from the rows.
    fn run(&mut self) {
        let mut pauses = Pauses::new(self.options.backoff.first);
        while !self.follower.is_stopped() {
            supervise::round();
            // Commands that an earlier run has left are sent before those of callbacks.
            if self.links.pausing.is_paused() || !self.links.outbox.has_caught_up() {
                self.follower.pause(LOOK);
                continue;
            }
            self.changed.mark_unchanged();
            let worked = self.work();
            self.view.is_working.store(false, Ordering::Release);
            match worked {
                Ok(true) => {}
                Ok(false) => self.wait(),
                Err(Error::Closed) => return,
                Err(error) => {
                    self.held_up(&error.to_string());
                    self.follower.pause(pauses.after_failure());
                }
            }
        }
    }

    /// Handles the callbacks that are due, without those of paused keys. Returns false if there were none.
    fn work(&mut self) -> Result<bool, Error> {
        if self.handler.renew() {
            self.paused.clear();
        }
        // A replay that releases a key sends its commands before those of the records that waited.
        let turns = self.links.records.as_ref().map(|records| records.turns.clone());
        let _turn = turns.as_ref().map(|turns| turns.held());
        let (now, now_ms) = (Instant::now(), self.clock.now_ms());
        let waiting = self.paused.iter().filter(|(_, paused)| paused.until > now).map(|(key, _)| key.clone()).collect();
        let CallbackOptions { batch_max, .. } = self.options;
        let subscription = &self.links.subscription;
        let mut due = self.follower.reader().due_callbacks(subscription, now_ms, &waiting, batch_max)?;
        if due.is_empty() {
            return Ok(false);
        }
        self.view.is_working.store(true, Ordering::Release);
        while !due.is_empty() && !self.follower.is_stopped() && !self.links.pausing.is_paused() {
            let count = match &due[0].callback.content {
                CallbackContent::Send(_) => self.send(&due)?,
                CallbackContent::Outcome { .. } | CallbackContent::Wake { .. } | CallbackContent::Response(_) => {
                    self.deliver(&due)?
                }
                CallbackContent::Event(_) => self.dead_letter(&due[0], NO_SAGA.to_owned())?,
                CallbackContent::Record(record) => self.record(&due[0], &record.clone())?,
            };
            // None: what is due may have changed.
            let Some(count) = count else { break };
            due.drain(..count).for_each(|kept| self.has_ended(&kept));
        }
        Ok(true)
    }

    /// Notes that a callback was handled or dead-lettered.
    fn has_ended(&mut self, kept: &KeptCallback) {
        self.view.handled.fetch_add(1, Ordering::Relaxed);
        if self.paused.get(&kept.callback.key).is_some_and(|paused| paused.number == kept.number) {
            self.paused.remove(&kept.callback.key);
            self.show_no_old_trouble();
        }
    }

    /// Forgets the trouble if no key is paused any more.
    fn show_no_old_trouble(&self) {
        if self.paused.is_empty() {
            *self.view.trouble.held() = None;
        }
    }

    /// Ends the pauses behind callbacks that were cancelled.
    fn forget_cancelled(&mut self) -> Result<(), Error> {
        let Self { paused, follower, .. } = self;
        let mut gone = Vec::new();
        for (key, PausedKey { number, .. }) in &*paused {
            if !follower.reader().has_callback(*number)? {
                gone.push(key.clone());
            }
        }
        gone.iter().for_each(|key| _ = paused.remove(key));
        self.show_no_old_trouble();
        Ok(())
    }

    /// Frees the keys of records whose dead letters are gone and that have no deferred record.
    fn free_released(&mut self) -> Result<(), Error> {
        let Some(records) = self.links.records.clone() else { return Ok(()) };
        if records.keys.held().held() == 0 {
            return Ok(());
        }
        let _turn = records.turns.held();
        let held = self.follower.reader().held_keys(&self.links.subscription)?;
        let released = records.keys.held().released(held);
        for stream in released {
            let key = stream.aggregate_id.clone();
            let change = records.change(&key, true, KeyState::Free);
            let step = Step { key: Some(change), ..Step::new(self.links.subscription.clone(), Reached::Key) };
            ack::wait(|ack| self.links.store.advance(step, ack))?;
            records.keys.held().free(&key);
        }
        Ok(())
    }

    /// Waits until a callback is due or may be due, or a pause is over.
    fn wait(&mut self) {
        // An error shows when the callbacks are read next.
        let _ = self.forget_cancelled().and_then(|()| self.free_released());
        let now_ms = self.clock.now_ms();
        let next = self.follower.reader().next_callback(&self.links.subscription, now_ms).unwrap_or_default();
        let until_due = next.later_ms.map(|due_ms| Duration::from_millis(due_ms.saturating_sub(now_ms)));
        let pauses = self.paused.values().map(|paused| paused.until.saturating_duration_since(Instant::now()));
        let until_due = until_due.map(|time| self.clock.wait_max(time));
        let time = pauses.chain(until_due).min().map_or(IDLE, |time| time.min(IDLE));
        let Self { follower, changed, .. } = self;
        follower.wait_or(Position(u64::MAX), time, async {
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        });
    }

    /// Sends the commands of the timers at the front. Returns how many callbacks were handled.
    fn send(&mut self, due: &[KeptCallback]) -> Result<Option<usize>, Error> {
        let commands = due.iter().map_while(|kept| match &kept.callback.content {
            CallbackContent::Send(command) => {
                let mut command = (**command).clone();
                command.time_ms = kept.time_ms;
                Some(command)
            }
            _ => None,
        });
        let outgoing = Outgoing { commands: commands.collect(), ..Outgoing::default() };
        let count = outgoing.commands.len();
        self.step(&due[..count], outgoing)
    }

    /// Delivers the callbacks at the front in one call. Returns how many were handled.
    fn deliver(&mut self, due: &[KeptCallback]) -> Result<Option<usize>, Error> {
        if let Some((_, unhandled)) = self.known.take_if(|(number, _)| *number == due[0].number) {
            return self.failed(&due[0], unhandled);
        }
        let mut count = self.handler.list(self.deliverable(due));
        loop {
            let batch = &due[..count];
            match self.handler.callbacks(batch) {
                Ok(effects) => match cancelled_later(batch, &effects) {
                    // It must not be delivered: a callback before it cancels it.
                    Some(before) => count = before,
                    None => {
                        let outgoing =
                            outgoing(&self.links.consumer, effects, self.options.bounds, |index| &batch[index]);
                        let outgoing = outgoing.logged(&self.links.subscription);
                        return self.step(batch, outgoing);
                    }
                },
                Err(Unhandled::Host(_)) if self.follower.is_stopped() => return Ok(None),
                Err(Unhandled::Host(reason)) => {
                    self.held_up(&reason);
                    self.follower.pause(self.options.backoff.pause(1));
                    return Ok(None);
                }
                Err(unhandled) => match unhandled.index_within(count) {
                    Some(0) => return self.failed(&batch[0], unhandled),
                    Some(index) => {
                        self.known = Some((batch[index].number, unhandled));
                        count = index;
                    }
                    None => count = unhandled.fewer(count),
                },
            }
        }
    }

    /// Handles a record that was deferred. The last one of a key that was held frees the key.
    fn record(&mut self, kept: &KeptCallback, record: &Record) -> Result<Option<usize>, Error> {
        let Some(records) = self.links.records.clone() else {
            return self.dead_letter(kept, "it was deferred for a source, and this is none".to_owned());
        };
        match self.handler.records(&records.source, &[record]) {
            Ok(effects) => {
                let outgoing = outgoing(&records.source, effects, self.options.bounds, |_| record);
                let key = Arc::from(kept.key_text());
                let is_last = records.keys.held().is_last(&key);
                let change = is_last.then(|| records.change(&key, true, KeyState::Free));
                let handled =
                    self.step_of(std::slice::from_ref(kept), outgoing.logged(&records.source), change, None)?;
                if handled.is_some() {
                    let mut keys = records.keys.held();
                    keys.taken(&key);
                    if is_last {
                        keys.free(&key);
                    }
                }
                Ok(handled)
            }
            Err(Unhandled::Host(_)) if self.follower.is_stopped() => Ok(None),
            Err(Unhandled::Host(reason)) => {
                self.held_up(&reason);
                self.follower.pause(self.options.backoff.pause(1));
                Ok(None)
            }
            Err(unhandled) => self.failed(kept, unhandled),
        }
    }

    /// Dead-letters a record that was deferred. Unless later ones of its key may pass it, they wait behind it.
    fn dead_letter_record(
        &mut self,
        records: &DeferredRecords,
        kept: &KeptCallback,
        record: &Record,
        reason: String,
    ) -> Result<Option<usize>, Error> {
        let key = Arc::from(kept.key_text());
        let (is_held, is_last) = {
            let keys = records.keys.held();
            (keys.is_held(&key), keys.is_last(&key))
        };
        let passes = records.on_failure == OnFailure::Pass;
        let change = match passes {
            false => Some(records.change(&key, is_held, KeyState::BehindDeadLetter(HeldKey::NO_VERSION))),
            true => is_last.then(|| records.change(&key, true, KeyState::Free)),
        };
        let place = record.place();
        let fact = (records.on_failure == OnFailure::Stop).then(|| self.links.pausing.stop_fact(&place));
        let stops = fact.is_some();
        let letter = failed_record(&records.source, record, reason);
        let outgoing = Outgoing { dead_letters: vec![letter], ..Outgoing::default() };
        let handled = self.step_of(std::slice::from_ref(kept), outgoing, change, fact)?;
        if handled.is_some() {
            let mut keys = records.keys.held();
            keys.taken(&key);
            match passes {
                false => keys.hold(&key),
                true if is_last => keys.free(&key),
                true => {}
            }
            drop(keys);
            if stops {
                self.links.pausing.has_stopped_behind(&place);
            }
            self.has_ended(kept);
        }
        // What is due must be read again, because later records of the key wait now.
        Ok(None)
    }

    /// Pauses the key of a callback that failed by itself, or dead-letters the callback.
    fn failed(&mut self, kept: &KeptCallback, unhandled: Unhandled) -> Result<Option<usize>, Error> {
        let attempts = self.attempts(kept) + 1;
        let (attempts, reason, pause) = match unhandled.decision() {
            RetryDecision::DeadLetter(reason) => return self.dead_letter(kept, reason),
            RetryDecision::Again(reason, _) if attempts >= self.options.attempts_max => {
                return self.dead_letter(kept, format!("{reason} (tried {attempts} times)"));
            }
            RetryDecision::Again(reason, wait) => {
                (attempts, reason, self.options.bounds.pause(self.options.backoff.pause(attempts), wait))
            }
            RetryDecision::Later(reason) => (attempts - 1, reason, self.options.backoff.pause(1)),
        };
        self.pause_key(kept, attempts, pause, reason);
        Ok(None)
    }

    /// Returns how many attempts at a callback have failed.
    fn attempts(&self, kept: &KeptCallback) -> u32 {
        let paused = self.paused.get(&kept.callback.key).filter(|paused| paused.number == kept.number);
        paused.map_or(0, |paused| paused.attempts)
    }

    fn pause_key(&mut self, kept: &KeptCallback, attempts: u32, pause: Duration, reason: String) {
        let (key, place) = (kept.callback.key.clone(), kept.place());
        tracing::warn!("subscription {}: {place} is tried again in {pause:?}: {reason}", self.links.subscription);
        *self.view.trouble.held() = Some(format!("{place}: {reason}"));
        if self.paused.len() >= PAUSED_KEYS_MAX && !self.paused.contains_key(&key) {
            self.follower.pause(pause);
            return;
        }
        self.paused.insert(key, PausedKey { number: kept.number, attempts, until: Instant::now() + pause });
    }

    /// Returns how many callbacks from the first on can be delivered in one call. A callback that failed before is
    /// delivered alone.
    fn deliverable(&self, due: &[KeptCallback]) -> usize {
        let is_plain = |kept: &&KeptCallback| {
            self.attempts(kept) == 0
                && matches!(kept.callback.content, CallbackContent::Outcome { .. } | CallbackContent::Wake { .. })
        };
        due.iter().take_while(is_plain).count().max(1)
    }

    fn dead_letter(&mut self, kept: &KeptCallback, reason: String) -> Result<Option<usize>, Error> {
        let dead_lettered = match (&kept.callback.content, self.links.records.clone()) {
            (CallbackContent::Record(record), Some(records)) => self.dead_letter_record(&records, kept, record, reason),
            _ => {
                let letter = failed_callback(&self.links.subscription, kept, reason);
                let outgoing = Outgoing { dead_letters: vec![letter], ..Outgoing::default() };
                self.step(std::slice::from_ref(kept), outgoing)
            }
        };
        match dead_lettered {
            // The callbacks of other keys do not wait for room.
            Err(Error::Full(reason)) => {
                let attempts = self.attempts(kept);
                self.pause_key(kept, attempts, self.options.backoff.pause(attempts + 1), reason);
                Ok(None)
            }
            done => done,
        }
    }

    /// Makes the effects durable and removes the callbacks with them. Returns `None` if one of them is gone.
    fn step(&mut self, handled: &[KeptCallback], outgoing: Outgoing) -> Result<Option<usize>, Error> {
        self.step_of(handled, outgoing, None, None)
    }

    fn step_of(
        &mut self,
        handled: &[KeptCallback],
        outgoing: Outgoing,
        key: Option<KeyChange>,
        fact: Option<(String, String)>,
    ) -> Result<Option<usize>, Error> {
        let numbers = handled.iter().map(|kept| kept.number).collect();
        let step = Step { key, fact, ..outgoing.step(&self.links.subscription, Reached::Callbacks(numbers)) };
        match ack::wait(|ack| self.links.store.advance(step, ack)) {
            Ok(store::Advanced { commands }) => {
                self.links.outbox.send(commands);
                Ok(Some(handled.len()))
            }
            Err(Error::CallbackGone { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn held_up(&self, reason: &str) {
        tracing::error!("subscription {}: its outcomes and timers are held up: {reason}", self.links.subscription);
        *self.view.trouble.held() = Some(reason.to_owned());
    }
}

/// Makes the dead letter of a callback that a subscription can't handle.
pub(super) fn failed_callback(subscription: &str, kept: &KeptCallback, reason: String) -> DeadLetter {
    let place = kept.place();
    tracing::warn!("subscription {subscription}: {place} can't be handled: {reason}");
    DeadLetter {
        consumer: consumer(subscription),
        place,
        key: key_text(kept.callback.key.as_deref()),
        reason,
        time_ms: Some(kept.time_ms),
        content: DeadLetterContent::Callback(kept.clone()),
    }
}

/// Returns the number of callbacks up to one that cancels or replaces the timer of a later one, if there is one.
fn cancelled_later(batch: &[KeptCallback], effects: &Effects) -> Option<usize> {
    effects.list.iter().find_map(|(index, effect)| {
        let name = match effect {
            Effect::Cancel(name) | Effect::Wake(name, ..) | Effect::Later(Some(name), ..) => name,
            Effect::Later(None, ..) | Effect::Command(_) | Effect::Message(_) | Effect::Http(_) => return None,
        };
        let next = *index as usize + 1;
        batch[next..].iter().any(|kept| kept.timer.as_deref() == Some(name)).then_some(next)
    })
}
