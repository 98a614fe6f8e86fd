//! Server-Sent Events: recorded events in the form that browsers read, with the position as the id of each.
//!
//! A client that lost its connection sends the id of the last event that it has, and gets those after it.

use super::answer::HttpError;
use crate::model::{Position, RecordedEvent};
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use std::time::Duration;

/// The longest time without anything that is sent, so that client and proxies see that the connection lives.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) const MEDIA_TYPE: &str = "text/event-stream";

/// The header with the id of the last event that a client has.
const LAST_EVENT_ID: &str = "last-event-id";

/// Whether the client asks for Server-Sent Events.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(','));
    types.any(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE))
}

/// Returns the position of the last event that the client has, or 0 if it names none.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Position, HttpError> {
    let mut ids = headers.get_all(LAST_EVENT_ID).iter();
    let Some(id) = ids.next() else { return Ok(Position(0)) };
    let position = id.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match position.and_then(|text| text.parse().ok()) {
        Some(position) if ids.next().is_none() => Ok(Position(position)),
        _ => {
            let id = String::from_utf8_lossy(id.as_bytes());
            let text =
                format!("the header Last-Event-ID must be one position, the `id` of the last event, found {id:?}");
            Err(HttpError::malformed(text))
        }
    }
}

/// Returns the headers of an answer.
pub(super) fn headers() -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Some proxies collect an answer before they pass it on, unless it has this header.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}

/// Makes the text of events. `lines` has a line for each of them.
pub(super) fn events(events: &[RecordedEvent], lines: &[u8]) -> Bytes {
    let mut text = Vec::with_capacity(lines.len() + 32 * events.len());
    for (event, line) in events.iter().zip(lines.split_inclusive(|byte| *byte == b'\n')) {
        text.extend_from_slice(b"id: ");
        text.extend_from_slice(itoa::Buffer::new().format(event.position.0).as_bytes());
        text.extend_from_slice(b"\ndata: ");
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.into()
}

/// Makes the text of a heartbeat: an id without data, which is no event. A client that is disconnected then resumes after this
/// position, and what its filter left out is not read again.
pub(super) fn heartbeat(reached: Position) -> Bytes {
    format!("id: {reached}\n\n").into()
}

/// Makes the text of an error, from its line.
pub(super) fn error(line: &str) -> String {
    format!("event: error\ndata: {line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_type_may_be_one_of_several() {
        for (values, expected) in [
            (&["text/event-stream"][..], true),
            (&["application/json, Text/Event-Stream;q=0.5"], true),
            (&["text/html", "text/event-stream"], true),
            (&["*/*"], false),
            (&["text/event-stream-x"], false),
            (&[], false),
        ] {
            assert_eq!(is_wanted(&with(header::ACCEPT, values)), expected, "{values:?}");
        }
    }

    #[test]
    fn a_heartbeat_has_the_position_and_no_data() {
        assert_eq!(heartbeat(Position(1_000)), "id: 1000\n\n");
    }

    #[test]
    fn the_last_event_is_a_position() {
        let id = |values: &[&str]| last_event_id(&with(HeaderName::from_static(LAST_EVENT_ID), values));
        for (values, expected) in [(&[][..], 0), (&["7"], 7), (&["18446744073709551615"], u64::MAX)] {
            assert_eq!(id(values).unwrap(), Position(expected));
        }
        for values in [&[""][..], &["+7"], &["-1"], &["a"], &["18446744073709551616"], &["1", "2"]] {
            assert!(id(values).unwrap_err().detail.contains("Last-Event-ID"), "{values:?}");
        }
    }
}
