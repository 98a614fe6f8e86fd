//! A line of a batch as a command. The rules are those of a single command and its headers.

use super::super::answer::{HttpError, SHOWN_MAX, shown};
use super::super::commands::{Said, checked_id, expected_version, made};
use super::super::problem::ProblemType;
use super::super::wording;
use crate::access::Caller;
use crate::clock::Clock;
use crate::escape::escape;
use crate::model::{Command, ExpectedVersion, IdRule, StreamId, Version};
use crate::names::Rule;
use schemars::JsonSchema;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, de};
use serde_json::error::Category;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The most names that are remembered.
const NAMES: usize = 16;

/// The most bytes of such a name. The names that plugins serve are not longer.
const NAME_BYTES: usize = 128;

/// What a line must be.
const COMMAND: &str = "a JSON object with the members `type`, `aggregate_id` and `name`, and maybe `payload`, `idempotency_key`, \
                       `correlation_id`, `expected_version`, `traceparent` and `tracestate`";

/// What an expected version must be.
const VERSION: &str = "a version, no-stream, stream-exists or any";

/// How the words of this file about a member begin.
const MEMBER: &str = "the member `";

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
                f.write_str(VERSION)
            }

            fn visit_u64<E: de::Error>(self, version: u64) -> Result<Expected, E> {
                Ok(Expected(ExpectedVersion::Exact(Version(version))))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Expected, E> {
                // No version is that long.
                let text = text.char_indices().nth(SHOWN_MAX).map_or(text, |(end, _)| &text[..end]);
                let expected = expected_version(text).map(Expected);
                expected.map_err(|cause| E::custom(format_args!("{MEMBER}expected_version` {cause}")))
            }
        }
        from.deserialize_any(Expectation)
    }
}

/// The members of a line as they stand there, to find out which one is wrong.
#[derive(Deserialize)]
struct Members<'l> {
    #[serde(borrow, rename = "type")]
    aggregate_type: Option<&'l RawValue>,
    #[serde(borrow)]
    aggregate_id: Option<&'l RawValue>,
    #[serde(borrow)]
    name: Option<&'l RawValue>,
    #[serde(borrow)]
    idempotency_key: Option<&'l RawValue>,
    #[serde(borrow)]
    correlation_id: Option<&'l RawValue>,
    #[serde(borrow)]
    expected_version: Option<&'l RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'l RawValue>,
    #[serde(borrow)]
    tracestate: Option<&'l RawValue>,
}

impl Members<'_> {
    /// Returns what is wrong with the type of a member.
    fn wrong(&self) -> Option<String> {
        let needed = [("type", self.aggregate_type), ("aggregate_id", self.aggregate_id), ("name", self.name)];
        let more = [
            ("idempotency_key", self.idempotency_key),
            ("correlation_id", self.correlation_id),
            ("traceparent", self.traceparent),
            ("tracestate", self.tracestate),
        ];
        let is_text = |value: &RawValue| value.get().starts_with('"');
        let other = needed.iter().chain(&more).find(|(_, value)| value.is_some_and(|value| !is_text(value)));
        // `null` counts as absent here.
        let null = || needed.iter().find(|(_, value)| value.is_none());
        match (other, self.expected_version) {
            (Some((name, _)), _) => Some(format!("{MEMBER}{name}` must be a text")),
            (None, Some(version)) if !is_text(version) && version.get().parse::<u64>().is_err() => {
                Some(format!("{MEMBER}expected_version` must be {VERSION}"))
            }
            _ => null().map(|(name, _)| format!("{MEMBER}{name}` must be a text")),
        }
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
        if text.len() > NAME_BYTES {
            return name;
        }
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
    ids: IdRule,
    clock: &Clock,
    caller: &Caller,
) -> Result<Command, HttpError> {
    let text = std::str::from_utf8(line).map_err(|_| HttpError::malformed("the line is not UTF-8"))?;
    // A list would do for serde, with the members in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(HttpError::malformed(format!("the line must be {COMMAND}")));
    }
    let line: LineCommand<'_> =
        serde_json::from_str(text).map_err(|cause| HttpError::malformed(reworded(text, &cause)))?;
    if !caller.may_use_aggregate(&line.aggregate_type) {
        let aggregate_type = shown(&line.aggregate_type);
        let text =
            format!("this client may not use the aggregate type `{aggregate_type}` (`aggregates` of the client)");
        return Err(HttpError::new(ProblemType::Forbidden, text));
    }
    // A line may be long, so what can't be the name of anything is kept by nobody.
    if !Rule::Part.allows(&line.aggregate_type) {
        let aggregate_type = shown(&line.aggregate_type);
        let rule = Rule::Part.in_words();
        let text = format!("no plugin serves aggregates of type `{aggregate_type}`: the name of a type is {rule}");
        return Err(HttpError::no_such_name(text));
    }
    let sound = ids.check("aggregate id", &line.aggregate_id);
    sound.and_then(|()| ids.check("command name", &line.name)).map_err(HttpError::malformed)?;
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
    checked.map(Some).map_err(|cause| HttpError::malformed(format!("{MEMBER}{member}` {cause}")))
}

/// Returns a text that could be the value of a header.
fn printable<'t>(Text(text): &'t Text<'_>) -> Option<&'t str> {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')).then_some(&**text)
}

