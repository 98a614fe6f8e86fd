//! The embedded store: one SQLite file, one writer.
//!
//! The writer drains a bounded queue into one transaction at a time (group commit) and answers after the commit. It is
//! the only writer, because a lock on a file beside the store keeps other hosts out. So it can check the expected
//! version against memory. The hot path only appends by position. The index from streams to positions is filled later,
//! in sorted runs, and readers look in both places (`stream_index`).

mod administration;
mod age;
mod appends;
mod backup;
mod backup_folder;
mod callbacks;
mod dead_letter_room;
mod dead_letters;
mod dictionary;
mod fault;
mod files;
mod held_keys;
mod http_requests;
mod ids;
mod import;
mod inspection;
mod ledgers;
mod outbox;
mod owner;
mod places;
#[cfg(test)]
mod properties;
mod reader;
mod recovery;
mod restore;
mod room;
mod rows;
mod schema;
mod snapshots;
mod statistics;
mod steps;
mod stream_index;
mod tail;
mod verify;
mod wal_checkpoint;
mod write_request;
mod writer;

use super::{
    Advanced, Append, Appended, AttemptEnd, Backup, CopyName, DeadLetters, Discard, Error, EventStore, Events,
    HttpRequests, InterruptedOf, Maintenance, Measures, Part, Progress, Reader, Snapshot, Statistics, Step,
};
use crate::ack::Ack;
use crate::clock::Clock;
use crate::exhaustion;
use crate::model::{DeadLetter, KeptRequest, Origin, Position, StreamId};
use crate::supervise::{self, Held as _, Shared as _};
use administration::AdminRequest;
use room::Room;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use stream_index::StreamIndex;
use tail::Tail;
use tokio::sync::watch;
use uuid::Uuid;
use write_request::WriteRequest;

pub use backup::backup;
pub use fault::{FaultPoint, KILL_AT};
pub use import::{Begins, Imported, Importer, Parts};
pub use inspection::inspect;
pub(crate) use places::of_ledger;
pub use places::{fact, places};
pub use restore::{Restore, Restored};
pub use schema::{exists, is_in_use};
pub use statistics::statistics;
pub use verify::{Report, verify};

/// The name of the store's file in a data folder.
pub const FILE_NAME: &str = "events.sqlite";

/// The limits of a store's dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterLimits {
    /// The most letters.
    pub count_max: u64,
    /// The most bytes of their contents, reasons and places.
    pub bytes_max: u64,
    /// The age in milliseconds at which a dead letter is dropped. `None` keeps dead letters forever.
    pub age_max_ms: Option<u64>,
    /// Whether the oldest dead letters are dropped to make room. Otherwise new ones are refused with [`Error::Full`].
    pub drops_oldest: bool,
}

impl Default for DeadLetterLimits {
    fn default() -> Self {
        Self { count_max: 1_000_000, bytes_max: 4 << 30, age_max_ms: None, drops_oldest: false }
    }
}

/// The options of the store, each with a default. The ones that a person may want to change are in the manifest.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most writes that may wait for the writer. More writes block their senders.
    pub queue_max: usize,
    /// The most bytes of events, commands and messages that may wait for the writer. More block their senders.
    pub queue_bytes_max: usize,
    /// The most writes in one transaction.
    pub batch_max: usize,
    /// The bytes of payload at which a transaction is committed.
    pub batch_bytes_max: usize,
    /// The number of events that make a run of the stream index.
    pub index_run: usize,
    /// The number of streams whose new events make a run, if it is reached first.
    pub index_run_streams: usize,
    /// The number of a run's rows that one transaction adds to the stream index.
    pub index_slice: usize,
    /// The number of streams whose version the writer keeps in memory, which is at least `batch_max`.
    pub heads_max: usize,
    /// The bytes of the write-ahead log at which the writer runs a WAL checkpoint.
    pub log_bytes_max: u64,
    /// The most bytes of one event.
    pub event_bytes_max: usize,
    /// The bytes of the newest events that are kept in memory for followers.
    pub tail_bytes_max: usize,
    /// The time in milliseconds for which the outcome of a command is remembered if its sender chose the id.
    pub outcomes_window_ms: u64,
    /// Whether refusals are remembered like successes. Otherwise a repeated command that was refused is decided again.
    pub remember_refusals: bool,
    /// The limits of the dead letters.
    pub dead_letters: DeadLetterLimits,
    /// The source of time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_max: 8_192,
            queue_bytes_max: 64 << 20,
            batch_max: 2_000,
            batch_bytes_max: 8 << 20,
            // The more events of a stream are in a run, the fewer pages are written for each of them.
            index_run: 100_000,
            index_run_streams: 20_000,
            // This takes a few milliseconds.
            index_slice: 1_000,
            heads_max: 200_000,
            log_bytes_max: 32 << 20,
            event_bytes_max: 1 << 20,
            tail_bytes_max: 16 << 20,
            outcomes_window_ms: 24 * 60 * 60 * 1_000,
            remember_refusals: true,
            dead_letters: DeadLetterLimits::default(),
            clock: Clock::system(),
        }
    }
}

