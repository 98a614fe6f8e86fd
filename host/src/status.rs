//! The status of a host: the answer of `GET /v1/status` and the input of `wasmill status`.
//!
//! These types are plain data. The host's parts write them and the command line reads them back. Field names are part
//! of the API.

mod histories;
mod hosts;
mod manifest;
mod plugins;

pub use histories::{Flow, FlowCommand, RequestItem, RequestWaits, Requests, TimerItem, Timers, Trace};
pub use hosts::SharedHostStatus;
pub use manifest::{KeyStatus, ManifestChange, ManifestStatus, PartChange};
pub use plugins::{CodeStatus, MessageDescription, PluginDescription, PluginHistory, RoleDescription};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything a person needs to see whether a host does its work, and if not, why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The process.
    pub host: HostStatus,
    /// The manifest.
    #[serde(default)]
    pub manifest: ManifestStatus,
    /// The event store.
    pub store: StoreStatus,
    /// The hosts that share the store, the longest running first; none if the store can't be shared.
    #[serde(default)]
    pub hosts: Vec<SharedHostStatus>,
    /// The plugins of the manifest, by name.
    pub plugins: Vec<PluginStatus>,
    /// The aggregate types that are served, by name.
    pub aggregates: Vec<AggregateStatus>,
    /// The outcomes of commands since the store was created, by aggregate type and name.
    pub commands: Vec<CommandStatus>,
    /// The Kafka cluster; `None` without `[kafka]`.
    #[serde(default)]
    pub kafka: Option<KafkaStatus>,
    /// The Kafka sources of the manifest, by name.
    pub sources: Vec<SourceStatus>,
    /// The schedules of the manifest, by name.
    #[serde(default)]
    pub schedules: Vec<ScheduleStatus>,
    /// The subscribers, by name.
    pub subscriptions: Vec<SubscriptionStatus>,
    /// The projections, by name.
    pub projections: Vec<ProjectionStatus>,
    /// The endpoints to which plugins send HTTP requests, by plugin and name.
    #[serde(default)]
    pub endpoints: Vec<EndpointStatus>,
    /// The Kafka sinks: `outbox` first, then those of the manifest, then `dead-letters-SOURCE`. None without Kafka.
    pub sinks: Vec<SinkStatus>,
    /// The traffic of the API since the host started.
    #[serde(default)]
    pub api: ApiStatus,
    /// The dead letters.
    pub dead_letters: DeadLetterStatus,
}

/// The traffic of the API since the host started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiStatus {
    /// Commands by outcome, as in the API; `refused` counts requests that never became a command.
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
    /// Requests whose sender was not recognised, or may not do what it asked for.
    pub unauthorized: u64,
    /// Connections that were closed because they could not be secured by TLS.
    pub handshakes_failed: u64,
    /// What is wrong with the tokens and certificates.
    pub error: Option<String>,
    /// When the certificate ends, in milliseconds since 1970; `None` without TLS.
    pub certificate_ends_ms: Option<u64>,
}

/// The process that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostStatus {
    /// The version of wasmill.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// Milliseconds since the host started.
    pub uptime_ms: u64,
    /// The data folder.
    pub data: String,
    /// The address at which the API listens.
    pub url: String,
    /// Why changed files are noticed a little later: the system does not report them.
    #[serde(default)]
    pub file_watch: Option<String>,
}

/// The event store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreStatus {
    /// The position of the newest event; 0 in an empty store.
    pub position: u64,
    /// The UUID that tells it from every other store. It is created with the store, and copies of the store keep it.
    #[serde(default)]
    pub identity: String,
    /// Why a write failed. The host retries by itself. The error goes away once the store can write again.
    #[serde(default)]
    pub error: Option<String>,
}

