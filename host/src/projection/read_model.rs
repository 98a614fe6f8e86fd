//! The SQLite file of a projection, and what its guest may do with it.

use crate::model::Position;
use crate::plugin::{ReadModel, SqlError, SqlRows, SqlValue};
use crate::supervise::Held as _;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OpenFlags, ToSql, params_from_iter};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes that the rows of one statement may have.
const ROWS_BYTES_MAX: usize = 16 << 20;

/// Pages of the log at which it is folded into the file: rows that change often are then written there once.
const LOG_PAGES: u32 = 8_000;

/// SQLite's steps between two looks at the clock: well under a millisecond.
const STEPS_PER_LOOK: i32 = 10_000;

/// The table that only the host touches.
const CHECKPOINT_TABLE: &str = "_wasmill_checkpoint";

/// A connection to a read model. Cloning shares it.
#[derive(Clone)]
pub(super) struct Database {
    connection: Arc<Mutex<Connection>>,
    watch: Arc<Watch>,
}

/// How the statements of a guest are watched. The engine's time limit does not reach into SQLite.
struct Watch {
    /// Whether statements are the guest's.
    guest: AtomicBool,
    /// Whether a transaction was begun and not ended by the host.
    begun: AtomicBool,
    /// When the guest's time is over.
    deadline: Mutex<Instant>,
}

impl Watch {
    fn is_time_over(&self) -> bool {
        self.guest.load(Ordering::Relaxed) && Instant::now() > *self.deadline.held()
    }
}

impl Database {
    /// Opens the file to write, or makes it: then `schema` is run in it.
    pub(super) fn open(file: &Path, schema: &str) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        // A read model can be built again, so losing its last transactions with the power is no loss; its rows and
        // its checkpoint stay together in any case.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY;",
        )?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        let database = Self::guarded(connection)?;
        if !database.lock().table_exists(None, CHECKPOINT_TABLE)? {
            database.create(schema)?;
        }
        Ok(database)
    }

    /// Opens the file for queries.
    pub(super) fn open_read_only(file: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags)?;
        connection.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -16384;")?;
        Self::guarded(connection)
    }

    /// The position that the rows are of.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<Position> {
        self.lock().query_row(&format!("SELECT position FROM {CHECKPOINT_TABLE}"), [], |row| row.get(0)).map(Position)
    }

    /// Begins the transaction that the guest's statements will be in.
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.lock().execute_batch("BEGIN IMMEDIATE")?;
        self.watch.begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Marks a place in the transaction.
    pub(super) fn mark(&self) -> rusqlite::Result<()> {
        self.lock().execute_batch("SAVEPOINT part")
    }

    /// Forgets the mark, and what was done since too where that failed. False where the whole transaction is gone: some
    /// errors, such as a statement that was interrupted, undo all of it.
    pub(super) fn unmark(&self, failed: bool) -> rusqlite::Result<bool> {
        let connection = self.lock();
        if connection.is_autocommit() {
            return Ok(false);
        }
        connection.execute_batch(if failed { "ROLLBACK TO part; RELEASE part" } else { "RELEASE part" })?;
        Ok(true)
    }

    /// Ends it with nothing changed.
    pub(super) fn roll_back(&self) -> rusqlite::Result<()> {
        let connection = self.lock();
        self.watch.begun.store(false, Ordering::Relaxed);
        if connection.is_autocommit() { Ok(()) } else { connection.execute_batch("ROLLBACK") }
    }

    /// Ends it with the checkpoint moved; false, and nothing kept, where the checkpoint is not at `from`.
    pub(super) fn commit(&self, from: Position, to: Position) -> rusqlite::Result<bool> {
        let connection = self.lock();
        self.watch.begun.store(false, Ordering::Relaxed);
        let moved = connection
            .execute(&format!("UPDATE {CHECKPOINT_TABLE} SET position = ?2 WHERE position = ?1"), [from.0, to.0])?;
        connection.execute_batch(if moved == 1 { "COMMIT" } else { "ROLLBACK" })?;
        Ok(moved == 1)
    }

    /// The read model as the guest gets it, with so much time for its statements.
    pub(super) fn for_guest(&self, time: Duration) -> Box<dyn ReadModel> {
        *self.watch.deadline.held() = Instant::now() + time;
        Box::new(Session(self.clone()))
    }

    fn guarded(mut connection: Connection) -> rusqlite::Result<Self> {
        connection.busy_timeout(Duration::from_secs(5))?;
        // Else SQLite prepares a statement anew each time that other values are bound to it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.set_prepared_statement_cache_capacity(128);
        let watch = Arc::new(Watch { guest: false.into(), begun: false.into(), deadline: Mutex::new(Instant::now()) });
        let (watched, timed) = (watch.clone(), watch.clone());
        connection.progress_handler(STEPS_PER_LOOK, Some(move || timed.is_time_over()))?;
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            if !watched.guest.load(Ordering::Relaxed) || is_allowed(&context.action) {
                Authorization::Allow
            } else {
                Authorization::Deny
            }
        }))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), watch })
    }

    fn create(&self, schema: &str) -> rusqlite::Result<()> {
        self.begin()?;
        let created = self.as_guest(|connection| connection.execute_batch(schema)).and_then(|()| {
            self.lock().execute_batch(&format!(
                "CREATE TABLE {CHECKPOINT_TABLE} (position INTEGER NOT NULL);
                 INSERT INTO {CHECKPOINT_TABLE} VALUES (0);
                 COMMIT"
            ))
        });
        if created.is_err() {
            self.roll_back()?;
        }
        created
    }

    fn as_guest<T>(&self, run: impl FnOnce(&Connection) -> T) -> T {
        let connection = self.lock();
        self.watch.guest.store(true, Ordering::Relaxed);
        let result = run(&connection);
        self.watch.guest.store(false, Ordering::Relaxed);
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.connection.held()
    }
}

