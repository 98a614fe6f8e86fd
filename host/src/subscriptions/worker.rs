//! The thread of a subscription.

use super::Options;
use super::effects::outgoing;
use super::handler::{Handler, Unhandled, Verdict};
use super::outbox::Outbox;
use super::steps::Steps;
use crate::filter::Filter;
use crate::follow::{Follower, IDLE_STRIDE, Progress, Stop, backoff};
use crate::model::{DeadLetter, Parked, Position, RecordedEvent};
use crate::plugin::{Effects, Slot};
use crate::status::State;
use crate::store::{Error, EventStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long to wait for new events before looking for commands to send again.
const IDLE: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    /// Of the subscription and of its plugin.
    name: Arc<str>,
    handler: Handler,
    filter: Filter,
    options: Options,
    outbox: Arc<Outbox>,
    progress: Arc<Progress>,
    follower: Follower,
    steps: Steps,
}

impl Worker {
    pub(super) fn new(
        slot: Arc<Slot>,
        options: Options,
        store: Arc<dyn EventStore>,
        outbox: Arc<Outbox>,
        progress: Arc<Progress>,
        stop: Stop,
        runtime: Handle,
    ) -> Result<Self, Error> {
        let follower = Follower::new(&*store, stop, runtime)?;
        let name = slot.name.clone();
        let handler = Handler::new(slot);
        let filter = handler.filter();
        let steps = Steps::new(name.clone(), store, outbox.clone());
        Ok(Self { name, handler, filter, options, outbox, progress, follower, steps })
    }

