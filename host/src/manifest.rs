//! The manifest: everything that a person configures, in one TOML file.
//!
//! Every limit of the host has a name and a default here. A manifest is accepted as a whole or not at all: unknown keys
//! are refused, ranges are checked, and [`Error`] lists all problems with their places. Nothing here opens a plugin, a
//! database or a connection. The modules that open them check what depends on them.

mod api;
mod difference;
mod endpoint;
mod error;
mod property;
mod read;
mod schedule;
mod section;
mod sink;
mod source;

pub use api::{Api, ApiClient, Scope, Scopes, Tls};
pub use difference::{Change, KeyChange};
pub use endpoint::Endpoint;
pub use error::{Error, Problem};
pub use property::{OAuth, Properties, Token, Value};
#[cfg(test)]
pub(crate) use read::IN_FLIGHT_MIB;
pub use schedule::{Missed, Schedule};
pub(crate) use section::nearest;
pub use sink::{EventSink, Sink, SinkKey, SinkMode};
pub use source::{
    Commands, DROP_HEADERS, Deliveries, From, Key, Lost, Membership, Name, Recreated, Rejected, Source, Target,
    Transaction,
};

use crate::backoff::BACKOFF_MAX;
use crate::bounds::Bounds;
use crate::model::{Position, SEGMENTS_MAX, Segment};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes of a manifest.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A manifest whose values are all valid. Relative paths are resolved against its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The path of the manifest.
    pub path: PathBuf,
    /// Its text.
    pub text: Arc<str>,
    /// The values that the command line has overridden.
    pub overrides: Overrides,
    /// When a changed manifest is applied.
    pub reload: Reload,
    /// The data folder, which has everything that the host stores.
    pub data: PathBuf,
    /// What moves the host's wall clock.
    pub clock: ClockKind,
    /// The limits of chains of causes, and of the pauses that guests ask for.
    pub bounds: Bounds,
    /// The time limits of the host as a whole.
    pub host: Host,
    /// The settings of the HTTP API.
    pub api: Api,
    /// The settings of the event store.
    pub store: Store,
    /// The connection to Kafka. `None` is a host without Kafka.
    pub kafka: Option<Kafka>,
    /// The plugins, by their name in the manifest.
    pub plugins: BTreeMap<String, Plugin>,
    /// The sources, which read from Kafka, by name.
    pub sources: BTreeMap<String, Source>,
    /// The schedules, which send commands at due times, by name.
    pub schedules: BTreeMap<String, Schedule>,
    /// The settings of subscriptions, by plugin name. A subscription without an entry has the defaults.
    pub subscriptions: BTreeMap<String, Subscription>,
    /// The settings of projections, by projection name. A projection without an entry has the defaults.
    pub projections: BTreeMap<String, Projection>,
    /// The settings of the sink that publishes the outbox to Kafka.
    pub sink: Sink,
    /// The sinks that publish events to Kafka, by name.
    pub sinks: BTreeMap<String, EventSink>,
}

impl Manifest {
    /// Returns the folder of the manifest, from which its relative paths start.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Returns the folder that backups through the API are in.
    pub fn backups(&self) -> PathBuf {
        self.store.backups.clone().unwrap_or_else(|| self.data.join("backups"))
    }

    /// Returns the segments of the subscription of a plugin.
    pub fn segments(&self, plugin: &str) -> impl Iterator<Item = Segment> + use<> {
        Segment::all(self.subscriptions.get(plugin).map_or(1, |settings| settings.segments))
    }

    /// Returns the topics that the host itself writes to, as far as the manifest names them.
    pub fn written_topics(&self) -> Vec<String> {
        let letters = self.sources.values().filter_map(|source| source.dead_letter_topic.clone());
        let events = self.sinks.values().map(|sink| sink.topic.clone());
        letters.chain(events).chain([POSITIONS_TOPIC.to_owned()]).collect()
    }
}

/// The folder beside a manifest that has what is built from the sources of its plugins, and the SDK.
pub const BUILD_FOLDER: &str = ".wasmill";

