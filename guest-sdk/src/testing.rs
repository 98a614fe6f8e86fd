//! The test kit: given / when / then for plugins, natively and without a host.
//!
//! It drives the same glue and codec as the host does, so a test also proves that commands and events encode and
//! decode. A projection runs against a real SQLite database in memory (feature `testing-sql`).
//!
//! - aggregates: [`given`] history, when a command comes, then these events; or [`cases()`] from a file, which the
//!   compiled plugin can be held against too
//! - subscribers: [`deliver`] an event or a Kafka record, then these commands and messages
//! - projections: a `ReadModel` of events, asked queries
//! - logs: [`logs`]

mod aggregate;
mod cases;
mod envelope;
#[cfg(feature = "testing-sql")]
mod projection;
mod subscriber;

pub use crate::log::native::{Line, logs};
pub use aggregate::{Given, When, given, given_json};
pub use cases::cases;
pub use envelope::{event, event_json, record, record_json};
#[cfg(feature = "testing-sql")]
pub use projection::ReadModel;
pub use subscriber::{Delivered, deliver};

use crate::bindings::types::Outcome;

/// A payload as people compare it: what is not JSON is shown as text.
fn readable(payload: &[u8]) -> serde_json::Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into())
}

/// Holds an outcome against the kind and a part of the text that are expected.
#[track_caller]
fn expect_outcome<T: std::fmt::Debug>(result: &Result<T, Outcome>, kind: &str, part: &str) {
    let (actual, reason) = match result {
        Ok(value) => panic!("expected: {kind} with `{part}`, got: success with {value:?}"),
        Err(Outcome::Rejected(reason)) => ("rejected", reason),
        Err(Outcome::Malformed(reason)) => ("malformed", reason),
        Err(Outcome::Retry(retry)) => ("retry", &retry.reason),
    };
    assert!(actual == kind && reason.contains(part), "expected: {kind} with `{part}`, got: {actual} with `{reason}`");
}
