//! What comes back to a subscription because it asked for it: the outcomes of its commands, its timers, and the responses to
//! its HTTP requests. Events and records that were deferred come back in the same way.

use super::{Command, ExpectedVersion, Header, HttpResponse, Outcome, Position, Record, StreamId, Version};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// The use of a command's outcome, besides being counted. It matters only for commands with an origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutcomeUse {
    /// A command that can't be handled is dead-lettered. A refusal by a business rule is only counted.
    #[default]
    Counted,
    /// A refusal by a business rule is dead-lettered too.
    DeadLettered,
    /// The outcome is delivered to the subscription that sent the command, whatever it is. Nothing is dead-lettered.
    Delivered(OutcomeRequest),
}

/// A request for the outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRequest {
    /// The key of the delivery that sent the command.
    #[serde(with = "serde_bytes")]
    pub key: CallbackKey,
    /// The bytes that come back with the outcome.
    #[serde(with = "serde_bytes")]
    pub attachment: Vec<u8>,
}

/// How a command ended, as the subscription that sent it gets to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The command was accepted. The fields have the meaning that they have in [`Outcome::Accepted`].
    Accepted {
        /// The version of the stream.
        version: Version,
        /// The position.
        position: Position,
    },
    /// A business rule refused the command, for this reason.
    Rejected(String),
    /// The command does not decode or can't be recorded, for this reason.
    Malformed(String),
    /// The command was not decided.
    Undecided(Undecided),
}

/// Why a command was not decided, or its decision not recorded, although it may decode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undecided {
    /// The stream does not have the version that the sender expected.
    Conflict {
        /// The version of the stream.
        actual: Version,
        /// The version that the sender expected.
        expected: ExpectedVersion,
    },
    /// The stream is archived. The text has the remedy.
    Archived(String),
    /// No plugin serves the aggregate type.
    Unserved(String),
    /// All attempts failed. The text has the last failure.
    Exhausted(String),
}

impl std::fmt::Display for Undecided {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Conflict { actual, expected } => {
                write!(f, "its stream is at version {actual}, and its sender expects {expected}")
            }
            Self::Archived(reason) | Self::Unserved(reason) | Self::Exhausted(reason) => f.write_str(reason),
        }
    }
}

impl From<Undecided> for Outcome {
    fn from(undecided: Undecided) -> Self {
        match undecided {
            Undecided::Conflict { actual, expected } => Self::Conflict { actual, expected },
            other => Self::Malformed { reason: other.to_string() },
        }
    }
}

/// The time at which a timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// This many milliseconds after the commit, by the host's clock.
    After(u64),
    /// This time, in milliseconds since 1970-01-01T00:00:00Z.
    At(u64),
}

/// The key of a callback: that of the delivery that asked for it. All callbacks without a key have the same.
pub type CallbackKey = Option<Vec<u8>>;

/// A delivery or a command that a subscription asked for: an outcome, a timer, or a response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// The key of the delivery that asked for it. Callbacks with the same key are handled in their order.
    #[serde(with = "serde_bytes")]
    pub key: CallbackKey,
    /// The correlation id of what asked for it.
    pub correlation_id: Arc<str>,
    /// The id of the command whose outcome it is, or of the delivery that set the timer or asked for the response.
    pub causation_id: Arc<str>,
    /// The number of subscribers in its chain of causes. It is 0 for a timer.
    pub hops: u32,
    /// The time of the first cause, in milliseconds since 1970-01-01T00:00:00Z.
    pub first_ms: u64,
    /// The trace context.
    pub headers: Vec<Header>,
    /// What it is.
    pub content: CallbackContent,
}

impl Callback {
    /// Returns roughly how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        /// The bytes besides its payload.
        const FIXED: usize = 320;
        match &self.content {
            CallbackContent::Outcome { attachment, .. } => FIXED + attachment.len(),
            CallbackContent::Wake { payload, .. } => FIXED + payload.len(),
            CallbackContent::Send(command) => FIXED + command.size(),
            CallbackContent::Response(response) => FIXED + response.size(),
            CallbackContent::Event(_) => FIXED,
            CallbackContent::Record(record) => FIXED + record.size(),
        }
    }
}

