//! Events: the decisions of aggregates, by stream and in the order of their commits.

use super::{Error, Reader};
use crate::ack::Ack;
use crate::filter::Filter;
use crate::model::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// The writing side of events.
pub trait Events: Send + Sync + 'static {
    /// Records the decision on a command in one transaction: its events, outcome or dead letter, and the settled item
    /// of its ledger. Blocks while the queue is full.
    fn append(&self, append: Append, ack: Ack<Result<Appended, Error>>);

    /// Archives a stream: appends to it fail with [`Error::Archived`]. Its events stay and are read as before. Fails
    /// with [`Error::NotFound`] if the stream has no events.
    fn archive(&self, stream: StreamId, ack: Ack<Result<(), Error>>);

    /// Restores an archived stream, so that it accepts events again. Does nothing if the stream is not archived.
    fn restore(&self, stream: StreamId, ack: Ack<Result<(), Error>>);

    /// Watches the position of the newest event, to wake those who wait for new ones. It may skip values but never the
    /// last one.
    fn head(&self) -> watch::Receiver<Position>;

    /// Keeps the snapshot of an aggregate and replaces its previous one. This is a cache: it never blocks, and a
    /// snapshot may be lost at any time. A store need not have snapshots.
    fn keep_snapshot(&self, _snapshot: Snapshot) {}
}

/// The reading side of events. A page ends at a limit or at [`PAGE_BYTES_MAX`].
pub trait EventReader: Send {
    /// Returns at most `limit` events of one stream after a version, in version order.
    fn read_stream(&mut self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<RecordedEvent>, Error>;

    /// Returns at most `limit` events of one stream before a version, newest first.
    fn read_stream_backwards(
        &mut self,
        stream: &StreamId,
        before: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, Error>;

    /// Returns events of the whole store after a position that pass the filter. No event is skipped: a later call with
    /// the page's `reached` as `after` resumes exactly where this page ended.
    fn read_all(&mut self, after: Position, filter: &Filter, limit: usize) -> Result<Page, Error>;

    /// Searches events of the whole store from one position to another, both included, in either direction. The page's
    /// `reached` is the last position that was searched, from which the next search resumes. A search reads a bounded number
    /// of events, so a page may be empty before the end.
    fn search(&mut self, search: &EventSearch, from: Position, to: Position, limit: usize) -> Result<Page, Error>;

    /// Returns the position of the first event that was recorded at a time or later, or the one after the newest event if
    /// there is none.
    fn position_at(&mut self, recorded_ms: u64) -> Result<Position, Error>;

    /// Returns the version of a stream, which is 0 if it has no events.
    fn stream_version(&mut self, stream: &StreamId) -> Result<Version, Error>;

    /// Returns whether a stream is archived and accepts no more events.
    fn is_archived(&mut self, stream: &StreamId) -> Result<bool, Error>;

    /// Returns at most `limit` archived streams after one, or the first ones, in the order of their types and ids.
    fn archived_streams(&mut self, after: Option<&StreamId>, limit: usize) -> Result<Vec<ArchivedStream>, Error>;

    /// Returns the snapshot of an aggregate that this code made, if one was kept. It always matches the current stream:
    /// a snapshot of a history that no longer exists is not found.
    fn snapshot(&mut self, _stream: &StreamId, _code: &str) -> Result<Option<Snapshot>, Error> {
        Ok(None)
    }

    /// Returns how commands ended, counted since the store was created.
    fn tallies(&mut self) -> Result<Vec<Tally>, Error>;
}

/// An archived stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedStream {
    /// The stream.
    pub stream: StreamId,
    /// The time at which it was archived, in milliseconds since 1970-01-01T00:00:00Z.
    pub time_ms: u64,
}

/// The decision of an aggregate on a command, to be recorded.
#[derive(Debug)]
pub struct Append {
    /// The command. Its origin and id make a repetition harmless.
    pub command: Arc<Command>,
    /// The version that its stream must have. It must also match if the command was refused, because the refusal was
    /// decided on that version.
    pub expected: ExpectedVersion,
    /// The decision.
    pub decision: Decision,
    /// The appends before this one that it depends on, if it was decided before they were durable.
    pub chain: Option<Chain>,
}

/// Appends of which each was decided on the state after the one before. Once one of them fails, a store fails those after it with
/// [`Error::Conflict`], also if others have brought the stream to the version that they expect.
#[derive(Clone, Debug, Default)]
pub struct Chain(Arc<AtomicBool>);

impl Chain {
    /// Whether an append of the chain has failed.
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Says that an append of the chain has failed. A store does so before it looks at the next append of the chain.
    pub fn break_off(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The result of a command.
#[derive(Debug)]
pub enum Decision {
    /// The command is accepted. Either all of its events are recorded or none.
    Events(Vec<NewEvent>),
    /// A business rule refused the command, for this reason.
    Rejected(String),
    /// The command can't be handled, for this reason. If it has an origin and nobody asked for its outcome, it is
    /// dead-lettered.
    Malformed(String),
    /// The command is not decided, and never will be. It is treated as a malformed one.
    Undecided(Undecided),
}

/// The answer to an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The version of the stream after the append.
    pub version: Version,
    /// The position of the last event, or that of the store's newest event if the append had none.
    pub position: Position,
}

/// Reads the event at a position.
pub fn event_at(reader: &mut dyn Reader, position: Position) -> Result<RecordedEvent, Error> {
    let page = reader.read_all(Position(position.0.saturating_sub(1)), &Filter::all(), 1)?;
    let found = page.events.into_iter().find(|event| event.position == position);
    found.ok_or_else(|| Error::NotFound(format!("the store has no event at position {position}")))
}

/// The events that a search wants.
#[derive(Clone, Debug)]
pub struct EventSearch {
    /// Their types and names.
    pub filter: Filter,
    /// An id that they have, if not all are wanted.
    pub id: Option<SearchedId>,
}

/// An id by which events are searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchedId {
    /// The correlation id, which everything from one first cause has.
    Correlation(String),
    /// The event's own id, its causation id or its correlation id.
    Any(String),
}

/// Events, and the position up to which they were searched.
#[derive(Debug)]
pub struct Page {
    /// The events, in position order.
    pub events: Vec<RecordedEvent>,
    /// The position up to which all events have been checked.
    pub reached: Position,
}

/// The state of an aggregate at a version of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The stream of the aggregate.
    pub stream: StreamId,
    /// The version of the last event that is in the state.
    pub version: Version,
    /// The code that made it. Other code does not get it, because it may interpret the state differently.
    pub code: Arc<str>,
    /// The state, in the encoding of the code.
    pub state: Vec<u8>,
}

