//! The thread of a subscription of sagas.

use super::keys::{PUT_OFF_MAX, SagaKeys};
use super::live::{Decided, LiveSagas, Undecidable};
use super::{ReplayRequest, SagaLinks, SagaView};
use crate::ack;
use crate::backoff::Pauses;
use crate::clock::Clock;
use crate::filter::Filter;
use crate::follow::{Follower, IDLE_STRIDE, Stop};
use crate::manifest::OnFailure;
use crate::model::{
    Callback, CallbackContent, DeadLetterContent, Failure, KeptCallback, Position, RecordedEvent, Refusal, StreamId,
    Version,
};
use crate::plugin::{SagaInput, Slot};
use crate::status::State;
use crate::store::{CallbackChange, Error, KeyChange, KeyState, Reached, SagaAppend, check_sizes};
use crate::subscriptions::callbacks::{CallbackEnvironment, failed_callback};
use crate::subscriptions::effects::{Cause, Outgoing, saga_outgoing};
use crate::subscriptions::handler::{RetryDecision, Unhandled};
use crate::subscriptions::replay::{ReplayError, event_at};
use crate::subscriptions::resets::{Reset, ResetRequest};
use crate::subscriptions::steps::{StepResult, Steps};
use crate::subscriptions::{Options, dead_lettered};
use crate::supervise::Held as _;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// The longest wait for an input. After it the thread reads the clock again, which may have jumped.
const IDLE: Duration = Duration::from_secs(1);

/// How often the thread looks whether a person has resumed the subscription, or events can be put off again.
const LOOK: Duration = Duration::from_millis(100);

/// The bytes of effects at which a step ends.
const STEP_BYTES_MAX: usize = 4 << 20;

/// The version that stands for the key of a saga in the store.
const KEY: Version = Version(0);

/// The state of the thread.
pub(super) struct SagaWorker {
    /// The name of the subscription and of its plugin.
    name: Arc<str>,
    sagas: LiveSagas,
    /// The events that are inputs, and those that start a saga.
    filters: (Filter, Filter),
    options: Options,
    links: SagaLinks,
    follower: Follower,
    steps: Steps,
    keys: SagaKeys,
    under_way: UnderWay,
    clock: Clock,
    changed: watch::Receiver<u64>,
}

/// What the steps under way do to callbacks that the store still has.
#[derive(Default)]
struct UnderWay {
    /// The callbacks that are handled.
    handled: HashSet<u64>,
    /// The timers that are set or cancelled, by their names in the store.
    timers: HashSet<Arc<str>>,
    /// The sagas that end, whose named timers are cancelled.
    ended: HashSet<Arc<str>>,
    /// The sagas that are held, whose events wait.
    held: HashSet<Arc<str>>,
}

impl UnderWay {
    /// Whether a callback is not there any more, or not for certain, once the steps are durable.
    fn concerns(&self, key: &str, kept: &KeptCallback) -> bool {
        let is_changed = |timer: &Arc<str>| self.timers.contains(timer) || self.ended.contains(key);
        let waits = matches!(kept.callback.content, CallbackContent::Event(_)) && self.held.contains(key);
        waits || self.handled.contains(&kept.number) || kept.timer.as_ref().is_some_and(is_changed)
    }

    fn add(&mut self, outgoing: &Outgoing) {
        for change in &outgoing.callbacks {
            if let CallbackChange::Cancel(name) | CallbackChange::Set { name: Some(name), .. } = change {
                self.timers.insert(name.clone());
            }
        }
        let ended = outgoing.sagas.iter().filter(|saga| saga.ends);
        self.ended.extend(ended.map(|saga| saga.input.stream.aggregate_id.clone()));
    }

    fn clear(&mut self) {
        self.handled.clear();
        self.timers.clear();
        self.ended.clear();
        self.held.clear();
    }
}

/// A step that is being filled: of events, or of callbacks.
#[derive(Default)]
struct Filling {
    outgoing: Outgoing,
    /// The position of the last event.
    to: Option<Position>,
    /// The callbacks.
    numbers: Vec<u64>,
}

