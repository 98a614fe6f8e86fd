//! What is read from Kafka, and what comes of it.

/// Records of Kafka topics, and what is done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Topics by name, or patterns, which begin with `^`.
    pub topics: Vec<String>,
    /// What records become.
    pub target: Target,
    /// Where a partition without a recorded offset starts.
    pub from: From,
    /// Whether the manifest says so.
    pub is_from_written: bool,
    /// The name that it had before: where it was under that name is where it goes on.
    pub was: Option<String>,
    /// What to do about records that are gone before they were read.
    pub lost: Lost,
    /// What to do about a topic that was deleted and made again.
    pub recreated: Recreated,
    /// How the host gets its partitions.
    pub membership: Membership,
    /// The consumer group: of the members, or of the offsets for lag tools alone. `None` is `wasmill-NAME`.
    pub group: Option<String>,
    /// Properties of librdkafka for this source's client.
    pub properties: super::Properties,
    /// The topic for what is dead-lettered; the store has it too.
    pub dead_letter_topic: Option<String>,
    /// Headers that are not kept, in any case: they are for the sender's way here, and often secret.
    pub drop_headers: Vec<String>,
    /// How many records of a partition may be handed on and not settled.
    pub in_flight_max: usize,
    /// The bytes of the records of all its partitions that may be handed on and not settled.
    pub in_flight_mib: usize,
}

impl Source {
    /// Its consumer group.
    pub fn group_of(&self, name: &str) -> String {
        self.group.clone().unwrap_or_else(|| format!("wasmill-{name}"))
    }
}

/// Headers that are not kept where the manifest says nothing.
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

/// What records become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Commands to aggregates.
    Commands(Commands),
    /// Deliveries to a subscriber.
    Deliveries(Deliveries),
}

/// How records are delivered to a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliveries {
    /// The plugin that gets them.
    pub subscriber: String,
    /// Records in one call at most.
    pub batch_max: usize,
    /// Times a record is tried before it is dead-lettered.
    pub attempts_max: u32,
    /// The pause before the second try; it doubles with each.
    pub backoff_ms: u64,
    /// Where a batch and what came of it become one.
    pub transaction: Transaction,
}

impl Target {
    /// The plugin that gets the records as they are.
    pub fn subscriber(&self) -> Option<&str> {
        match self {
            Self::Commands(_) => None,
            Self::Deliveries(deliveries) => Some(&deliveries.subscriber),
        }
    }
}

impl Deliveries {
    /// To this plugin, with the defaults.
    pub fn to(subscriber: impl Into<String>) -> Self {
        Self {
            subscriber: subscriber.into(),
            batch_max: 1_000,
            attempts_max: 5,
            backoff_ms: 100,
            transaction: Transaction::Store,
        }
    }
}

/// Where a batch of records and what came of it become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transaction {
    /// In the event store: commands, messages, and which records are done.
    #[default]
    Store,
    /// In Kafka: messages, and the group's offsets. The store has no part in it.
    Kafka,
}

/// How a record becomes a command: its value is the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commands {
    /// The type of the aggregate; the record's key is its id.
    pub aggregate: Name,
    /// The command's name.
    pub command: Name,
    /// How the key becomes an aggregate's id, which is text.
    pub key: Key,
    /// The command that a record without a value becomes; `None` parks it.
    pub tombstone: Option<String>,
}

/// Where a name is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// In the manifest.
    Fixed(String),
    /// In the record's header of this name.
    Header(String),
    /// In the field of the record's value, which is a JSON object.
    Field(String),
}

impl Name {
    /// The name, where all records have the same.
    pub fn fixed(&self) -> Option<&str> {
        match self {
            Self::Fixed(name) => Some(name),
            Self::Header(_) | Self::Field(_) => None,
        }
    }
}

/// How the bytes of a key become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// They are text.
    #[default]
    Text,
    /// In hexadecimal digits, in lower case.
    Hex,
    /// In base64 that is safe in URLs, without padding.
    Base64,
}

/// Where a partition without a recorded offset starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// At its oldest record.
    #[default]
    Beginning,
    /// After its newest record.
    End,
    /// At this offset, or where the partition begins or ends if it is not there.
    Offset(u64),
    /// At the first record that is not older: milliseconds since 1970-01-01T00:00:00Z.
    Time(u64),
}

/// What to do about records that retention removed before they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lost {
    /// A dead letter says how many, and the partition goes on.
    #[default]
    Continue,
    /// The partition stands still until a person has seen it.
    Stop,
}

/// What to do about a topic that was deleted and made again under its name: its offsets mean other records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recreated {
    /// Its partitions stand still until a person says where to go on.
    #[default]
    Stop,
    /// It is read from its beginning.
    Beginning,
}

/// How a host gets the partitions of its topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// It reads all of them, and asks nobody: a restart goes on at once.
    #[default]
    Assigned,
    /// As a member of a consumer group, which shares them out.
    Group,
}