/// The number of commands with one name that ended in each way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// The type of the aggregate.
    pub aggregate_type: String,
    /// The command's name.
    pub command: String,
    /// The commands that were accepted, with or without events.
    pub accepted: u64,
    /// The commands that a business rule refused.
    pub rejected: u64,
    /// The commands that did not decode, or that failed in all attempts.
    pub malformed: u64,
}

/// The bytes of events at which a page ends, whatever its limit. The event that reaches them is still in the page.
pub const PAGE_BYTES_MAX: usize = 8 << 20;

/// Returns why events of a command may not be recorded, if one has more bytes than the limit.
pub fn check_sizes(command: &Command, events: &[NewEvent], bytes_max: usize) -> Result<(), String> {
    let shared = shared_bytes(command);
    let bytes = |event: &NewEvent| shared + event.name.len() + event.payload.len();
    match events.iter().find(|event| bytes(event) > bytes_max) {
        None => Ok(()),
        Some(event) => Err(format!(
            "event {} of {} has {} bytes, {} of them payload, and the limit is {bytes_max}: make it smaller or raise \
             store.event_bytes_max",
            clipped(&event.name),
            clipped(&command.stream.to_string()),
            bytes(event),
            event.payload.len()
        )),
    }
}

/// Returns the bytes that each event of a command has besides its name and payload.
pub fn shared_bytes(command: &Command) -> usize {
    let Command { stream, id, correlation_id, headers, .. } = command;
    bytes_besides(stream, id, correlation_id, headers)
}

/// Returns the bytes of an event, as [`check_sizes`] counts them.
pub fn event_bytes(event: &RecordedEvent) -> usize {
    let RecordedEvent { stream, name, payload, correlation_id, causation_id, headers, .. } = event;
    bytes_besides(stream, causation_id, correlation_id, headers) + name.len() + payload.len()
}

/// Returns the bytes that an event has besides its name and payload.
fn bytes_besides(stream: &StreamId, causation_id: &str, correlation_id: &str, headers: &[Header]) -> usize {
    let headers: usize = headers.iter().map(Header::bytes).sum();
    stream.aggregate_id.len() + causation_id.len() + correlation_id.len() + headers
}

/// Shortens a name that a plugin or a sender chose, for use in a message.
fn clipped(name: &str) -> String {
    const SHOWN: usize = 200;
    let mut text: String = name.chars().take(SHOWN).collect();
    if text.len() < name.len() {
        text.push('…');
    }
    text
}

/// Returns whether a page of a stream ended because it was full, so that there may be more events.
pub fn is_full(page: &[RecordedEvent], limit: usize) -> bool {
    is_enough(page.len(), limit, page.iter().map(RecordedEvent::size).sum())
}

fn is_enough(events: usize, limit: usize, bytes: usize) -> bool {
    events >= limit || bytes >= PAGE_BYTES_MAX
}

/// A page that a store is filling.
pub struct Filling {
    /// The events so far.
    pub events: Vec<RecordedEvent>,
    limit: usize,
    bytes: usize,
}

impl Filling {
    /// Makes an empty page for at most this many events.
    pub fn new(limit: usize) -> Self {
        Self { events: Vec::new(), limit, bytes: 0 }
    }

    /// Returns whether the page is full.
    pub fn is_full(&self) -> bool {
        is_enough(self.events.len(), self.limit, self.bytes)
    }

    /// Adds an event.
    pub fn push(&mut self, event: RecordedEvent) {
        self.bytes += event.size();
        self.events.push(event);
    }
}
