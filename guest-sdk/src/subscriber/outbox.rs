//! The outbox of a subscriber: its commands, messages, timers and HTTP requests, collected until the delivery is handled.

use super::Request;
use crate::bindings::{bus, types};
use crate::codec;
use crate::contract::Contract;
use serde::Serialize;
use std::time::Duration;

/// The most bytes that come back with the outcome of a command or the response to a request.
const ATTACHMENT_BYTES_MAX: usize = 1_024;

/// Encodes an attachment. `to` says what it is attached to, and `with` what it comes back with.
pub(super) fn attachment(to: &str, with: &str, attached: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, codec::Error> {
    let attachment = codec::to_json(attached)?;
    if attachment.len() > ATTACHMENT_BYTES_MAX {
        return Err(codec::Error::Other(format!(
            "the attachment to a {to} has {} bytes, and at most {ATTACHMENT_BYTES_MAX} come back with its {with}: attach an \
             id, and look the rest up",
            attachment.len()
        )));
    }
    Ok(attachment)
}

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
            expected_version: None,
            outcome: None,
        }))
    }

    /// Makes a command for one aggregate of a contract.
    pub fn to<C: Contract>(aggregate_id: impl Into<String>, command: &C::Command) -> Result<Self, codec::Error> {
        Self::new(C::TYPE, aggregate_id, command)
    }

    /// Sets the version that the aggregate's stream must have; 0 if it must have no events. If it has another version, the
    /// command ends as a conflict.
    pub fn expecting(mut self, version: u64) -> Self {
        self.0.expected_version = Some(version);
        self
    }

    /// Asks for the outcome of the command. It comes back once to
    /// [`Subscriber::outcome`](super::Subscriber::outcome), together with the attachment, which is encoded as JSON and may
    /// have at most 1,024 bytes. Such a command is never dead-lettered because of how it ended.
    pub fn asking_outcome(mut self, attached: &(impl Serialize + ?Sized)) -> Result<Self, codec::Error> {
        self.0.outcome = Some(attachment("command", "outcome", attached)?);
        Ok(self)
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

/// The time at which a timer is due. A [`Duration`] is one after the commit of the effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// This long after the commit, by the host's clock.
    After(Duration),
    /// At this time, in milliseconds since 1970-01-01T00:00:00Z. If it is past, the timer is due at once.
    At(u64),
}

impl From<Duration> for Due {
    fn from(after: Duration) -> Self {
        Due::After(after)
    }
}

impl From<Due> for bus::Due {
    fn from(due: Due) -> Self {
        match due {
            // Rounded up, because a timer is never early.
            Due::After(after) => {
                bus::Due::After(u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
            }
            Due::At(ms) => bus::Due::At(ms),
        }
    }
}

/// One effect of a delivery.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Send(OutgoingCommand),
    Publish(Message),
    Later(Option<String>, Due, OutgoingCommand),
    Wake(String, Due, Vec<u8>),
    Cancel(String),
    Http(Request),
}

/// The effects of one delivery, in the order of the calls. They are sent only if `handle` succeeds.
#[derive(Debug, Default)]
pub struct Outbox {
    pub(crate) effects: Vec<Effect>,
}

impl Outbox {
    /// Sends a command to an aggregate. It takes effect exactly once, and the commands to one aggregate keep their
    /// order. The command is a variant of a serde enum whose name and content must be those of the aggregate's command.
    /// If the aggregate rejects it, the host counts that. To learn of it, send the command with
    /// [`asking_outcome`](OutgoingCommand::asking_outcome).
    pub fn send(
        &mut self,
        aggregate_type: impl Into<String>,
        aggregate_id: impl Into<String>,
        command: &impl Serialize,
    ) -> Result<(), codec::Error> {
        self.send_command(OutgoingCommand::new(aggregate_type, aggregate_id, command)?);
        Ok(())
    }

    /// Sends a command to an aggregate of a contract, as [`send`](Self::send) does: `outbox.send_to::<Account>(id, &command)?`.
    pub fn send_to<C: Contract>(
        &mut self,
        aggregate_id: impl Into<String>,
        command: &C::Command,
    ) -> Result<(), codec::Error> {
        self.send_command(OutgoingCommand::to::<C>(aggregate_id, command)?);
        Ok(())
    }

    /// Sends a command, as [`send`](Self::send) does. Use this to send headers with it, or to ask for its outcome.
    pub fn send_command(&mut self, command: OutgoingCommand) {
        self.effects.push(Effect::Send(command));
    }

    /// Sends a command when a timer is due. The timer fires once, never early, also after a restart.
    pub fn send_later(&mut self, due: impl Into<Due>, command: OutgoingCommand) {
        self.effects.push(Effect::Later(None, due.into(), command));
    }

    /// Sends a command when the timer of this name is due, unless it is cancelled or set again before. The names of timers
    /// belong to the subscription and have 1 to 255 bytes. A timer replaces the one of the same name.
    pub fn send_at_timer(&mut self, timer: impl Into<String>, due: impl Into<Due>, command: OutgoingCommand) {
        self.effects.push(Effect::Later(Some(timer.into()), due.into(), command));
    }

    /// Wakes the subscriber when the timer of this name is due: [`Subscriber::timer`](super::Subscriber::timer) gets it
    /// with this payload, which is encoded as JSON. For the name the same holds as in
    /// [`send_at_timer`](Self::send_at_timer).
    pub fn wake(
        &mut self,
        timer: impl Into<String>,
        due: impl Into<Due>,
        payload: &(impl Serialize + ?Sized),
    ) -> Result<(), codec::Error> {
        self.effects.push(Effect::Wake(timer.into(), due.into(), codec::to_json(payload)?));
        Ok(())
    }

    /// Cancels the timer of this name, if there is one. A timer that is not handled by then is not delivered.
    pub fn cancel(&mut self, timer: impl Into<String>) {
        self.effects.push(Effect::Cancel(timer.into()));
    }

    /// Publishes a message to Kafka, through the host's outbox.
    pub fn publish(&mut self, message: Message) {
        self.effects.push(Effect::Publish(message));
    }

    /// Sends an HTTP request, once the delivery is handled. The requests of the deliveries with one key to one endpoint are sent
    /// one after the other, in the order of the calls. An attempt that fails in a temporary way is repeated with the same
    /// idempotency key. If no response is asked for and the request does not end with a status from 200 to 299, it becomes a
    /// dead letter. To learn how it ended, send it with [`asking_response`](Request::asking_response).
    pub fn http(&mut self, request: Request) {
        self.effects.push(Effect::Http(request));
    }
}