/// One plugin of the manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PluginStatus {
    /// Its name in the manifest.
    pub name: String,
    /// The file it is loaded from.
    pub file: String,
    /// The version of the code that serves now, as its author set it.
    pub version: String,
    /// The version of the contract that this code was built for.
    #[serde(default)]
    pub contract: String,
    /// The digest of the code and the settings that serve now: `sha256:…`. Without settings it is that of the file.
    pub digest: String,
    /// The roles that it serves, such as `aggregate order` or `projection sales`.
    pub roles: Vec<String>,
    /// The number of times that its code was put into service: 1 after the start.
    pub loads: u64,
    /// Why the newest file does not serve.
    pub error: Option<String>,
    /// Why the code of its file is held back and older code serves.
    #[serde(default)]
    pub held_back: Option<String>,
    /// Why its file can't be watched. The code that is loaded keeps serving.
    #[serde(default)]
    pub unwatched: Option<String>,
    /// The number of events that its code has skipped since it was loaded, because it does not know them.
    #[serde(default)]
    pub unknown_events: u64,
    /// The settings that it has now.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// The names of the secrets that it has now.
    #[serde(default)]
    pub secrets: Vec<String>,
}

/// One aggregate type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AggregateStatus {
    /// The aggregate type.
    #[serde(rename = "type")]
    pub aggregate_type: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// The number of its shards, each with its own thread and wasm store.
    pub shards: usize,
    /// Live aggregates in all shards.
    pub live: u64,
    /// Commands that wait for a shard.
    pub queued: u64,
    /// The state of its shards: the worst of them.
    #[serde(default)]
    pub state: State,
    /// The problem that is in the way, if there is one.
    #[serde(default)]
    pub error: Option<String>,
}

/// The outcomes of the commands of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandStatus {
    /// The aggregate type they were sent to.
    pub aggregate_type: String,
    /// Their name.
    pub command: String,
    /// Commands that were accepted, with or without events.
    pub accepted: u64,
    /// Commands that a business rule refused.
    pub rejected: u64,
    /// Commands that did not decode, or that failed at every attempt.
    pub malformed: u64,
}

/// The state of a part of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It does not work yet: it is connecting or loading.
    #[default]
    Starting,
    /// It works.
    Running,
    /// It works on events of the past.
    CatchingUp,
    /// It has reached the end and waits for new events.
    Following,
    /// A temporary problem is in the way, and it retries. The error names the problem.
    Retrying,
    /// It has work and makes no progress, or some of its work makes none. The error says where.
    Stalled,
    /// Its thread panicked and restarts from durable state. The error has the panic's text.
    Restarting,
    /// A person has paused it. The error says how to resume it.
    Paused,
    /// It has given up and does not work until a person acts. The error says what happened.
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KafkaStatus {
    /// Its addresses.
    pub brokers: String,
    /// How its topics differ from the manifest, a sentence for each topic. The host never changes a topic that exists.
    pub topics: Vec<String>,
}

/// One Kafka source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceStatus {
    /// Its name in the manifest.
    pub name: String,
    /// The topics it reads: names, and patterns, which begin with `^`.
    pub topics: Vec<String>,
    /// The consumer group that it is a member of; `None` if it reads all partitions by itself.
    pub group: Option<String>,
    /// The plugin that gets its records; `None` if they become commands.
    #[serde(default)]
    pub subscriber: Option<String>,
    /// Its state.
    pub state: State,
    /// The problem that is in the way, if there is one.
    pub error: Option<String>,
    /// The number of settled records: the sum of the partitions' `next`.
    pub handled: u64,
    /// Records handed on and not settled yet.
    pub in_flight: u64,
    /// The number of rebalances of the group since the host started.
    pub rebalances: u64,
    /// The partitions it reads, or has read since the host started, by topic and number.
    pub partitions: Vec<PartitionStatus>,
}

/// One partition of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionStatus {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Every record below this offset is settled.
    pub next: u64,
    /// The offset that the next produced record will get, as last seen.
    pub end: u64,
    /// The last stable offset, as last seen: no transaction is open below it, and records from it on can't be read yet.
    #[serde(default)]
    pub stable: u64,
    /// Records handed on and not settled yet.
    pub in_flight: u64,
    /// Whether the partition is assigned to this host. The group may have assigned it to another member meanwhile.
    pub assigned: bool,
}

