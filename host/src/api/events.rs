//! `GET /v1/events`: the store's events as lines of JSON, from a position on, followed by new ones if requested.

use super::Server;
use super::answer::HttpError;
use crate::filter::Filter;
use crate::host::Counted;
use crate::model::{Header, Position, RecordedEvent};
use crate::store::{Error, EventStore, Page, Reader};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// The most events of one page. A slow client holds at most two pages in memory.
const PAGE_EVENTS_MAX: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    from: Option<u64>,
    limit: Option<u64>,
    #[serde(rename = "type")]
    types: Option<String>,
    #[serde(default)]
    follow: bool,
}

pub(super) async fn stream(
    State(server): State<Server>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response, HttpError> {
    let Query(wanted) = wanted?;
    let filter = match &wanted.types {
        Some(patterns) => {
            Filter::parse(patterns.split(',')).map_err(|cause| HttpError::malformed(cause.to_string()))?
        }
        None => Filter::all(),
    };
    let limit = wanted.limit.unwrap_or(u64::MAX);
    let place = Place::of(&server, limit, wanted.follow).await?;
    let (lines, body) = mpsc::channel(place.pages_max());
    let follower = Follower {
        head: server.host.store().head(),
        store: server.host.store().clone(),
        filter: Arc::new(filter),
        after: Position(wanted.from.unwrap_or(1).saturating_sub(1)),
        left: limit,
        follow: wanted.follow,
        lines,
        closing: server.closing.clone(),
    };
    let host = server.host.clone();
    tokio::spawn(async move {
        let streams = &host.traffic().streams;
        let _counted = matches!(place, Place::Stream(_)).then(|| Counted::new(streams));
        follower.run().await;
        drop(place);
    });
    let body = Body::from_stream(ReceiverStream::new(body));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// The permit that a read holds. A small read runs at once and does not wait for its client. Every other read is a
/// stream, which lasts as long as its client reads.
enum Place {
    Page { _permit: OwnedSemaphorePermit },
    Stream(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
}

impl Place {
    async fn of(server: &Server, limit: u64, follow: bool) -> Result<Self, HttpError> {
        if !follow && limit <= PAGE_EVENTS_MAX as u64 {
            let permit = server.unless_closing(server.pages.clone().acquire_owned()).await?;
            return Ok(Self::Page { _permit: permit.expect("no semaphore of the API is closed") });
        }
        server.streams.clone().try_acquire_owned().map(Self::Stream).map_err(|_| {
            server.host.traffic().turned_away.fetch_add(1, Ordering::Relaxed);
            let max = server.settings.streams_max;
            let text = format!(
                "{max} event streams are open, as many as the manifest's `api.streams_max` allows; a request with \
                 `limit` of at most {PAGE_EVENTS_MAX} needs no stream"
            );
            tracing::warn!("{text}");
            HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })
    }

    /// Returns how many pages may wait for the client. A small read must not wait for it, so all of its pages may.
    fn pages_max(&self) -> usize {
        match self {
            Self::Page { .. } => PAGE_EVENTS_MAX,
            Self::Stream(_) => 1,
        }
    }
}

/// The reader of one client. It reads pages until the client has all that it wants, or disconnects.
struct Follower {
    store: Arc<dyn EventStore>,
    head: watch::Receiver<Position>,
    filter: Arc<Filter>,
    /// The position up to which all events are sent or not wanted.
    after: Position,
    /// The number of events that are still wanted.
    left: u64,
    follow: bool,
    lines: mpsc::Sender<Result<Bytes, Infallible>>,
    closing: watch::Receiver<bool>,
}

impl Follower {
    async fn run(mut self) {
        if let Err(cause) = self.send_pages().await {
            tracing::error!(%cause, after = %self.after, "an event stream of the API failed");
            // The status line is already sent, so the last line has the error.
            let line = serde_json::json!({ "error": cause.to_string() }).to_string() + "\n";
            let _ = self.lines.send(Ok(line.into())).await;
        }
    }

    async fn send_pages(&mut self) -> Result<(), Error> {
        let end = *self.head.borrow_and_update();
        let mut reader = None;
        while self.left > 0 {
            let (page, used) = self.read(reader.take()).await?;
            reader = Some(used);
            self.after = page.reached;
            self.left = self.left.saturating_sub(page.events.len() as u64);
            let gone = !page.events.is_empty() && self.lines.send(Ok(lines(&page.events))).await.is_err();
            let done = self.after >= end && (!self.follow || !self.wait().await);
            if gone || done {
                break;
            }
        }
        Ok(())
    }

    /// Reads a page on a thread that may block, with this stream's own reader.
    async fn read(&self, reader: Option<Box<dyn Reader>>) -> Result<(Page, Box<dyn Reader>), Error> {
        let (store, filter, after) = (self.store.clone(), self.filter.clone(), self.after);
        let limit = PAGE_EVENTS_MAX.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = move || {
            let mut reader = reader.map_or_else(|| store.reader(), Ok)?;
            Ok((reader.read_all(after, &filter, limit)?, reader))
        };
        let joined = tokio::task::spawn_blocking(read).await;
        joined.unwrap_or_else(|panic| Err(Error::Failed(format!("reading events: {panic}"))))
    }

    /// Waits until there is something new. Returns false if the client disconnects or the host stops before.
    async fn wait(&mut self) -> bool {
        let after = self.after;
        tokio::select! {
            head = self.head.wait_for(|head| *head > after) => head.is_ok(),
            () = self.lines.closed() => false,
            _ = self.closing.wait_for(|closing| *closing) => false,
        }
    }
}

/// One event as a line. The names of its fields are part of the API.
#[derive(Serialize)]
struct Line<'e> {
    position: u64,
    id: String,
    stream: String,
    #[serde(rename = "type")]
    aggregate_type: &'e str,
    aggregate_id: &'e str,
    version: u64,
    name: &'e str,
    time_ms: u64,
    recorded_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_ms: Option<u64>,
    correlation_id: &'e str,
    causation_id: &'e str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<LineHeader<'e>>,
    payload: Payload<'e>,
}

#[derive(Serialize)]
struct LineHeader<'e> {
    name: &'e str,
    value: Option<Text<'e>>,
}

/// Bytes, as text if they are UTF-8.
#[derive(Serialize)]
#[serde(untagged)]
enum Text<'e> {
    Text(&'e str),
    Bytes { base64: String },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'e> {
    Json(Cow<'e, RawValue>),
    Bytes { base64: String },
}

fn lines(events: &[RecordedEvent]) -> Bytes {
    let mut text = Vec::with_capacity(events.len() * 512);
    for event in events {
        // Writing these types to memory never fails.
        serde_json::to_writer(&mut text, &line(event)).expect("an event is JSON");
        text.push(b'\n');
    }
    text.into()
}

fn line(event: &RecordedEvent) -> Line<'_> {
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
        payload: payload(&event.payload),
    }
}

