//! The thread of a subscription.

use super::division::{Share, Successor};
use super::effects::{Outgoing, outgoing};
use super::events::SubscriptionLinks;
use super::handler::{Handler, RetryDecision, Unhandled};
use super::keys::{FirstAttempt, HeldKeys, KeyAnswer};
use super::pausing::event_place;
use super::resets::{Reset, ResetRequest};
use super::steps::{StepResult, Steps};
use super::{Options, dead_lettered, named};
use crate::ack;
use crate::backoff::Pauses;
use crate::filter::Filter;
use crate::follow::{Follower, IDLE_STRIDE, Stop};
use crate::manifest::OnFailure;
use crate::model::{Position, RecordedEvent};
use crate::plugin::{Effects, Slot};
use crate::status::State;
use crate::store::{Error, KeyChange, KeyState, Reached, Step};
use crate::supervise::Held as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Longest wait for new events. After it the worker checks for commands to send again.
const IDLE: Duration = Duration::from_secs(1);

/// Interval at which a paused subscription checks whether a person has resumed it.
const LOOK: Duration = Duration::from_millis(100);

/// The state of a subscription's thread.
pub(super) struct SubscriptionWorker {
    /// The name of the subscription, or of the segment.
    name: Arc<str>,
    successor: Successor,
    share: Share,
    handler: Handler,
    filter: Filter,
    options: Options,
    shared: SubscriptionLinks,
    follower: Follower,
    steps: Steps,
    keys: HeldKeys,
    /// Answers of the key worker that came before the thread may free their keys.
    early: Vec<KeyAnswer>,
    /// Whether an event failed whose key could not be held.
    needs_key: bool,
    /// The checkpoint at which the subscription is held up because the store has no room for another dead letter, and
    /// the store's error. The next event is retried meanwhile, but the error to show is the store's, not the guest's.
    no_room: Option<(Position, String)>,
}