/// One schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleStatus {
    /// Its name in the manifest.
    pub name: String,
    /// The name and the receiver of its command, such as `CloseDay to till/main`.
    pub command: String,
    /// Its state.
    pub state: State,
    /// The problem that is in the way, if there is one.
    pub error: Option<String>,
    /// The due time whose command has no outcome yet: milliseconds since 1970-01-01T00:00:00Z.
    pub due_ms: Option<u64>,
    /// The next due time: milliseconds since 1970-01-01T00:00:00Z.
    pub next_ms: Option<u64>,
    /// The latest due time that is settled, if it is known: milliseconds since 1970-01-01T00:00:00Z.
    pub last_ms: Option<u64>,
    /// Due times whose command got an outcome, since the host started.
    pub runs: u64,
    /// Attempts after which a due time was still not settled, since the host started.
    pub failures: u64,
}

/// One subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubscriptionStatus {
    /// Its name.
    pub name: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// Its state.
    pub state: State,
    /// The problem that is in the way, if there is one.
    pub error: Option<String>,
    /// Every event up to this position is processed.
    pub checkpoint: u64,
    /// The number of positions by which the checkpoint lags behind the store.
    pub behind: u64,
    /// The number of keys that are held because an event is being retried.
    #[serde(default)]
    pub retried_keys: u64,
    /// The number of keys that wait behind dead letters.
    #[serde(default)]
    pub waiting_keys: u64,
    /// Whether outcomes or timers are due and not handled.
    #[serde(default)]
    pub due_callbacks: bool,
    /// The sagas, if the plugin has that role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga: Option<SagaStatus>,
    /// The number of outcomes and timers that it has handled since the host started.
    #[serde(default)]
    pub handled_callbacks: u64,
    /// The time when its next timer is due, in milliseconds since 1970-01-01T00:00:00Z, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_timer_ms: Option<u64>,
}

/// The sagas of a plugin. The counts are of the time since the host started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SagaStatus {
    /// The aggregate type of the streams of their events.
    pub saga_type: String,
    /// The sagas that are kept in memory.
    pub live: u64,
    /// The sagas that started.
    pub started: u64,
    /// The sagas that reached their goal.
    pub completed: u64,
    /// The sagas that ended because what they had done is undone.
    pub compensated: u64,
    /// The inputs that were for no saga, for one that does not exist, or for one that has ended.
    pub ignored: u64,
}

/// What the wall clock of a host shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClockStatus {
    /// The time, in milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
    /// Whether it stands still until it is moved.
    pub manual: bool,
}

/// One projection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProjectionStatus {
    /// Its name.
    pub name: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// Its state.
    pub state: State,
    /// The problem that is in the way, if there is one.
    pub error: Option<String>,
    /// Every event up to this position is in its read model.
    pub checkpoint: u64,
    /// The number of positions by which the checkpoint lags behind the store.
    pub behind: u64,
    /// The digest of the code that answers queries, `sha256:…`; `None` while there is none.
    #[serde(default)]
    pub answers: Option<String>,
    /// Name and version of that code.
    #[serde(default)]
    pub answers_plugin: Option<String>,
    /// The code whose read model is being built. It answers queries once its read model has caught up.
    #[serde(default)]
    pub building: Option<BuildingStatus>,
    /// Why the last read model that could not be used was set aside, since the host started.
    #[serde(default)]
    pub set_aside: Option<String>,
    /// The events that it skips because a person decided so.
    #[serde(default)]
    pub skipped: Vec<SkippedEvent>,
}

/// A read model that is being built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BuildingStatus {
    /// Name and version of the code.
    pub plugin: String,
    /// The digest of the code: `sha256:…`.
    pub digest: String,
    /// Every event up to this position is in it.
    pub position: u64,
}

