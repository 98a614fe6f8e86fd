//! `GET /v1/trace/ID`: everything that followed from one first cause. `GET /v1/streams/TYPE/ID/state`: the state of an
//! aggregate at a version.

use super::Server;
use super::answer::HttpError;
use super::events::{SEARCH_MAX, line};
use crate::filter::Filter;
use crate::host::Unshown;
use crate::model::{DeadLetterContent, KeptDeadLetter, Position, RecordedEvent, StreamId, Version};
use crate::status::{DeadLetterItem, TimerItem, Trace};
use crate::store::{DeadLetterQuery, Error, EventSearch, Reader, SearchedId, TimerQuery};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use base64::Engine;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// The most events of a trace.
const EVENTS_MAX: usize = 1_000;

/// The numbers of dead letters and of timers among which those of a trace are looked for.
const LETTERS_MAX: usize = 1_000;
const TIMERS_MAX: usize = 10_000;

/// Searches, traces and states that read at the same time. More of them would have a snapshot of the store open at any time,
/// so that its log could not be folded.
pub(super) const LOOKS_MAX: usize = 2;

/// Room for a request that reads many events. It is held until the reading ends, also if the client has left.
struct Look {
    _permit: OwnedSemaphorePermit,
    client: oneshot::Sender<Infallible>,
}

impl Look {
    /// Waits for room. The second value stands for the client: when it is dropped, nobody waits for the answer any more.
    async fn of(server: &Server) -> Result<(Self, oneshot::Receiver<Infallible>), HttpError> {
        let permit = server.unless_closing(server.looks.clone().acquire_owned()).await?;
        let (client, waits) = oneshot::channel();
        Ok((Self { _permit: permit.expect("no semaphore of the API is closed"), client }, waits))
    }

    fn is_wanted(&self) -> bool {
        !self.client.is_closed()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    search_max: Option<u64>,
}

pub(super) async fn trace(
    State(server): State<Server>,
    id: Result<Path<String>, PathRejection>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Trace>, HttpError> {
    let (Path(id), Query(Wanted { search_max })) = (id?, wanted?);
    let (look, _waits) = Look::of(&server).await?;
    let newest = *server.host.store().head().borrow();
    let left = search_max.unwrap_or(SEARCH_MAX);
    let asked = id.clone();
    let found = server.host.read(move |reader| trace_of(reader, asked, newest, left, &look)).await?;
    found.map(Json).map_err(|searched_to| {
        let where_ = if searched_to > Position(1) {
            format!(" among those from position {searched_to} on; search more with `search_max` (`--search`)")
        } else {
            String::new()
        };
        let text =
            format!("no event, timer or dead letter has {id:?} as its id, causation id or correlation id{where_}");
        HttpError::new(StatusCode::NOT_FOUND, text)
    })
}

/// Returns what followed, or the position back to which nothing was found.
fn trace_of(
    reader: &mut dyn Reader,
    id: String,
    newest: Position,
    left: u64,
    look: &Look,
) -> Result<Result<Trace, Position>, Error> {
    let found = Search { next: newest, left, look }.next(reader, &SearchedId::Any(id.clone()), 1)?.pop();
    let correlation_id = found.map_or(id, |event| event.correlation_id.to_string());
    // Events that are newer than the one found belong to the trace too.
    let mut search = Search { next: newest, left, look };
    let mut events = Vec::new();
    let wanted = SearchedId::Correlation(correlation_id.clone());
    while search.may_go_on() && events.len() < EVENTS_MAX {
        let limit = EVENTS_MAX - events.len();
        events.extend(search.next(reader, &wanted, limit)?);
    }
    events.reverse();
    let searched_to = Position(search.next.0 + 1);
    let dead_letters = dead_letters(reader, &correlation_id)?;
    let (timers, _) = reader.timers(&TimerQuery { subscription: None, limit: TIMERS_MAX })?;
    let is_of_it = |timer: &crate::store::KeptTimer| *timer.callback.callback.correlation_id == *correlation_id;
    let timers: Vec<_> = timers.into_iter().filter(is_of_it).map(TimerItem::from).collect();
    if events.is_empty() && dead_letters.is_empty() && timers.is_empty() {
        return Ok(Err(searched_to));
    }
    let events = events.iter().map(|event| serde_json::to_value(line(event)).expect("an event is JSON")).collect();
    let more = search.next > Position(0);
    Ok(Ok(Trace { correlation_id, events, timers, dead_letters, searched_to: searched_to.0, more }))
}

/// A search from the newest event back.
struct Search<'l> {
    next: Position,
    left: u64,
    look: &'l Look,
}

impl Search<'_> {
    fn may_go_on(&self) -> bool {
        self.left > 0 && self.next > Position(0) && self.look.is_wanted()
    }