impl SubscriptionWorker {
    pub(super) fn new(
        slot: Arc<Slot>,
        successor: Successor,
        options: Options,
        shared: SubscriptionLinks,
        keys: HeldKeys,
        stop: Stop,
        runtime: Handle,
    ) -> Result<Self, Error> {
        let follower = Follower::new(&*shared.store, stop, runtime)?;
        let name = named(&slot.name, successor.segment);
        let share = Share::new(name.clone(), successor.segment);
        let handler = Handler::new(slot);
        let filter = handler.filter();
        let steps = Steps::new(name.clone(), shared.store.clone(), shared.outbox.clone());
        let (early, needs_key, no_room) = (Vec::new(), false, None);
        Ok(Self {
            name,
            successor,
            share,
            handler,
            filter,
            options,
            shared,
            follower,
            steps,
            keys,
            early,
            needs_key,
            no_room,
        })
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
        let mut pauses = Pauses::new(self.options.backoff.first);
        loop {
            match self.work() {
                Ok(()) | Err(Error::Closed) => return,
                // After a restart it knows the held keys as the store has them.
                Err(error) if error.is_passing() || matches!(error, Error::KeyMoved { .. }) => {
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
        let Self { successor, follower, shared, .. } = self;
        successor.take_over(self.options.start, follower, &shared.pausing, &shared.progress)?;
        self.shared.outbox.resend()?;
        let mut reached = self.begin()?;
        while !self.follower.is_stopped() {
            crate::supervise::round();
            self.steps.collect()?;
            if let Some(request) = self.shared.resets.take() {
                reached = self.reset(request)?;
            }
            self.take_back_keys(reached)?;
            self.shared.progress.reach(self.steps.done(reached));
            if self.shared.pausing.is_paused() {
                self.stand_still(reached)?;
                continue;
            }
            self.show();
            if self.shared.outbox.must_resend() {
                self.steps.finish()?;
                self.shared.outbox.resend()?;
            }
            if let Some(answer) = self.wait(reached) {
                if let Some(answer) = answer {
                    self.steps.end(answer)?;
                }
                continue;
            }
            if self.follower.is_stopped() {
                break;
            }
            self.renew_code();
            let mut page = self.follower.page(reached, &self.filter, self.options.batch_max)?;
            // The page may have events of newer code, which only the newer code of this subscription may meet.
            if self.handler.is_outdated() {
                continue;
            }
            self.share.keep_own(&mut page.events, |stream| self.keys.last_left(stream).is_some());
            if !page.events.is_empty() && !self.deliver(page.events, page.reached)? {
                // Unwanted events before the page needed no step, so `reached` may be further than the steps.
                reached = self.steps.planned().max(reached);
                self.keys.leave_page();
                continue;
            }
            // Unwanted events and those of held keys need no step of their own.
            if page.reached.0 > self.steps.planned().0 + IDLE_STRIDE {
                self.steps.take(page.reached, Outgoing::default(), None, None)?;
            }
            reached = self.steps.planned().max(page.reached);
            self.keys.left_through(reached);
        }
        // So that it resumes there, also with another filter.
        self.steps.finish_at(reached)
    }

    /// Waits until there is an event after a position, or anything else to do. Returns something if it was the store's
    /// answer to a step, or an answer of the key worker.
    fn wait(&mut self, reached: Position) -> Option<Option<StepResult>> {
        let Self { follower, steps, keys, .. } = self;
        let (ended, links) = (steps.ended(), keys.links());
        follower.wait_or(reached, IDLE, async {
            tokio::select! {
                answer = ended => Some(answer),
                () = links.answered() => None,
            }
        })
    }

    /// Takes back the keys whose events are all handled. Everything up to `reached` was processed or left to the key
    /// worker. The checkpoint moves there in the step that frees a key, and all events of the key that are handled must be
    /// before it: the thread would handle them again otherwise.
    fn take_back_keys(&mut self, reached: Position) -> Result<(), Error> {
        while let Some(answer) = self.next_answer(reached) {
            match answer {
                KeyAnswer::Handled { stream, next, seen } => match self.keys.last_left(&stream) {
                    // It was taken back before: the answer is from before a restart.
                    None => {}
                    Some(last) if last > seen || seen > reached => self.keys.go_on(stream),
                    Some(_) => {
                        let change = KeyChange { stream: stream.clone(), from: Some(next), to: KeyState::Free };
                        self.steps.take(reached.max(self.steps.planned()), Outgoing::default(), Some(change), None)?;
                        // Later steps may begin where this one ends, so they would not fail with it.
                        self.steps.finish()?;
                        self.keys.free(stream);
                    }
                },
                KeyAnswer::Moved { stream, reason } if self.keys.last_left(&stream).is_some() => {
                    return Err(Error::Failed(reason));
                }
                KeyAnswer::Moved { .. } => {}
                KeyAnswer::Lost(reason) => return Err(Error::Failed(reason)),
            }
        }
        Ok(())
    }

    /// Returns the next answer of the key worker. A key that is handled stays held until the thread has passed all that segments
    /// before this one have handled, because only its version says what is handled of it.
    fn next_answer(&mut self, reached: Position) -> Option<KeyAnswer> {
        let may_free = reached >= self.share.first_new();
        let has_more = |keys: &HeldKeys, answer: &KeyAnswer| match answer {
            KeyAnswer::Handled { stream, seen, .. } => keys.last_left(stream).is_none_or(|last| last > *seen),
            KeyAnswer::Moved { .. } | KeyAnswer::Lost(_) => true,
        };
        let early = self.early.iter().position(|early| may_free || has_more(&self.keys, early));
        if let Some(early) = early {
            return Some(self.early.swap_remove(early));
        }
        loop {
            let answer = self.keys.answer()?;
            if may_free || has_more(&self.keys, &answer) {
                return Some(answer);
            }
            self.early.push(answer);
        }
    }

    /// Waits because an event failed and no more keys can be held. The event is tried again afterwards.
    fn wait_for_keys(&mut self) {
        self.needs_key = true;
        self.show();
        self.follower.pause(LOOK);
    }

    /// Returns why no event that fails can be held, if one has failed.
    fn keys_are_full(&mut self) -> Option<String> {
        self.needs_key &= self.has_no_key();
        self.needs_key.then(|| {
            format!(
                "an event failed, and {} keys are held, the most that the subscription may hold: repair the plugin, replay \
                 or discard dead letters with `wasmill dead-letters`, or raise `held_keys_max`",
                self.keys.len()
            )
        })
    }

    /// Whether no more keys can be held. An event that fails then is tried again in place, and all later events wait.
    fn has_no_key(&self) -> bool {
        // Until then none is freed, and several segments may have left more keys than one may have.
        let may_free = self.steps.planned() >= self.share.first_new();
        may_free && self.keys.len() >= self.options.held_keys_max
    }

    fn show(&mut self) {
        let stored = self.steps.stored();
        self.no_room.take_if(|(checkpoint, _)| stored > *checkpoint);
        let no_room = self.no_room.as_ref().map(|(_, reason)| reason.clone());
        let reason = no_room.or_else(|| self.keys_are_full());
        match reason.or_else(|| self.shared.outbox.trouble()) {
            Some(reason) => self.shared.progress.is_because(State::Retrying, reason),
            None => self.shared.progress.is(State::Following),
        }
    }

    /// Processes nothing until a person resumes the subscription or the host stops. Earlier effects still happen. The
    /// checkpoint is moved to `reached`, so that the subscription stays at the same place over a restart.
    fn stand_still(&mut self, reached: Position) -> Result<(), Error> {
        self.steps.finish_at(reached)?;
        self.shared.progress.reach(self.steps.done(reached));
        self.shared.progress.is_because(State::Paused, self.shared.pausing.remedy());
        while self.shared.pausing.is_paused() && !self.shared.resets.is_waiting() && !self.follower.pause(LOOK) {
            if self.shared.outbox.must_resend() {
                self.shared.outbox.resend()?;
            }
        }
        Ok(())
    }

    /// Returns the store's checkpoint.
    fn begin(&mut self) -> Result<Position, Error> {
        self.steps.begin(&mut self.follower)?;
        self.share.begin(self.follower.reader(), self.steps.stored())?;
        // A replay that has just released a key sends its commands before those of later events.
        let replays = self.shared.replays.clone();
        let _none = replays.held();
        let held = self.follower.reader().held_keys(&self.name)?;
        self.early.clear();
        self.keys.restart(held, self.steps.planned());
        Ok(self.steps.planned())
    }

    /// Processes a page as a whole, without the events of held keys. If that fails, it processes the events before the
    /// failing one, and holds the key of that event. Then it processes the rest. If it is not known which event failed, it
    /// tries fewer. A call whose events did not all succeed has no effects. Returns false if the page is not
    /// finished, because the host stops, a person has paused or reset the subscription, or no more keys can be held.
    fn deliver(&mut self, mut events: Vec<RecordedEvent>, reached: Position) -> Result<bool, Error> {
        self.keys.leave(&mut events);
        let mut count = self.handler.list(events.len());
        let mut held_up = 0;
        // An event that is known to fail, once those before it are processed.
        let mut failed: Option<(Position, Unhandled)> = None;
        while !events.is_empty() && !self.stands_still() {
            let known = failed.take_if(|(position, _)| *position == events[0].position).map(|(_, unhandled)| unhandled);
            // With no key left, a slow event is handled here in the time of its limit.
            let has_no_key = self.has_no_key();
            self.handler.hurry(!has_no_key);
            if let Some(unhandled) = known.filter(|known| !has_no_key || !matches!(known, Unhandled::Slow(..))) {
                if has_no_key {
                    self.wait_for_keys();
                    return Ok(false);
                }
                let to = if events.len() == 1 { reached } else { events[0].position };
                self.hold(&events.remove(0), to, unhandled)?;
                self.keys.leave(&mut events);
                count = self.handler.list(events.len());
                continue;
            }
            let part = &events[..count];
            let to = if count == events.len() { reached } else { part[count - 1].position };
            match self.handler.events(part) {
                Ok(effects) => {
                    self.keep(part, effects, to)?;
                    events.drain(..count);
                }
                Err(Unhandled::Host(reason)) => {
                    held_up += 1;
                    self.held_up(&reason, held_up)?;
                    continue;
                }
                Err(unhandled) => {
                    let index = unhandled.index_within(count);
                    count = index.unwrap_or_else(|| unhandled.fewer(count)).clamp(1, count);
                    if let Some(event) = index.and_then(|index| events.get(index)) {
                        failed = Some((event.position, unhandled));
                    }
                    continue;
                }
            }
            count = self.handler.list(events.len());
        }
        Ok(events.is_empty())
    }

    fn stands_still(&self) -> bool {
        self.follower.is_stopped() || self.shared.pausing.is_paused() || self.shared.resets.is_waiting()
    }

    /// Moves the checkpoint for a person, after all steps under way. Returns where the subscription resumes.
    fn reset(&mut self, ResetRequest { wanted, ack, .. }: ResetRequest) -> Result<Position, Error> {
        self.steps.finish()?;
        let from = self.steps.stored();
        let to = wanted.checkpoint(self.follower.head());
        let step = Step { fact: self.share.reset(), ..Outgoing::default().step(&self.name, Reached::Reset(to)) };
        let moved = ack::wait(|ack| self.shared.store.advance(step, ack));
        match &moved {
            Ok(_) => tracing::info!("subscription {} is reset from position {from} to {to}", self.name),
            Err(error) => tracing::error!("subscription {} can't be reset to position {to}: {error}", self.name),
        }
        let resumes = self.begin();
        if let Ok(position) = resumes {
            self.shared.progress.reach(self.steps.done(position));
        }
        ack.give(moved.map(|_| Reset { from, to }));
        resumes
    }

    /// Waits because the host can't call the subscriber. This does not count as a try of an event.
    fn held_up(&mut self, reason: &str, times: u32) -> Result<(), Error> {
        self.steps.finish()?;
        tracing::error!("subscription {} is held up: {reason}", self.name);
        self.shared.progress.is_because(State::Retrying, reason.to_owned());
        self.rest(self.options.backoff.pause(times));
        Ok(())
    }

    /// Holds the key of an event that failed alone, and leaves its further attempts to the key worker. If there are none,
    /// the event is dead-lettered.
    fn hold(&mut self, event: &RecordedEvent, to: Position, unhandled: Unhandled) -> Result<(), Error> {
        if let Unhandled::Slow(..) = unhandled {
            tracing::debug!(
                "subscription {}: event {} takes long, so others need not wait for it",
                self.name,
                event.position
            );
            let first = FirstAttempt { attempts: 0, pause: Duration::ZERO, reason: None };
            return self.hold_key(event, to, Outgoing::default(), KeyState::Retried(event.version), None, Some(first));
        }
        let (attempts, reason, wait) = match unhandled.decision() {
            RetryDecision::DeadLetter(reason) => return self.dead_letter(event, to, reason),
            RetryDecision::Again(reason, _) if self.options.attempts_max <= 1 => {
                return self.dead_letter(event, to, format!("{reason} (tried once)"));
            }
            RetryDecision::Again(reason, wait) => (1, reason, wait),
            RetryDecision::Later(reason) => (0, reason, Duration::ZERO),
        };
        let pause = self.options.bounds.pause(self.options.backoff.pause(1), wait);
        tracing::warn!("subscription {}: event {} is tried again in {pause:?}: {reason}", self.name, event.position);
        let first = FirstAttempt { attempts, pause, reason: Some(reason) };
        self.hold_key(event, to, Outgoing::default(), KeyState::Retried(event.version), None, Some(first))
    }

    fn hold_key(
        &mut self,
        event: &RecordedEvent,
        to: Position,
        effects: Outgoing,
        state: KeyState,
        stop: Option<(String, String)>,
        retry: Option<FirstAttempt>,
    ) -> Result<(), Error> {
        let change = KeyChange { stream: event.stream.clone(), from: None, to: state };
        let stops = stop.is_some();
        self.steps.take(to, effects, Some(change), stop)?;
        // The commands of the key's earlier events are sent before the key worker sends further ones.
        self.steps.finish()?;
        if stops {
            self.shared.pausing.has_stopped_behind(&event_place(event));
        }
        self.keys.hold(event, retry);
        Ok(())
    }

    /// Pauses before a try. New code, a stop of the host or a person who pauses the subscription ends the pause early.
    fn rest(&mut self, pause: Duration) {
        let Self { follower, handler, shared, .. } = self;
        follower.pause_unless(pause, || handler.is_outdated() || shared.pausing.is_paused());
        self.renew_code();
    }

    /// Makes the effects durable together with the checkpoint.
    fn keep(&mut self, events: &[RecordedEvent], effects: Effects, reached: Position) -> Result<(), Error> {
        let outgoing = outgoing(&self.successor.plugin, effects, self.options.bounds, |index| &events[index]);
        self.steps.take(reached, outgoing.logged(&self.name), None, None)
    }

    fn dead_letter(&mut self, event: &RecordedEvent, to: Position, reason: String) -> Result<(), Error> {
        let (effects, stop) = dead_lettered(&self.shared.pausing, self.options.on_failure, event, reason);
        if self.options.on_failure == OnFailure::Pass {
            return self.steps.take(to, effects, None, None);
        }
        self.hold_key(event, to, effects, KeyState::BehindDeadLetter(event.version), stop, None)
    }

    /// Switches to new code, if there is any.
    fn renew_code(&mut self) {
        if self.handler.renew() {
            self.filter = self.handler.filter();
        }
    }
}
