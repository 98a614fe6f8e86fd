//! Tests of several plugins together, from a file: send commands, move the clock, ask read models, and say what must have
//! happened.
//!
//! ```
//! # use wasmill_cases::flows::FlowFile;
//! let file = FlowFile::parse("bank.toml", r#"
//!     [[flow]]
//!     name = "money moves from one account to another"
//!     steps = [
//!         { send = "Open", to = "account/ada", payload = { name = "Ada" } },
//!         { send = "Open", to = "account/bob", payload = { name = "Bob" } },
//!         { send = "Request", to = "transfer/t1", payload = { from = "ada", to = "bob", cents = 5 }, then.events = [
//!             { on = "account/ada", name = "Debited" },
//!             { on = "account/bob", name = "Credited", payload = { cents = 5 } },
//!         ] },
//!         { advance = "1h" },
//!         { query = "statements/Balance", params = { account = "bob" }, then.answer = 5 },
//!     ]
//! "#).unwrap();
//! assert_eq!(file.flows[0].steps.len(), 5);
//! ```
//!
//! A step is done when everything that follows from it has come to rest. What it must show is in `then`; see [`Then`].

use crate::{Error, difference};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// The time at which a flow begins by default.
const START: &str = "2026-01-01T00:00:00Z";

/// A file of flows.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowFile {
    /// The path of the file.
    pub file: PathBuf,
    /// The flows in the order of the file. There is at least one, and their names are unique.
    pub flows: Vec<Flow>,
}

/// One flow, which begins with nothing recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// The name, which says what the flow shows.
    pub name: String,
    /// The time at which it begins, in milliseconds since 1970-01-01T00:00:00Z.
    pub start_ms: u64,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// A step of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is done.
    pub action: Action,
    /// What must have happened then.
    pub then: Then,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Sends a command.
    Send(FlowCommand),
    /// Moves the clock. Everything that is due until then happens at its time.
    Advance(Duration),
    /// Asks a read model.
    Query {
        /// The projection.
        projection: String,
        /// The name of the query.
        query: String,
        /// Its parameters.
        params: Json,
    },
}

/// A command of a flow.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowCommand {
    /// The aggregate.
    pub to: Stream,
    /// The command's name.
    pub name: String,
    /// The payload.
    pub payload: Json,
    /// The headers.
    pub headers: BTreeMap<String, String>,
}

/// An aggregate, as `type/id`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Stream {
    /// The type.
    pub aggregate_type: String,
    /// The id, which may have slashes.
    pub aggregate_id: String,
}

/// What a step must show. What is absent is not checked, with two exceptions: a command must be accepted unless the step says
/// how else it ends, and nothing may be dead-lettered unless the step says so.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Then {
    /// The command is rejected with a reason that contains this text.
    pub rejected: Option<String>,
    /// The command, or the query, is malformed, with a reason that contains this text.
    pub malformed: Option<String>,
    /// The events that the step caused. The order counts within an aggregate only. For each aggregate type in the list, all
    /// events that the step caused must be there; other types are not checked. An empty list means no event at all.
    pub events: Option<Vec<FlowEvent>>,
    /// All messages that the step published. The order counts within a topic only.
    pub messages: Option<Vec<FlowMessage>>,
    /// All commands of subscribers and sagas that were refused. The order does not count.
    pub refused: Option<Vec<Refused>>,
    /// All dead letters. The order does not count.
    pub dead_letters: Option<Vec<DeadLettered>>,
    /// The answer of the query.
    #[serde(default, deserialize_with = "given")]
    pub answer: Option<Json>,
}

/// An event that must have happened.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowEvent {
    /// The aggregate.
    pub on: Stream,
    /// The event's name.
    pub name: String,
    /// The payload. Without it any payload will do. The schema version (`@schema`) need not be in it.
    #[serde(default, deserialize_with = "given")]
    pub payload: Option<Json>,
}

/// A message that must have been published.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowMessage {
    /// The topic.
    pub topic: String,
    /// The key. Without it any key will do.
    pub key: Option<String>,
    /// The value. Without it any value will do.
    #[serde(default, deserialize_with = "given")]
    pub value: Option<Json>,
}

/// A command of a subscriber or a saga that must have been refused.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The aggregate.
    pub to: Stream,
    /// The command's name.
    pub name: String,
    /// A part of the reason.
    #[serde(default)]
    pub reason: String,
}

