//! The effects of a subscriber as commands, messages, timers and HTTP requests.
//!
//! Their ids and correlation ids derive from what caused them, and their time is that of the step. If an effect would make a
//! chain of causes too long, it becomes a dead letter.

use crate::bounds::Bounds;
use crate::clock::Clock;
use crate::model::{
    Callback, CallbackContent, Command, DeadLetter, DeadLetterContent, ExpectedVersion, Header, HttpRequest,
    KeptCallback, KeptRequest, Message, OutcomeRequest, OutcomeUse, Record, RecordedEvent, StreamId, Version, key_text,
    saga_timer,
};
use crate::plugin::{Effect, Effects, OutgoingCommand, OutgoingMessage, OutgoingRequest, SagaDecision};
use crate::store::{CallbackChange, Reached, SagaAppend, Step};
use crate::trace;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// The sink that publishes the messages of subscribers.
const OUTBOX: &str = "outbox";

/// The cause of an effect: an event, a record or a callback.
pub(super) trait Cause {
    /// Returns its id.
    fn id(&self) -> String;
    /// Returns a text that identifies it among everything that its subscription handles.
    fn place(&self, id: &str) -> String;
    /// Returns its time.
    fn time_ms(&self) -> u64;
    /// Returns the time of the first cause.
    fn first_ms(&self) -> u64 {
        self.time_ms()
    }
    /// Returns the id that everything from one first cause shares.
    fn correlation_id(&self, id: &Arc<str>) -> Arc<str>;
    /// Returns how many subscribers the chain of causes has passed through so far.
    fn hops(&self) -> u32;
    /// Returns the key under which the outcomes and timers of its effects come back.
    fn key(&self) -> Option<Vec<u8>>;
    /// Returns its headers, from which its effects inherit the trace context.
    fn headers(&self) -> &[Header];
}

impl Cause for RecordedEvent {
    fn id(&self) -> String {
        self.id.to_string()
    }

    fn place(&self, _: &str) -> String {
        self.position.0.to_string()
    }

    fn time_ms(&self) -> u64 {
        self.time_ms
    }

    fn first_ms(&self) -> u64 {
        self.first_ms.unwrap_or(self.time_ms)
    }

    fn correlation_id(&self, _: &Arc<str>) -> Arc<str> {
        self.correlation_id.clone()
    }

    fn hops(&self) -> u32 {
        self.hops
    }

    fn key(&self) -> Option<Vec<u8>> {
        Some(self.stream.aggregate_id.as_bytes().to_vec())
    }

    fn headers(&self) -> &[Header] {
        &self.headers
    }
}

impl Cause for Record {
    fn id(&self) -> String {
        Record::id(self)
    }

    fn place(&self, id: &str) -> String {
        id.to_owned()
    }

    fn time_ms(&self) -> u64 {
        self.time_ms
    }

    fn correlation_id(&self, id: &Arc<str>) -> Arc<str> {
        Record::correlation_id(self).map_or_else(|| id.clone(), Into::into)
    }

    fn hops(&self) -> u32 {
        Record::hops(self)
    }

    fn key(&self) -> Option<Vec<u8>> {
        self.key.clone()
    }

    fn headers(&self) -> &[Header] {
        &self.headers
    }
}

impl Cause for KeptCallback {
    fn id(&self) -> String {
        KeptCallback::id(self)
    }

    fn place(&self, _: &str) -> String {
        format!("callback-{}", self.number)
    }

    fn time_ms(&self) -> u64 {
        self.time_ms
    }

    fn first_ms(&self) -> u64 {
        self.callback.first_ms
    }

    fn correlation_id(&self, _: &Arc<str>) -> Arc<str> {
        self.callback.correlation_id.clone()
    }

    fn hops(&self) -> u32 {
        self.callback.hops
    }

    fn key(&self) -> Option<Vec<u8>> {
        self.callback.key.clone()
    }

    fn headers(&self) -> &[Header] {
        &self.callback.headers
    }
}

/// The cause of the effects of a saga. Their outcomes and timers come back under the key of the saga.
struct OfSaga<'c, C> {
    cause: &'c C,
    saga: &'c StreamId,
}

impl<C: Cause> Cause for OfSaga<'_, C> {
    fn id(&self) -> String {
        self.cause.id()
    }

    fn place(&self, id: &str) -> String {
        self.cause.place(id)
    }

    fn time_ms(&self) -> u64 {
        self.cause.time_ms()
    }

    fn first_ms(&self) -> u64 {
        self.cause.first_ms()
    }

    fn correlation_id(&self, id: &Arc<str>) -> Arc<str> {
        self.cause.correlation_id(id)
    }

    fn hops(&self) -> u32 {
        self.cause.hops()
    }

    fn key(&self) -> Option<Vec<u8>> {
        Some(self.saga.aggregate_id.as_bytes().to_vec())
    }

    fn headers(&self) -> &[Header] {
        self.cause.headers()
    }
}

