//! How commands, events, outcomes, timers and responses go round, until everything is at rest.
//!
//! There is one thread, and the order is always the same: each subscription in turn takes an outcome, a response or a timer
//! that is due, or else an event. A failed input is tried again at once, because its plugin sees the same as before.

use super::code::{Broken, Failed, check_name};
use super::command::{Cause, Command, check_id};
use super::store::{Recorded, check_sizes};
use super::subscription::{Callback, Content, SagaPart, SubscriptionCode, delivery_of};
use super::{Plugins, patterns, servers};
use crate::bindings::{bus, types};
use crate::reading::Shape;
use crate::subscriber::{Effect, OutgoingCommand, Request};
use crate::testing::saga::Decision;
use crate::upcast::{self, Upcasts};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;
use wasmill_cases::flows::{Occurred, Stream, World as _};
use wasmill_names::Rule;

/// The most deliveries while the clock stands still.
const AT_ONCE_MAX: usize = 10_000;

/// The most times at which timers are due while the clock moves once, as in `wasmill test`.
const DUE_TIMES_MAX: usize = 10_000;

/// The number of deliveries that an error shows.
const SHOWN: usize = 4;

/// How often an input of a subscription is tried: the default of `subscriptions.NAME.attempts_max`.
const ATTEMPTS_MAX: u32 = 5;

/// How often the key of a saga is determined.
const KEY_ATTEMPTS_MAX: u32 = 2;

/// How often a command of a subscription is tried: the default of `plugins.NAME.attempts_max`.
const COMMAND_ATTEMPTS_MAX: u32 = 3;

/// The deliveries at one time, so that what goes on for ever is found.
#[derive(Default)]
pub(super) struct Count {
    deliveries: usize,
    /// The first ones that are too many.
    last: Vec<String>,
}

impl Plugins {
    /// Delivers everything that is due.
    pub(super) fn come_to_rest(&mut self) -> Result<(), Broken> {
        self.check_declarations()?;
        self.count = Count::default();
        self.deliver_due()
    }

    /// Fails if a plugin subscribes to an event that an aggregate or a saga does not have, as `wasmill check` does, or if the test
    /// answers requests to an endpoint that no plugin declares.
    fn check_declarations(&self) -> Result<(), Broken> {
        let subscriptions = self.subscriptions.iter().map(|part| (part.type_name, &part.patterns));
        let projections = self.projections.iter().map(|part| (part.name, &part.patterns));
        for (owner, patterns) in subscriptions.chain(projections) {
            let wrong = patterns.iter().find_map(|pattern| patterns::unmatched(owner, pattern, &self.recorded));
            wrong.map_or(Ok(()), Err)?;
        }
        self.servers.endpoints().try_for_each(|endpoint| self.check_endpoint(endpoint))
    }

    /// Moves the clock, and stops at each timer on the way.
    pub(super) fn move_clock(&mut self, by: Duration) -> Result<(), Broken> {
        self.come_to_rest()?;
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.store.now_ms.saturating_add(by_ms);
        for _ in 0..DUE_TIMES_MAX {
            let timers = self.subscriptions.iter().filter_map(|subscription| subscription.next_timer_ms());
            let Some(due_ms) = timers.min().filter(|due_ms| *due_ms <= until_ms) else {
                self.store.now_ms = until_ms;
                return Ok(());
            };
            self.store.now_ms = self.store.now_ms.max(due_ms);
            self.count = Count::default();
            self.deliver_due()?;
        }
        Err(format!("something is due at more than {DUE_TIMES_MAX} times: move the clock in smaller steps"))
    }

    fn deliver_due(&mut self) -> Result<(), Broken> {
        loop {
            let mut is_at_rest = true;
            for index in 0..self.subscriptions.len() {
                is_at_rest &= !self.deliver_one(index)?;
            }
            if is_at_rest {
                return self.project();
            }
        }
    }

    /// Delivers an outcome, a response, a timer or an event to a subscription. Returns false if there is none.
    fn deliver_one(&mut self, index: usize) -> Result<bool, Broken> {
        let subscription = &mut self.subscriptions[index];
        if let Some(callback) = subscription.next_callback(self.store.now_ms) {
            self.note(index, || callback.describe())?;
            return self.callback(index, callback).map(|()| true);
        }
        let Some(recorded) = subscription.next_event(&self.store) else { return Ok(false) };
        self.note(index, || describe(&recorded.event))?;
        self.event(index, &recorded).map(|()| true)
    }

