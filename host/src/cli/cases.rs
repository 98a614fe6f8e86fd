//! `wasmill test PLUGIN CASES…`: runs given/when/then cases against a compiled plugin, in the real runtime and without a host.
//!
//! Each case has its own guest, so that a trap does not affect other cases, and each case of a projection its own read model. The
//! result is compared with the expected one. The SDK's test kit runs the same files natively.

mod aggregate;
mod delivery;
mod effects;
mod projection;
mod saga;
mod subscriber;

use super::failure::CommandFailure;
use super::test::{Report, Tally};
use crate::model::{Header, Position, RecordedEvent, Refusal, StreamId, Version};
use crate::plugin::{Compiler, Configuration, Demand, Error, Plugin, Role, Wanted};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wasmill_cases::{Answer, Cases, Suite};

pub(super) fn test(file: &Path, suites: &[PathBuf], report: &Report) -> Result<Tally, CommandFailure> {
    let suites = suites.iter().map(Suite::read).collect::<Result<Vec<_>, _>>();
    let suites = suites.map_err(|error| CommandFailure::usage(error.to_string()))?;
    let name = file.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
    let compiler = Compiler::new(None, Demand::default()).map_err(failure)?;
    let mut tally = Tally::default();
    for suite in &suites {
        let configuration = Configuration::new(suite.settings.clone(), suite.secrets.clone());
        let wanted = Wanted { configuration, ..Wanted::of(file) };
        let plugin = Plugin::load(&compiler, &name, wanted).map_err(failure)?;
        let plugin = Arc::new(plugin);
        is_of(&plugin, suite)?;
        report.title(plugin.label(), &suite.file)?;
        let mut results = Results { suite, report, tally: &mut tally };
        match &suite.cases {
            Cases::Aggregate(cases) => {
                results.of_each(
                    cases,
                    |case| &case.name,
                    |case| Ok(case.check(&answer(aggregate::decide(&plugin, &suite.name, case))?)),
                )?;
            }
            Cases::Subscriber(cases) => {
                results.of_each(
                    cases,
                    |case| &case.name,
                    |case| Ok(case.check(&answer(subscriber::handle(&plugin, case))?)),
                )?;
            }
            Cases::Saga(cases) => {
                results.of_each(
                    cases,
                    |case| &case.name,
                    |case| Ok(case.check(&answer(saga::decide(&plugin, &suite.name, case))?)),
                )?;
            }
            Cases::Projection(cases) => {
                results.of_each(
                    cases,
                    |case| &case.name,
                    |case| Ok(case.check(&projection::answer(&plugin, case)?)),
                )?;
            }
        }
    }
    Ok(tally)
}

/// The results of the cases of a file.
struct Results<'r> {
    suite: &'r Suite,
    report: &'r Report,
    tally: &'r mut Tally,
}

impl Results<'_> {
    /// Checks cases, counts them and prints the results. An error is a problem of the host, not of a case.
    fn of_each<C>(
        &mut self,
        cases: &[C],
        name: fn(&C) -> &str,
        check: impl Fn(&C) -> Result<Result<(), String>, CommandFailure>,
    ) -> Result<(), CommandFailure> {
        for case in cases {
            let result = check(case)?;
            self.tally.count(&result);
            self.report.result(&self.suite.file, "case", name(case), result)?;
        }
        Ok(())
    }
}

fn failure(error: impl Display) -> CommandFailure {
    CommandFailure::failed(error.to_string())
}

/// Checks that the plugin has the role that the cases are for.
fn is_of(plugin: &Plugin, suite: &Suite) -> Result<(), CommandFailure> {
    let crate_name = &plugin.description.plugin;
    let is_it = |role: &Role| match (role, &suite.cases) {
        (Role::Aggregate { aggregate_type, .. }, Cases::Aggregate(_)) => **aggregate_type == *suite.name,
        (Role::Subscriber { .. }, Cases::Subscriber(_)) => *crate_name == suite.name,
        (Role::Saga { aggregate_type, .. }, Cases::Saga(_)) => **aggregate_type == *suite.name,
        (Role::Projection { name, .. }, Cases::Projection(_)) => **name == *suite.name,
        _ => false,
    };
    if plugin.description.roles.iter().any(is_it) {
        return Ok(());
    }
    let role = |role: &Role| match role {
        Role::Subscriber { .. } => format!("subscriber {crate_name}"),
        role => role.to_string(),
    };
    let roles: Vec<String> = plugin.description.roles.iter().map(role).collect();
    Err(CommandFailure::usage(format!(
        "the cases in {} are for {suite}, but plugin {} is {}: correct the role that the file names, or name the plugin that it is for",
        suite.file.display(),
        plugin.label(),
        roles.join(", ")
    )))
}

/// Returns the answer of a case. A trap is a failure of the case. An error is a problem of the host.
fn answer<D>(answered: Result<Answer<D>, Error>) -> Result<Answer<D>, CommandFailure> {
    match answered {
        Ok(answer) => Ok(answer),
        Err(trap @ (Error::Trap { .. } | Error::Overrun { .. })) => Ok(Answer::Failed(trap.to_string())),
        Err(error) => Err(failure(error)),
    }
}

fn refusal(refusal: Refusal) -> wasmill_cases::Refusal {
    match refusal {
        Refusal::Rejected(reason) => wasmill_cases::Refusal::Rejected(reason),
        Refusal::Malformed(reason) => wasmill_cases::Refusal::Malformed(reason),
        Refusal::Retry { reason, .. } => wasmill_cases::Refusal::Retry(reason),
    }
}

/// Returns why the history of a case can't be applied.
fn not_applied(failure: crate::model::Failure) -> String {
    format!("event {} in `given` can't be applied: {}", failure.index + 1, refusal(failure.refusal))
}

/// Makes the events of a stream.
fn history(stream: &StreamId, events: &[wasmill_cases::Event]) -> Vec<RecordedEvent> {
    let recorded = |(event, place): (&wasmill_cases::Event, u64)| {
        recorded(stream.clone(), (place, place), &event.name, event.bytes(), 0, &BTreeMap::new())
    };
    events.iter().zip(1..).map(recorded).collect()
}

/// Makes an event at a position and a version.
fn recorded(
    stream: StreamId,
    (position, version): (u64, u64),
    name: &str,
    payload: Vec<u8>,
    time_ms: u64,
    headers: &BTreeMap<String, String>,
) -> RecordedEvent {
    RecordedEvent {
        id: uuid::Uuid::nil(),
        position: Position(position),
        stream,
        version: Version(version),
        name: name.into(),
        payload,
        time_ms,
        first_ms: None,
        correlation_id: "test".into(),
        causation_id: "test".into(),
        hops: 0,
        headers: of_headers(headers),
    }
}

/// Makes an event of an aggregate at a position and a version.
fn recorded_of(event: &wasmill_cases::RecordedEvent, place: (u64, u64)) -> RecordedEvent {
    let stream = StreamId::new(event.on.aggregate_type.as_str(), event.on.aggregate_id.as_str());
    recorded(stream, place, &event.name, event.bytes(), event.time_ms, &event.headers)
}

fn of_headers(headers: &BTreeMap<String, String>) -> Vec<Header> {
    let header = |(name, value): (&String, &String)| Header { name: name.clone(), value: Some(value.clone().into()) };
    headers.iter().map(header).collect()
}
