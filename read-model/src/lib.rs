//! The SQL that a projection may use: a SQLite connection that confines a guest to its read model.
//!
//! A plugin writes its own SQL, which is treated as hostile. [`Guarded`] runs its statements one by one. The rules
//! (`rules.rs`) say what a statement may touch, and [`Limits`] bound its time, memory and disk space. The owner of the
//! connection, which is the host or the test kit, uses [`Guarded::owner`] for its transactions and its own tables.
//! Nothing here knows about WebAssembly, events or the origin of a read model.

mod refused;
mod rules;

pub use refused::{Refused, Trouble};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// SQLite's steps between two checks of time and memory: about ten microseconds.
const STEPS_PER_LOOK: i32 = 1_000;

/// The most time for a statement of the owner. These statements are short. Without a limit, a fault of the disk or of
/// the host would block the thread forever.
const OWNER_TIME: Duration = Duration::from_secs(60);

/// Number of prepared statements that are kept.
const STATEMENTS_KEPT: usize = 128;

/// The limits of a guest's statements. Each comment names the key of the manifest, if there is one.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one text, blob or row: `limits.sql_value_mib`.
    pub value_bytes_max: usize,
    /// Bytes of memory that one statement may hold, for sorting and for intermediate results: `limits.sql_memory_mib`.
    pub memory_bytes_max: usize,
    /// Bytes of the read model's file: `limits.read_model_mib`.
    pub file_bytes_max: u64,
    /// Bytes of all rows that one statement returns.
    pub rows_bytes_max: usize,
    /// A function that returns the bytes of memory that the calling thread holds. Only differences between its results
    /// are used.
    pub memory_held: fn() -> u64,
}

impl Default for Limits {
    /// Returns the manifest's defaults, without counting memory.
    fn default() -> Self {
        Self {
            value_bytes_max: 1 << 20,
            memory_bytes_max: 256 << 20,
            file_bytes_max: 16 << 30,
            rows_bytes_max: 16 << 20,
            memory_held: || 0,
        }
    }
}

/// The rows of a statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows<V> {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The values, in the statement's order.
    pub rows: Vec<Vec<V>>,
}

/// A connection that confines its guest to the rules and limits.
pub struct Guarded {
    connection: Connection,
    watch: Arc<Watch>,
    limits: Limits,
}

/// The watch over running statements. The host's limit on a guest's computing time does not interrupt SQLite, so this
/// does.
struct Watch {
    /// Whether the running statement is the guest's.
    guest: AtomicBool,
    /// Whether the owner has begun a transaction and not ended it.
    begun: AtomicBool,
    /// The deadlines of the guest and of the owner, in nanoseconds since the process began to count.
    deadline: AtomicU64,
    owner_deadline: AtomicU64,
    /// The bytes of memory held at which a statement of the guest is interrupted.
    memory_max: AtomicU64,
    memory_held: fn() -> u64,
    /// The reason for the last interruption.
    interrupted: AtomicU8,
}

const BY_TIME: u8 = 1;
const BY_MEMORY: u8 = 2;

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

fn nanos_now() -> u64 {
    BEGINNING.elapsed().as_nanos() as u64
}

