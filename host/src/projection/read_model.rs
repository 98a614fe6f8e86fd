//! The SQLite file of a projection: its rows, its checkpoint, and the code and history that it belongs to.

use super::memory;
use crate::exhaustion;
use crate::model::Position;
use crate::plugin::{self, ReadModel, SqlError, SqlRows, SqlValue};
use crate::supervise::Held as _;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql, params, params_from_iter};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use uuid::Uuid;
use wasmill_read_model::{Guarded, Limits, Refused, Trouble, unsigned};

/// The format of the host's tables. Files of another format are rebuilt.
const FORMAT: u32 = 2;

/// The maximum size of the rows of one statement, in bytes.
const ROWS_BYTES_MAX: usize = 16 << 20;

/// The pages of the write-ahead log at which SQLite checkpoints it. A large log means that rows that change often are
/// written to the file only once.
const LOG_PAGES: u32 = 8_000;

/// The size up to which a file is checked completely when it is opened. Damage in a larger one is found when it is
/// read.
const CHECKED_BYTES_MAX: u64 = 64 << 20;

/// How long to wait for another connection that has locked the file.
const BUSY_TIME: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE _wasmill_model (
        format INTEGER NOT NULL,
        store BLOB NOT NULL, -- the identity of the store that the events are from
        code TEXT NOT NULL, -- the digest of the plugin that made the rows
        has_answered INTEGER NOT NULL -- whether it had caught up once, and answered queries
    );
    CREATE TABLE _wasmill_checkpoint (
        position INTEGER NOT NULL, -- 0, or the place of an event
        event BLOB NOT NULL -- the id of that event; nil at 0
    );
    INSERT INTO _wasmill_checkpoint VALUES (0, zeroblob(16));";

/// The checkpoint of a read model: the event up to which everything is in the rows. Position 0 is before the first
/// event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) position: Position,
    pub(super) event: Uuid,
}

/// The store and the code that a read model belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The identity of the store.
    pub(super) store: Uuid,
    /// The digest of the code.
    pub(super) code: String,
}

/// The description of a read model in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) origin: Origin,
    pub(super) has_answered: bool,
    pub(super) mark: Mark,
}

/// Why a read model can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The damage is permanent, and the read model must be rebuilt.
    Damaged(String),
    /// The problem is temporary: the disk is full or fails, or another process has locked the file.
    Passing(String),
    /// The plugin's own statements are at fault.
    Statement(String),
}

/// Returns the description of a read model that no host has open. This changes nothing.
pub(super) fn about(file: &Path) -> rusqlite::Result<About> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIME)?;
    described(&connection)
}

fn described(connection: &Connection) -> rusqlite::Result<About> {
    let format: u32 = connection.query_row("SELECT format FROM _wasmill_model", [], |row| row.get(0))?;
    if format != FORMAT {
        return Err(rusqlite::Error::InvalidParameterName(format!("its format is {format}, this host has {FORMAT}")));
    }
    let (origin, has_answered) =
        connection.query_row("SELECT store, code, has_answered FROM _wasmill_model", [], |row| {
            Ok((Origin { store: Uuid::from_bytes(row.get(0)?), code: row.get(1)? }, row.get(2)?))
        })?;
    let mark = connection.query_row("SELECT position, event FROM _wasmill_checkpoint", [], |row| {
        Ok(Mark { position: Position(row.get(0)?), event: Uuid::from_bytes(row.get(1)?) })
    })?;
    Ok(About { origin, has_answered, mark })
}

/// A connection to a read model. Clones share it.
#[derive(Clone)]
pub(super) struct Database(Arc<Shared>);

struct Shared {
    guarded: Mutex<Guarded>,
    /// The last problem of the guest's statements that is not their fault, until it is taken.
    trouble: Mutex<Option<Fault>>,
}

impl Database {
    /// Creates a file with the tables of the host and those of `schema`.
    pub(super) fn create(file: &Path, schema: &str, origin: &Origin, limits: &plugin::Limits) -> Result<Self, Fault> {
        let database = Self::writing(file, limits).map_err(|error| fault(file, &error))?;
        let sql = |error: rusqlite::Error| fault(file, &error);
        let guarded = database.lock();
        guarded.owner().execute_batch("BEGIN IMMEDIATE").map_err(sql)?;
        guarded.owner().execute_batch(SCHEMA).map_err(sql)?;
        guarded
            .owner()
            .execute(
                "INSERT INTO _wasmill_model VALUES (?1, ?2, ?3, 0)",
                params![FORMAT, origin.store.as_bytes(), origin.code],
            )
            .map_err(sql)?;
        guarded.allow(limits.event_time);
        guarded.create(schema).map_err(refused)?;
        guarded.owner().execute_batch("COMMIT").map_err(sql)?;
        drop(guarded);
        Ok(database)
    }