/// What a guest's statement may do. The check is made when a statement is prepared, so the host prepares its own
/// statements afresh and never leaves one in the cache that the guest uses.
fn is_allowed(action: &AuthAction<'_>) -> bool {
    match action {
        AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Pragma { .. }
        | AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::CreateVtable { .. }
        | AuthAction::DropVtable { .. }
        | AuthAction::Unknown { .. } => false,
        AuthAction::Function { function_name } => *function_name != "load_extension",
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::DropTable { table_name }
        | AuthAction::AlterTable { table_name, .. } => *table_name != CHECKPOINT_TABLE,
        _ => true,
    }
}

struct Session(Database);

impl ReadModel for Session {
    fn execute(&mut self, statement: &str, parameters: Vec<SqlValue>) -> Result<u64, SqlError> {
        self.0.as_guest(|connection| {
            if self.0.watch.begun.load(Ordering::Relaxed) && connection.is_autocommit() {
                // It would be there to stay, and what came before it is not.
                return Err(SqlError("an earlier error has undone the transaction: the plugin must not go on".into()));
            }
            let mut prepared = connection.prepare_cached(statement).map_err(sql_error)?;
            prepared.execute(params_from_iter(parameters.iter())).map(|changed| changed as u64).map_err(sql_error)
        })
    }

    fn query(&mut self, statement: &str, parameters: Vec<SqlValue>) -> Result<SqlRows, SqlError> {
        self.0.as_guest(|connection| {
            let mut prepared = connection.prepare_cached(statement).map_err(sql_error)?;
            let columns: Vec<String> = prepared.column_names().map(str::to_owned).collect();
            let mut found = SqlRows { columns, rows: Vec::new() };
            let mut rows = prepared.query(params_from_iter(parameters.iter())).map_err(sql_error)?;
            let mut bytes = 0;
            while let Some(row) = rows.next().map_err(sql_error)? {
                let values: rusqlite::Result<Vec<SqlValue>> =
                    (0..found.columns.len()).map(|column| row.get::<_, Value>(column).map(SqlValue::from)).collect();
                let values = values.map_err(sql_error)?;
                bytes += values.iter().map(size).sum::<usize>();
                if bytes > ROWS_BYTES_MAX {
                    return Err(SqlError(format!("the rows have more than {ROWS_BYTES_MAX} bytes: add a LIMIT")));
                }
                found.rows.push(values);
            }
            Ok(found)
        })
    }
}

