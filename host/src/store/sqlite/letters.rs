//! The dead letters: reading them, and what the writer does to one that is tried again or discarded.

use super::fault::{self, FaultPoint};
use super::reader::within_sqlite;
use super::{Error, failed, rows};
use crate::model::DeadLetter;
use crate::store::Letters;
use rusqlite::{Connection, params};

/// Those wanted, newest first, and how many the consumer has.
pub(super) fn list(connection: &Connection, wanted: &Letters<'_>) -> Result<(Vec<(u64, DeadLetter)>, u64), Error> {
    let failed = failed("reading the dead letters");
    let Letters { consumer, before, limit } = wanted;
    // Two statements, not `?1 IS NULL OR …`: each is answered from an index of its own.
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

/// Those after a number, oldest first.
pub(super) fn after(connection: &Connection, number: u64, limit: usize) -> Result<Vec<(u64, DeadLetter)>, Error> {
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

/// The number of the newest letter that was ever put aside, also where it is gone.
pub(super) fn newest(connection: &Connection) -> Result<u64, Error> {
    connection
        .query_row("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'dead_letters'), 0)", [], |row| {
            row.get(0)
        })
        .map_err(failed("reading where the dead letters end"))
}

/// The letter of a number.
pub(super) fn find(connection: &Connection, number: u64) -> Result<Option<DeadLetter>, Error> {
    let failed = failed("reading a dead letter");
    let sql = format!("SELECT {} FROM dead_letters WHERE number = ?1", rows::LETTER_COLUMNS);
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut found = select.query([within_sqlite(number)]).map_err(&failed)?;
    let row = found.next().map_err(&failed)?;
    row.map(|row| rows::letter(row).map(|(_, letter)| letter)).transpose()
}

/// Whether there is a letter of a number.
pub(super) fn exists(connection: &Connection, number: u64) -> Result<bool, Error> {
    connection
        .prepare_cached("SELECT 1 FROM dead_letters WHERE number = ?1")
        .and_then(|mut select| select.exists([within_sqlite(number)]))
        .map_err(failed("looking for a dead letter"))
}

/// Takes a letter away, in the writer's transaction. Refuses where there is none.
pub(super) fn remove(connection: &Connection, number: u64) -> Result<(), Error> {
    let removed = connection
        .prepare_cached("DELETE FROM dead_letters WHERE number = ?1")
        .and_then(|mut delete| delete.execute([within_sqlite(number)]))
        .map_err(failed("removing a dead letter"))?;
    fault::at(FaultPoint::LetterRemoved);
    if removed > 0 { Ok(()) } else { Err(absent(number)) }
}

/// Keeps why a letter could not be handled the last time it was tried.
pub(super) fn explain(connection: &Connection, number: u64, reason: &str) -> Result<(), Error> {
    let changed = connection
        .prepare_cached("UPDATE dead_letters SET reason = ?2 WHERE number = ?1")
        .and_then(|mut update| update.execute(params![within_sqlite(number), reason]))
        .map_err(failed("keeping why a dead letter failed again"))?;
    fault::at(FaultPoint::LetterExplained);
    if changed > 0 { Ok(()) } else { Err(absent(number)) }
}

/// There is no letter of this number.
pub(super) fn absent(number: u64) -> Error {
    Error::NotFound(format!("there is no dead letter {number}: it was tried again or discarded, or never was"))
}
