//! The manifest: everything that a person configures, read from one TOML file.
//!
//! Every limit of the host has a name and a default here. A manifest is taken as a whole or not at all: unknown
//! keys are refused, ranges are checked, and [`Error`] lists everything that is wrong, each with its place. Nothing
//! here opens a plugin, a database or a connection; what needs them is checked by whoever opens them.

mod error;
mod property;
mod read;
mod section;
mod sink;
mod source;

pub use error::{Error, Problem};
pub use property::{OAuth, Properties, Token, Value};
#[cfg(test)]
pub(crate) use read::IN_FLIGHT_MIB;
pub use sink::{EventSink, Sink, SinkKey, SinkMode};
pub use source::{
    Commands, DROP_HEADERS, Deliveries, From, Key, Lost, Membership, Name, Recreated, Source, Target, Transaction,
};

use crate::bounds::Bounds;
use crate::model::Position;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The longest file that is read as a manifest.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A manifest whose every value is known to be in range. Paths are resolved against its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The file it was read from.
    pub path: PathBuf,
    /// The data folder: everything that the host keeps.
    pub data: PathBuf,
    /// What bounds chains of causes and the pauses that guests ask for.
    pub bounds: Bounds,
    /// How long the host as a whole may take.
    pub host: Host,
    /// Where and how the HTTP API serves.
    pub api: Api,
    /// Limits of the event store.
    pub store: Store,
    /// How Kafka is reached; `None` is a host without Kafka.
    pub kafka: Option<Kafka>,
    /// The plugins by the name they have in the manifest.
    pub plugins: BTreeMap<String, Plugin>,
    /// What is read from Kafka, by name.
    pub sources: BTreeMap<String, Source>,
    /// Settings of subscriptions, by plugin name. A subscription without an entry has the defaults.
    pub subscriptions: BTreeMap<String, Subscription>,
    /// Settings of projections, by projection name. A projection without an entry has the defaults.
    pub projections: BTreeMap<String, Projection>,
    /// How the outbox is published to Kafka.
    pub sink: Sink,
    /// What else is published to Kafka, by name.
    pub sinks: BTreeMap<String, EventSink>,
}

impl Manifest {
    /// The topics that the host itself writes to, as far as the manifest says.
    pub fn written_topics(&self) -> Vec<String> {
        let letters = self.sources.values().filter_map(|source| source.dead_letter_topic.clone());
        let events = self.sinks.values().map(|sink| sink.topic.clone());
        letters.chain(events).chain([POSITIONS_TOPIC.to_owned()]).collect()
    }
}

/// The topic of the sinks' positions.
pub const POSITIONS_TOPIC: &str = "wasmill-sink-positions";

/// How long the host as a whole may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// How long a part with work may make no progress before it counts as stalled.
    pub stalled_after_ms: u64,
    /// How long a stop may take, from the signal to the end of the process.
    pub stop_max_ms: u64,
}

impl Default for Host {
    fn default() -> Self {
        Self { stalled_after_ms: 30_000, stop_max_ms: 25_000 }
    }
}

impl Host {
    /// How long a stop may take.
    pub fn stop_max(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.stop_max_ms)
    }
}

/// Where and how the HTTP API serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// A loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The longest request body.
    pub body_mib: usize,
    /// How many connections may be open at the same time.
    pub connections_max: usize,
    /// How many event streams may be open at the same time.
    pub streams_max: usize,
    /// How long a connection may be without a request, and a request without its whole body.
    pub idle_seconds: u64,
    /// How long a client may read nothing of an answer that waits for it.
    pub stall_seconds: u64,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7310),
            body_mib: 8,
            connections_max: 512,
            streams_max: 64,
            idle_seconds: 60,
            stall_seconds: 30,
        }
    }
}

/// Limits of the event store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// How many requests may wait for the writer.
    pub queue_max: usize,
    /// The bytes of what may wait for the writer.
    pub queue_mib: usize,
    /// How many requests share a transaction.
    pub batch_max: usize,
    /// How many bytes close a transaction.
    pub transaction_mib: usize,
    /// The size at which the log is folded into the store.
    pub log_mib: u64,
    /// What one event may have, with its names, ids and headers.
    pub event_bytes_max: usize,
    /// The longest id of an aggregate, and the longest name of a command.
    pub id_bytes_max: usize,
    /// How long the outcome of a command with an id of its sender's is kept, at least.
    pub command_id_hours: u64,
    /// What becomes of the outcome of a command that was refused.
    pub refusals: Refusals,
    /// How many dead letters there may be.
    pub dead_letters_max: u64,
    /// How many mebibytes the dead letters may have.
    pub dead_letters_mib: u64,
    /// How many days a dead letter is kept; 0 keeps it for ever.
    pub dead_letters_days: u64,
    /// What happens when there are as many dead letters as there may be.
    pub dead_letters_full: WhenFull,
}

