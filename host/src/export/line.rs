//! The lines of an export. The names of their fields are the format.
//!
//! A payload that is JSON on a single line is in the line byte for byte. Any other payload is base64 under another name, so
//! that no payload can be taken for the other kind.

use crate::model::{Header, Position, RecordedEvent, StreamId, Version};
use crate::store::ArchivedStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use uuid::Uuid;

/// The format of the lines. A reader refuses a greater one.
pub const FORMAT: u64 = 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The format of the file.
    #[serde(rename = "wasmill_events")]
    pub format: u64,
    /// The identity of the store.
    pub store: String,
    /// The position from which events are in the file, which is 1.
    pub from: u64,
    /// The position of the newest event in the file, or 0.
    pub to: u64,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The number of events.
    pub events: u64,
    /// The number of archived streams.
    pub archived_streams: u64,
    /// The position of the last event, or 0.
    pub position: u64,
    /// The SHA-256 of all lines between the first and the last one, with their line ends, as hexadecimal digits.
    pub sha256: String,
}

/// The beginning of the last line.
pub(super) const END: &str = "{\"end\":";

/// The beginning of the line of an archived stream.
pub(super) const ARCHIVED: &str = "{\"archived\":";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndLine {
    pub(super) end: End,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ArchivedLine<'l> {
    #[serde(borrow)]
    archived: Archived<'l>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Archived<'l> {
    #[serde(rename = "type", borrow)]
    aggregate_type: Cow<'l, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'l, str>,
    time_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventLine<'l> {
    position: u64,
    #[serde(borrow)]
    id: Cow<'l, str>,
    #[serde(rename = "type", borrow)]
    aggregate_type: Cow<'l, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'l, str>,
    version: u64,
    #[serde(borrow)]
    name: Cow<'l, str>,
    time_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_ms: Option<u64>,
    #[serde(borrow)]
    correlation_id: Cow<'l, str>,
    #[serde(borrow)]
    causation_id: Cow<'l, str>,
    #[serde(default, skip_serializing_if = "is_zero")]
    hops: u32,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<HeaderField<'l>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none", deserialize_with = "there")]
    payload: Option<&'l RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<Cow<'l, str>>,
}

/// A header, whose value is a text, other bytes as base64, or nothing.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderField<'l> {
    #[serde(borrow)]
    name: Cow<'l, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'l, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value_base64: Option<Cow<'l, str>>,
}

fn is_zero(hops: &u32) -> bool {
    *hops == 0
}

/// Reads a payload that is there. Otherwise a payload `null` would count as none.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Adds a value as a line.
pub(super) fn add(text: &mut Vec<u8>, line: &impl Serialize) {
    // Writing these types to memory never fails.
    serde_json::to_writer(&mut *text, line).expect("a line is JSON");
    text.push(b'\n');
}

impl<'l> EventLine<'l> {
    pub(super) fn of(event: &'l RecordedEvent) -> Self {
        let payload = json_of(&event.payload);
        Self {
            position: event.position.0,
            id: event.id.to_string().into(),
            aggregate_type: (&*event.stream.aggregate_type).into(),
            aggregate_id: (&*event.stream.aggregate_id).into(),
            version: event.version.0,
            name: (&*event.name).into(),
            time_ms: event.time_ms,
            first_ms: event.first_ms,
            correlation_id: (&*event.correlation_id).into(),
            causation_id: (&*event.causation_id).into(),
            hops: event.hops,
            headers: event.headers.iter().map(HeaderField::of).collect(),
            payload,
            payload_base64: payload.is_none().then(|| STANDARD.encode(&event.payload).into()),
        }
    }

    /// Returns the event. The error says what is wrong with a field.
    pub(super) fn event(self) -> Result<RecordedEvent, String> {
        let payload = match (self.payload, self.payload_base64) {
            (Some(json), None) => json.get().as_bytes().to_vec(),
            (None, Some(text)) => bytes("payload_base64", &text)?,
            _ => return Err("it must have `payload` or `payload_base64`, and not both".to_owned()),
        };
        let id = Uuid::try_parse(&self.id).map_err(|_| format!("`id` is {:?}, which is no UUID", self.id))?;
        if id.to_string() != *self.id {
            return Err(format!("`id` is {:?}, which is not written as {id}", self.id));
        }
        Ok(RecordedEvent {
            id,
            position: Position(self.position),
            stream: stream(&self.aggregate_type, &self.aggregate_id),
            version: Version(self.version),
            name: (*self.name).into(),
            payload,
            time_ms: self.time_ms,
            first_ms: self.first_ms,
            correlation_id: (*self.correlation_id).into(),
            causation_id: (*self.causation_id).into(),
            hops: self.hops,
            headers: self.headers.into_iter().map(HeaderField::header).collect::<Result<_, _>>()?,
        })
    }
}

impl<'l> ArchivedLine<'l> {
    pub(super) fn of(archived: &'l ArchivedStream) -> Self {
        let StreamId { aggregate_type, aggregate_id } = &archived.stream;
        let archived = Archived {
            aggregate_type: (&**aggregate_type).into(),
            aggregate_id: (&**aggregate_id).into(),
            time_ms: archived.time_ms,
        };
        Self { archived }
    }