/// The content of a callback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallbackContent {
    /// The outcome of a command.
    Outcome {
        /// The aggregate that the command was sent to.
        stream: StreamId,
        /// The command's name.
        name: Arc<str>,
        /// How it ended.
        ending: Ending,
        /// The bytes that were sent with the request.
        #[serde(with = "serde_bytes")]
        attachment: Vec<u8>,
    },
    /// A timer that wakes the subscriber.
    Wake {
        /// The timer's name.
        name: Arc<str>,
        /// The payload.
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
    },
    /// A timer that sends a command.
    Send(Box<Command>),
    /// The response to an HTTP request.
    Response(Box<HttpResponse>),
    /// An event that was deferred, because its saga could not take it.
    Event(Position),
    /// A record of a source that was deferred, because one of the same key before it is a dead letter.
    Record(Box<Record>),
}

/// Returns the name in the store of a saga's timer. The names of a saga's timers have no `/`, so they are told apart from
/// those of all other sagas.
pub fn saga_timer(key: &str, timer: &str) -> String {
    [key, "/", timer].concat()
}

/// A callback in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptCallback {
    /// Its number. No number is used twice.
    pub number: u64,
    /// The name of the timer, by which it can be cancelled.
    pub timer: Option<Arc<str>>,
    /// The time when an outcome or a response was recorded, or when a timer is due, in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    /// The callback.
    pub callback: Callback,
}

impl KeptCallback {
    /// Returns the key as text: that of a saga, or the encoded key of a record. Bytes that are not text are replaced.
    pub fn key_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.callback.key.as_deref().unwrap_or_default())
    }

    /// Returns the id. A redelivery has the same id.
    pub fn id(&self) -> String {
        match &self.callback.content {
            CallbackContent::Outcome { .. } => format!("{}:outcome", self.callback.causation_id),
            CallbackContent::Wake { .. } | CallbackContent::Send(_) => format!("timer:{}", self.number),
            CallbackContent::Response(response) => format!("{}:response", response.request_id),
            CallbackContent::Event(position) => format!("event:{position}"),
            CallbackContent::Record(record) => record.id(),
        }
    }

    /// Returns the name of the delivery: that of the command, of the timer or of the endpoint.
    pub fn name(&self) -> &str {
        match &self.callback.content {
            CallbackContent::Outcome { name, .. } | CallbackContent::Wake { name, .. } => name,
            CallbackContent::Send(command) => &command.name,
            CallbackContent::Response(response) => &response.endpoint,
            CallbackContent::Event(_) | CallbackContent::Record(_) => "",
        }
    }

    /// Returns how the command ended, if it is an outcome.
    pub fn ending(&self) -> Option<&Ending> {
        match &self.callback.content {
            CallbackContent::Outcome { ending, .. } => Some(ending),
            CallbackContent::Wake { .. }
            | CallbackContent::Send(_)
            | CallbackContent::Response(_)
            | CallbackContent::Event(_)
            | CallbackContent::Record(_) => None,
        }
    }

    /// Returns what it is, as text.
    pub fn place(&self) -> String {
        match &self.callback.content {
            CallbackContent::Outcome { stream, name, .. } => {
                format!("outcome of command {} ({name} to {stream})", self.callback.causation_id)
            }
            CallbackContent::Wake { name, .. } => format!("timer {name}"),
            CallbackContent::Send(command) => format!("timer that sends {} to {}", command.name, command.stream),
            CallbackContent::Response(response) => {
                let HttpResponse { request_id, endpoint, method, path, .. } = &**response;
                format!("response to HTTP request {request_id} ({method} {endpoint}/{path})")
            }
            CallbackContent::Event(position) => format!("event {position}"),
            CallbackContent::Record(record) => record.place(),
        }
    }

    /// Returns the payload of the delivery.
    pub fn payload(&self) -> &[u8] {
        match &self.callback.content {
            CallbackContent::Outcome { attachment, .. } => attachment,
            CallbackContent::Wake { payload, .. } => payload,
            CallbackContent::Send(command) => &command.payload,
            CallbackContent::Response(response) => &response.attachment,
            CallbackContent::Event(_) | CallbackContent::Record(_) => &[],
        }
    }
}