    /// Counts a delivery. Fails if there are too many.
    fn note(&mut self, index: usize, describe: impl Fn() -> String) -> Result<(), Broken> {
        let Count { deliveries, last } = &mut self.count;
        *deliveries += 1;
        if *deliveries <= AT_ONCE_MAX {
            return Ok(());
        }
        last.push(format!("{} to {}", describe(), self.subscriptions[index].name));
        if last.len() < SHOWN {
            return Ok(());
        }
        Err(format!(
            "the plugins do not come to rest: {AT_ONCE_MAX} deliveries, and the clock stands still; the next are {}",
            last.join("; ")
        ))
    }

    fn event(&mut self, index: usize, recorded: &Recorded) -> Result<(), Broken> {
        let shape = self.subscriptions[index].shape;
        let delivery = delivery_of(&*shaped(&self.upcasts, shape, &recorded.event)?);
        let cause = Cause::of_event(recorded);
        let subscription = &mut self.subscriptions[index];
        let SubscriptionCode::Subscriber(handle) = &subscription.code else {
            return self.event_of_saga(index, recorded, &delivery, cause);
        };
        let key = format!("{}/{}", recorded.event.aggregate_type, recorded.event.aggregate_id);
        if subscription.held.contains(&key) {
            return Ok(());
        }
        match attempts(ATTEMPTS_MAX, || Ok(handle(&subscription.given, &delivery)))? {
            Ok(effects) => {
                let commands = self.take(index, &cause, effects)?;
                self.run_all(commands)
            }
            Err(reason) => {
                subscription.held.insert(key);
                self.dead_letter(index, reason);
                Ok(())
            }
        }
    }

    fn event_of_saga(
        &mut self,
        index: usize,
        recorded: &Recorded,
        delivery: &types::Delivery,
        cause: Cause,
    ) -> Result<(), Broken> {
        let subscription = &self.subscriptions[index];
        let SubscriptionCode::Sagas(part) = &subscription.code else { return Ok(()) };
        let key = match attempts(KEY_ATTEMPTS_MAX, || Ok(part.code.key(&subscription.given, delivery)))? {
            Ok(None) => return Ok(()),
            Ok(Some(key)) => check_id("key of the saga", &key).map(|()| key),
            Err(reason) => Err(format!("its saga can't be determined: {reason}")),
        };
        let key = match key {
            Ok(key) if subscription.held.contains(&key) => return Ok(()),
            Ok(key) => key,
            // Without a key nothing waits behind it.
            Err(reason) => {
                self.dead_letter(index, reason);
                return Ok(());
            }
        };
        let may_start = patterns::select(&part.starts, &recorded.event.aggregate_type, &recorded.event.name);
        if let Err(reason) = self.input_of_saga(index, &key, delivery, cause, may_start)? {
            self.subscriptions[index].held.insert(key);
            self.dead_letter(index, reason);
        }
        Ok(())
    }

    fn callback(&mut self, index: usize, callback: Callback) -> Result<(), Broken> {
        let (cause, delivery) = (callback.cause(), callback.delivery());
        if let Content::Send(command) = callback.content {
            let command = Command { time_ms: callback.time_ms, ..*command };
            return self.run(&command).map(drop);
        }
        let subscription = &self.subscriptions[index];
        let failed = match &subscription.code {
            SubscriptionCode::Subscriber(handle) => {
                match attempts(ATTEMPTS_MAX, || Ok(handle(&subscription.given, &delivery)))? {
                    Ok(effects) => {
                        let commands = self.take(index, &cause, effects)?;
                        return self.run_all(commands);
                    }
                    Err(reason) => reason,
                }
            }
            SubscriptionCode::Sagas(_) => {
                let key = String::from_utf8_lossy(callback.key.as_deref().unwrap_or_default()).into_owned();
                match self.input_of_saga(index, &key, &delivery, cause, false)? {
                    Ok(()) => return Ok(()),
                    Err(reason) => reason,
                }
            }
        };
        // Later outcomes, timers and responses of its key pass it.
        self.dead_letter(index, failed);
        Ok(())
    }

