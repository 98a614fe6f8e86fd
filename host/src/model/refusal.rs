//! The refusals of the code that handles commands and events, named by what the host does next.

use std::time::Duration;

/// How code fails at an input: a command, an event, a record, or a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// It traps, takes too long, or can't rebuild what the input is for.
    Trap,
    /// It calls the input malformed.
    Malformed,
}

/// The refusal of a guest, named by what the host does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A business rule refused the item. The host tells the sender and does not retry.
    Rejected(String),
    /// The item will never decode. The host dead-letters it.
    Malformed(String),
    /// The problem is temporary. The host retries after a pause.
    Retry {
        /// The shortest pause.
        after: Duration,
        /// The reason, for the log.
        reason: String,
    },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
            Self::Malformed(reason) => write!(f, "malformed: {reason}"),
            Self::Retry { reason, .. } => write!(f, "to be tried again: {reason}"),
        }
    }
}

/// The first item of a list that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The index of the item. The items before it succeeded; the items after it were not tried.
    pub index: usize,
    /// The reason.
    pub refusal: Refusal,
}