/// Says what is wrong with a line, in the words of the API.
fn reworded(line: &str, cause: &serde_json::Error) -> String {
    if cause.classify() != Category::Data {
        return format!("the line must be {COMMAND}{}", wording::no_json(cause));
    }
    let said = cause.to_string();
    if said.starts_with(MEMBER) {
        let said = said.rsplit_once(" at line ").map_or(&*said, |(said, _)| said);
        return escape(said).into_owned();
    }
    let of_type = || serde_json::from_str::<Members<'_>>(line).ok()?.wrong();
    match wording::no_such_body(&said) {
        wrong if wrong.is_empty() => of_type().unwrap_or_else(|| format!("the line must be {COMMAND}")),
        wrong => format!("the line must be {COMMAND}{wrong}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn parse(line: &str) -> Result<Command, HttpError> {
        parse_bytes(line.as_bytes(), &mut Names::default())
    }

    fn parse_bytes(line: &[u8], names: &mut Names) -> Result<Command, HttpError> {
        command_of_line(line, names, IdRule::default(), &Clock::system(), &Caller::Anyone)
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
        let named =
            |of: &str, id: &str, name: &str| format!(r#"{{"type":"{of}","aggregate_id":"{id}","name":"{name}"}}"#);
        let long = with(&format!(r#""{}":1"#, "x".repeat(5_000)));
        for (line, text) in [
            ("7", "the line must be a JSON object with the members `type`, "),
            (r#"["order","1","Create"]"#, "the line must be a JSON object with the members `type`, "),
            ("{", "`tracestate`; it ends too early"),
            (r#"{"type" "a"}"#, "`tracestate`; it is no JSON at byte 9"),
            ("{} {}", "`tracestate`; it lacks `type`"),
            (r#"{"type":"order"}"#, "`tracestate`; it lacks `aggregate_id`"),
            (r#"{"type":"order","type":"order"}"#, "`tracestate`; it has `type` twice"),
            (r#"{"type":7}"#, "the member `type` must be a text"),
            (r#"{"type":7"#, "the line must be a JSON object with the members `type`, "),
            (r#"{"type":"order","aggregate_id":null,"name":"Create"}"#, "the member `aggregate_id` must be a text"),
            (&with(r#""idempotency_key":null,"tracestate":[]"#), "the member `tracestate` must be a text"),
            (&with(r#""typ\u001be":1"#), r"`tracestate`; it can't have `typ\u{1b}e`"),
            (&long, "xxx…`"),
            (&with(r#""idempotency_key":"""#), "the member `idempotency_key` must be 1 to 256 bytes long, found 0"),
            (&with(r#""correlation_id":"é""#), "the member `correlation_id` must be printable ASCII"),
            (
                &with(r#""expected_version":-1"#),
                "the member `expected_version` must be a version, no-stream, stream-exists or any",
            ),
            (
                &with(r#""expected_version":[]"#),
                "the member `expected_version` must be a version, no-stream, stream-exists or any",
            ),
            (
                &with(r#""expected_version":"no""#),
                "the member `expected_version` must be a version, no-stream, stream-exists or any, found \"no\"",
            ),
            (&named("order", "", "Create"), "the aggregate id is empty"),
            (&named("order", &"x".repeat(5_000), "Create"), "has 5000 bytes: it must be 1 to 512 bytes"),
            (&named("order", "1", "\\n"), r"has the control character \u{a} at byte 0"),
        ] {
            let refusal = parse(line).unwrap_err();
            assert!(refusal.problem.status() == 400 && refusal.detail.contains(text), "{line}: {}", refusal.detail);
            assert!(refusal.detail.len() < 600, "{}", refusal.detail);
            for word in ["invalid type", "invalid value", "expected `", "expected a string", "struct", "at line"] {
                assert!(!refusal.detail.contains(word), "{}", refusal.detail);
            }
        }
        // Nobody serves such a type, as with a single command.
        for of in ["", "Order", &"x".repeat(5_000)] {
            let refusal = parse(&named(of, "1", "Create")).unwrap_err();
            assert!(refusal.problem.status() == 404 && refusal.detail.len() < 300, "{}", refusal.detail);
            assert!(refusal.detail.contains("1 to 64 characters"), "{}", refusal.detail);
        }
        for (version, expected) in [
            (r#""no-stream""#, ExpectedVersion::NoStream),
            (r#""any""#, ExpectedVersion::Any),
            ("0", ExpectedVersion::Exact(Version(0))),
        ] {
            let command = parse(&with(&format!(r#""expected_version":{version}"#))).unwrap();
            assert_eq!(command.expected, Some(expected));
        }
        let binary = parse_bytes(b"\xff", &mut Names::default());
        assert_eq!(binary.unwrap_err().problem.status(), 400);
    }

    #[test]
    fn names_are_shared() {
        let mut names = Names::default();
        let first = names.get("a");
        assert!(Arc::ptr_eq(&first, &names.get("a")));
        (0..NAMES).for_each(|number| _ = names.get(&number.to_string()));
        assert!(!Arc::ptr_eq(&first, &names.get("a")) && names.known.len() == NAMES);
        let long = "x".repeat(NAME_BYTES + 1);
        assert!(!Arc::ptr_eq(&names.get(&long), &names.get(&long)));
        assert!(names.known.iter().all(|name| name.len() <= NAME_BYTES));
    }

    #[test]
    fn what_is_refused_is_not_remembered() {
        let mut names = Names::default();
        for line in [
            r#"{"type":"Order","aggregate_id":"1","name":"Create"}"#,
            r#"{"type":"order","aggregate_id":"","name":"Create"}"#,
            r#"{"type":"order","aggregate_id":"1","name":""}"#,
        ] {
            parse_bytes(line.as_bytes(), &mut names).unwrap_err();
        }
        assert!(names.known.is_empty());
    }

    proptest! {
        #[test]
        fn any_line_is_taken_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_bytes(&line, &mut Names::default());
        }
    }
}