/// Converts the decision of a saga on one input to the events of its stream and its effects.
pub(super) fn saga_outgoing(
    subscription: &Arc<str>,
    saga: &StreamId,
    expected: Version,
    decision: SagaDecision,
    bounds: Bounds,
    cause: &impl Cause,
) -> Outgoing {
    let SagaDecision { events, end, effects } = decision;
    let (now_ms, cause) = (Clock::system().now_ms(), OfSaga { cause, saga });
    let mut outgoing = outgoing_at(Some(now_ms), subscription, effects, bounds, |_| &cause);
    let timer = |name: &str| saga_timer(&saga.aggregate_id, name).into();
    for change in &mut outgoing.callbacks {
        match change {
            CallbackChange::Set { name: Some(name), .. } | CallbackChange::Cancel(name) => *name = timer(name),
            CallbackChange::Set { name: None, .. } | CallbackChange::Defer { .. } => {}
        }
    }
    if !events.is_empty() || end.is_some() {
        let id: Arc<str> = cause.id().into();
        let input = Command {
            stream: saga.clone(),
            name: "".into(),
            payload: Vec::new(),
            time_ms: now_ms,
            first_ms: Some(cause.first_ms()).filter(|first_ms| *first_ms != now_ms),
            correlation_id: cause.correlation_id(&id),
            causation_id: id.clone(),
            headers: trace::context(cause.headers()),
            origin: None,
            hops: cause.hops().saturating_add(1),
            durable_id: false,
            outcome_use: OutcomeUse::Counted,
            expected: None,
            id,
        };
        outgoing.sagas.push(SagaAppend { input, expected, events, ends: end.is_some() });
    }
    outgoing
}

/// The effects of a call, ready for the store.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) commands: Vec<Command>,
    pub(super) messages: Vec<Message>,
    /// The events of sagas.
    pub(super) sagas: Vec<SagaAppend>,
    pub(super) callbacks: Vec<CallbackChange>,
    pub(super) requests: Vec<HttpRequest>,
    /// The effects that would make a chain of causes too long.
    pub(super) dead_letters: Vec<DeadLetter>,
}

/// Converts the effects of a call to commands, messages, timers and HTTP requests.
///
/// `cause` returns the item of an index. The ids do not depend on how often an item is handled, or in which batch. The time
/// of the effects is that of this call, right before the step that makes them durable.
pub(super) fn outgoing<'c, C: Cause + 'c>(
    subscription: &Arc<str>,
    effects: Effects,
    bounds: Bounds,
    cause: impl Fn(usize) -> &'c C,
) -> Outgoing {
    outgoing_at(Some(Clock::system().now_ms()), subscription, effects, bounds, cause)
}

