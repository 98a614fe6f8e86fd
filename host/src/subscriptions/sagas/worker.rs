//! The thread of a subscription of sagas.

use super::inputs::{EventKey, Filling, Handled};
use super::keys::{InputId, SagaKeys};
use super::live::LiveSagas;
use super::slow::{SlowAnswer, SlowLinks};
use super::under_way::UnderWay;
use super::{ReplayRequest, SagaLinks, SagaView};
use crate::ack;
use crate::backoff::Pauses;
use crate::clock::Clock;
use crate::filter::Filter;
use crate::follow::{Follower, IDLE_STRIDE, Stop};
use crate::model::{DeadLetterContent, Position, RecordedEvent, StreamId, Version};
use crate::plugin::{SagaInput, Slot};
use crate::status::State;
use crate::store::{Error, HeldKey, KeyChange, KeyState, Reached, Step, event_at};
use crate::subscriptions::callbacks::Environment;
use crate::subscriptions::deferred::DEFERRED_MAX;
use crate::subscriptions::division::{Share, Successor};
use crate::subscriptions::effects::Outgoing;
use crate::subscriptions::replay::ReplayError;
use crate::subscriptions::resets::{Reset, ResetRequest};
use crate::subscriptions::steps::{StepResult, Steps};
use crate::subscriptions::{Options, named};
use crate::supervise::Held as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The longest wait for an input. After it the thread reads the clock again, which may have jumped.
const IDLE: Duration = Duration::from_secs(1);

/// The pause before the work begins again because a person has changed what a step was made for.
const AGAIN: Duration = Duration::from_millis(10);

/// How often the thread looks whether a person has resumed the subscription, or events can be deferred again.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// The state of the thread.
pub(super) struct SagaWorker {
    /// The name of the subscription, or of the segment.
    pub(super) name: Arc<str>,
    pub(super) successor: Successor,
    pub(super) share: Share,
    pub(super) sagas: LiveSagas,
    /// The events that are inputs, and those that start a saga.
    pub(super) filters: (Filter, Filter),
    pub(super) options: Options,
    pub(super) links: SagaLinks,
    pub(super) follower: Follower,
    pub(super) steps: Steps,
    pub(super) keys: SagaKeys,
    pub(super) slow: SlowLinks,
    pub(super) under_way: UnderWay,
    pub(super) clock: Clock,
    pub(super) changed: watch::Receiver<u64>,
    /// Whether a list of callbacks is being handled that was read from the store. What steps do to callbacks is not forgotten
    /// then, because the list may have such callbacks.
    pub(super) is_in_pass: bool,
    /// When it last looked for keys to free.
    looked: Instant,
}

impl SagaWorker {
    pub(super) fn new(
        slot: Arc<Slot>,
        successor: Successor,
        options: Options,
        links: SagaLinks,
        slow: SlowLinks,
        environment: &Environment,
        stop: Stop,
    ) -> Result<Self, Error> {
        let follower = Follower::new(&*links.store, stop, environment.runtime.clone())?;
        let name = named(&slot.name, successor.segment);
        let mut sagas = LiveSagas::new(slot, links.saga_type.clone());
        sagas.hurry(true);
        Ok(Self {
            filters: sagas.filters(),
            sagas,
            options,
            follower,
            steps: Steps::new(name.clone(), links.store.clone(), links.outbox.clone()).in_a_row(),
            keys: SagaKeys::default(),
            slow,
            under_way: UnderWay::default(),
            clock: environment.clock.clone(),
            changed: links.store.callbacks_changed(),
            is_in_pass: false,
            looked: Instant::now(),
            share: Share::new(name.clone(), successor.segment),
            successor,
            name,
            links,
        })
    }

