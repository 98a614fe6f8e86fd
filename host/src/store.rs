//! The event store: the only truth.
//!
//! Everything durable goes through one trait, [`EventStore`]. Writes are queued and answered after their commit;
//! each thread that reads takes a [`Reader`] of its own. Nothing in this file knows SQLite.

pub mod sqlite;

use crate::model::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Called once, from the store's thread, after the commit or the failure. Must not block.
pub type Done<T> = Box<dyn FnOnce(Result<T, Error>) + Send>;

/// The ledger of a subscription's commands is named this, then the subscription's name.
pub const SUBSCRIPTION_LEDGER: &str = "subscription/";

/// The writing side of a store.
pub trait EventStore: Send + Sync + 'static {
    /// Records what became of a command: events, ledger mark, dead letter and outcome in one transaction.
    /// Blocks while the queue is full.
    fn append(&self, append: Append, done: Done<Appended>);

    /// Moves a subscription's checkpoint together with its effects. Blocks while the queue is full.
    fn advance(&self, progress: Progress, done: Done<Advanced>);

    /// Moves the sink's position, compare-and-set, and forgets the messages up to it.
    fn published(&self, sink: &str, from: u64, to: u64, done: Done<()>);

    /// Puts something aside and settles it in its ledger, if it has one.
    fn park(&self, letter: DeadLetter, origin: Option<Origin>, done: Done<()>);

    /// Sets where a ledger starts: everything below `next` counts as settled. Does nothing where the ledger is
    /// already further.
    fn start_ledger(&self, ledger: &str, next: u64, done: Done<()>);

    /// A view for one thread. Every call on it sees all that was committed before the call.
    fn reader(&self) -> Result<Box<dyn Reader>, Error>;

    /// Wakes its holder when there is something after a position. It may skip values but never the last one.
    fn head(&self) -> watch::Receiver<Position>;

    /// Wakes its holder when there may be new messages in the outbox: the number of the newest.
    fn outbox_head(&self) -> watch::Receiver<u64>;

    /// Finishes what is queued and closes. Later writes fail with [`Error::Closed`].
    fn close(&self);
}

/// The reading side of a store.
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

    /// The state of a ledger; a new one starts at 0.
    fn ledger(&mut self, name: &str) -> Result<Ledger, Error>;

    /// All ledgers whose name starts with `prefix`.
    fn ledgers(&mut self, prefix: &str) -> Result<Vec<(String, Ledger)>, Error>;

    /// The checkpoint of a subscription, if it ever had one.
    fn checkpoint(&mut self, subscription: &str) -> Result<Option<Position>, Error>;

    /// The commands of a subscription that are not settled yet, in order.
    fn pending_commands(&mut self, subscription: &str) -> Result<Vec<Command>, Error>;

    /// Messages of the outbox after a number, in order, at most about `limit`.
    fn messages(&mut self, after: u64, limit: usize) -> Result<Vec<(u64, Message)>, Error>;

    /// The number of the last message that the sink has published.
    fn sink_position(&mut self, sink: &str) -> Result<u64, Error>;

    /// What was put aside, newest first, at most `limit`, and how many there are in all.
    fn dead_letters(&mut self, limit: usize) -> Result<(Vec<DeadLetter>, u64), Error>;

    /// How commands ended, since the store was made.
    fn tallies(&mut self) -> Result<Vec<Tally>, Error>;
}

/// What an aggregate decided on a command.
#[derive(Debug)]
pub struct Append {
    /// The command; its origin and id make a repetition harmless.
    pub command: Arc<Command>,
    /// What its stream must be at.
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

/// One step of a subscription: all of it or nothing.
#[derive(Debug)]
pub struct Progress {
    /// The subscription.
    pub subscription: Arc<str>,
    /// Its checkpoint as the caller knows it. Another value in the store fails the step.
    pub from: Position,
    /// Its checkpoint after the step.
    pub to: Position,
    /// Commands to send; the store numbers them in the ledger `subscription/NAME` and sets their origin.
    pub commands: Vec<Command>,
    /// Messages for the outbox, in order.
    pub messages: Vec<Message>,
    /// What was put aside.
    pub parked: Vec<DeadLetter>,
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

/// What of a numbered sequence is settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Everything below is settled.
    pub next: u64,
    /// Settled ranges above `next`, first → last, apart from each other.
    pub ahead: BTreeMap<u64, u64>,
}

impl Ledger {
    /// Whether an item is settled.
    pub fn has(&self, number: u64) -> bool {
        number < self.next || self.ahead.range(..=number).next_back().is_some_and(|(_, &last)| number <= last)
    }