/// The embedded [`EventStore`].
pub struct SqliteStore {
    path: PathBuf,
    /// The queue, or `None` after `close`. Senders hold the lock while they wait, so `close` waits for them.
    queue: RwLock<Option<crossbeam_channel::Sender<WriteRequest>>>,
    writer: supervise::Thread,
    room: Arc<Room>,
    index: Arc<StreamIndex>,
    tail: Arc<Tail>,
    snapshots: snapshots::Snapshots,
    head: watch::Receiver<Position>,
    outbox_head: watch::Receiver<u64>,
    callbacks_changed: watch::Receiver<u64>,
    dead_letters_head: watch::Receiver<u64>,
    requests_changed: watch::Receiver<u64>,
    loss: watch::Receiver<Option<Error>>,
    identity: Uuid,
    meters: Arc<writer::Meters>,
}

impl SqliteStore {
    /// Opens the store in a file, and creates it if it does not exist. Fails if another host has it open, or if the
    /// file is damaged or from a newer wasmill.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let lock = schema::lock(path)?;
        let connection = schema::open_for_writing(path)?;
        let identity = owner::identity(&connection)?;
        let ownership = owner::Ownership::take(&connection, path)?;
        let index = Arc::new(StreamIndex::default());
        let (queue, requests) = crossbeam_channel::bounded(options.queue_max);
        let room = Arc::new(Room::new(options.queue_bytes_max));
        let tail = Arc::new(Tail::new(options.tail_bytes_max));
        let writer =
            writer::Writer::new(connection, lock, ownership, options, index.clone(), tail.clone(), room.clone())?;
        let (head, outbox_head, dead_letters_head) = (writer.head(), writer.outbox_head(), writer.dead_letters_head());
        let (loss, callbacks_changed, meters) = (writer.loss(), writer.callbacks_changed(), writer.meters.clone());
        let requests_changed = writer.requests_changed();
        let writer = supervise::vital("store-writer", move || writer.run(requests))
            .map_err(|error| Error::Failed(format!("can't start the writer's thread: {error}")))?;
        Ok(Self {
            path: path.to_owned(),
            snapshots: snapshots::Snapshots::new(path, index.clone()),
            queue: RwLock::new(Some(queue)),
            room,
            writer,
            index,
            tail,
            head,
            outbox_head,
            callbacks_changed,
            dead_letters_head,
            requests_changed,
            loss,
            identity,
            meters,
        })
    }

    fn send(&self, request: WriteRequest) {
        self.room.take(request.bytes());
        let refused = match &*self.queue.held_shared() {
            Some(queue) => queue.send(request).err().map(|refused| refused.0),
            None => Some(request),
        };
        if let Some(request) = refused {
            self.room.free(request.bytes());
            request.fail(Error::Closed);
        }
    }
}

impl Events for SqliteStore {
    fn append(&self, append: Append, ack: Ack<Result<Appended, Error>>) {
        self.send(WriteRequest::append(append, ack));
    }

    fn archive(&self, stream: StreamId, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::Archive(stream), ack));
    }

    fn restore(&self, stream: StreamId, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::Restore(stream), ack));
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.head.clone()
    }

    fn keep_snapshot(&self, snapshot: Snapshot) {
        self.snapshots.keep(snapshot);
    }
}

