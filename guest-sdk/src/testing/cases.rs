//! Test cases from a file, run natively.

mod aggregate;
mod delivery;
mod effects;
#[cfg(feature = "testing-sql")]
mod projection;
mod saga;
mod subscriber;

pub use aggregate::cases;
#[cfg(feature = "testing-sql")]
pub use projection::projection_cases;
pub use saga::saga_cases;
pub use subscriber::subscriber_cases;

use super::plugins::code::Given;
use crate::bindings::types;
use crate::configuration::Kept;
use crate::readback;
use serde_json::Value as Json;
use std::path::Path;
use wasmill_cases::{Refusal, Suite};

/// Reads a file of cases.
#[track_caller]
fn read(file: impl AsRef<Path>) -> Suite {
    Suite::read(file).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the settings and the secrets that a file gives the plugin.
fn given(suite: &Suite) -> Given {
    let kept = |object: Json| Kept::Json(object.to_string().into_bytes());
    let secrets = suite.secrets.iter().map(|(name, value)| (name.clone(), Json::from(value.as_str())));
    Given { settings: kept(suite.settings.clone().into()), secrets: kept(Json::Object(secrets.collect())) }
}

/// Checks all cases, and panics with those that fail.
#[track_caller]
fn check_all<C>(suite: &Suite, cases: &[C], name: fn(&C) -> &str, check: impl Fn(&C) -> Result<(), String>) {
    readback::check_all();
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| check(case).err().map(|difference| (name(case), difference)))
        .map(|(name, difference)| format!("{}: {name}\n{difference}", suite.file.display()))
        .collect();
    assert!(failed.is_empty(), "{} of {} cases failed\n\n{}", failed.len(), cases.len(), failed.join("\n\n"));
}

fn refusal(outcome: types::Outcome) -> Refusal {
    match outcome {
        types::Outcome::Rejected(reason) => Refusal::Rejected(reason),
        types::Outcome::Malformed(reason) => Refusal::Malformed(reason),
        types::Outcome::Retry(retry) => Refusal::Retry(retry.reason),
    }
}

/// Returns why the history of a case can't be applied.
fn not_applied(types::Failure { index, outcome }: types::Failure) -> String {
    format!("event {} in `given` can't be applied: {}", index + 1, refusal(outcome))
}

#[cfg(test)]
mod tests;
