//! The types of the domain: commands, events and their places.
//!
//! They are plain data that all modules share. Nothing here knows SQL, Kafka or WebAssembly.

mod callback;
mod http;
mod ids;
mod keys;
mod refusal;
mod segment;

pub use callback::{
    Callback, CallbackContent, CallbackKey, Due, Ending, KeptCallback, OutcomeRequest, OutcomeUse, Undecided,
    saga_timer,
};
pub use http::{HttpAnswer, HttpRequest, HttpResponse, KeptRequest};
pub use ids::{ID_BYTES_MAX, IdRule};
pub use keys::{FactName, LedgerName, PartitionName, SinkName, SubscriptionName};
pub use refusal::{Failing, Failure, Refusal};
pub use segment::{SEGMENTS_MAX, Segment};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A map for hot paths. It is the standard map with a hash function that is several times faster on short keys and has
/// a random seed.
pub(crate) type QuickMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// The place of an event in the whole store. Positions increase in commit order. Zero is before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Position(pub u64);

/// The place of an event in its stream. Versions start at 1 and have no gaps. Zero is the version of a stream without
/// events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a stream: the type and the id of the aggregate whose events it has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// The type of the aggregate. The text is shared, so cloning needs no allocation.
    pub aggregate_type: Arc<str>,
    /// The id of the aggregate. The sender of the first command chose it, within [`IdRule`].
    pub aggregate_id: Arc<str>,
}

impl StreamId {
    /// Makes the name of an aggregate's stream.
    pub fn new(aggregate_type: impl Into<Arc<str>>, aggregate_id: impl Into<Arc<str>>) -> Self {
        Self { aggregate_type: aggregate_type.into(), aggregate_id: aggregate_id.into() }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.aggregate_type, self.aggregate_id)
    }
}

/// A header: a name and any bytes beside a payload. Names may repeat, and headers keep their order. A Kafka header may
/// have no value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The name, which is case-sensitive, as in Kafka.
    pub name: String,
    /// The value, which is any bytes or none.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// Returns the bytes of the name and the value.
    pub fn bytes(&self) -> usize {
        self.name.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// The item of a ledger from which a command comes. It makes redelivery harmless.
///
/// A ledger is a numbered sequence whose items are settled once: a partition of a Kafka source, the commands of a
/// subscription, or the due times of a schedule. The store settles `first..=last` in the same transaction that records
/// the command's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The ledger's name, for example `kafka/baskets/baskets/0`, `subscription/warehouse` or `schedule/close-day`.
    pub ledger: Arc<str>,
    /// The item's own number, or a lower one if the numbers from it on have no item of their own, as offsets that Kafka
    /// left out.
    pub first: u64,
    /// The item's own number.
    pub last: u64,
}

/// Several successive items of one ledger, which are settled together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// The ledger's name.
    pub ledger: Arc<str>,
    /// The first item's number, or a lower one if Kafka left out offsets before it.
    pub first: u64,
    /// The items' own numbers in increasing order. There is at least one.
    pub items: Vec<u64>,
}

impl Origin {
    /// Returns the owner of the ledger: the name of the source or subscription, or `schedule/NAME`.
    pub fn consumer(&self) -> &str {
        match LedgerName::parse(&self.ledger) {
            // A source may have the same name as a schedule.
            Some(LedgerName::Schedule(_)) | None => &self.ledger,
            Some(name) => name.owner().unwrap_or(&self.ledger),
        }
    }

    /// Returns the place of the item as text.
    pub fn place(&self) -> String {
        let number = self.last;
        match LedgerName::parse(&self.ledger) {
            Some(LedgerName::Partition(PartitionName { topic, partition, .. })) => {
                format!("topic {topic} partition {partition} offset {number}")
            }
            Some(LedgerName::Commands(SubscriptionName::Source(source))) => {
                format!("command {number} of source {source}")
            }
            Some(LedgerName::Commands(subscription @ SubscriptionName::Plugin(..))) => {
                format!("command {number} of subscription {subscription}")
            }
            Some(LedgerName::Schedule(schedule)) => format!("schedule {schedule} at {}", second(number)),
            Some(LedgerName::DeadLetters) | None => format!("{} at {number}", self.ledger),
        }
    }
}

/// Formats a time in seconds since 1970-01-01T00:00:00Z as RFC 3339.
pub fn second(seconds: u64) -> String {
    humantime::format_rfc3339_seconds(crate::clock::writable(seconds.saturating_mul(1_000))).to_string()
}

