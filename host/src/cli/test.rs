//! `wasmill test`: runs given/when/then cases against a compiled plugin, in the real runtime and without a host.
//!
//! Each case has its own aggregate: the history is applied, the aggregate decides on the command, and the result is
//! compared with the expected one. The SDK's test kit runs the same files natively.

use super::failure::CommandFailure;
use super::output;
use crate::model::Refusal;
use crate::model::{Command, Header, Position, RecordedEvent, StreamId, Version};
use crate::plugin::{AggregateGuest, Compiler, Configuration, Demand, Error, Limits, Plugin, Role};
use std::collections::BTreeMap;
use std::path::PathBuf;
use wasmill_cases::{Answer, Case, Suite};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The compiled plugin.
    plugin: PathBuf,
    /// The files of cases: TOML, or JSON if the name ends in .json.
    #[arg(required = true)]
    cases: Vec<PathBuf>,
}

pub(super) fn test(args: &Args, json: bool) -> Result<(), CommandFailure> {
    let suites = args.cases.iter().map(Suite::read).collect::<Result<Vec<_>, _>>();
    let suites = suites.map_err(|error| CommandFailure::usage(error.to_string()))?;
    let name = args.plugin.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
    let compiler = Compiler::new(None, Demand::default()).map_err(failure)?;
    let (mut held, mut failed) = (0, 0);
    for suite in &suites {
        let configuration = Configuration::new(&suite.settings, BTreeMap::new());
        let plugin =
            Plugin::load(&compiler, &name, &args.plugin, &Limits::default(), configuration).map_err(failure)?;
        is_of(&plugin, suite)?;
        if !json {
            output::line(&format!("{}, {}", plugin.label(), suite.file.display()))?;
        }
        for case in &suite.cases {
            let result = case.check(&answer(&plugin, suite, case)?);
            *if result.is_ok() { &mut held } else { &mut failed } += 1;
            report(suite, case, result, json)?;
        }
    }
    if !json {
        output::line(&format!("{held} held, {failed} failed"))?;
    }
    if failed == 0 { Ok(()) } else { Err(CommandFailure::told()) }
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

fn report(suite: &Suite, case: &Case, result: Result<(), String>, json: bool) -> Result<(), CommandFailure> {
    if json {
        let line = serde_json::json!({
            "file": suite.file, "case": case.name, "held": result.is_ok(), "difference": result.err(),
        });
        return output::line(&line.to_string());
    }
    match result {
        Ok(()) => output::line(&format!("  held    {}", case.name)),
        Err(difference) => {
            let indented: String = difference.lines().map(|line| format!("          {line}\n")).collect();
            output::text(&format!("  FAILED  {}\n{indented}", case.name))
        }
    }
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

fn command(stream: StreamId, command: &wasmill_cases::Command) -> Command {
    let header =
        |(name, value): (&String, &String)| Header { name: name.clone(), value: Some(value.clone().into_bytes()) };
    Command {
        stream,
        name: command.name.as_str().into(),
        payload: command.bytes(),
        id: "command-1".into(),
        time_ms: command.time_ms,
        correlation_id: "test".into(),
        causation_id: "test".into(),
        headers: command.headers.iter().map(header).collect(),
        origin: None,
        durable_id: false,
        outcome_use: Default::default(),
        first_ms: None,
        hops: 0,
        expected: None,
    }
}