    /// Has a saga decide on an input. The inner error is the reason for its dead letter.
    fn input_of_saga(
        &mut self,
        index: usize,
        key: &str,
        delivery: &types::Delivery,
        cause: Cause,
        may_start: bool,
    ) -> Result<Result<(), String>, Broken> {
        let Self { subscriptions, store, .. } = self;
        let subscription = &mut subscriptions[index];
        let SubscriptionCode::Sagas(SagaPart { saga_type, code, .. }) = &mut subscription.code else {
            return Ok(Ok(()));
        };
        let saga = Stream::new(*saga_type, key);
        let history = store.history(&saga);
        if store.is_archived(&saga) || history.is_empty() && !may_start {
            return Ok(Ok(()));
        }
        let cause = Cause { key: Some(key.as_bytes().to_vec()), ..cause };
        let input = cause.of_saga(&saga, store.now_ms);
        let decided = attempts(ATTEMPTS_MAX, || {
            let decided = code.decide(&subscription.given, &saga, &history, delivery)?;
            let checked = decided.and_then(|decision| {
                let decision = decision.unwrap_or_default();
                check_decision(&decision, &history, &input, &cause).map(|()| decision)
            });
            let is_recorded = checked.as_ref().is_ok_and(|(events, ..)| !(history.is_empty() && events.is_empty()));
            if !is_recorded {
                code.forget(&saga);
            }
            Ok(checked)
        })?;
        let (events, effects, end) = match decided {
            Ok(decision) => decision,
            Err(reason) => return Ok(Err(reason)),
        };
        if end.is_some() {
            code.forget(&saga);
        }
        let commands = self.take(index, &cause, effects.into())?;
        self.record(&input, events);
        if end.is_some() {
            self.store.archive(&saga);
            self.subscriptions[index].cancel_all_of(key);
        }
        self.run_all(commands).map(Ok)
    }

    /// Takes the effects of an input. Returns the commands, which are run once all effects are taken.
    fn take(&mut self, index: usize, cause: &Cause, effects: Vec<Effect>) -> Result<Vec<Command>, Broken> {
        let (now_ms, refusal) = (self.store.now_ms, cause.refusal());
        let name = self.subscriptions[index].name.clone();
        let (mut number, mut commands) = (0, Vec::new());
        let mut next = || {
            number += 1;
            number - 1
        };
        let command =
            |number, OutgoingCommand(sent): OutgoingCommand| cause.command((index, &name), number, now_ms, sent);
        for effect in effects {
            match (effect, &refusal) {
                (Effect::Send(_) | Effect::Publish(_) | Effect::Http(_), Some(reason)) => {
                    self.dead_letter(index, reason.clone());
                }
                (Effect::Send(sent), None) => commands.push(command(next(), sent)),
                (Effect::Publish(message), None) => self.happened.messages.push(message),
                (Effect::Http(request), None) => {
                    self.request(index, cause, cause.id_of_effect(&name, next()), request)?
                }
                (Effect::Later(timer, due, sent), _) => {
                    // A timer starts the count of hops again.
                    let command = Box::new(Command { hops: 0, ..command(next(), sent) });
                    self.set_timer(index, cause, timer, due.into(), Content::Send(command));
                }
                (Effect::Wake(timer, due, payload), _) => {
                    let content = Content::Wake { name: timer.clone(), payload };
                    self.set_timer(index, cause, Some(timer), due.into(), content);
                }
                (Effect::Cancel(timer), _) => {
                    let timer = self.subscriptions[index].timer(cause, &timer);
                    self.subscriptions[index].cancel(&timer);
                }
            }
        }
        Ok(commands)
    }

    /// Has a server answer a request, and reports to the sender.
    fn request(&mut self, index: usize, cause: &Cause, request_id: String, request: Request) -> Result<(), Broken> {
        let sent = servers::sent(&request);
        let answer = match servers::refusal(&sent) {
            Some(reason) => types::Answer::Refused(reason),
            None => {
                let answer = self.servers.answer(&self.subscriptions[index].name, &sent)?.into();
                self.happened.requests.push(request.clone());
                answer
            }
        };
        let bus::Request { endpoint, method, path, response, .. } = request.0;
        let Some(attachment) = response else {
            if let Some(reason) = servers::failure(&answer) {
                self.dead_letter(index, reason);
            }
            return Ok(());
        };
        let origin = types::ResponseOrigin { request_id, method, path, attempts: 1, answer };
        let callback = Callback {
            number: self.next_number(),
            timer: None,
            time_ms: self.store.now_ms,
            key: cause.key.clone(),
            correlation_id: cause.correlation_id.clone(),
            causation_id: cause.id.clone(),
            hops: cause.next_hops(),
            first_ms: cause.first_ms,
            content: Content::Response { endpoint, origin, attachment },
        };
        self.subscriptions[index].add(callback);
        Ok(())
    }

