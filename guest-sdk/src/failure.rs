//! Why something was not done, named by what the host does next.

use crate::bindings::types;
use crate::{codec, sql};
use std::fmt;
use std::time::Duration;

/// How long the host waits at least before it repeats what SQLite refused.
const SQL_RETRY: Duration = Duration::from_millis(100);

/// Why a subscriber or a projection did not handle an item. `?` makes one of a decoding or SQL error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A business rule said no. Nothing is retried.
    Rejected(String),
    /// This input will never decode. It is dead-lettered where people can see it.
    Malformed(String),
    /// Something passing: the host tries again.
    Retry {
        /// The shortest wait.
        after: Duration,
        /// For the log.
        reason: String,
    },
}

impl Failure {
    /// A business rule said no.
    pub fn rejected(reason: impl fmt::Display) -> Self {
        Failure::Rejected(reason.to_string())
    }

    /// This input will never be understood.
    pub fn malformed(reason: impl fmt::Display) -> Self {
        Failure::Malformed(reason.to_string())
    }

    /// Something passing: try again after at least this time.
    pub fn retry(after: Duration, reason: impl fmt::Display) -> Self {
        Failure::Retry { after, reason: reason.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Rejected(reason) => write!(f, "rejected: {reason}"),
            Failure::Malformed(reason) => write!(f, "malformed: {reason}"),
            Failure::Retry { after, reason } => write!(f, "to be tried again after {after:?}: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<codec::Error> for Failure {
    fn from(error: codec::Error) -> Self {
        Failure::malformed(error)
    }
}

impl From<sql::Error> for Failure {
    fn from(error: sql::Error) -> Self {
        Failure::retry(SQL_RETRY, error)
    }
}

impl From<Failure> for types::Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rejected(reason) => types::Outcome::Rejected(reason),
            Failure::Malformed(reason) => types::Outcome::Malformed(reason),
            Failure::Retry { after, reason } => {
                let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                types::Outcome::Retry(types::Retry { after_ms, reason })
            }
        }
    }
}