    /// After a panic: what the store has under way ends first, since what is durable is known only then.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.steps.abandon();
        self.handler.replace();
        Ok(())
    }

    /// Works until it is stopped. A store that fails, such as on a full disk, is tried again: from its checkpoint.
    pub(super) fn run(&mut self) {
        for attempt in 1.. {
            match self.work() {
                Ok(()) | Err(Error::Closed) => return,
                Err(Error::Failed(reason)) => {
                    tracing::error!("subscription {} is held up: {reason}", self.name);
                    self.progress.is_because(State::Retrying, reason);
                    if self.follower.pause(backoff(self.options.backoff, attempt)) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!("subscription {} stopped: {error}", self.name);
                    return self.progress.is_because(State::Stopped, error.to_string());
                }
            }
        }
    }

    /// Sends what an earlier run left in the outbox, catches up, then follows.
    fn work(&mut self) -> Result<(), Error> {
        // Of an earlier try: where the store is, is known only then.
        self.steps.abandon();
        self.resend()?;
        let mut reached = self.begin()?;
        while !self.follower.is_stopped() {
            crate::supervise::round();
            self.steps.collect()?;
            self.progress.reach(self.steps.done(reached));
            self.progress.is(if reached < self.follower.head() { State::CatchingUp } else { State::Following });
            if self.outbox.must_resend() {
                self.steps.finish()?;
                self.resend()?;
            }
            if let Some(answer) = self.follower.wait_or(reached, IDLE, self.steps.ended()) {
                self.steps.end(answer)?;
                continue;
            }
            if self.follower.is_stopped() {
                break;
            }
            self.renew_code();
            let page = self.follower.page(reached, &self.filter, self.options.batch_max)?;
            if !page.events.is_empty() {
                self.deliver(&page.events, page.reached)?;
            } else if page.reached.0 > self.steps.planned().0 + IDLE_STRIDE {
                self.steps.take(page.reached, Vec::new(), Vec::new(), Vec::new())?;
            }
            reached = self.steps.planned().max(page.reached);
        }
        self.steps.finish()
    }

    /// The checkpoint as the store has it. A subscription without one gets it now, also where it is 0: where it has
    /// started must not be forgotten.
    fn begin(&mut self) -> Result<Position, Error> {
        match self.follower.reader().checkpoint(&self.name)? {
            Some(checkpoint) => self.steps.begin(checkpoint),
            None => {
                self.steps.begin(Position(0));
                let start = self.options.start.checkpoint(self.follower.head());
                self.steps.take(start, Vec::new(), Vec::new(), Vec::new())?;
                self.steps.finish()?;
            }
        }
        Ok(self.steps.planned())
    }

    fn resend(&mut self) -> Result<(), Error> {
        let pending = self.follower.reader().pending_commands(&self.name)?;
        if !pending.is_empty() {
            tracing::info!("subscription {}: {} commands of the outbox are sent again", self.name, pending.len());
        }
        self.outbox.send(pending);
        Ok(())
    }

    /// Handles a page whole, or where that fails what comes before the failing event, then that event alone, then
    /// the rest. A call whose events did not all succeed has no effects.
    fn deliver(&mut self, events: &[RecordedEvent], reached: Position) -> Result<(), Error> {
        let mut rest = events;
        let mut count = self.handler.list(rest.len());
        let mut held_up = 0;
        while !self.follower.is_stopped() {
            let (part, behind) = rest.split_at(count);
            let to = if behind.is_empty() { reached } else { part[part.len() - 1].position };
            match self.handler.events(part) {
                Ok(effects) => self.keep(part, effects, to)?,
                Err(Unhandled::Host(reason)) => {
                    held_up += 1;
                    self.held_up(&reason, held_up)?;
                    continue;
                }
                Err(_) if part.len() == 1 => self.deliver_alone(part, to)?,
                Err(unhandled) => {
                    count = unhandled.fewer(part.len());
                    continue;
                }
            }
            if behind.is_empty() {
                break;
            }
            (rest, count) = (behind, self.handler.list(behind.len()));
        }
        Ok(())
    }

    /// Waits because the host can't call the subscriber. No event is charged with that.
    fn held_up(&mut self, reason: &str, times: u32) -> Result<(), Error> {
        self.steps.finish()?;
        tracing::error!("subscription {} is held up: {reason}", self.name);
        self.progress.is_because(State::Retrying, reason.to_owned());
        self.follower.pause(backoff(self.options.backoff, times));
        self.renew_code();
        Ok(())
    }

    /// Tries one event until it succeeds or its tries are used up; then puts it aside.
    fn deliver_alone(&mut self, event: &[RecordedEvent], to: Position) -> Result<(), Error> {
        let position = event[0].position;
        // What comes before it must not wait for its tries.
        self.steps.finish()?;
        let (mut attempt, mut held_up) = (0, 0);
        while !self.follower.is_stopped() {
            let (reason, wait) = match self.handler.events(event) {
                Ok(effects) => return self.keep(event, effects, to),
                Err(unhandled) => match unhandled.verdict() {
                    Verdict::Again(reason, wait) => (reason, wait),
                    Verdict::Park(reason) => return self.park(&event[0], to, reason),
                    Verdict::Later(reason) => {
                        held_up += 1;
                        self.held_up(&reason, held_up)?;
                        continue;
                    }
                },
            };
            attempt += 1;
            if attempt >= self.options.attempts_max {
                return self.park(&event[0], to, format!("{reason} (tried {attempt} times)"));
            }
            let pause = backoff(self.options.backoff, attempt).max(wait);
            tracing::warn!("subscription {}: event {position} is tried again in {pause:?}: {reason}", self.name);
            self.progress.is_because(State::Retrying, reason);
            if self.follower.pause(pause) {
                return Ok(());
            }
            self.renew_code();
        }
        Ok(())
    }

    /// Has the effects made durable together with the checkpoint.
    fn keep(&mut self, events: &[RecordedEvent], effects: Effects, reached: Position) -> Result<(), Error> {
        let (commands, messages) = outgoing(&self.name, effects, |index| &events[index]);
        self.steps.take(reached, commands, messages, Vec::new())
    }

    fn park(&mut self, event: &RecordedEvent, to: Position, reason: String) -> Result<(), Error> {
        tracing::warn!("subscription {}: event {} put aside: {reason}", self.name, event.position);
        let letter = DeadLetter {
            consumer: self.name.to_string(),
            place: format!("event {} of {} version {} ({})", event.position, event.stream, event.version, event.name),
            key: Some(event.stream.aggregate_id.to_string()),
            reason,
            time_ms: crate::clock::Clock::system().now_ms(),
            content: Parked::Event(event.position),
        };
        self.steps.take(to, Vec::new(), Vec::new(), vec![letter])
    }

    /// New code from here on, if there is any.
    fn renew_code(&mut self) {
        if self.handler.renew() {
            self.filter = self.handler.filter();
        }
    }
}
