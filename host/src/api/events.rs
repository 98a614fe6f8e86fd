//! `GET /v1/events` and `GET /v1/streams/TYPE/ID/events`: the store's events as lines of JSON: all from a position on,
//! followed by new ones if requested, those that a search finds, or those of one stream. All events are also served as
//! Server-Sent Events.

use super::Server;
use super::answer::{self, HttpError};
use super::event_lines::lines;
use super::problem::ProblemType;
use super::searches::Search;
use super::sse;
use crate::access::Caller;
use crate::filter::Filter;
use crate::host::Counted;
use crate::model::{Position, RecordedEvent, StreamId, Version};
use crate::store::{Error, EventSearch, EventStore, Reader, SearchedId};
use crate::upcasts::{Migrates, Shape, Tries};
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

/// The most events of one page. A slow client holds at most two pages in memory.
const PAGE_EVENTS_MAX: usize = 500;

/// The most events that a search reads, unless the request says another number.
pub(super) const SEARCH_MAX: u64 = 1_000_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The first position to return; 1 by default. Backwards it is the highest one, by default the newest.
    from: Option<u64>,
    /// The maximum number of events.
    limit: Option<u64>,
    /// Patterns over `type.EventName`, separated by commas. `*` stands for one segment, `**` for any number of segments.
    #[serde(rename = "type")]
    types: Option<String>,
    /// Whether to continue with new events until the client disconnects.
    #[serde(default)]
    follow: bool,
    /// The correlation id of the events to search.
    correlation_id: Option<String>,
    /// The correlation id, causation id or own id of the events to search.
    id: Option<String>,
    /// The time since which the events were recorded, in ms since 1970-01-01T00:00:00Z.
    since_ms: Option<u64>,
    /// The time before which the events were recorded, in ms since 1970-01-01T00:00:00Z.
    until_ms: Option<u64>,
    /// Whether the newest event comes first.
    #[serde(default)]
    backwards: bool,
    /// The maximum number of events to read, also of those that do not match; 1,000,000 by default.
    search_max: Option<u64>,
    /// The shape of the payloads.
    #[serde(default)]
    shape: Shape,
}

impl Wanted {
    /// Whether events are searched that may be far apart, and not read one after the other.
    fn is_search(&self) -> bool {
        let Self { correlation_id, id, since_ms, until_ms, backwards, search_max, .. } = self;
        let is_of_id = correlation_id.is_some() || id.is_some();
        is_of_id || since_ms.is_some() || until_ms.is_some() || *backwards || search_max.is_some()
    }

    fn filter(&self) -> Result<Filter, HttpError> {
        match &self.types {
            Some(types) => Filter::parse(types.split(',')).map_err(|cause| HttpError::malformed(cause.to_string())),
            None => Ok(Filter::all()),
        }
    }

    fn id(&self) -> Result<Option<SearchedId>, HttpError> {
        match (&self.correlation_id, &self.id) {
            (Some(_), Some(_)) => Err(HttpError::malformed("give `correlation_id` or `id`, not both")),
            (Some(id), None) => Ok(Some(SearchedId::Correlation(id.clone()))),
            (None, id) => Ok(id.clone().map(SearchedId::Any)),
        }
    }
}

pub(super) async fn stream(
    State(server): State<Server>,
    Extension(caller): Extension<Caller>,
    wanted: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let Query(wanted) = wanted?;
    let (filter, id) = (wanted.filter()?, wanted.id()?);
    let filter = match caller.aggregates() {
        Some(types) => filter.within(types),
        None => filter,
    };
    let limit = wanted.limit.unwrap_or(u64::MAX);
    let form = if sse::is_wanted(&headers) { Form::ServerSent } else { Form::Lines };
    let follows = wanted.follow || form == Form::ServerSent;
    if !wanted.is_search() {
        let mut after = Position(wanted.from.unwrap_or(1).saturating_sub(1));
        if form == Form::ServerSent {
            let last = sse::last_event_id(&headers)?;
            refuse_unknown(&server, last).await?;
            after = after.max(last);
        }
        let reading = Reading::All { filter, after, follows };
        return send(&server, reading, limit, wanted.shape, form).await;
    }
    if follows {
        let text = "`follow` and `Accept: text/event-stream` can only be combined with `from`, `limit`, `type` and `shape`: new \
                    events are not searched";
        return Err(HttpError::malformed(text));
    }
    let Wanted { from, since_ms, until_ms, backwards, search_max, shape, .. } = wanted;
    let newest = *server.host.store().head().borrow();
    let bounds = move |reader: &mut dyn Reader| {
        let since = since_ms.map(|ms| reader.position_at(ms)).transpose()?;
        let until = until_ms.map(|ms| reader.position_at(ms)).transpose()?;
        let last = until.map_or(newest, |until| Position(until.0.saturating_sub(1)).min(newest));
        Ok((since.unwrap_or(Position(1)), last))
    };
    let (oldest, newest) = server.host.read(bounds).await?;
    let search = Search {
        wanted: EventSearch { filter, id },
        next: match (backwards, from.map(Position)) {
            (false, from) => from.unwrap_or_default().max(oldest),
            (true, from) => from.unwrap_or(newest).min(newest),
        },
        to: if backwards { oldest } else { newest },
        backwards,
        left: search_max.unwrap_or(SEARCH_MAX),
    };
    send(&server, Reading::Search(search), limit, shape, Form::Lines).await
}