/// What became of an input.
enum Handled {
    /// It is in the step that is being filled.
    Done,
    /// It failed, and nothing of it is in the step.
    Failed(Unhandled),
}

/// The saga that an event is for.
enum EventKey {
    None,
    Saga(Arc<str>),
    /// It can't be determined, for this reason.
    Failed(String),
}

impl SagaWorker {
    pub(super) fn new(
        slot: Arc<Slot>,
        options: Options,
        links: SagaLinks,
        environment: &CallbackEnvironment,
        stop: Stop,
    ) -> Result<Self, Error> {
        let follower = Follower::new(&*links.store, stop, environment.runtime.clone())?;
        let name = slot.name.clone();
        let sagas = LiveSagas::new(slot, links.saga_type.clone());
        Ok(Self {
            filters: sagas.filters(),
            sagas,
            options,
            follower,
            steps: Steps::new(name.clone(), links.store.clone(), links.outbox.clone()),
            keys: SagaKeys::default(),
            under_way: UnderWay::default(),
            clock: environment.clock.clone(),
            changed: links.store.callbacks_changed(),
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
                    if let Error::KeyMoved { .. } | Error::CallbackGone { .. } | Error::Archived { .. } = error {
                        tracing::info!("subscription {} begins again from its checkpoint: {error}", self.name);
                    } else {
                        tracing::error!("subscription {} is held up: {error}", self.name);
                        self.links.progress.is_because(State::Retrying, error.to_string());
                    }
                    if self.follower.pause(pauses.after_failure()) {
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
        self.resend()?;
        let mut reached = self.begin()?;
        while !self.follower.is_stopped() {
            crate::supervise::round();
            self.steps.collect()?;
            self.note_durable();
            if let Some(request) = self.links.resets.take() {
                reached = self.reset(request)?;
            }
            if let Some(request) = self.links.replays.take() {
                self.steps.finish()?;
                request.ack.give(self.replay(&request.wanted));
            }
            self.links.progress.reach(self.steps.done(reached));
            if self.links.pausing.is_paused() {
                self.stand_still(reached)?;
                continue;
            }
            if self.links.outbox.must_resend() {
                self.steps.finish()?;
                self.resend()?;
            }
            self.renew_code();
            self.changed.mark_unchanged();
            let worked = self.callbacks()?;
            self.show(reached);
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

    /// Handles the next page of events. Returns the position up to which all events are handled or put off.
    fn page(&mut self, reached: Position) -> Result<Position, Error> {
        let page = self.follower.page(reached, &self.filters.0, self.options.batch_max)?;
        if let Some(last) = self.events(page.events)? {
            return Ok(last.max(reached));
        }
        if page.reached.0 > self.steps.planned().0 + IDLE_STRIDE {
            self.steps.take(page.reached, Outgoing::default(), None, None)?;
        }
        Ok(self.steps.planned().max(page.reached))
    }

    /// Returns the store's checkpoint. A subscription without one gets it now, so that its start is not decided again.
    fn begin(&mut self) -> Result<Position, Error> {
        match self.follower.reader().checkpoint(&self.name)? {
            Some(checkpoint) => self.steps.begin(checkpoint),
            None => {
                self.steps.begin(Position(0));
                let start = self.options.start.checkpoint(self.follower.head());
                self.steps.take(start, Outgoing::default(), None, None)?;
                self.steps.finish()?;
            }
        }
        let put_off = self.follower.reader().put_off(&self.name)?;
        let held = self.follower.reader().held_keys(&self.name)?;
        self.keys.restart(put_off, held);
        self.note_durable();
        Ok(self.steps.planned())
    }

    fn resend(&mut self) -> Result<(), Error> {
        let count = self.links.outbox.resend()?;
        if count > 0 {
            tracing::info!("subscription {}: {count} commands of the outbox are sent again", self.name);
        }
        Ok(())
    }

    /// Notes that all steps are durable, if they are.
    fn note_durable(&mut self) {
        if self.steps.is_idle() {
            self.under_way.clear();
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

    fn stands_still(&self) -> bool {
        let SagaLinks { pausing, resets, replays, .. } = &self.links;
        self.follower.is_stopped() || pausing.is_paused() || resets.is_waiting() || replays.is_waiting()
    }

    fn show(&self, reached: Position) {
        let SagaView { trouble, paused_keys, held_keys, live, .. } = &*self.links.view;
        *trouble.held() = self.keys.reason().or_else(|| self.links.outbox.trouble()).or_else(|| {
            self.keys.is_full().then(|| {
                format!(
                    "{PUT_OFF_MAX} events wait for sagas that can't take them, the most there may be: repair the plugin, or \
                     replay or discard dead letters with `wasmill dead-letters`"
                )
            })
        });
        for (counter, value) in
            [(paused_keys, self.keys.paused()), (held_keys, self.keys.held()), (live, self.sagas.len())]
        {
            counter.store(value as u64, Ordering::Relaxed);
        }
        let is_behind = reached < self.follower.head();
        self.links.progress.is(if is_behind { State::CatchingUp } else { State::Following });
    }

    /// Handles nothing until a person resumes the subscription or the host stops. The checkpoint is moved to `reached`, so
    /// that the subscription stays at the same place over a restart.
    fn stand_still(&mut self, reached: Position) -> Result<(), Error> {
        if reached > self.steps.planned() {
            self.steps.take(reached, Outgoing::default(), None, None)?;
        }
        self.steps.finish()?;
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
            self.keys.go_on_all();
        }
    }

    /// Handles events in their order. Returns `None` if all are handled or put off, and otherwise the position of the last
    /// one that is.
    fn events(&mut self, events: Vec<RecordedEvent>) -> Result<Option<Position>, Error> {
        let Some(first) = events.first() else { return Ok(None) };
        let mut last = Position(first.position.0 - 1);
        let keys = match self.event_keys(&events) {
            Ok(keys) => keys,
            Err(reason) => {
                self.held_up(&reason);
                return Ok(Some(last));
            }
        };
        let mut filling = Filling::default();
        for (event, key) in events.iter().zip(keys) {
            if self.stands_still() || !self.event(&mut filling, event, key)? {
                self.hand_over(&mut filling, None, None)?;
                return Ok(Some(last));
            }
            last = event.position;
            self.end_input(&mut filling)?;
        }
        self.hand_over(&mut filling, None, None)?;
        Ok(None)
    }

    /// Handles an event, or puts it off. Returns false if it must be tried again later.
    fn event(&mut self, filling: &mut Filling, event: &RecordedEvent, key: EventKey) -> Result<bool, Error> {
        let key = match key {
            EventKey::None => {
                SagaView::count(&self.links.view.ignored);
                filling.to = Some(event.position);
                return Ok(true);
            }
            EventKey::Failed(reason) => {
                self.hand_over(filling, None, None)?;
                let (letter, fact) = dead_lettered(&self.links.pausing, self.options.on_failure, event, reason);
                let stops = fact.is_some();
                self.steps.take(event.position, letter, None, fact)?;
                self.has_stopped(stops, event)?;
                return Ok(true);
            }
            EventKey::Saga(key) => key,
        };
        if self.keys.waits(&key) {
            return self.put_off(filling, event, &key);
        }
        match self.input(filling, &key, SagaInput::Event(event), event)? {
            Handled::Done => {
                filling.to = Some(event.position);
                Ok(true)
            }
            Handled::Failed(Unhandled::Host(reason)) => {
                self.held_up(&reason);
                Ok(false)
            }
            Handled::Failed(unhandled) => match self.retry(&key, unhandled) {
                None => self.put_off(filling, event, &key),
                Some(reason) => {
                    self.hand_over(filling, None, None)?;
                    self.dead_letter_event(&key, event, reason, None).map(|()| true)
                }
            },
        }
    }

    /// Puts an event off. Returns false if too many are.
    fn put_off(&mut self, filling: &mut Filling, event: &RecordedEvent, key: &Arc<str>) -> Result<bool, Error> {
        if self.keys.is_full() {
            self.follower.pause(LOOK);
            return Ok(false);
        }
        let callback = Callback {
            key: Some(key.as_bytes().to_vec()),
            correlation_id: event.correlation_id.clone(),
            causation_id: event.causation_id.clone(),
            hops: event.hops,
            first_ms: event.first_ms.unwrap_or(event.time_ms),
            headers: Vec::new(),
            content: CallbackContent::Event(event.position),
        };
        let saga = self.stream(key);
        filling.outgoing.callbacks.push(CallbackChange::PutOff { saga, callback: Box::new(callback) });
        filling.to = Some(event.position);
        self.keys.put_off(key);
        Ok(true)
    }

    /// Determines the sagas that events are for. An error is one of the host.
    fn event_keys(&mut self, events: &[RecordedEvent]) -> Result<Vec<EventKey>, String> {
        match self.sagas.keys(events) {
            Ok(keys) => Ok(keys.into_iter().map(|key| self.checked(key)).collect()),
            Err(Unhandled::Host(reason)) => Err(reason),
            // One by one, and once more, because a slow machine is no fault of the event.
            Err(_) => {
                events.iter().map(|event| self.event_key(event).or_else(|_| self.event_key(event))).map(told).collect()
            }
        }
    }

    fn event_key(&mut self, event: &RecordedEvent) -> Result<EventKey, Unhandled> {
        let keys = self.sagas.keys(std::slice::from_ref(event))?;
        Ok(self.checked(keys.into_iter().next().flatten()))
    }

    fn checked(&self, key: Option<String>) -> EventKey {
        match key {
            None => EventKey::None,
            Some(key) => match self.options.ids.check("key of the saga", &key) {
                Ok(()) => EventKey::Saga(key.into()),
                Err(reason) => EventKey::Failed(reason),
            },
        }
    }

    /// Handles the callbacks that are due. Returns whether there were any.
    fn callbacks(&mut self) -> Result<bool, Error> {
        if !self.links.outbox.has_caught_up() {
            return Ok(false);
        }
        let (now_ms, without) = (self.clock.now_ms(), self.keys.paused_now());
        let limit = self.options.batch_max + self.under_way.handled.len();
        let due = self.follower.reader().due_callbacks(&self.name, now_ms, &without, limit)?;
        let mut filling = Filling::default();
        let mut worked = false;
        // The keys of which an input failed: nothing of them passes it.
        let mut failed = HashSet::new();
        for kept in &due {
            let key: Arc<str> = String::from_utf8_lossy(kept.callback.key.as_deref().unwrap_or_default()).into();
            if self.under_way.concerns(&key, kept) || failed.contains(&key) {
                continue;
            }
            if self.stands_still() {
                break;
            }
            worked = true;
            self.links.view.is_working.store(true, Ordering::Release);
            if !self.callback(&mut filling, kept, &key)? {
                failed.insert(key);
            }
            self.end_input(&mut filling)?;
        }
        self.hand_over(&mut filling, None, None)?;
        Ok(worked)
    }

    /// Handles a callback. Returns false if it must be tried again later.
    fn callback(&mut self, filling: &mut Filling, kept: &KeptCallback, key: &Arc<str>) -> Result<bool, Error> {
        let handled = match &kept.callback.content {
            CallbackContent::Send(command) => {
                let mut command = (**command).clone();
                command.time_ms = kept.time_ms;
                filling.outgoing.commands.push(command);
                Handled::Done
            }
            CallbackContent::Event(position) => {
                let event = event_at(self.follower.reader(), *position)?;
                let handled = match self.put_off_key(&event, key) {
                    Ok(()) => self.input(filling, key, SagaInput::Event(&event), &event)?,
                    Err(unhandled) => Handled::Failed(unhandled),
                };
                match handled {
                    Handled::Done => return self.took_put_off(filling, kept, key).map(|()| true),
                    Handled::Failed(unhandled) => return self.failed_put_off(filling, kept, key, &event, unhandled),
                }
            }
            CallbackContent::Outcome { .. } | CallbackContent::Wake { .. } => {
                self.input(filling, key, SagaInput::Callback(kept), kept)?
            }
        };
        match handled {
            Handled::Done => {
                self.note_handled(filling, kept);
                Ok(true)
            }
            Handled::Failed(Unhandled::Host(reason)) => {
                self.held_up(&reason);
                Ok(false)
            }
            Handled::Failed(unhandled) => match self.retry(key, unhandled) {
                None => Ok(false),
                Some(reason) => {
                    self.hand_over(filling, None, None)?;
                    let letter = failed_callback(&self.name, kept, reason);
                    let outgoing = Outgoing { dead_letters: vec![letter], ..Outgoing::default() };
                    self.note_handled(filling, kept);
                    filling.outgoing.add(outgoing);
                    self.keys.go_on(key);
                    self.hand_over(filling, None, None).map(|()| true)
                }
            },
        }
    }

    /// Fails if an event that was put off for a saga is for another one now, by newer code.
    fn put_off_key(&mut self, event: &RecordedEvent, key: &Arc<str>) -> Result<(), Unhandled> {
        match self.event_key(event)? {
            EventKey::Failed(reason) => Err(Unhandled::Trap(reason, None)),
            EventKey::Saga(now) if now == *key => Ok(()),
            EventKey::Saga(now) => Err(Unhandled::Trap(
                format!("it waited for saga {key}, and the code that is loaded now says that it is for {now}"),
                None,
            )),
            EventKey::None => Err(Unhandled::Trap(
                format!("it waited for saga {key}, and the code that is loaded now has none for it"),
                None,
            )),
        }
    }

    fn note_handled(&mut self, filling: &mut Filling, kept: &KeptCallback) {
        filling.numbers.push(kept.number);
        self.under_way.handled.insert(kept.number);
        SagaView::count(&self.links.view.handled_callbacks);
    }

    /// Notes that an event that was put off is handled. The last one of a held key frees the key.
    fn took_put_off(&mut self, filling: &mut Filling, kept: &KeptCallback, key: &Arc<str>) -> Result<(), Error> {
        self.note_handled(filling, kept);
        if self.keys.taken(key) {
            self.keys.free(key);
            let change = KeyChange { stream: self.stream(key), from: Some(KEY), to: KeyState::Free };
            self.hand_over(filling, Some(change), None)?;
        }
        Ok(())
    }

    fn failed_put_off(
        &mut self,
        filling: &mut Filling,
        kept: &KeptCallback,
        key: &Arc<str>,
        event: &RecordedEvent,
        unhandled: Unhandled,
    ) -> Result<bool, Error> {
        match unhandled {
            Unhandled::Host(reason) => {
                self.held_up(&reason);
                Ok(false)
            }
            unhandled => match self.retry(key, unhandled) {
                None => Ok(false),
                Some(reason) => {
                    self.hand_over(filling, None, None)?;
                    self.dead_letter_event(key, event, reason, Some(kept.number)).map(|()| true)
                }
            },
        }
    }

    /// Has a saga decide on an input, and adds its decision to the step that is being filled.
    fn input(
        &mut self,
        filling: &mut Filling,
        key: &Arc<str>,
        input: SagaInput<'_>,
        cause: &impl Cause,
    ) -> Result<Handled, Error> {
        if self.sagas.needs_store(key) {
            self.hand_over(filling, None, None)?;
            self.steps.finish()?;
            self.note_durable();
        }
        let may_start = match input {
            SagaInput::Event(event) => self.filters.1.matches(&event.stream.aggregate_type, &event.name),
            SagaInput::Callback(_) => false,
        };
        match self.sagas.decide(self.follower.reader(), key, input, may_start) {
            Ok(Decided::Ignored) => SagaView::count(&self.links.view.ignored),
            Ok(Decided::Decision(version, decision)) => {
                if version == Version(0) {
                    SagaView::count(&self.links.view.started);
                }
                decision.end.iter().for_each(|end| self.links.view.has_ended(*end));
                let stream = self.stream(key);
                let outgoing = saga_outgoing(&self.name, &stream, version, decision, self.options.bounds, cause);
                if let Some(reason) = self.too_large(&outgoing) {
                    // The live saga has the events already.
                    self.sagas.lose();
                    let refusal = Refusal::Malformed(reason);
                    return Ok(Handled::Failed(Unhandled::Refused(Failure { index: 0, refusal })));
                }
                let outgoing = outgoing.logged(&self.name);
                self.under_way.add(&outgoing);
                filling.outgoing.add(outgoing);
            }
            Err(Undecidable::Unhandled(unhandled)) => return Ok(Handled::Failed(unhandled)),
            Err(Undecidable::Store(error)) => return Err(error),
        }
        self.keys.go_on(key);
        Ok(Handled::Done)
    }

    /// Returns why the store would refuse the events of a saga, if it would.
    fn too_large(&self, outgoing: &Outgoing) -> Option<String> {
        let of_saga = |saga: &SagaAppend| check_sizes(&saga.input, &saga.events, self.options.event_bytes_max).err();
        outgoing.sagas.iter().find_map(of_saga)
    }

    /// Pauses the key of an input that failed. If there are no attempts left, returns the reason for its dead letter.
    fn retry(&mut self, key: &Arc<str>, unhandled: Unhandled) -> Option<String> {
        let attempts = self.keys.attempts(key) + 1;
        match unhandled.decision() {
            RetryDecision::DeadLetter(reason) => Some(reason),
            RetryDecision::Later(reason) => {
                self.keys.pause(key, attempts - 1, self.options.backoff.pause(1), reason);
                None
            }
            RetryDecision::Again(reason, _) if attempts >= self.options.attempts_max => {
                Some(format!("{reason} (tried {attempts} times)"))
            }
            RetryDecision::Again(reason, wait) => {
                let pause = self.options.bounds.pause(self.options.backoff.pause(attempts), wait);
                tracing::warn!(
                    "subscription {}: an input of saga {key} is tried again in {pause:?}: {reason}",
                    self.name
                );
                self.keys.pause(key, attempts, pause, reason);
                None
            }
        }
    }

    /// Dead-letters an event of a saga, which was read from its page, or is the put-off event of this number. By default
    /// later events of the saga wait behind it.
    fn dead_letter_event(
        &mut self,
        key: &Arc<str>,
        event: &RecordedEvent,
        reason: String,
        number: Option<u64>,
    ) -> Result<(), Error> {
        let passes = self.options.on_failure == OnFailure::Pass;
        if !passes && !self.keys.is_held(key) && self.keys.held() >= self.options.held_keys_max {
            return Err(Error::Failed(format!(
                "an event of saga {key} failed ({reason}), and {} sagas are held, the most that the subscription may hold: \
                 repair the plugin, replay or discard dead letters with `wasmill dead-letters`, or raise `held_keys_max`",
                self.keys.held()
            )));
        }
        let (letter, fact) = dead_lettered(&self.links.pausing, self.options.on_failure, event, reason);
        let stops = fact.is_some();
        let was_held = self.keys.is_held(key);
        let is_last = number.is_some() && self.keys.taken(key);
        let change = match passes {
            false => {
                self.keys.hold(key);
                self.under_way.held.insert(key.clone());
                let from = was_held.then_some(KEY);
                Some(KeyChange { stream: self.stream(key), from, to: KeyState::BehindDeadLetter(KEY) })
            }
            true if is_last => {
                self.keys.free(key);
                Some(KeyChange { stream: self.stream(key), from: Some(KEY), to: KeyState::Free })
            }
            true => None,
        };
        self.keys.go_on(key);
        match number {
            Some(number) => {
                self.under_way.handled.insert(number);
                self.steps.take_callbacks(vec![number], letter, change, fact)?;
            }
            None => self.steps.take(event.position, letter, change, fact)?,
        }
        self.has_stopped(stops, event)
    }

    fn has_stopped(&mut self, stops: bool, event: &RecordedEvent) -> Result<(), Error> {
        if stops {
            self.steps.finish()?;
            self.links.pausing.has_stopped_behind(event);
        }
        Ok(())
    }

    /// Hands the step over if it is full.
    fn end_input(&mut self, filling: &mut Filling) -> Result<(), Error> {
        if filling.outgoing.size() >= STEP_BYTES_MAX { self.hand_over(filling, None, None) } else { Ok(()) }
    }

    /// Hands a step to the store, unless there is nothing to record.
    fn hand_over(
        &mut self,
        filling: &mut Filling,
        key: Option<KeyChange>,
        fact: Option<(String, String)>,
    ) -> Result<(), Error> {
        let Filling { outgoing, to, numbers } = std::mem::take(filling);
        match to {
            _ if !numbers.is_empty() => self.steps.take_callbacks(numbers, outgoing, key, fact),
            Some(to) if !outgoing.is_empty() => self.steps.take(to, outgoing, key, fact),
            _ => Ok(()),
        }
    }

    /// Waits because the host can't call the plugin. This does not count as an attempt at an input.
    fn held_up(&mut self, reason: &str) {
        if self.follower.is_stopped() {
            return;
        }
        tracing::error!("subscription {} is held up: {reason}", self.name);
        self.links.progress.is_because(State::Retrying, reason.to_owned());
        self.follower.pause(self.options.backoff.pause(1));
    }

    /// Moves the checkpoint for a person, after all steps under way. It is refused while a saga has not ended, because that
    /// saga would get its inputs again. Returns where the subscription resumes.
    fn reset(&mut self, ResetRequest { wanted, ack, .. }: ResetRequest) -> Result<Position, Error> {
        self.steps.finish()?;
        let from = self.steps.stored();
        let to = wanted.checkpoint(self.follower.head());
        let moved = match self.open_saga()? {
            Some(open) => Err(Error::Invalid(format!(
                "subscription {} can't be reset while saga {open} has not ended, because it would get its inputs again: let it \
                 end, or end it with `wasmill streams archive {} {}`",
                self.name, open.aggregate_type, open.aggregate_id
            ))),
            None => {
                let step = Outgoing::default().step(&self.name, Reached::Reset(to));
                ack::wait(|ack| self.links.store.advance(step, ack))
            }
        };
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
        let pattern = format!("{}.*", self.links.saga_type);
        let own = Filter::parse([&*pattern]).expect("the name of a type is a pattern");
        let mut after = Position(0);
        while after < self.follower.head() {
            let page = self.follower.page(after, &own, self.options.batch_max)?;
            for event in page.events.iter().filter(|event| event.version == Version(1)) {
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
                    Ok(EventKey::Failed(reason)) => return Err(ReplayError::Refused(reason)),
                    Ok(EventKey::Saga(key)) => self.input(&mut filling, &key, SagaInput::Event(&event), &event)?,
                    Err(unhandled) => Handled::Failed(unhandled),
                }
            }
            DeadLetterContent::Callback(kept) => {
                let key: Arc<str> = String::from_utf8_lossy(kept.callback.key.as_deref().unwrap_or_default()).into();
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

    fn stream(&self, key: &Arc<str>) -> StreamId {
        StreamId { aggregate_type: self.links.saga_type.clone(), aggregate_id: key.clone() }
    }
}

/// Returns the key of an event, or why there is none. An error is one of the host.
fn told(key: Result<EventKey, Unhandled>) -> Result<EventKey, String> {
    match key {
        Ok(key) => Ok(key),
        Err(Unhandled::Host(reason)) => Err(reason),
        Err(unhandled) => Ok(EventKey::Failed(format!("its saga can't be determined: {unhandled}"))),
    }
}