    fn set_timer(&mut self, index: usize, cause: &Cause, timer: Option<String>, due: bus::Due, content: Content) {
        let time_ms = match due {
            bus::Due::After(ms) => self.store.now_ms.saturating_add(ms),
            bus::Due::At(ms) => ms,
        };
        let number = self.next_number();
        let subscription = &mut self.subscriptions[index];
        let timer = timer.map(|timer| subscription.timer(cause, &timer));
        subscription.add(Callback {
            number,
            timer,
            time_ms,
            key: cause.key.clone(),
            correlation_id: cause.correlation_id.clone(),
            causation_id: cause.id.clone(),
            hops: 0,
            first_ms: cause.first_ms,
            content,
        });
    }

    fn run_all(&mut self, commands: Vec<Command>) -> Result<(), Broken> {
        commands.iter().try_for_each(|command| self.run(command).map(drop))
    }

    /// Has an aggregate decide on a command, records the events, and reports to the sender.
    pub(super) fn run(&mut self, command: &Command) -> Result<types::Ending, Broken> {
        let ending = self.decide(command)?;
        let Some(sender) = &command.sender else { return Ok(ending) };
        if let Some(reason) = refusal(&ending, command.expected) {
            let told = match &ending {
                types::Ending::Conflict(actual) => format!("it conflicts: the stream has version {actual}"),
                _ => reason.clone(),
            };
            self.happened.refused.push((command.stream.clone(), command.name.clone(), told));
            // A rejection is only counted.
            if sender.attachment.is_none() && !matches!(ending, types::Ending::Rejected(_)) {
                self.dead_letter(sender.subscription, reason);
            }
        }
        if let Some(attachment) = &sender.attachment {
            let content = Content::Outcome {
                stream: command.stream.clone(),
                name: command.name.clone(),
                ending: ending.clone(),
                attachment: attachment.clone(),
            };
            let callback = Callback {
                number: self.next_number(),
                timer: None,
                time_ms: self.store.now_ms,
                key: sender.key.clone(),
                correlation_id: command.correlation_id.clone(),
                causation_id: command.id.clone(),
                hops: command.hops,
                first_ms: command.first_ms,
                content,
            };
            self.subscriptions[sender.subscription].add(callback);
        }
        Ok(ending)
    }

    fn decide(&mut self, command: &Command) -> Result<types::Ending, Broken> {
        let known = self.aggregate_types().join(", ");
        let Self { aggregates, store, .. } = self;
        if let Err(reason) = command.check() {
            return Ok(types::Ending::Malformed(reason));
        }
        let Some(part) = aggregates.get_mut(command.stream.aggregate_type.as_str()) else {
            let aggregate_type = &command.stream.aggregate_type;
            let reason = format!("no plugin serves aggregate type {aggregate_type}; served are: {known}");
            return Ok(types::Ending::Unserved(reason));
        };
        let version = store.version(&command.stream);
        if command.expected.is_some_and(|expected| expected != version) {
            return Ok(types::Ending::Conflict(version));
        }
        let history = store.history(&command.stream);
        let attempts_max = if command.sender.is_some() { COMMAND_ATTEMPTS_MAX } else { 1 };
        let (code, given, lent) = (&mut part.code, &part.given, command.lent());
        let mut attempt = 1;
        let events = loop {
            let decided = code.decide(given, &command.stream, &history, &lent)?;
            let named = decided.and_then(|events| check_names(&events).map(|()| events));
            match named {
                Ok(events) => break events,
                Err(Failed::Rejected(reason)) => return Ok(types::Ending::Rejected(reason)),
                Err(Failed::Malformed(reason)) => return Ok(types::Ending::Malformed(reason)),
                Err(Failed::Again(_)) if attempt < attempts_max => attempt += 1,
                Err(Failed::Again(reason)) => return Ok(types::Ending::Exhausted(tried(reason, attempt))),
            }
        };
        if let Err(reason) = check_sizes(command, &events) {
            code.forget(&command.stream);
            return Ok(types::Ending::Malformed(reason));
        }
        self.record(command, events);
        let Self { aggregates, store, .. } = self;
        if let Some(part) = aggregates.get_mut(command.stream.aggregate_type.as_str()) {
            part.code.recorded(&part.given, &command.stream, &store.history(&command.stream))?;
        }
        let accepted = types::Accepted { version: store.version(&command.stream), position: store.position() };
        Ok(types::Ending::Accepted(accepted))
    }

    fn record(&mut self, command: &Command, events: Vec<types::NewEvent>) {
        let occurred = |event: &types::NewEvent| Occurred {
            on: command.stream.clone(),
            name: event.name.clone(),
            payload: event.payload.clone(),
        };
        self.happened.events.extend(events.iter().map(occurred));
        self.store.append(command, events);
    }

