//! The words of the domain: commands, events and their places.
//!
//! Plain data that every module shares. Nothing here knows SQL, Kafka or WebAssembly.

mod ids;
mod keys;

pub use ids::{ID_BYTES_MAX, IdRule};
pub use keys::{FactName, LedgerName, PartitionName, SinkName, SubscriptionName};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A map for hot paths: as the standard one, with a hash function that is several times as quick on short keys, and
/// seeded at random.
pub(crate) type QuickMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// The place of an event in the whole store: strictly increasing in commit order. Zero is before the first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

/// The place of an event in its stream: from 1, without gaps. Zero is the version of a stream without events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

/// The name of a stream: the type and the id of the aggregate whose events it holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// Shared by all aggregates of the type, so cloning costs no allocation.
    pub aggregate_type: Arc<str>,
    /// Chosen by the sender of the first command, within [`IdRule`].
    pub aggregate_id: Arc<str>,
}

impl StreamId {
    /// The stream of one aggregate.
    pub fn new(aggregate_type: impl Into<Arc<str>>, aggregate_id: impl Into<Arc<str>>) -> Self {
        Self { aggregate_type: aggregate_type.into(), aggregate_id: aggregate_id.into() }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.aggregate_type, self.aggregate_id)
    }
}

/// Free text beside a payload. Names may repeat and keep their order; Kafka allows a header without a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Case-sensitive, as Kafka has it.
    pub name: String,
    /// Any bytes, or none.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// Of its name and its value.
    pub fn bytes(&self) -> usize {
        self.name.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// Where a command comes from, for commands that a ledger numbers: it makes redelivery harmless.
///
/// A ledger is a numbered sequence whose items are settled once: a partition of a Kafka source, or the commands
/// of a subscription. The store marks `first..=last` as settled in the same transaction as the command's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The ledger's name, for example `kafka/baskets/baskets/0` or `subscription/warehouse`.
    pub ledger: Arc<str>,
    /// The item's own number, or a lower one where Kafka left out offsets before it.
    pub first: u64,
    /// The item's own number.
    pub last: u64,
}

/// Where several items of one ledger come from that follow one another. They are settled together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins {
    /// The ledger's name.
    pub ledger: Arc<str>,
    /// The first item's number, or a lower one where Kafka left out offsets before it.
    pub first: u64,
    /// The items' own numbers, increasing; at least one.
    pub items: Vec<u64>,
}

impl Origin {
    /// Whose ledger it is: the name of the source or subscription.
    pub fn consumer(&self) -> &str {
        LedgerName::parse(&self.ledger).and_then(|name| name.owner()).unwrap_or(&self.ledger)
    }

    /// Where the item is, in words.
    pub fn place(&self) -> String {
        let number = self.last;
        match LedgerName::parse(&self.ledger) {
            Some(LedgerName::Partition(PartitionName { topic, partition, .. })) => {
                format!("topic {topic} partition {partition} offset {number}")
            }
            Some(LedgerName::Commands(SubscriptionName::Source(source))) => {
                format!("command {number} of source {source}")
            }
            Some(LedgerName::Commands(SubscriptionName::Plugin(subscription))) => {
                format!("command {number} of subscription {subscription}")
            }
            Some(LedgerName::DeadLetters) | None => format!("{} at {number}", self.ledger),
        }
    }
}

/// A request to an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The aggregate it is sent to.
    pub stream: StreamId,
    /// What is asked for, such as `CreateOrder`.
    pub name: Arc<str>,
    /// Bytes in the codec of the guest; JSON with the SDK.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// Unique among all commands. Redelivery repeats it.
    pub id: Arc<str>,
    /// When the host accepted it: milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    /// The same for everything that follows from one first cause.
    pub correlation_id: Arc<str>,
    /// The id of the direct cause; the command's own id where it has none.
    pub causation_id: Arc<str>,
    /// Copied to the events.
    pub headers: Vec<Header>,
    /// Set for commands that a ledger numbers.
    pub origin: Option<Origin>,
    /// How many subscribers the chain of causes has passed; 0 for what comes from outside.
    pub hops: u32,
    /// The sender chose the id, so the store remembers the outcome under it and answers a repetition with it.
    pub durable_id: bool,
    /// What the sender expects of the stream; `None` leaves it to the aggregate's own state.
    pub expected: Option<ExpectedVersion>,
}

/// An event that an aggregate wants recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What happened, such as `OrderCreated`.
    pub name: String,
    /// Bytes in the codec of the guest; JSON with the SDK.
    pub payload: Vec<u8>,
}

