//! The event store: the only truth.
//!
//! Everything durable goes through one trait, [`EventStore`]. Writes are queued and answered after their commit;
//! each thread that reads takes a [`Reader`] of its own. Nothing in this file knows SQLite.

mod error;
mod ledger;
mod places;
pub mod sqlite;

use crate::meter;
use crate::model::*;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

pub use error::{Error, Loss};
pub use ledger::Ledger;
pub use places::{Part, PartKind, Place};

/// Called once, from the store's thread, after the commit or the failure. Must not block.
pub type Done<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

/// The ledger of a subscription's commands is named this, then the subscription's name.
pub const SUBSCRIPTION_LEDGER: &str = "subscription/";

/// A sink that publishes events is named this, then its name in the manifest.
pub const EVENT_SINK: &str = "events/";

/// A sink that publishes dead letters is named this, then the name of the source.
pub const LETTER_SINK: &str = "dead-letters/";

/// What the position of a sink counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Positions of events.
    Events,
    /// Numbers of dead letters.
    Letters,
    /// Numbers of messages in the outbox.
    Messages,
}

impl Counts {
    /// By the sink's name.
    pub fn of(sink: &str) -> Self {
        if sink.starts_with(EVENT_SINK) {
            Self::Events
        } else if sink.starts_with(LETTER_SINK) {
            Self::Letters
        } else {
            Self::Messages
        }
    }
}

/// The origin of a command that tries a dead letter again is in this ledger, under the letter's number.
///
/// It is open for as long as the letter is there. Accepted or rejected, the command takes the letter away in its own
/// transaction, so a letter takes effect once however often it is tried. Malformed, the letter stays and says why.
pub const LETTER_LEDGER: &str = "dead-letters";

/// The origin of a command that tries a dead letter again.
pub fn letter_origin(number: u64) -> Origin {
    Origin { ledger: LETTER_LEDGER.into(), first: number, last: number }
}

/// The writing side of a store.
pub trait EventStore: Send + Sync + 'static {
    /// Records what became of a command: events, ledger mark, dead letter and outcome in one transaction.
    /// Blocks while the queue is full.
    fn append(&self, append: Append, done: Done<Appended>);

    /// Moves a subscription's checkpoint together with its effects. Blocks while the queue is full.
    fn advance(&self, progress: Progress, done: Done<Advanced>);

    /// Moves a sink's position, compare-and-set, keeps the dead letters of messages that were refused on the way, and
    /// forgets the messages of the outbox that all its sinks are past: all in one transaction. What a position counts is
    /// said by the sink's name; see [`Counts`].
    fn published(&self, sink: &str, from: u64, to: u64, refused: Vec<DeadLetter>, done: Done<()>);

    /// Puts something aside and settles it in its ledger, if it has one.
    fn park(&self, letter: DeadLetter, origin: Option<Origin>, done: Done<()>);

    /// Sets where a ledger starts: everything below `next` counts as settled. Does nothing where the ledger is
    /// already further.
    fn start_ledger(&self, ledger: &str, next: u64, done: Done<()>);

    /// Keeps the state of a live aggregate in place of what was kept of it before. A cache: it never blocks, and what is
    /// kept may be lost at any time.
    fn keep_snapshot(&self, snapshot: Snapshot);

    /// Forgets a dead letter; [`Error::NotFound`] where there is none.
    fn discard_letter(&self, number: u64, done: Done<()>);

    /// Forgets the oldest dead letters of those wanted, and tells how many it forgot.
    fn discard_letters(&self, which: Discard, done: Done<u64>);

    /// Puts the message of a dead letter into the outbox again and forgets the letter, in one transaction.
    fn republish_letter(&self, number: u64, done: Done<()>);

    /// Keeps why a dead letter could not be handled this time either, in place of the reason before.
    fn explain_letter(&self, number: u64, reason: String, done: Done<()>);

    /// Lets a stream take no more events: appends to it fail with [`Error::Archived`]. Its events stay where they are,
    /// and are read as before. [`Error::NotFound`] where the stream has no events.
    fn archive(&self, stream: StreamId, done: Done<()>);

    /// Lets an archived stream take events again. Does nothing where it is not archived.
    fn restore(&self, stream: StreamId, done: Done<()>);

    /// Copies the store, as it is at one moment, into a new file, while writes go on. The file is a store of its own.
    /// Takes as long as it takes, on the caller's thread.
    fn backup(&self, to: &Path) -> Result<Backup, Error>;

    /// Sets where a ledger goes on: everything below `next` counts as settled and nothing else does. What is settled
    /// again takes effect again: for a person to ask for, while nobody works with the ledger.
    fn reset_ledger(&self, ledger: &str, next: u64, done: Done<()>);

    /// Keeps a text under a name, or forgets it, in a transaction of its own. See [`Reader::fact`].
    fn set_fact(&self, name: &str, value: Option<String>, done: Done<()>);

    /// What tells this store from every other: made with the store, kept by its copies, and the same for ever.
    fn identity(&self) -> Uuid;

    /// Becomes [`Error::Lost`] when another host has taken the store over, or its file was removed, replaced or cut. Nothing
    /// is written any more and every write fails with that error: the process should end.
    fn loss(&self) -> watch::Receiver<Option<Error>>;

    /// Why a write failed, such as a full disk; `None` if writing works as far as is known. The store tries again by itself.
    /// While a disk is nearly full, what is small may be written although there is a reason here.
    fn trouble(&self) -> Option<String>;

    /// Gives the place that a part has in the store to another name, in one transaction: checkpoints, ledgers, the outbox,
    /// positions, dead letters and facts. Fails if the other name has a place. Before the part is at work.
    fn carry_over(&self, part: &Part, to: &str, done: Done<()>);

    /// Forgets the place that a part has in the store, and what it never sent. Its dead letters stay.
    fn forget(&self, part: &Part, done: Done<()>);

    /// A view for one thread. Every call on it sees all that was committed before the call.
    fn reader(&self) -> Result<Box<dyn Reader>, Error>;

    /// Wakes its holder when there is something after a position. It may skip values but never the last one.
    fn head(&self) -> watch::Receiver<Position>;

    /// Wakes its holder when there may be new messages in the outbox: the number of the newest.
    fn outbox_head(&self) -> watch::Receiver<u64>;

    /// Wakes its holder when there may be new dead letters: the number of the newest. No number is used twice.
    fn letters_head(&self) -> watch::Receiver<u64>;

    /// What the writer measured since the store was opened. Costs next to nothing.
    fn measures(&self) -> Measures;

    /// Finishes what is queued and closes. Later writes fail with [`Error::Closed`].
    fn close(&self);
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

