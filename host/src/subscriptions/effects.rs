//! What a subscriber asked for, as commands and messages: each with the id, the time and the correlation of what
//! caused it.

use crate::model::{Command, Header, Message, Record, RecordedEvent, StreamId};
use crate::plugin::{Effect, Effects, OutgoingCommand, OutgoingMessage};
use crate::trace;
use std::sync::Arc;

/// What an effect follows from.
pub(super) trait Cause {
    /// Tells it from everything else that its subscription handles.
    fn place(&self) -> String;
    /// Its id.
    fn id(&self) -> String;
    /// Its time.
    fn time_ms(&self) -> u64;
    /// The same for everything that follows from one first cause.
    fn correlation_id(&self) -> Arc<str>;
    /// What came with it; of that, what follows gets the trace.
    fn headers(&self) -> &[Header];
}

impl Cause for RecordedEvent {
    fn place(&self) -> String {
        self.position.to_string()
    }

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn time_ms(&self) -> u64 {
        self.time_ms
    }

    fn correlation_id(&self) -> Arc<str> {
        self.correlation_id.clone()
    }

    fn headers(&self) -> &[Header] {
        &self.headers
    }
}

impl Cause for Record {
    fn place(&self) -> String {
        Record::id(self)
    }

    fn id(&self) -> String {
        Record::id(self)
    }

    fn time_ms(&self) -> u64 {
        self.time_ms
    }

    fn correlation_id(&self) -> Arc<str> {
        Record::correlation_id(self).map_or_else(|| Record::id(self).into(), Into::into)
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
    let (mut last, mut number) = (u32::MAX, 0);
    for (index, effect) in effects.list {
        number = if index == last { number + 1 } else { 0 };
        last = index;
        let cause = cause(index as usize);
        let id: Arc<str> = format!("{subscription}:{}:{number}", cause.place()).into();
        match effect {
            Effect::Command(command) => commands.push(command_from(id, cause, command)),
            Effect::Message(message) => messages.push(message_from(id, subscription, cause, message)),
        }
    }
    (commands, messages)
}

fn command_from(id: Arc<str>, cause: &impl Cause, mut command: OutgoingCommand) -> Command {
    trace::inherit(&mut command.headers, cause.headers());
    Command {
        stream: StreamId::new(command.aggregate_type, command.aggregate_id),
        name: command.name.into(),
        payload: command.payload,
        id,
        time_ms: cause.time_ms(),
        correlation_id: cause.correlation_id(),
        causation_id: cause.id().into(),
        headers: command.headers,
        origin: None,
        durable_id: false,
        expected: None,
    }
}

fn message_from(id: Arc<str>, source: &Arc<str>, cause: &impl Cause, mut message: OutgoingMessage) -> Message {
    trace::inherit(&mut message.headers, cause.headers());
    Message {
        id,
        topic: message.topic,
        key: message.key,
        partition: message.partition,
        headers: message.headers,
        payload: message.payload,
        time_ms: cause.time_ms(),
        correlation_id: cause.correlation_id(),
        causation_id: cause.id().into(),
        source: source.clone(),
    }
}