/// Refuses the id of a last event that this store does not have. A store that was restored from a backup records other events under
/// the positions that such a client has seen, and the client would miss them.
async fn refuse_unknown(server: &Server, last: Position) -> Result<(), HttpError> {
    // The newest position is told a moment after its event can be read.
    let newest = *server.host.store().head().borrow();
    if last <= newest {
        return Ok(());
    }
    let before = Position(last.0 - 1);
    let page = server.host.read(move |reader| reader.read_all(before, &Filter::all(), 1)).await?;
    if page.reached >= last {
        return Ok(());
    }
    let text = format!(
        "the header Last-Event-ID is {last}, and the newest event has position {newest}: the store is older than what the client has, as \
         after a restore; forget what came from this store after the position that the backup had, and read again from there with `from`"
    );
    Err(HttpError::new(ProblemType::NotPossibleNow, text))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedOfStream {
    /// The first version to return; 1 by default. Backwards it is the highest one, by default the newest.
    from: Option<u64>,
    /// The maximum number of events.
    limit: Option<u64>,
    /// Whether the newest event comes first.
    #[serde(default)]
    backwards: bool,
    /// The shape of the payloads.
    #[serde(default)]
    shape: Shape,
}

/// `GET /v1/streams/TYPE/ID/events`.
pub(super) async fn of_stream(
    State(server): State<Server>,
    stream: Result<Path<(String, String)>, PathRejection>,
    wanted: Result<Query<WantedOfStream>, QueryRejection>,
) -> Result<Response, HttpError> {
    let (Path((aggregate_type, aggregate_id)), Query(wanted)) = (stream?, wanted?);
    let WantedOfStream { from, limit, backwards, shape } = wanted;
    let stream = StreamId::new(aggregate_type, aggregate_id);
    let asked = stream.clone();
    if server.host.read(move |reader| reader.stream_version(&asked)).await? == Version(0) {
        return Err(HttpError::no_such_stream(&stream));
    }
    let beyond = match (backwards, from) {
        (false, from) => Version(from.unwrap_or(1).saturating_sub(1)),
        (true, from) => Version(from.map_or(u64::MAX, |from| from.saturating_add(1))),
    };
    let reading = Reading::Stream { stream, beyond, backwards };
    send(&server, reading, limit.unwrap_or(u64::MAX), shape, Form::Lines).await
}

/// The form in which events are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Lines of JSON.
    Lines,
    /// Server-Sent Events.
    ServerSent,
}

async fn send(server: &Server, reading: Reading, limit: u64, shape: Shape, form: Form) -> Result<Response, HttpError> {
    let follows = matches!(reading, Reading::All { follows: true, .. });
    let is_long = follows || matches!(reading, Reading::Search(_));
    let place = Place::of(server, limit, is_long).await?;
    let upcasts = (shape == Shape::Newest).then(|| server.host.upcasts().open());
    let (lines, body) = mpsc::channel(place.pages_max());
    let follower = Follower {
        head: server.host.store().head(),
        store: server.host.store().clone(),
        left: limit,
        form,
        sent: Instant::now(),
        lines,
        long_reads: server.long_reads.clone(),
        closing: server.closing.clone(),
    };
    let host = server.host.clone();
    tokio::spawn(async move {
        let streams = &host.traffic().streams;
        let _counted = matches!(place, Place::Stream(_)).then(|| Counted::new(streams));
        follower.run(PageReader { reading, reader: None, upcasts }).await;
        drop(place);
    });
    Ok(match form {
        Form::Lines => answer::lines(body),
        Form::ServerSent => (sse::headers(), answer::streamed(body)).into_response(),
    })
}