/// The reading side of a store. Pages of events end at a limit or at [`PAGE_BYTES_MAX`].
pub trait Reader: Send {
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
    /// `after` = the page's `reached` goes on exactly where this page ended.
    fn read_all(&mut self, after: Position, filter: &crate::filter::Filter, limit: usize) -> Result<Page, Error>;

    /// The version of a stream; 0 where it has no events.
    fn stream_version(&mut self, stream: &StreamId) -> Result<Version, Error>;

    /// The state of an aggregate at a version of its stream, if one of this code was kept. It is of the stream as it
    /// is: one of a history that is no longer there is not found.
    fn snapshot(&mut self, stream: &StreamId, code: &str) -> Result<Option<Snapshot>, Error>;

    /// Whether a stream takes no more events.
    fn is_archived(&mut self, stream: &StreamId) -> Result<bool, Error>;

    /// The state of a ledger; a new one starts at 0.
    fn ledger(&mut self, name: &str) -> Result<Ledger, Error>;

    /// All ledgers whose name starts with `prefix`.
    fn ledgers(&mut self, prefix: &str) -> Result<Vec<(String, Ledger)>, Error>;

    /// The checkpoint of a subscription, if it ever had one.
    fn checkpoint(&mut self, subscription: &str) -> Result<Option<Position>, Error>;

    /// The parts that have a place in the store, by kind and name.
    fn places(&mut self) -> Result<Vec<Place>, Error>;

    /// The commands of a subscription that are not settled yet, in order.
    fn pending_commands(&mut self, subscription: &str) -> Result<Vec<Command>, Error>;

    /// Messages of the outbox after a number, in order, at most about `limit`.
    fn messages(&mut self, after: u64, limit: usize) -> Result<Vec<(u64, Message)>, Error>;

    /// The number of the last message that a sink has published; `None` where it never had a position.
    fn sink_position(&mut self, sink: &str) -> Result<Option<u64>, Error>;

    /// What was dead-lettered after a number, oldest first, at most `limit`.
    fn dead_letters_after(&mut self, after: u64, limit: usize) -> Result<Vec<KeptLetter>, Error>;