    /// Marks a range as settled and moves `next` over what is now contiguous.
    pub fn settle(&mut self, first: u64, last: u64) {
        if first > self.next {
            return self.settle_ahead(first, last);
        }
        self.next = self.next.max(last + 1);
        while let Some(range) = self.ahead.first_entry() {
            if *range.key() > self.next {
                break;
            }
            self.next = self.next.max(range.remove() + 1);
        }
    }

    fn settle_ahead(&mut self, mut first: u64, mut last: u64) {
        if let Some((&start, &end)) = self.ahead.range(..=first).next_back()
            && end + 1 >= first
        {
            first = start;
            last = last.max(end);
        }
        while let Some((&start, &end)) = self.ahead.range(first..=last + 1).next() {
            last = last.max(end);
            self.ahead.remove(&start);
        }
        self.ahead.insert(first, last);
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

/// Why the store did not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Reload the stream and decide again, or tell the sender.
    #[error("stream {stream} is at version {actual}, expected {expected}")]
    Conflict {
        /// The stream.
        stream: StreamId,
        /// Its version.
        actual: Version,
        /// What the append expected.
        expected: ExpectedVersion,
    },
    /// The command was recorded before: this is its outcome, if it was kept. Nothing was added.
    #[error("command {id} was recorded before")]
    Duplicate {
        /// The command's id.
        id: Arc<str>,
        /// The outcome as it was then; commands of ledgers keep none.
        outcome: Option<Outcome>,
    },
    /// The sender used an id twice for different commands.
    #[error("command id {id} was used before for another command; use a new id for a new command")]
    IdReused {
        /// The command's id.
        id: Arc<str>,
    },
    /// Somebody else moved this checkpoint: stop, reload, go on from there.
    #[error("checkpoint of {owner} is at {actual}, expected {expected}: another host or thread moved it")]
    CheckpointMoved {
        /// Whose checkpoint.
        owner: String,
        /// Where it is.
        actual: u64,
        /// Where the caller thought it was.
        expected: u64,
    },
    /// The caller broke a limit or a rule of the store; the text says which.
    #[error("{0}")]
    Invalid(String),
    /// The store is shut down.
    #[error("the store is closed")]
    Closed,
    /// The disk or the database failed. Nothing of the request was kept.
    #[error("{0}")]
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    #[test]
    fn a_ledger_moves_over_what_is_contiguous() {
        let mut ledger = Ledger::default();
        ledger.settle(2, 2);
        ledger.settle(4, 6);
        ledger.settle(3, 3);
        assert_eq!((ledger.next, ledger.ahead.clone().into_iter().collect::<Vec<_>>()), (0, vec![(2, 6)]));
        assert!(ledger.has(5) && !ledger.has(1) && !ledger.has(7));
        ledger.settle(0, 1);
        assert_eq!(ledger, Ledger { next: 7, ahead: Default::default() });
    }

    #[test]
    fn a_ledger_in_any_order_ends_the_same() {
        for seed in 0..200u64 {
            let mut numbers: Vec<u64> = (0..50).collect();
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for at in (1..numbers.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                numbers.swap(at, (state >> 33) as usize % (at + 1));
            }
            let mut ledger = Ledger::default();
            for (done, &number) in numbers.iter().enumerate() {
                assert!(!ledger.has(number));
                ledger.settle(number, number);
                assert!(numbers[..=done].iter().all(|&number| ledger.has(number)));
                assert!(numbers[done + 1..].iter().all(|&number| !ledger.has(number)));
            }
            assert_eq!(ledger, Ledger { next: 50, ahead: Default::default() });
        }
    }
}