/// The permit that a read holds. A small read runs at once and does not wait for its client. Every other read is a
/// stream, which lasts as long as its client reads.
enum Place {
    Page { _permit: OwnedSemaphorePermit },
    Stream(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
}

impl Place {
    async fn of(server: &Server, limit: u64, is_long: bool) -> Result<Self, HttpError> {
        if !is_long && limit <= PAGE_EVENTS_MAX as u64 {
            let permit = server.unless_closing(server.pages.clone().acquire_owned()).await?;
            return Ok(Self::Page { _permit: permit.expect("no semaphore of the API is closed") });
        }
        let otherwise =
            format!("a request with `limit` of at most {PAGE_EVENTS_MAX} that searches nothing needs no stream");
        stream_permit(server, &otherwise).map(Self::Stream)
    }

    /// Returns how many pages may wait for the client. A small read must not wait for it, so all of its pages may.
    fn pages_max(&self) -> usize {
        match self {
            Self::Page { .. } => PAGE_EVENTS_MAX,
            Self::Stream(_) => 1,
        }
    }
}

/// Returns the permit for a stream. `otherwise` says what to do if as many are open as may be.
pub(super) fn stream_permit(server: &Server, otherwise: &str) -> Result<OwnedSemaphorePermit, HttpError> {
    server.streams.clone().try_acquire_owned().map_err(|_| {
        server.host.traffic().turned_away.fetch_add(1, Ordering::Relaxed);
        let max = server.settings.streams_max;
        let text =
            format!("{max} event streams are open, as many as the manifest's `api.streams_max` allows; {otherwise}");
        tracing::warn!("{text}");
        HttpError::new(ProblemType::NoRoom, text)
    })
}

/// What a client reads, and how far it is.
enum Reading {
    /// All events that pass a filter, in the order of their positions, and new ones if it follows.
    All {
        filter: Filter,
        /// The position up to which all events are sent or not wanted.
        after: Position,
        follows: bool,
    },
    /// The events that a search finds.
    Search(Search),
    /// The events of a stream.
    Stream {
        stream: StreamId,
        /// The version of the last event that was sent.
        beyond: Version,
        backwards: bool,
    },
}

/// What is left after a page.
enum Rest {
    /// More, if the client wants it.
    More,
    /// What is recorded later.
    NewEvents,
    Nothing,
    /// What a search has not searched, because it may not search more. It has searched up to this position.
    Unsearched(Position),
}

impl Reading {
    /// Reads the next page. `end` is the position at which a reading of all events ends.
    fn page(
        &mut self,
        reader: &mut dyn Reader,
        limit: usize,
        end: Position,
    ) -> Result<(Vec<RecordedEvent>, Rest), Error> {
        match self {
            Self::All { filter, after, .. } => {
                let page = reader.read_all(*after, filter, limit)?;
                *after = page.reached;
                Ok((page.events, if page.reached >= end { Rest::NewEvents } else { Rest::More }))
            }
            Self::Search(search) if search.may_go_on() => Ok((search.step(reader, limit)?, Rest::More)),
            Self::Search(search) if search.is_over() => Ok((Vec::new(), Rest::Nothing)),
            Self::Search(search) => Ok((Vec::new(), Rest::Unsearched(search.searched_to()))),
            Self::Stream { stream, beyond, backwards } => {
                let events = match backwards {
                    true => reader.read_stream_backwards(stream, *beyond, limit)?,
                    false => reader.read_stream(stream, *beyond, limit)?,
                };
                let Some(last) = events.last() else { return Ok((events, Rest::Nothing)) };
                *beyond = last.version;
                Ok((events, Rest::More))
            }
        }
    }
}

/// What is read for one client, and by what.
struct PageReader {
    reading: Reading,
    reader: Option<Box<dyn Reader>>,
    /// What migrates the events, if the client wants their newest shape.
    upcasts: Option<Box<dyn Migrates>>,
}

/// The reader of one client. It reads pages until the client has all that it wants, or disconnects.
struct Follower {
    store: Arc<dyn EventStore>,
    head: watch::Receiver<Position>,
    /// The number of events that are still wanted.
    left: u64,
    form: Form,
    /// The time at which something was sent last.
    sent: Instant,
    lines: mpsc::Sender<Result<Bytes, Infallible>>,
    /// Room for the steps of searches.
    long_reads: Arc<Semaphore>,
    closing: watch::Receiver<bool>,
}

impl Follower {
    async fn run(mut self, client: PageReader) {
        if let Err(cause) = self.send_pages(client).await {
            tracing::error!(%cause, "an event stream of the API failed");
            // The status line is already sent, so the last line has the error.
            let line = serde_json::json!({ "error": cause.to_string() }).to_string() + "\n";
            let line = if self.form == Form::ServerSent { sse::error(&line) } else { line };
            let _ = self.lines.send(Ok(line.into())).await;
        }
    }

