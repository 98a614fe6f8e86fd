//! `wasmill test PLUGIN CASES…`: runs given/when/then cases against a compiled plugin, in the real runtime and without a host.
//!
//! Each case has its own aggregate: the history is applied, the aggregate decides on the command, and the result is
//! compared with the expected one. The SDK's test kit runs the same files natively.

use super::failure::CommandFailure;
use super::test::{self, Report, Tally};
use crate::model::Refusal;
use crate::model::{Command, Position, RecordedEvent, StreamId, Version};
use crate::plugin::{AggregateGuest, Compiler, Configuration, Demand, Error, Limits, Plugin, Role};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use wasmill_cases::{Answer, Case, Suite};

pub(super) fn test(file: &Path, suites: &[PathBuf], report: &Report) -> Result<Tally, CommandFailure> {
    let suites = suites.iter().map(Suite::read).collect::<Result<Vec<_>, _>>();
    let suites = suites.map_err(|error| CommandFailure::usage(error.to_string()))?;
    let name = file.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
    let compiler = Compiler::new(None, Demand::default()).map_err(failure)?;
    let mut tally = Tally::default();
    for suite in &suites {
        let configuration = Configuration::new(suite.settings.clone(), BTreeMap::new());
        let plugin = Plugin::load(&compiler, &name, file, &Limits::default(), configuration).map_err(failure)?;
        is_of(&plugin, suite)?;
        report.title(plugin.label(), &suite.file)?;
        for case in &suite.cases {
            let result = case.check(&answer(&plugin, suite, case)?);
            tally.count(&result);
            report.result(&suite.file, "case", &case.name, result)?;
        }
    }
    Ok(tally)
}

fn failure(error: Error) -> CommandFailure {
    CommandFailure::failed(error.to_string())
}

/// Checks that the cases are for the plugin's aggregate.
fn is_of(plugin: &Plugin, suite: &Suite) -> Result<(), CommandFailure> {
    let is_served =
        |role: &Role| matches!(role, Role::Aggregate { aggregate_type } if **aggregate_type == *suite.aggregate);
    if plugin.description.roles.iter().any(is_served) {
        return Ok(());
    }
    let roles: Vec<String> = plugin.description.roles.iter().map(Role::to_string).collect();
    Err(CommandFailure::usage(format!(
        "the cases in {} are for aggregate {}, but plugin {} is {}: name the plugin that they are for",
        suite.file.display(),
        suite.aggregate,
        plugin.label(),
        roles.join(", ")
    )))
}

/// Runs a case in its own guest, so that a trap does not affect other cases. An error is a problem of the host, not of
/// the case.
fn answer(plugin: &Plugin, suite: &Suite, case: &Case) -> Result<Answer, CommandFailure> {
    match decide(plugin, suite, case) {
        Ok(answer) => Ok(answer),
        Err(trap @ (Error::Trap { .. } | Error::Overrun { .. })) => Ok(Answer::Failed(trap.to_string())),
        Err(error) => Err(failure(error)),
    }
}

fn decide(plugin: &Plugin, suite: &Suite, case: &Case) -> Result<Answer, Error> {
    let stream = StreamId::new(suite.aggregate.as_str(), case.when.aggregate_id.as_str());
    let mut guest = AggregateGuest::new(plugin)?;
    let live = guest.create(&stream.aggregate_id)?;
    let history: Vec<_> =
        case.given.iter().zip(1..).map(|(event, place)| recorded(&stream, place, &event.name, event.bytes())).collect();
    if let Err(failure) = guest.apply(&live, &history)? {
        let reason = reason(failure.refusal);
        return Ok(Answer::Failed(format!("event {} of the history can't be applied: {reason}", failure.index + 1)));
    }
    Ok(match guest.handle(&live, &command(stream, &case.when))? {
        Ok(events) => Answer::Events(events.into_iter().map(|event| (event.name, event.payload)).collect()),
        Err(Refusal::Rejected(reason)) => Answer::Rejected(reason),
        Err(Refusal::Malformed(reason)) => Answer::Malformed(reason),
        Err(Refusal::Retry { reason, .. }) => Answer::Retry(reason),
    })
}

fn reason(refusal: Refusal) -> String {
    match refusal {
        Refusal::Rejected(reason) | Refusal::Malformed(reason) | Refusal::Retry { reason, .. } => reason,
    }
}

fn recorded(stream: &StreamId, place: u64, name: &str, payload: Vec<u8>) -> RecordedEvent {
    RecordedEvent {
        id: uuid::Uuid::nil(),
        position: Position(place),
        stream: stream.clone(),
        version: Version(place),
        name: name.into(),
        payload,
        time_ms: 0,
        first_ms: None,
        correlation_id: "test".into(),
        causation_id: "test".into(),
        hops: 0,
        headers: Vec::new(),
    }
}

fn command(stream: StreamId, sent: &wasmill_cases::Command) -> Command {
    let command = test::command("command-1".into(), stream, &sent.name, sent.bytes(), &sent.headers, sent.time_ms);
    Command { correlation_id: "test".into(), causation_id: "test".into(), ..command }
}