/// An event that a projection skips: the answer of `POST /v1/projections/NAME/skip`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SkippedEvent {
    /// Its position in the store.
    pub position: u64,
    /// Its name and stream.
    pub event: String,
    /// Why the projection stopped at it.
    pub reason: String,
    /// When a person decided to skip it: milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
}

/// One Kafka sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SinkStatus {
    /// Its name: `outbox`, the name in the manifest, or `dead-letters-SOURCE`.
    pub name: String,
    /// The topic it publishes to; `None` if each message names its own.
    pub topic: Option<String>,
    /// Its state.
    pub state: State,
    /// The problem that is in the way, if there is one.
    pub error: Option<String>,
    /// Messages that Kafka has acknowledged since the host started.
    pub published: u64,
    /// The number up to which everything is published or skipped.
    #[serde(default)]
    pub reached: u64,
    /// What it has yet to publish or skip: messages of the outbox, positions of events, or numbers of dead letters.
    pub pending: u64,
}

/// An endpoint to which a plugin sends HTTP requests. The counts are of the time since the host started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointStatus {
    /// Its name: `PLUGIN/ENDPOINT`.
    pub name: String,
    /// Its URL; `None` if the manifest grants it no more, and its requests are refused.
    pub url: Option<String>,
    /// Its state.
    pub state: State,
    /// Why the last attempt failed, while requests wait.
    pub error: Option<String>,
    /// The requests that have not ended.
    pub pending: u64,
    /// The attempts under way.
    pub in_flight: u64,
    /// The attempts that were begun.
    pub attempts: u64,
    /// The requests that ended with a response, whatever its status.
    pub responses: u64,
    /// The requests that ended without a response that can be used.
    pub failed: u64,
    /// The requests that were not sent, because they are not granted or break a rule.
    pub refused: u64,
    /// The attempts that the end of a host interrupted.
    pub interrupted: u64,
}

/// The dead letters of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterStatus {
    /// The number of dead letters.
    pub total: u64,
    /// The limit of their number: `store.dead_letters_max`.
    #[serde(default)]
    pub total_max: u64,
    /// The size of all dead letters in bytes: contents, reasons and places.
    #[serde(default)]
    pub bytes: u64,
    /// The limit of their size in bytes: `store.dead_letters_mib`.
    #[serde(default)]
    pub bytes_max: u64,
    /// The number of dead letters that were dropped to keep to a limit, since the store was created.
    #[serde(default)]
    pub dropped: u64,
    /// The newest dead letters, newest first.
    pub newest: Vec<DeadLetterItem>,
}

/// One dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterItem {
    /// The number that `wasmill dead-letters` takes.
    #[serde(default)]
    pub number: u64,
    /// The source or subscription that dead-lettered it, or `schedule/NAME`.
    pub consumer: String,
    /// The place of the item, such as `topic baskets partition 0 offset 17`.
    pub place: String,
    /// The record's key or the aggregate's id, if it is text.
    pub key: Option<String>,
    /// The cause, and the remedy if one is known.
    pub reason: String,
    /// When the record was produced, the command accepted, the event recorded or the message caused: milliseconds since
    /// 1970-01-01T00:00:00Z; null if it is not known.
    pub time_ms: Option<u64>,
    /// When it was dead-lettered: milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default)]
    pub dead_lettered_ms: u64,
    /// The number of later events of the same aggregate, if they wait behind this dead letter.
    #[serde(default)]
    pub waiting: u64,
}

/// The answer of `GET /v1/dead-letters`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetters {
    /// The number of dead letters that match the request.
    pub total: u64,
    /// The dead letters, newest first.
    pub letters: Vec<DeadLetterItem>,
}

