//! The interface between a shard and the code that decides for an aggregate type.
//!
//! Usually the code is a plugin in WebAssembly (`host/plugin_handlers.rs`). To embed the host, or to measure the cost
//! of WebAssembly, native handlers can take its place without other changes. A shard is generic over its handlers, so
//! this interface costs nothing at run time.

use super::second_opinion::CodeWatch;
use crate::model::{Command, Failure, NewEvent, RecordedEvent, Refusal, Version};
use std::sync::Arc;

/// The decision of a guest about a command.
pub(super) type GuestDecision = Result<Vec<NewEvent>, Refusal>;

/// Why a call to a guest failed. The guest must not be used again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// The guest is not at fault, for example because the system has no memory for it or the host is stopping. The same
    /// call may succeed later.
    #[error("{0}")]
    Host(String),
    /// A batch of items took longer than one item may. It is not known whether one of them is at fault.
    #[error("{0}")]
    Overrun(String),
    /// The guest failed.
    #[error("{text}")]
    Failed {
        /// The complete text, which names the code and its version.
        text: String,
        /// The cause alone, without a name.
        cause: String,
    },
}

/// The code of an aggregate type. It creates a guest for each shard, and a new one when the shard's guest is lost, is
/// worn or has outdated code.
pub trait Handlers: Send + Sync + 'static {
    /// The type of its guests.
    type Guest: Guest;

    /// Returns its name for the status and errors: for a plugin, its name in the manifest.
    fn name(&self) -> Arc<str>;

    /// Creates a guest of the code that serves now.
    fn guest(&self) -> Result<Self::Guest, GuestError>;

    /// Whether a guest has the code that serves now.
    fn is_current(&self, guest: &Self::Guest) -> bool;

    /// Returns the watch of a guest's code, if it has just begun to serve.
    fn watch(&self, _guest: &Self::Guest) -> Option<Arc<dyn CodeWatch>> {
        None
    }

    /// Creates a guest of new code that is about to serve.
    fn candidate(&self) -> Option<Result<Self::Guest, GuestError>> {
        None
    }

    /// Creates a guest of the code before the one that is watched.
    fn guest_before(&self) -> Option<Result<Self::Guest, GuestError>> {
        None
    }
}

/// A guest with the live aggregates of one shard. Only the shard's thread calls it. After a [`GuestError`] of any call,
/// the guest is lost with all its live aggregates.
///
/// An aggregate is called in this order: `create`; `apply` with its history; `handle` for each command; `discard` at
/// the end. While events of its `handle` are not durable yet, only `handle` and `discard` are called, the latter if they can't be
/// recorded.
pub trait Guest: Send + 'static {
    /// A live aggregate. It is valid only in the guest that created it.
    type Live: Send + 'static;

    /// Returns the code's name and version, for errors and the log.
    fn label(&self) -> Arc<str>;

    /// Returns the identity of the code that writes and reads snapshots. A snapshot of other code is not restored.
    fn code(&self) -> Arc<str>;

    /// Returns how many idle live aggregates it may keep.
    fn instances_max(&self) -> usize;

    /// Returns the bytes of memory that it has taken; 0 if they are not counted.
    fn memory_bytes(&self) -> usize;

    /// Returns the bytes of memory at which live aggregates begin to be evicted.
    fn live_bytes_max(&self) -> usize;

    /// Whether it has used so much memory that it should be recreated.
    fn is_worn(&self) -> bool;

    /// Creates a live aggregate without history.
    fn create(&mut self, id: &str) -> Result<Self::Live, GuestError>;

    /// Applies recorded events. After a failure the live aggregate is discarded.
    fn apply(&mut self, live: &Self::Live, events: &[RecordedEvent]) -> Result<Result<(), Failure>, GuestError>;

    /// Whether it is given the events of a decision by `apply` once they are durable. They take the place of those that the live
    /// aggregate holds, and it decides on nothing before.
    fn takes_recorded_events(&self) -> bool {
        false
    }

    /// Applies the events of the previous `handle`. Then decides on a command, which must not change the state.
    fn handle(&mut self, live: &Self::Live, command: &Command) -> Result<GuestDecision, GuestError>;

    /// Applies the events of the previous `handle`, which are durable now. Then returns the state as bytes, if the
    /// aggregate takes snapshots.
    fn snapshot(&mut self, live: &Self::Live) -> Result<Option<Vec<u8>>, GuestError>;

    /// Restores the state of a snapshot, made at this version, into an aggregate without history. If the inner error says
    /// that it can't, the history is replayed instead.
    fn restore(&mut self, live: &Self::Live, state: &[u8], version: Version) -> Result<Result<(), String>, GuestError>;

    /// Frees a live aggregate.
    fn discard(&mut self, live: Self::Live) -> Result<(), GuestError>;
}