/// A request to an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The aggregate that the command is sent to.
    pub stream: StreamId,
    /// The command's name, such as `CreateOrder`.
    pub name: Arc<str>,
    /// The payload, in the encoding of the guest. With the SDK this is JSON.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// The unique id of the command. A redelivery has the same id.
    pub id: Arc<str>,
    /// The time of the command, in milliseconds since 1970-01-01T00:00:00Z: when the host accepted it, the time of the
    /// record that it is made from, when the step that sends it was made, or when its timer or schedule was due.
    pub time_ms: u64,
    /// The time of the first cause, in milliseconds since 1970-01-01T00:00:00Z. `None` if it is that of the command.
    pub first_ms: Option<u64>,
    /// The correlation id, which is the same for everything that follows from one first cause.
    pub correlation_id: Arc<str>,
    /// The id of the direct cause, or the command's own id if it has none.
    pub causation_id: Arc<str>,
    /// The headers, which are copied to the events.
    pub headers: Vec<Header>,
    /// The origin, if the command comes from a ledger.
    pub origin: Option<Origin>,
    /// The number of subscribers in the chain of causes. It is 0 for commands from outside.
    pub hops: u32,
    /// Whether the sender chose the id. If so, the store remembers the outcome and answers a repeated command with it.
    pub durable_id: bool,
    /// The use of its outcome.
    pub outcome_use: OutcomeUse,
    /// The version that the sender expects of the stream. `None` leaves the check to the aggregate's own state.
    pub expected: Option<ExpectedVersion>,
}

/// An event to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The event's name, such as `OrderCreated`.
    pub name: String,
    /// The payload, in the encoding of the guest. With the SDK this is JSON.
    pub payload: Vec<u8>,
}

/// An event in the store. It never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// The id, which the host assigns: a UUID of version 7.
    pub id: uuid::Uuid,
    /// The place in the whole store.
    pub position: Position,
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// The place in its stream.
    pub version: Version,
    /// The event's name.
    pub name: Arc<str>,
    /// The payload, in the encoding of the guest.
    pub payload: Vec<u8>,
    /// The time of its command, in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    /// The time of the first cause, in milliseconds since 1970-01-01T00:00:00Z. `None` if it is that of the command.
    pub first_ms: Option<u64>,
    /// The correlation id, which is the same for everything that follows from one first cause.
    pub correlation_id: Arc<str>,
    /// The id of its command.
    pub causation_id: Arc<str>,
    /// The hops of its command.
    pub hops: u32,
    /// The headers of its command.
    pub headers: Vec<Header>,
}

#[cfg(test)]
impl RecordedEvent {
    /// Makes an event for tests, which change what they are about.
    pub(crate) fn example() -> Self {
        Self {
            id: uuid::Uuid::nil(),
            position: Position(7),
            stream: StreamId::new("order", "a/b"),
            version: Version(2),
            name: "OrderCreated".into(),
            payload: b"{}".to_vec(),
            time_ms: 5,
            first_ms: None,
            correlation_id: "c".into(),
            causation_id: "d".into(),
            hops: 0,
            headers: Vec::new(),
        }
    }
}

impl Command {
    /// Returns roughly how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        /// The bytes besides its texts and its payload.
        const FIXED: usize = 320;
        FIXED + self.headers.iter().map(Header::bytes).sum::<usize>() + self.payload.len()
    }
}

impl Message {
    /// Returns roughly how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        /// The bytes besides its texts and its payload.
        const FIXED: usize = 320;
        let payload = self.payload.as_ref().map_or(0, Vec::len) + self.key.as_ref().map_or(0, Vec::len);
        FIXED + self.headers.iter().map(Header::bytes).sum::<usize>() + payload
    }
}

/// Returns the time in an id, in milliseconds since 1970-01-01T00:00:00Z. A UUID of a version without a time has none.
pub(crate) fn ms_of_id(id: uuid::Uuid) -> Option<u64> {
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    Some(seconds * 1_000 + u64::from(nanoseconds / 1_000_000))
}

impl RecordedEvent {
    /// Returns when it was recorded, in milliseconds since 1970-01-01T00:00:00Z, which is a part of its id. Later events have
    /// no earlier time, even if the clock goes back.
    pub fn recorded_ms(&self) -> u64 {
        ms_of_id(self.id).unwrap_or(self.time_ms)
    }

    /// Returns roughly how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        /// The bytes besides its texts and its payload.
        const FIXED: usize = 320;
        FIXED + self.headers.iter().map(Header::bytes).sum::<usize>() + self.payload.len()
    }
}

/// The version that an append expects of its stream. An aggregate's append is always `Exact`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpectedVersion {
    /// The stream has exactly this version; 0 means that it has no events.
    Exact(Version),
    /// The stream has no events.
    NoStream,
    /// The stream has at least one event.
    StreamExists,
    /// Nothing is expected.
    Any,
}

