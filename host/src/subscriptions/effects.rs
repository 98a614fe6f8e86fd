//! What a subscriber asked for, as commands and messages: each with the id, the time and the correlation of what
//! caused it.

use crate::model::{Command, Header, Message, Record, RecordedEvent, StreamId};
use crate::plugin::{Effect, Effects, OutgoingCommand, OutgoingMessage};
use crate::trace;
use std::sync::Arc;

/// What an effect follows from.
pub(super) trait Cause {
    /// Its id.
    fn id(&self) -> String;
    /// Tells it from everything else that its subscription handles.
    fn place(&self, id: &str) -> String;
    /// Its time.
    fn time_ms(&self) -> u64;
    /// The same for everything that follows from one first cause.
    fn correlation_id(&self, id: &Arc<str>) -> Arc<str>;
    /// What came with it; of that, what follows gets the trace.
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

    fn correlation_id(&self, _: &Arc<str>) -> Arc<str> {
        self.correlation_id.clone()
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

    fn headers(&self) -> &[Header] {
        &self.headers
    }
}

/// The effects of a call as commands and messages. `cause` finds the item of an index. The ids are the same however
/// often an item is handled, and in whatever list.
pub(super) fn outgoing<'c, C: Cause + 'c>(
    subscription: &Arc<str>,
    effects: Effects,
    cause: impl Fn(usize) -> &'c C,
) -> (Vec<Command>, Vec<Message>) {
    let (mut commands, mut messages) = (Vec::new(), Vec::new());
    let mut traits: Option<(u32, Traits<'c, C>)> = None;
    for (index, effect) in effects.list {
        let (_, traits) = match &mut traits {
            Some(known) if known.0 == index => known,
            other => other.insert((index, Traits::of(subscription, cause(index as usize)))),
        };
        match effect {
            Effect::Command(command) => commands.push(command_from(traits, command)),
            Effect::Message(message) => messages.push(message_from(traits, subscription, message)),
        }
    }
    (commands, messages)
}

/// What all effects of one cause share.
struct Traits<'c, C> {
    cause: &'c C,
    /// Of its effects, without their numbers.
    ids: String,
    effects: usize,
    id: Arc<str>,
    correlation_id: Arc<str>,
}

impl<'c, C: Cause> Traits<'c, C> {
    fn of(subscription: &str, cause: &'c C) -> Self {
        let id: Arc<str> = cause.id().into();
        let ids = [subscription, ":", &cause.place(&id), ":"].concat();
        Self { cause, ids, effects: 0, correlation_id: cause.correlation_id(&id), id }
    }

    /// The id of the next effect.
    fn next_id(&mut self) -> Arc<str> {
        self.effects += 1;
        [&self.ids, &*(self.effects - 1).to_string()].concat().into()
    }
}

fn command_from(traits: &mut Traits<'_, impl Cause>, mut command: OutgoingCommand) -> Command {
    trace::inherit(&mut command.headers, traits.cause.headers());
    Command {
        stream: StreamId::new(command.aggregate_type, command.aggregate_id),
        name: command.name.into(),
        payload: command.payload,
        id: traits.next_id(),
        time_ms: traits.cause.time_ms(),
        correlation_id: traits.correlation_id.clone(),
        causation_id: traits.id.clone(),
        headers: command.headers,
        origin: None,
        durable_id: false,
        expected: None,
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
        time_ms: traits.cause.time_ms(),
        correlation_id: traits.correlation_id.clone(),
        causation_id: traits.id.clone(),
        source: source.clone(),
    }
}
