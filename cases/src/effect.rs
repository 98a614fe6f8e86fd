//! The effects of subscribers and sagas in cases: which ones must be asked for, which ones were, and the comparison of both.

use crate::Stream;
use crate::difference::{Found, Part, Wanted, count, readable, same_in_order, text_body};
use crate::flows::http::SentRequest;
use crate::given;
use crate::suite::{Kind, Table, by_key, table};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

/// An effect that must be asked for. What the file does not say of it is not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedEffect(Wanted);

/// An effect that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A command.
    Command(SentCommand),
    /// A message.
    Message(SentMessage),
    /// A timer that sends a command.
    Later {
        /// The timer's name, if it has one.
        timer: Option<String>,
        /// The time at which it is due.
        due: Due,
        /// The command.
        command: SentCommand,
    },
    /// A timer that wakes the subscriber or the saga.
    Wake {
        /// The timer's name.
        timer: String,
        /// The time at which it is due.
        due: Due,
        /// The payload.
        payload: Vec<u8>,
    },
    /// The cancellation of the timer of this name.
    Cancel(String),
    /// An HTTP request, and what is attached to it if its response is asked for.
    Request(SentRequest, Option<Vec<u8>>),
}

/// A command that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentCommand {
    /// The aggregate.
    pub to: Stream,
    /// The command's name.
    pub name: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// The headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The version that the stream must have.
    pub expected_version: Option<u64>,
    /// What is attached to it if its outcome is asked for.
    pub attachment: Option<Vec<u8>>,
}

/// A message that was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMessage {
    /// The topic.
    pub topic: String,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The partition.
    pub partition: Option<i32>,
    /// The headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The value. None is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// The time at which a timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// This many milliseconds after the effects are committed.
    After(u64),
    /// This time, in milliseconds since 1970-01-01T00:00:00Z.
    At(u64),
}

const KINDS: &[Kind<ExpectedEffect>] = &[
    Kind { key: "send", what: "a command", read: |from| Ok(ExpectedEffect(table::<Send>(from)?.wanted())) },
    Kind { key: "later", what: "a timer that sends a command", read: |from| table::<Later>(from)?.checked() },
    Kind { key: "wake", what: "a timer", read: |from| table::<Wake>(from)?.checked() },
    Kind { key: "cancel", what: "the cancellation of a timer", read: |from| Ok(table::<Cancel>(from)?.expected()) },
    Kind { key: "topic", what: "a message", read: |from| table::<Message>(from)?.checked() },
    Kind { key: "endpoint", what: "an HTTP request", read: |from| table::<Request>(from)?.checked() },
];

/// Reads the effects of `then`.
pub(crate) fn read(from: Vec<Table>) -> Result<Vec<ExpectedEffect>, String> {
    let numbered = from.into_iter().zip(1..);
    numbered
        .map(|(effect, number)| by_key(KINDS, effect).map_err(|cause| format!("effect {number}: {cause}")))
        .collect()
}

/// Compares effects in their order.
pub(crate) fn same_effects(expected: &[ExpectedEffect], actual: &[Effect]) -> Result<(), String> {
    let expected: Vec<Wanted> = expected.iter().map(|ExpectedEffect(wanted)| wanted.clone()).collect();
    let actual: Vec<Found<'_>> = actual.iter().map(Effect::found).collect();
    same_in_order("the effects are", &expected, &actual)
}

/// Shows effects.
pub(crate) fn described(effects: &[Effect]) -> String {
    let lines: String = effects.iter().map(|effect| format!("\n{}", effect.found().line(None))).collect();
    format!("{}{}{lines}", count(effects.len(), "effect"), if effects.is_empty() { "" } else { ":" })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    send: String,
    to: Stream,
    #[serde(default, deserialize_with = "given")]
    payload: Option<Json>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    expected_version: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    attachment: Option<Json>,
}

