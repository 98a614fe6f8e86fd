//! The test kit: given / when / then for plugins, natively and without a host.
//!
//! It calls plugins through the same glue and codec as the host, so a test also checks that commands and events encode
//! and decode. A projection runs against a real SQLite database in memory (feature `testing-sql`).
//!
//! - Aggregates: [`given`] a history, when a command arrives, then expect events.
//! - Subscribers: [`deliver`] an event, a Kafka record, an outcome, a timer or a response, then expect commands, messages, timers
//!   and HTTP requests.
//! - Sagas: [`given_saga`] with its own events, when an input arrives, then expect events, effects and whether it ends.
//! - Projections: fold events into a `ReadModel`, then query it.
//! - Files of such tests: [`cases()`], [`subscriber_cases`], [`saga_cases`] and `projection_cases` read them, and `wasmill test` can
//!   also run them against the compiled plugin.
//! - Several plugins together: [`Plugins`] has aggregates, subscribers, sagas and projections work as in a host, with a clock
//!   that the test moves, and with servers that answer as the test says. [`flows()`] reads such tests from a file, which
//!   `wasmill test` can also run against the compiled plugins.
//! - Settings and secrets: [`settings`] and [`secrets`] give them to the code under test.
//! - Logs: [`logs`] returns the lines that a function writes.

mod aggregate;
mod cases;
mod effects;
mod envelope;
mod flows;
mod plugins;
#[cfg(feature = "testing-sql")]
mod projection;
mod saga;
mod subscriber;

pub use crate::log::native::{Line, logs};
pub use aggregate::{Given, When, given, given_json};
#[cfg(feature = "testing-sql")]
pub use cases::projection_cases;
pub use cases::{cases, saga_cases, subscriber_cases};
pub use envelope::{event, event_json, event_of, outcome, record, record_json, refused_request, response, timer};
pub use flows::flows;
pub use plugins::{Plugins, Settled};
#[cfg(feature = "testing-sql")]
pub use projection::ReadModel;
pub use saga::{GivenSaga, WhenSaga, given_saga, key_of};
pub use subscriber::{Delivered, deliver};
pub use wasmill_cases::flows::http::{SentRequest, ServerAnswer, ServerResponse};

pub use crate::configuration::InForce;

use crate::bindings::types::Outcome;
use crate::configuration::Kept;

/// Has [`settings`](crate::configuration::settings) return this value, until the result is dropped.
///
/// ```
/// # use wasmill_guest::prelude::*;
/// # #[derive(Deserialize)] struct Rules { cents_max: u64 }
/// let _rules = wasmill_guest::testing::settings(Rules { cents_max: 100 });
/// assert_eq!(settings::<Rules>().cents_max, 100);
/// ```
pub fn settings<S: 'static>(settings: S) -> InForce {
    InForce::settings(Kept::value(settings))
}

/// Has [`secrets`](crate::configuration::secrets) return this value, until the result is dropped.
pub fn secrets<K: 'static>(secrets: K) -> InForce {
    InForce::secrets(Kept::value(secrets))
}

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
