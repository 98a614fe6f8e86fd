//! Maintenance: what the embedded store offers beside its work. A database server has tools of its own for it.

use super::Error;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a store can do for its operators.
pub trait Maintenance: Send + Sync {
    /// Copies the store, as it is at one moment, into a new file, while writes go on. The file is a store of its own.
    /// Takes as long as it takes, on the caller's thread.
    fn backup(&self, to: &Path) -> Result<Backup, Error>;

    /// How much there is. With `count` every event is read for it, which takes its time on a large store.
    fn statistics(&self, count: bool) -> Result<Statistics, Error>;
}

/// A copy of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Where it is.
    pub file: String,
    /// The newest event in it.
    pub position: u64,
    /// Its size.
    pub bytes: u64,
    /// How long it took to make.
    pub elapsed_ms: u64,
}

/// How much there is in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Of the newest event.
    pub position: u64,
    /// Bytes of the store without its log.
    pub file_bytes: u64,
    /// Bytes of it that are free to be used again.
    pub free_bytes: u64,
    /// Bytes of the log that are not folded into the store yet.
    pub log_bytes: u64,
    /// Streams that take no more events.
    pub archived_streams: u64,
    /// Subscriptions with a checkpoint.
    pub subscriptions: u64,
    /// Numbered sequences: partitions of sources and commands of subscriptions.
    pub ledgers: u64,
    /// Commands of subscriptions in steps that are not settled whole.
    pub outbox_commands: u64,
    /// Messages in steps that are not published whole.
    pub outbox_messages: u64,
    /// Remembered outcomes of commands whose sender chose the id.
    pub outcomes: u64,
    /// What was dead-lettered.
    pub dead_letters: u64,
    /// What is known only once every event was read; `None` where that was not asked for.
    pub counted: Option<Counted>,
}

/// What is known once every event was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Streams with events.
    pub streams: u64,
    /// Recorded events.
    pub events: u64,
    /// Bytes of their payloads and headers.
    pub bytes: u64,
    /// By aggregate type and name of the event, in order.
    pub types: Vec<TypeCount>,
}

/// The events of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeCount {
    /// The type of the aggregate.
    pub aggregate_type: String,
    /// The event's name.
    pub name: String,
    /// How many there are.
    pub events: u64,
    /// Bytes of their payloads and headers.
    pub bytes: u64,
}