/// The topic that has the positions of the sinks.
pub const POSITIONS_TOPIC: &str = "wasmill-sink-positions";

/// The time limits of the host as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The time without progress after which a part with work counts as stalled.
    pub stalled_after_ms: u64,
    /// The longest time of a stop, from the signal to the end of the process.
    pub stop_max_ms: u64,
    /// How many codes of each plugin are kept, so that they can serve again.
    pub history_max: usize,
}

impl Default for Host {
    fn default() -> Self {
        Self { stalled_after_ms: 30_000, stop_max_ms: 25_000, history_max: 5 }
    }
}

impl Host {
    /// Returns the longest time of a stop.
    pub fn stop_max(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.stop_max_ms)
    }
}

/// The settings of the event store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The URL of the PostgreSQL database that has the store. `None` is the embedded store in the data folder.
    pub url: Option<Value>,
    /// The folder that backups through the API are in. `None` is the folder `backups` in the data folder.
    pub backups: Option<PathBuf>,
    /// The most requests that may wait for the writer.
    pub queue_max: usize,
    /// The most mebibytes of requests that may wait for the writer.
    pub queue_mib: usize,
    /// The most requests in one transaction.
    pub batch_max: usize,
    /// The size at which a transaction is committed.
    pub transaction_mib: usize,
    /// The size of the write-ahead log that starts a WAL checkpoint.
    pub log_mib: u64,
    /// The most bytes of one event, with its names, ids and headers.
    pub event_bytes_max: usize,
    /// The most bytes of an aggregate's id, and of a command's name.
    pub id_bytes_max: usize,
    /// The shortest time for which the outcome of a command is kept if its sender chose its id.
    pub command_id_hours: u64,
    /// Whether the outcomes of refused commands are kept.
    pub refusals: Refusals,
    /// The most dead letters.
    pub dead_letters_max: u64,
    /// The most mebibytes of all dead letters.
    pub dead_letters_mib: u64,
    /// The number of days for which a dead letter is kept. 0 keeps it forever.
    pub dead_letters_days: u64,
    /// The behaviour when a limit of the dead letters is reached.
    pub dead_letters_full: WhenFull,
}

/// Whether the store keeps the outcome of a refused command whose sender chose its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusals {
    /// The outcome is remembered, like that of an accepted command.
    #[default]
    Remember,
    /// The outcome is not remembered, so a repeated command is decided again.
    DecideAgain,
}

/// The behaviour when a limit of the dead letters is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Nothing more is dead-lettered. An item that can't be handled is retried until there is room.
    #[default]
    Stop,
    /// The oldest dead letters are dropped and counted.
    DropOldest,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: None,
            backups: None,
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

/// The connection to Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kafka {
    /// The cluster.
    pub brokers: Brokers,
    /// The properties of librdkafka for all clients.
    pub properties: Properties,
    /// The login by token. With `None` the properties decide on the login.
    pub oauth: Option<OAuth>,
    /// The attributes of records that are published as CloudEvents.
    pub cloud_events: CloudEvents,
    /// The topics that must exist before the host starts its work, by name.
    pub topics: BTreeMap<String, Topic>,
}

/// The attributes that all CloudEvents of a host share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvents {
    /// The beginning of `ce_source`, before `#` and the type of the aggregate or the name of the subscriber. `None` is
    /// `urn:uuid:` and the identity of the store.
    pub source: Option<String>,
    /// The `content-type` of messages that do not have their own.
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