    pub(super) fn archived(self) -> ArchivedStream {
        let Archived { aggregate_type, aggregate_id, time_ms } = self.archived;
        ArchivedStream { stream: stream(&aggregate_type, &aggregate_id), time_ms }
    }
}

impl<'l> HeaderField<'l> {
    fn of(header: &'l Header) -> Self {
        let text = header.value.as_deref().map(std::str::from_utf8);
        let (value, value_base64) = match text {
            None => (None, None),
            Some(Ok(text)) => (Some(text.into()), None),
            Some(Err(_)) => (None, header.value.as_ref().map(|value| STANDARD.encode(value).into())),
        };
        Self { name: header.name.as_str().into(), value, value_base64 }
    }

    fn header(self) -> Result<Header, String> {
        let value = match (self.value, self.value_base64) {
            (None, None) => None,
            (Some(text), None) => Some(text.into_owned().into_bytes()),
            (None, Some(text)) => Some(bytes("value_base64", &text)?),
            (Some(_), Some(_)) => return Err("a header has `value` and `value_base64`".to_owned()),
        };
        Ok(Header { name: self.name.into_owned(), value })
    }
}

fn stream(aggregate_type: &str, aggregate_id: &str) -> StreamId {
    StreamId { aggregate_type: Arc::from(aggregate_type), aggregate_id: Arc::from(aggregate_id) }
}

fn bytes(field: &str, text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|error| format!("`{field}` is not base64: {error}"))
}

/// Returns a payload as it can be in a line, if it is JSON that a line can have byte for byte.
fn json_of(payload: &[u8]) -> Option<&RawValue> {
    let json: &RawValue = serde_json::from_slice(payload).ok()?;
    // What is around the value is not a part of it, and a line break would end the line.
    (json.get().len() == payload.len() && !payload.contains(&b'\n') && !payload.contains(&b'\r')).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = RecordedEvent> {
        let text = || "\\PC{0,8}|[\\x00-\\x20\"\\\\]{0,4}";
        let payload = prop_oneof![
            Just(b"null".to_vec()),
            Just(b"{\"payload_base64\":\"AA==\"}".to_vec()),
            Just(b" {\"a\": 1.50}".to_vec()),
            Just(b"{\n\"a\":\"\\ud800\"}".to_vec()),
            Just(b"[1e400,-0,\"\\u0000\xc3\xa9\"]".to_vec()),
            any::<Vec<u8>>(),
        ];
        let header = (text(), any::<Option<Vec<u8>>>()).prop_map(|(name, value)| Header { name, value });
        let times = (0..=i64::MAX as u64, any::<Option<u32>>(), any::<u32>());
        (
            (1..u64::MAX, any::<u128>(), 1..u64::MAX),
            [text(), text(), text(), text(), text()],
            times,
            payload,
            prop::collection::vec(header, 0..3),
        )
            .prop_map(
                |(
                    (position, id, version),
                    [kind, aggregate, name, correlation, causation],
                    times,
                    payload,
                    headers,
                )| RecordedEvent {
                    id: Uuid::from_u128(id),
                    position: Position(position),
                    stream: stream(&kind, &aggregate),
                    version: Version(version),
                    name: name.into(),
                    payload,
                    time_ms: times.0,
                    first_ms: times.1.map(u64::from),
                    correlation_id: correlation.into(),
                    causation_id: causation.into(),
                    hops: times.2,
                    headers,
                },
            )
    }

    proptest! {
        #[test]
        fn an_event_comes_back_from_its_line_as_it_was(event in event()) {
            let mut text = Vec::new();
            add(&mut text, &EventLine::of(&event));
            prop_assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 1);
            let line: EventLine<'_> = serde_json::from_slice(&text[..text.len() - 1]).expect("a line");
            prop_assert_eq!(line.event().expect("an event"), event);
        }
    }

    #[test]
    fn a_line_shows_what_is_there_and_leaves_out_what_is_not() {
        let event = RecordedEvent { payload: br#"{"b":1.50}"#.to_vec(), ..RecordedEvent::example() };
        let text = |event: &RecordedEvent| {
            let mut text = Vec::new();
            add(&mut text, &EventLine::of(event));
            String::from_utf8(text).expect("text")
        };
        assert_eq!(
            text(&event),
            "{\"position\":7,\"id\":\"00000000-0000-0000-0000-000000000000\",\"type\":\"order\",\"aggregate_id\":\"a/b\",\
             \"version\":2,\"name\":\"OrderCreated\",\"time_ms\":5,\"correlation_id\":\"c\",\"causation_id\":\"d\",\
             \"payload\":{\"b\":1.50}}\n"
        );
        let header = |value: Option<&[u8]>| Header { name: "h".into(), value: value.map(<[u8]>::to_vec) };
        let headers = vec![header(None), header(Some(b"x")), header(Some(b"\xff"))];
        let rest = text(&RecordedEvent { payload: b"\xff".to_vec(), hops: 2, first_ms: Some(3), headers, ..event });
        let expected = "\"time_ms\":5,\"first_ms\":3,\"correlation_id\":\"c\",\"causation_id\":\"d\",\"hops\":2,\"headers\":\
                        [{\"name\":\"h\"},{\"name\":\"h\",\"value\":\"x\"},{\"name\":\"h\",\"value_base64\":\"/w==\"}],\
                        \"payload_base64\":\"/w==\"}\n";
        assert!(rest.ends_with(expected), "{rest}");
    }
}
