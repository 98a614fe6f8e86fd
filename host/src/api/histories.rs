//! `GET /v1/trace/ID`: everything that followed from one first cause. `GET /v1/streams/TYPE/ID/state`: the state of an
//! aggregate at a version.

use super::Server;
use super::answer::HttpError;
use super::event_lines::{Payload, line, payload};
use super::events::SEARCH_MAX;
use super::problem::ProblemType;
use super::searches::Search;
use crate::filter::Filter;
use crate::host::Unshown;
use crate::model::{DeadLetterContent, KeptDeadLetter, Position, StreamId, Version};
use crate::status::{DeadLetterItem, RequestItem, TimerItem, Trace};
use crate::store::{
    DeadLetterQuery, Error, EventSearch, KeptTimer, ListedRequest, Reader, RequestQuery, SearchedId, TimerQuery,
    event_at,
};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// The most events of a trace.
const EVENTS_MAX: usize = 1_000;

/// The numbers of dead letters, timers and HTTP requests among which those of a trace are looked for.
const DEAD_LETTERS_MAX: usize = 1_000;
const TIMERS_MAX: usize = 10_000;
const REQUESTS_MAX: usize = 10_000;

/// Searches, traces and states that read at the same time. More of them would have a snapshot of the store open at any time,
/// so that its log could not be folded.
pub(super) const LONG_READS_MAX: usize = 2;

/// Room for a request that reads many events. It is held until the reading ends, also if the client has left.
struct LongRead {
    _permit: OwnedSemaphorePermit,
    client: oneshot::Sender<Infallible>,
}

impl LongRead {
    /// Waits for room. The second value stands for the client: when it is dropped, nobody waits for the answer any more.
    async fn of(server: &Server) -> Result<(Self, oneshot::Receiver<Infallible>), HttpError> {
        let permit = server.unless_closing(server.long_reads.clone().acquire_owned()).await?;
        let (client, waits) = oneshot::channel();
        Ok((Self { _permit: permit.expect("no semaphore of the API is closed"), client }, waits))
    }

