//! The thread of a subscription.

use super::Options;
use super::effects::{Outgoing, outgoing};
use super::handler::{Handler, RetryDecision, Unhandled};
use super::outbox::Outbox;
use super::pausing::Pausing;
use super::steps::Steps;
use crate::filter::Filter;
use crate::follow::{Follower, IDLE_STRIDE, Progress, Stop, backoff};
use crate::model::{DeadLetter, DeadLetterContent, Position, RecordedEvent};
use crate::plugin::{Effects, Slot};
use crate::status::State;
use crate::store::{Error, EventStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long to wait for new events before looking for commands to send again.
const IDLE: Duration = Duration::from_secs(1);

/// How often a paused subscription looks whether a person has resumed it.
const LOOK: Duration = Duration::from_millis(100);

pub(super) struct Worker {
    /// Of the subscription and of its plugin.
    name: Arc<str>,
    handler: Handler,
    filter: Filter,
    options: Options,
    outbox: Arc<Outbox>,
    progress: Arc<Progress>,
    pausing: Arc<Pausing>,
    follower: Follower,
    steps: Steps,
    /// The checkpoint behind which nothing more is handled, because there is no room for another dead letter, and the
    /// store's words for it. The event is tried again meanwhile, and what the guest says of it is not what is in the way.
    no_room: Option<(Position, String)>,
}

impl Worker {
    #[expect(clippy::too_many_arguments, reason = "it takes over what `Subscription::start` has prepared")]
    pub(super) fn new(
        slot: Arc<Slot>,
        options: Options,
        store: Arc<dyn EventStore>,
        outbox: Arc<Outbox>,
        progress: Arc<Progress>,
        pausing: Arc<Pausing>,
        stop: Stop,
        runtime: Handle,
    ) -> Result<Self, Error> {
        let follower = Follower::new(&*store, stop, runtime)?;
        let name = slot.name.clone();
        let handler = Handler::new(slot);
        let filter = handler.filter();
        let steps = Steps::new(name.clone(), store, outbox.clone());
        Ok(Self { name, handler, filter, options, outbox, progress, pausing, follower, steps, no_room: None })
    }

    /// After a panic: what the store has under way ends first, since what is durable is known only then.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.steps.abandon();
        self.handler.replace();
        Ok(())
    }

    /// Works until it is stopped. A store that fails, such as on a full disk, or has no room for dead letters is tried
    /// again: from its checkpoint.
    pub(super) fn run(&mut self) {
        for attempt in 1.. {
            match self.work() {
                Ok(()) | Err(Error::Closed) => return,
                Err(error) if error.is_passing() => {
                    tracing::error!("subscription {} is held up: {error}", self.name);
                    if matches!(error, Error::Full(_)) {
                        self.no_room = Some((self.steps.stored(), error.to_string()));
                    }
                    self.progress.is_because(State::Retrying, error.to_string());
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
            if self.pausing.is_paused() {
                self.stand_still(reached)?;
                continue;
            }
            self.show(reached);
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
                if !self.deliver(&page.events, page.reached)? {
                    // What was looked at before the page and not wanted needed no step.
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
        match no_room.or_else(|| self.outbox.trouble()) {
            Some(reason) => self.progress.is_because(State::Retrying, reason),
            None if reached < self.follower.head() => self.progress.is(State::CatchingUp),
            None => self.progress.is(State::Following),
        }
    }

    /// Handles nothing until a person resumes it, or the host stops. What it asked for before still takes effect. The
    /// checkpoint becomes all that it has reached, so that it stands where it was paused over a restart too.
    fn stand_still(&mut self, reached: Position) -> Result<(), Error> {
        if reached > self.steps.planned() {
            self.steps.take(reached, Vec::new(), Vec::new(), Vec::new())?;
        }
        self.steps.finish()?;
        self.progress.reach(self.steps.done(reached));
        self.progress.is_because(State::Paused, self.pausing.remedy());
        while self.pausing.is_paused() && !self.follower.pause(LOOK) {
            if self.outbox.must_resend() {
                self.resend()?;
            }
        }
        Ok(())
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
    /// the rest. A call whose events did not all succeed has no effects. False if it was not finished: the host stops, or
    /// a person has paused the subscription.
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
                    if !self.insist(part, to, unhandled)? {
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
        self.follower.is_stopped() || self.pausing.is_paused()
    }

    /// Waits because the host can't call the subscriber. No event is charged with that.
    fn held_up(&mut self, reason: &str, times: u32) -> Result<(), Error> {
        self.steps.finish()?;
        tracing::error!("subscription {} is held up: {reason}", self.name);
        self.progress.is_because(State::Retrying, reason.to_owned());
        self.rest(backoff(self.options.backoff, times));
        Ok(())
    }

    /// Tries one event that failed alone until it succeeds or its tries are used up; then Dead-letters it. False if it was
    /// not finished.
    fn insist(&mut self, event: &[RecordedEvent], to: Position, mut unhandled: Unhandled) -> Result<bool, Error> {
        let position = event[0].position;
        // What comes before it must not wait for its tries.
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
                        self.progress.is_because(State::Retrying, reason);
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

    /// Waits before a try: until there is new code, the host stops, or a person pauses the subscription, at the latest.
    fn rest(&mut self, pause: Duration) {
        let Self { follower, handler, pausing, .. } = self;
        follower.pause_unless(pause, || handler.is_outdated() || pausing.is_paused());
        self.renew_code();
    }

    /// Has the effects made durable together with the checkpoint.
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

    /// New code from here on, if there is any.
    fn renew_code(&mut self) {
        if self.handler.renew() {
            self.filter = self.handler.filter();
        }
    }
}