    /// What was dead-lettered, newest first, and how many there are of the consumer in all.
    ///
    /// The first number is 1, later letters have greater ones, and none is ever given twice.
    fn dead_letters(&mut self, wanted: &Letters<'_>) -> Result<(Vec<KeptLetter>, u64), Error>;

    /// One dead letter; `None` where it was tried again or discarded, or never was.
    fn dead_letter(&mut self, number: u64) -> Result<Option<KeptLetter>, Error>;

    /// A text that was kept under a name. Facts are for checks of identity: what a part remembers of the world outside,
    /// to notice that it became another. Each user documents its names; they are paths, such as `kafka/cluster`.
    fn fact(&mut self, name: &str) -> Result<Option<String>, Error>;

    /// All facts whose name starts with `prefix`, by name.
    fn facts(&mut self, prefix: &str) -> Result<Vec<(String, String)>, Error>;

    /// How much there is. With `count` every event is read for it, which takes its time on a large store.
    fn statistics(&mut self, count: bool) -> Result<Statistics, Error>;

    /// How commands ended, since the store was made.
    fn tallies(&mut self) -> Result<Vec<Tally>, Error>;
}

/// What the writer of a store measured.
#[derive(Clone, Debug, Default)]
pub struct Measures {
    /// Transactions, by how long their commit took in seconds: mostly the disk's time.
    pub commit_time: meter::Reading,
    /// The same transactions, by how many requests they had.
    pub batch_size: meter::Reading,
    /// Requests that wait for the writer now.
    pub queued: u64,
    /// How often the wall clock jumped, as far as it was noticed.
    pub clock_jumps: u64,
    /// Bytes of the dead letters that there are: contents, reasons and places.
    pub letter_bytes: u64,
    /// Dead letters that were dropped to keep to a limit, since the store was made.
    pub letters_dropped: u64,
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
    /// It can't be handled. Commands with an origin are put aside in the dead letters.
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

/// One step of a subscription: all of it or nothing.
#[derive(Debug)]
pub struct Progress {
    /// The subscription.
    pub subscription: Arc<str>,
    /// What is done with it.
    pub reached: Reached,
    /// Commands to send; the store numbers them in the ledger `subscription/NAME` and sets their origin.
    pub commands: Vec<Command>,
    /// Messages for the outbox, in order.
    pub messages: Vec<Message>,
    /// What was put aside.
    pub parked: Vec<DeadLetter>,
}

/// What a step of a subscription has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Events up to a position.
    Events {
        /// Its checkpoint as the caller knows it. Another value in the store fails the step.
        from: Position,
        /// Its checkpoint after the step.
        to: Position,
    },
    /// Records, which the step settles in their ledgers. One that is settled already fails the step.
    Records {
        /// The step's number in a row of steps, which begins with 0. A step is only taken directly after the one before
        /// it: when one fails, all that follow it fail, so that no record of a key passes what failed. A new row may
        /// begin at any time.
        number: u64,
        /// The records.
        records: Vec<Origins>,
    },
    /// The dead letter of this number, which the step takes away. Where it is gone the step fails.
    Replayed(u64),
}

/// The answer to a step of a subscription.
#[derive(Debug)]
pub struct Advanced {
    /// The step's commands, now durable and with their origins: ready to be sent.
    pub commands: Vec<Command>,
}

/// Events and how far the search for them went.
#[derive(Debug)]
pub struct Page {
    /// In position order.
    pub events: Vec<RecordedEvent>,
    /// Everything up to here has been looked at.
    pub reached: Position,
}

/// A copy of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Where it is.
    pub file: String,
    /// The newest event in it.
    pub position: u64,
    /// Its size.
    pub bytes: u64,
    /// How long it took to make.
    pub elapsed_ms: u64,
}

/// How much there is in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Of the newest event.
    pub position: u64,
    /// Bytes of the store without its log.
    pub file_bytes: u64,
    /// Bytes of it that are free to be used again.
    pub free_bytes: u64,
    /// Bytes of the log that are not folded into the store yet.
    pub log_bytes: u64,
    /// Streams that take no more events.
    pub archived_streams: u64,
    /// Subscriptions with a checkpoint.
    pub subscriptions: u64,
    /// Numbered sequences: partitions of sources and commands of subscriptions.
    pub ledgers: u64,
    /// Commands of subscriptions in steps that are not settled whole.
    pub outbox_commands: u64,
    /// Messages in steps that are not published whole.
    pub outbox_messages: u64,
    /// Remembered outcomes of commands whose sender chose the id.
    pub outcomes: u64,
    /// What was put aside.
    pub dead_letters: u64,
    /// What is known only once every event was read; `None` where that was not asked for.
    pub counted: Option<Counted>,
}

/// What is known once every event was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Streams with events.
    pub streams: u64,
    /// Recorded events.
    pub events: u64,
    /// Bytes of their payloads and headers.
    pub bytes: u64,
    /// By aggregate type and name of the event, in order.
    pub types: Vec<TypeCount>,
}

/// The events of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeCount {
    /// The type of the aggregate.
    pub aggregate_type: String,
    /// The event's name.
    pub name: String,
    /// How many there are.
    pub events: u64,
    /// Bytes of their payloads and headers.
    pub bytes: u64,
}

/// Which dead letters are discarded together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Of this source or subscription alone.
    pub consumer: Option<String>,
    /// Up to the letter of this number.
    pub last: u64,
    /// At most so many.
    pub limit: u64,
}

/// Which dead letters are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letters<'a> {
    /// Of this source or subscription alone.
    pub consumer: Option<&'a str>,
    /// Only those put aside before the letter of this number.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

impl Letters<'_> {
    /// The newest of all consumers.
    pub fn newest(limit: usize) -> Self {
        Self { consumer: None, before: None, limit }
    }
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