    async fn send_pages(&mut self, mut client: PageReader) -> Result<(), Error> {
        let end = *self.head.borrow_and_update();
        while self.left > 0 {
            let (events, text, rest);
            (events, text, rest, client) = self.read(client, end).await?;
            self.left = self.left.saturating_sub(events);
            let reached = match &client.reading {
                Reading::All { after, .. } => *after,
                // They have no heartbeats.
                Reading::Search(_) | Reading::Stream { .. } => Position(0),
            };
            let gone = if events > 0 { !self.send(text).await } else { !self.beat(reached).await };
            let done = match (rest, &client.reading) {
                _ if self.left == 0 => true,
                (Rest::More, _) => self.lines.is_closed(),
                (Rest::NewEvents, Reading::All { after, follows: true, .. }) => !self.wait(*after).await,
                (Rest::NewEvents | Rest::Nothing, _) => true,
                (Rest::Unsearched(position), _) => {
                    let line = serde_json::json!({ "searched_to": position.0, "more": true }).to_string() + "\n";
                    let _ = self.lines.send(Ok(line.into())).await;
                    true
                }
            };
            if gone || done {
                break;
            }
        }
        Ok(())
    }

    /// Sends text. Returns false if the client has disconnected.
    async fn send(&mut self, text: Bytes) -> bool {
        let sent = self.lines.send(Ok(text)).await.is_ok();
        self.sent = Instant::now();
        sent
    }

    /// Sends a heartbeat with the position that was reached, if it is time for one. Returns false if the client has disconnected.
    async fn beat(&mut self, reached: Position) -> bool {
        match self.form {
            Form::ServerSent if self.sent.elapsed() >= sse::HEARTBEAT => {
                // A client may wait for positions that the store does not have yet. It has not reached them.
                let newest = *self.head.borrow();
                self.send(sse::heartbeat(reached.min(newest))).await
            }
            _ => true,
        }
    }

    /// Reads a page on a thread that may block, with this client's own reader.
    async fn read(&self, mut client: PageReader, end: Position) -> Result<(u64, Bytes, Rest, PageReader), Error> {
        let store = self.store.clone();
        let limit = PAGE_EVENTS_MAX.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let form = self.form;
        let is_search = matches!(client.reading, Reading::Search(_));
        let room = if is_search { Some(self.long_reads.clone().acquire_owned().await) } else { None };
        let read = move || {
            let _room = room;
            let mut reader = client.reader.take().map_or_else(|| store.reader(), Ok)?;
            let (mut events, rest) = client.reading.page(&mut *reader, limit, end)?;
            client.reader = Some(reader);
            let unmigrated = client
                .upcasts
                .as_mut()
                .map(|upcasts| upcasts.migrate(&mut events, Tries::UntilOneFails))
                .unwrap_or_default();
            let text = match form {
                Form::Lines => lines(&events, &unmigrated),
                Form::ServerSent => sse::events(&events, &lines(&events, &unmigrated)),
            };
            Ok((events.len() as u64, text, rest, client))
        };
        let joined = tokio::task::spawn_blocking(read).await;
        joined.unwrap_or_else(|panic| Err(Error::Failed(format!("reading events: {panic}"))))
    }

    /// Waits until there is something after a position. Returns false if the client disconnects or the host stops before.
    async fn wait(&mut self, after: Position) -> bool {
        loop {
            let beat = self.sent + sse::HEARTBEAT;
            tokio::select! {
                head = self.head.wait_for(|head| *head > after) => return head.is_ok(),
                () = self.lines.closed() => return false,
                _ = self.closing.wait_for(|closing| *closing) => return false,
                () = tokio::time::sleep_until(beat), if self.form == Form::ServerSent => {}
            }
            if !self.beat(after).await {
                return false;
            }
        }
    }
}
