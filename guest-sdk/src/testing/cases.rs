//! Test cases from a file, run natively.

use super::envelope;
use crate::Aggregate;
use crate::bindings::aggregate::exports::wasmill::plugin::aggregate::GuestInstance;
use crate::bindings::types;
use crate::configuration::{InForce, Kept};
use crate::glue::Live;
use crate::readback;
use serde_json::Value as Json;
use std::path::Path;
use wasmill_cases::{Answer, Case, Command, Suite};

/// Runs the cases of a file against an aggregate. `wasmill test PLUGIN.wasm FILE` runs the same file against the
/// compiled plugin. A relative path starts from the crate's folder. The file is TOML, or JSON if its name ends in
/// `.json`:
///
/// ```toml
/// aggregate = "door"
/// settings = { is_alarmed = true }                           # optional: those of the plugin
///
/// [[case]]
/// name = "an open door is not opened"
/// given = [{ name = "Opened", payload = { by = "Ada" } }]    # the history; empty by default
/// when = { name = "Open", payload = { by = "Bob" } }         # also: aggregate_id, time_ms, headers
/// then = { rejected = "is open" }                            # or: events = […], malformed = "…", retry = "…"
/// ```
///
/// # Panics
/// If the file can't be read, if it is about another aggregate, or if a case fails. The message lists all failed cases.
#[track_caller]
pub fn cases<A: Aggregate>(file: impl AsRef<Path>) {
    let suite = Suite::read(file).unwrap_or_else(|error| panic!("{error}"));
    let Suite { file, aggregate, settings, cases } = &suite;
    let _settings = InForce::settings(Kept::Json(Json::from(settings.clone()).to_string().into_bytes()));
    assert_eq!(aggregate, A::TYPE, "the cases in {} are for another aggregate", file.display());
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| case.check(&answer::<A>(case)).err().map(|difference| (case, difference)))
        .map(|(case, difference)| format!("{}: {}\n{difference}", file.display(), case.name))
        .collect();
    assert!(failed.is_empty(), "{} of {} cases failed\n\n{}", failed.len(), cases.len(), failed.join("\n\n"));
}

fn answer<A: Aggregate>(Case { given, when, .. }: &Case) -> Answer {
    readback::check_all();
    let live = Live::<A>::new(when.aggregate_id.clone());
    let stream = (A::TYPE, when.aggregate_id.as_str());
    let history =
        given.iter().zip(1..).map(|(event, place)| envelope::recorded(stream, place, &event.name, event.bytes()));
    if let Err(types::Failure { index, outcome }) = live.apply(history.collect()) {
        return Answer::Failed(format!("event {} of the history can't be applied: {}", index + 1, reason(&outcome)));
    }
    match live.handle(command(when)) {
        Ok(events) => Answer::Events(events.into_iter().map(|event| (event.name, event.payload)).collect()),
        Err(types::Outcome::Rejected(reason)) => Answer::Rejected(reason),
        Err(types::Outcome::Malformed(reason)) => Answer::Malformed(reason),
        Err(types::Outcome::Retry(retry)) => Answer::Retry(retry.reason),
    }
}

fn command(command: &Command) -> types::Command {
    let mut metadata = envelope::metadata("command-1", command.time_ms);
    for (name, value) in &command.headers {
        envelope::add_header(&mut metadata, name, Some(value.as_bytes()));
    }
    types::Command { name: command.name.clone(), payload: command.bytes(), metadata }
}

fn reason(outcome: &types::Outcome) -> &str {
    match outcome {
        types::Outcome::Rejected(reason) | types::Outcome::Malformed(reason) => reason,
        types::Outcome::Retry(retry) => &retry.reason,
    }
}
