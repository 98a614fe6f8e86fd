//! Maintenance functions of the embedded store. A database server has its own tools for this.

use super::Error;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The maintenance functions of a store, for its operators.
pub trait Maintenance: Send + Sync {
    /// Copies the store, as it is at one moment, into a new file, which is a complete store. Writes continue meanwhile.
    /// It runs on the caller's thread, without a time limit.
    fn backup(&self, to: &Path) -> Result<Backup, Error>;

    /// Returns statistics. With `count` every event is read, which takes long on a large store.
    fn statistics(&self, count: bool) -> Result<Statistics, Error>;
}

/// A copy of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Backup {
    /// The path of the copy.
    pub file: String,
    /// The position of its newest event.
    pub position: u64,
    /// The size of the copy.
    pub bytes: u64,
    /// The time that it took to make the copy.
    pub elapsed_ms: u64,
}

/// The statistics of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Statistics {
    /// The position of the newest event.
    pub position: u64,
    /// The bytes of the store without its write-ahead log.
    pub file_bytes: u64,
    /// The bytes in the store's file that are free for reuse.
    pub free_bytes: u64,
    /// The bytes of the write-ahead log that no WAL checkpoint has copied yet.
    pub log_bytes: u64,
    /// The number of archived streams.
    pub archived_streams: u64,
    /// The number of subscriptions with a checkpoint.
    pub subscriptions: u64,
    /// The number of ledgers: partitions of sources, and commands of subscriptions.
    pub ledgers: u64,
    /// The number of subscriptions' commands in steps that are not completely settled.
    pub outbox_commands: u64,
    /// The number of messages in steps that are not completely published.
    pub outbox_messages: u64,
    /// The number of outcomes, timers and responses that subscriptions have not handled.
    pub callbacks: u64,
    /// The number of HTTP requests that have not ended.
    pub http_requests: u64,
    /// The number of remembered outcomes, which are those of commands whose sender chose the id.
    pub outcomes: u64,
    /// The number of dead letters.
    pub dead_letters: u64,
    /// The statistics that need a read of every event. `None` if they were not requested.
    pub counted: Option<Counted>,
}

/// The statistics that need a read of every event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counted {
    /// The number of streams with events.
    pub streams: u64,
    /// The number of recorded events.
    pub events: u64,
    /// The bytes of their payloads and headers.
    pub bytes: u64,
    /// The counts by aggregate type and event name, in this order.
    pub types: Vec<TypeCount>,
}

/// The events of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TypeCount {
    /// The type of the aggregate.
    pub aggregate_type: String,
    /// The event's name.
    pub name: String,
    /// The number of these events.
    pub events: u64,
    /// The bytes of their payloads and headers.
    pub bytes: u64,
}