    /// Folds new events into the read models. A projection that stops is an error, because later queries would be wrong.
    fn project(&mut self) -> Result<(), Broken> {
        for part in &mut self.projections {
            while let Some(Recorded { event, .. }) = self.store.event(part.next) {
                part.next += 1;
                if !patterns::select(&part.patterns, &event.aggregate_type, &event.name) {
                    continue;
                }
                let event = &*shaped(&self.upcasts, part.shape, event)?;
                let folded = attempts(ATTEMPTS_MAX, || Ok(part.code.fold(&part.given, event)))?;
                folded.map_err(|reason| {
                    format!("projection {} stops at event {}, {}: {reason}", part.name, event.position, describe(event))
                })?;
            }
        }
        Ok(())
    }

    fn dead_letter(&mut self, index: usize, reason: String) {
        self.happened.dead_letters.push((self.subscriptions[index].name.clone(), reason));
    }

    fn next_number(&mut self) -> u64 {
        self.callbacks += 1;
        self.callbacks
    }
}

/// Returns an event in the shape in which a reader gets it.
fn shaped<'e>(
    upcasts: &BTreeMap<&'static str, &'static [Upcasts]>,
    shape: Shape,
    event: &'e types::RecordedEvent,
) -> Result<Cow<'e, types::RecordedEvent>, Broken> {
    let Some(upcasts) = upcasts.get(event.aggregate_type.as_str()).filter(|_| shape == Shape::Newest) else {
        return Ok(Cow::Borrowed(event));
    };
    let mut event = event.clone();
    let newest = upcast::current(&event.name, &mut event.payload, upcasts).map(Cow::into_owned);
    event.payload = newest.map_err(|error| format!("{} can't be upcast: {error}", describe(&event)))?;
    Ok(Cow::Owned(event))
}

fn describe(event: &types::RecordedEvent) -> String {
    format!("{} of {}/{}", event.name, event.aggregate_type, event.aggregate_id)
}

/// Calls until it succeeds, is refused, or has failed this many times. The inner error is the reason for a dead letter.
fn attempts<T>(
    most: u32,
    mut call: impl FnMut() -> Result<Result<T, Failed>, Broken>,
) -> Result<Result<T, String>, Broken> {
    let mut attempt = 1;
    loop {
        match call()? {
            Ok(value) => return Ok(Ok(value)),
            Err(Failed::Again(_)) if attempt < most => attempt += 1,
            Err(Failed::Again(reason)) => return Ok(Err(tried(reason, attempt))),
            Err(failed) => return Ok(Err(failed.to_string())),
        }
    }
}

fn tried(reason: String, attempts: u32) -> String {
    if attempts == 1 { reason } else { format!("{reason} (tried {attempts} times)") }
}

/// Fails if a host would not record the decision of a saga.
fn check_decision(
    (events, effects, end): &Decision,
    history: &[types::RecordedEvent],
    input: &Command,
    cause: &Cause,
) -> Result<(), Failed> {
    check_names(events)?;
    let timer = effects.iter().find_map(|effect| match effect {
        Effect::Later(Some(name), ..) | Effect::Wake(name, ..) | Effect::Cancel(name) if name.contains('/') => {
            Some(name)
        }
        _ => None,
    });
    if let Some(name) = timer {
        let reason = format!("it names a timer {name:?}, and the name of a saga's timer has no `/`");
        return Err(Failed::Malformed(reason));
    }
    if history.is_empty() && events.is_empty() && (!effects.is_empty() || end.is_some()) {
        let reason = "the first decision of a saga has no event, so there would be no saga: record one".to_owned();
        return Err(Failed::Malformed(reason));
    }
    check_sizes(input, events).map_err(Failed::Malformed)?;
    match cause.refusal().filter(|_| !events.is_empty() || end.is_some()) {
        Some(reason) => Err(Failed::Malformed(reason)),
        None => Ok(()),
    }
}

fn check_names(events: &[types::NewEvent]) -> Result<(), Failed> {
    events.iter().try_for_each(|event| check_name("an event", &event.name, Rule::Message))
}

/// Returns why a command was not accepted, if so.
pub(super) fn refusal(ending: &types::Ending, expected: Option<u64>) -> Option<String> {
    match ending {
        types::Ending::Accepted(_) => None,
        types::Ending::Conflict(actual) => {
            let expected = expected.unwrap_or_default();
            Some(format!("its stream is at version {actual}, and its sender expects version {expected}"))
        }
        types::Ending::Rejected(reason)
        | types::Ending::Malformed(reason)
        | types::Ending::Archived(reason)
        | types::Ending::Unserved(reason)
        | types::Ending::Exhausted(reason) => Some(reason.clone()),
    }
}