fn sql_error(error: rusqlite::Error) -> SqlError {
    use rusqlite::ErrorCode::{AuthorizationForStatementDenied, OperationInterrupted, ReadOnly};
    SqlError(match error.sqlite_error_code() {
        Some(AuthorizationForStatementDenied) => {
            "not allowed in a read model: no transaction control, ATTACH, PRAGMA, virtual tables or host tables".into()
        }
        Some(ReadOnly) => "the read model is read-only inside a query: write to it in `project`".into(),
        Some(OperationInterrupted) => {
            "the statement took longer than limits.event_time_ms allows: add an index or a LIMIT, or raise the limit"
                .into()
        }
        _ => error.to_string(),
    })
}

fn size(value: &SqlValue) -> usize {
    16 + match value {
        SqlValue::Text(text) => text.len(),
        SqlValue::Blob(blob) => blob.len(),
        _ => 0,
    }
}

impl ToSql for SqlValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Real(value) => ValueRef::Real(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

impl From<Value> for SqlValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(value) => Self::Integer(value),
            Value::Real(value) => Self::Real(value),
            Value::Text(text) => Self::Text(text),
            Value::Blob(blob) => Self::Blob(blob),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    fn database() -> (tempfile::TempDir, Database) {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("model"), "CREATE TABLE t (n INTEGER)").unwrap();
        (folder, database)
    }

    #[test]
    fn rows_and_checkpoint_are_one_transaction() {
        let (folder, database) = database();
        database.begin().unwrap();
        database.for_guest(TIME).execute("INSERT INTO t VALUES (?1)", vec![SqlValue::Integer(1)]).unwrap();
        assert!(database.commit(Position(0), Position(7)).unwrap());
        database.begin().unwrap();
        database.for_guest(TIME).execute("INSERT INTO t VALUES (?1)", vec![SqlValue::Integer(2)]).unwrap();
        assert!(!database.commit(Position(3), Position(9)).unwrap(), "another owner has moved the checkpoint");
        let reader = Database::open_read_only(&folder.path().join("model")).unwrap();
        assert_eq!(reader.checkpoint().unwrap(), Position(7));
        assert_eq!(reader.for_guest(TIME).query("SELECT n FROM t", vec![]).unwrap().rows, [[SqlValue::Integer(1)]]);
    }

    #[test]
    fn a_guest_keeps_to_its_read_model() {
        let (folder, database) = database();
        database.begin().unwrap();
        for statement in [
            "COMMIT",
            "SAVEPOINT s",
            "ATTACH 'other' AS other",
            "PRAGMA synchronous = OFF",
            "UPDATE _wasmill_checkpoint SET position = 9",
            "DROP TABLE _wasmill_checkpoint",
        ] {
            let error = database.for_guest(TIME).execute(statement, vec![]).unwrap_err();
            assert!(error.0.contains("not allowed"), "{statement}: {error:?}");
        }
        database.roll_back().unwrap();
        let reader = Database::open_read_only(&folder.path().join("model")).unwrap();
        let error = reader.for_guest(TIME).execute("INSERT INTO t VALUES (1)", vec![]).unwrap_err();
        assert!(error.0.contains("read-only"), "{error:?}");
    }

    #[test]
    fn after_an_error_that_undid_the_transaction_nothing_is_written() {
        let (_folder, database) = database();
        database.begin().unwrap();
        database.mark().unwrap();
        let endless = "INSERT INTO t WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT n FROM n";
        let mut guest = database.for_guest(Duration::from_millis(20));
        assert!(guest.execute(endless, vec![]).is_err());
        let error = guest.execute("INSERT INTO t VALUES (1)", vec![]).unwrap_err();
        assert!(error.0.contains("undone"), "{error:?}");
        assert!(!database.unmark(true).unwrap(), "nothing is left of it");
        database.roll_back().unwrap();
        database.begin().unwrap();
        database.mark().unwrap();
        database.for_guest(TIME).execute("INSERT INTO t VALUES (2)", vec![]).unwrap();
        assert!(database.unmark(true).unwrap());
        assert!(database.commit(Position(0), Position(1)).unwrap());
        assert!(database.for_guest(TIME).query("SELECT n FROM t", vec![]).unwrap().rows.is_empty());
    }

    #[test]
    fn a_statement_without_end_is_interrupted() {
        let (_folder, database) = database();
        let endless = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT count(*) FROM n";
        let error = database.for_guest(Duration::from_millis(20)).query(endless, vec![]).unwrap_err();
        assert!(error.0.contains("limits.event_time_ms"), "{error:?}");
        assert!(database.for_guest(TIME).query("SELECT 1", vec![]).is_ok());
    }
}