/// An event in the store. It never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Minted by the host: UUID version 7.
    pub id: uuid::Uuid,
    /// Place in the whole store.
    pub position: Position,
    /// Place in its stream, with `version`.
    pub stream: StreamId,
    /// Place in its stream.
    pub version: Version,
    /// What happened.
    pub name: Arc<str>,
    /// Bytes in the codec of the guest.
    pub payload: Vec<u8>,
    /// When its command was accepted: milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    /// The same for everything that follows from one first cause.
    pub correlation_id: Arc<str>,
    /// The id of the command that made it.
    pub causation_id: Arc<str>,
    /// Those of its command.
    pub hops: u32,
    /// Copied from the command.
    pub headers: Vec<Header>,
}

impl Command {
    /// About how much memory it takes.
    pub fn size(&self) -> usize {
        /// Beside its texts and its payload.
        const FIXED: usize = 320;
        FIXED + self.headers.iter().map(Header::bytes).sum::<usize>() + self.payload.len()
    }
}

impl Message {
    /// About how much memory it takes.
    pub fn size(&self) -> usize {
        /// Beside its texts and its payload.
        const FIXED: usize = 320;
        let payload = self.payload.as_ref().map_or(0, Vec::len) + self.key.as_ref().map_or(0, Vec::len);
        FIXED + self.headers.iter().map(Header::bytes).sum::<usize>() + payload
    }
}

impl RecordedEvent {
    /// About how much memory it takes.
    pub fn size(&self) -> usize {
        /// Beside its texts and its payload.
        const FIXED: usize = 320;
        FIXED + self.headers.iter().map(Header::bytes).sum::<usize>() + self.payload.len()
    }
}

/// What an append expects of its stream. Strict by default: an aggregate's append is always `Exact`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether a stream at `actual` meets the expectation.
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

/// How a command ended, as its sender is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Its events are durable. No events is a success that changed nothing.
    Accepted {
        /// The stream's version after it.
        version: Version,
        /// The position of its last event, or of the store's newest event where it made none: what to pass to a query that must
        /// see it.
        position: Position,
        /// How many events it made.
        events: u32,
    },
    /// A business rule said no. Nothing was recorded.
    Rejected {
        /// In the words of the aggregate.
        reason: String,
    },
    /// The command does not decode, or nobody serves it. Nothing was recorded.
    Malformed {
        /// Names the place in the payload.
        reason: String,
    },
    /// The sender's expected version was not the stream's.
    Conflict {
        /// The stream's version.
        actual: Version,
        /// What the sender expected.
        expected: ExpectedVersion,
    },
    /// The id was used before for another command.
    IdReused {
        /// What to do about it.
        reason: String,
    },
    /// The stream is archived and takes no more events. Nothing was recorded.
    Archived {
        /// How to open it again.
        reason: String,
    },
    /// The plugin or the host failed. Nothing was recorded; the same command may be sent again.
    Failed {
        /// Names the plugin and its version.
        reason: String,
    },
    /// A queue is full. Nothing was recorded; send again after the time given.
    Busy {
        /// Milliseconds to wait before sending again.
        retry_after_ms: u64,
    },
    /// The command was recorded before: its outcome as it was then. The API tells it as that outcome, with its time.
    #[serde(skip)]
    Remembered(Remembered),
}

/// What was answered to a command when it came first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The outcome as it was then.
    pub outcome: Box<Outcome>,
    /// When it was recorded: milliseconds since 1970-01-01T00:00:00Z.
    pub remembered_from_ms: u64,
}

impl Outcome {
    /// What came of the command, now or when it came first.
    pub fn what(&self) -> &Self {
        match self {
            Self::Remembered(remembered) => &remembered.outcome,
            fresh => fresh,
        }
    }
}

/// A message that a subscriber wants published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Stable over redelivery: it tells a repetition from a new message.
    pub id: Arc<str>,
    /// The Kafka topic.
    pub topic: String,
    /// Raw bytes, or none.
    #[serde(with = "serde_bytes")]
    pub key: Option<Vec<u8>>,
    /// `None`: the partitioner decides.
    pub partition: Option<i32>,
    /// As the subscriber gave them.
    pub headers: Vec<Header>,
    /// `None` is a tombstone.
    #[serde(with = "serde_bytes")]
    pub payload: Option<Vec<u8>>,
    /// The time of the event or record that caused it: milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    /// From the event or record that caused it.
    pub correlation_id: Arc<str>,
    /// The id of the event or record that caused it.
    pub causation_id: Arc<str>,
    /// How many subscribers the chain of causes has passed, with the one that published it.
    pub hops: u32,
    /// The subscription that published it.
    pub source: Arc<str>,
}

