//! The sources, which read from Kafka, and their settings.

use super::OnFailure;
use crate::backoff::{BACKOFF_MAX, Backoff};

/// A source: the topics that it reads, and what their records become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The names of topics, or patterns, which begin with `^`.
    pub topics: Vec<String>,
    /// The destination of the records.
    pub target: Target,
    /// The place where a partition without a recorded offset starts.
    pub from: From,
    /// Whether the manifest has the key `from`.
    pub is_from_written: bool,
    /// The name that it had before. It takes over the progress that is stored under that name.
    pub was: Option<String>,
    /// The behaviour if records were deleted before they were read.
    pub lost: Lost,
    /// The behaviour if a topic was recreated.
    pub recreated: Recreated,
    /// The way in which the host gets its partitions.
    pub membership: Membership,
    /// The consumer group. Without membership it only has offsets, for tools that show lag. `None` is `wasmill-NAME`.
    pub group: Option<String>,
    /// The properties of librdkafka for this source's client.
    pub properties: super::Properties,
    /// The topic that dead letters are also written to. The store has them too.
    pub dead_letter_topic: Option<String>,
    /// The names of headers that are dropped, in upper or lower case. Such headers serve the transport, and are often
    /// secret.
    pub drop_headers: Vec<String>,
    /// The most records of a partition that are in flight: handed on and not settled.
    pub in_flight_max: usize,
    /// The most mebibytes of the records of all its partitions that are in flight.
    pub in_flight_mib: usize,
}

impl Source {
    /// Whether it has a pattern, which finds topics.
    pub fn has_patterns(&self) -> bool {
        self.topics.iter().any(|topic| topic.starts_with('^'))
    }

    /// Whether it is a transform: its progress and the effects of its records are in transactions of Kafka, and not in the store.
    pub fn is_transform(&self) -> bool {
        matches!(&self.target, Target::Deliveries(deliveries) if deliveries.transaction == Transaction::Kafka)
    }

    /// Whether hosts that share a store divide its partitions among them. A consumer group does that, and what is left of a record in
    /// the memory of a host is worth nothing to the others: its command. Records for a subscriber wait for each other there.
    pub fn is_divided(&self) -> bool {
        self.membership == Membership::Group && matches!(self.target, Target::Commands(_))
    }

    /// Returns the consumer group of the source with this name.
    pub fn group_of(&self, name: &str) -> String {
        self.group.clone().unwrap_or_else(|| format!("wasmill-{name}"))
    }
}

/// The headers that are dropped by default.
pub const DROP_HEADERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "x-auth-token",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-goog-iap-jwt-assertion",
    "x-forwarded-access-token",
];

/// The destination of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The records become commands to aggregates.
    Commands(Commands),
    /// The records become deliveries to a subscriber.
    Deliveries(Deliveries),
}

/// The settings of deliveries to a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliveries {
    /// The plugin that gets the records.
    pub subscriber: String,
    /// The most records of one call.
    pub batch_max: usize,
    /// The number of attempts at a record before it is dead-lettered.
    pub attempts_max: u32,
    /// The pause before the second attempt. It doubles with each further attempt.
    pub backoff_ms: u64,
    /// The longest pause between two attempts.
    pub backoff_max_ms: u64,
    /// What happens to later records of a key after one was dead-lettered.
    pub on_failure: OnFailure,
    /// The transaction that has both the progress and the effects of a batch.
    pub transaction: Transaction,
}

impl Target {
    /// Returns the plugin that gets the records, if they are not commands.
    pub fn subscriber(&self) -> Option<&str> {
        match self {
            Self::Commands(_) => None,
            Self::Deliveries(deliveries) => Some(&deliveries.subscriber),
        }
    }
}

impl Deliveries {
    /// Returns the pauses between attempts.
    pub fn backoff(&self) -> Backoff {
        Backoff::from_ms(self.backoff_ms, self.backoff_max_ms)
    }

    /// Makes the settings of deliveries to this plugin, with the defaults.
    pub fn to(subscriber: impl Into<String>) -> Self {
        Self {
            subscriber: subscriber.into(),
            batch_max: 1_000,
            attempts_max: 5,
            backoff_ms: 100,
            backoff_max_ms: BACKOFF_MAX.as_millis() as u64,
            on_failure: OnFailure::HoldKey,
            transaction: Transaction::Store,
        }
    }
}

/// The transaction that has both the progress and the effects of a batch of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transaction {
    /// A transaction of the event store, with commands, messages and settled records.
    #[default]
    Store,
    /// A transaction of Kafka, with messages and the group's offsets. The store is not involved.
    Kafka,
}

/// The way in which a record becomes a command. Its value is the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// The type of the aggregate; the record's key is its id.
    pub aggregate: Name,
    /// The command's name.
    pub command: Name,
    /// The way in which the key becomes the aggregate's id, which is text.
    pub key: Key,
    /// The command that a record without a value becomes. With `None`, such a record is dead-lettered.
    pub tombstone: Option<String>,
    /// What happens to a command that a business rule refuses.
    pub rejected: Rejected,
}

/// What happens to a record's command that a business rule refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rejected {
    /// It is counted.
    #[default]
    Count,
    /// It is counted and dead-lettered.
    DeadLetter,
}

/// The place of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// The manifest, with this name.
    Fixed(String),
    /// The record's header with this name.
    Header(String),
    /// The field with this name in the record's value, which is a JSON object.
    Field(String),
}

impl Name {
    /// Returns the name if all records have the same one.
    pub fn fixed(&self) -> Option<&str> {
        match self {
            Self::Fixed(name) => Some(name),
            Self::Header(_) | Self::Field(_) => None,
        }
    }
}

/// The way in which the bytes of a key become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// The bytes are UTF-8 text.
    #[default]
    Text,
    /// The bytes are written in lower-case hexadecimal digits.
    Hex,
    /// The bytes are written in URL-safe base64 without padding.
    Base64,
}

/// The place where a partition without a recorded offset starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// The oldest record.
    #[default]
    Beginning,
    /// The end, after the newest record.
    End,
    /// This offset, or the nearer end of the partition if it does not have the offset.
    Offset(u64),
    /// The first record that is not older than this time, in milliseconds since 1970-01-01T00:00:00Z.
    Time(u64),
}

/// The behaviour if retention has deleted records before they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lost {
    /// A dead letter says how many records are lost, and the partition continues.
    #[default]
    Continue,
    /// The partition stops until a person has dealt with the loss.
    Stop,
}

/// The behaviour if a topic was deleted and recreated under its name. The same offsets are then other records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recreated {
    /// The topic's partitions stop until a person says where to resume.
    #[default]
    Stop,
    /// The topic is read from its beginning.
    Beginning,
}

/// The way in which a host gets the partitions of its topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// The host reads all partitions without a consumer group, so it resumes at once after a restart.
    #[default]
    Assigned,
    /// The host is a member of a consumer group, which distributes the partitions.
    Group,
}