impl Send {
    fn wanted(self) -> Wanted {
        let Self { send, to, payload, headers, expected_version, attachment } = self;
        let parts = [
            ("payload", payload.as_ref().map(shown)),
            ("expected_version", expected_version.map(|version| version.to_string())),
            ("attachment", attachment.as_ref().map(shown)),
        ];
        with_headers(Wanted::new("command", format!("{send} to {to}"), parts), headers)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Later {
    later: String,
    to: Stream,
    timer: Option<String>,
    after: Option<String>,
    at: Option<String>,
    #[serde(default, deserialize_with = "given")]
    payload: Option<Json>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    expected_version: Option<u64>,
    #[serde(default, deserialize_with = "given")]
    attachment: Option<Json>,
}

impl Later {
    fn checked(self) -> Result<ExpectedEffect, String> {
        let Self { later: send, to, timer, after, at, payload, headers, expected_version, attachment } = self;
        let due = due(after, at)?;
        let mut wanted = Send { send, to, payload, headers, expected_version, attachment }.wanted();
        wanted.kind = "later";
        wanted.parts.extend(timer.map(|timer| ("timer".to_owned(), timer)));
        wanted.parts.extend(due.map(|due| ("due".to_owned(), due.shown())));
        Ok(ExpectedEffect(wanted))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wake {
    wake: String,
    after: Option<String>,
    at: Option<String>,
    #[serde(default, deserialize_with = "given")]
    payload: Option<Json>,
}

impl Wake {
    fn checked(self) -> Result<ExpectedEffect, String> {
        let Self { wake, after, at, payload } = self;
        let due = due(after, at)?.map(Due::shown);
        Ok(ExpectedEffect(Wanted::new("wake", wake, [("due", due), ("payload", payload.as_ref().map(shown))])))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    cancel: String,
}

impl Cancel {
    fn expected(self) -> ExpectedEffect {
        ExpectedEffect(Wanted::new("cancel", self.cancel, []))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    topic: String,
    key: Option<String>,
    #[serde(default, deserialize_with = "given")]
    value: Option<Json>,
    tombstone: Option<bool>,
    partition: Option<i32>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Message {
    fn checked(self) -> Result<ExpectedEffect, String> {
        let Self { topic, key, value, tombstone, partition, headers } = self;
        let value = match (value, tombstone) {
            (value, None) => value.as_ref().map(shown),
            (None, Some(true)) => Some("none".to_owned()),
            (Some(_), Some(true)) => return Err("a tombstone has no value: remove `value` or `tombstone`".to_owned()),
            (_, Some(false)) => return Err("`tombstone` is `true` or absent: remove it".to_owned()),
        };
        let parts = [("key", key), ("value", value), ("partition", partition.map(|partition| partition.to_string()))];
        Ok(ExpectedEffect(with_headers(Wanted::new("message", topic, parts), headers)))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    endpoint: String,
    method: Option<String>,
    path: Option<String>,
    #[serde(default, deserialize_with = "given")]
    json: Option<Json>,
    text: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "given")]
    attachment: Option<Json>,
}

impl Request {
    fn checked(self) -> Result<ExpectedEffect, String> {
        let Self { endpoint, method, path, json, text, headers, attachment } = self;
        let body = match (json, text) {
            (Some(_), Some(_)) => return Err("a request has one body: remove `json` or `text`".to_owned()),
            (Some(json), None) => Some(shown(&json)),
            (None, text) => text.as_deref().map(text_body),
        };
        let attachment = attachment.as_ref().map(shown);
        let parts = [("method", method), ("path", path), ("body", body), ("attachment", attachment)];
        let headers = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        Ok(ExpectedEffect(with_headers(Wanted::new("request", endpoint, parts), headers)))
    }
}

/// Reads the time at which a timer is due.
fn due(after: Option<String>, at: Option<String>) -> Result<Option<Due>, String> {
    match (after, at) {
        (Some(_), Some(_)) => Err("a timer is due at one time: remove `after` or `at`".to_owned()),
        (Some(after), None) => {
            let after = humantime::parse_duration(&after)
                .map_err(|cause| format!("`after` must be a time such as \"1h 30m\", found {after:?}: {cause}"))?;
            Ok(Some(Due::after(after)))
        }
        (None, Some(at)) => {
            let time = humantime::parse_rfc3339(&at).map_err(|cause| {
                format!("`at` must be a time such as \"2026-01-01T00:00:00Z\", found {at:?}: {cause}")
            })?;
            Ok(Some(Due::At(time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64))))
        }
        (None, None) => Ok(None),
    }
}

impl Due {
    /// Makes the time this long after the effects are committed. It is rounded up, because a timer is never early.
    pub fn after(after: Duration) -> Self {
        Self::After(u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }

    fn shown(self) -> String {
        /// The last millisecond of the year 9999.
        const RFC_3339_MAX_MS: u64 = 253_402_300_799_999;
        match self {
            Self::After(ms) => format!("after {}", humantime::format_duration(Duration::from_millis(ms))),
            Self::At(ms) if ms <= RFC_3339_MAX_MS => {
                format!("at {}", humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)))
            }
            Self::At(ms) => format!("at {ms} ms"),
        }
    }
}

impl Effect {
    /// Returns the name of the timer that it sets or cancels.
    pub(crate) fn timer(&self) -> Option<&str> {
        match self {
            Self::Later { timer, .. } => timer.as_deref(),
            Self::Wake { timer, .. } | Self::Cancel(timer) => Some(timer),
            Self::Command(_) | Self::Message(_) | Self::Request(..) => None,
        }
    }

    fn found(&self) -> Found<'_> {
        match self {
            Self::Command(command) => command.found("command"),
            Self::Message(SentMessage { topic, key, partition, headers, value }) => {
                let key = key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned());
                let parts = [
                    ("key", Part::of(key)),
                    ("value", payload(value.as_deref())),
                    ("partition", Part::of(partition.map(|partition| partition.to_string()))),
                ];
                found_with_headers(Found::new("message", topic, parts), headers)
            }
            Self::Later { timer, due, command } => {
                let mut found = command.found("later");
                found.parts.push(("timer".to_owned(), Part::of(timer.clone())));
                found.parts.push(("due".to_owned(), Part::Text(due.shown())));
                found
            }
            Self::Wake { timer, due, payload: bytes } => {
                Found::new("wake", timer, [("due", Part::Text(due.shown())), ("payload", payload(Some(bytes)))])
            }
            Self::Cancel(timer) => Found::new("cancel", timer, []),
            Self::Request(SentRequest { endpoint, method, path, headers, body }, attachment) => {
                let parts = [
                    ("method", Part::Text(method.clone())),
                    ("path", Part::Text(path.clone())),
                    ("body", Part::Body(body)),
                    ("attachment", payload(attachment.as_deref())),
                ];
                let headers: Vec<_> =
                    headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), Some(value.clone()))).collect();
                found_with_headers(Found::new("request", endpoint, parts), &headers)
            }
        }
    }
}