/// Something that must have been dead-lettered.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLettered {
    /// The consumer, such as the name of a subscription.
    pub consumer: String,
    /// A part of the reason.
    #[serde(default)]
    pub reason: String,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was accepted.
    Accepted,
    /// A business rule refused it, for this reason.
    Rejected(String),
    /// It does not decode or can't be recorded, for this reason.
    Malformed(String),
    /// It ended in another way, which this text describes.
    Otherwise(String),
}

/// What a query came to: an answer, or the reason why there is none.
pub type Answered = Result<Json, String>;

/// A message that was published: topic, key and value.
pub type Published = (String, Option<Vec<u8>>, Option<Vec<u8>>);

/// What happened in a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Happened {
    /// The events, in the order in which they were recorded.
    pub events: Vec<Occurred>,
    /// The messages, in the order in which they were published.
    pub messages: Vec<Published>,
    /// The commands of subscribers and sagas that were refused: aggregate, name and reason.
    pub refused: Vec<(Stream, String, String)>,
    /// What was dead-lettered: consumer and reason.
    pub dead_letters: Vec<(String, String)>,
}

/// An event that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurred {
    /// The aggregate.
    pub on: Stream,
    /// The event's name.
    pub name: String,
    /// The payload, as it is recorded.
    pub payload: Vec<u8>,
}

/// The plugins under test. An error is a text that says why the flow can't go on, for example that there is no such aggregate.
pub trait World {
    /// Sends a command, and returns how it ended.
    fn send(&mut self, command: &FlowCommand) -> Result<Ended, String>;
    /// Moves the clock. What is due until then happens at its time.
    fn advance(&mut self, by: Duration) -> Result<(), String>;
    /// Asks a read model that has seen everything that has happened.
    fn query(&mut self, projection: &str, query: &str, params: &Json) -> Result<Answered, String>;
    /// Waits until everything is at rest, and returns what has happened since the last call.
    fn settle(&mut self) -> Result<Happened, String>;
    /// Checks that there are such aggregates and that they have an event of this name.
    fn check_event(&self, on: &Stream, name: &str) -> Result<(), String>;
}

impl Flow {
    /// Runs the flow. The error says which step failed and why. An event that no step can cause is found before anything is
    /// done.
    pub fn run(&self, world: &mut impl World) -> Result<(), String> {
        let at = |number: usize, step: &Step, cause: String| format!("step {number}, {}: {cause}", step.action);
        for (step, number) in self.steps.iter().zip(1..) {
            for FlowEvent { on, name, .. } in step.then.events.iter().flatten() {
                world.check_event(on, name).map_err(|cause| at(number, step, cause))?;
            }
        }
        let mut step_of = |step: &Step| {
            let (mut ended, mut answered) = (None, None);
            match &step.action {
                Action::Send(command) => ended = Some(world.send(command)?),
                Action::Advance(by) => world.advance(*by)?,
                Action::Query { projection, query, params } => answered = Some(world.query(projection, query, params)?),
            }
            let happened = world.settle()?;
            step.then.check(ended.as_ref(), answered.as_ref(), &happened)
        };
        let mut numbered = self.steps.iter().zip(1..);
        numbered.try_for_each(|(step, number)| step_of(step).map_err(|cause| at(number, step, cause)))
    }
}

impl Then {
    /// Compares what happened with what was expected.
    fn check(&self, ended: Option<&Ended>, answered: Option<&Answered>, happened: &Happened) -> Result<(), String> {
        if let Some(ended) = ended {
            self.check_ended(ended)?;
        }
        if let Some(answered) = answered {
            self.check_answered(answered)?;
        }
        self.check_dead_letters(&happened.dead_letters)?;
        if let Some(expected) = &self.events {
            check_events(expected, &happened.events)?;
        }
        if let Some(expected) = &self.messages {
            check_messages(expected, &happened.messages)?;
        }
        let Some(expected) = &self.refused else { return Ok(()) };
        let texts = |refused: &(Stream, String, String)| (format!("{} to {}", refused.1, refused.0), refused.2.clone());
        let expected = expected.iter().map(|refused| (format!("{} to {}", refused.name, refused.to), &refused.reason));
        check_reasons("refused commands", expected, happened.refused.iter().map(texts).collect())
    }

