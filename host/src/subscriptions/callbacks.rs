//! The thread that handles the callbacks of a subscription: the outcomes of its commands, and its timers.
//!
//! A callback is a row in the store. It is handled in a guest of this thread, and the row is deleted in the transaction of
//! the effects, so a callback takes effect once. If it was cancelled meanwhile, the store refuses the step. A callback that
//! fails is postponed in the store, together with the later ones of its key, so nothing waits for it in memory.

use super::effects::{Outgoing, outgoing};
use super::handler::{Handler, RetryDecision, Unhandled};
use super::outbox::Outbox;
use super::pausing::Pausing;
use crate::ack;
use crate::backoff::{Backoff, Pauses};
use crate::bounds::Bounds;
use crate::clock::Clock;
use crate::follow::{Follower, Stop};
use crate::model::{CallbackContent, DeadLetter, DeadLetterContent, KeptCallback, Position};
use crate::plugin::{Effect, Effects, Slot};
use crate::store::{self, Error, EventStore, NextCallback, Reached, Reader};
use crate::supervise::{self, Held as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The longest wait for a callback. After it the thread reads the clock again, which may have jumped.
const IDLE: Duration = Duration::from_secs(1);

/// How often a paused thread looks whether a person has resumed the subscription.
const LOOK: Duration = Duration::from_millis(100);

/// How far the wall clock must go back to count as a jump.
const JUMP_MS: u64 = 1_000;

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

/// The parts of the host that the callbacks of a subscription need.
#[derive(Clone)]
pub struct CallbackEnvironment {
    /// The runtime in which the thread waits.
    pub runtime: Handle,
    /// The clock by which timers are due.
    pub clock: Clock,
}

/// The parts of a subscription that its callbacks share with it.
pub(super) struct CallbackLinks {
    /// The name of the subscription in the store.
    pub(super) subscription: Arc<str>,
    pub(super) slot: Arc<Slot>,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) pausing: Arc<Pausing>,
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

/// What others may know of the thread.
#[derive(Default)]
struct CallbackView {
    /// Whether callbacks are being handled, until their commands are sent.
    is_working: AtomicBool,
    /// Why callbacks are retried or can't be handled.
    trouble: Mutex<Option<String>>,
}

impl Callbacks {
    /// Starts the thread.
    pub(super) fn start(
        links: CallbackLinks,
        options: CallbackOptions,
        environment: CallbackEnvironment,
    ) -> Result<Self, Error> {
        let (stop, stopped) = Stop::new();
        let CallbackEnvironment { runtime, clock } = environment;
        let view: Arc<CallbackView> = Arc::default();
        let (subscription, store) = (links.subscription.clone(), links.store.clone());
        let worker = CallbackWorker {
            handler: Handler::new(links.slot.clone()),
            follower: Follower::new(&*store, stopped, runtime)?,
            changed: store.callbacks_changed(),
            last_ms: clock.now_ms(),
            must_hasten: true,
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

    /// Returns whether callbacks move without any input. A timer that is not due does not count.
    pub(super) fn is_busy(&self) -> bool {
        let now_ms = self.clock.now_ms();
        // The rows are looked at first: when they are gone, their commands may not be sent yet.
        self.next().is_ok_and(|next| next.is_retried || next.due_ms.is_some_and(|due| due <= now_ms))
            || self.view.is_working.load(Ordering::Acquire)
    }

    /// Returns when the next timer is due, if there is one.
    pub(super) fn next_timer_ms(&self) -> Option<u64> {
        self.next().ok()?.timer_ms
    }

    fn next(&self) -> Result<NextCallback, Error> {
        self.reader.held().next_callback(&self.subscription)
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
    /// The time at the last look, to notice if the clock went back.
    last_ms: u64,
    /// Whether the pauses of callbacks are to end.
    must_hasten: bool,
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
        self.must_hasten = true;
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

    /// Handles the callbacks that are due. Returns false if there were none.
    fn work(&mut self) -> Result<bool, Error> {
        self.renew()?;
        let batch_max = self.options.batch_max;
        let mut due = self.follower.reader().due_callbacks(&self.links.subscription, self.last_ms, batch_max)?;
        if due.is_empty() {
            return Ok(false);
        }
        self.show_no_old_trouble()?;
        self.view.is_working.store(true, Ordering::Release);
        while !due.is_empty() && !self.follower.is_stopped() && !self.links.pausing.is_paused() {
            let count = match &due[0].callback.content {
                CallbackContent::Send(_) => self.send(&due)?,
                CallbackContent::Outcome { .. } | CallbackContent::Wake { .. } => self.deliver(&due)?,
            };
            // None: what is due may have changed.
            let Some(count) = count else { break };
            due.drain(..count);
        }
        Ok(true)
    }

    /// Reads the clock, and switches to new code. Both may end the pauses of callbacks, and so does a restart.
    fn renew(&mut self) -> Result<(), Error> {
        let now_ms = self.clock.now_ms();
        let went_back = now_ms.saturating_add(JUMP_MS) < std::mem::replace(&mut self.last_ms, now_ms);
        self.must_hasten |= self.handler.renew() || went_back;
        if self.must_hasten {
            let subscription = &self.links.subscription;
            ack::wait(|ack| self.links.store.hasten_callbacks(subscription, ack))?;
            self.must_hasten = false;
        }
        Ok(())
    }

    /// Forgets the trouble if no callback is retried any more.
    fn show_no_old_trouble(&mut self) -> Result<(), Error> {
        if self.view.trouble.held().is_some()
            && !self.follower.reader().next_callback(&self.links.subscription)?.is_retried
        {
            *self.view.trouble.held() = None;
        }
        Ok(())
    }

    /// Waits until a callback is due or may be due.
    fn wait(&mut self) {
        let next = self.follower.reader().next_callback(&self.links.subscription).unwrap_or_default();
        // An error shows when the callbacks are read next.
        let _ = self.show_no_old_trouble();
        let until_due = next.due_ms.map_or(IDLE, |due| Duration::from_millis(due.saturating_sub(self.clock.now_ms())));
        let Self { follower, changed, .. } = self;
        follower.wait_or(Position(u64::MAX), until_due.min(IDLE), async {
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
        let mut count = self.handler.list(deliverable(due));
        loop {
            let batch = &due[..count];
            match self.handler.callbacks(batch) {
                Ok(effects) => match cancelled_later(batch, &effects) {
                    // It must not be delivered: a callback before it cancels it.
                    Some(before) => count = before,
                    None => {
                        let outgoing =
                            outgoing(&self.links.subscription, effects, self.options.bounds, |index| &batch[index]);
                        let outgoing = outgoing.logged(&self.links.subscription);
                        return self.step(batch, outgoing);
                    }
                },
                Err(Unhandled::Host(reason)) => {
                    self.held_up(&reason);
                    self.follower.pause(self.options.backoff.pause(1));
                    return Ok(None);
                }
                Err(unhandled) => {
                    // A guest may name a callback that it did not get.
                    let index = if count == 1 { Some(0) } else { unhandled.index().filter(|index| *index < count) };
                    match index {
                        Some(0) => return self.failed(&batch[0], unhandled),
                        Some(index) => {
                            self.known = Some((batch[index].number, unhandled));
                            count = index;
                        }
                        None => count = unhandled.fewer(count),
                    }
                }
            }
        }
    }

    /// Postpones a callback that failed by itself, or dead-letters it.
    fn failed(&mut self, kept: &KeptCallback, unhandled: Unhandled) -> Result<Option<usize>, Error> {
        let attempts = kept.attempts + 1;
        let (reason, pause) = match unhandled.decision() {
            RetryDecision::DeadLetter(reason) => return self.dead_letter(kept, reason),
            RetryDecision::Again(reason, _) if attempts >= self.options.attempts_max => {
                return self.dead_letter(kept, format!("{reason} (tried {attempts} times)"));
            }
            RetryDecision::Again(reason, wait) => {
                (reason, self.options.bounds.pause(self.options.backoff.pause(attempts), wait))
            }
            RetryDecision::Later(reason) => (reason, self.options.backoff.pause(1)),
        };
        self.postpone(kept, pause, reason)
    }

    fn postpone(&mut self, kept: &KeptCallback, pause: Duration, reason: String) -> Result<Option<usize>, Error> {
        let place = kept.place();
        tracing::warn!("subscription {}: {place} is tried again in {pause:?}: {reason}", self.links.subscription);
        *self.view.trouble.held() = Some(format!("{place}: {reason}"));
        let until_ms = self.clock.now_ms().saturating_add(pause.as_millis() as u64);
        let CallbackLinks { subscription, store, .. } = &self.links;
        ack::wait(|ack| store.postpone_callback(subscription, kept.number, until_ms, ack))?;
        Ok(None)
    }

    fn dead_letter(&mut self, kept: &KeptCallback, reason: String) -> Result<Option<usize>, Error> {
        let (subscription, place) = (&self.links.subscription, kept.place());
        tracing::warn!("subscription {subscription}: {place} can't be handled: {reason}");
        let letter = DeadLetter {
            consumer: subscription.to_string(),
            place,
            key: kept.callback.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned),
            reason,
            time_ms: Some(kept.time_ms),
            content: DeadLetterContent::Callback(kept.clone()),
        };
        let outgoing = Outgoing { dead_letters: vec![letter], ..Outgoing::default() };
        match self.step(std::slice::from_ref(kept), outgoing) {
            // The callbacks of other keys do not wait for room.
            Err(Error::Full(reason)) => {
                let pause = self.options.backoff.pause(kept.attempts + 1);
                self.postpone(kept, pause, reason)
            }
            done => done,
        }
    }

    /// Makes the effects durable and removes the callbacks with them. Returns `None` if one of them is gone.
    fn step(&mut self, handled: &[KeptCallback], outgoing: Outgoing) -> Result<Option<usize>, Error> {
        let numbers = handled.iter().map(|kept| kept.number).collect();
        let step = outgoing.step(&self.links.subscription, Reached::Callbacks(numbers));
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

/// Returns how many callbacks from the first on can be delivered in one call. A callback that failed before is delivered
/// alone.
fn deliverable(due: &[KeptCallback]) -> usize {
    let is_plain =
        |kept: &&KeptCallback| kept.attempts == 0 && !matches!(kept.callback.content, CallbackContent::Send(_));
    due.iter().take_while(is_plain).count().max(1)
}

/// Returns the number of callbacks up to one that cancels or replaces the timer of a later one, if there is one.
fn cancelled_later(batch: &[KeptCallback], effects: &Effects) -> Option<usize> {
    effects.list.iter().find_map(|(index, effect)| {
        let name = match effect {
            Effect::Cancel(name) | Effect::Wake(name, ..) | Effect::Later(Some(name), ..) => name,
            Effect::Later(None, ..) | Effect::Command(_) | Effect::Message(_) => return None,
        };
        let next = *index as usize + 1;
        batch[next..].iter().any(|kept| kept.timer.as_deref() == Some(name)).then_some(next)
    })
}
