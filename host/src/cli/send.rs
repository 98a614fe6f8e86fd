//! `wasmill send`: sends one command to one aggregate, or many commands from lines.

mod lines;

use super::client::{Client, Reply, Target, segment};
use super::failure::CommandFailure;
use super::{histories, output, table};
use crate::api::expected_version;
use crate::model::{Outcome, StreamId};
use crate::status::Flow;
use std::io::Read;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(
    override_usage = "wasmill send [OPTIONS] <AGGREGATE> <ID> <COMMAND> [JSON]\n       wasmill send [OPTIONS] --lines <FILE>"
)]
pub(super) struct Args {
    /// The type of the aggregate, such as order.
    #[arg(required_unless_present = "lines")]
    aggregate: Option<String>,
    /// The aggregate's id, such as 42.
    #[arg(required_unless_present = "lines")]
    id: Option<String>,
    /// The command's name, such as ConfirmOrder.
    #[arg(required_unless_present = "lines")]
    command: Option<String>,
    /// The payload; `-` reads it from standard input.
    #[arg(value_name = "JSON", default_value = "null", allow_negative_numbers = true)]
    payload: String,
    /// Your own id for the command. If you send the same id again, you get the first outcome again.
    #[arg(long = "id", value_name = "COMMAND_ID")]
    command_id: Option<String>,
    /// The expected state of the stream: a version, no-stream, stream-exists or any.
    #[arg(long, value_name = "VERSION", value_parser = expectation)]
    expect: Option<String>,
    /// Wait until everything that follows from the command is at rest, and show it.
    #[arg(long)]
    wait: bool,
    /// The longest wait; 30,000 ms by default.
    #[arg(long, value_name = "MS", requires = "wait")]
    timeout_ms: Option<u64>,
    /// A file of commands to send instead, each a line of JSON; `-` is standard input. Prints an answer for each.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["aggregate", "command_id", "expect", "wait"])]
    lines: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn send(args: Args, json: bool) -> Result<(), CommandFailure> {
    if let Some(file) = &args.lines {
        return lines::send(file, &args.target, json);
    }
    let (Some(aggregate), Some(id), Some(command)) = (args.aggregate, args.id, args.command) else {
        unreachable!("clap demands them if there are no lines");
    };
    let payload = payload(args.payload)?;
    let stream = StreamId::new(aggregate, id);
    let segments = [&stream.aggregate_type, &stream.aggregate_id, &*command].map(segment);
    let mut headers = Vec::new();
    headers.extend(args.command_id.as_deref().map(|id| ("idempotency-key", id)));
    headers.extend(args.expect.as_deref().map(|version| ("x-expected-version", version)));
    let timeout = args.timeout_ms.map_or(String::new(), |ms| format!("&timeout_ms={ms}"));
    let wait = if args.wait { format!("?wait=flow{timeout}") } else { String::new() };
    let path = format!("/v1/commands/{}{wait}", segments.join("/"));
    let reply = Client::new(&args.target)?.post(&path, &headers, payload.as_bytes())?;
    match Answer::of(&reply) {
        Some(answer) if json => {
            machine(&reply, &answer.outcome)?;
            if unfinished(answer.flow.as_ref()).is_some() { Err(CommandFailure::told_under_way()) } else { Ok(()) }
        }
        Some(Answer { outcome, remembered_from_ms, flow }) => {
            let note = remembered_from_ms.map_or(String::new(), |since| {
                format!(" (remembered from {}; nothing new was recorded)", table::time(since))
            });
            human(&stream, &outcome, &note)?;
            let waits_for = unfinished(flow.as_ref());
            flow.map_or(Ok(()), |flow| output::text(&histories::flow_text(flow)))?;
            waits_for.map_or(Ok(()), |waits_for| Err(CommandFailure::under_way(waits_for)))
        }
        None => Err(reply.refusal()),
    }
}

#[derive(serde::Deserialize)]
struct Answer {
    #[serde(flatten)]
    outcome: Outcome,
    remembered_from_ms: Option<u64>,
    flow: Option<Flow>,
}

impl Answer {
    /// Reads the answer to a command. There is none if the request never became a command.
    fn of(reply: &Reply) -> Option<Self> {
        let mut answer: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
        // A refused command is a problem, whose detail is the reason.
        if let Some(detail) = answer.get("detail").cloned() {
            answer["reason"] = detail;
        }
        serde_json::from_value(answer).ok()
    }
}

/// Says that the time was up before everything was at rest, if it was.
fn unfinished(flow: Option<&Flow>) -> Option<String> {
    let waiting_for = flow.filter(|flow| !flow.at_rest)?.waiting_for.as_deref().unwrap_or_default();
    Some(format!("the time was up before everything was at rest: it waits for {waiting_for}"))
}

fn expectation(text: &str) -> Result<String, String> {
    expected_version(text).map(|_| text.to_owned())
}

/// Returns a JSON argument as it was given, or reads it from standard input if it is `-`.
pub(super) fn payload(argument: String) -> Result<String, CommandFailure> {
    let mut text = argument;
    if text == "-" {
        text.clear();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|cause| CommandFailure::usage(format!("cannot read standard input: {cause}")))?;
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(cause) => Err(CommandFailure::usage(format!("the argument JSON is not JSON: {cause}"))),
    }
}

fn machine(reply: &Reply, outcome: &Outcome) -> Result<(), CommandFailure> {
    output::line(&reply.text())?;
    if matches!(outcome, Outcome::Accepted { .. }) { Ok(()) } else { Err(CommandFailure::told()) }
}

/// Prints an outcome for people. `note` is added to outcomes that the host can remember.
fn human(stream: &StreamId, outcome: &Outcome, note: &str) -> Result<(), CommandFailure> {
    match outcome {
        Outcome::Accepted { version, position, events } => {
            let events = match events {
                0 => "no events".to_owned(),
                1 => "1 event".to_owned(),
                events => format!("{events} events"),
            };
            output::line(&format!("accepted: {events}; {stream} is at version {version}, position {position}{note}"))
        }
        Outcome::Rejected { reason } => Err(CommandFailure::failed(format!("rejected: {reason}{note}"))),
        Outcome::Malformed { reason } => Err(CommandFailure::failed(format!("malformed: {reason}{note}"))),
        Outcome::Conflict { actual, expected } => {
            Err(CommandFailure::failed(format!("conflict: {stream} is at version {actual}, expected {expected}")))
        }
        Outcome::IdReused { reason } | Outcome::Archived { reason } | Outcome::Failed { reason } => {
            Err(CommandFailure::failed(reason))
        }
        Outcome::Busy { retry_after_ms } => {
            Err(CommandFailure::failed(format!("the host is busy; send again in {retry_after_ms} ms")))
        }
        Outcome::Remembered(remembered) => human(stream, &remembered.outcome, note),
    }
}
