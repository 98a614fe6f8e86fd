//! What a host says about itself: the answer of `GET /v1/status` and of `wasmill status`.
//!
//! Plain data, written by the host's parts and read back by the command line. Field names are part of the API.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything a person needs to see whether a host does its work, and why not where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The process.
    pub host: HostStatus,
    /// The event store.
    pub store: StoreStatus,
    /// The plugins of the manifest, by name.
    pub plugins: Vec<PluginStatus>,
    /// The aggregate types that are served, by name.
    pub aggregates: Vec<AggregateStatus>,
    /// How commands ended since the store was made, by aggregate type and name.
    pub commands: Vec<CommandStatus>,
    /// The Kafka cluster; none without `[kafka]`.
    #[serde(default)]
    pub kafka: Option<KafkaStatus>,
    /// The Kafka sources of the manifest, by name.
    pub sources: Vec<SourceStatus>,
    /// The subscribers, by name.
    pub subscriptions: Vec<SubscriptionStatus>,
    /// The projections, by name.
    pub projections: Vec<ProjectionStatus>,
    /// The Kafka sinks: `outbox` first, then those of the manifest, then `dead-letters-SOURCE`. None without Kafka.
    pub sinks: Vec<SinkStatus>,
    /// What came in over the API since the host started.
    #[serde(default)]
    pub api: ApiStatus,
    /// What was dead-lettered.
    pub dead_letters: DeadLetterStatus,
}

/// What came in over the API since the host started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiStatus {
    /// Commands by how they ended, as in the API; `refused` are requests that never became one.
    pub commands: BTreeMap<String, u64>,
    /// Connections that are open now.
    pub connections: u64,
    /// Event streams that are open now.
    pub streams: u64,
    /// Requests that found no room and were answered with 503.
    pub turned_away: u64,
    /// Connections that were closed because their client read nothing for too long.
    pub stalled: u64,
    /// Connections that were closed because no request, or no whole one, came in time.
    pub idle: u64,
}

/// The process that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Of wasmill.
    pub version: String,
    /// Of the operating system.
    pub pid: u32,
    /// Milliseconds since the host started.
    pub uptime_ms: u64,
    /// The data folder.
    pub data: String,
    /// Where the API listens.
    pub url: String,
}

/// The event store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Of the newest event; 0 in an empty store.
    pub position: u64,
    /// What tells it from every other store: a UUID made with it, which its copies keep.
    #[serde(default)]
    pub identity: String,
    /// Why a write failed. The host tries again by itself; it is gone once more than what failed can be written.
    #[serde(default)]
    pub error: Option<String>,
}

/// One plugin of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginStatus {
    /// Its name in the manifest.
    pub name: String,
    /// The file it is loaded from.
    pub file: String,
    /// The version its author gave it, of the code that serves now.
    pub version: String,
    /// `sha256:…` of the file that serves now.
    pub digest: String,
    /// What it serves, such as `aggregate order` or `projection sales`.
    pub roles: Vec<String>,
    /// How many times code of it was put into service: 1 after the start.
    pub loads: u64,
    /// Why the newest file is not the one that serves.
    pub error: Option<String>,
}

/// One aggregate type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregateStatus {
    /// The aggregate type.
    #[serde(rename = "type")]
    pub aggregate_type: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// How many shards, each with a thread and a wasm store of its own.
    pub shards: usize,
    /// Live instances in all shards.
    pub live: u64,
    /// Commands that wait for a shard.
    pub queued: u64,
    /// What its shards are doing: that of the one that is worst off.
    #[serde(default)]
    pub state: State,
    /// What is in the way.
    #[serde(default)]
    pub error: Option<String>,
}

/// How the commands of one name ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandStatus {
    /// The aggregate type they were sent to.
    pub aggregate_type: String,
    /// Their name.
    pub command: String,
    /// Accepted, with or without events.
    pub accepted: u64,
    /// Refused by a business rule.
    pub rejected: u64,
    /// Not decodable, or not handled after all tries.
    pub malformed: u64,
}

/// What a part of the host is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet at work: connecting, or loading.
    #[default]
    Starting,
    /// At work.
    Running,
    /// At work on events of the past.
    CatchingUp,
    /// At the end, waiting for what comes next.
    Following,
    /// Something passing is in the way; it tries again. The error says what.
    Retrying,
    /// It has work and makes no progress, or some of its work stands still. The error says where.
    Stalled,
    /// Its thread panicked, and begins again from what is durable. The error has the panic's text.
    Restarting,
    /// A person has paused it. The error says how to resume it.
    Paused,
    /// It gave up and does no more work until a person acts. The error says what happened.
    Stopped,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::CatchingUp => "catching up",
            Self::Following => "following",
            Self::Retrying => "retrying",
            Self::Stalled => "stalled",
            Self::Restarting => "restarting",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// The Kafka cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaStatus {
    /// Its addresses.
    pub brokers: String,
    /// How its topics differ from what the manifest says of them, a sentence each. None is ever changed.
    pub topics: Vec<String>,
}

