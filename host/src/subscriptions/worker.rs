//! The thread of a subscription.

use super::effects::{Outgoing, outgoing};
use super::handler::{Handler, RetryDecision, Unhandled};
use super::steps::Steps;
use super::{Options, SubscriptionLinks};
use crate::filter::Filter;
use crate::follow::{Follower, IDLE_STRIDE, Pauses, Stop, backoff};
use crate::model::{DeadLetter, DeadLetterContent, Position, RecordedEvent};
use crate::plugin::{Effects, Slot};
use crate::status::State;
use crate::store::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Longest wait for new events. After it the worker checks for commands to send again.
const IDLE: Duration = Duration::from_secs(1);

/// Interval at which a paused subscription checks whether a person has resumed it.
const LOOK: Duration = Duration::from_millis(100);

/// The state of a subscription's thread.
pub(super) struct SubscriptionWorker {
    /// The name of the subscription and of its plugin.
    name: Arc<str>,
    handler: Handler,
    filter: Filter,
    options: Options,
    shared: SubscriptionLinks,
    follower: Follower,
    steps: Steps,
    /// The checkpoint at which the subscription is held up because the store has no room for another dead letter, and
    /// the store's error. The next event is retried meanwhile, but the error to show is the store's, not the guest's.
    no_room: Option<(Position, String)>,
}

impl SubscriptionWorker {
    pub(super) fn new(
        slot: Arc<Slot>,
        options: Options,
        shared: SubscriptionLinks,
        stop: Stop,
        runtime: Handle,
    ) -> Result<Self, Error> {
        let follower = Follower::new(&*shared.store, stop, runtime)?;
        let name = slot.name.clone();
        let handler = Handler::new(slot);
        let filter = handler.filter();
        let steps = Steps::new(name.clone(), shared.store.clone(), shared.outbox.clone());
        Ok(Self { name, handler, filter, options, shared, follower, steps, no_room: None })
    }

