//! Cases of aggregates: given a history, when a command arrives, then these events or this refusal.

use crate::answer::{self, Then};
use crate::event::{Event, NewEvent, same_events};
use crate::suite::CaseOfFile;
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// The default id of the aggregate in a case.
pub const AGGREGATE_ID: &str = "test";

/// What came of a command.
pub type Answer = crate::Answer<Vec<NewEvent>>;

/// A case of an aggregate.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The name, which says what the case shows.
    pub name: String,
    /// The history, as it is in a store.
    pub given: Vec<Event>,
    /// The command to decide on.
    pub when: Command,
    /// The expected result: exactly these events, as they are recorded (with `@schema` if the aggregate upcasts older ones), in this
    /// order, or a refusal.
    pub then: Then<Vec<Event>>,
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

fn aggregate_id() -> String {
    AGGREGATE_ID.to_owned()
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
        answer::check(&self.then, answer, |expected, actual| same_events(expected, actual))
    }
}

/// A case as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfFile {
    name: String,
    #[serde(default)]
    given: Vec<Event>,
    when: Command,
    then: ThenOfFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThenOfFile {
    events: Option<Vec<Event>>,
    rejected: Option<String>,
    malformed: Option<String>,
    retry: Option<String>,
}

impl CaseOfFile for OfFile {
    type Case = Case;

    fn name(&self) -> &str {
        &self.name
    }

    fn checked(self) -> Result<Case, String> {
        let Self { name, given, when, then } = self;
        let ThenOfFile { events, rejected, malformed, retry } = then;
        let then = answer::then(events, [rejected, malformed, retry], "`events`")?;
        Ok(Case { name, given, when, then })
    }
}