/// One Kafka source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name in the manifest.
    pub name: String,
    /// The topics it reads: names, and patterns, which begin with `^`.
    pub topics: Vec<String>,
    /// The consumer group that it is a member of; none where it reads all partitions by itself.
    pub group: Option<String>,
    /// The plugin that gets its records; none where they become commands.
    #[serde(default)]
    pub subscriber: Option<String>,
    /// What it is doing.
    pub state: State,
    /// What is in the way.
    pub error: Option<String>,
    /// Records settled in all: the sum of the partitions' `next`.
    pub handled: u64,
    /// Records handed on and not settled yet.
    pub in_flight: u64,
    /// How often the group has given or taken partitions since the host started.
    pub rebalances: u64,
    /// The partitions it reads, or has read since the host started, by topic and number.
    pub partitions: Vec<PartitionStatus>,
}

/// One partition of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Every record below this offset is settled.
    pub next: u64,
    /// The offset that the next produced record will get, as last seen.
    pub end: u64,
    /// Below this offset no transaction is open, as last seen: what follows can't be read yet.
    #[serde(default)]
    pub stable: u64,
    /// Records handed on and not settled yet.
    pub in_flight: u64,
    /// Whether it is this host's to read. The group may have given it to another member since.
    pub assigned: bool,
}

/// One subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionStatus {
    /// Its name.
    pub name: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// What it is doing.
    pub state: State,
    /// What is in the way.
    pub error: Option<String>,
    /// Everything up to this position is handled.
    pub checkpoint: u64,
    /// How many positions the checkpoint is behind the store.
    pub behind: u64,
}

/// One projection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectionStatus {
    /// Its name.
    pub name: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// What it is doing.
    pub state: State,
    /// What is in the way.
    pub error: Option<String>,
    /// Everything up to this position is in its read model.
    pub checkpoint: u64,
    /// How many positions the checkpoint is behind the store.
    pub behind: u64,
    /// `sha256:…` of the code that answers queries; none while nothing does.
    #[serde(default)]
    pub answers: Option<String>,
    /// Name and version of that code.
    #[serde(default)]
    pub answers_plugin: Option<String>,
    /// The code whose read model is being built; it answers once that has caught up.
    #[serde(default)]
    pub building: Option<BuildingStatus>,
    /// Why the last read model that could not be used was set aside, since the host started.
    #[serde(default)]
    pub set_aside: Option<String>,
    /// The events that it passes over because a person said so.
    #[serde(default)]
    pub skipped: Vec<SkippedEvent>,
}

/// A read model on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildingStatus {
    /// Name and version of the code.
    pub plugin: String,
    /// `sha256:…` of the code.
    pub digest: String,
    /// Everything up to this position is in it.
    pub position: u64,
}

/// An event that a projection passes over. The answer of `POST /v1/projections/NAME/skip`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedEvent {
    /// Its place in the store.
    pub position: u64,
    /// Its name and stream.
    pub event: String,
    /// Why the projection stopped at it.
    pub reason: String,
    /// When it was decided: milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
}

/// One Kafka sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// `outbox`, its name in the manifest, or `dead-letters-SOURCE`.
    pub name: String,
    /// The topic it publishes to; none where each message names its own.
    pub topic: Option<String>,
    /// What it is doing.
    pub state: State,
    /// What is in the way.
    pub error: Option<String>,
    /// Messages that Kafka has acknowledged since the host started.
    pub published: u64,
    /// Everything up to this number is published or passed by.
    #[serde(default)]
    pub reached: u64,
    /// What it has yet to publish or pass by: messages of the outbox, positions of events, numbers of dead letters.
    pub pending: u64,
}

/// What was dead-lettered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterStatus {
    /// How many in all.
    pub total: u64,
    /// How many there may be: `store.dead_letters_max`.
    #[serde(default)]
    pub total_max: u64,
    /// The bytes of all of them: contents, reasons and places.
    #[serde(default)]
    pub bytes: u64,
    /// How many bytes they may have: `store.dead_letters_mib`.
    #[serde(default)]
    pub bytes_max: u64,
    /// How many were dropped to keep to a limit, since the store was made.
    #[serde(default)]
    pub dropped: u64,
    /// The newest of them, newest first.
    pub newest: Vec<DeadLetterItem>,
}