/// What becomes of the outcome of a refused command whose sender chose the id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusals {
    /// It is remembered, as that of an accepted one.
    #[default]
    Remember,
    /// It is not remembered: a repetition is decided again.
    DecideAgain,
}

/// What happens when a limit of the dead letters is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Nothing more is dead-lettered: what can't be handled is tried again until there is room.
    #[default]
    Stop,
    /// The oldest letters are dropped, and counted.
    DropOldest,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            queue_max: 8192,
            queue_mib: 64,
            batch_max: 2000,
            transaction_mib: 8,
            log_mib: 32,
            event_bytes_max: 1 << 20,
            id_bytes_max: crate::model::ID_BYTES_MAX,
            command_id_hours: 24,
            refusals: Refusals::Remember,
            dead_letters_max: 1_000_000,
            dead_letters_mib: 4_096,
            dead_letters_days: 0,
            dead_letters_full: WhenFull::Stop,
        }
    }
}

/// How Kafka is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kafka {
    /// The cluster.
    pub brokers: Brokers,
    /// Properties of librdkafka for all clients.
    pub properties: Properties,
    /// Login by token; `None` leaves it to the properties.
    pub oauth: Option<OAuth>,
    /// What the records say that are published as CloudEvents.
    pub cloud_events: CloudEvents,
    /// Topics that must be there before the host starts its work, by name.
    pub topics: BTreeMap<String, Topic>,
}

/// What the CloudEvents of a host have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvents {
    /// The beginning of `ce_source`, in front of `#` and the aggregate's type or the subscriber. `None` is
    /// `urn:uuid:` and the identity of the store.
    pub source: Option<String>,
    /// The `content-type` of payloads whose messages do not have one.
    pub content_type: String,
}

impl Default for CloudEvents {
    fn default() -> Self {
        Self { source: None, content_type: "application/json".to_owned() }
    }
}

/// A Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Brokers {
    /// The development broker that the host starts by itself.
    Embedded,
    /// `host:port,…`
    Addresses(String),
}

/// A topic that the host ensures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// How many partitions it is made with.
    pub partitions: i32,
    /// On how many brokers.
    pub replication: i32,
    /// Topic properties of the broker.
    pub config: BTreeMap<String, String>,
}

impl Default for Topic {
    fn default() -> Self {
        Self { partitions: 1, replication: 1, config: BTreeMap::new() }
    }
}

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// A core module or a component.
    pub file: PathBuf,
    /// For aggregates: how many shards; `None` is as many as there are processor cores.
    pub shards: Option<usize>,
    /// For aggregates: how many commands may wait for a shard.
    pub queue_max: usize,
    /// For aggregates: the bytes of the commands that a shard has accepted and not answered.
    pub queue_mib: usize,
    /// For aggregates: how many commands a shard works on at once.
    pub in_flight_max: usize,
    /// For aggregates: how often a command from Kafka or a subscriber is tried before it is dead_letters.
    pub attempts_max: u32,
    /// For aggregates: the events of a stream after which a snapshot is kept; 0 is never.
    pub snapshot_every: u64,
    /// What a call of it may use.
    pub limits: Limits,
}

impl Plugin {
    /// The plugin in a file, with the defaults for all else.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            shards: None,
            queue_max: 4096,
            queue_mib: 64,
            in_flight_max: 4096,
            attempts_max: 3,
            snapshot_every: 0,
            limits: Limits::default(),
        }
    }
}

