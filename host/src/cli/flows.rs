//! `wasmill test MANIFEST FLOWS…`: runs flows against the compiled plugins of a manifest, in a host without Kafka.
//!
//! Each flow has a host of its own, with an empty store in a temporary folder and a clock that only the flow moves.

mod answers;

use super::failure::{CommandFailure, INTERRUPTED};
use super::run::Signals;
use super::test::{self, Report, Tally};
use crate::clock;
use crate::flows::FlowWatch;
use crate::host::{Host, QueryError, Startup, Untaken};
use crate::manifest::{ClockKind, Endpoint, Manifest, Plugin, Value};
use crate::model::{Command, Outcome, Position, StreamId};
use crate::status::{State, Status};
use crate::store::{DeadLetterQuery, Error, Reader};
use answers::{Came, FlowServers, ToFlowServers};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use wasmill_cases::flows::http::Answers;
use wasmill_cases::flows::{Answered, Ended, Flow, FlowCommand, FlowFile, Happened, Occurred, Stream, World};

/// The longest time until everything that follows from a step is at rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// The interval at which a step that is not at rest is checked for a part that has stopped.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest time for a host to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// The most items that one read of the store returns.
const PAGE: usize = 1_000;

/// The most times at which something is due in one step.
const DUE_TIMES_MAX: usize = 10_000;

pub(super) fn test(manifest: &Path, files: &[PathBuf], report: &Report) -> Result<Tally, CommandFailure> {
    let files = files.iter().map(FlowFile::read).collect::<Result<Vec<_>, _>>();
    let files = files.map_err(|error| CommandFailure::usage(error.to_string()))?;
    let failed = |cause: &dyn std::fmt::Display| CommandFailure::failed(cause.to_string());
    let folder = tempfile::tempdir().map_err(|cause| failed(&format!("can't make a temporary folder: {cause}")))?;
    let manifest = without_kafka(Manifest::load(manifest)?, folder.path());
    let runtime = Runtime::new().map_err(|cause| failed(&format!("can't start threads: {cause}")))?;
    end_at_signal(&runtime, folder.path().to_owned())?;
    let mut tally = Tally::default();
    for file in &files {
        report.title(&manifest.path.display().to_string(), &file.file)?;
        for flow in &file.flows {
            let mut world = TestWorld::start(&runtime, &manifest, flow).map_err(|cause| failed(&cause))?;
            let result = flow.run(&mut world);
            world.stop();
            forget(&manifest.data).map_err(|cause| failed(&format!("can't empty the temporary folder: {cause}")))?;
            tally.count(&result);
            report.result(&file.file, "flow", &flow.name, result)?;
        }
    }
    Ok(tally)
}

/// Has a signal remove the temporary folder before it ends the command.
#[expect(clippy::disallowed_methods, reason = "nothing of a test is to be kept")]
fn end_at_signal(runtime: &Runtime, folder: PathBuf) -> Result<(), CommandFailure> {
    let _entered = runtime.enter();
    let mut signals = Signals::new()?;
    runtime.spawn(async move {
        signals.next().await;
        let _ = std::fs::remove_dir_all(folder);
        std::process::exit(INTERRUPTED.into());
    });
    Ok(())
}

/// Returns the manifest of a test: its plugins, with their settings, and its schedules. Requests never leave, so nobody needs the
/// secrets and the certificates of endpoints.
fn without_kafka(mut manifest: Manifest, folder: &Path) -> Manifest {
    for Endpoint { secrets, ca_file, .. } in
        manifest.plugins.values_mut().flat_map(|Plugin { http, .. }| http.values_mut())
    {
        secrets.values_mut().for_each(|place| *place = Value::Text("secret".to_owned()));
        *ca_file = None;
    }
    Manifest {
        data: folder.join("data"),
        clock: ClockKind::Manual,
        kafka: None,
        sources: Default::default(),
        sinks: Default::default(),
        ..manifest
    }
}

/// Deletes everything that a host has stored, but not the compiled code, which the next one uses.
fn forget(data: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(data)? {
        let path = entry?.path();
        match path.is_dir() {
            true if path.ends_with("compiled") => {}
            true => std::fs::remove_dir_all(path)?,
            false => std::fs::remove_file(path)?,
        }
    }
    Ok(())
}

/// A host under test, and how much of what happened in it was seen.
struct TestWorld<'r> {
    runtime: &'r Runtime,
    host: Arc<Host>,
    commands: FlowWatch,
    servers: Arc<FlowServers>,
    seen: Seen,
    sent: u64,
}

/// The newest event, message and dead letter that were seen.
#[derive(Clone, Copy, Default)]
struct Seen {
    position: Position,
    message: u64,
    dead_letter: u64,
}

