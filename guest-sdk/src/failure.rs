//! The failures of subscribers, sagas and projections, named by what the host does next.

use crate::bindings::types;
use crate::{codec, sql};
use std::fmt;
use std::time::Duration;

/// The shortest delay before a retry after an error of SQLite.
const SQL_RETRY: Duration = Duration::from_millis(100);

/// The reason why a subscriber, a saga or a projection did not handle an item. What holds for a delivery to a subscriber
/// holds for an input of a saga too. The operator `?` turns a decoding error into `Malformed` (or
/// `UnknownEvent`), an SQL error into `Retry`, and a text into `Rejected`.
///
/// ```
/// use wasmill_guest::Failure;
///
/// fn half(amount: u32) -> Result<u32, Failure> {
///     if amount % 2 == 1 {
///         Err(format!("{amount} is odd"))?;
///     }
///     Ok(amount.checked_div(2).ok_or("there is no half")?)
/// }
/// assert_eq!(half(3), Err(Failure::Rejected("3 is odd".into())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A business rule refused the item. The host does not retry: a subscriber's delivery is dead-lettered, and a
    /// projection stops.
    Rejected(String),
    /// The item will never decode. The host does not retry: a subscriber's delivery is dead-lettered, and a projection
    /// stops.
    Malformed(String),
    /// The code does not know the event: [`decode`](crate::projection::Event::decode) found no variant of its name. It is
    /// skipped if only a wildcard selects it, and is malformed otherwise. See [`reading`](crate::reading).
    UnknownEvent(String),
    /// The problem is temporary. The host retries with back-off, for a limited number of attempts. After that a
    /// subscriber's delivery is dead-lettered, and a projection stops.
    Retry {
        /// The shortest delay before the retry. The host caps it.
        after: Duration,
        /// The reason, for the log.
        reason: String,
    },
}

impl Failure {
    /// Makes a failure for an item that a business rule refuses.
    pub fn rejected(reason: impl fmt::Display) -> Self {
        Failure::Rejected(reason.to_string())
    }

    /// Makes a failure for an item that will never decode.
    pub fn malformed(reason: impl fmt::Display) -> Self {
        Failure::Malformed(reason.to_string())
    }

    /// Makes a failure for a temporary problem. The host retries after at least this time.
    pub fn retry(after: Duration, reason: impl fmt::Display) -> Self {
        Failure::Retry { after, reason: reason.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Rejected(reason) => write!(f, "rejected: {reason}"),
            Failure::Malformed(reason) | Failure::UnknownEvent(reason) => write!(f, "malformed: {reason}"),
            Failure::Retry { after, reason } => write!(f, "to be retried after {after:?}: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<codec::Error> for Failure {
    fn from(error: codec::Error) -> Self {
        match error {
            codec::Error::Unknown { .. } => Failure::UnknownEvent(error.to_string()),
            error => Failure::malformed(error),
        }
    }
}

impl From<sql::Error> for Failure {
    fn from(error: sql::Error) -> Self {
        Failure::retry(SQL_RETRY, error)
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Failure::Rejected(reason)
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Failure::rejected(reason)
    }
}

impl From<Failure> for types::Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rejected(reason) => types::Outcome::Rejected(reason),
            Failure::Malformed(reason) | Failure::UnknownEvent(reason) => types::Outcome::Malformed(reason),
            Failure::Retry { after, reason } => {
                let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                types::Outcome::Retry(types::Retry { after_ms, reason })
            }
        }
    }
}