    fn check_ended(&self, ended: &Ended) -> Result<(), String> {
        let said = match ended {
            Ended::Accepted => "it was accepted".to_owned(),
            Ended::Rejected(reason) => format!("it was rejected: {reason}"),
            Ended::Malformed(reason) => format!("it is malformed: {reason}"),
            Ended::Otherwise(text) => text.clone(),
        };
        match (&self.rejected, &self.malformed, ended) {
            (Some(part), _, Ended::Rejected(reason)) | (None, Some(part), Ended::Malformed(reason)) => {
                contains(part, reason)
            }
            (None, None, Ended::Accepted) => Ok(()),
            (Some(part), ..) => Err(format!("expected it to be rejected with `{part}`, and {said}")),
            (None, Some(part), _) => Err(format!("expected it to be malformed with `{part}`, and {said}")),
            (None, None, _) => Err(format!("expected it to be accepted, and {said}")),
        }
    }

    fn check_answered(&self, answered: &Answered) -> Result<(), String> {
        match (answered, &self.malformed, &self.answer) {
            (Err(reason), Some(part), _) => contains(part, reason),
            (Err(reason), None, _) => Err(format!("expected an answer, and got none: {reason}")),
            (Ok(answer), Some(_), _) => Err(format!("expected no answer, and got {answer:#}")),
            (Ok(answer), None, Some(expected)) if answer != expected => {
                let difference = difference(&format!("{expected:#}"), &format!("{answer:#}"));
                Err(format!(
                    "the answer is not the expected one; missing lines have -, unexpected lines have +:\n{difference}"
                ))
            }
            (Ok(_), None, _) => Ok(()),
        }
    }

    fn check_dead_letters(&self, happened: &[(String, String)]) -> Result<(), String> {
        let expected = self.dead_letters.iter().flatten().map(|letter| (letter.consumer.clone(), &letter.reason));
        check_reasons("dead letters", expected, happened.to_vec())
    }
}

fn contains(part: &str, reason: &str) -> Result<(), String> {
    if reason.contains(part) {
        return Ok(());
    }
    Err(format!("expected a reason with the text after -, got the text after +:\n- {part}\n+ {reason}"))
}

/// Compares things that have a reason, in any order.
fn check_reasons<'e>(
    what: &str,
    expected: impl Iterator<Item = (String, &'e String)>,
    mut happened: Vec<(String, String)>,
) -> Result<(), String> {
    let mut missing = Vec::new();
    for (thing, part) in expected {
        let found = happened.iter().position(|(other, reason)| *other == thing && reason.contains(part.as_str()));
        match found {
            Some(index) => drop(happened.remove(index)),
            None => missing.push(format!("- {thing}: {part}")),
        }
    }
    let unexpected = happened.into_iter().map(|(thing, reason)| format!("+ {thing}: {reason}"));
    let lines: Vec<String> = missing.into_iter().chain(unexpected).collect();
    if lines.is_empty() {
        return Ok(());
    }
    let lines = lines.join("\n");
    Err(format!("the {what} are not the expected ones; missing lines have -, unexpected lines have +:\n{lines}"))
}

fn check_events(expected: &[FlowEvent], happened: &[Occurred]) -> Result<(), String> {
    let is_checked =
        |on: &Stream| expected.is_empty() || expected.iter().any(|event| event.on.aggregate_type == on.aggregate_type);
    let happened = happened.iter().filter(|event| is_checked(&event.on));
    let expected = by_group(expected.iter().map(|event| (event.on.to_string(), event)));
    let happened = by_group(happened.map(|event| (event.on.to_string(), event)));
    let listed = |event: &FlowEvent| match &event.payload {
        Some(payload) => format!("{} {payload:#}", event.name),
        None => event.name.clone(),
    };
    let found = |event: &&Occurred, expected: Option<&&FlowEvent>| {
        let mut payload = readable(&event.payload);
        let expected = expected.filter(|expected| expected.name == event.name).map(|expected| &expected.payload);
        if let (Some(Some(Json::Object(fields))), Json::Object(found)) = (expected, &mut payload)
            && !fields.contains_key("@schema")
        {
            found.remove("@schema");
        }
        match expected {
            Some(None) => event.name.clone(),
            _ => format!("{} {payload:#}", event.name),
        }
    };
    compare("events", &expected, &happened, |event| listed(event), found)
}

