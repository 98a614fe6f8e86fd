//! Events: what aggregates decided, in streams and in the order of their commits.

use super::Error;
use crate::ack::Ack;
use crate::filter::Filter;
use crate::model::*;
use std::sync::Arc;
use tokio::sync::watch;

/// Recording events.
pub trait Events: Send + Sync + 'static {
    /// Records what became of a command: events, ledger mark, dead letter and outcome in one transaction.
    /// Blocks while the queue is full.
    fn append(&self, append: Append, ack: Ack<Result<Appended, Error>>);

    /// Lets a stream take no more events: appends to it fail with [`Error::Archived`]. Its events stay where they are,
    /// and are read as before. [`Error::NotFound`] if the stream has no events.
    fn archive(&self, stream: StreamId, ack: Ack<Result<(), Error>>);

    /// Lets an archived stream take events again. Does nothing if it is not archived.
    fn restore(&self, stream: StreamId, ack: Ack<Result<(), Error>>);

    /// Wakes its holder when there is something after a position. It may skip values but never the last one.
    fn head(&self) -> watch::Receiver<Position>;

    /// Keeps the state of a live aggregate in place of what was kept of it before. A cache: it never blocks, and what is
    /// kept may be lost at any time. A store need not have one.
    fn keep_snapshot(&self, _snapshot: Snapshot) {}
}

/// Reading events. Pages end at a limit or at [`PAGE_BYTES_MAX`].
pub trait EventReader: Send {
    /// Events of one stream after a version, in version order, at most `limit`.
    fn read_stream(&mut self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<RecordedEvent>, Error>;

    /// Events of one stream before a version, newest first, at most `limit`.
    fn read_stream_backwards(
        &mut self,
        stream: &StreamId,
        before: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, Error>;

    /// Events of the whole store after a position that pass the filter. No event is skipped: a later call with
    /// `after` = the page's `reached` resumes exactly where this page ended.
    fn read_all(&mut self, after: Position, filter: &Filter, limit: usize) -> Result<Page, Error>;

    /// The version of a stream; 0 if it has no events.
    fn stream_version(&mut self, stream: &StreamId) -> Result<Version, Error>;

    /// Whether a stream takes no more events.
    fn is_archived(&mut self, stream: &StreamId) -> Result<bool, Error>;

    /// The state of an aggregate at a version of its stream, if one of this code was kept. It is of the stream as it
    /// is: one of a history that is no longer there is not found.
    fn snapshot(&mut self, _stream: &StreamId, _code: &str) -> Result<Option<Snapshot>, Error> {
        Ok(None)
    }

    /// How commands ended, since the store was made.
    fn tallies(&mut self) -> Result<Vec<Tally>, Error>;
}

/// What an aggregate decided on a command.
#[derive(Debug)]
pub struct Append {
    /// The command; its origin and id make a repetition harmless.
    pub command: Arc<Command>,
    /// What its stream must be at, also where the command was refused: a refusal is of what the stream was.
    pub expected: ExpectedVersion,
    /// What the aggregate decided.
    pub decision: Decision,
}

/// What became of a command.
#[derive(Debug)]
pub enum Decision {
    /// It was accepted; all events are recorded or none.
    Events(Vec<NewEvent>),
    /// A business rule said no.
    Rejected(String),
    /// It can't be handled. Commands with an origin are dead-lettered in the dead letters.
    Malformed(String),
}

/// The answer to an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Version of the stream after the append.
    pub version: Version,
    /// Position of the last event, or the store's newest where there was none.
    pub position: Position,
}

/// Events and how far the search for them went.
#[derive(Debug)]
pub struct Page {
    /// In position order.
    pub events: Vec<RecordedEvent>,
    /// Everything up to here has been looked at.
    pub reached: Position,
}

/// The state of a live aggregate: what its history up to a version makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its stream.
    pub stream: StreamId,
    /// The version of the last event that is in the state.
    pub version: Version,
    /// The code that made it. Other code does not find it, since the state may mean something else to it.
    pub code: Arc<str>,
    /// Bytes that the code understands.
    pub state: Vec<u8>,
}

/// How many commands of one name ended in each way.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// The type of the aggregate.
    pub aggregate_type: String,
    /// The command's name.
    pub command: String,
    /// Accepted, with or without events.
    pub accepted: u64,
    /// Refused by a business rule.
    pub rejected: u64,
    /// Not decodable, or not handled after all tries.
    pub malformed: u64,
}

/// Bytes of events at which a page ends, whatever its limit: with the event that reaches them.
pub const PAGE_BYTES_MAX: usize = 8 << 20;

/// Whether a page of a stream ended because it was full, so that there may be more.
pub fn is_full(page: &[RecordedEvent], limit: usize) -> bool {
    is_enough(page.len(), limit, page.iter().map(RecordedEvent::size).sum())
}

fn is_enough(events: usize, limit: usize, bytes: usize) -> bool {
    events >= limit || bytes >= PAGE_BYTES_MAX
}

/// A page while a store fills it.
pub struct Filling {
    /// What is in it.
    pub events: Vec<RecordedEvent>,
    limit: usize,
    bytes: usize,
}

impl Filling {
    /// An empty one, for so many events at most.
    pub fn new(limit: usize) -> Self {
        Self { events: Vec::new(), limit, bytes: 0 }
    }

    /// Whether it takes no more.
    pub fn is_full(&self) -> bool {
        is_enough(self.events.len(), self.limit, self.bytes)
    }

    /// Adds an event.
    pub fn push(&mut self, event: RecordedEvent) {
        self.bytes += event.size();
        self.events.push(event);
    }
}