impl ExpectedVersion {
    /// Returns whether a stream at version `actual` meets the expectation.
    pub fn allows(self, actual: Version) -> bool {
        match self {
            Self::Exact(version) => version == actual,
            Self::NoStream => actual == Version(0),
            Self::StreamExists => actual > Version(0),
            Self::Any => true,
        }
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(version) => write!(f, "version {version}"),
            Self::NoStream => write!(f, "no stream"),
            Self::StreamExists => write!(f, "an existing stream"),
            Self::Any => write!(f, "any version"),
        }
    }
}

/// The outcome of a command, as its sender gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The command's events are durable. A command without events is a success that changed nothing.
    Accepted {
        /// The version of the stream after the command.
        version: Version,
        /// The position of its last event, or of the store's newest event if it has none. A query that waits for this
        /// position sees the effects of the command.
        position: Position,
        /// The number of its events.
        events: u32,
    },
    /// A business rule refused the command. No event was recorded.
    Rejected {
        /// The reason, from the aggregate.
        reason: String,
    },
    /// The command does not decode, or no aggregate handles it. No event was recorded.
    Malformed {
        /// The reason, with the place in the payload.
        reason: String,
    },
    /// The stream does not have the version that the sender expected.
    Conflict {
        /// The version of the stream.
        actual: Version,
        /// The version that the sender expected.
        expected: ExpectedVersion,
    },
    /// The id was used before for another command.
    IdReused {
        /// The reason, with the remedy.
        reason: String,
    },
    /// The stream is archived and accepts no more events. Nothing was recorded.
    Archived {
        /// The reason, with the command that restores the stream.
        reason: String,
    },
    /// The plugin or the host failed. Nothing was recorded, and the same command may be sent again.
    Failed {
        /// The reason, with the plugin and its version.
        reason: String,
    },
    /// A queue is full. Nothing was recorded. Send the command again after a pause.
    Busy {
        /// The pause in milliseconds.
        retry_after_ms: u64,
    },
    /// The command was recorded before. This is its first outcome, which the API returns together with its time.
    #[serde(skip)]
    Remembered(Remembered),
}

/// The first outcome of a repeated command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The outcome.
    pub outcome: Box<Outcome>,
    /// The time when it was recorded, in milliseconds since 1970-01-01T00:00:00Z.
    pub remembered_from_ms: u64,
}

impl Outcome {
    /// Returns the outcome itself, or the first outcome if the command is a repetition.
    pub fn what(&self) -> &Self {
        match self {
            Self::Remembered(remembered) => &remembered.outcome,
            fresh => fresh,
        }
    }
}

/// A message that a subscriber publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The id. A redelivered message has the same id, so readers can recognise a repetition.
    pub id: Arc<str>,
    /// The Kafka topic.
    pub topic: String,
    /// The key, which is any bytes or none.
    #[serde(with = "serde_bytes")]
    pub key: Option<Vec<u8>>,
    /// The partition. If it is `None`, the partitioner chooses one.
    pub partition: Option<i32>,
    /// The headers from the subscriber.
    pub headers: Vec<Header>,
    /// The payload. `None` is a tombstone.
    #[serde(with = "serde_bytes")]
    pub payload: Option<Vec<u8>>,
    /// When the step that publishes it was made, in milliseconds since 1970-01-01T00:00:00Z. A transform's message has the
    /// time of its record.
    pub time_ms: u64,
    /// The correlation id of the event or record that caused it.
    pub correlation_id: Arc<str>,
    /// The id of the event or record that caused it.
    pub causation_id: Arc<str>,
    /// The number of subscribers in the chain of causes, including the one that published it.
    pub hops: u32,
    /// The subscription that published it.
    pub source: Arc<str>,
}

/// An item that could not be handled, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The name of the source or subscription that dead-lettered it, or `schedule/NAME`.
    pub consumer: String,
    /// The place of the item: `topic baskets partition 0 offset 17`, or `event 42 of order/1 version 3`.
    pub place: String,
    /// The record's key or the aggregate's id, if it is text.
    pub key: Option<String>,
    /// The cause, and the remedy if one is known.
    pub reason: String,
    /// The time of the record, command, event or message, in milliseconds since 1970-01-01T00:00:00Z. `None` if it is
    /// not known, as for records that retention has deleted.
    pub time_ms: Option<u64>,
    /// The item, with all that a retry needs.
    pub content: DeadLetterContent,
}

