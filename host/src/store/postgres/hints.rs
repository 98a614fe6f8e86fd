//! What a writer keeps in memory of the database. All of it is a hint.
//!
//! The head row counts the transactions of all writers. A transaction uses its hints only if the count, read under the lock of
//! the head row, is the one after this writer's own last commit: then nobody has changed anything since. Otherwise the hints are
//! dropped, and what the transaction needs is read under the lock. The numbers of types are kept, because they never change.

use super::connection::{Change, int, uint, value};
use crate::model::{Position, QuickMap, StreamId};
use crate::store::recording::StreamHead;
use crate::store::write_request::WriteRequest;
use crate::store::{Error, Ledger, Reached, encoding};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio_postgres::Row;

/// An outcome that the store remembers.
#[derive(Clone, Debug)]
pub(super) struct KnownOutcome {
    pub(super) fingerprint: Vec<u8>,
    pub(super) outcome: Vec<u8>,
    pub(super) time_ms: u64,
    pub(super) running_ms: u64,
}

/// A callback that can be handled.
#[derive(Clone, Debug)]
pub(super) struct KnownCallback {
    pub(super) subscription: String,
    pub(super) timer: Option<Vec<u8>>,
}

/// A value that is also in the database, and whether it has changed in this transaction.
#[derive(Clone, Debug)]
pub(super) struct Kept<T> {
    pub(super) value: T,
    pub(super) is_changed: bool,
}

impl<T> Kept<T> {
    fn read(value: T) -> Self {
        Self { value, is_changed: false }
    }

    /// Changes the value.
    pub(super) fn change(&mut self) -> &mut T {
        self.is_changed = true;
        &mut self.value
    }
}

/// The hints of a writer.
pub(super) struct Hints {
    pub(super) heads: LruCache<StreamId, StreamHead>,
    pub(super) ledgers: QuickMap<Arc<str>, Kept<Ledger>>,
    /// The position and the number of sent commands of each subscription.
    pub(super) checkpoints: QuickMap<Arc<str>, Kept<(u64, u64)>>,
    /// The positions of all sinks, once they are read.
    pub(super) sinks: Option<QuickMap<String, Kept<u64>>>,
    pub(super) aggregate_types: QuickMap<Arc<str>, i32>,
    pub(super) event_types: QuickMap<i32, QuickMap<Arc<str>, i32>>,
    /// The outcomes that the requests of this transaction may repeat. `None` if there is none with this id.
    pub(super) outcomes: QuickMap<Arc<str>, Option<KnownOutcome>>,
    /// The callbacks that the requests of this transaction handle. `None` if one is gone or waits behind a dead letter.
    pub(super) callbacks: QuickMap<u64, Option<KnownCallback>>,
}

impl Hints {
    /// Makes hints that know nothing, of at most this many streams.
    pub(super) fn new(heads_max: usize) -> Self {
        Self {
            heads: LruCache::new(NonZeroUsize::new(heads_max).unwrap_or(NonZeroUsize::MIN)),
            ledgers: QuickMap::default(),
            checkpoints: QuickMap::default(),
            sinks: None,
            aggregate_types: QuickMap::default(),
            event_types: QuickMap::default(),
            outcomes: QuickMap::default(),
            callbacks: QuickMap::default(),
        }
    }

    /// Forgets everything, because a transaction was rolled back.
    pub(super) fn forget(&mut self) {
        self.forget_rows();
        self.aggregate_types.clear();
        self.event_types.clear();
    }

    /// Forgets everything that others may have changed. The number of a type is never changed.
    pub(super) fn forget_rows(&mut self) {
        self.heads.clear();
        self.forget_progress();
        self.end_transaction();
    }

    /// Forgets checkpoints, ledgers and positions of sinks. Their changes must have been written.
    pub(super) fn forget_progress(&mut self) {
        self.ledgers.clear();
        self.checkpoints.clear();
        self.sinks = None;
    }

    /// Forgets what is known for one transaction alone.
    pub(super) fn end_transaction(&mut self) {
        self.outcomes.clear();
        self.callbacks.clear();
    }

