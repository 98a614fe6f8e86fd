//! A line of a batch as a command. The rules are those of a single command and its headers.

use super::super::answer::HttpError;
use super::super::commands::{Said, checked_id, expected_version, made};
use super::super::problem::ProblemType;
use crate::access::Caller;
use crate::clock::Clock;
use crate::escape::escape;
use crate::model::{Command, ExpectedVersion, StreamId, Version};
use schemars::JsonSchema;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, de};
use serde_json::error::Category;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The most bytes of a line's content that a refusal repeats.
const SHOWN_BYTES_MAX: usize = 400;

/// The most names that are remembered.
const NAMES: usize = 16;

/// A command, as a line of a batch has it. Texts without escapes are borrowed from the line.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct LineCommand<'l> {
    /// The type of the aggregate.
    #[serde(borrow, rename = "type")]
    aggregate_type: Cow<'l, str>,
    /// The id of the aggregate.
    #[serde(borrow)]
    aggregate_id: Cow<'l, str>,
    /// The name of the command.
    #[serde(borrow)]
    name: Cow<'l, str>,
    /// The payload of the command; by default `null`.
    #[serde(borrow)]
    #[schemars(with = "Option<serde_json::Value>")]
    payload: Option<&'l RawValue>,
    /// An id that the sender chooses for the command.
    #[serde(borrow)]
    idempotency_key: Option<Text<'l>>,
    /// The id that everything gets that follows from the command.
    #[serde(borrow)]
    correlation_id: Option<Text<'l>>,
    /// The version that the stream must have, or `no-stream`, `stream-exists` or `any`.
    #[schemars(with = "Option<ExpectedShown>")]
    expected_version: Option<Expected>,
    /// The W3C trace context.
    #[serde(borrow)]
    traceparent: Option<Text<'l>>,
    /// The W3C trace context.
    #[serde(borrow)]
    tracestate: Option<Text<'l>>,
}

/// An expected version, as the OpenAPI document shows it.
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[expect(dead_code, reason = "only its schema is used")]
enum ExpectedShown {
    Version(u64),
    Word(String),
}

#[derive(Deserialize, JsonSchema)]
#[schemars(inline)]
struct Text<'l>(#[serde(borrow)] Cow<'l, str>);

/// An expected version: a number, or the words of the header.
struct Expected(ExpectedVersion);

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Expectation;
        impl Visitor<'_> for Expectation {
            type Value = Expected;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a version, no-stream, stream-exists or any")
            }

            fn visit_u64<E: de::Error>(self, version: u64) -> Result<Expected, E> {
                Ok(Expected(ExpectedVersion::Exact(Version(version))))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Expected, E> {
                let shown: String = text.chars().take(SHOWN_BYTES_MAX / 4).collect();
                let expected = if shown.len() < text.len() { expected_version(&shown) } else { expected_version(text) };
                expected.map(Expected).map_err(|cause| E::custom(format_args!("the member `expected_version` {cause}")))
            }
        }
        from.deserialize_any(Expectation)
    }
}

/// Names that came lately. A batch has few types and names of commands, so most lines share them.
#[derive(Default)]
pub(super) struct Names {
    known: Vec<Arc<str>>,
    /// The place of the next new name.
    next: usize,
}

impl Names {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.iter().find(|known| &***known == text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        match self.known.get_mut(self.next) {
            Some(oldest) => *oldest = name.clone(),
            None => self.known.push(name.clone()),
        }
        self.next = (self.next + 1) % NAMES;
        name
    }
}

/// Makes the command of a line, or says why it is none.
pub(super) fn command_of_line(
    line: &[u8],
    names: &mut Names,
    clock: &Clock,
    caller: &Caller,
) -> Result<Command, HttpError> {
    let text = std::str::from_utf8(line).map_err(|_| HttpError::malformed("the line is not UTF-8"))?;
    // A list would do for serde, with the members in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(HttpError::malformed("the line is not a command, which is a JSON object"));
    }
    let line: LineCommand<'_> = serde_json::from_str(text).map_err(|cause| HttpError::malformed(reworded(&cause)))?;
    if !caller.may_use_aggregate(&line.aggregate_type) {
        let aggregate_type = shown(&line.aggregate_type);
        let text =
            format!("this client may not use the aggregate type `{aggregate_type}` (`aggregates` of the client)");
        return Err(HttpError::new(ProblemType::Forbidden, text));
    }
    let said = Said {
        id: id("idempotency_key", line.idempotency_key.as_ref())?,
        correlation_id: id("correlation_id", line.correlation_id.as_ref())?,
        trace_parent: line.traceparent.as_ref().and_then(printable),
        trace_state: line.tracestate.as_ref().and_then(printable),
        expected: line.expected_version.map(|Expected(version)| version),
    };
    let stream = StreamId::new(names.get(&line.aggregate_type), &*line.aggregate_id);
    let payload = line.payload.map_or(&b"null"[..], |payload| payload.get().as_bytes());
    Ok(made(stream, names.get(&line.name), payload.to_vec(), said, clock, caller))
}

fn id(member: &str, id: Option<&Text<'_>>) -> Result<Option<Arc<str>>, HttpError> {
    let Some(id) = id else { return Ok(None) };
    let checked = match printable(id) {
        Some(id) => checked_id(id),
        None => Err("must be printable ASCII".to_owned()),
    };
    checked.map(Some).map_err(|cause| HttpError::malformed(format!("the member `{member}` {cause}")))
}

/// Returns a text that could be the value of a header.
fn printable<'t>(Text(text): &'t Text<'_>) -> Option<&'t str> {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')).then_some(&**text)
}

