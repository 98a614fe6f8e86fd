//! The write-ahead log of a store: how far it is written, and room before its end.
//!
//! A commit that makes the log longer also waits for the journal of the file system, which takes several times as long as a
//! commit inside of a log that is there. So the log gets its room in steps, ahead of the commits, and it keeps its length when it
//! is written from its beginning again.

use super::{Error, failed, files};
use rusqlite::Connection;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The room that a log gets at once. It is written as zeros, which end a log: a header begins with a magic number, and a frame has
/// the salts of the header.
const STEP_BYTES: u64 = 1 << 20;

/// The log of a writer.
pub(super) struct Log {
    file: File,
    /// The pages in it after the last commit, as SQLite counts them.
    pages: Arc<AtomicU64>,
    /// The bytes of a page in it.
    frame_bytes: u64,
    /// The length that the file has, as far as this writer knows.
    length: u64,
    /// The length up to which it gets room.
    room_max: u64,
}

impl Log {
    /// Opens the log of a connection that has written to it. No lock of SQLite is on this file, so it may be closed.
    pub(super) fn open(connection: &mut Connection, room_max: u64) -> Result<Self, Error> {
        let path = files::log_of(Path::new(connection.path().unwrap_or_default()));
        let opened = OpenOptions::new().write(true).open(&path);
        let file = opened.map_err(|error| Error::Failed(format!("can't open the log {}: {error}", path.display())))?;
        let page_bytes: u64 = connection
            .query_row("PRAGMA page_size", [], |row| row.get(0))
            .map_err(failed("reading the size of the store's pages"))?;
        let pages = Arc::new(AtomicU64::new(0));
        let counted = pages.clone();
        connection
            .wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
                counted.store(u64::from(pages.unsigned_abs()), Ordering::Relaxed);
                Ok(())
            }))
            .map_err(failed("counting the pages of the store's log"))?;
        Ok(Self { file, pages, frame_bytes: page_bytes + files::FRAME_HEADER as u64, length: 0, room_max })
    }

    /// Returns the bytes that are in use since the log was written from its beginning.
    pub(super) fn bytes(&self) -> u64 {
        self.pages.load(Ordering::Relaxed) * self.frame_bytes
    }

    /// Returns whether the file has become much longer than its limit, because a reader kept it from being written from its
    /// beginning.
    pub(super) fn is_far_too_long(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.len() > 2 * self.room_max)
    }

    /// Gives the log more room if little is left. Call it in a write transaction: then nobody else writes behind the end of the
    /// file. Without room, commits are only slower.
    pub(super) fn make_room(&mut self) {
        if self.length >= self.room_max || self.bytes() + STEP_BYTES / 2 < self.length {
            return;
        }
        if let Err(error) = self.extend() {
            tracing::debug!("the store's log gets no room ahead: {error}");
            self.length += STEP_BYTES;
        }
    }

    /// Notes that the log was cut to nothing.
    pub(super) fn cut(&mut self) {
        self.length = 0;
    }

    fn extend(&mut self) -> io::Result<()> {
        let end = self.file.metadata()?.len();
        let more = STEP_BYTES.min(self.room_max.saturating_sub(end));
        if let Err(error) = self.file.write_all_at(&vec![0; more as usize], end) {
            // The disk may be full. What is left of it is for events.
            self.file.set_len(end)?;
            return Err(error);
        }
        self.length = end + more;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const LIMIT: u64 = 3 * STEP_BYTES / 2;

    fn store() -> (tempfile::TempDir, Connection, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.sqlite");
        let connection = Connection::open(&path).unwrap();
        let sql = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (value BLOB)";
        connection.execute_batch(sql).unwrap();
        (folder, connection, files::log_of(&path))
    }

    fn write(connection: &Connection, log: &mut Log, bytes: u64) {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        log.make_room();
        connection.execute("INSERT INTO t VALUES (randomblob(?1))", [bytes]).unwrap();
        connection.execute_batch("COMMIT").unwrap();
    }

    #[test]
    fn a_log_gets_room_ahead_and_keeps_it_when_it_is_written_again() {
        let (_folder, mut connection, path) = store();
        let length = || path.metadata().unwrap().len();
        let (begin, mut log) = (length(), Log::open(&mut connection, LIMIT).unwrap());
        write(&connection, &mut log, 10);
        assert_eq!((length(), log.bytes() < 100 << 10), (begin + STEP_BYTES, true));
        write(&connection, &mut log, STEP_BYTES / 2);
        assert_eq!(length(), begin + STEP_BYTES, "there was enough room");
        write(&connection, &mut log, 10);
        assert_eq!(length(), LIMIT, "there is no more room than the limit");
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        write(&connection, &mut log, 10);
        assert_eq!((length(), log.bytes() < 100 << 10), (LIMIT, true));
        // Zeros and what an earlier round has left are no transactions.
        let (rows, copy) = (3 + 1, tempfile::tempdir().unwrap());
        let file = copy.path().join("events.sqlite");
        std::fs::copy(path.with_file_name("events.sqlite"), &file).unwrap();
        std::fs::copy(&path, files::log_of(&file)).unwrap();
        let count = |file: &Path| -> u64 {
            Connection::open(file).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(count(&file), rows);
    }

    #[test]
    fn a_log_that_was_cut_gets_room_again() {
        let (_folder, mut connection, path) = store();
        let mut log = Log::open(&mut connection, LIMIT).unwrap();
        write(&connection, &mut log, 3 * LIMIT);
        write(&connection, &mut log, 10);
        assert!(log.is_far_too_long() && log.bytes() > 2 * LIMIT);
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        log.cut();
        assert!(!log.is_far_too_long());
        write(&connection, &mut log, 10);
        assert!(path.metadata().unwrap().len() >= STEP_BYTES);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_does_not_stop_the_writer() {
        let (_folder, mut connection, _) = store();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut log = Log { file: full, ..Log::open(&mut connection, LIMIT).unwrap() };
        assert!(log.extend().is_err());
        write(&connection, &mut log, 10);
    }
}