fn line_header(header: &Header) -> LineHeader<'_> {
    let text = |bytes| std::str::from_utf8(bytes).map_or_else(|_| Text::Bytes { base64: base64(bytes) }, Text::Text);
    LineHeader { name: &header.name, value: header.value.as_deref().map(text) }
}

fn payload(bytes: &[u8]) -> Payload<'_> {
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
    use crate::model::{StreamId, Version};

    fn event(payload: &[u8]) -> RecordedEvent {
        RecordedEvent {
            id: uuid::Uuid::nil(),
            position: Position(7),
            stream: StreamId::new("order", "a/b"),
            version: Version(2),
            name: "OrderCreated".into(),
            payload: payload.to_vec(),
            time_ms: 5,
            first_ms: None,
            correlation_id: "c".into(),
            causation_id: "d".into(),
            hops: 0,
            headers: Vec::new(),
        }
    }

    #[test]
    fn an_event_is_a_line_of_json() {
        let text = lines(&[event(br#"{"b":1.50,"a":"x"}"#)]);
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
        let text = String::from_utf8(lines(&[RecordedEvent { headers, ..event(b"{}") }]).to_vec()).unwrap();
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
            let text = String::from_utf8(lines(&[event(payload)]).to_vec()).unwrap();
            assert!(text.ends_with(&format!("{expected}\n")), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
    }
}
