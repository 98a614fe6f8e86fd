//! What is delivered to a subscriber or a saga in a case: an event, a Kafka record, the outcome of a command, a timer, or the
//! response to an HTTP request.

use crate::Stream;
use crate::event::RecordedEvent;
use crate::flows::http::{ServerAnswer, server_answer};
use crate::given;
use crate::suite::{Kind, Table, by_key, table};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// What is delivered.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// An event of an aggregate.
    Event(RecordedEvent),
    /// A record of Kafka.
    Record(Record),
    /// The outcome of a command.
    Outcome(Outcome),
    /// A timer.
    Timer(Timer),
    /// The answer to an HTTP request.
    Response(Response),
}

/// A record of a Kafka source.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The name of the source.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The key.
    pub key: Option<String>,
    /// The value. None is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The time, in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
    /// The headers.
    pub headers: BTreeMap<String, String>,
}

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The aggregate that the command was sent to.
    pub to: Stream,
    /// The command's name.
    pub command: String,
    /// How it ended.
    pub ending: Ending,
    /// What was attached to the command.
    pub attachment: Json,
    /// The key of the delivery that sent the command.
    pub key: Option<String>,
    /// The time when the outcome was recorded, in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was accepted.
    Accepted {
        /// The version of the stream.
        version: u64,
        /// The position of the last event.
        position: u64,
    },
    /// A business rule refused it, for this reason.
    Rejected(String),
    /// It does not decode, for this reason.
    Malformed(String),
    /// The stream had this version, which is not the expected one.
    Conflict(u64),
    /// The stream is archived. This is the text for it.
    Archived(String),
    /// No plugin serves the aggregate type. This is the text for it.
    Unserved(String),
    /// All attempts failed, the last one for this reason.
    Exhausted(String),
}

/// A timer that wakes the subscriber or the saga.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timer {
    /// The timer's name.
    #[serde(rename = "timer")]
    pub name: String,
    /// The payload. The default is `null`.
    #[serde(default)]
    pub payload: Json,
    /// The key of the delivery that set it.
    pub key: Option<String>,
    /// The time when it was due, in milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default)]
    pub time_ms: u64,
}

/// The answer to an HTTP request.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The endpoint of the request.
    pub endpoint: String,
    /// The method of the request.
    pub method: String,
    /// The path and query of the request.
    pub path: String,
    /// How the request ended.
    pub answer: RequestEnding,
    /// What was attached to the request.
    pub attachment: Json,
    /// The key of the delivery that sent the request.
    pub key: Option<String>,
    /// The time when the answer was recorded, in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
}

/// How an HTTP request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEnding {
    /// It was sent, and this came of it.
    Answered(ServerAnswer),
    /// The host refused to send it, for this reason.
    Refused(String),
}

const KINDS: &[Kind<Delivery>] = &[
    Kind { key: "on", what: "an event", read: |from| table(from).map(Delivery::Event) },
    Kind { key: "source", what: "a record", read: |from| table::<RecordOfFile>(from)?.checked() },
    Kind { key: "outcome", what: "an outcome", read: |from| table::<OutcomeOfFile>(from)?.checked() },
    Kind { key: "timer", what: "a timer", read: |from| table(from).map(Delivery::Timer) },
    Kind { key: "endpoint", what: "a response", read: |from| table::<ResponseOfFile>(from)?.checked() },
];

/// Reads the `when` of a case.
pub(crate) fn read(from: Table) -> Result<Delivery, String> {
    by_key(KINDS, from).map_err(|cause| format!("`when`: {cause}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordOfFile {
    source: String,
    topic: Option<String>,
    #[serde(default)]
    partition: i32,
    #[serde(default)]
    offset: i64,
    key: Option<String>,
    #[serde(default, deserialize_with = "given")]
    value: Option<Json>,
    text: Option<String>,
    tombstone: Option<bool>,
    #[serde(default)]
    time_ms: u64,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl RecordOfFile {
    fn checked(self) -> Result<Delivery, String> {
        let Self { source, topic, partition, offset, key, value, text, tombstone, time_ms, headers } = self;
        let value = match (value, text, tombstone) {
            (Some(json), None, None) => Some(json.to_string().into_bytes()),
            (None, Some(text), None) => Some(text.into_bytes()),
            (None, None, Some(true)) => None,
            _ => return Err("it must have one of `value`, which is JSON, `text`, and `tombstone = true`".to_owned()),
        };
        let topic = topic.unwrap_or_else(|| source.clone());
        Ok(Delivery::Record(Record { source, topic, partition, offset, key, value, time_ms, headers }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OutcomeOfFile {
    outcome: String,
    to: Stream,
    accepted: Option<bool>,
    version: Option<u64>,
    position: Option<u64>,
    rejected: Option<String>,
    malformed: Option<String>,
    conflict: Option<u64>,
    archived: Option<String>,
    unserved: Option<String>,
    exhausted: Option<String>,
    #[serde(default)]
    attachment: Json,
    key: Option<String>,
    #[serde(default)]
    time_ms: u64,
}

impl OutcomeOfFile {
    fn checked(self) -> Result<Delivery, String> {
        let Self { outcome: command, to, attachment, key, time_ms, accepted, version, position, .. } = self;
        let accepted = accepted.map(|is_accepted| match is_accepted {
            true => Ok(Ending::Accepted { version: version.unwrap_or(1), position: position.unwrap_or(1) }),
            false => Err("`accepted` is `true` or absent: remove it".to_owned()),
        });
        let accepted = accepted.transpose()?;
        if accepted.is_none() && (version.is_some() || position.is_some()) {
            return Err("`version` and `position` are only for `accepted = true`: remove them".to_owned());
        }
        let endings = [
            accepted,
            self.rejected.map(Ending::Rejected),
            self.malformed.map(Ending::Malformed),
            self.conflict.map(Ending::Conflict),
            self.archived.map(Ending::Archived),
            self.unserved.map(Ending::Unserved),
            self.exhausted.map(Ending::Exhausted),
        ];
        let mut endings = endings.into_iter().flatten();
        match (endings.next(), endings.next()) {
            (Some(ending), None) => Ok(Delivery::Outcome(Outcome { to, command, ending, attachment, key, time_ms })),
            _ => Err("it must have one of `accepted = true`, `rejected`, `malformed`, `conflict`, `archived`, `unserved` and \
                      `exhausted`"
                .to_owned()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResponseOfFile {
    endpoint: String,
    method: String,
    path: String,
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "given")]
    json: Option<Json>,
    text: Option<String>,
    failed: Option<String>,
    refused: Option<String>,
    #[serde(default)]
    attachment: Json,
    key: Option<String>,
    #[serde(default)]
    time_ms: u64,
}

impl ResponseOfFile {
    fn checked(self) -> Result<Delivery, String> {
        let Self { endpoint, method, path, attachment, key, time_ms, status, headers, json, text, failed, refused } =
            self;
        let has_answer =
            status.is_some() || !headers.is_empty() || json.is_some() || text.is_some() || failed.is_some();
        let answer = match refused {
            Some(_) if has_answer => {
                return Err(
                    "a request that was refused has no answer: remove `refused`, or everything else of the answer"
                        .to_owned(),
                );
            }
            Some(reason) => RequestEnding::Refused(reason),
            None => RequestEnding::Answered(server_answer(status, &headers, json, text, failed)?),
        };
        Ok(Delivery::Response(Response { endpoint, method, path, answer, attachment, key, time_ms }))
    }
}
