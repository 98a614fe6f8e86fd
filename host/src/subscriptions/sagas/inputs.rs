//! The inputs of sagas: events and callbacks are given to their sagas, deferred, or dead-lettered.

use super::SagaView;
use super::keys::InputId;
use super::live::{Decided, Undecidable};
use super::slow::OwnInput;
use super::worker::SagaWorker;
use crate::manifest::OnFailure;
use crate::model::{Callback, CallbackContent, Failure, KeptCallback, Position, RecordedEvent, Refusal, Version};
use crate::plugin::SagaInput;
use crate::store::{CallbackChange, Error, HeldKey, KeyChange, KeyState, SagaAppend, check_sizes, event_at};
use crate::subscriptions::callbacks::failed_callback;
use crate::subscriptions::effects::{Cause, Outgoing, saga_outgoing};
use crate::subscriptions::handler::{RetryDecision, Unhandled};
use crate::subscriptions::pausing::event_place;

use crate::subscriptions::{Options, dead_lettered};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The bytes of effects at which a step ends.
const STEP_BYTES_MAX: usize = 4 << 20;

/// A step that is being filled: of events, or of callbacks.
#[derive(Default)]
pub(super) struct Filling {
    pub(super) outgoing: Outgoing,
    /// The position of the last event.
    to: Option<Position>,
    /// The callbacks.
    numbers: Vec<u64>,
}

/// What became of an input.
pub(super) enum Handled {
    /// It is in the step that is being filled.
    Done,
    /// It failed, and nothing of it is in the step.
    Failed(Unhandled),
}

/// What a step takes off: the event at a position of the page, or a callback.
#[derive(Clone, Copy)]
enum Taken {
    Event(Position),
    Callback(u64),
}

impl InputId {
    /// Returns the input that a callback is.
    fn of(kept: &KeptCallback) -> Self {
        match kept.callback.content {
            CallbackContent::Event(position) => Self::Event(position),
            _ => Self::Callback(kept.number),
        }
    }
}

impl From<SagaInput<'_>> for InputId {
    fn from(input: SagaInput<'_>) -> Self {
        match input {
            SagaInput::Event(event) => Self::Event(event.position),
            SagaInput::Callback(kept) => Self::Callback(kept.number),
        }
    }
}

/// What became of a callback.
enum Called {
    /// It is in the step that is being filled, or dead-lettered.
    Handled,
    /// It must be tried again later, and so must later ones of its key.
    Failed,
    /// The host can't call the plugin now.
    HeldUp,
}

/// The saga that an event is for.
pub(super) enum EventKey {
    None,
    Saga(Arc<str>),
    /// It can't be determined, for this reason.
    Failed(String),
}

impl SagaWorker {
    /// Handles events in their order. Returns `None` if all are handled or deferred, and otherwise the position of the last
    /// one that is.
    pub(super) fn events(&mut self, events: Vec<RecordedEvent>) -> Result<Option<Position>, Error> {
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

    /// Handles an event, or defers it. Returns false if it must be tried again later.
    fn event(&mut self, filling: &mut Filling, event: &RecordedEvent, key: EventKey) -> Result<bool, Error> {
        // The aggregate decides which segment counts or dead-letters an event that is for no saga.
        let aggregate = event.stream.aggregate_id.clone();
        let own = match &key {
            EventKey::Saga(key) => key,
            EventKey::None | EventKey::Failed(_) => &aggregate,
        };
        if !self.share.handles(own, event.position) {
            filling.to = Some(event.position);
            return Ok(true);
        }
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
            return self.defer(filling, event, &key);
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
            Handled::Failed(unhandled) => match self.retry(&key, InputId::Event(event.position), unhandled) {
                None => self.defer(filling, event, &key),
                Some(reason) => {
                    self.hand_over(filling, None, None)?;
                    match self.dead_letter_event(&key, event, reason, None)? {
                        true => Ok(true),
                        false => self.defer(filling, event, &key),
                    }
                }
            },
        }
    }

