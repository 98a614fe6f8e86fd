//! Cases of projections: given events, when a query is asked, then this answer, or the reason why there is none.

use crate::difference::{contains, same_answer};
use crate::event::RecordedEvent;
use crate::suite::CaseOfFile;
use serde::Deserialize;
use serde_json::Value as Json;

/// A case of a projection.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The name, which says what the case shows.
    pub name: String,
    /// The events of aggregates, in the order in which they are folded into an empty read model.
    pub given: Vec<RecordedEvent>,
    /// The query.
    pub when: Query,
    /// The expected result.
    pub then: Expected,
}

/// A query, given by its name and JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The query's name.
    pub query: String,
    /// The parameters. The default is `null`.
    #[serde(default)]
    pub params: Json,
}

impl Query {
    /// The parameters as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.params.to_string().into_bytes()
    }
}

/// What must come of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// It has this answer.
    Answer(Json),
    /// Its parameters are malformed, with a reason that contains this text.
    Malformed(String),
    /// It fails with a reason that contains this text.
    Failed(String),
}

/// What came of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It has this answer.
    Answer(Json),
    /// Its parameters are malformed, for this reason.
    Malformed(String),
    /// It failed for this reason.
    Failed(String),
    /// The projection has no such query. These are its queries.
    Unknown(Vec<String>),
    /// An event could not be folded, or the code failed, for this reason. No case expects that.
    Broken(String),
}

impl Answer {
    /// Makes the answer for an event that could not be folded. `place` is its place in the list, from 1.
    pub fn not_folded(place: usize, event: &RecordedEvent, cause: &str) -> Self {
        Self::Broken(format!("event {place} in `given`, {} of {}, is not folded: {cause}", event.name, event.on))
    }

    /// Makes the answer for an event that the code does not know. `place` is its place in the list, from 1.
    pub fn skipped(place: usize, event: &RecordedEvent) -> Self {
        Self::not_folded(place, event, "the code does not know it, so a host skips it: remove or correct it")
    }
}

impl Case {
    /// Compares the actual result with the expected one. The error is a text that shows missing lines with `-` and
    /// unexpected lines with `+`.
    pub fn check(&self, answer: &Answer) -> Result<(), String> {
        let said = match answer {
            Answer::Answer(answer) => format!("the answer {answer:#}"),
            Answer::Malformed(reason) => format!("malformed parameters: {reason}"),
            Answer::Failed(reason) => format!("a failure: {reason}"),
            Answer::Unknown(known) => {
                let (query, known) = (&self.when.query, known.join(", "));
                return Err(format!("there is no query {query}; this projection answers {known}"));
            }
            Answer::Broken(cause) => return Err(cause.clone()),
        };
        match (&self.then, answer) {
            (Expected::Answer(expected), Answer::Answer(actual)) => same_answer(expected, actual),
            (Expected::Malformed(part), Answer::Malformed(reason)) => contains("malformed parameters", part, reason),
            (Expected::Failed(part), Answer::Failed(reason)) => contains("a failure", part, reason),
            (Expected::Answer(_), _) => Err(format!("expected an answer, got {said}")),
            (Expected::Malformed(part), _) => Err(format!("expected malformed parameters with `{part}`, got {said}")),
            (Expected::Failed(part), _) => Err(format!("expected a failure with `{part}`, got {said}")),
        }
    }
}

/// A case as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfFile {
    name: String,
    #[serde(default)]
    given: Vec<RecordedEvent>,
    when: Query,
    then: ThenOfFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThenOfFile {
    #[serde(default, deserialize_with = "crate::given")]
    answer: Option<Json>,
    malformed: Option<String>,
    failed: Option<String>,
}

impl CaseOfFile for OfFile {
    type Case = Case;

    fn name(&self) -> &str {
        &self.name
    }

    fn checked(self) -> Result<Case, String> {
        let Self { name, given, when, then } = self;
        let ThenOfFile { answer, malformed, failed } = then;
        let expected = [answer.map(Expected::Answer), malformed.map(Expected::Malformed), failed.map(Expected::Failed)];
        let mut expected = expected.into_iter().flatten();
        match (expected.next(), expected.next()) {
            (Some(then), None) => Ok(Case { name, given, when, then }),
            (None, _) => Err("`then` is empty: add `answer`, `malformed` or `failed`".to_owned()),
            (Some(_), Some(_)) => {
                Err("a query ends in one way: `then` has one of `answer`, `malformed` and `failed`".to_owned())
            }
        }
    }
}
