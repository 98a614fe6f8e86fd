//! Snapshots: a cache in its own file beside the store. It is never the source of truth.
//!
//! A thread writes the snapshots, so that no command and no transaction of the store waits for them. If the thread
//! can't keep up, snapshots are dropped. A file that is damaged, has another format or can't be written is recreated.
//! Each snapshot names the last event that is in it. So a snapshot of another history is not found, for example after a
//! backup was restored.

use super::reader::SqliteReader;
use super::stream_index::StreamIndex;
use super::tail::Tail;
use crate::model::{StreamId, Version};
use crate::store::snapshot_limits::{QUEUE_MAX, refuse_large};
use crate::store::{Error, EventReader as _, Snapshot};
use crate::supervise::{self, Held as _};
use crossbeam_channel::{Receiver, Sender};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The format of the file. A file with another format is discarded.
const FORMAT: u32 = 2;

const SCHEMA: &str = "
    CREATE TABLE snapshots (
        aggregate_type TEXT NOT NULL,
        aggregate_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        event BLOB NOT NULL, -- the id of the event at this version
        code TEXT NOT NULL,
        state BLOB NOT NULL,
        digest BLOB NOT NULL, -- of all the others
        UNIQUE (aggregate_type, aggregate_id)
    );";

/// The writing side. The file and the thread are created with the first snapshot.
pub(super) struct Snapshots {
    store: PathBuf,
    index: Arc<StreamIndex>,
    writing: Mutex<Writing>,
}

#[derive(Default)]
enum Writing {
    #[default]
    NotYet,
    Open(Sender<Snapshot>, supervise::Thread),
    Closed,
}

impl Snapshots {
    pub(super) fn new(store: &Path, index: Arc<StreamIndex>) -> Self {
        Self { store: store.to_owned(), index, writing: Mutex::default() }
    }

    /// Keeps a snapshot. It never waits.
    pub(super) fn keep(&self, snapshot: Snapshot) {
        if refuse_large(&snapshot) {
            return;
        }
        let mut writing = self.writing.held();
        if matches!(*writing, Writing::NotYet) {
            match self.start() {
                Ok((queue, thread)) => *writing = Writing::Open(queue, thread),
                Err(error) => return tracing::warn!("no snapshots are kept: {error}"),
            }
        }
        if let Writing::Open(queue, _) = &*writing {
            // If the queue is full, the snapshot is dropped. The next one comes after later events.
            let _ = queue.try_send(snapshot);
        }
    }

    fn start(&self) -> Result<(Sender<Snapshot>, supervise::Thread), Error> {
        let connection = open_or_make(&file_beside(&self.store))?;
        let keeper =
            Keeper { connection, reader: SqliteReader::open(&self.store, self.index.clone(), Arc::new(Tail::new(0)))? };
        let (queue, snapshots) = crossbeam_channel::bounded(QUEUE_MAX);
        let work = move |keeper: &mut Keeper| keeper.run(&snapshots);
        let thread = supervise::restarting("snapshots", || Ok(keeper), |_| Ok::<_, Error>(()), work)
            .map_err(|error| Error::Failed(format!("can't start the snapshots' thread: {error}")))?;
        Ok((queue, thread))
    }

    /// Writes the queued snapshots and ends the thread.
    pub(super) fn close(&self) {
        let writing = std::mem::replace(&mut *self.writing.held(), Writing::Closed);
        if let Writing::Open(queue, thread) = writing {
            drop(queue);
            thread.join();
        }
    }
}

/// The thread that writes snapshots.
struct Keeper {
    connection: Connection,
    reader: SqliteReader,
}

impl Keeper {
    fn run(&mut self, snapshots: &Receiver<Snapshot>) {
        for first in snapshots {
            supervise::round();
            let batch: Vec<Snapshot> = std::iter::once(first).chain(snapshots.try_iter().take(QUEUE_MAX)).collect();
            if let Err(error) = self.keep(&batch) {
                tracing::warn!("{} snapshots are not kept: {error}", batch.len());
            }
        }
    }

    fn keep(&mut self, batch: &[Snapshot]) -> Result<(), Error> {
        let failed = super::failed("keeping snapshots");
        let transaction = self.connection.transaction().map_err(&failed)?;
        for Snapshot { stream, version, code, state } in batch {
            let Some(event) = event_at(&mut self.reader, stream, *version)? else { continue };
            transaction
                .prepare_cached("INSERT OR REPLACE INTO snapshots VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")
                .and_then(|mut insert| {
                    let StreamId { aggregate_type, aggregate_id } = stream;
                    let digest = digest(stream, *version, &event, code, state);
                    insert.execute(params![
                        aggregate_type,
                        aggregate_id,
                        version.0,
                        event.as_bytes(),
                        code,
                        state,
                        digest
                    ])
                })
                .map_err(&failed)?;
        }
        transaction.commit().map_err(&failed)
    }
}

