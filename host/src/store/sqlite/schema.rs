//! The store's file: its lock, its tables, its format, and the settings of its connections.

use super::fault::{self, FaultPoint};
use super::{Error, failed, files, owner, restore};
use crate::{exhaustion, paths};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

/// The tables of a store.
const TABLES: &str = include_str!("schema.sql");

/// The format of the file. There is no migration from other formats, because formats 1 to 9 were never released.
const FORMAT: i64 = 12;

/// The longest wait for another program that has locked the file.
pub(super) const BUSY_TIME_MAX: Duration = Duration::from_secs(5);

/// A lock on the file beside a store. It is released when the process ends, even if it is killed.
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would not be enough: a program that this process is just starting still has the file open.
        let _ = self.0.unlock();
    }
}

/// Locks a store. No other host can open it while the lock is held.
pub(super) fn lock(path: &Path) -> Result<Lock, Error> {
    hold(path, File::options().create(true).truncate(false).write(true))
}

/// Locks a store that is only read. The store must exist, and no file is created, so a copy may be in a read-only
/// folder. The result is `None` if no host ever had it open.
pub(super) fn lock_existing(path: &Path) -> Result<Option<Lock>, Error> {
    if !path.is_file() && !restore::is_interrupted(path) {
        return Err(Error::Failed(format!("there is no store {}", path.display())));
    }
    path.with_extension("lock").exists().then(|| hold(path, File::options().read(true))).transpose()
}

fn hold(path: &Path, how: &OpenOptions) -> Result<Lock, Error> {
    let lock_path = path.with_extension("lock");
    match paths::require_file(&lock_path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(Error::Failed(error.to_string())),
        // Opening the store reports any other problem.
        _ => {}
    }
    let file = how.open(&lock_path).map_err(|error| {
        let folder = || "check that the folder exists and may be written to".to_owned();
        let remedy = exhaustion::remedy(&error).unwrap_or_else(folder);
        Error::Failed(format!("can't open {}: {error}; {remedy}", lock_path.display()))
    })?;
    match file.try_lock() {
        Ok(()) => {
            let lock = Lock(file);
            restore::complete(path)?;
            Ok(lock)
        }
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Failed(format!(
            "the store {} is in use by another host or `wasmill store` command: stop that host, wait for the command to \
             end, or choose another data folder",
            path.display()
        ))),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(Error::Failed(format!("can't lock {}: {error}", lock_path.display())))
        }
    }
}

/// Returns whether there is a store, also if its restore was interrupted.
pub fn exists(path: &Path) -> bool {
    path.exists() || restore::is_interrupted(path)
}

/// Returns whether a host has a store open now.
pub fn is_in_use(path: &Path) -> bool {
    File::open(path.with_extension("lock")).is_ok_and(|file| match file.try_lock_shared() {
        Ok(()) => {
            drop(Lock(file));
            false
        }
        Err(error) => matches!(error, std::fs::TryLockError::WouldBlock),
    })
}

/// Opens the writer's connection, and creates the store if it does not exist.
pub(super) fn open_for_writing(path: &Path) -> Result<Connection, Error> {
    files::refuse_unfit(path)?;
    if !path.exists() {
        make(path, |_| Ok(()))?;
    }
    open_or_make(path)
}

/// Opens a connection that writes to a store that must exist.
pub(super) fn open_existing(path: &Path) -> Result<Connection, Error> {
    drop(open_for_inspection(path)?);
    open_or_make(path)
}

/// Keeps the log when the connection is closed. By default the last connection that closes copies it into the file.
pub(super) fn keep_log(connection: &Connection) {
    if let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
        tracing::warn!("the store's log is written into its file: {error}");
    }
}

