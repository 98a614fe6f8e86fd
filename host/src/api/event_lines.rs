//! Events as lines of JSON.

use crate::model::{Header, RecordedEvent};
use crate::upcasts::Unmigrated;
use axum::body::Bytes;
use base64::Engine;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// One event as a line. The names of its fields are part of the API.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub(super) struct Line<'e> {
    /// Its place in the whole store.
    position: u64,
    /// Its id, a UUID.
    id: String,
    /// Its stream: `TYPE/ID`.
    stream: String,
    /// The type of its aggregate.
    #[serde(rename = "type")]
    aggregate_type: &'e str,
    /// The id of its aggregate.
    aggregate_id: &'e str,
    /// Its place in its stream.
    version: u64,
    /// Its name.
    name: &'e str,
    /// The time of its command, in ms since 1970-01-01T00:00:00Z.
    time_ms: u64,
    /// The time when it was recorded, in ms since 1970-01-01T00:00:00Z.
    recorded_ms: u64,
    /// The time of the first cause, in ms since 1970-01-01T00:00:00Z, if its command is not the first cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_ms: Option<u64>,
    /// The id that everything from the same first cause has.
    correlation_id: &'e str,
    /// The id of the command that led to it.
    causation_id: &'e str,
    /// Its headers, if it has any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<LineHeader<'e>>,
    /// Why the payload is as it was recorded, although its newest shape is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    upcast_error: Option<String>,
    /// Its payload: JSON, or `{"base64":"…"}` if it is not JSON.
    #[schemars(with = "serde_json::Value")]
    payload: Payload<'e>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Header")]
struct LineHeader<'e> {
    /// Its name.
    name: &'e str,
    /// Its value.
    value: Option<Text<'e>>,
}

/// Bytes, as text if they are UTF-8.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Text<'e> {
    Text(&'e str),
    Bytes {
        /// The bytes in base64, if they are not UTF-8.
        base64: String,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Payload<'e> {
    Json(Cow<'e, RawValue>),
    Bytes { base64: String },
}

/// Returns events as lines. `unmigrated` has the results of their migration, or nothing if they were not migrated.
pub(super) fn lines(events: &[RecordedEvent], unmigrated: &[Result<(), Unmigrated>]) -> Bytes {
    let mut text = Vec::with_capacity(events.len() * 512);
    for (index, event) in events.iter().enumerate() {
        let upcast_error = unmigrated.get(index).and_then(|result| result.as_ref().err());
        let line = Line { upcast_error: upcast_error.map(ToString::to_string), ..line(event) };
        // Writing these types to memory never fails.
        serde_json::to_writer(&mut text, &line).expect("an event is JSON");
        text.push(b'\n');
    }
    text.into()
}

pub(super) fn line(event: &RecordedEvent) -> Line<'_> {
    Line {
        position: event.position.0,
        id: event.id.to_string(),
        stream: event.stream.to_string(),
        aggregate_type: &event.stream.aggregate_type,
        aggregate_id: &event.stream.aggregate_id,
        version: event.version.0,
        name: &event.name,
        time_ms: event.time_ms,
        recorded_ms: event.recorded_ms(),
        first_ms: event.first_ms,
        correlation_id: &event.correlation_id,
        causation_id: &event.causation_id,
        headers: event.headers.iter().map(line_header).collect(),
        upcast_error: None,
        payload: payload(&event.payload),
    }
}

fn line_header(header: &Header) -> LineHeader<'_> {
    let text = |bytes| std::str::from_utf8(bytes).map_or_else(|_| Text::Bytes { base64: base64(bytes) }, Text::Text);
    LineHeader { name: &header.name, value: header.value.as_deref().map(text) }
}

pub(super) fn payload(bytes: &[u8]) -> Payload<'_> {
    match serde_json::from_slice::<&RawValue>(bytes) {
        // A line break in JSON is always white space, because strings have it escaped.
        Ok(json) if json.get().contains(['\n', '\r']) => {
            let line = json.get().replace(['\n', '\r'], " ");
            RawValue::from_string(line).map_or_else(|_| encoded(bytes), |json| Payload::Json(Cow::Owned(json)))
        }
        Ok(json) => Payload::Json(Cow::Borrowed(json)),
        Err(_) => encoded(bytes),
    }
}

fn encoded(bytes: &[u8]) -> Payload<'static> {
    Payload::Bytes { base64: base64(bytes) }
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(payload: &[u8]) -> RecordedEvent {
        RecordedEvent { payload: payload.to_vec(), ..RecordedEvent::example() }
    }

    #[test]
    fn an_event_is_a_line_of_json() {
        let text = lines(&[event(br#"{"b":1.50,"a":"x"}"#)], &[]);
        assert_eq!(
            text,
            "{\"position\":7,\"id\":\"00000000-0000-0000-0000-000000000000\",\"stream\":\"order/a/b\",\
             \"type\":\"order\",\"aggregate_id\":\"a/b\",\"version\":2,\"name\":\"OrderCreated\",\"time_ms\":5,\"recorded_ms\":5,\
             \"correlation_id\":\"c\",\"causation_id\":\"d\",\"payload\":{\"b\":1.50,\"a\":\"x\"}}\n"
        );
    }

    #[test]
    fn headers_are_shown_where_there_are_any() {
        let header = |name: &str, value: Option<&[u8]>| Header { name: name.into(), value: value.map(<[u8]>::to_vec) };
        let headers = vec![header("tenant", Some(b"a\nb")), header("raw", Some(b"\xff")), header("flag", None)];
        let text = String::from_utf8(lines(&[RecordedEvent { headers, ..event(b"{}") }], &[]).to_vec()).unwrap();
        let expected = r#""headers":[{"name":"tenant","value":"a\nb"},{"name":"raw","value":{"base64":"/w=="}},{"name":"flag","value":null}],"payload":{}}"#;
        assert!(text.ends_with(&format!("{expected}\n")), "{text}");
    }

    #[test]
    fn any_payload_fits_on_a_line() {
        for (payload, expected) in [
            (&b"{\n  \"a\": \"x\\ny\"\r\n}"[..], r#""payload":{   "a": "x\ny"  }}"#),
            (b"\xff\x00", r#""payload":{"base64":"/wA="}}"#),
            (b"", r#""payload":{"base64":""}}"#),
        ] {
            let text = String::from_utf8(lines(&[event(payload)], &[]).to_vec()).unwrap();
            assert!(text.ends_with(&format!("{expected}\n")), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
    }
}
