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
//! A step is done when everything that follows from it has come to rest. What it must show is in `then`; see [`Then`]. How
//! servers answer HTTP requests is in `answers` of the flow; see [`http`].

mod check;
mod document;
pub mod http;

pub use crate::Stream;

use crate::given;
use http::{FlowAnswer, FlowRequest, SentRequest};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

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
    /// How servers answer HTTP requests: the first answer that fits a request answers it.
    pub answers: Vec<FlowAnswer>,
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
    /// All messages that the step published. The order counts among those of one topic and key; if one of a topic is listed without
    /// a key, it counts within the topic.
    pub messages: Option<Vec<FlowMessage>>,
    /// All HTTP requests that the step sent. The order counts within an endpoint only.
    pub requests: Option<Vec<FlowRequest>>,
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
    /// The HTTP requests, in the order in which they were sent. Each one is here once, however often it was attempted.
    pub requests: Vec<SentRequest>,
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

/// The plugins under test. They are made for one flow, and servers answer them with its [`Answers`](http::Answers): a request
/// that nothing answers is an error. An error is a text that says why the flow can't go on, for example that there is no such
/// aggregate.
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
    /// Checks that a plugin declares an endpoint of this name.
    fn check_endpoint(&self, endpoint: &str) -> Result<(), String>;
}

impl Flow {
    /// Runs the flow. The error says which step failed and why. An event that no step can cause, and an endpoint that no plugin
    /// declares, are found before anything is done.
    pub fn run(&self, world: &mut impl World) -> Result<(), String> {
        let at = |number: usize, step: &Step, cause: String| format!("step {number}, {}: {cause}", step.action);
        for (answer, number) in self.answers.iter().zip(1..) {
            world.check_endpoint(&answer.endpoint).map_err(|cause| format!("answer {number}: {cause}"))?;
        }
        for (step, number) in self.steps.iter().zip(1..) {
            for FlowRequest { endpoint, .. } in step.then.requests.iter().flatten() {
                world.check_endpoint(endpoint).map_err(|cause| at(number, step, cause))?;
            }
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

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(FlowCommand { to, name, .. }) => write!(f, "{name} to {to}"),
            Self::Advance(by) => {
                const DAY_SECONDS: u64 = 24 * 60 * 60;
                let (days, rest) = (by.as_secs() / DAY_SECONDS, by.as_secs() % DAY_SECONDS);
                let rest = Duration::new(rest, by.subsec_nanos());
                write!(f, "the clock moves by")?;
                match days {
                    0 => {}
                    1 => write!(f, " 1day")?,
                    days => write!(f, " {days}days")?,
                }
                if days == 0 || !rest.is_zero() { write!(f, " {}", humantime::format_duration(rest)) } else { Ok(()) }
            }
            Self::Query { projection, query, .. } => write!(f, "query {projection}/{query}"),
        }
    }
}

#[cfg(test)]
mod tests;
