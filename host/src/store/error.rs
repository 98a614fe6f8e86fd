//! The errors of a store, named by what the caller does next.

use crate::model::{ExpectedVersion, Remembered, StreamId, Version};
use std::sync::Arc;

/// The reason why a request to the store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The stream is at another version. Reload it and decide again, or tell the sender.
    #[error("stream {stream} is at version {actual}, expected {expected}")]
    Conflict {
        /// The stream.
        stream: StreamId,
        /// The version of the stream.
        actual: Version,
        /// The version that the append expected.
        expected: ExpectedVersion,
    },
    /// The command was recorded before. This is its outcome, if it was kept. Nothing was added.
    #[error("command {id} was recorded before")]
    Duplicate {
        /// The command's id.
        id: Arc<str>,
        /// The first outcome. For commands with an origin none is kept.
        outcome: Option<Remembered>,
    },
    /// The sender used the same id for two different commands.
    #[error("command id {id} was used before for another command; use a new id for a new command")]
    IdReused {
        /// The command's id.
        id: Arc<str>,
    },
    /// Somebody else moved this checkpoint. Stop, reload it, and resume from there.
    #[error("checkpoint of {owner} is at {actual}, expected {expected}: another host or thread moved it")]
    CheckpointMoved {
        /// The owner of the checkpoint.
        owner: String,
        /// The actual checkpoint.
        actual: u64,
        /// The checkpoint that the caller expected.
        expected: u64,
    },
    /// A key of a subscription is not held as the caller expects. Read the held keys again and resume from there.
    #[error(
        "key {key} of subscription {subscription} is {actual}, expected {expected}: another host or thread moved it"
    )]
    KeyMoved {
        /// The subscription.
        subscription: Arc<str>,
        /// The stream.
        key: StreamId,
        /// How it is held, as text.
        actual: String,
        /// How the caller expected it to be held, as text.
        expected: String,
    },
    /// The stream accepts no more events until it is restored.
    #[error("stream {stream} is archived and takes no more events; `wasmill streams restore {} {}` opens it again", .stream.aggregate_type, quoted(&.stream.aggregate_id))]
    Archived {
        /// The stream.
        stream: StreamId,
    },
    /// Nothing has this name or number. The text says what was looked for.
    #[error("{0}")]
    NotFound(String),
    /// Another step has settled a record. Leave it out, or read its ledger again and resume from there.
    #[error("{place} was settled before")]
    Settled {
        /// The place of the record, as text.
        place: String,
    },
    /// A callback was cancelled or replaced, or it was handled before. Read the callbacks that are due again.
    #[error("callback {number} was handled or cancelled before")]
    CallbackGone {
        /// Its number.
        number: u64,
    },
    /// The previous step in the row failed, so this one fails too. Begin a new row with the failed step.
    #[error("a step of {subscription} before this one failed")]
    OutOfRow {
        /// The subscription.
        subscription: Arc<str>,
    },
    /// The caller broke a limit or a rule of the store. The text says which one.
    #[error("{0}")]
    Invalid(String),
    /// The host has lost the store. Exit the process, because nothing that it does has an effect.
    #[error("{} {file}: this host no longer owns the store and ends; {}", .how.in_words(), .how.remedy())]
    Lost {
        /// The way in which it was lost.
        how: Loss,
        /// The affected file: the store's file or its log, or the address of the database.
        file: String,
    },
    /// A limit leaves no room for the item. The text names the limit. Retry when there is room.
    #[error("{0}")]
    Full(String),
    /// Something else has to happen first, which the text names. Retry then.
    #[error("{0}")]
    NotYet(String),
    /// A subscription can't get other segments while its commands are not settled. Settle them and retry.
    #[error("subscription {subscription} can't get other segments while {commands} of its commands are not settled")]
    Unsettled {
        /// The subscription, or the segment.
        subscription: Arc<str>,
        /// The number of commands.
        commands: usize,
    },
    /// The store is shut down.
    #[error("the store is closed")]
    Closed,
    /// The disk or the database failed. The request had no effect.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Returns whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Full(_) | Self::NotYet(_) | Self::Unsettled { .. })
    }
}

/// The way in which a running host lost its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Another host has opened it for writing.
    TakenOver,
    /// Another host has taken over a store in PostgreSQL, after the lease of this one had expired.
    LeaseTaken,
    /// The file does not exist any more.
    Removed,
    /// Another file has replaced it.
    Replaced,
    /// The file is shorter than it was.
    Cut,
}

impl Loss {
    /// Returns what happened. The file's name completes the sentence.
    fn in_words(self) -> &'static str {
        match self {
            Self::TakenOver | Self::LeaseTaken => "another host took over the store",
            Self::Removed => "another program removed",
            Self::Replaced => "another program put another file in the place of",
            Self::Cut => "another program cut",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::TakenOver => "start one host alone for each data folder, and never delete events.lock",
            Self::LeaseTaken => {
                "its lease had expired, because it did not reach the database or stood still for too long: start it again, and check \
                 the network and the load of this machine"
            }
            Self::Removed | Self::Replaced | Self::Cut => {
                "keep other programs out of the data folder, and try `wasmill store verify` before the next start"
            }
        }
    }
}

/// Quotes an id for a shell, because a person may copy it from an error.
fn quoted(id: &str) -> String {
    // A NUL can't be typed at all.
    let word = shlex::try_quote(id).unwrap_or(id.into());
    if id.starts_with('-') { format!("-- {word}") } else { word.into_owned() }
}