fn nanos_in(time: Duration) -> u64 {
    nanos_now().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

impl Watch {
    fn must_interrupt(&self) -> bool {
        let is_guest = self.guest.load(Ordering::Relaxed);
        let deadline = if is_guest { &self.deadline } else { &self.owner_deadline };
        if nanos_now() > deadline.load(Ordering::Relaxed) {
            self.interrupted.store(BY_TIME, Ordering::Relaxed);
            return true;
        }
        if is_guest && (self.memory_held)() > self.memory_max.load(Ordering::Relaxed) {
            self.interrupted.store(BY_MEMORY, Ordering::Relaxed);
            return true;
        }
        false
    }
}

impl Guarded {
    /// Guards a connection. The owner must have made its settings by PRAGMA before.
    pub fn new(mut connection: Connection, limits: Limits) -> rusqlite::Result<Self> {
        let watch = Arc::new(Watch {
            guest: false.into(),
            begun: false.into(),
            deadline: 0.into(),
            owner_deadline: nanos_in(OWNER_TIME).into(),
            memory_max: 0.into(),
            memory_held: limits.memory_held,
            interrupted: 0.into(),
        });
        // Otherwise SQLite prepares a statement again whenever other values are bound to it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        let page_bytes: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = (limits.file_bytes_max / page_bytes).clamp(1, u64::from(u32::MAX - 1));
        connection.pragma_update(None, "max_page_count", pages)?;
        // Temporary results stay in memory, where they are counted.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_LENGTH, i32::try_from(limits.value_bytes_max).unwrap_or(i32::MAX)),
            (Limit::SQLITE_LIMIT_SQL_LENGTH, rules::SQL_BYTES_MAX),
            (Limit::SQLITE_LIMIT_COLUMN, rules::COLUMNS_MAX),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, rules::EXPRESSION_DEPTH_MAX),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, rules::COMPOUND_SELECTS_MAX),
            (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, rules::LIKE_PATTERN_BYTES_MAX),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, rules::TRIGGER_DEPTH_MAX),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        ] {
            connection.set_limit(limit, value)?;
        }
        let (watched, timed) = (watch.clone(), watch.clone());
        connection.progress_handler(STEPS_PER_LOOK, Some(move || timed.must_interrupt()))?;
        connection.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| {
            rules::authorize(watched.guest.load(Ordering::Relaxed), &context)
        }))?;
        Ok(Self { connection, watch, limits })
    }

    /// Returns the connection for statements of its owner. They may do everything, for one minute at most.
    ///
    /// SQLite checks a statement against the rules only when it prepares it. So never leave a statement of the owner in
    /// the cache of prepared statements, which the guest uses too.
    pub fn owner(&self) -> &Connection {
        self.watch.owner_deadline.store(nanos_in(OWNER_TIME), Ordering::Relaxed);
        &self.connection
    }

    /// Notes that the owner has begun or ended a transaction. In between, the guest writes only inside of it.
    pub fn in_transaction(&self, begun: bool) {
        self.watch.begun.store(begun, Ordering::Relaxed);
    }

    /// Gives the guest this much time from now on, for all of its statements together.
    pub fn allow(&self, time: Duration) {
        self.watch.deadline.store(nanos_in(time), Ordering::Relaxed);
    }

    /// Runs the statements that create the read model.
    pub fn create(&self, schema: &str) -> Result<(), Refused> {
        self.as_guest(|connection| connection.execute_batch(schema)).map_err(|error| self.refused(&error))
    }

    /// Runs one statement of the guest and returns the number of rows that it changed.
    pub fn execute(&self, statement: &str, parameters: impl Params) -> Result<u64, Refused> {
        if self.watch.begun.load(Ordering::Relaxed) && self.connection.is_autocommit() {
            // Outside of the transaction the change would stay, although the changes before it are undone.
            return Err(Refused::new("an earlier error has undone the transaction: the plugin must return that error"));
        }
        self.as_guest(|connection| connection.prepare_cached(statement)?.execute(parameters))
            .map(|changed| changed as u64)
            .map_err(|error| self.refused(&error))
    }

    /// Runs one statement of the guest and returns its rows.
    pub fn query<V>(
        &self,
        statement: &str,
        parameters: impl Params,
        take: impl Fn(ValueRef<'_>) -> V,
    ) -> Result<Rows<V>, Refused> {
        self.as_guest(|connection| {
            let refused = |error: rusqlite::Error| self.refused(&error);
            let mut prepared = connection.prepare_cached(statement).map_err(refused)?;
            let columns: Vec<String> = prepared.column_names().map(str::to_owned).collect();
            let mut found = Rows { columns, rows: Vec::new() };
            let mut rows = prepared.query(parameters).map_err(refused)?;
            let mut bytes = 0;
            while let Some(row) = rows.next().map_err(refused)? {
                let mut values = Vec::with_capacity(found.columns.len());
                for column in 0..found.columns.len() {
                    let value = row.get_ref(column).map_err(refused)?;
                    bytes += size(value);
                    values.push(take(value));
                }
                if bytes > self.limits.rows_bytes_max {
                    return Err(Refused::new(format!(
                        "the rows of one statement exceed {} bytes: add a LIMIT",
                        self.limits.rows_bytes_max
                    )));
                }
                found.rows.push(values);
            }
            Ok(found)
        })
    }

    fn as_guest<T>(&self, run: impl FnOnce(&Connection) -> T) -> T {
        let memory_max = (self.limits.memory_held)().saturating_add(self.limits.memory_bytes_max as u64);
        self.watch.memory_max.store(memory_max, Ordering::Relaxed);
        self.watch.guest.store(true, Ordering::Relaxed);
        let result = run(&self.connection);
        self.watch.guest.store(false, Ordering::Relaxed);
        result
    }

    fn refused(&self, error: &rusqlite::Error) -> Refused {
        let by_memory = self.watch.interrupted.swap(0, Ordering::Relaxed) == BY_MEMORY;
        refused::explained(error, &self.limits, by_memory, || {
            self.connection.path().is_none_or(|file| file.is_empty() || refused::has_room(file.as_ref()))
        })
    }
}

/// Converts an unsigned parameter for SQLite.
///
/// # Errors
/// SQLite's integers end at 2⁶³-1. A greater number would be rounded, so it is refused.
pub fn unsigned(value: u64) -> rusqlite::Result<i64> {
    i64::try_from(value).map_err(|_| {
        rusqlite::Error::ToSqlConversionFailure(
            format!(
                "{value} exceeds SQLite's greatest integer, {}: store it as text (`to_string()`) or as a blob \
                 (`to_be_bytes()`, which sorts as the numbers do)",
                i64::MAX
            )
            .into(),
        )
    })
}

fn size(value: ValueRef<'_>) -> usize {
    16 + match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
