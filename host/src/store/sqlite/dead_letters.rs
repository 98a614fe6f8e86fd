//! Dead letters: reading them, and the writer's changes when one is retried or discarded.

use super::fault::{self, FaultPoint};
use super::reader::within_sqlite;
use super::{Error, failed, held_keys, rows};
use crate::model::KeptDeadLetter;
use crate::store::{DeadLetterQuery, Discard};
use rusqlite::{Connection, OptionalExtension, params};

/// Returns the selected letters, newest first, and the total number of the consumer's letters.
pub(super) fn list(connection: &Connection, wanted: &DeadLetterQuery<'_>) -> Result<(Vec<KeptDeadLetter>, u64), Error> {
    let failed = failed("reading the dead letters");
    let DeadLetterQuery { consumer, before, limit } = wanted;
    // These are two statements rather than `?1 IS NULL OR …`, so that each uses its own index.
    let of = if consumer.is_some() { "consumer = ?1" } else { "?1 IS NULL" };
    let columns = rows::LETTER_COLUMNS;
    let sql = format!("SELECT {columns} FROM dead_letters WHERE {of} AND number < ?2 ORDER BY number DESC LIMIT ?3");
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let (before, limit) = (within_sqlite(before.unwrap_or(u64::MAX)), within_sqlite(*limit as u64));
    let mut found = select.query(params![consumer, before, limit]).map_err(&failed)?;
    let mut letters = Vec::new();
    while let Some(row) = found.next().map_err(&failed)? {
        letters.push(rows::letter(row)?);
    }
    let total = connection
        .prepare_cached(&format!("SELECT count(*) FROM dead_letters WHERE {of}"))
        .and_then(|mut count| count.query_row([consumer], |row| row.get(0)))
        .map_err(&failed)?;
    Ok((letters, total))
}

/// Returns the letters after a number, oldest first.
pub(super) fn after(connection: &Connection, number: u64, limit: usize) -> Result<Vec<KeptDeadLetter>, Error> {
    let failed = failed("reading the dead letters");
    let columns = rows::LETTER_COLUMNS;
    let sql = format!("SELECT {columns} FROM dead_letters WHERE number > ?1 ORDER BY number LIMIT ?2");
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut found = select.query(params![within_sqlite(number), within_sqlite(limit as u64)]).map_err(&failed)?;
    let mut letters = Vec::new();
    while let Some(row) = found.next().map_err(&failed)? {
        letters.push(rows::letter(row)?);
    }
    Ok(letters)
}

/// Returns the number of the newest letter that ever existed, even if it is gone.
pub(super) fn newest(connection: &Connection) -> Result<u64, Error> {
    connection
        .query_row("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'dead_letters'), 0)", [], |row| {
            row.get(0)
        })
        .map_err(failed("reading where the dead letters end"))
}

/// Returns the letter with this number.
pub(super) fn find(connection: &Connection, number: u64) -> Result<Option<KeptDeadLetter>, Error> {
    let failed = failed("reading a dead letter");
    let sql = format!("SELECT {} FROM dead_letters WHERE number = ?1", rows::LETTER_COLUMNS);
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut found = select.query([within_sqlite(number)]).map_err(&failed)?;
    let row = found.next().map_err(&failed)?;
    row.map(rows::letter).transpose()
}

/// Returns whether there is a letter with this number.
pub(super) fn exists(connection: &Connection, number: u64) -> Result<bool, Error> {
    connection
        .prepare_cached("SELECT 1 FROM dead_letters WHERE number = ?1")
        .and_then(|mut select| select.exists([within_sqlite(number)]))
        .map_err(failed("looking for a dead letter"))
}

/// The number and bytes of removed letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

/// Removes a letter, in the writer's transaction.
pub(super) fn remove(connection: &Connection, number: u64) -> Result<Removed, Error> {
    let bytes = connection
        .prepare_cached("DELETE FROM dead_letters WHERE number = ?1 RETURNING bytes")
        .and_then(|mut delete| delete.query_row([within_sqlite(number)], |row| row.get(0)).optional())
        .map_err(failed("removing a dead letter"))?;
    held_keys::release_behind(connection, number)?;
    fault::at(FaultPoint::DeadLetterRemoved);
    bytes.map(|bytes| Removed { count: 1, bytes }).ok_or_else(|| absent(number))
}

/// Removes the oldest of these letters, in the writer's transaction.
pub(super) fn remove_many(connection: &Connection, which: &Discard) -> Result<Removed, Error> {
    let failed = failed("removing dead letters");
    let of = if which.consumer.is_some() { "consumer = ?1" } else { "?1 IS NULL" };
    let sql = format!(
        "DELETE FROM dead_letters WHERE number IN
         (SELECT number FROM dead_letters WHERE {of} AND number <= ?2 ORDER BY number LIMIT ?3) RETURNING number, bytes"
    );
    let mut delete = connection.prepare_cached(&sql).map_err(&failed)?;
    let bounds = params![which.consumer, within_sqlite(which.last), within_sqlite(which.limit)];
    let mut rows = delete.query(bounds).map_err(&failed)?;
    let mut removed = Removed::default();
    while let Some(row) = rows.next().map_err(&failed)? {
        removed.count += 1;
        removed.bytes += row.get::<_, u64>(1).map_err(&failed)?;
        held_keys::release_behind(connection, row.get(0).map_err(&failed)?)?;
    }
    fault::at(FaultPoint::DeadLetterRemoved);
    Ok(removed)
}

/// Replaces the reason of a letter after a retry failed.
pub(super) fn explain(connection: &Connection, number: u64, reason: &str) -> Result<(), Error> {
    let changed = connection
        .prepare_cached("UPDATE dead_letters SET reason = ?2 WHERE number = ?1")
        .and_then(|mut update| update.execute(params![within_sqlite(number), reason]))
        .map_err(failed("keeping why a dead letter failed again"))?;
    fault::at(FaultPoint::DeadLetterExplained);
    if changed > 0 { Ok(()) } else { Err(absent(number)) }
}

/// Makes the error for a number that has no letter.
pub(super) fn absent(number: u64) -> Error {
    Error::NotFound(format!("there is no dead letter {number}: it was retried or discarded, or never existed"))
}