fn check_messages(expected: &[FlowMessage], happened: &[Published]) -> Result<(), String> {
    let expected = by_group(expected.iter().map(|message| (message.topic.clone(), message)));
    let happened = by_group(happened.iter().map(|message| (message.0.clone(), message)));
    let part = |name: &str, value: Option<String>| value.map_or(String::new(), |value| format!(" {name} {value}"));
    let listed = |message: &FlowMessage| {
        let key = part("key", message.key.clone());
        format!("message{key}{}", part("value", message.value.as_ref().map(|value| format!("{value:#}"))))
    };
    let found = |(_, key, value): &&Published, expected: Option<&&FlowMessage>| {
        let key = expected
            .is_none_or(|expected| expected.key.is_some())
            .then(|| key.as_ref().map_or("none".to_owned(), |key| String::from_utf8_lossy(key).into_owned()));
        let value = expected
            .is_none_or(|expected| expected.value.is_some())
            .then(|| value.as_ref().map_or("none".to_owned(), |value| format!("{:#}", readable(value))));
        format!("message{}{}", part("key", key), part("value", value))
    };
    compare("messages", &expected, &happened, |message| listed(message), found)
}

fn by_group<T>(items: impl Iterator<Item = (String, T)>) -> BTreeMap<String, Vec<T>> {
    let mut groups: BTreeMap<String, Vec<T>> = BTreeMap::new();
    items.for_each(|(group, item)| groups.entry(group).or_default().push(item));
    groups
}

/// Compares items group by group. `found` shows an item as far as the expected one at its place says something of it.
fn compare<E, H>(
    what: &str,
    expected: &BTreeMap<String, Vec<E>>,
    happened: &BTreeMap<String, Vec<H>>,
    listed: impl Fn(&E) -> String,
    found: impl Fn(&H, Option<&E>) -> String,
) -> Result<(), String> {
    let (mut wanted, mut actual) = (String::new(), String::new());
    let mut groups: Vec<&String> = expected.keys().chain(happened.keys()).collect();
    groups.sort();
    groups.dedup();
    for group in groups {
        let (of_expected, of_happened) = (expected.get(group), happened.get(group));
        let (of_expected, of_happened) =
            (of_expected.map_or(&[][..], Vec::as_slice), of_happened.map_or(&[][..], Vec::as_slice));
        of_expected.iter().for_each(|item| wanted.push_str(&format!("{group} {}\n", listed(item))));
        let texts = of_happened.iter().enumerate().map(|(index, item)| found(item, of_expected.get(index)));
        texts.for_each(|text| actual.push_str(&format!("{group} {text}\n")));
    }
    if wanted == actual {
        return Ok(());
    }
    let difference = difference(&wanted, &actual);
    Err(format!("the {what} are not the expected ones; missing lines have -, unexpected lines have +:\n{difference}"))
}

fn readable(payload: &[u8]) -> Json {
    serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into())
}

impl FlowFile {
    /// Reads a file. It is JSON if its name ends in `.json`, and TOML otherwise.
    pub fn read(file: impl AsRef<Path>) -> Result<Self, Error> {
        let file = file.as_ref();
        let text = std::fs::read_to_string(file)
            .map_err(|cause| Error::of_flows(file, format!("they can't be read: {cause}")))?;
        Self::parse(file, &text)
    }

    /// Reads flows from text. The file's name says if the text is JSON or TOML, and errors show it.
    pub fn parse(file: impl AsRef<Path>, text: &str) -> Result<Self, Error> {
        let file = file.as_ref().to_owned();
        let decoded = if file.extension().is_some_and(|ending| ending == "json") {
            serde_json::from_str::<Document>(text).map_err(|cause| cause.to_string())
        } else {
            toml::from_str(text).map_err(|cause| cause.to_string())
        };
        match decoded.and_then(Document::checked) {
            Ok(flows) => Ok(Self { file, flows }),
            Err(cause) => Err(Error::of_flows(&file, cause)),
        }
    }
}

/// Reads a value that may be `null`, which is not the same as no value.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(from).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    flow: Vec<FlowOfFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowOfFile {
    name: String,
    start: Option<String>,
    steps: Vec<StepOfFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepOfFile {
    send: Option<String>,
    to: Option<Stream>,
    #[serde(default)]
    payload: Json,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    advance: Option<String>,
    query: Option<String>,
    #[serde(default)]
    params: Json,
    #[serde(default)]
    then: Then,
}