    /// Lists what requests need and the hints lack, as statements. [`Self::learn`] takes their rows.
    pub(super) fn lacking(&self, requests: &[WriteRequest]) -> Lacking {
        let mut lacking = Lacking::default();
        for request in requests {
            match request {
                WriteRequest::Append { append, fingerprint, .. } => {
                    let command = &append.command;
                    if !self.heads.contains(&command.stream) && may_exist(&command.stream) {
                        lacking.streams.push(command.stream.clone());
                    }
                    if let Some(origin) = &command.origin {
                        self.lack_ledger(&mut lacking, &origin.ledger);
                    }
                    if fingerprint.is_some() {
                        lacking.outcomes.push(command.id.clone());
                    }
                }
                WriteRequest::Advance { step, .. } => {
                    if !self.checkpoints.contains_key(&step.subscription) {
                        lacking.checkpoints.push(step.subscription.clone());
                    }
                    let of_sagas = step.sagas.iter().map(|saga| &saga.input.stream);
                    lacking.streams.extend(of_sagas.filter(|stream| !self.heads.contains(stream)).cloned());
                    match &step.reached {
                        Reached::Records { records, .. } => {
                            records.iter().for_each(|origins| self.lack_ledger(&mut lacking, &origins.ledger));
                        }
                        Reached::Callbacks(numbers) => lacking.callbacks.extend(numbers),
                        _ => {}
                    }
                }
                WriteRequest::StartLedger { ledger, .. } => self.lack_ledger(&mut lacking, ledger),
                WriteRequest::Published { .. } => lacking.sinks |= self.sinks.is_none(),
                _ => {}
            }
        }
        lacking
    }

    fn lack_ledger(&self, lacking: &mut Lacking, name: &Arc<str>) {
        if !self.ledgers.contains_key(name) && !lacking.ledgers.contains(name) {
            lacking.ledgers.push(name.clone());
        }
    }

    /// Takes what was read.
    pub(super) fn learn(&mut self, lacking: Lacking, mut read: impl Iterator<Item = Vec<Row>>) -> Result<(), Error> {
        let mut rows = |is_asked: bool| if is_asked { read.next().unwrap_or_default() } else { Vec::new() };
        let found = rows(!lacking.streams.is_empty());
        for (stream, row) in lacking.streams.into_iter().zip(&found) {
            self.heads.put(stream, stream_head(row));
        }
        for row in rows(!lacking.ledgers.is_empty()) {
            let name: Arc<str> = row.get::<_, String>(0).into();
            self.ledgers.insert(name.clone(), Kept::read(ledger(&name, &row, 1)?));
        }
        for name in lacking.ledgers {
            self.ledgers.entry(name).or_insert_with(|| Kept::read(Ledger::default()));
        }
        for row in rows(!lacking.checkpoints.is_empty()) {
            self.checkpoints.insert(row.get::<_, String>(0).into(), Kept::read((uint(&row, 1), uint(&row, 2))));
        }
        for name in lacking.checkpoints {
            self.checkpoints.entry(name).or_insert_with(|| Kept::read((0, 0)));
        }
        for row in rows(!lacking.outcomes.is_empty()) {
            let id: &[u8] = row.get(0);
            self.outcomes.insert(String::from_utf8_lossy(id).into(), Some(outcome(&row, 1)));
        }
        for id in lacking.outcomes {
            self.outcomes.entry(id).or_default();
        }
        for row in rows(!lacking.callbacks.is_empty()) {
            self.callbacks.insert(uint(&row, 0), Some(KnownCallback { subscription: row.get(1), timer: row.get(2) }));
        }
        for number in lacking.callbacks {
            self.callbacks.entry(number).or_default();
        }
        if lacking.sinks {
            let sinks = rows(true).into_iter().map(|row| (row.get(0), Kept::read(uint(&row, 1))));
            self.sinks = Some(sinks.collect());
        }
        Ok(())
    }
}

/// What requests need and the hints lack.
#[derive(Default)]
pub(super) struct Lacking {
    pub(super) streams: Vec<StreamId>,
    pub(super) ledgers: Vec<Arc<str>>,
    pub(super) checkpoints: Vec<Arc<str>>,
    pub(super) outcomes: Vec<Arc<str>>,
    pub(super) callbacks: Vec<u64>,
    pub(super) sinks: bool,
}