/// The reading side, with one reader's own connection.
#[derive(Default)]
pub(super) struct SnapshotReader(Option<Connection>);

impl SnapshotReader {
    /// Returns the newest snapshot of a stream and the id of its last event, if this code made it. If the file can't be
    /// read the result is none, because it is only a cache.
    pub(super) fn find(&mut self, store: &Path, stream: &StreamId, code: &str) -> Option<(Snapshot, uuid::Uuid)> {
        if self.0.is_none() {
            self.0 = open_for_reading(&file_beside(store));
        }
        match select(self.0.as_ref()?, stream, code) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!("the snapshot of {stream} can't be read: {error}");
                self.0 = None;
                None
            }
        }
    }
}

fn select(connection: &Connection, stream: &StreamId, code: &str) -> rusqlite::Result<Option<(Snapshot, uuid::Uuid)>> {
    let mut select = connection.prepare_cached(
        "SELECT version, event, state, digest FROM snapshots WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND code = ?3",
    )?;
    let StreamId { aggregate_type, aggregate_id } = stream;
    let row = |row: &rusqlite::Row<'_>| {
        let snapshot =
            Snapshot { stream: stream.clone(), version: Version(row.get(0)?), code: code.into(), state: row.get(2)? };
        let event = uuid::Uuid::from_bytes(row.get(1)?);
        let is_whole = row.get::<_, [u8; 32]>(3)? == digest(stream, snapshot.version, &event, code, &snapshot.state);
        // SQLite does not notice if the disk has flipped a bit of a value.
        if !is_whole {
            tracing::warn!("the snapshot of {stream} is damaged: the aggregate is rebuilt from its events");
        }
        Ok(is_whole.then_some((snapshot, event)))
    };
    Ok(select.query_row(params![aggregate_type, aggregate_id, code], row).optional()?.flatten())
}

fn digest(stream: &StreamId, version: Version, event: &uuid::Uuid, code: &str, state: &[u8]) -> [u8; 32] {
    let StreamId { aggregate_type, aggregate_id } = stream;
    let mut digest = Sha256::new();
    for part in [aggregate_type.as_bytes(), aggregate_id.as_bytes(), event.as_bytes(), code.as_bytes(), state] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.update(version.0.to_le_bytes());
    digest.finalize().into()
}

/// Returns the id of an event of a stream.
pub(super) fn event_at(
    reader: &mut SqliteReader,
    stream: &StreamId,
    version: Version,
) -> Result<Option<uuid::Uuid>, Error> {
    let events = reader.read_stream(stream, Version(version.0.saturating_sub(1)), 1)?;
    Ok(events.into_iter().find(|event| event.version == version).map(|event| event.id))
}

fn file_beside(store: &Path) -> PathBuf {
    store.with_file_name("snapshots.sqlite")
}

fn open_for_reading(path: &Path) -> Option<Connection> {
    use rusqlite::OpenFlags;
    if !path.is_file() {
        return None;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).ok()?;
    connection.busy_timeout(Duration::from_secs(1)).ok()?;
    (format(&connection) == Some(FORMAT)).then_some(connection)
}

/// Opens the writer's connection. A file that can't be used is replaced by a new one.
fn open_or_make(path: &Path) -> Result<Connection, Error> {
    match open(path) {
        Ok(connection) => Ok(connection),
        Err(error) => {
            tracing::warn!("{} can't be used and is recreated: {error}", path.display());
            for suffix in ["", "-wal", "-shm"] {
                let file = format!("{}{suffix}", path.display());
                // If it is not a file, it belongs to somebody, so it is only moved away. If that fails, so does the
                // next step.
                if std::fs::remove_file(&file).is_err() {
                    let _ = std::fs::rename(&file, format!("{file}.unusable"));
                }
            }
            open(path).map_err(super::failed(&format!("opening {}", path.display())))
        }
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(1))?;
    // SQLite opens a file that it can't write as read-only, and would report that only at the first write.
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(rusqlite::Error::InvalidPath(path.to_owned()));
    }
    // A cache may lose its last changes, but must not be corrupted.
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")?;
    match format(&connection) {
        Some(FORMAT) => {}
        Some(0) => {
            let transaction = connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
            transaction.commit()?;
        }
        _ => return Err(rusqlite::Error::InvalidQuery),
    }
    Ok(connection)
}

fn format(connection: &Connection) -> Option<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0)).ok()
}