/// A topic that the host creates if it does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The number of partitions.
    pub partitions: i32,
    /// The number of brokers that keep each partition.
    pub replication: i32,
    /// The properties of the topic.
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
    /// The file, which is a core module or a component.
    pub file: PathBuf,
    /// The folder of its crate, if wasmill builds it.
    pub source: Option<PathBuf>,
    /// The SHA-256 that the file must have, in hexadecimal. `None` is any.
    pub sha256: Option<String>,
    /// The number of shards, for aggregates. `None` is the number of processor cores.
    pub shards: Option<usize>,
    /// The most commands that may wait for a shard, for aggregates.
    pub queue_max: usize,
    /// The most mebibytes of commands that a shard has accepted and not answered, for aggregates.
    pub queue_mib: usize,
    /// The most commands that a shard works on at the same time, for aggregates.
    pub in_flight_max: usize,
    /// The number of attempts at a command from Kafka or a subscriber before it is dead-lettered, for aggregates.
    pub attempts_max: u32,
    /// The number of events of a stream after which a snapshot is taken, for aggregates. 0 is never.
    pub snapshot_every: u64,
    /// What happens if new code makes another state of a history.
    pub changed_state: ChangedState,
    /// How long new code is watched. 0 is not at all.
    pub watch_ms: u64,
    /// The percentage of commands at which watched code may not fail if the code before would not.
    pub watch_percent: u64,
    /// The limits of the plugin's calls and memory.
    pub limits: Limits,
    /// The settings that the plugin takes, as JSON.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The places of the secrets that the plugin takes, by name.
    pub secrets: BTreeMap<String, Value>,
    /// The endpoints to which the plugin may send HTTP requests, by name.
    pub http: BTreeMap<String, Endpoint>,
}

impl Plugin {
    /// Makes a plugin from a file, with the defaults for everything else.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            source: None,
            sha256: None,
            shards: None,
            queue_max: 4096,
            queue_mib: 64,
            in_flight_max: 4096,
            attempts_max: 3,
            snapshot_every: 0,
            changed_state: ChangedState::default(),
            watch_ms: 60_000,
            watch_percent: 1,
            limits: Limits::default(),
            settings: serde_json::Map::new(),
            secrets: BTreeMap::new(),
            http: BTreeMap::new(),
        }
    }
}

/// What happens if new code of a plugin makes another state of a recent history than the code before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChangedState {
    /// It is reported, and the new code serves.
    #[default]
    Report,
    /// The new code is refused.
    Refuse,
}

/// The limits of a plugin, per shard or per call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The running time for each event or command of a call.
    pub event_time_ms: u64,
    /// The linear memory of one guest.
    pub memory_mib: usize,
    /// The part of that memory that live aggregates may use before the least recently used ones are evicted. `None` is
    /// half of it.
    pub live_mib: Option<usize>,
    /// The number of entries in each table of one guest.
    pub table_elements: usize,
    /// The number of live aggregates of one shard.
    pub instances: usize,
    /// The size of the answer to one query.
    pub output_mib: usize,
    /// The number of commands and messages of one call.
    pub effects_max: usize,
    /// The size of one text, blob or row of a read model.
    pub sql_value_mib: usize,
    /// The memory of one SQL statement.
    pub sql_memory_mib: usize,
    /// The size of a read model's file.
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

/// The settings of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The place where it starts if it has no checkpoint.
    pub start: Start,
    /// Whether the manifest has the key `start`.
    pub is_start_written: bool,
    /// The name that it had before. It takes over the progress that is stored under that name.
    pub was: Option<String>,
    /// The most events of one call.
    pub batch_max: usize,
    /// The number of attempts at a failing event before it is dead-lettered.
    pub attempts_max: u32,
    /// The pause between the first two attempts. It doubles with each further attempt.
    pub backoff_ms: u64,
    /// The longest pause between two attempts.
    pub backoff_max_ms: u64,
    /// What happens to later events when an event is dead-lettered.
    pub on_failure: OnFailure,
    /// The most keys that are held at the same time.
    pub held_keys_max: usize,
    /// The number of segments.
    pub segments: u32,
}

impl Default for Subscription {
    fn default() -> Self {
        Self {
            start: Start::Beginning,
            is_start_written: false,
            was: None,
            batch_max: 256,
            attempts_max: 5,
            backoff_ms: 100,
            backoff_max_ms: BACKOFF_MAX.as_millis() as u64,
            on_failure: OnFailure::HoldKey,
            held_keys_max: 10_000,
            segments: 1,
        }
    }
}

/// When a manifest is applied that changes while its host runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reload {
    /// A person or a program asks for it.
    #[default]
    Manual,
    /// At once.
    Auto,
}

