//! The test kit: given / when / then for plugins, natively and without a host.
//!
//! It calls plugins through the same glue and codec as the host, so a test also checks that commands and events encode
//! and decode. A projection runs against a real SQLite database in memory (feature `testing-sql`).
//!
//! - Aggregates: [`given`] a history, when a command arrives, then expect events. [`cases()`] reads such tests from a
//!   file, which `wasmill test` can also run against the compiled plugin.
//! - Subscribers: [`deliver`] an event, a Kafka record, an outcome or a timer, then expect commands, messages and timers.
//! - Sagas: [`given_saga`] with its own events, when an input arrives, then expect events, effects and whether it ends.
//! - Projections: fold events into a `ReadModel`, then query it.
//! - Logs: [`logs`] returns the lines that a function writes.

mod aggregate;
mod cases;
mod effects;
mod envelope;
#[cfg(feature = "testing-sql")]
mod projection;
mod saga;
mod subscriber;

pub use crate::log::native::{Line, logs};
pub use aggregate::{Given, When, given, given_json};
pub use cases::cases;
pub use envelope::{event, event_json, event_of, outcome, record, record_json, timer};
#[cfg(feature = "testing-sql")]
pub use projection::ReadModel;
pub use saga::{GivenSaga, WhenSaga, given_saga, key_of};
pub use subscriber::{Delivered, deliver};

use crate::bindings::types::Outcome;

/// Returns a payload in a readable form: as JSON if it is JSON, and as text otherwise.
fn readable(payload: &[u8]) -> serde_json::Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into())
}

/// Checks an outcome against the expected kind and a part of the expected text.
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