    /// Opens an existing file for writing, and returns its description.
    pub(super) fn open(file: &Path, limits: &plugin::Limits) -> Result<(Self, About), Fault> {
        if !std::fs::symlink_metadata(file).is_ok_and(|about| about.is_file()) {
            return Err(Fault::Damaged("it is no file".to_owned()));
        }
        if let Err(error) = std::fs::File::options().read(true).write(true).open(file)
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Err(Fault::Damaged(format!("it can't be read and written: {error}")));
        }
        let database = Self::writing(file, limits).map_err(|error| fault(file, &error))?;
        let about = database.about().map_err(|error| match fault(file, &error) {
            // A table or a column is missing, or has invalid content.
            Fault::Statement(cause) => Fault::Damaged(format!("it is no read model of this version: {cause}")),
            fault => fault,
        })?;
        Ok((database, about))
    }

    /// Opens the file for queries.
    pub(super) fn open_read_only(file: &Path, limits: &plugin::Limits) -> Result<Self, Fault> {
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(file, flags)?;
            connection.busy_timeout(BUSY_TIME)?;
            connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -16384;")?;
            Self::guarded(connection, limits)
        };
        open().map_err(|error| fault(file, &error))
    }

    fn writing(file: &Path, limits: &plugin::Limits) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        connection.busy_timeout(BUSY_TIME)?;
        // A read model can be rebuilt, so it may lose its last transactions in a power failure. Rows and checkpoint
        // stay consistent in any case.
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -32768;")?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        Self::guarded(connection, limits)
    }

    fn guarded(connection: Connection, limits: &plugin::Limits) -> rusqlite::Result<Self> {
        let limits = Limits {
            value_bytes_max: limits.sql_value_bytes_max,
            memory_bytes_max: limits.sql_memory_bytes_max,
            file_bytes_max: limits.read_model_bytes_max,
            rows_bytes_max: ROWS_BYTES_MAX,
            memory_held: memory::held,
        };
        let guarded = Mutex::new(Guarded::new(connection, limits)?);
        Ok(Self(Arc::new(Shared { guarded, trouble: Mutex::default() })))
    }

    fn about(&self) -> rusqlite::Result<About> {
        let guarded = self.lock();
        let connection = guarded.owner();
        let about = described(connection)?;
        let bytes: u64 = connection.query_row(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            [],
            |row| row.get(0),
        )?;
        if bytes <= CHECKED_BYTES_MAX {
            // A file that was truncated is found here, and not later at some event.
            let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if found != "ok" {
                return Err(rusqlite::Error::InvalidParameterName(found));
            }
        }
        Ok(about)
    }

    /// Begins the transaction for the guest's statements.
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        let guarded = self.lock();
        guarded.owner().execute_batch("BEGIN IMMEDIATE")?;
        guarded.in_transaction(true);
        Ok(())
    }

    /// Sets a savepoint in the transaction.
    pub(super) fn mark(&self) -> rusqlite::Result<()> {
        self.lock().owner().execute_batch("SAVEPOINT part")
    }

    /// Releases the savepoint, and first rolls back to it if the call failed. Returns false if the whole transaction is
    /// gone, because some errors, such as an interrupted statement, roll it back.
    pub(super) fn unmark(&self, failed: bool) -> rusqlite::Result<bool> {
        let guarded = self.lock();
        let connection = guarded.owner();
        if connection.is_autocommit() {
            return Ok(false);
        }
        connection.execute_batch(if failed { "ROLLBACK TO part; RELEASE part" } else { "RELEASE part" })?;
        Ok(true)
    }

    /// Rolls the transaction back.
    pub(super) fn roll_back(&self) -> rusqlite::Result<()> {
        let guarded = self.lock();
        guarded.in_transaction(false);
        let connection = guarded.owner();
        if connection.is_autocommit() { Ok(()) } else { connection.execute_batch("ROLLBACK") }
    }

    /// Commits the transaction with the checkpoint moved. If the checkpoint is not at `from`, rolls it back and returns
    /// false.
    pub(super) fn commit(&self, from: Position, to: Mark) -> rusqlite::Result<bool> {
        let guarded = self.lock();
        guarded.in_transaction(false);
        let connection = guarded.owner();
        let moved = connection.execute(
            "UPDATE _wasmill_checkpoint SET position = ?2, event = ?3 WHERE position = ?1",
            params![from.0, to.position.0, to.event.as_bytes()],
        )?;
        connection.execute_batch(if moved == 1 { "COMMIT" } else { "ROLLBACK" })?;
        Ok(moved == 1)
    }

    /// Records that it has caught up and answers queries.
    pub(super) fn answers(&self) -> rusqlite::Result<()> {
        self.lock().owner().execute("UPDATE _wasmill_model SET has_answered = 1", []).map(|_| ())
    }

    /// Returns the read model for a guest, with `time` for its statements.
    pub(super) fn for_guest(&self, time: Duration) -> Box<dyn ReadModel> {
        self.lock().allow(time);
        Box::new(Session(self.clone()))
    }

    /// Takes the problem that the guest's statements met since the last call, if it is not their fault.
    pub(super) fn take_trouble(&self) -> Option<Fault> {
        self.0.trouble.held().take()
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        // The connection stays usable after a panic, because SQLite keeps its own state.
        self.0.guarded.held()
    }
}

