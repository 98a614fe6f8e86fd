//! The outbox of a subscriber: its commands and messages, collected until the delivery is handled.

use crate::bindings::{bus, types};
use crate::codec;
use serde::Serialize;

/// A command that a subscriber sends.
#[derive(Clone, Debug)]
pub struct OutgoingCommand(pub(crate) bus::OutgoingCommand);

impl OutgoingCommand {
    /// Makes a command for one aggregate from a variant of a serde enum. The variant's name and content must be those
    /// of the aggregate's command.
    pub fn new(
        aggregate_type: impl Into<String>,
        aggregate_id: impl Into<String>,
        command: &impl Serialize,
    ) -> Result<Self, codec::Error> {
        let (name, payload) = codec::encode(command)?;
        Ok(Self(bus::OutgoingCommand {
            aggregate_type: aggregate_type.into(),
            aggregate_id: aggregate_id.into(),
            name: name.to_owned(),
            payload,
            headers: Vec::new(),
        }))
    }

    /// Adds a header, which the events of the command carry too.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.headers.push(types::Header { name: name.into(), value: Some(value.into()) });
        self
    }
}

/// A message for a Kafka topic. The host adds its id, time, correlation and causation as headers.
#[derive(Clone, Debug)]
pub struct Message(pub(crate) bus::Message);

impl Message {
    /// Makes a message for this topic, without a key and without a payload. If no payload is set, it is a tombstone.
    pub fn to(topic: impl Into<String>) -> Self {
        Self(bus::Message { topic: topic.into(), key: None, partition: None, headers: Vec::new(), payload: None })
    }

    /// Sets the key. Messages with the same key keep their order.
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// Sets the partition. Without it, the sink's partitioner chooses one.
    pub fn partition(mut self, partition: i32) -> Self {
        self.0.partition = Some(partition);
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.headers.push(types::Header { name: name.into(), value: Some(value.into()) });
        self
    }

    /// Sets the payload to these bytes.
    pub fn bytes(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.0.payload = Some(payload.into());
        self
    }

    /// Sets the payload to this value as JSON.
    pub fn json(self, payload: &(impl Serialize + ?Sized)) -> Result<Self, codec::Error> {
        Ok(self.bytes(codec::to_json(payload)?))
    }
}

/// One effect of a delivery.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Send(OutgoingCommand),
    Publish(Message),
}

/// The effects of one delivery, in the order of the calls. They are sent only if `handle` succeeds.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(crate) effects: Vec<Effect>,
}

impl Outbox {
    /// Sends a command to an aggregate. It takes effect exactly once, and the commands to one aggregate keep their
    /// order. The command is a variant of a serde enum whose name and content must be those of the aggregate's command.
    /// If the aggregate rejects it, the host counts and logs that; the subscriber does not learn of it.
    pub fn send(
        &mut self,
        aggregate_type: impl Into<String>,
        aggregate_id: impl Into<String>,
        command: &impl Serialize,
    ) -> Result<(), codec::Error> {
        self.send_command(OutgoingCommand::new(aggregate_type, aggregate_id, command)?);
        Ok(())
    }

    /// Sends a command, as [`send`](Self::send) does. Use this to send headers with it.
    pub fn send_command(&mut self, command: OutgoingCommand) {
        self.effects.push(Effect::Send(command));
    }

    /// Publishes a message to Kafka, through the host's outbox.
    pub fn publish(&mut self, message: Message) {
        self.effects.push(Effect::Publish(message));
    }
}
