//! The ownership of a store: its identity, and which of the processes that opened it may write.
//!
//! The lock on `events.lock` keeps a second host away, as long as nobody deletes that file. Behind it there is a fence
//! in the store itself: whoever opens the store for writing raises its owner epoch, and each transaction of a writer
//! first checks the epoch. SQLite lets only one connection write at a time. So a writer either commits before the next
//! owner has read anything, or it finds the new epoch and writes nothing more.
//!
//! A former owner that has just found itself the owner may still fold and truncate the log, which loses nothing. The next owner can't
//! tell this from a log that was cut, so it may end, and must be started again.
//!
//! An owner also loses a store if another program has removed, replaced or cut its file or log. SQLite would only
//! notice that some page is wrong, and the next WAL checkpoint would hide what happened.

use super::age::Moment;
use super::{Error, failed, files};
use crate::store::Loss;
use rusqlite::{Connection, params};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The interval at which an idle writer checks that it still owns the store.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The number in the header of the file, at [`files::LOG_MARK_AT`], that ties a log to the file that it follows on.
const LOG_MARK: &str = "application_id";

/// Raises the mark, in the first transaction of each log. So the file of a log has either the mark before this one, or
/// a mark that is in the log. See [`files::refuse_unfit`].
pub(super) fn mark_log(connection: &Connection) -> Result<(), Error> {
    connection
        .pragma_query_value(None, LOG_MARK, |row| row.get::<_, i32>(0))
        .and_then(|mark| connection.pragma_update(None, LOG_MARK, mark.wrapping_add(1)))
        .map_err(failed("marking the store's log"))
}

/// Gives a new store its identity and a random mark, so that two stores hardly ever have the same one.
pub(super) fn name(connection: &Connection) -> rusqlite::Result<()> {
    let insert = "INSERT INTO store (number, identity, owner_epoch, running_ms, wall_ms) VALUES (1, ?1, 0, 0, 0)";
    connection.execute(insert, params![Uuid::now_v7().as_bytes()])?;
    connection.pragma_update(None, LOG_MARK, fastrand::i32(..))
}

/// Returns the identity of a store.
pub(super) fn identity(connection: &Connection) -> Result<Uuid, Error> {
    let select = "SELECT identity FROM store";
    let bytes = connection.query_row(select, [], |row| row.get(0)).map_err(failed("reading the store's identity"))?;
    Ok(Uuid::from_bytes(bytes))
}

/// Returns the moment that the last host wrote.
pub(super) fn noted_moment(connection: &Connection) -> Result<Moment, Error> {
    connection
        .query_row("SELECT running_ms, wall_ms FROM store", [], |row| {
            Ok(Moment { running_ms: row.get(0)?, wall_ms: row.get(1)? })
        })
        .map_err(failed("reading the store's running time"))
}

/// Writes a moment, in a transaction of the writer.
pub(super) fn note_moment(connection: &Connection, Moment { wall_ms, running_ms }: Moment) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE store SET running_ms = ?1, wall_ms = ?2")
        .and_then(|mut update| update.execute(params![running_ms, wall_ms]))
        .map(drop)
        .map_err(failed("noting the store's running time"))
}

/// The ownership of a store that this process has taken.
pub(super) struct Ownership {
    epoch: i64,
    file: PathBuf,
    log: PathBuf,
    file_seen: Seen,
    log_seen: Seen,
    next_look: Instant,
}

/// The state of a file at the last check.
#[derive(Clone, Copy)]
struct Seen {
    /// The device and the inode.
    place: (u64, u64),
    bytes: u64,
}

impl Seen {
    /// Reads the state of a file without opening it, because a process that closes a file loses SQLite's locks on it.
    fn look(file: &Path) -> Option<Self> {
        let found = std::fs::metadata(file).ok()?;
        Some(Self { place: (found.dev(), found.ino()), bytes: found.len() })
    }

    /// Reads the state again, and fails if the file is gone, was replaced, or is shorter.
    fn again(self, file: &Path) -> Result<Self, Error> {
        let how = match Self::look(file) {
            None => Loss::Removed,
            Some(there) if there.place != self.place => Loss::Replaced,
            Some(there) if there.bytes < self.bytes => Loss::Cut,
            Some(there) => return Ok(there),
        };
        Err(lost(how, file))
    }
}

impl Ownership {
    /// Takes over the store from every earlier owner.
    pub(super) fn take(connection: &Connection, file: &Path) -> Result<Self, Error> {
        let failed = failed("taking the store over");
        let update = "UPDATE store SET owner_epoch = owner_epoch + 1 RETURNING owner_epoch";
        let transaction = connection.unchecked_transaction().map_err(&failed)?;
        let epoch = transaction.query_row(update, [], |row| row.get(0)).map_err(&failed)?;
        mark_log(&transaction)?;
        transaction.commit().map_err(&failed)?;
        let log = files::log_of(file);
        let look = |path: &Path| {
            let removed = || Error::Failed(format!("the store {} was removed while it was opened", file.display()));
            Seen::look(path).ok_or_else(removed)
        };
        let (file_seen, log_seen) = (look(file)?, look(&log)?);
        let next_look = Instant::now() + LOOK_EVERY;
        Ok(Self { epoch, file: file.to_owned(), log, file_seen, log_seen, next_look })
    }

    /// Fails if another process has taken over the store since. The result is reliable within a write transaction.
    pub(super) fn check(&mut self, connection: &Connection) -> Result<(), Error> {
        let epoch: Result<i64, Error> = connection
            .prepare_cached("SELECT owner_epoch FROM store WHERE number = 1")
            .and_then(|mut select| select.query_row([], |row| row.get(0)))
            .map_err(failed("looking whose the store is"));
        // This comes before the check of the files, because a host that has taken over the store also cuts its log.
        if epoch.as_ref().is_ok_and(|epoch| *epoch != self.epoch) {
            return Err(lost(Loss::TakenOver, &self.file));
        }
        let now = Instant::now();
        if now >= self.next_look || epoch.is_err() {
            self.next_look = now + LOOK_EVERY;
            self.check_files()?;
        }
        epoch.map(drop)
    }

    /// Fails if another program has removed, replaced or cut the file or the log. What is written to a removed file is
    /// lost when the process ends. Both files only grow, except for [`Self::log_cut`].
    pub(super) fn check_files(&mut self) -> Result<(), Error> {
        let look = || -> Result<_, Error> { Ok((self.file_seen.again(&self.file)?, self.log_seen.again(&self.log)?)) };
        // If they are lost, the next transaction must find this too.
        (self.file_seen, self.log_seen) = look().inspect_err(|_| self.next_look = Instant::now())?;
        Ok(())
    }

    /// Notes that the owner itself has cut the log.
    pub(super) fn log_cut(&mut self) {
        self.log_seen.bytes = 0;
    }
}

fn lost(how: Loss, file: &Path) -> Error {
    Error::Lost { how, file: file.display().to_string() }
}