impl<'r> TestWorld<'r> {
    fn start(runtime: &'r Runtime, manifest: &Manifest, flow: &Flow) -> Result<Self, String> {
        clock::hold_at(flow.start_ms);
        let servers = Arc::new(FlowServers::new(Answers::new(&flow.answers)));
        let transport = ToFlowServers(servers.clone());
        let host = runtime.block_on(Host::start_with(manifest.clone(), Startup::default(), transport));
        let host = host.map_err(|error| error.to_string())?;
        let commands = host.flows().watch(None);
        Ok(Self { runtime, host, commands, servers, seen: Seen::default(), sent: 0 })
    }

    fn stop(self) {
        self.runtime.block_on(self.host.stop(Instant::now() + STOP_MAX));
    }

    /// Waits until everything is at rest. Returns when something is due next.
    fn rest(&self) -> Result<Option<u64>, String> {
        let until = Instant::now() + REST_MAX;
        loop {
            let drained = self.runtime.block_on(self.host.drained(LOOK_EVERY));
            let status = self.runtime.block_on(self.host.status());
            if drained.drained {
                let schedules = status.schedules.iter().filter_map(|schedule| schedule.next_ms);
                return Ok(schedules.chain(drained.next_timer_ms).min());
            }
            if let Some(stopped) = stopped(&status) {
                return Err(stopped);
            }
            if Instant::now() > until {
                let waiting_for = drained.waiting_for.unwrap_or_default();
                return Err(format!("not everything is at rest after {REST_MAX:?}; it waits for {waiting_for}"));
            }
        }
    }

    fn move_to(&self, to_ms: u64) -> Result<(), String> {
        self.runtime.block_on(self.host.move_clock(|_| to_ms)).map(drop).map_err(|cause| cause.to_string())
    }

    fn command(&mut self, FlowCommand { to, name, payload, headers }: &FlowCommand) -> Command {
        self.sent += 1;
        let id = format!("step-{}", self.sent).into();
        let stream = StreamId::new(to.aggregate_type.as_str(), to.aggregate_id.as_str());
        let now_ms = self.host.clock().now_ms();
        test::command(id, stream, name, payload.to_string().into_bytes(), headers, now_ms)
    }
}

impl World for TestWorld<'_> {
    fn send(&mut self, command: &FlowCommand) -> Result<Ended, String> {
        let command = self.command(command);
        let aggregate_type = command.stream.aggregate_type.clone();
        match self.runtime.block_on(self.host.send(command)) {
            Ok(outcome) => Ok(ended(outcome)),
            Err(Untaken::InvalidId(reason)) => Ok(Ended::Malformed(reason)),
            Err(Untaken::UnknownAggregate { known }) => Err(unknown("aggregate type", &aggregate_type, &known)),
        }
    }

    fn advance(&mut self, by: Duration) -> Result<(), String> {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let end_ms = self.host.clock().now_ms().saturating_add(by_ms);
        for _ in 0..DUE_TIMES_MAX {
            let now_ms = self.host.clock().now_ms();
            match self.rest()?.filter(|due_ms| (now_ms + 1..=end_ms).contains(due_ms)) {
                Some(due_ms) => self.move_to(due_ms)?,
                None => return self.move_to(end_ms),
            }
        }
        Err(format!("something is due at more than {DUE_TIMES_MAX} times: move the clock in smaller steps"))
    }

    fn query(&mut self, projection: &str, query: &str, params: &Json) -> Result<Answered, String> {
        let params = params.to_string().into_bytes();
        let after = Some(*self.host.store().head().borrow());
        match self.runtime.block_on(self.host.query(projection, query, params, after, REST_MAX)) {
            Ok(answer) => match serde_json::from_slice(&answer) {
                Ok(answer) => Ok(Ok(answer)),
                Err(cause) => Ok(Err(format!("the answer is no JSON: {cause}"))),
            },
            Err(QueryError::UnknownProjection { known }) => Err(unknown("projection", projection, &known)),
            Err(QueryError::UnknownQuery(text)) => Err(text),
            Err(QueryError::Malformed(reason)) => Ok(Err(reason)),
            Err(other) => Ok(Err(other.to_string())),
        }
    }

    fn settle(&mut self) -> Result<Happened, String> {
        self.rest()?;
        let seen = self.seen;
        let read = self.runtime.block_on(self.host.read(move |reader| happened(reader, seen)));
        let (mut happened, seen) = read.map_err(|error| error.to_string())?;
        self.seen = seen;
        let Came { requests, unanswered } = self.servers.take();
        if let Some(unanswered) = unanswered {
            return Err(unanswered);
        }
        happened.requests = requests;
        let (commands, more) = self.commands.take();
        if more > 0 {
            return Err(format!("the step has {more} commands of subscribers too many to check: make it smaller"));
        }
        happened.refused = commands
            .into_iter()
            .filter_map(|command| {
                let reason = match ended(command.outcome) {
                    Ended::Accepted => return None,
                    Ended::Rejected(reason) | Ended::Malformed(reason) | Ended::Otherwise(reason) => reason,
                };
                Some((stream(&command.stream), command.name.to_string(), reason))
            })
            .collect();
        Ok(happened)
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<(), String> {
        let known = self.host.declared_endpoints();
        match known.iter().any(|known| known == endpoint) {
            true => Ok(()),
            false => Err(unknown("endpoint", endpoint, &known)),
        }
    }

    fn check_event(&self, on: &Stream, name: &str) -> Result<(), String> {
        let served = self.host.recorded_events();
        let types: Vec<String> = served.iter().map(|(aggregate_type, _)| aggregate_type.clone()).collect();
        let Some((aggregate_type, events)) = served.into_iter().find(|(served, _)| *served == on.aggregate_type) else {
            return Err(unknown("aggregate type", &on.aggregate_type, &types));
        };
        match events.iter().any(|event| event == name) {
            true => Ok(()),
            false => Err(unknown(&format!("event of aggregate type {aggregate_type}"), name, &events)),
        }
    }
}