    /// Restarts after a panic. It waits for the steps in flight, because only then it is known what is durable.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.steps.abandon();
        self.handler.replace();
        Ok(())
    }

    /// Works until it is stopped. If the store fails for a while, for example on a full disk, or has no room for dead
    /// letters, the work restarts from the checkpoint.
    pub(super) fn run(&mut self) {
        let mut pauses = Pauses::new(self.options.backoff);
        loop {
            match self.work() {
                Ok(()) | Err(Error::Closed) => return,
                Err(error) if error.is_passing() => {
                    tracing::error!("subscription {} is held up: {error}", self.name);
                    if matches!(error, Error::Full(_)) {
                        self.no_room = Some((self.steps.stored(), error.to_string()));
                    }
                    self.shared.progress.is_because(State::Retrying, error.to_string());
                    if self.follower.pause(pauses.after_failure()) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!("subscription {} stopped: {error}", self.name);
                    return self.shared.progress.is_because(State::Stopped, error.to_string());
                }
            }
        }
    }

    /// Sends the commands that an earlier run left in the outbox, catches up, then follows.
    fn work(&mut self) -> Result<(), Error> {
        // Steps of an earlier try may be in flight. Only when they have ended the store's checkpoint is known.
        self.steps.abandon();
        self.resend()?;
        let mut reached = self.begin()?;
        while !self.follower.is_stopped() {
            crate::supervise::round();
            self.steps.collect()?;
            self.shared.progress.reach(self.steps.done(reached));
            if self.shared.pausing.is_paused() {
                self.stand_still(reached)?;
                continue;
            }
            self.show(reached);
            if self.shared.outbox.must_resend() {
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
                if !self.deliver(&page.events, page.reached)? {
                    // Unwanted events before the page needed no step, so `reached` may be further than the steps.
                    reached = self.steps.planned().max(reached);
                    continue;
                }
            } else if page.reached.0 > self.steps.planned().0 + IDLE_STRIDE {
                self.steps.take(page.reached, Vec::new(), Vec::new(), Vec::new())?;
            }
            reached = self.steps.planned().max(page.reached);
        }
        self.steps.finish()
    }

    fn show(&mut self, reached: Position) {
        let stored = self.steps.stored();
        self.no_room.take_if(|(checkpoint, _)| stored > *checkpoint);
        let no_room = self.no_room.as_ref().map(|(_, reason)| reason.clone());
        match no_room.or_else(|| self.shared.outbox.trouble()) {
            Some(reason) => self.shared.progress.is_because(State::Retrying, reason),
            None if reached < self.follower.head() => self.shared.progress.is(State::CatchingUp),
            None => self.shared.progress.is(State::Following),
        }
    }

    /// Processes nothing until a person resumes the subscription or the host stops. Earlier effects still happen. The
    /// checkpoint is moved to `reached`, so that the subscription stays at the same place over a restart.
    fn stand_still(&mut self, reached: Position) -> Result<(), Error> {
        if reached > self.steps.planned() {
            self.steps.take(reached, Vec::new(), Vec::new(), Vec::new())?;
        }
        self.steps.finish()?;
        self.shared.progress.reach(self.steps.done(reached));
        self.shared.progress.is_because(State::Paused, self.shared.pausing.remedy());
        while self.shared.pausing.is_paused() && !self.follower.pause(LOOK) {
            if self.shared.outbox.must_resend() {
                self.resend()?;
            }
        }
        Ok(())
    }

    /// Returns the store's checkpoint. A subscription without one gets it now, even if it is 0, so that its start is
    /// not decided again.
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
        self.shared.outbox.send(pending);
        Ok(())
    }

    /// Processes a page as a whole. If that fails, it processes the events before the failing one, then that event
    /// alone, then the rest. A call whose events did not all succeed has no effects. Returns false if the page is not
    /// finished because the host stops or a person has paused the subscription.
    fn deliver(&mut self, events: &[RecordedEvent], reached: Position) -> Result<bool, Error> {
        let mut rest = events;
        let mut count = self.handler.list(rest.len());
        let mut held_up = 0;
        while !self.stands_still() {
            let (part, behind) = rest.split_at(count);
            let to = if behind.is_empty() { reached } else { part[part.len() - 1].position };
            match self.handler.events(part) {
                Ok(effects) => self.keep(part, effects, to)?,
                Err(Unhandled::Host(reason)) => {
                    held_up += 1;
                    self.held_up(&reason, held_up)?;
                    continue;
                }
                Err(unhandled) if part.len() == 1 => {
                    if !self.retry_event(part, to, unhandled)? {
                        return Ok(false);
                    }
                }
                Err(unhandled) => {
                    count = unhandled.fewer(part.len());
                    continue;
                }
            }
            if behind.is_empty() {
                return Ok(true);
            }
            (rest, count) = (behind, self.handler.list(behind.len()));
        }
        Ok(false)
    }

    fn stands_still(&self) -> bool {
        self.follower.is_stopped() || self.shared.pausing.is_paused()
    }

    /// Waits because the host can't call the subscriber. This does not count as a try of an event.
    fn held_up(&mut self, reason: &str, times: u32) -> Result<(), Error> {
        self.steps.finish()?;
        tracing::error!("subscription {} is held up: {reason}", self.name);
        self.shared.progress.is_because(State::Retrying, reason.to_owned());
        self.rest(backoff(self.options.backoff, times));
        Ok(())
    }

    /// Retries one event that failed alone until it succeeds. When its tries are used up, it is dead-lettered. Returns
    /// false if that is not finished.
    fn retry_event(&mut self, event: &[RecordedEvent], to: Position, mut unhandled: Unhandled) -> Result<bool, Error> {
        let position = event[0].position;
        // The effects of earlier events must not wait for the tries of this one.
        self.steps.finish()?;
        let (mut attempt, mut held_up) = (0, 0);
        loop {
            match unhandled.decision() {
                RetryDecision::DeadLetter(reason) => return self.dead_letter(&event[0], to, reason).map(|()| true),
                RetryDecision::Later(reason) => {
                    held_up += 1;
                    self.held_up(&reason, held_up)?;
                }
                RetryDecision::Again(reason, wait) => {
                    attempt += 1;
                    if attempt >= self.options.attempts_max {
                        let reason = format!("{reason} (tried {attempt} times)");
                        return self.dead_letter(&event[0], to, reason).map(|()| true);
                    }
                    let pause = self.options.bounds.pause(backoff(self.options.backoff, attempt), wait);
                    tracing::warn!(
                        "subscription {}: event {position} is tried again in {pause:?}: {reason}",
                        self.name
                    );
                    if self.no_room.is_none() {
                        self.shared.progress.is_because(State::Retrying, reason);
                    }
                    self.rest(pause);
                }
            }
            if self.stands_still() {
                return Ok(false);
            }
            match self.handler.events(event) {
                Ok(effects) => return self.keep(event, effects, to).map(|()| true),
                Err(again) => unhandled = again,
            }
        }
    }

    /// Pauses before a try. New code, a stop of the host or a person who pauses the subscription ends the pause early.
    fn rest(&mut self, pause: Duration) {
        let Self { follower, handler, shared, .. } = self;
        follower.pause_unless(pause, || handler.is_outdated() || shared.pausing.is_paused());
        self.renew_code();
    }

    /// Makes the effects durable together with the checkpoint.
    fn keep(&mut self, events: &[RecordedEvent], effects: Effects, reached: Position) -> Result<(), Error> {
        let outgoing = outgoing(&self.name, effects, self.options.bounds, |index| &events[index]);
        let Outgoing { commands, messages, dead_letters } = outgoing.logged(&self.name);
        self.steps.take(reached, commands, messages, dead_letters)
    }

    fn dead_letter(&mut self, event: &RecordedEvent, to: Position, reason: String) -> Result<(), Error> {
        tracing::warn!("subscription {}: event {} can't be handled: {reason}", self.name, event.position);
        let letter = DeadLetter {
            consumer: self.name.to_string(),
            place: format!("event {} of {} version {} ({})", event.position, event.stream, event.version, event.name),
            key: Some(event.stream.aggregate_id.to_string()),
            reason,
            time_ms: Some(event.time_ms),
            content: DeadLetterContent::Event(event.position),
        };
        self.steps.take(to, Vec::new(), Vec::new(), vec![letter])
    }

    /// Switches to new code, if there is any.
    fn renew_code(&mut self) {
        if self.handler.renew() {
            self.filter = self.handler.filter();
        }
    }
}