/// What a plugin may use, per shard or per call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Running time per event or command of a call.
    pub event_time_ms: u64,
    /// Linear memory of one wasm store.
    pub memory_mib: usize,
    /// What of it live aggregates may take before the least recently used ones leave; `None` is half of it.
    pub live_mib: Option<usize>,
    /// Entries of each table of one wasm store.
    pub table_elements: usize,
    /// Live aggregates of one shard.
    pub instances: usize,
    /// What the answer of one query may have.
    pub output_mib: usize,
    /// Commands and messages of one call.
    pub effects_max: usize,
    /// One text, blob or row of a read model.
    pub sql_value_mib: usize,
    /// Memory of one SQL statement.
    pub sql_memory_mib: usize,
    /// The file of a read model.
    pub read_model_mib: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_time_ms: 1000,
            memory_mib: 256,
            live_mib: None,
            table_elements: 100_000,
            instances: 20_000,
            output_mib: 16,
            effects_max: 10_000,
            sql_value_mib: 1,
            sql_memory_mib: 256,
            read_model_mib: 16_384,
        }
    }
}

/// Settings of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Where it starts when it has no checkpoint.
    pub start: Start,
    /// Whether the manifest says where it starts.
    pub is_start_written: bool,
    /// The name that it had before: where it was under that name is where it goes on.
    pub was: Option<String>,
    /// How many events a call gets.
    pub batch_max: usize,
    /// How often a failing event is tried before it is dead_letters.
    pub attempts_max: u32,
    /// The first pause between two tries; it doubles from try to try.
    pub backoff_ms: u64,
}

impl Default for Subscription {
    fn default() -> Self {
        let (start, is_start_written, was) = (Start::Beginning, false, None);
        Self { start, is_start_written, was, batch_max: 256, attempts_max: 5, backoff_ms: 100 }
    }
}

/// Where a subscription without a checkpoint starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first event.
    #[default]
    Beginning,
    /// After the newest event.
    Now,
    /// At the event with this position, or the first one after it.
    At(Position),
}

impl Start {
    /// The checkpoint that a new subscription gets, while the store's newest event is at `head`.
    pub fn checkpoint(self, head: Position) -> Position {
        match self {
            Self::Beginning => Position(0),
            Self::Now => head,
            Self::At(first) => Position(first.0.saturating_sub(1)),
        }
    }
}

/// Settings of a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// How many events share a transaction.
    pub batch_max: usize,
}

impl Default for Projection {
    fn default() -> Self {
        Self { batch_max: 1000 }
    }
}

/// What the command line may set in the manifest's place. `None` leaves the manifest's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The data folder, relative to the working folder.
    pub data: Option<PathBuf>,
    /// `embedded` or `host:port,…`; the manifest must have a `[kafka]` section.
    pub brokers: Option<String>,
    /// Where the API listens.
    pub listen: Option<String>,
}

impl Manifest {
    /// Reads a manifest from a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text = read_text(path)
            .map_err(|cause| Error::Unreadable { path: path.to_owned(), cause: std::sync::Arc::new(cause) })?;
        Self::parse(&text, path)
    }

    /// Reads a manifest from its text. The path is named in errors, and relative paths start from its folder.
    ///
    /// ```
    /// let text = "[plugins.orders]\nfile = 'orders.wasm'\nshard = 2";
    /// let error = wasmill::manifest::Manifest::parse(text, "shop/wasmill.toml".as_ref()).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "shop/wasmill.toml:3:1: unknown key `plugins.orders.shard`; did you mean `shards`? \
    ///      valid keys: file, shards, queue_max, queue_mib, in_flight_max, attempts_max, snapshot_every, limits"
    /// );
    /// ```
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        read::manifest(text, path)
    }

    /// Puts the command line's values in place of the manifest's.
    pub fn with(mut self, overrides: Overrides) -> Result<Self, Error> {
        let refused = |option: &'static str, cause: String| Error::Override { option, cause };
        if let Some(data) = overrides.data {
            self.data = data;
        }
        if let Some(listen) = overrides.listen {
            self.api.listen = read::listen(&listen).map_err(|cause| refused("--listen", cause))?;
        }
        if let Some(brokers) = overrides.brokers {
            let brokers = read::brokers(&brokers).map_err(|cause| refused("--brokers", cause))?;
            match &mut self.kafka {
                Some(kafka) => kafka.brokers = brokers,
                None => {
                    return Err(refused(
                        "--brokers",
                        format!("needs a [kafka] section, which {} does not have", self.path.display()),
                    ));
                }
            }
        }
        Ok(self)
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    // Any file can be named, also one without an end.
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong("it is longer than a mebibyte, as no manifest is".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let read = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = read.iter().filter(|byte| **byte == b'\n').count() + 1;
        wrong(format!("line {line} is not UTF-8: save the file as UTF-8"))
    })
}

#[cfg(test)]
mod tests;