impl Document {
    fn checked(self) -> Result<Vec<Flow>, String> {
        if self.flow.is_empty() {
            return Err("there is no flow: add a `[[flow]]`".to_owned());
        }
        let flows = self.flow.into_iter().map(FlowOfFile::checked).collect::<Result<Vec<Flow>, _>>()?;
        let twice = flows.iter().enumerate().find(|(n, flow)| flows[..*n].iter().any(|other| other.name == flow.name));
        match twice {
            Some((_, flow)) => Err(format!("two flows are named `{}`: give each flow its own name", flow.name)),
            None => Ok(flows),
        }
    }
}

impl FlowOfFile {
    fn checked(self) -> Result<Flow, String> {
        let Self { name, start, steps } = self;
        let start = start.as_deref().unwrap_or(START);
        let time = humantime::parse_rfc3339(start).map_err(|cause| {
            format!("flow `{name}`: `start` must be a time such as \"{START}\", found {start:?}: {cause}")
        })?;
        let start_ms = time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        if steps.is_empty() {
            return Err(format!("flow `{name}` has no steps: add `steps`"));
        }
        let numbered = steps.into_iter().zip(1..);
        let steps = numbered
            .map(|(step, number)| step.checked().map_err(|cause| format!("flow `{name}`, step {number}: {cause}")));
        Ok(Flow { start_ms, steps: steps.collect::<Result<_, _>>()?, name })
    }
}

impl StepOfFile {
    fn checked(self) -> Result<Step, String> {
        let Self { send, to, payload, headers, advance, query, params, then } = self;
        let has_send = to.is_some() || !payload.is_null() || !headers.is_empty();
        let action = match (send, advance, query) {
            (Some(name), None, None) if params.is_null() => {
                let to = to.ok_or("`to` is missing: the aggregate of the command, as \"type/id\"")?;
                Action::Send(FlowCommand { to, name, payload, headers })
            }
            (None, Some(by), None) if !has_send && params.is_null() => {
                let by = humantime::parse_duration(&by)
                    .map_err(|cause| format!("`advance` must be a time such as \"1h 30m\", found {by:?}: {cause}"))?;
                Action::Advance(by)
            }
            (None, None, Some(query)) if !has_send => match query.split_once('/') {
                Some((projection, query)) => {
                    Action::Query { projection: projection.to_owned(), query: query.to_owned(), params }
                }
                None => return Err(format!("`query` must be \"projection/query\", found {query:?}")),
            },
            _ => {
                return Err("a step has `send` with `to`, `payload` and `headers`, or `advance`, or `query` with `params`, and \
                            `then`"
                    .to_owned());
            }
        };
        then.fits(&action)?;
        Ok(Step { action, then })
    }
}

impl Then {
    /// Checks that what is expected can come of the action.
    fn fits(&self, action: &Action) -> Result<(), String> {
        let (is_send, is_query) = (matches!(action, Action::Send(_)), matches!(action, Action::Query { .. }));
        let wrong = [
            ("rejected", self.rejected.is_some() && !is_send, "a command"),
            ("malformed", self.malformed.is_some() && !is_send && !is_query, "a command or a query"),
            ("answer", self.answer.is_some() && !is_query, "a query"),
        ];
        match wrong.into_iter().find(|(_, is_wrong, _)| *is_wrong) {
            Some((key, _, of)) => Err(format!("`then.{key}` is only for {of}: remove it")),
            None if self.rejected.is_some() && self.malformed.is_some() => {
                Err("a command ends in one way: remove `then.rejected` or `then.malformed`".to_owned())
            }
            None => Ok(()),
        }
    }
}

impl Stream {
    /// Makes a stream of a type and an id.
    pub fn new(aggregate_type: impl Into<String>, aggregate_id: impl Into<String>) -> Self {
        Self { aggregate_type: aggregate_type.into(), aggregate_id: aggregate_id.into() }
    }
}

impl TryFrom<String> for Stream {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            Some((aggregate_type, id)) if !aggregate_type.is_empty() && !id.is_empty() => {
                Ok(Self::new(aggregate_type, id))
            }
            _ => Err(format!("an aggregate must be given as \"type/id\", found {text:?}")),
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.aggregate_type, self.aggregate_id)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(FlowCommand { to, name, .. }) => write!(f, "{name} to {to}"),
            Self::Advance(by) => write!(f, "the clock moves by {}", humantime::format_duration(*by)),
            Self::Query { projection, query, .. } => write!(f, "query {projection}/{query}"),
        }
    }
}

#[cfg(test)]
mod tests;