/// What moves the host's wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockKind {
    /// It shows the machine's time.
    #[default]
    System,
    /// It stands still until a person or a test moves it.
    Manual,
}

/// What happens to the later events of a subscription when an event is dead-lettered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Later events of its key wait until the dead letter is replayed or discarded. Other keys go on.
    #[default]
    HoldKey,
    /// Later events pass it.
    Pass,
    /// Its key is held, and the subscription is paused until a person resumes it.
    Stop,
}

/// The place where a subscription without a checkpoint starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// The first event.
    #[default]
    Beginning,
    /// The first event after the current newest one.
    Now,
    /// The event with this position, or the first one after it.
    At(Position),
}

impl Start {
    /// Returns the checkpoint of a new subscription, when the store's newest event is at `head`.
    pub fn checkpoint(self, head: Position) -> Position {
        match self {
            Self::Beginning => Position(0),
            Self::Now => head,
            Self::At(first) => Position(first.0.saturating_sub(1)),
        }
    }
}

/// The settings of a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// The most events of one transaction.
    pub batch_max: usize,
}

impl Default for Projection {
    fn default() -> Self {
        Self { batch_max: 1000 }
    }
}

/// The values that the command line may override. `None` keeps the manifest's value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The data folder, relative to the working folder.
    pub data: Option<PathBuf>,
    /// The brokers: `embedded` or `host:port,…`. The manifest must have a `[kafka]` section.
    pub brokers: Option<String>,
    /// The address of the API.
    pub listen: Option<String>,
    /// Whether plugins with a `source` run the code that `wasmill dev` builds, unwatched, and a changed manifest is applied at once.
    pub dev: bool,
}

impl Manifest {
    /// Reads a manifest from a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let text =
            read_text(path).map_err(|cause| Error::Unreadable { path: path.to_owned(), cause: Arc::new(cause) })?;
        Self::parse(&text, path)
    }

    /// Reads a manifest from its text. Errors name the path, and relative paths start from its folder.
    ///
    /// ```
    /// let text = "[plugins.orders]\nfile = 'orders.wasm'\nshard = 2";
    /// let error = wasmill::manifest::Manifest::parse(text, "shop/wasmill.toml".as_ref()).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "shop/wasmill.toml:3:1: unknown key `plugins.orders.shard`; did you mean `shards`? \
    ///      valid keys: file, source, sha256, shards, queue_max, queue_mib, in_flight_max, attempts_max, snapshot_every, changed_state, \
    ///      watch_ms, watch_percent, limits, settings, secrets, http"
    /// );
    /// ```
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        read::manifest(text, path)
    }

    /// Reads the manifest again, with the same values of the command line.
    pub fn read_again(&self) -> Result<Self, Error> {
        // A named pipe would block.
        crate::paths::require_file(&self.path)
            .map_err(|cause| Error::Unreadable { path: self.path.clone(), cause: Arc::new(cause) })?;
        Self::load(&self.path)?.with(self.overrides.clone())
    }

    /// Replaces values of the manifest by those of the command line.
    pub fn with(mut self, overrides: Overrides) -> Result<Self, Error> {
        self.overrides = overrides.clone();
        let refused = |option: &'static str, cause: String| Error::Override { option, cause };
        if let Some(data) = overrides.data {
            self.data = data;
        }
        if overrides.dev {
            let folder = self.folder().join(BUILD_FOLDER).join("dev");
            for (name, plugin) in self.plugins.iter_mut().filter(|(_, plugin)| plugin.source.is_some()) {
                plugin.file = folder.join(name).with_extension("wasm");
                // Its author sees a failure, and corrects it.
                plugin.watch_ms = 0;
            }
            // `wasmill dev` applies it, once new plugins are built.
            self.reload = Reload::Manual;
        }
        if let Some(listen) = overrides.listen {
            self.api.listen = read::listen(&listen).map_err(|cause| refused("--listen", cause))?;
            self.api.refuse_exposed().map_err(|cause| refused("--listen", cause))?;
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
    // The path may name any file, even an endless one.
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
