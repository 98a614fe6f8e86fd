//! The schema of a store in PostgreSQL: its migrations, and the checks of the server and of what is there.
//!
//! A migration is one transaction under an advisory lock. So one host migrates at a time, and a migration is there as a whole
//! or not at all.

use super::address::Address;
use super::connection::{Connection, uint};
use crate::store::Error;
use uuid::Uuid;

/// The migrations, in their order. Their number in the list, from 1, is the version of the schema after them.
const MIGRATIONS: [&str; 1] = [include_str!("schema.sql")];

/// The oldest version of PostgreSQL that the store works with, as the server tells it.
const SERVER_VERSION_MIN: u64 = 140_000;

/// The key of the advisory lock. Any number will do.
const LOCK: i64 = 0x7761_736d_696c;

/// What is in the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A store of the version that this wasmill reads.
    Current,
    /// A store of an older version.
    Older(u64),
}

/// Fails if the server can't have a store.
pub(super) fn check_server(connection: &Connection) -> Result<(), Error> {
    let address = &connection.network.address;
    let sql = "SELECT current_setting('server_version_num')::bigint, current_setting('server_version'),
               current_setting('server_encoding')";
    let Some(row) = connection.first("asking for the version of PostgreSQL", sql, &[])? else { return Ok(()) };
    let (shown, encoding): (String, String) = (row.get(1), row.get(2));
    if uint(&row, 0) < SERVER_VERSION_MIN {
        return Err(Error::Failed(format!(
            "PostgreSQL at {address} has version {shown}, and the store needs version {} or newer: upgrade the server",
            SERVER_VERSION_MIN / 10_000
        )));
    }
    if encoding != "UTF8" {
        return Err(Error::Failed(format!(
            "the database of {address} has the encoding {encoding}, and the store needs UTF8: create it with `createdb --encoding \
             UTF8 --template template0`"
        )));
    }
    Ok(())
}

/// Fails if the server takes no writes.
pub(super) fn check_writable(connection: &Connection) -> Result<(), Error> {
    let address = &connection.network.address;
    let sql = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'";
    let row = connection.first("asking whether PostgreSQL takes writes", sql, &[])?;
    let (is_standby, is_read_only) = row.map_or((false, false), |row| (row.get(0), row.get(1)));
    let cause = match (is_standby, is_read_only) {
        (true, _) => "is a standby, which takes no writes",
        (_, true) => "is set to read-only transactions (default_transaction_read_only)",
        _ => return Ok(()),
    };
    Err(Error::Failed(format!(
        "PostgreSQL at {address} {cause}: name the primary in the URL, or all servers and target_session_attrs=read-write"
    )))
}

/// Looks at the schema without changing it. Fails if this version of wasmill must not use it.
pub(super) fn find(connection: &Connection) -> Result<Found, Error> {
    const DOING: &str = "looking at the store's schema";
    let address = &connection.network.address;
    let tables = "SELECT count(*), count(*) FILTER (WHERE table_name = 'migrations') FROM information_schema.tables
                  WHERE table_schema = $1";
    let row = connection.first(DOING, tables, &[&address.schema])?;
    match row.map_or((0, 0), |row| (uint(&row, 0), uint(&row, 1))) {
        (0, _) => return Ok(Found::Nothing),
        (_, 0) => {
            return Err(Error::Failed(format!(
                "the schema {} of {address} has tables of something else: choose another schema with schema=NAME in the URL, or \
                 another database",
                address.schema
            )));
        }
        _ => {}
    }
    let sql = "SELECT coalesce(max(version), 0)::bigint, count(*), (SELECT count(*) FROM information_schema.tables
               WHERE table_schema = $1 AND table_name IN ('head', 'events', 'ledgers', 'outbox')) FROM migrations";
    let row = connection.first(DOING, sql, &[&address.schema])?;
    let (version, count, known) = row.map_or((0, 0, 0), |row| (uint(&row, 0), uint(&row, 1), uint(&row, 2)));
    let current = MIGRATIONS.len() as u64;
    if version > current {
        return Err(Error::Failed(format!(
            "the store {address} has schema version {version}, and this wasmill knows versions up to {current}: run a newer \
             wasmill on it"
        )));
    }
    if count != version || (version > 0 && known < 4) {
        return Err(Error::Failed(format!(
            "the schema {} of {address} is migrated by half: {count} migrations of version {version} are noted, and {known} of 4 \
             tables are there; restore the database from a backup",
            address.schema
        )));
    }
    Ok(match version {
        0 => Found::Nothing,
        version if version == current => Found::Current,
        older => Found::Older(older),
    })
}

/// Makes or migrates the schema, if it is not current.
pub(super) fn migrate(connection: &Connection, address: &Address) -> Result<(), Error> {
    migrate_with(connection, address, |_| Ok(()))
}

/// Does the same as [`migrate`]. `complete` adds what a new store is to have from the beginning.
pub(super) fn migrate_with(
    connection: &Connection,
    address: &Address,
    complete: impl FnOnce(&Connection) -> Result<(), Error>,
) -> Result<(), Error> {
    if find(connection)? == Found::Current {
        return Ok(());
    }
    const DOING: &str = "migrating the store's schema";
    let schema = &address.schema;
    connection.batch(DOING, "BEGIN")?;
    // Another host may migrate at this moment: the lock waits for it.
    connection.query(DOING, "SELECT pg_advisory_xact_lock($1)", &[&LOCK])?;
    let done = match find(connection)? {
        Found::Current => 0..0,
        Found::Nothing => 0..MIGRATIONS.len(),
        Found::Older(version) => version as usize..MIGRATIONS.len(),
    };
    let is_new = done.start == 0 && !done.is_empty();
    if is_new {
        let table = "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, wasmill TEXT NOT NULL,
                     time TIMESTAMPTZ NOT NULL DEFAULT now())";
        // A user without the right to create a schema may use one that is there.
        let exists = connection.first(DOING, "SELECT 1 FROM pg_namespace WHERE nspname = $1", &[schema])?;
        if exists.is_none() {
            connection.batch(DOING, &format!("CREATE SCHEMA {schema}"))?;
        }
        connection.batch(DOING, table)?;
    }
    for number in done {
        connection.batch(DOING, MIGRATIONS[number])?;
        let sql = "INSERT INTO migrations (version, wasmill) VALUES ($1, $2)";
        connection.execute(DOING, sql, &[&(number as i32 + 1), &env!("CARGO_PKG_VERSION")])?;
        tracing::info!("the schema of the store {address} has version {}", number + 1);
    }
    if is_new {
        let sql = "INSERT INTO head (number, identity, commits, position, message, dead_letter, callback, http_request,
                   dead_letters, dead_letter_bytes, dead_letters_dropped, running_ms, wall_ms, membership)
                   VALUES (1, $1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)";
        connection.execute(DOING, sql, &[&Uuid::now_v7().as_bytes().as_slice()])?;
        complete(connection)?;
    }
    connection.batch(DOING, "COMMIT")
}

/// Returns the identity of a store.
pub(super) fn identity(connection: &Connection) -> Result<Uuid, Error> {
    let row = connection.first("reading the store's identity", "SELECT identity FROM head", &[])?;
    let bytes: Option<Vec<u8>> = row.map(|row| row.get(0));
    bytes.and_then(|bytes| Uuid::from_slice(&bytes).ok()).ok_or_else(|| {
        let address = &connection.network.address;
        Error::Failed(format!("the store {address} has no head: restore the database from a backup"))
    })
}