/// A dead letter in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDeadLetter {
    /// The number, by which people and replays refer to it.
    pub number: u64,
    /// The time of the dead-lettering by the store's clock, in milliseconds since 1970-01-01T00:00:00Z.
    pub dead_lettered_ms: u64,
    /// The item and the reason.
    pub letter: DeadLetter,
    /// The number of later events of the same aggregate, if they wait behind this dead letter.
    pub waiting: u64,
}

impl DeadLetter {
    /// Makes the dead letter of a command.
    pub fn of_command(consumer: String, place: String, reason: String, command: Command) -> Self {
        Self {
            consumer,
            place,
            key: Some(command.stream.aggregate_id.to_string()),
            reason,
            time_ms: Some(command.time_ms),
            content: DeadLetterContent::Command(command),
        }
    }

    /// Returns the payload of the item, or none if it is kept elsewhere or lost.
    pub fn payload(&self) -> Option<&[u8]> {
        match &self.content {
            DeadLetterContent::Gone | DeadLetterContent::Event(_) => None,
            DeadLetterContent::Record(record) => record.payload.as_deref(),
            DeadLetterContent::Command(command) => Some(&command.payload),
            DeadLetterContent::Message(_, message) => message.payload.as_deref(),
            DeadLetterContent::Callback(callback) => Some(callback.payload()),
            DeadLetterContent::Http(kept) => Some(&kept.request.body),
        }
    }
}

/// The content of a dead letter, from which it can be retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeadLetterContent {
    /// Nothing that could be retried, such as records that retention has deleted.
    Gone,
    /// A record of a source.
    Record(Record),
    /// A command that its aggregate could not handle.
    Command(Command),
    /// An event that a subscription could not handle.
    Event(Position),
    /// A message that Kafka refused, with the name of the sink.
    Message(String, Message),
    /// An outcome, a timer or a response that a subscription could not handle.
    Callback(KeptCallback),
    /// An HTTP request that did not succeed and whose subscription did not ask for the answer.
    Http(KeptRequest),
}

/// A Kafka record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The time when it was produced, or received if it has no time, in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    /// The key, which is any bytes or none.
    #[serde(with = "serde_bytes")]
    pub key: Option<Vec<u8>>,
    /// The headers in their order. Names may repeat.
    pub headers: Vec<Header>,
    /// The value. `None` is a tombstone.
    #[serde(with = "serde_bytes")]
    pub payload: Option<Vec<u8>>,
}

impl Record {
    /// Returns the id of the record. It is the same each time that the record is read.
    pub fn id(&self) -> String {
        let mut id = String::new();
        self.write_id(&mut id);
        id
    }

    /// Appends the id of the record to a text.
    pub fn write_id(&self, text: &mut String) {
        write_record_id(text, &self.topic, self.partition, self.offset);
    }

    /// Returns the place of the record as text.
    pub fn place(&self) -> String {
        format!("topic {} partition {} offset {}", self.topic, self.partition, self.offset)
    }

    /// Returns roughly how much memory it takes, in bytes.
    pub fn size(&self) -> usize {
        /// The bytes besides its texts and its payload.
        const FIXED: usize = 160;
        let payload = self.payload.as_ref().map_or(0, Vec::len) + self.key.as_ref().map_or(0, Vec::len);
        FIXED + self.headers.iter().map(Header::bytes).sum::<usize>() + payload
    }

    /// Returns the hops in its headers.
    pub fn hops(&self) -> u32 {
        crate::bounds::hops(&self.headers)
    }

    /// Returns the correlation id in its headers.
    pub fn correlation_id(&self) -> Option<&str> {
        correlation_id(&self.headers)
    }
}

/// Appends the id of the record at this place to a text.
pub fn write_record_id(text: &mut String, topic: &str, partition: i32, offset: i64) {
    // This runs for each record, so it avoids the cost of `format!`.
    text.push_str(topic);
    text.push(':');
    text.push_str(itoa::Buffer::new().format(partition));
    text.push(':');
    text.push_str(itoa::Buffer::new().format(offset));
}

/// The headers that may have a correlation id, in order of preference.
const CORRELATION_HEADERS: [&str; 3] = ["correlation-id", "x-correlation-id", "ce_correlationid"];

/// Returns a key as text. A key that is not UTF-8 has none.
pub(crate) fn key_text(key: Option<&[u8]>) -> Option<String> {
    std::str::from_utf8(key?).ok().map(str::to_owned)
}

/// Returns the correlation id in these headers, if there is one.
pub fn correlation_id(headers: &[Header]) -> Option<&str> {
    CORRELATION_HEADERS.iter().find_map(|name| {
        let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value.as_deref()?).ok().filter(|text| !text.is_empty())
    })
}
