//! Given / when / then test cases for aggregates, and [`flows`] through several plugins, from files.
//!
//! One file of cases says what an aggregate must do. The SDK's test kit runs it against the author's code, natively, and
//! `wasmill test` runs it against the compiled plugin, in the real runtime. This crate has the part that both share:
//! reading the file, and comparing expected and actual results. Nothing here knows how to call an aggregate.
//!
//! ```
//! # use wasmill_cases::{Answer, Suite};
//! let suite = Suite::parse("door.toml", r#"
//!     aggregate = "door"
//!
//!     [[case]]
//!     name = "an open door is not opened"
//!     given = [{ name = "Opened", payload = { by = "Ada" } }]
//!     when = { name = "Open", payload = { by = "Bob" } }
//!     then = { rejected = "is open" }
//! "#).unwrap();
//! let case = &suite.cases[0];
//! assert!(case.check(&Answer::Rejected("the door is open".into())).is_ok());
//! let difference = case.check(&Answer::Events(vec![("Opened".into(), br#"{"by":"Bob"}"#.to_vec())])).unwrap_err();
//! assert!(difference.starts_with("expected a rejection with `is open`, got 1 event"));
//! ```

pub mod flows;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use similar::TextDiff;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The default id of the aggregate in a case.
pub const AGGREGATE_ID: &str = "test";

/// What the errors of a file of cases are about.
const CASES: &str = "cases";

/// A file of cases.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    /// The path of the file.
    pub file: PathBuf,
    /// The type of the aggregate.
    pub aggregate: String,
    /// The settings of its plugin.
    pub settings: serde_json::Map<String, Json>,
    /// The cases in the order of the file. There is at least one, and their names are unique.
    pub cases: Vec<Case>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The name, which says what the case shows.
    pub name: String,
    /// The history, as it is in a store.
    #[serde(default)]
    pub given: Vec<Event>,
    /// The command to decide on.
    pub when: Command,
    /// The expected result.
    pub then: Then,
}

/// An event, given by its name and JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The event's name.
    pub name: String,
    /// The payload. The default is `null`.
    #[serde(default)]
    pub payload: Json,
}

/// A command, given by its name and JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The command's name.
    pub name: String,
    /// The payload. The default is `null`.
    #[serde(default)]
    pub payload: Json,
    /// The id of the aggregate. The default is [`AGGREGATE_ID`].
    #[serde(default = "aggregate_id")]
    pub aggregate_id: String,
    /// The time of the command, in milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default)]
    pub time_ms: u64,
    /// The headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// The expected result of a command.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Exactly these events, in this order.
    Events(Vec<Event>),
    /// The command is rejected with a reason that contains this text.
    Rejected(String),
    /// The command is malformed, with a reason that contains this text.
    Malformed(String),
    /// The aggregate asks for a retry with a reason that contains this text.
    Retry(String),
}

/// The actual result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The names and payloads of the events.
    Events(Vec<(String, Vec<u8>)>),
    /// The reason why the command is rejected.
    Rejected(String),
    /// The reason why the command is malformed.
    Malformed(String),
    /// The reason why the aggregate asks for a retry.
    Retry(String),
    /// The reason why the history can't be applied or the code failed.
    Failed(String),
}

/// The reason why a file of cases or flows can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the {what} in {}: {cause}", .file.display())]
pub struct Error {
    what: &'static str,
    file: PathBuf,
    cause: String,
}

/// Reads a file's text. `what` says in the error what the file has.
fn text_of(what: &'static str, file: &Path) -> Result<String, Error> {
    std::fs::read_to_string(file).map_err(|cause| Error {
        what,
        file: file.to_owned(),
        cause: format!("they can't be read: {cause}"),
    })
}

/// Decodes text, which is JSON if the file's name ends in `.json`, and TOML otherwise, and checks what it says.
fn decoded<D: DeserializeOwned, T>(
    what: &'static str,
    file: &Path,
    text: &str,
    checked: impl FnOnce(D) -> Result<T, String>,
) -> Result<T, Error> {
    let document = if file.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(text).map_err(|cause| cause.to_string())
    } else {
        toml::from_str(text).map_err(|cause| cause.to_string())
    };
    document.and_then(checked).map_err(|cause| Error { what, file: file.to_owned(), cause })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    aggregate: String,
    #[serde(default)]
    settings: serde_json::Map<String, Json>,
    case: Vec<Case>,
}

fn aggregate_id() -> String {
    AGGREGATE_ID.to_owned()
}