struct Session(Database);

impl Session {
    fn refused(&self, refused: Refused) -> SqlError {
        let fault = match refused.trouble {
            Some(Trouble::Damaged) => Some(Fault::Damaged(refused.text.clone())),
            Some(Trouble::Passing) => Some(Fault::Passing(refused.text.clone())),
            None => None,
        };
        if fault.is_some() {
            *self.0.0.trouble.held() = fault;
        }
        SqlError(refused.text)
    }
}

impl ReadModel for Session {
    fn execute(&mut self, statement: &str, parameters: Vec<SqlValue>) -> Result<u64, SqlError> {
        let executed = self.0.lock().execute(statement, params_from_iter(parameters.iter()));
        executed.map_err(|error| self.refused(error))
    }

    fn query(&mut self, statement: &str, parameters: Vec<SqlValue>) -> Result<SqlRows, SqlError> {
        let found = self.0.lock().query(statement, params_from_iter(parameters.iter()), taken);
        let found = found.map_err(|error| self.refused(error))?;
        Ok(SqlRows { columns: found.columns, rows: found.rows })
    }
}

fn refused(refused: Refused) -> Fault {
    match refused.trouble {
        Some(Trouble::Damaged) => Fault::Damaged(refused.text),
        Some(Trouble::Passing) => Fault::Passing(refused.text),
        None => Fault::Statement(refused.text),
    }
}

/// Classifies an error of one of the host's statements.
pub(super) fn fault(file: &Path, error: &rusqlite::Error) -> Fault {
    match Trouble::of(error) {
        Some(Trouble::Damaged) => Fault::Damaged(error.to_string()),
        Some(Trouble::Passing) if file.is_dir() => Fault::Damaged("it is a folder".to_owned()),
        Some(Trouble::Passing) => Fault::Passing(match remedy(error) {
            Some(remedy) => format!("{error}; {remedy}"),
            None => error.to_string(),
        }),
        None => Fault::Statement(error.to_string()),
    }
}

/// Returns what a person can do about a temporary problem.
fn remedy(error: &rusqlite::Error) -> Option<String> {
    match error.sqlite_error_code()? {
        ErrorCode::DiskFull => Some("the disk is full: free some space".to_owned()),
        ErrorCode::OutOfMemory => Some(exhaustion::NO_MEMORY.to_owned()),
        ErrorCode::CannotOpen | ErrorCode::SystemIoFailure => exhaustion::remedy_now(),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            Some("another program has the file open: end it".to_owned())
        }
        _ => None,
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Unsigned(value) => ValueRef::Integer(unsigned(*value)?),
            Self::Real(value) => ValueRef::Real(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

fn taken(value: ValueRef<'_>) -> SqlValue {
    match value {
        ValueRef::Null => SqlValue::Null,
        ValueRef::Integer(value) => SqlValue::Integer(value),
        ValueRef::Real(value) => SqlValue::Real(value),
        ValueRef::Text(text) => SqlValue::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => SqlValue::Blob(blob.to_vec()),
    }
}
