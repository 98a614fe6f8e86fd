//! Why a store did not do something, by what the caller does next.

use crate::model::{ExpectedVersion, Remembered, StreamId, Version};
use std::sync::Arc;

/// Why the store did not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Reload the stream and decide again, or tell the sender.
    #[error("stream {stream} is at version {actual}, expected {expected}")]
    Conflict {
        /// The stream.
        stream: StreamId,
        /// Its version.
        actual: Version,
        /// What the append expected.
        expected: ExpectedVersion,
    },
    /// The command was recorded before: this is its outcome, if it was kept. Nothing was added.
    #[error("command {id} was recorded before")]
    Duplicate {
        /// The command's id.
        id: Arc<str>,
        /// The outcome as it was then; commands of ledgers keep none.
        outcome: Option<Remembered>,
    },
    /// The sender used an id twice for different commands.
    #[error("command id {id} was used before for another command; use a new id for a new command")]
    IdReused {
        /// The command's id.
        id: Arc<str>,
    },
    /// Somebody else moved this checkpoint: stop, reload, go on from there.
    #[error("checkpoint of {owner} is at {actual}, expected {expected}: another host or thread moved it")]
    CheckpointMoved {
        /// Whose checkpoint.
        owner: String,
        /// Where it is.
        actual: u64,
        /// Where the caller thought it was.
        expected: u64,
    },
    /// The stream takes no more events until it is restored.
    #[error("stream {stream} is archived and takes no more events; `wasmill streams restore {} {}` opens it again", .stream.aggregate_type, quoted(&.stream.aggregate_id))]
    Archived {
        /// The stream.
        stream: StreamId,
    },
    /// Nothing has this name or number; the text says what was looked for.
    #[error("{0}")]
    NotFound(String),
    /// A record was settled by another step. Leave it out, or read its ledger again and go on from there.
    #[error("{place} was settled before")]
    Settled {
        /// The record, in words.
        place: String,
    },
    /// The step before this one in its row failed, so this one is not taken either. Begin a new row with what failed.
    #[error("a step of {subscription} before this one failed")]
    OutOfRow {
        /// The subscription.
        subscription: Arc<str>,
    },
    /// The caller broke a limit or a rule of the store; the text says which.
    #[error("{0}")]
    Invalid(String),
    /// The store is not this host's any more: end the process, nothing that it does counts.
    #[error("{} {file}: this host no longer owns the store and ends; {}", .how.in_words(), .how.remedy())]
    Lost {
        /// How it was lost.
        how: Loss,
        /// What it happened to: the store's file, or its log.
        file: String,
    },
    /// There is no room for what would be kept; the text names the limit. It can be asked again once there is room.
    #[error("{0}")]
    Full(String),
    /// The store is shut down.
    #[error("the store is closed")]
    Closed,
    /// The disk or the database failed. Nothing of the request was kept.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// Whether the same request may succeed later, without anybody having changed it.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Full(_))
    }
}

/// How a running host lost its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Another host has opened it for writing.
    TakenOver,
    /// The file is not there any more.
    Removed,
    /// Another file is in its place.
    Replaced,
    /// The file is shorter than it was.
    Cut,
}

impl Loss {
    /// What happened. The file's name completes the sentence.
    fn in_words(self) -> &'static str {
        match self {
            Self::TakenOver => "another host took over the store",
            Self::Removed => "another program removed",
            Self::Replaced => "another program put another file in the place of",
            Self::Cut => "another program cut",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::TakenOver => "start one host alone for each data folder, and never delete events.lock",
            Self::Removed | Self::Replaced | Self::Cut => {
                "keep other programs out of the data folder, and try `wasmill store verify` before the next start"
            }
        }
    }
}

/// An id as a word for a shell, wherever it may be typed from an error.
fn quoted(id: &str) -> String {
    // A NUL can't be typed at all.
    let word = shlex::try_quote(id).unwrap_or(id.into());
    if id.starts_with('-') { format!("-- {word}") } else { word.into_owned() }
}