impl Lacking {
    /// Returns the statements that read it, in the order in which [`Hints::learn`] takes their rows.
    pub(super) fn reads(&self) -> Vec<Change> {
        let mut reads = Vec::new();
        let mut read = |doing, sql, values| reads.push(Change { doing, sql, values });
        if !self.streams.is_empty() {
            let types: Vec<String> = self.streams.iter().map(|stream| stream.aggregate_type.to_string()).collect();
            let ids: Vec<Vec<u8>> = self.streams.iter().map(|stream| stream.aggregate_id.as_bytes().to_vec()).collect();
            read("reading the versions of streams", STREAM_HEADS, vec![value(types), value(ids)]);
        }
        let names = |names: &[Arc<str>]| value(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        if !self.ledgers.is_empty() {
            let sql = "SELECT name, next, ahead FROM ledgers WHERE name = ANY($1)";
            read("reading ledgers", sql, vec![names(&self.ledgers)]);
        }
        if !self.checkpoints.is_empty() {
            let sql = "SELECT subscription, position, commands FROM checkpoints WHERE subscription = ANY($1)";
            read("reading checkpoints", sql, vec![names(&self.checkpoints)]);
        }
        if !self.outcomes.is_empty() {
            let ids: Vec<Vec<u8>> = self.outcomes.iter().map(|id| id.as_bytes().to_vec()).collect();
            let sql = "SELECT id, fingerprint, outcome, time_ms, running_ms FROM outcomes WHERE id = ANY($1)";
            read("looking for earlier outcomes", sql, vec![value(ids)]);
        }
        if !self.callbacks.is_empty() {
            let numbers: Vec<i64> = self.callbacks.iter().copied().map(int).collect();
            let sql = "SELECT number, subscription, timer FROM callbacks
                       WHERE number = ANY($1) AND due_ms < 9223372036854775807";
            read("looking for callbacks", sql, vec![value(numbers)]);
        }
        if self.sinks {
            read("reading the positions of sinks", "SELECT name, position FROM sinks", Vec::new());
        }
        reads
    }
}

/// Returns whether a stream may exist. The name of an aggregate type that nobody serves may be anything, and PostgreSQL takes no NUL.
pub(super) fn may_exist(stream: &StreamId) -> bool {
    !stream.aggregate_type.contains('\0')
}

/// Reads the head of each stream of a list, in its order.
const STREAM_HEADS: &str = "SELECT coalesce((SELECT e.version FROM events e
        WHERE e.aggregate_type = t.id AND e.aggregate_id = s.id ORDER BY e.version DESC LIMIT 1), 0),
    EXISTS (SELECT 1 FROM archived_streams a WHERE a.aggregate_type = t.id AND a.aggregate_id = s.id)
    FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS s(type, id, number)
    LEFT JOIN aggregate_types t ON t.name = s.type ORDER BY s.number";

fn stream_head(row: &Row) -> StreamHead {
    StreamHead { version: uint(row, 0), archived: row.get(1) }
}

fn outcome(row: &Row, column: usize) -> KnownOutcome {
    KnownOutcome {
        fingerprint: row.get(column),
        outcome: row.get(column + 1),
        time_ms: uint(row, column + 2),
        running_ms: uint(row, column + 3),
    }
}

/// Reads a ledger from the columns `next` and `ahead`.
pub(super) fn ledger(name: &str, row: &Row, column: usize) -> Result<Ledger, Error> {
    let ahead: &[u8] = row.get(column + 1);
    Ok(Ledger { next: uint(row, column), ahead: encoding::decode(&format!("ledger {name}"), ahead)? })
}

/// The newest numbers of the store, as its head row has them. A transaction assigns numbers from this copy, which it read under
/// the lock of the row, and writes it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) commits: u64,
    pub(super) position: u64,
    pub(super) message: u64,
    pub(super) dead_letter: u64,
    pub(super) callback: u64,
    pub(super) http_request: u64,
    /// The number of dead letters that are there.
    pub(super) letters: u64,
    pub(super) letter_bytes: u64,
    pub(super) letters_dropped: u64,
}

/// The columns of [`Head::read`], then the count of changes of the hosts, the id of the newest event, and the time noted last.
pub(super) const READ_HEAD: &str =
    "SELECT commits, position, message, dead_letter, callback, http_request, dead_letters,
    dead_letter_bytes, dead_letters_dropped, membership, newest_id, running_ms, wall_ms FROM head WHERE number = 1";

/// The same, under the lock that a writer holds until its commit. At the end is whether the row of this host was there a moment ago. If
/// it was removed since, the count of changes of the hosts tells.
pub(super) const LOCK_HEAD: &str =
    "SELECT commits, position, message, dead_letter, callback, http_request, dead_letters,
    dead_letter_bytes, dead_letters_dropped, membership, newest_id, running_ms, wall_ms,
    EXISTS (SELECT 1 FROM hosts WHERE id = $1) FROM head WHERE number = 1 FOR UPDATE OF head";

impl Head {
    pub(super) fn read(row: &Row) -> Self {
        Self {
            commits: uint(row, 0),
            position: uint(row, 1),
            message: uint(row, 2),
            dead_letter: uint(row, 3),
            callback: uint(row, 4),
            http_request: uint(row, 5),
            letters: uint(row, 6),
            letter_bytes: uint(row, 7),
            letters_dropped: uint(row, 8),
        }
    }

    /// Returns the position of the newest event.
    pub(super) fn newest(&self) -> Position {
        Position(self.position)
    }
}
