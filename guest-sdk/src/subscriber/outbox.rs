//! What a subscriber does: commands and messages, collected until the delivery is handled.

use crate::bindings::{bus, types};
use crate::codec;
use serde::Serialize;

/// A command on its way out.
#[derive(Clone, Debug)]
pub struct OutgoingCommand(pub(crate) bus::OutgoingCommand);

impl OutgoingCommand {
    /// A command for one aggregate: a variant of a serde enum, as the aggregate defines it.
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

    /// With this header, which the events will carry too.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.headers.push(types::Header { name: name.into(), value: Some(value.into()) });
        self
    }
}

/// A message for a Kafka topic. The host adds its id, time, correlation and causation as headers.
#[derive(Clone, Debug)]
pub struct Message(pub(crate) bus::Message);

impl Message {
    /// An empty message (a tombstone) for this topic.
    pub fn to(topic: impl Into<String>) -> Self {
        Self(bus::Message { topic: topic.into(), key: None, partition: None, headers: Vec::new(), payload: None })
    }

    /// With this key: messages of one key keep their order.
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.0.key = Some(key.into());
        self
    }

    /// To this partition, whatever the partitioner says.
    pub fn partition(mut self, partition: i32) -> Self {
        self.0.partition = Some(partition);
        self
    }

    /// With one header more.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.0.headers.push(types::Header { name: name.into(), value: Some(value.into()) });
        self
    }

    /// With these bytes as its payload.
    pub fn bytes(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.0.payload = Some(payload.into());
        self
    }

    /// With this payload as JSON.
    pub fn json(self, payload: &(impl Serialize + ?Sized)) -> Result<Self, codec::Error> {
        Ok(self.bytes(codec::to_json(payload)?))
    }
}

/// One thing to be done, in the order of the calls.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Send(OutgoingCommand),
    Publish(Message),
}

/// Collects what a delivery leads to.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(crate) effects: Vec<Effect>,
}

impl Outbox {
    /// Sends a command, exactly once: a variant of a serde enum, as the aggregate defines it.
    pub fn send(
        &mut self,
        aggregate_type: impl Into<String>,
        aggregate_id: impl Into<String>,
        command: &impl Serialize,
    ) -> Result<(), codec::Error> {
        self.send_command(OutgoingCommand::new(aggregate_type, aggregate_id, command)?);
        Ok(())
    }

    /// Sends a command that was made with headers.
    pub fn send_command(&mut self, command: OutgoingCommand) {
        self.effects.push(Effect::Send(command));
    }

    /// Publishes a message to Kafka.
    pub fn publish(&mut self, message: Message) {
        self.effects.push(Effect::Publish(message));
    }
}