/// Says that there is no such thing, and what there is.
fn unknown(what: &str, name: &str, known: &[String]) -> String {
    let candidates: Vec<&str> = known.iter().map(String::as_str).collect();
    let near =
        crate::manifest::nearest(name, &candidates).map_or(String::new(), |near| format!("did you mean {near}? "));
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("there is no {what} {name}; {near}there are: {known}")
}

fn ended(outcome: Outcome) -> Ended {
    match outcome {
        Outcome::Accepted { .. } => Ended::Accepted,
        Outcome::Rejected { reason } => Ended::Rejected(reason),
        Outcome::Malformed { reason } => Ended::Malformed(reason),
        Outcome::Remembered(remembered) => ended(*remembered.outcome),
        Outcome::Conflict { actual, .. } => Ended::Otherwise(format!("it conflicts: the stream has version {actual}")),
        Outcome::Archived { reason } | Outcome::IdReused { reason } | Outcome::Failed { reason } => {
            Ended::Otherwise(reason)
        }
        Outcome::Busy { .. } => Ended::Otherwise("the host is busy".to_owned()),
    }
}

fn stream(stream: &StreamId) -> Stream {
    Stream::new(stream.aggregate_type.to_string(), stream.aggregate_id.to_string())
}

/// Returns why a part has stopped, if one has.
fn stopped(status: &Status) -> Option<String> {
    let projections = status.projections.iter().map(|found| ("projection", &found.name, found.state, &found.error));
    let subscriptions =
        status.subscriptions.iter().map(|found| ("subscription", &found.name, found.state, &found.error));
    let (kind, name, _, error) = projections.chain(subscriptions).find(|(.., state, _)| *state == State::Stopped)?;
    Some(format!("{kind} {name} has stopped: {}", error.as_deref().unwrap_or("the log says why")))
}

/// Reads what is in the store beyond what was seen.
fn happened(reader: &mut dyn Reader, mut seen: Seen) -> Result<(Happened, Seen), Error> {
    let mut happened = Happened::default();
    loop {
        let page = reader.read_all(seen.position, &crate::filter::Filter::all(), PAGE)?;
        let is_last = page.reached == seen.position;
        seen.position = page.reached;
        happened.events.extend(page.events.into_iter().map(|event| Occurred {
            on: stream(&event.stream),
            name: event.name.to_string(),
            payload: event.payload,
        }));
        if is_last {
            break;
        }
    }
    loop {
        let messages = reader.messages(seen.message, PAGE)?;
        let Some((newest, _)) = messages.last() else { break };
        seen.message = *newest;
        let told = messages.into_iter().map(|(_, message)| (message.topic.to_string(), message.key, message.payload));
        happened.messages.extend(told);
    }
    let wanted = DeadLetterQuery { consumer: None, before: None, limit: PAGE };
    let (letters, _) = reader.dead_letters(&wanted)?;
    let new = letters.into_iter().filter(|kept| kept.number > seen.dead_letter);
    let mut new: Vec<_> = new.collect();
    new.sort_by_key(|kept| kept.number);
    seen.dead_letter = new.last().map_or(seen.dead_letter, |kept| kept.number);
    happened.dead_letters.extend(new.into_iter().map(|kept| (kept.letter.consumer, kept.letter.reason)));
    Ok((happened, seen))
}