    fn is_wanted(&self) -> bool {
        !self.client.is_closed()
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The maximum number of events to read; 1,000,000 by default.
    search_max: Option<u64>,
}

pub(super) async fn trace(
    State(server): State<Server>,
    id: Result<Path<String>, PathRejection>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Trace>, HttpError> {
    let (Path(id), Query(Wanted { search_max })) = (id?, wanted?);
    let (long_read, _waits) = LongRead::of(&server).await?;
    let newest = *server.host.store().head().borrow();
    let left = search_max.unwrap_or(SEARCH_MAX);
    let asked = id.clone();
    let found = server.host.read(move |reader| trace_of(reader, asked, newest, left, &long_read)).await?;
    let Trace { events, timers, requests, dead_letters, .. } = &found;
    if !(events.is_empty() && timers.is_empty() && requests.is_empty() && dead_letters.is_empty()) {
        return Ok(Json(found));
    }
    let among = match found.more {
        true => {
            format!(" among those from position {} on; search more with `search_max` (`--search`)", found.searched_to)
        }
        false => String::new(),
    };
    let text = format!(
        "no event, timer, HTTP request or dead letter has {id:?} as its id, causation id or correlation id{among}"
    );
    Err(HttpError::no_such_name(text))
}

fn trace_of(
    reader: &mut dyn Reader,
    id: String,
    newest: Position,
    left: u64,
    long_read: &LongRead,
) -> Result<Trace, Error> {
    let search = |id: SearchedId| {
        let wanted = EventSearch { filter: Filter::all(), id: Some(id) };
        Search { wanted, next: newest, to: Position(1), backwards: true, left }
    };
    let (mut by_id, mut found) = (search(SearchedId::Any(id.clone())), Vec::new());
    while by_id.may_go_on() && found.is_empty() && long_read.is_wanted() {
        found = by_id.step(reader, 1)?;
    }
    let correlation_id = found.pop().map_or(id, |event| event.correlation_id.to_string());
    // Events that are newer than the one found belong to the trace too.
    let (mut search, mut events) = (search(SearchedId::Correlation(correlation_id.clone())), Vec::new());
    while search.may_go_on() && events.len() < EVENTS_MAX && long_read.is_wanted() {
        events.extend(search.step(reader, EVENTS_MAX - events.len())?);
    }
    events.reverse();
    let Waiting { timers, requests, dead_letters } = of_correlation(reader, &correlation_id)?;
    Ok(Trace {
        events: events.iter().map(|event| serde_json::to_value(line(event)).expect("an event is JSON")).collect(),
        timers,
        requests,
        dead_letters,
        searched_to: search.searched_to().0,
        more: !search.is_over(),
        correlation_id,
    })
}

/// What waits of a flow.
pub(super) struct Waiting {
    pub(super) timers: Vec<TimerItem>,
    pub(super) requests: Vec<RequestItem>,
    pub(super) dead_letters: Vec<DeadLetterItem>,
}

/// Returns the timers, the HTTP requests and the dead letters with a correlation id.
pub(super) fn of_correlation(reader: &mut dyn Reader, correlation_id: &str) -> Result<Waiting, Error> {
    let (timers, _) = reader.timers(&TimerQuery { subscription: None, limit: TIMERS_MAX })?;
    let is_of_it = |timer: &KeptTimer| *timer.callback.callback.correlation_id == *correlation_id;
    let timers = timers.into_iter().filter(is_of_it).map(TimerItem::from).collect();
    let (requests, _) = reader.requests(&RequestQuery { subscription: None, after: 0, limit: REQUESTS_MAX })?;
    let is_of_it = |request: &ListedRequest| *request.kept.request.correlation_id == *correlation_id;
    let requests = requests.into_iter().filter(is_of_it).map(RequestItem::from).collect();
    Ok(Waiting { timers, requests, dead_letters: dead_letters(reader, correlation_id)? })
}

fn dead_letters(reader: &mut dyn Reader, correlation_id: &str) -> Result<Vec<DeadLetterItem>, Error> {
    let (letters, _) =
        reader.dead_letters(&DeadLetterQuery { consumer: None, before: None, limit: DEAD_LETTERS_MAX })?;
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
        DeadLetterContent::Http(kept) => *kept.request.correlation_id == *correlation_id,
        DeadLetterContent::Event(position) => *event_at(reader, *position)?.correlation_id == *correlation_id,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedState {
    /// The last version that the state includes; by default that of the newest event.
    version: Option<u64>,
}

/// The state of an aggregate at a version of its stream.
#[derive(Serialize, JsonSchema)]
pub(super) struct AggregateState<'s> {
    /// The stream.
    stream: String,
    /// The version.
    version: u64,
    /// The state, as the aggregate's code keeps it in snapshots: JSON, or `{"base64":"…"}` if it is not JSON.
    #[schemars(with = "serde_json::Value")]
    state: Payload<'s>,
}

pub(super) async fn state(
    State(server): State<Server>,
    stream: Result<Path<(String, String)>, PathRejection>,
    wanted: Result<Query<WantedState>, QueryRejection>,
) -> Result<Response, HttpError> {
    let (Path((aggregate_type, aggregate_id)), Query(WantedState { version })) = (stream?, wanted?);
    let stream = StreamId::new(aggregate_type, aggregate_id);
    let (long_read, _waits) = LongRead::of(&server).await?;
    let shown = server.host.state(stream.clone(), version.map(Version), move || long_read.is_wanted()).await;
    let shown = shown.map_err(|unshown| match unshown {
        Unshown::Unknown(text) => HttpError::no_such_name(text),
        Unshown::Impossible(text) => HttpError::new(ProblemType::NotPossible, text),
        Unshown::Store(error) => error.into(),
    })?;
    let state = payload(&shown.state);
    Ok(Json(AggregateState { stream: stream.to_string(), version: shown.version.0, state }).into_response())
}