    /// Restarts after a panic. It waits for the steps in flight, because only then it is known what is durable.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.steps.abandon();
        self.sagas.lose();
        Ok(())
    }

    /// Works until it is stopped. If the store fails or refuses a step, the work restarts from what is durable.
    pub(super) fn run(&mut self) {
        let mut pauses = Pauses::new(self.options.backoff.first);
        loop {
            match self.work() {
                Ok(()) | Err(Error::Closed) => return,
                Err(error) => {
                    // A person has cancelled a timer, archived a saga's stream, or removed a dead letter.
                    let is_of_person = matches!(
                        error,
                        Error::KeyMoved { .. }
                            | Error::CallbackGone { .. }
                            | Error::Archived { .. }
                            | Error::OutOfRow { .. }
                    );
                    let pause = if is_of_person {
                        tracing::info!("subscription {} begins again from its checkpoint: {error}", self.name);
                        AGAIN
                    } else {
                        tracing::error!("subscription {} is held up: {error}", self.name);
                        pauses.after_failure()
                    };
                    self.links.progress.is_because(State::Retrying, error.to_string());
                    if self.follower.pause(pause) {
                        return;
                    }
                }
            }
        }
    }

    fn work(&mut self) -> Result<(), Error> {
        // Only when they have ended it is known what the store has.
        self.steps.abandon();
        self.sagas.lose();
        let Self { successor, follower, links, .. } = self;
        successor.take_over(self.options.start, follower, &links.pausing, &links.progress)?;
        self.links.outbox.resend()?;
        let mut reached = self.begin()?;
        while !self.follower.is_stopped() {
            crate::supervise::round();
            self.steps.collect()?;
            self.note_durable();
            if let Some(request) = self.links.resets.take() {
                reached = self.reset(request, reached)?;
            }
            if let Some(request) = self.links.replays.take() {
                if let Err(error) = self.steps.finish() {
                    request.ack.give(Err(error.clone().into()));
                    return Err(error);
                }
                // It has the time of its limit, because there is nobody else to leave it to.
                self.sagas.hurry(false);
                let replayed = self.replay(&request.wanted);
                self.sagas.hurry(true);
                request.ack.give(replayed);
            }
            self.links.progress.reach(self.steps.done(reached));
            if self.links.pausing.is_paused() {
                self.stand_still(reached)?;
                continue;
            }
            if self.links.outbox.must_resend() {
                self.steps.finish()?;
                self.links.outbox.resend()?;
            }
            self.renew_code();
            self.take_slow_answers();
            self.free_released()?;
            self.changed.mark_unchanged();
            let worked = self.callbacks()?;
            self.show();
            if !worked && let Some(answer) = self.wait(reached) {
                if let Some(answer) = answer {
                    self.steps.end(answer)?;
                }
                continue;
            }
            if self.stands_still() || self.follower.head() <= reached {
                continue;
            }
            reached = self.page(reached)?;
        }
        self.steps.finish()
    }

    fn take_slow_answers(&mut self) {
        while let Some(answer) = self.slow.next_answer() {
            match answer {
                SlowAnswer::Decided { number, key, decided } => self.keys.answered(&key, number, decided),
                SlowAnswer::Lost => self.keys.ask_again(),
            }
        }
    }

    /// Frees the keys whose dead letters are gone and that have no deferred event, and those that are paused behind a timer
    /// that is cancelled. It looks once in a while.
    fn free_released(&mut self) -> Result<(), Error> {
        if (self.keys.deferred.held() == 0 && self.keys.paused() == 0)
            || self.looked.elapsed() < IDLE
            || !self.steps.is_idle()
        {
            return Ok(());
        }
        self.looked = Instant::now();
        for (key, number) in self.keys.paused_callbacks() {
            // A person has cancelled it.
            if !self.follower.reader().has_callback(number)? {
                self.keys.go_on(&key, InputId::Callback(number));
            }
        }
        let held = self.follower.reader().held_keys(&self.name)?;
        for stream in self.keys.deferred.released(held) {
            self.keys.deferred.free(&stream.aggregate_id);
            let change = KeyChange { stream, from: Some(HeldKey::NO_VERSION), to: KeyState::Free };
            self.steps.take(self.steps.planned(), Outgoing::default(), Some(change), None)?;
        }
        Ok(())
    }

    /// Handles the next page of events. Returns the position up to which all events are handled or deferred.
    fn page(&mut self, reached: Position) -> Result<Position, Error> {
        let page = self.follower.page(reached, &self.filters.0, self.options.batch_max)?;
        // The page may have events of newer code, which only the newer code of the sagas may meet.
        if self.sagas.is_outdated() {
            return Ok(reached);
        }
        if let Some(last) = self.events(page.events)? {
            return Ok(last.max(reached));
        }
        if page.reached.0 > self.steps.planned().0 + IDLE_STRIDE {
            self.steps.take(page.reached, Outgoing::default(), None, None)?;
        }
        Ok(self.steps.planned().max(page.reached))
    }

    /// Returns the store's checkpoint.
    fn begin(&mut self) -> Result<Position, Error> {
        self.steps.begin(&mut self.follower)?;
        self.share.begin(self.follower.reader(), self.steps.stored())?;
        let deferred = self.follower.reader().deferred(&self.name)?;
        let held = self.follower.reader().held_keys(&self.name)?;
        self.is_in_pass = false;
        self.go_on_all();
        self.keys.deferred.restart(deferred, held);
        self.note_durable();
        Ok(self.steps.planned())
    }

    /// Notes that all steps are durable, if they are.
    pub(super) fn note_durable(&mut self) {
        if self.steps.is_idle() {
            if !self.is_in_pass {
                self.under_way.clear();
            }
            self.sagas.is_durable();
            self.links.view.is_working.store(false, Ordering::Release);
        }
    }

    /// Waits until there is an event after a position, or anything else to do. Returns something if it was the store's
    /// answer to a step, or something else than an event.
    fn wait(&mut self, reached: Position) -> Option<Option<StepResult>> {
        let now_ms = self.clock.now_ms();
        let next = self.follower.reader().next_callback(&self.name, now_ms).unwrap_or_default();
        let until_due = next.later_ms.map(|due_ms| Duration::from_millis(due_ms.saturating_sub(now_ms)));
        let until_due = until_due.map(|time| self.clock.wait_max(time));
        let time = self.keys.next_end().into_iter().chain(until_due).min().map_or(IDLE, |time| time.min(IDLE));
        let Self { follower, steps, changed, links, .. } = self;
        let ended = steps.ended();
        follower.wait_or(reached, time, async {
            tokio::select! {
                answer = ended => Some(answer),
                changed = changed.changed() => {
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    None
                }
                () = links.asked.notified() => None,
            }
        })
    }

    pub(super) fn stands_still(&self) -> bool {
        let SagaLinks { pausing, resets, replays, .. } = &self.links;
        self.follower.is_stopped() || pausing.is_paused() || resets.is_waiting() || replays.is_waiting()
    }

    fn show(&self) {
        let SagaView { trouble, paused_keys, held_keys, live, .. } = &*self.links.view;
        *trouble.held() = self.keys.reason().or_else(|| self.links.outbox.trouble()).or_else(|| {
            self.keys.deferred.is_full().then(|| {
                format!(
                    "{DEFERRED_MAX} events wait for sagas that can't take them, the most there may be: repair the plugin, or \
                     replay or discard dead letters with `wasmill dead-letters`"
                )
            })
        });
        for (counter, value) in
            [(paused_keys, self.keys.paused()), (held_keys, self.keys.deferred.held()), (live, self.sagas.len())]
        {
            counter.store(value as u64, Ordering::Relaxed);
        }
        self.links.progress.is(State::Following);
    }

    /// Handles nothing until a person resumes the subscription or the host stops. The checkpoint is moved to `reached`, so
    /// that the subscription stays at the same place over a restart.
    fn stand_still(&mut self, reached: Position) -> Result<(), Error> {
        self.steps.finish_at(reached)?;
        self.note_durable();
        self.links.progress.reach(self.steps.done(reached));
        self.links.progress.is_because(State::Paused, self.links.pausing.remedy());
        let is_asked = || self.links.resets.is_waiting() || self.links.replays.is_waiting();
        while self.links.pausing.is_paused() && !is_asked() && !self.follower.pause(LOOK) {
            if self.links.outbox.must_resend() {
                self.links.outbox.resend()?;
            }
        }
        Ok(())
    }

    /// Switches to new code, if there is any. That ends all pauses.
    fn renew_code(&mut self) {
        if self.sagas.renew() {
            self.filters = self.sagas.filters();
            self.go_on_all();
        }
    }

    /// Ends all pauses. What the thread for inputs that take long was asked is no longer wanted.
    fn go_on_all(&mut self) {
        self.keys.go_on_all();
        self.slow.forget();
    }

    /// Waits because the host can't call the plugin. This does not count as an attempt at an input.
    pub(super) fn held_up(&mut self, reason: &str) {
        if self.follower.is_stopped() {
            return;
        }
        tracing::error!("subscription {} is held up: {reason}", self.name);
        self.links.progress.is_because(State::Retrying, reason.to_owned());
        self.follower.pause(self.options.backoff.pause(1));
    }

    /// Moves the checkpoint for a person, after all steps under way. It is refused while a saga has not ended, because that
    /// saga would get its inputs again. Returns where the subscription resumes.
    fn reset(&mut self, ResetRequest { wanted, ack, .. }: ResetRequest, reached: Position) -> Result<Position, Error> {
        if let Err(error) = self.steps.finish() {
            ack.give(Err(error.clone()));
            return Err(error);
        }
        let from = self.steps.stored();
        let to = wanted.checkpoint(self.follower.head());
        if let Some(open) = self.open_saga()? {
            ack.give(Err(Error::Invalid(format!(
                "subscription {} can't be reset while saga {open} has not ended, because it would miss inputs or get some again: let \
                 it end, or end it with `wasmill streams archive {} {}`",
                self.name, open.aggregate_type, open.aggregate_id
            ))));
            return Ok(reached);
        }
        let step = Step { fact: self.share.reset(), ..Outgoing::default().step(&self.name, Reached::Reset(to)) };
        let moved = ack::wait(|ack| self.links.store.advance(step, ack));
        match &moved {
            Ok(_) => tracing::info!("subscription {} is reset from position {from} to {to}", self.name),
            Err(error) => tracing::error!("subscription {} can't be reset to position {to}: {error}", self.name),
        }
        self.sagas.lose();
        let resumes = self.begin();
        if let Ok(position) = resumes {
            self.links.progress.reach(self.steps.done(position));
        }
        ack.give(moved.map(|_| Reset { from, to }));
        resumes
    }

    /// Returns a saga that has not ended, if there is one.
    fn open_saga(&mut self) -> Result<Option<StreamId>, Error> {
        let pattern = format!("{}.**", self.links.saga_type);
        let own = Filter::parse([&*pattern]).expect("the name of a type is a pattern");
        let mut after = Position(0);
        while after < self.follower.head() {
            let page = self.follower.page(after, &own, self.options.batch_max)?;
            let is_first =
                |event: &&RecordedEvent| event.version == Version(1) && self.share.has(&event.stream.aggregate_id);
            for event in page.events.iter().filter(is_first) {
                if !self.follower.reader().is_archived(&event.stream)? {
                    return Ok(Some(event.stream.clone()));
                }
            }
            after = page.reached;
        }
        Ok(None)
    }

    /// Handles a dead letter again. All steps are durable.
    fn replay(&mut self, (number, content): &ReplayRequest) -> Result<(), ReplayError> {
        self.note_durable();
        let mut filling = Filling::default();
        let handled = match content {
            DeadLetterContent::Event(position) => {
                let event = event_at(self.follower.reader(), *position)?;
                match self.event_key(&event) {
                    Ok(EventKey::None) => Handled::Done,
                    Ok(EventKey::Saga(key)) if !self.share.has(&key) => {
                        return Err(ReplayError::OtherSegment(self.share.segment_of(&key)));
                    }
                    Ok(EventKey::Failed(reason)) => return Err(ReplayError::Refused(reason)),
                    Ok(EventKey::Saga(key)) => self.input(&mut filling, &key, SagaInput::Event(&event), &event)?,
                    Err(unhandled) => Handled::Failed(unhandled),
                }
            }
            DeadLetterContent::Callback(kept) => {
                let key: Arc<str> = kept.key_text().into();
                self.input(&mut filling, &key, SagaInput::Callback(kept), kept)?
            }
            _ => return Err(ReplayError::Foreign("this dead letter holds nothing that a saga could handle".into())),
        };
        if let Handled::Failed(unhandled) = handled {
            return Err(ReplayError::Refused(unhandled.to_string()));
        }
        let step = filling.outgoing.step(&self.name, Reached::Replayed(*number));
        let advanced = ack::wait(|ack| self.links.store.advance(step, ack)).inspect_err(|_| self.sagas.lose())?;
        self.links.outbox.send(advanced.commands);
        self.note_durable();
        Ok(())
    }

    /// Returns the name in the store of the key of a saga that is held. It does not depend on the type of the sagas, which new
    /// code may change.
    pub(super) fn held_key(key: &Arc<str>) -> StreamId {
        StreamId { aggregate_type: "saga".into(), aggregate_id: key.clone() }
    }

    pub(super) fn stream(&self, key: &Arc<str>) -> StreamId {
        StreamId { aggregate_type: self.links.saga_type.clone(), aggregate_id: key.clone() }
    }
}