/// Converts the effects of a call, as [`outgoing`] does. If there is no time, each effect gets the time of its cause.
pub(super) fn outgoing_at<'c, C: Cause + 'c>(
    time_ms: Option<u64>,
    subscription: &Arc<str>,
    effects: Effects,
    bounds: Bounds,
    cause: impl Fn(usize) -> &'c C,
) -> Outgoing {
    let mut outgoing = Outgoing::default();
    let mut traits: Option<(u32, Traits<'c, C>)> = None;
    for (index, effect) in effects.list {
        let (_, traits) = match &mut traits {
            Some(known) if known.0 == index => known,
            other => other.insert((index, Traits::of(time_ms, subscription, cause(index as usize)))),
        };
        match effect {
            Effect::Command(command) => {
                let command = command_from(traits, command);
                match bounds.refusal(traits.hops, &traits.correlation_id) {
                    None => outgoing.commands.push(command),
                    Some(reason) => outgoing.dead_letters.push(dead_letter_of_command(subscription, command, reason)),
                }
            }
            // A timer starts the count of hops again.
            Effect::Later(name, due, command) => {
                let name = name.map(Into::into);
                let command = Command { hops: 0, ..command_from(traits, command) };
                let callback = callback_from(traits, CallbackContent::Send(Box::new(command)));
                outgoing.callbacks.push(CallbackChange::Set { name, due, callback });
            }
            Effect::Wake(name, due, payload) => {
                let name: Arc<str> = name.into();
                let callback = callback_from(traits, CallbackContent::Wake { name: name.clone(), payload });
                outgoing.callbacks.push(CallbackChange::Set { name: Some(name), due, callback });
            }
            Effect::Cancel(name) => outgoing.callbacks.push(CallbackChange::Cancel(name.into())),
            Effect::Http(request) => {
                let request = request_from(traits, request);
                match bounds.refusal(traits.hops, &traits.correlation_id) {
                    None => outgoing.requests.push(request),
                    Some(reason) => {
                        outgoing.dead_letters.push(KeptRequest::new(subscription.clone(), request).dead_letter(reason));
                    }
                }
            }
            Effect::Message(message) => {
                let message = message_from(traits, subscription, message);
                match bounds.refusal(traits.hops, &traits.correlation_id) {
                    None => outgoing.messages.push(message),
                    Some(reason) => outgoing.dead_letters.push(dead_letter_of_message(subscription, message, reason)),
                }
            }
        }
    }
    outgoing
}

impl Outgoing {
    /// Makes the step of a subscription that has these effects. It changes no key and keeps no fact.
    pub(super) fn step(self, subscription: &Arc<str>, reached: Reached) -> Step {
        let Self { commands, messages, sagas, callbacks, requests, dead_letters } = self;
        Step {
            commands,
            messages,
            sagas,
            callbacks,
            requests,
            dead_letters,
            ..Step::new(subscription.clone(), reached)
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { commands, messages, sagas, callbacks, requests, dead_letters } = self;
        commands.is_empty()
            && messages.is_empty()
            && sagas.is_empty()
            && callbacks.is_empty()
            && requests.is_empty()
            && dead_letters.is_empty()
    }

    /// Adds the effects of a later input.
    pub(super) fn add(&mut self, later: Self) {
        let Self { commands, messages, sagas, callbacks, requests, dead_letters } = later;
        self.commands.extend(commands);
        self.messages.extend(messages);
        self.sagas.extend(sagas);
        self.callbacks.extend(callbacks);
        self.requests.extend(requests);
        self.dead_letters.extend(dead_letters);
    }

    /// Returns roughly how much memory the effects take, in bytes.
    pub(super) fn size(&self) -> usize {
        let Self { commands, messages, sagas, callbacks, requests, .. } = self;
        let of_commands = commands.iter().map(Command::size).sum::<usize>();
        let of_messages = messages.iter().map(Message::size).sum::<usize>();
        let of_sagas = sagas.iter().map(SagaAppend::size).sum::<usize>();
        let of_requests = requests.iter().map(HttpRequest::size).sum::<usize>();
        of_commands + of_messages + of_sagas + of_requests + callbacks.iter().map(CallbackChange::size).sum::<usize>()
    }

    /// Logs the dead letters.
    pub(super) fn logged(self, subscription: &str) -> Self {
        for letter in &self.dead_letters {
            tracing::warn!("subscription {subscription}: {} can't be sent: {}", letter.place, letter.reason);
        }
        self
    }
}

fn dead_letter_of_command(subscription: &str, command: Command, reason: String) -> DeadLetter {
    let place = format!("command {} ({} to {})", command.id, command.name, command.stream);
    DeadLetter::of_command(subscription.to_owned(), place, reason, command)
}

fn dead_letter_of_message(subscription: &str, message: Message, reason: String) -> DeadLetter {
    DeadLetter {
        consumer: subscription.to_owned(),
        place: format!("message {} to topic {}", message.id, message.topic),
        key: key_text(message.key.as_deref()),
        reason,
        time_ms: Some(message.time_ms),
        content: DeadLetterContent::Message(OUTBOX.to_owned(), message),
    }
}

/// What all effects of one cause share.
struct Traits<'c, C> {
    cause: &'c C,
    /// The prefix of the ids of its effects, without their numbers.
    ids: String,
    effects: usize,
    hops: u32,
    time_ms: u64,
    id: Arc<str>,
    correlation_id: Arc<str>,
}

impl<'c, C: Cause> Traits<'c, C> {
    fn of(time_ms: Option<u64>, subscription: &str, cause: &'c C) -> Self {
        let id: Arc<str> = cause.id().into();
        let ids = [subscription, ":", &cause.place(&id), ":"].concat();
        Self {
            cause,
            ids,
            effects: 0,
            hops: cause.hops().saturating_add(1),
            time_ms: time_ms.unwrap_or_else(|| cause.time_ms()),
            correlation_id: cause.correlation_id(&id),
            id,
        }
    }

    /// Returns the id of the next effect.
    fn next_id(&mut self) -> Arc<str> {
        self.effects += 1;
        [&self.ids, &*(self.effects - 1).to_string()].concat().into()
    }
}

fn callback_from(traits: &Traits<'_, impl Cause>, content: CallbackContent) -> Box<Callback> {
    Box::new(Callback {
        key: traits.cause.key(),
        correlation_id: traits.correlation_id.clone(),
        causation_id: traits.id.clone(),
        hops: 0,
        first_ms: traits.cause.first_ms(),
        headers: trace::context(traits.cause.headers()),
        content,
    })
}

fn command_from(traits: &mut Traits<'_, impl Cause>, mut command: OutgoingCommand) -> Command {
    trace::inherit(&mut command.headers, traits.cause.headers());
    let outcome_use = command.outcome.map_or(OutcomeUse::Counted, |attachment| {
        OutcomeUse::Delivered(OutcomeRequest { key: traits.cause.key(), attachment })
    });
    Command {
        stream: StreamId::new(command.aggregate_type, command.aggregate_id),
        name: command.name.into(),
        payload: command.payload,
        id: traits.next_id(),
        time_ms: traits.time_ms,
        first_ms: Some(traits.cause.first_ms()).filter(|first_ms| *first_ms != traits.time_ms),
        correlation_id: traits.correlation_id.clone(),
        causation_id: traits.id.clone(),
        headers: command.headers,
        origin: None,
        hops: traits.hops,
        durable_id: false,
        outcome_use,
        expected: command.expected_version.map(|version| ExpectedVersion::Exact(Version(version))),
    }
}

/// Makes the request of a guest. Its id is the idempotency key that a server sees. It depends on the identity of the cause, so
/// it is the same when a cause is handled again, also by a store that was restored from a backup. A position or a number may
/// be given again after a restore, so these alone would not do.
fn request_from(traits: &mut Traits<'_, impl Cause>, request: OutgoingRequest) -> HttpRequest {
    let OutgoingRequest { endpoint, method, path, headers, body, response } = request;
    let effect = traits.next_id();
    let cause = traits.cause;
    let mut digest = Sha256::new();
    for text in [&*effect, &*traits.id, &*traits.correlation_id] {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    digest.update(cause.time_ms().to_le_bytes());
    digest.update(cause.first_ms().to_le_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    HttpRequest {
        id: uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string().into(),
        endpoint: endpoint.into(),
        method,
        path,
        headers,
        body,
        response,
        key: cause.key(),
        correlation_id: traits.correlation_id.clone(),
        causation_id: traits.id.clone(),
        hops: traits.hops,
        time_ms: traits.time_ms,
        first_ms: cause.first_ms(),
        trace: trace::context(cause.headers()),
    }
}

fn message_from(traits: &mut Traits<'_, impl Cause>, source: &Arc<str>, mut message: OutgoingMessage) -> Message {
    trace::inherit(&mut message.headers, traits.cause.headers());
    Message {
        id: traits.next_id(),
        topic: message.topic,
        key: message.key,
        partition: message.partition,
        headers: message.headers,
        payload: message.payload,
        time_ms: traits.time_ms,
        correlation_id: traits.correlation_id.clone(),
        causation_id: traits.id.clone(),
        hops: traits.hops,
        source: source.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::Effect;
    use crate::subscriptions::records::run::tests::record;

    fn effects() -> Effects {
        let command = OutgoingCommand {
            aggregate_type: "order".into(),
            aggregate_id: "1".into(),
            name: "Again".into(),
            payload: Vec::new(),
            headers: Vec::new(),
            expected_version: None,
            outcome: None,
        };
        let message =
            OutgoingMessage { topic: "t".into(), key: None, partition: None, headers: Vec::new(), payload: None };
        let mut effects = Effects::default();
        effects.list = vec![(0, Effect::Command(command)), (0, Effect::Message(message))];
        effects
    }

    #[test]
    fn each_subscriber_adds_a_hop_and_what_is_too_long_is_dead_lettered() {
        let bounds = Bounds { hops_max: 3, ..Bounds::default() };
        let mut cause = record("k", 7);
        for carried in [None, Some("1"), Some("2"), Some("3"), Some("nonsense")] {
            cause.headers = carried
                .map(|hops: &str| Header { name: crate::bounds::HOPS_HEADER.into(), value: Some(hops.into()) })
                .into_iter()
                .collect();
            let Outgoing { commands, messages, dead_letters, .. } =
                outgoing(&"loop".into(), effects(), bounds, |_| &cause);
            match carried.map_or(Ok(0), str::parse::<u32>) {
                Ok(hops) if hops < 3 => {
                    assert_eq!((commands[0].hops, messages[0].hops, dead_letters.len()), (hops + 1, hops + 1, 0));
                }
                _ => {
                    assert_eq!((commands.len(), messages.len()), (0, 0), "{carried:?}");
                    assert!(dead_letters.iter().all(|letter| letter.reason.contains("t:0:7")), "{dead_letters:?}");
                    assert!(matches!(
                        (&dead_letters[0].content, &dead_letters[1].content),
                        (DeadLetterContent::Command(_), DeadLetterContent::Message(..))
                    ));
                }
            }
        }
    }
}
