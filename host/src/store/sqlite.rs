//! The embedded store: one SQLite file, one writer.
//!
//! The writer drains a bounded queue into one transaction at a time (group commit) and answers after the commit. It is
//! the only writer, because a lock on a file beside the store keeps other hosts out. So it can check the expected
//! version against memory. The hot path only appends by position. The index from streams to positions is filled later,
//! in sorted runs, and readers look in both places (`stream_index`).

mod administration;
mod appends;
mod backup;
mod backup_folder;
mod callbacks;
mod content;
mod dead_letter_room;
mod dead_letters;
mod dictionary;
mod division;
mod files;
mod held_keys;
mod http_requests;
mod id_columns;
mod import;
mod inspection;
mod known_streams;
mod ledgers;
mod log;
mod moving;
mod outbox;
mod owner;
mod places;
#[cfg(test)]
mod properties;
mod reader;
mod recovery;
mod restore;
mod rows;
mod schema;
mod snapshots;
mod statistics;
mod steps;
mod stream_index;
mod verify;
mod wal_checkpoint;
mod writer;

use super::front::{Front, Fronted, Meters};
use super::{
    Backup, CopyName, Error, EventStore, Maintenance, Measures, Reader, Snapshot, Statistics, age, encoding, fault,
    ids, parts, room, tail, watches, write_request,
};
use crate::exhaustion;
use crate::supervise;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stream_index::StreamIndex;
use tail::Tail;
use tokio::sync::watch;
use uuid::Uuid;

pub use super::fault::{FaultPoint, KILL_AT};
pub use super::options::{DeadLetterLimits, Options};
pub use super::verify::Report;
pub use backup::backup;
pub use import::{Begins, Imported, Importer, Parts};
pub use inspection::inspect;
pub(super) use moving::{End, look};
pub use places::{fact, places};
pub use restore::{Restore, Restored};
pub use schema::{exists, is_in_use};
pub use statistics::statistics;
pub use verify::verify;

/// The name of the store's file in a data folder.
pub const FILE_NAME: &str = "events.sqlite";

/// The embedded [`EventStore`].
pub struct SqliteStore {
    path: PathBuf,
    front: Front,
    writer: supervise::Thread,
    index: Arc<StreamIndex>,
    known_streams: known_streams::Reading,
    tail: Arc<Tail>,
    snapshots: snapshots::Snapshots,
    identity: Uuid,
}

impl SqliteStore {
    /// Opens the store in a file, and creates it if it does not exist. Fails if another host has it open, or if the
    /// file is damaged or from a newer wasmill.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let lock = schema::lock(path)?;
        let connection = schema::open_for_writing(path)?;
        moving::refuse_marked(&connection, path)?;
        let identity = owner::identity(&connection)?;
        let ownership = owner::Ownership::take(&connection, path)?;
        let index = Arc::new(StreamIndex::default());
        let (queue, requests, room) = Front::queue(options.queue_max, options.queue_bytes_max);
        let tail = Arc::new(Tail::new(options.tail_bytes_max));
        let writer =
            writer::Writer::new(connection, lock, ownership, options, index.clone(), tail.clone(), room.clone())?;
        let front = Front::new(queue, room, writer.watches(), writer.meters.clone());
        let writer = supervise::vital("store-writer", move || writer.run(requests))
            .map_err(|error| Error::Failed(format!("can't start the writer's thread: {error}")))?;
        let snapshots = snapshots::Snapshots::new(path, index.clone());
        let known_streams = known_streams::Reading::begin(path, index.clone());
        Ok(Self { path: path.to_owned(), front, writer, index, known_streams, tail, snapshots, identity })
    }
}

impl Fronted for SqliteStore {
    fn front(&self) -> &Front {
        &self.front
    }

    fn keep(&self, snapshot: Snapshot) {
        self.snapshots.keep(snapshot);
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
        self.front.loss()
    }

    fn trouble(&self) -> Option<String> {
        self.front.trouble()
    }

    fn reader(&self) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(reader::SqliteReader::open(&self.path, self.index.clone(), self.tail.clone())?))
    }

    fn measures(&self) -> Measures {
        self.front.measures()
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    fn close(&self) {
        self.snapshots.close();
        self.known_streams.end();
        self.front.close();
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