/// The answer of `POST /v1/dead-letters/NUMBER/replay`: the dead letter is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Replayed {
    /// The dead letter's number.
    pub number: u64,
    /// The outcome: `accepted` or `rejected` by its aggregate, `handled` by its subscriber, or `published`.
    pub outcome: String,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer of `GET /v1/streams/TYPE/ID`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamStatus {
    /// Its name.
    pub stream: String,
    /// The type of the aggregate.
    #[serde(rename = "type")]
    pub aggregate_type: String,
    /// The aggregate's id.
    pub aggregate_id: String,
    /// The version of its newest event.
    pub version: u64,
    /// Whether the stream is archived: it takes no more events.
    pub archived: bool,
}

/// The answer of `GET /v1/drained`: whether everything that arrived is completely processed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drained {
    /// Whether nothing is left to do.
    pub drained: bool,
    /// The position of the newest event.
    pub position: u64,
    /// The number of dead letters, which wait for a person.
    #[serde(default)]
    pub dead_letters: u64,
    /// The time when the next timer is due, in milliseconds since 1970-01-01T00:00:00Z, if there is one. A timer that is
    /// not due counts as drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_timer_ms: Option<u64>,
    /// A sentence that says what is not done yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// The parts that a person has paused, a sentence each. They count as drained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paused: Vec<String>,
    /// The parts that run on other hosts of the store, or on none. The answer is not about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<String>,
}

/// The answer of `GET /v1/ready`: whether the host does its work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Whether nothing is in the way.
    pub ready: bool,
    /// The problems that are in the way, a sentence each.
    pub reasons: Vec<String>,
    /// The parts that a person has paused, a sentence each. They do not keep the host from being ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paused: Vec<String>,
}

/// The answer of `POST /v1/subscriptions/NAME/pause` and `…/resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Paused {
    /// The subscription.
    pub name: String,
    /// Whether it is paused now.
    pub paused: bool,
}

/// The answer to the reset of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reset {
    /// The subscription.
    pub name: String,
    /// The checkpoint before.
    pub from: u64,
    /// The checkpoint after. The next event that is handled is the first wanted one after this position.
    pub to: u64,
}

/// The answer of `GET /v1/sources/NAME/wait`: the progress of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceProgress {
    /// The sum of the partitions' `next`.
    pub handled: u64,
    /// The progress in each partition, ordered by its number.
    pub partitions: Vec<PartitionProgress>,
}

/// The progress of a source in one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionProgress {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Every record below this offset is settled.
    pub next: u64,
}

/// The answer of `POST /v1/plugins/NAME/reload`: the code that serves now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// The plugin's name in the manifest.
    pub plugin: String,
    /// The version that its author set.
    pub version: String,
    /// The digest of the file: `sha256:…`.
    pub digest: String,
    /// The progress of its projection, if the plugin has one that does not answer with the new code yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building: Option<Rebuilding>,
}

/// The answer of `POST /v1/plugins/reload`: plugins that were reloaded together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AllReloaded {
    /// The plugins, ordered by name.
    pub plugins: Vec<Reloaded>,
}

/// The progress of the read model of reloaded code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rebuilding {
    /// The projection.
    pub projection: String,
    /// Every event up to this position is in the read model.
    pub position: u64,
    /// The position of the newest event.
    pub of: u64,
}

impl PartitionStatus {
    /// Describes the offsets that wait behind an open transaction, if everything before them is settled.
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

impl From<crate::model::KeptDeadLetter> for DeadLetterItem {
    fn from(kept: crate::model::KeptDeadLetter) -> Self {
        let crate::model::KeptDeadLetter { number, dead_lettered_ms, letter, waiting } = kept;
        let crate::model::DeadLetter { consumer, place, key, reason, time_ms, content: _ } = letter;
        Self { number, consumer, place, key, reason, time_ms, dead_lettered_ms, waiting }
    }
}

impl From<crate::store::Tally> for CommandStatus {
    fn from(tally: crate::store::Tally) -> Self {
        let crate::store::Tally { aggregate_type, command, accepted, rejected, malformed } = tally;
        Self { aggregate_type, command, accepted, rejected, malformed }
    }
}