impl Progress for SqliteStore {
    fn advance(&self, step: Step, ack: Ack<Result<Advanced, Error>>) {
        self.send(WriteRequest::advance(step, ack));
    }

    fn published(&self, sink: &str, from: u64, to: u64, refused: Vec<DeadLetter>, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Published { sink: sink.to_owned(), from, to, refused, ack });
    }

    fn start_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::StartLedger { ledger: ledger.into(), next, ack });
    }

    fn reset_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::ResetLedger(ledger.into(), next), ack));
    }

    fn set_fact(&self, name: &str, value: Option<String>, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::SetFact(name.to_owned(), value), ack));
    }

    fn carry_over(&self, moves: &[(Part, String)], ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::CarryOver(moves.to_vec()), ack));
    }

    fn forget(&self, part: &Part, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::Forget(part.clone()), ack));
    }

    fn outbox_head(&self) -> watch::Receiver<u64> {
        self.outbox_head.clone()
    }

    fn callbacks_changed(&self) -> watch::Receiver<u64> {
        self.callbacks_changed.clone()
    }

    fn cancel_timer(&self, number: u64, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::CancelTimer(number), ack));
    }
}

impl HttpRequests for SqliteStore {
    fn begin_attempt(&self, number: u64, ack: Ack<Result<u32, Error>>) {
        self.send(WriteRequest::BeginAttempt(number, ack));
    }

    fn end_attempt(&self, number: u64, end: AttemptEnd, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::EndAttempt(number, Box::new(end), ack));
    }

    fn interrupt_attempts(&self, of: InterruptedOf, ack: Ack<Result<Vec<KeptRequest>, Error>>) {
        self.send(WriteRequest::InterruptAttempts(of, ack));
    }

    fn refuse_request(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::RefuseRequest(number, reason), ack));
    }

    fn give_up_request(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::GiveUpRequest(number, reason), ack));
    }

    fn requests_changed(&self) -> watch::Receiver<u64> {
        self.requests_changed.clone()
    }
}

impl DeadLetters for SqliteStore {
    fn dead_letter(&self, letter: DeadLetter, origin: Option<Origin>, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::DeadLetter(Box::new(letter), origin, ack));
    }

    fn discard_dead_letter(&self, number: u64, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::Discard(number), ack));
    }

    fn discard_dead_letters(&self, which: Discard, ack: Ack<Result<u64, Error>>) {
        self.send(WriteRequest::DiscardMany(which, ack));
    }

    fn republish_dead_letter(&self, number: u64, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::Republish(number), ack));
    }

    fn explain_dead_letter(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(AdminRequest::Explain(number, reason), ack));
    }

    fn dead_letters_head(&self) -> watch::Receiver<u64> {
        self.dead_letters_head.clone()
    }
}

impl Maintenance for SqliteStore {
    fn backup_in(&self, folder: &Path, name: &CopyName, is_over: &dyn Fn() -> bool) -> Result<Backup, Error> {
        // This must not use an inspection, which opens the file itself: a process that closes a file loses SQLite's
        // locks on it.
        backup_folder::copy(&schema::open_for_reading(&self.path)?, folder, name, is_over)
    }

    fn statistics(&self, count: bool) -> Result<Statistics, Error> {
        statistics::of(&schema::open_for_reading(&self.path)?, &self.path, count)
    }
}

impl EventStore for SqliteStore {
    fn identity(&self) -> Uuid {
        self.identity
    }

    fn loss(&self) -> watch::Receiver<Option<Error>> {
        self.loss.clone()
    }

    fn trouble(&self) -> Option<String> {
        self.meters.trouble.held().clone()
    }