    /// Searches until an event is found, or as much as it may. The newest event comes first.
    fn next(&mut self, reader: &mut dyn Reader, id: &SearchedId, limit: usize) -> Result<Vec<RecordedEvent>, Error> {
        let search = EventSearch { filter: Filter::all(), id: Some(id.clone()) };
        while self.may_go_on() {
            let last = Position(self.next.0.saturating_sub(self.left - 1).max(1));
            let page = reader.search(&search, self.next, last, limit)?;
            self.left -= self.next.0 - page.reached.0 + 1;
            self.next = Position(page.reached.0 - 1);
            if !page.events.is_empty() {
                return Ok(page.events);
            }
        }
        Ok(Vec::new())
    }
}

fn dead_letters(reader: &mut dyn Reader, correlation_id: &str) -> Result<Vec<DeadLetterItem>, Error> {
    let (letters, _) = reader.dead_letters(&DeadLetterQuery { consumer: None, before: None, limit: LETTERS_MAX })?;
    let mut found = Vec::new();
    for kept in letters {
        if is_of(reader, &kept, correlation_id)? {
            found.push(DeadLetterItem::from(kept));
        }
    }
    Ok(found)
}

fn is_of(reader: &mut dyn Reader, kept: &KeptDeadLetter, correlation_id: &str) -> Result<bool, Error> {
    Ok(match &kept.letter.content {
        DeadLetterContent::Gone => false,
        DeadLetterContent::Record(record) => {
            record.correlation_id().map_or_else(|| record.id() == correlation_id, |id| id == correlation_id)
        }
        DeadLetterContent::Command(command) => *command.correlation_id == *correlation_id,
        DeadLetterContent::Message(_, message) => *message.correlation_id == *correlation_id,
        DeadLetterContent::Callback(kept) => *kept.callback.correlation_id == *correlation_id,
        DeadLetterContent::Event(position) => {
            let page = reader.read_all(Position(position.0 - 1), &Filter::all(), 1)?;
            page.events.first().is_some_and(|event| *event.correlation_id == *correlation_id)
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedState {
    version: Option<u64>,
}

pub(super) async fn state(
    State(server): State<Server>,
    stream: Result<Path<(String, String)>, PathRejection>,
    wanted: Result<Query<WantedState>, QueryRejection>,
) -> Result<Json<Value>, HttpError> {
    let (Path((aggregate_type, aggregate_id)), Query(WantedState { version })) = (stream?, wanted?);
    let stream = StreamId::new(aggregate_type, aggregate_id);
    let (look, _waits) = Look::of(&server).await?;
    let shown = server.host.state(stream.clone(), version.map(Version), move || look.is_wanted()).await;
    let shown = shown.map_err(|unshown| match unshown {
        Unshown::Unknown(text) => HttpError::new(StatusCode::NOT_FOUND, text),
        Unshown::Impossible(text) => HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, text),
        Unshown::Store(error) => error.into(),
    })?;
    let base64 = || json!({ "base64": base64::engine::general_purpose::STANDARD.encode(&shown.state) });
    let state = serde_json::from_slice(&shown.state).unwrap_or_else(|_| base64());
    Ok(Json(json!({ "stream": stream.to_string(), "version": shown.version.0, "state": state })))
}