/// Says what is wrong with a line, in the words of the API.
fn reworded(cause: &serde_json::Error) -> String {
    let text = cause.to_string();
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    let column = cause.column();
    match cause.classify() {
        Category::Data => {
            let text = text
                .replace("unknown field", "there is no member")
                .replace(", expected one of", "; there are")
                .replace("missing field", "it needs the member")
                .replace("duplicate field", "there must be only one member");
            format!("the line is not a command: {}", shown(&text))
        }
        Category::Eof => "the line is not JSON: it ends too early".to_owned(),
        Category::Syntax | Category::Io => format!("the line is not JSON: {} at byte {column}", shown(text)),
    }
}

/// Escapes what is of the line, and cuts a long text in its middle, because what is known stands at its end.
fn shown(text: &str) -> String {
    let text = escape(text).to_string();
    if text.len() <= SHOWN_BYTES_MAX {
        return text;
    }
    let (mut begin, mut end) = (SHOWN_BYTES_MAX / 2, text.len() - SHOWN_BYTES_MAX / 2);
    while !text.is_char_boundary(begin) {
        begin -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    format!("{}…{}", &text[..begin], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<Command, HttpError> {
        command_of_line(line.as_bytes(), &mut Names::default(), &Clock::system(), &Caller::Anyone)
    }

    #[test]
    fn a_line_says_what_path_headers_and_body_of_a_single_command_say() {
        let command = parse(
            r#" {"payload":{"a": 1.50},"type":"order","aggregate_id":"a\/\"b","name":"Create","idempotency_key":"k",
              "correlation_id":"c","expected_version":3,
              "traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","tracestate":"a=b"} "#,
        );
        let command = command.unwrap();
        assert_eq!((&*command.stream.aggregate_type, &*command.stream.aggregate_id), ("order", "a/\"b"));
        assert_eq!((&*command.name, &*command.payload), ("Create", &br#"{"a": 1.50}"#[..]));
        assert_eq!((&*command.id, command.durable_id, &*command.correlation_id), ("k", true, "c"));
        assert_eq!(command.expected, Some(ExpectedVersion::Exact(Version(3))));
        assert_eq!(command.headers.len(), 2);
        let command = parse(r#"{"type":"order","aggregate_id":"1","name":"Create","traceparent":"no"}"#).unwrap();
        assert_eq!((&*command.payload, command.durable_id, command.expected), (&b"null"[..], false, None));
        assert_eq!((&command.correlation_id, command.headers.len()), (&command.id, 0));
    }

    #[test]
    fn what_is_no_command_is_told() {
        let with = |members: &str| format!(r#"{{"type":"order","aggregate_id":"1","name":"Create",{members}}}"#);
        let long = with(&format!(r#""{}":1"#, "x".repeat(5_000)));
        for (line, text) in [
            ("7", "the line is not a command, which is a JSON object"),
            (r#"["order","1","Create"]"#, "the line is not a command, which is a JSON object"),
            ("{", "the line is not JSON: it ends too early"),
            (r#"{"type" "a"}"#, "the line is not JSON: expected `:` at byte 9"),
            ("{} {}", "it needs the member `type`"),
            (r#"{"type":"order"}"#, "the line is not a command: it needs the member `aggregate_id`"),
            (r#"{"type":"order","type":"order"}"#, "there must be only one member `type`"),
            (r#"{"type":7}"#, "the line is not a command: invalid type: integer `7`, expected a string"),
            (&with(r#""typ\u001be":1"#), r"there is no member `typ\u{1b}e`; there are `type`, `aggregate_id`, `name`"),
            (&long, "`correlation_id`, `expected_version`, `traceparent`, `tracestate`"),
            (&with(r#""idempotency_key":"""#), "the member `idempotency_key` must be 1 to 256 bytes long, found 0"),
            (&with(r#""correlation_id":"é""#), "the member `correlation_id` must be printable ASCII"),
            (&with(r#""expected_version":-1"#), "expected a version, no-stream, stream-exists or any"),
            (
                &with(r#""expected_version":"no""#),
                "the member `expected_version` must be a version, no-stream, stream-exists or any, found \"no\"",
            ),
        ] {
            let refusal = parse(line).unwrap_err();
            assert!(refusal.problem.status() == 400 && refusal.detail.contains(text), "{line}: {}", refusal.detail);
            assert!(refusal.detail.len() < 2 * SHOWN_BYTES_MAX, "{}", refusal.detail);
        }
        for (version, expected) in [
            (r#""no-stream""#, ExpectedVersion::NoStream),
            (r#""any""#, ExpectedVersion::Any),
            ("0", ExpectedVersion::Exact(Version(0))),
        ] {
            let command = parse(&with(&format!(r#""expected_version":{version}"#))).unwrap();
            assert_eq!(command.expected, Some(expected));
        }
        let binary = command_of_line(b"\xff", &mut Names::default(), &Clock::system(), &Caller::Anyone);
        assert_eq!(binary.unwrap_err().problem.status(), 400);
    }

    #[test]
    fn names_are_shared() {
        let mut names = Names::default();
        let first = names.get("a");
        assert!(Arc::ptr_eq(&first, &names.get("a")));
        (0..NAMES).for_each(|number| _ = names.get(&number.to_string()));
        assert!(!Arc::ptr_eq(&first, &names.get("a")) && names.known.len() == NAMES);
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = command_of_line(&line, &mut Names::default(), &Clock::system(), &Caller::Anyone);
        }
    }
}