impl Suite {
    /// Reads a file. It is JSON if its name ends in `.json`, and TOML otherwise.
    pub fn read(file: impl AsRef<Path>) -> Result<Self, Error> {
        Self::parse(file.as_ref(), &text_of(CASES, file.as_ref())?)
    }

    /// Reads cases from text. The file's name says if the text is JSON or TOML, and errors show it.
    pub fn parse(file: impl AsRef<Path>, text: &str) -> Result<Self, Error> {
        let file = file.as_ref().to_owned();
        let Document { aggregate, settings, case } = decoded(CASES, &file, text, Document::checked)?;
        Ok(Self { file, aggregate, settings, cases: case })
    }
}

impl Document {
    fn checked(self) -> Result<Self, String> {
        if self.case.is_empty() {
            return Err("there is no case: add a `[[case]]`".to_owned());
        }
        let twice = self.case.iter().enumerate().find(|(n, case)| self.case[..*n].iter().any(|o| o.name == case.name));
        match twice {
            Some((_, case)) => Err(format!("two cases are named `{}`: give each case its own name", case.name)),
            None => Ok(self),
        }
    }
}

impl Event {
    /// The content as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.payload.to_string().into_bytes()
    }
}

impl Command {
    /// The content as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.payload.to_string().into_bytes()
    }
}

impl Case {
    /// Compares the actual result with the expected one. The error is a text that shows missing lines with `-` and
    /// unexpected lines with `+`.
    pub fn check(&self, answer: &Answer) -> Result<(), String> {
        let (expected, part, reason) = match (&self.then, answer) {
            (Then::Events(expected), Answer::Events(actual)) => return check_events(expected, actual),
            (Then::Rejected(part), Answer::Rejected(reason)) => ("a rejection", part, reason),
            (Then::Malformed(part), Answer::Malformed(reason)) => ("a malformed command", part, reason),
            (Then::Retry(part), Answer::Retry(reason)) => ("a retry", part, reason),
            (then, answer) => return Err(format!("expected {then}, got {answer}")),
        };
        if reason.contains(part.as_str()) {
            return Ok(());
        }
        Err(format!("expected {expected} with the text after -, got the text after +:\n- {part}\n+ {reason}"))
    }
}

fn check_events(expected: &[Event], actual: &[(String, Vec<u8>)]) -> Result<(), String> {
    let actual: Vec<Event> = actual.iter().map(readable).collect();
    if expected == actual {
        return Ok(());
    }
    let difference = difference(&listed(expected), &listed(&actual));
    Err(format!("the events are not the expected ones; missing lines have -, unexpected lines have +:\n{difference}"))
}

/// Compares two texts line by line. Lines of both begin with a space, lines of only the first with `-`, and lines of
/// only the second with `+`.
fn difference(first: &str, second: &str) -> String {
    let (first, second): (Vec<_>, Vec<_>) = (first.lines().collect(), second.lines().collect());
    let diff = TextDiff::from_slices(&first, &second);
    let lines = diff.iter_all_changes().map(|change| format!("{} {}", change.tag(), change.value()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns an event in a readable form, with its payload as JSON if it is JSON, and as text otherwise.
fn readable((name, payload): &(String, Vec<u8>)) -> Event {
    let payload = serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into());
    Event { name: name.clone(), payload }
}

/// Lists each event by its name and its indented content.
fn listed(events: &[Event]) -> String {
    events.iter().map(|Event { name, payload }| format!("{name} {payload:#}\n")).collect()
}

impl std::fmt::Display for Then {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Events(events) => write!(f, "{}", count(events.len())),
            Self::Rejected(part) => write!(f, "a rejection with `{part}`"),
            Self::Malformed(part) => write!(f, "a malformed command with `{part}`"),
            Self::Retry(part) => write!(f, "a retry with `{part}`"),
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Events(events) => {
                let events: Vec<Event> = events.iter().map(readable).collect();
                write!(f, "{}:\n{}", count(events.len()), listed(&events).trim_end())
            }
            Self::Rejected(reason) => write!(f, "a rejection: {reason}"),
            Self::Malformed(reason) => write!(f, "a malformed command: {reason}"),
            Self::Retry(reason) => write!(f, "a retry: {reason}"),
            Self::Failed(reason) => write!(f, "a failure: {reason}"),
        }
    }
}

fn count(events: usize) -> String {
    match events {
        0 => "no events".to_owned(),
        1 => "1 event".to_owned(),
        n => format!("{n} events"),
    }
}

#[cfg(test)]
mod tests;