/// Creates a store under another name and then moves it into place. So an empty file is never a new store: it is one
/// that has lost its content. `complete` adds what the store is to have from the beginning.
pub(super) fn make(path: &Path, complete: impl FnOnce(&Connection) -> Result<(), Error>) -> Result<(), Error> {
    let failed = |error: io::Error| {
        Error::Failed(format!("can't create the store {}: {}", path.display(), exhaustion::told(&error)))
    };
    let aside = path.with_extension("new");
    if aside.exists() {
        fs::remove_file(&aside).map_err(failed)?;
    }
    // Closing it copies the log into the file, so that everything is in one file.
    let connection = open_or_make(&aside)?;
    complete(&connection)?;
    drop(connection);
    fault::at(FaultPoint::MadeAside);
    fs::rename(&aside, path).map_err(failed)?;
    fault::at(FaultPoint::MovedIntoPlace);
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()).map_err(failed)
}

pub(super) fn open_or_make(path: &Path) -> Result<Connection, Error> {
    let doing = format!("opening the store {}", path.display());
    let failed = failed(&doing);
    let mut connection = Connection::open(path).map_err(&failed)?;
    settle(&connection).map_err(&failed)?;
    let is_new = !has_format(&connection, path)?;
    if connection.is_readonly("main").map_err(&failed)? {
        return Err(Error::Failed(format!("the store {} is read-only: allow writing to it", path.display())));
    }
    connection
        .execute_batch(
            "PRAGMA page_size = 4096;
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA cache_size = -24576;
             PRAGMA temp_store = MEMORY;",
        )
        .map_err(&failed)?;
    if is_new {
        make_tables(&mut connection).map_err(&failed)?;
        fault::at(FaultPoint::TablesMade);
    }
    Ok(connection)
}

/// Opens a connection that inspects or copies a store that no host has open. It changes nothing and creates no file.
pub(super) fn open_for_inspection(path: &Path) -> Result<Connection, Error> {
    files::refuse_unfit(path)?;
    let connection = open_for_reading(path)?;
    if has_format(&connection, path)? {
        return Ok(connection);
    }
    Err(Error::Failed(format!("the store {} has no tables: {}", path.display(), files::RESTORE)))
}

/// Opens a reader's connection.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, Error> {
    let doing = format!("opening the store {} for reading", path.display());
    let failed = failed(&doing);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.execute_batch("PRAGMA cache_size = -4096;").map_err(&failed)?;
    settle(&connection).map_err(&failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Returns whether the file has the tables of a store, which an empty database has not. Fails if this version of
/// wasmill must not use the file.
fn has_format(connection: &Connection, path: &Path) -> Result<bool, Error> {
    let doing = format!("looking at the store {}", path.display());
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed(&doing));
    let (format, tables) = (number("PRAGMA user_version")?, number("SELECT count(*) FROM sqlite_schema")?);
    if format == 0 && tables == 0 {
        return Ok(false);
    }
    let known = "SELECT count(*) FROM sqlite_schema WHERE name IN ('events', 'ledgers', 'stream_index')";
    let path = path.display();
    if format <= 0 || number(known)? < 3 {
        return Err(Error::Failed(format!("{path} is the database of another program: choose another data folder")));
    }
    match format {
        FORMAT => Ok(true),
        newer if newer > FORMAT => Err(Error::Failed(format!(
            "the store {path} has format {newer}, and this wasmill reads format {FORMAT} alone: run a newer wasmill on it"
        ))),
        older => Err(Error::Failed(format!(
            "the store {path} has format {older}, from before the first release, and this wasmill reads format {FORMAT} \
             alone: run the wasmill that made it, or choose another data folder"
        ))),
    }
}

/// Applies the settings of every connection.
fn settle(connection: &Connection) -> rusqlite::Result<()> {
    // Otherwise SQLite prepares a statement again whenever other values are bound to it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.busy_timeout(BUSY_TIME_MAX)
}

fn make_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    owner::name(&transaction)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::{is_in_use, lock};

    #[test]
    fn a_lock_ends_although_a_program_that_was_just_started_still_has_its_file_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = folder.path().join("events.sqlite");
        let held = lock(&store).expect("nobody has it");
        assert!(is_in_use(&store) && lock(&store).is_err());
        let _of_the_program = held.0.try_clone().expect("a second descriptor of the open file");
        drop(held);
        assert!(!is_in_use(&store));
        lock(&store).expect("nobody has it any more");
    }
}