/// Something that could not be handled and was dead-lettered where people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Who dead-letter it: a source's or a subscription's name.
    pub consumer: String,
    /// Where it is: `topic baskets partition 0 offset 17`, or `event 42 of order/1 version 3`.
    pub place: String,
    /// The record's key or the aggregate's id, if it is text.
    pub key: Option<String>,
    /// The cause, and the remedy where one is known.
    pub reason: String,
    /// When the record was produced, the command accepted, the event recorded or the message caused: milliseconds since
    /// 1970-01-01T00:00:00Z. `None` if nobody knows, as of records that retention removed.
    pub time_ms: Option<u64>,
    /// What could not be handled, and what it takes to try again.
    pub content: DeadLetterContent,
}

/// A dead letter in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLetter {
    /// What people and replays call it.
    pub number: u64,
    /// When it was dead-lettered, by the clock of the store: milliseconds since 1970-01-01T00:00:00Z.
    pub dead_lettered_ms: u64,
    /// What could not be handled, and why.
    pub letter: DeadLetter,
}

impl DeadLetter {
    /// A command that could not be handled.
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

    /// The bytes that could not be handled; none where they are kept elsewhere or gone.
    pub fn payload(&self) -> Option<&[u8]> {
        match &self.content {
            DeadLetterContent::Gone | DeadLetterContent::Event(_) => None,
            DeadLetterContent::Record(record) => record.payload.as_deref(),
            DeadLetterContent::Command(command) => Some(&command.payload),
            DeadLetterContent::Message(_, message) => message.payload.as_deref(),
        }
    }
}

/// What a dead letter holds, so that it can be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeadLetterContent {
    /// Nothing that could be tried again, such as records that retention removed.
    Gone,
    /// A record of a source.
    Record(Record),
    /// A command that its aggregate could not handle.
    Command(Command),
    /// An event that a subscription could not handle.
    Event(Position),
    /// A message that Kafka refused, with the name of the sink.
    Message(String, Message),
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
    /// When it was produced, or received where it does not say: milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    /// Raw bytes, or none.
    #[serde(with = "serde_bytes")]
    pub key: Option<Vec<u8>>,
    /// In their order; names may repeat.
    pub headers: Vec<Header>,
    /// `None` is a tombstone.
    #[serde(with = "serde_bytes")]
    pub payload: Option<Vec<u8>>,
}

impl Record {
    /// As the id of a cause: the same however often the record is read.
    pub fn id(&self) -> String {
        let mut id = String::new();
        self.write_id(&mut id);
        id
    }

    /// Adds its id to a text.
    pub fn write_id(&self, text: &mut String) {
        write_record_id(text, &self.topic, self.partition, self.offset);
    }

    /// Where it is, in words.
    pub fn place(&self) -> String {
        format!("topic {} partition {} offset {}", self.topic, self.partition, self.offset)
    }

    /// About how much memory it takes.
    pub fn size(&self) -> usize {
        /// Beside its texts and its payload.
        const FIXED: usize = 160;
        let payload = self.payload.as_ref().map_or(0, Vec::len) + self.key.as_ref().map_or(0, Vec::len);
        FIXED + self.headers.iter().map(Header::bytes).sum::<usize>() + payload
    }

    /// The hops that its headers carry.
    pub fn hops(&self) -> u32 {
        crate::bounds::hops(&self.headers)
    }

    /// The correlation id that its headers carry.
    pub fn correlation_id(&self) -> Option<&str> {
        correlation_id(&self.headers)
    }
}

/// Adds the id of the record at a place to a text.
pub fn write_record_id(text: &mut String, topic: &str, partition: i32, offset: i64) {
    // Made for each record, so without the machinery of formatting.
    text.push_str(topic);
    text.push(':');
    text.push_str(itoa::Buffer::new().format(partition));
    text.push(':');
    text.push_str(itoa::Buffer::new().format(offset));
}

/// Headers that may carry a correlation id, in order of preference.
const CORRELATION_HEADERS: [&str; 3] = ["correlation-id", "x-correlation-id", "ce_correlationid"];

/// The correlation id that headers carry, if one does.
pub fn correlation_id(headers: &[Header]) -> Option<&str> {
    CORRELATION_HEADERS.iter().find_map(|name| {
        let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value.as_deref()?).ok().filter(|text| !text.is_empty())
    })
}