    fn reader(&self) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(reader::SqliteReader::open(&self.path, self.index.clone(), self.tail.clone())?))
    }

    fn measures(&self) -> Measures {
        let queue = self.queue.held_shared();
        let clock_jumps = self.meters.clock_jumps.load(std::sync::atomic::Ordering::Relaxed);
        let dead_letters_dropped = self.meters.dead_letters_dropped.load(std::sync::atomic::Ordering::Relaxed);
        let dead_letter_bytes = self.meters.dead_letter_bytes.load(std::sync::atomic::Ordering::Relaxed);
        let queued = queue.as_ref().map_or(0, |queue| queue.len() as u64);
        Measures {
            commit_time: self.meters.commit_time.read(),
            batch_size: self.meters.batch_size.read(),
            queued,
            clock_jumps,
            dead_letter_bytes,
            dead_letters_dropped,
        }
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    fn close(&self) {
        self.snapshots.close();
        drop(self.queue.held_alone().take());
        self.writer.join();
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Turns an error of SQLite into an error of the store, with the remedy if one is known.
fn failed(doing: &str) -> impl Fn(rusqlite::Error) -> Error + '_ {
    move |error| {
        use rusqlite::ErrorCode::*;
        if let Some(remedy) = exhausted(&error) {
            return Error::Failed(format!("{doing}: {error}; {remedy}"));
        }
        let remedy = match error.sqlite_error_code() {
            Some(DiskFull) => "; the disk is full: free some space, then send again",
            Some(ReadOnly) => "; the file or its folder is read-only: allow writing to it",
            Some(DatabaseCorrupt | NotADatabase) => {
                return Error::Failed(format!("{doing}: {error}; the file is damaged: {}", files::RESTORE));
            }
            Some(CannotOpen) => "; check that the folder exists and may be written to",
            Some(SystemIoFailure) => {
                "; the disk failed, or the file exceeds a limit of its size: check the system's log and its limits"
            }
            Some(DatabaseBusy | DatabaseLocked) => "; another program has the file open: end it, then send again",
            _ => "",
        };
        Error::Failed(format!("{doing}: {error}{remedy}"))
    }
}

/// Returns what to do if SQLite reached a limit of the process. SQLite does not name the limit, nor which of a store's
/// files it could not open.
fn exhausted(error: &rusqlite::Error) -> Option<String> {
    use rusqlite::ffi;
    match error.sqlite_error()?.extended_code {
        ffi::SQLITE_IOERR_NOMEM | ffi::SQLITE_IOERR_SHMMAP => Some(exhaustion::NO_MEMORY.to_owned()),
        code if code & 0xff == ffi::SQLITE_NOMEM => Some(exhaustion::NO_MEMORY.to_owned()),
        code if matches!(code & 0xff, ffi::SQLITE_CANTOPEN | ffi::SQLITE_IOERR) => exhaustion::remedy_now(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, SqliteStore, failed, schema};
    use crate::exhaustion;
    use rusqlite::Connection;

    #[test]
    fn a_limit_of_open_files_is_named_and_not_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(super::FILE_NAME);
        drop(SqliteStore::open(&file, super::Options::default()).expect("a store"));
        exhaustion::without_files("store::sqlite::tests::a_limit_of_open_files_is_named_and_not_the_folder", || {
            let failures: [fn(&std::path::Path) -> Option<Error>; 3] = [
                |file| schema::lock(file).err(),
                |file| schema::open_for_writing(file).err(),
                |file| schema::open_for_reading(file).err(),
            ];
            for failure in failures {
                let said = failure(&file).expect("no file can be opened").to_string();
                assert!(said.contains("all of the 3 files open") && !said.contains("folder exists"), "{said}");
            }
        });
    }

    #[test]
    fn what_a_full_disk_and_a_locked_file_need_is_said() {
        let connection = Connection::open_in_memory().expect("a database");
        connection.execute_batch("CREATE TABLE t (x); PRAGMA max_page_count = 3").expect("a small disk");
        let full = connection.execute("INSERT INTO t VALUES (zeroblob(100000))", []).expect_err("it does not fit");
        assert!(failed("appending events")(full).to_string().contains("free some space, then send again"));
        let file = tempfile::NamedTempFile::new().expect("a file");
        let [one, other] = [0, 1].map(|_| Connection::open(file.path()).expect("a database"));
        one.execute_batch("BEGIN EXCLUSIVE").expect("nobody else has it");
        let locked = other.execute_batch("BEGIN IMMEDIATE").expect_err("it is locked");
        assert!(failed("beginning")(locked).to_string().contains("another program has the file open: end it"));
    }
}