    /// Defers an event. Returns false if too many are.
    fn defer(&mut self, filling: &mut Filling, event: &RecordedEvent, key: &Arc<str>) -> Result<bool, Error> {
        if self.keys.deferred.is_full() {
            self.follower.pause(super::worker::LOOK);
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
        let change = CallbackChange::Defer { key: Self::held_key(key), callback: Box::new(callback) };
        filling.outgoing.callbacks.push(change);
        filling.to = Some(event.position);
        self.keys.deferred.add(key);
        Ok(true)
    }

    /// Determines the sagas that events are for. An error is one of the host.
    fn event_keys(&mut self, events: &[RecordedEvent]) -> Result<Vec<EventKey>, String> {
        match self.sagas.keys(events) {
            Ok(keys) => Ok(keys.into_iter().map(|key| self.checked(key)).collect()),
            Err(Unhandled::Host(reason)) => Err(reason),
            // One by one, and once more, because a slow machine is no fault of the event.
            Err(_) => {
                let mut keys = Vec::new();
                for event in events {
                    let key = self.event_key(event).or_else(|_| self.event_key(event));
                    keys.push(told(key, self.share.is_divided_at(event.position))?);
                }
                Ok(keys)
            }
        }
    }

    pub(super) fn event_key(&mut self, event: &RecordedEvent) -> Result<EventKey, Unhandled> {
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
    pub(super) fn callbacks(&mut self) -> Result<bool, Error> {
        if !self.links.outbox.has_caught_up() {
            return Ok(false);
        }
        let (now_ms, without) = (self.clock.now_ms(), self.keys.paused_now());
        let limit = self.options.batch_max + self.under_way.handled.len();
        let mut due = self.follower.reader().due_callbacks(&self.name, now_ms, &without, limit)?;
        // What took long comes first, because another input of its saga would make the answer outdated. The events of a saga
        // keep their order: if one of them took long, it is the first.
        if self.keys.paused() > 0 {
            due.sort_by_key(|kept| !self.keys.has_answer(&kept.key_text(), InputId::of(kept)));
        }
        let mut filling = Filling::default();
        let mut worked = false;
        // The keys of which an input failed: nothing of them passes it.
        let mut failed = HashSet::new();
        self.is_in_pass = true;
        for kept in &due {
            let key: Arc<str> = kept.key_text().into();
            if self.under_way.concerns(&key, kept) || failed.contains(&key) {
                continue;
            }
            if self.stands_still() {
                break;
            }
            worked = true;
            self.links.view.is_working.store(true, Ordering::Release);
            if self.keys.must_ask(&key, InputId::of(kept)) {
                self.ask(&mut filling, kept, &key)?;
                failed.insert(key);
                continue;
            }
            match self.callback(&mut filling, kept, &key)? {
                Called::Handled => {}
                Called::Failed => _ = failed.insert(key),
                Called::HeldUp => break,
            }
            self.end_input(&mut filling)?;
        }
        self.hand_over(&mut filling, None, None)?;
        self.is_in_pass = false;
        Ok(worked)
    }

    fn callback(&mut self, filling: &mut Filling, kept: &KeptCallback, key: &Arc<str>) -> Result<Called, Error> {
        let handled = match &kept.callback.content {
            CallbackContent::Send(command) => {
                let mut command = (**command).clone();
                command.time_ms = kept.time_ms;
                filling.outgoing.commands.push(command);
                Handled::Done
            }
            CallbackContent::Event(position) => {
                let event = event_at(self.follower.reader(), *position)?;
                let handled = match self.deferral_key(&event, key) {
                    Ok(()) => self.input(filling, key, SagaInput::Event(&event), &event)?,
                    Err(unhandled) => Handled::Failed(unhandled),
                };
                match handled {
                    Handled::Done => return self.took_deferred(filling, kept, key).map(|()| Called::Handled),
                    Handled::Failed(unhandled) => return self.failed_deferred(filling, kept, key, &event, unhandled),
                }
            }
            CallbackContent::Outcome { .. } | CallbackContent::Wake { .. } | CallbackContent::Response(_) => {
                self.input(filling, key, SagaInput::Callback(kept), kept)?
            }
            CallbackContent::Record(_) => Handled::Failed(Unhandled::Trap("a saga takes no records".to_owned(), None)),
        };
        match handled {
            Handled::Done => {
                self.note_handled(filling, kept);
                Ok(Called::Handled)
            }
            Handled::Failed(Unhandled::Host(reason)) => {
                self.held_up(&reason);
                Ok(Called::HeldUp)
            }
            Handled::Failed(unhandled) => match self.retry(key, InputId::Callback(kept.number), unhandled) {
                None => Ok(Called::Failed),
                Some(reason) => {
                    self.hand_over(filling, None, None)?;
                    let letter = failed_callback(&self.name, kept, reason);
                    let outgoing = Outgoing { dead_letters: vec![letter], ..Outgoing::default() };
                    let input = InputId::Callback(kept.number);
                    if !self.take_alone(key, input, Taken::Callback(kept.number), outgoing, None, None)? {
                        return Ok(Called::Failed);
                    }
                    self.under_way.handled.insert(kept.number);
                    SagaView::count(&self.links.view.handled_callbacks);
                    self.keys.go_on(key, input);
                    Ok(Called::Handled)
                }
            },
        }
    }

    /// Fails if an event that was deferred for a saga is for another one now, by newer code.
    fn deferral_key(&mut self, event: &RecordedEvent, key: &Arc<str>) -> Result<(), Unhandled> {
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

    /// Notes that an event that was deferred is handled. The last one of a held key frees the key.
    fn took_deferred(&mut self, filling: &mut Filling, kept: &KeptCallback, key: &Arc<str>) -> Result<(), Error> {
        self.note_handled(filling, kept);
        let is_last = self.keys.deferred.is_last(key);
        self.keys.deferred.taken(key);
        if is_last {
            self.keys.deferred.free(key);
            let change = KeyChange { stream: Self::held_key(key), from: Some(HeldKey::NO_VERSION), to: KeyState::Free };
            self.hand_over(filling, Some(change), None)?;
        }
        Ok(())
    }

    fn failed_deferred(
        &mut self,
        filling: &mut Filling,
        kept: &KeptCallback,
        key: &Arc<str>,
        event: &RecordedEvent,
        unhandled: Unhandled,
    ) -> Result<Called, Error> {
        match unhandled {
            Unhandled::Host(reason) => {
                self.held_up(&reason);
                Ok(Called::HeldUp)
            }
            unhandled => match self.retry(key, InputId::Event(event.position), unhandled) {
                None => Ok(Called::Failed),
                Some(reason) => {
                    self.hand_over(filling, None, None)?;
                    match self.dead_letter_event(key, event, reason, Some(kept.number))? {
                        true => Ok(Called::Handled),
                        false => Ok(Called::Failed),
                    }
                }
            },
        }
    }

    /// Has a saga decide on an input, and adds its decision to the step that is being filled.
    pub(super) fn input(
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
        let may_start = self.may_start(input);
        let decided = match self.keys.answer(key, input.into()) {
            Some(decided) => {
                decided.iter().for_each(|decided| self.sagas.has_decided(key, decided));
                decided
            }
            None => self.sagas.decide(self.follower.reader(), key, input, may_start),
        };
        match decided {
            Ok(Decided::Ignored) => SagaView::count(&self.links.view.ignored),
            Ok(Decided::Decision(version, decision)) => {
                let end = decision.end;
                let stream = self.stream(key);
                let outgoing =
                    saga_outgoing(&self.successor.plugin, &stream, version, decision, self.options.bounds, cause);
                if let Some(reason) = self.unrecordable(&outgoing) {
                    // The live saga has the events already.
                    self.sagas.lose();
                    let refusal = Refusal::Malformed(reason);
                    return Ok(Handled::Failed(Unhandled::Refused(Failure { index: 0, refusal })));
                }
                if version == Version(0) {
                    SagaView::count(&self.links.view.started);
                }
                end.iter().for_each(|end| self.links.view.has_ended(*end));
                let outgoing = outgoing.logged(&self.name);
                self.under_way.add(&outgoing);
                filling.outgoing.add(outgoing);
            }
            Err(Undecidable::Unhandled(unhandled)) => return Ok(Handled::Failed(unhandled)),
            Err(Undecidable::Store(error)) => return Err(error),
        }
        self.keys.go_on(key, input.into());
        Ok(Handled::Done)
    }

    fn may_start(&self, input: SagaInput<'_>) -> bool {
        match input {
            SagaInput::Event(event) => self.filters.1.matches(&event.stream.aggregate_type, &event.name),
            SagaInput::Callback(_) => false,
        }
    }

    /// Asks the thread for inputs that take long to decide on one, after all steps before it.
    fn ask(&mut self, filling: &mut Filling, kept: &KeptCallback, key: &Arc<str>) -> Result<(), Error> {
        self.hand_over(filling, None, None)?;
        self.steps.finish()?;
        self.note_durable();
        let input = match kept.callback.content {
            CallbackContent::Event(position) => OwnInput::Event(event_at(self.follower.reader(), position)?),
            _ => OwnInput::Callback(kept.clone()),
        };
        let may_start = match &input {
            OwnInput::Event(event) => self.may_start(SagaInput::Event(event)),
            OwnInput::Callback(_) => false,
        };
        let number = self.slow.ask(key.clone(), input, may_start);
        self.keys.has_asked(key, number);
        Ok(())
    }

    /// Returns why the events of a saga may not be recorded, if so: the store would refuse them, or they would make a chain
    /// of causes too long, because a saga may get its own events.
    fn unrecordable(&self, outgoing: &Outgoing) -> Option<String> {
        let Options { event_bytes_max, bounds, .. } = &self.options;
        outgoing.sagas.iter().find_map(|SagaAppend { input, events, .. }| {
            let too_large = check_sizes(input, events, *event_bytes_max).err();
            too_large.or_else(|| bounds.refusal(input.hops, &input.correlation_id))
        })
    }

    /// Pauses the key of an input that failed. If there are no attempts left, returns the reason for its dead letter. An
    /// event whose dead letter would hold its saga is retried if no more sagas can be held.
    fn retry(&mut self, key: &Arc<str>, input: InputId, unhandled: Unhandled) -> Option<String> {
        let Options { attempts_max, backoff, bounds, .. } = self.options;
        if let Unhandled::Slow(..) = unhandled {
            self.keys.takes_long(key, input);
            return None;
        }
        let attempts = self.keys.attempts(key, input) + 1;
        let is_event = matches!(input, InputId::Event(_));
        let (attempts, pause, reason) = match unhandled.decision() {
            RetryDecision::Later(reason) => (attempts - 1, backoff.pause(1), reason),
            RetryDecision::Again(reason, wait) if attempts < attempts_max => {
                (attempts, bounds.pause(backoff.pause(attempts), wait), reason)
            }
            RetryDecision::DeadLetter(reason) => match self.unheld(key, is_event) {
                None => return Some(reason),
                Some(full) => (attempts, backoff.pause(attempts), format!("{reason}; {full}")),
            },
            RetryDecision::Again(reason, _) => match self.unheld(key, is_event) {
                None => return Some(format!("{reason} (tried {attempts} times)")),
                Some(full) => (attempts, backoff.pause(attempts), format!("{reason}; {full}")),
            },
        };
        tracing::warn!("subscription {}: an input of saga {key} is tried again in {pause:?}: {reason}", self.name);
        self.keys.pause(key, input, attempts, pause, reason);
        None
    }

    /// Returns why a saga can't be held behind a dead letter of an event, if so.
    fn unheld(&self, key: &str, is_event: bool) -> Option<String> {
        let Options { on_failure, held_keys_max, .. } = self.options;
        let (deferred, held) = (&self.keys.deferred, self.keys.deferred.held());
        let is_full = is_event && on_failure != OnFailure::Pass && !deferred.is_held(key) && held >= held_keys_max;
        is_full.then(|| {
            format!(
                "{held} sagas are held, the most that the subscription may hold: repair the plugin, replay or discard dead \
                 letters with `wasmill dead-letters`, or raise `held_keys_max`"
            )
        })
    }

    /// Dead-letters an event of a saga, which was read from its page, or is the deferred event of this number. By default
    /// later events of the saga wait behind it. Returns false if there is no room for the dead letter; the key is paused then.
    fn dead_letter_event(
        &mut self,
        key: &Arc<str>,
        event: &RecordedEvent,
        reason: String,
        number: Option<u64>,
    ) -> Result<bool, Error> {
        let passes = self.options.on_failure == OnFailure::Pass;
        let (letter, fact) = dead_lettered(&self.links.pausing, self.options.on_failure, event, reason);
        let stops = fact.is_some();
        let deferred = &self.keys.deferred;
        let (was_held, is_last) = (deferred.is_held(key), number.is_some() && deferred.is_last(key));
        let to = match passes {
            false => Some(KeyState::BehindDeadLetter(HeldKey::NO_VERSION)),
            true => is_last.then_some(KeyState::Free),
        };
        let from = was_held.then_some(HeldKey::NO_VERSION);
        let change = to.map(|to| KeyChange { stream: Self::held_key(key), from, to });
        let taken = number.map_or(Taken::Event(event.position), Taken::Callback);
        if !self.take_alone(key, InputId::Event(event.position), taken, letter, change, fact)? {
            return Ok(false);
        }
        if let Some(number) = number {
            self.keys.deferred.taken(key);
            self.under_way.handled.insert(number);
        }
        match passes {
            false => {
                self.keys.deferred.hold(key);
                self.under_way.held.insert(key.clone());
            }
            true if is_last => self.keys.deferred.free(key),
            true => {}
        }
        self.keys.go_on(key, InputId::Event(event.position));
        self.has_stopped(stops, event)?;
        Ok(true)
    }

    /// Makes a dead letter durable, after all steps before it. If the store has no room for it, the key is paused, and all
    /// other sagas go on. Returns whether there was room.
    fn take_alone(
        &mut self,
        key: &Arc<str>,
        input: InputId,
        taken: Taken,
        letter: Outgoing,
        change: Option<KeyChange>,
        fact: Option<(String, String)>,
    ) -> Result<bool, Error> {
        self.steps.finish()?;
        let handed_over = match taken {
            Taken::Event(position) => self.steps.take(position, letter, change, fact),
            Taken::Callback(number) => self.steps.take_callbacks(vec![number], letter, change, fact),
        };
        match handed_over.and_then(|()| self.steps.finish()) {
            Ok(()) => Ok(true),
            Err(Error::Full(reason)) => {
                self.steps.go_on();
                let attempts = self.keys.attempts(key, input);
                self.keys.pause(key, input, attempts, self.options.backoff.pause(attempts + 1), reason);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn has_stopped(&mut self, stops: bool, event: &RecordedEvent) -> Result<(), Error> {
        if stops {
            self.steps.finish()?;
            self.links.pausing.has_stopped_behind(&event_place(event));
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
            // Also if there is nothing to record: what an input sees must not change when it is handled again.
            Some(to) if !outgoing.is_empty() || to > self.steps.planned() => self.steps.take(to, outgoing, key, fact),
            _ => Ok(()),
        }
    }
}

/// Returns the key of an event, or why there is none. An error is one of the host, or an event that took too long for a segment: the
/// others may know by then whose it is, and it would be nobody's.
fn told(key: Result<EventKey, Unhandled>, is_divided: bool) -> Result<EventKey, String> {
    match key {
        Ok(key) => Ok(key),
        Err(Unhandled::Host(reason)) => Err(reason),
        Err(unhandled @ (Unhandled::Overrun(_) | Unhandled::Slow(..))) if is_divided => {
            Err(format!("the saga of an event can't be determined in time: {unhandled}"))
        }
        Err(unhandled) => Ok(EventKey::Failed(format!("its saga can't be determined: {unhandled}"))),
    }
}