/// One thing that was dead-lettered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterItem {
    /// What `wasmill dead-letters` calls it.
    #[serde(default)]
    pub number: u64,
    /// Who dead-letter it: a source's or a subscription's name.
    pub consumer: String,
    /// Where it is, such as `topic baskets partition 0 offset 17`.
    pub place: String,
    /// The record's key or the aggregate's id, if it is text.
    pub key: Option<String>,
    /// The cause, and the remedy where one is known.
    pub reason: String,
    /// When the record was produced, the command accepted, the event recorded or the message caused: milliseconds since
    /// 1970-01-01T00:00:00Z; null if nobody knows.
    pub time_ms: Option<u64>,
    /// When it was dead-lettered: milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default)]
    pub dead_lettered_ms: u64,
}

/// The answer of `GET /v1/dead-letters`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// How many there are of those asked for.
    pub total: u64,
    /// Newest first.
    pub letters: Vec<DeadLetterItem>,
}

/// The answer of `POST /v1/dead-letters/NUMBER/replay`: the letter is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// The letter's number.
    pub number: u64,
    /// What came of it: `accepted` or `rejected` by its aggregate, `handled` by its subscriber, or `published`.
    pub outcome: String,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer of `GET /v1/streams/TYPE/ID`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Its name.
    pub stream: String,
    /// The type of the aggregate.
    #[serde(rename = "type")]
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// Of its newest event.
    pub version: u64,
    /// Whether it takes no more events.
    pub archived: bool,
}

/// The answer of `GET /v1/drained`: whether everything that was there has gone all its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Whether nothing is left to do.
    pub drained: bool,
    /// Of the newest event.
    pub position: u64,
    /// What was dead-lettered and waits for a person.
    #[serde(default)]
    pub dead_letters: u64,
    /// What is not done yet, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// What does not move until a person resumes it, a sentence each. It counts as drained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paused: Vec<String>,
}

/// The answer of `GET /v1/ready`: whether the host does its work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether nothing is in the way.
    pub ready: bool,
    /// What is in the way, a sentence each.
    pub reasons: Vec<String>,
    /// What a person has paused, a sentence each. It is not in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paused: Vec<String>,
}

/// The answer of `POST /v1/subscriptions/NAME/pause` and `…/resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// The subscription.
    pub name: String,
    /// Whether it is paused now.
    pub paused: bool,
}

/// The answer of `GET /v1/sources/NAME/wait`: how far a source has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceProgress {
    /// The sum of the partitions' `next`.
    pub handled: u64,
    /// By number.
    pub partitions: Vec<PartitionProgress>,
}

/// How far a source has come in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Every record below this offset is settled.
    pub next: u64,
}

/// The answer of `POST /v1/plugins/NAME/reload`: what serves now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The plugin's name in the manifest.
    pub plugin: String,
    /// The version its author gave it.
    pub version: String,
    /// `sha256:…` of the file.
    pub digest: String,
    /// How far its projection is, if the plugin has one that does not answer with the new code yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building: Option<Rebuilding>,
}

/// How far the read model of reloaded code is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilding {
    /// The projection.
    pub projection: String,
    /// Everything up to this position is in the read model.
    pub position: u64,
    /// Of the newest event.
    pub of: u64,
}

impl PartitionStatus {
    /// What waits behind a transaction that is neither committed nor aborted, where all before it is done.
    pub fn behind_transaction(&self) -> Option<String> {
        let Self { topic, partition, next, end, stable, .. } = self;
        (stable <= next && next < end).then(|| {
            format!(
                "topic {topic} partition {partition}: {} offsets from {next} on wait behind an open transaction of another \
                 producer; they are read once it commits or aborts",
                end - next
            )
        })
    }
}

impl From<crate::model::KeptLetter> for DeadLetterItem {
    fn from(kept: crate::model::KeptLetter) -> Self {
        let crate::model::KeptLetter { number, dead_lettered_ms, letter } = kept;
        let crate::model::DeadLetter { consumer, place, key, reason, time_ms, content: _ } = letter;
        Self { number, consumer, place, key, reason, time_ms, dead_lettered_ms }
    }
}

impl From<crate::store::Tally> for CommandStatus {
    fn from(tally: crate::store::Tally) -> Self {
        let crate::store::Tally { aggregate_type, command, accepted, rejected, malformed } = tally;
        Self { aggregate_type, command, accepted, rejected, malformed }
    }
}