impl SentCommand {
    fn found(&self, kind: &'static str) -> Found<'_> {
        let Self { to, name, payload: bytes, headers, expected_version, attachment } = self;
        let parts = [
            ("payload", payload(Some(bytes))),
            ("expected_version", Part::of(expected_version.map(|version| version.to_string()))),
            ("attachment", payload(attachment.as_deref())),
        ];
        found_with_headers(Found::new(kind, format!("{name} to {to}"), parts), headers)
    }
}

fn shown(json: &Json) -> String {
    format!("{json:#}")
}

fn payload<'f>(bytes: Option<&[u8]>) -> Part<'f> {
    Part::of(bytes.map(|bytes| shown(&readable(bytes))))
}

/// Adds the headers that the file says, each as a part of its own.
fn with_headers(mut wanted: Wanted, headers: BTreeMap<String, String>) -> Wanted {
    wanted.parts.extend(headers.into_iter().map(|(name, value)| (header(&name), value)));
    wanted
}

/// Adds headers, each as a part of its own. The values of headers of the same name are one part.
fn found_with_headers<'f>(mut found: Found<'f>, headers: &[(String, Option<Vec<u8>>)]) -> Found<'f> {
    let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        let value = value.as_ref().map_or("none".to_owned(), |value| String::from_utf8_lossy(value).into_owned());
        by_name.entry(name).or_default().push(value);
    }
    found.parts.extend(by_name.into_iter().map(|(name, values)| (header(name), Part::Text(values.join(", ")))));
    found
}

fn header(name: &str) -> String {
    format!("header {name}")
}
