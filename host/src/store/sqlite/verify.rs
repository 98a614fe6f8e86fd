//! The verification of an embedded store: its content, and what only this store has, the pages of its file and the stream index.
//!
//! It reads everything and changes nothing. It needs a store that no host has open, so that nothing changes meanwhile.

use super::content::View;
use super::reader::within_sqlite;
use super::stream_index::{CHUNK_COLUMNS, Chunk};
use super::{Error, failed, moving, rows, schema};
use crate::model::QuickMap;
use crate::store::move_mark::Mark;
use crate::store::verify::{self, Report};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::path::Path;

/// Verifies a store. An error means that the verification was not possible; problems of the store are in the report.
pub fn verify(path: &Path) -> Result<Report, Error> {
    let _lock = schema::lock_existing(path)?;
    let connection = schema::open_for_inspection(path)?;
    let mark = rows::fact(&connection, Mark::name());
    // A damaged file may not even have that.
    moving::refuse_unfinished(path, mark.ok().flatten().as_deref())?;
    of(&connection, path, &mut |_, _| ())
}

/// Verifies the store that a connection sees.
pub(super) fn of(connection: &Connection, path: &Path, watch: &mut dyn FnMut(u64, u64)) -> Result<Report, Error> {
    let mut verifier = Verifier { connection, report: Report::default() };
    let file = verifier.file();
    verifier.report.or_told(file)?;
    verify::content(&mut View { connection, file: path }, &mut verifier.report, watch)?;
    // If the content can't be verified, that is one more problem, and the index is verified nevertheless.
    let index = verifier.stream_index();
    verifier.report.or_told(index)?;
    Ok(verifier.report)
}

struct Verifier<'c> {
    connection: &'c Connection,
    report: Report,
}

/// A set of positions. Most of those that follow each other are there, so each bit of a word stands for one.
#[derive(Default)]
struct Positions(QuickMap<u64, u64>);

impl Positions {
    fn add(&mut self, position: u64) {
        *self.0.entry(position / 64).or_default() |= 1 << (position % 64);
    }

    fn has(&self, position: u64) -> bool {
        self.0.get(&(position / 64)).is_some_and(|word| word & (1 << (position % 64)) != 0)
    }
}

impl Verifier<'_> {
    /// Verifies the pages and indexes, with SQLite's own check.
    fn file(&mut self) -> Result<(), Error> {
        let said: Vec<String> = self.list("PRAGMA integrity_check", |row| row.get(0))?;
        for line in said.into_iter().filter(|line| line != "ok") {
            self.report.problem(format!("the file: {line}"));
        }
        Ok(())
    }

    /// Verifies that all events in the index exist, and that up to its mark no event is missing from it.
    fn stream_index(&mut self) -> Result<(), Error> {
        self.report.indexed = self.mark("indexed")?;
        let (indexed, newest) = (self.report.indexed, self.report.position);
        if indexed > newest {
            self.report.problem(format!("the stream index is filled up to {indexed}, past the newest event, {newest}"));
        }
        let entered = self.entered()?;
        let failed = failed("looking the store over");
        let mut select = self
            .connection
            .prepare("SELECT position, version, aggregate_id FROM events WHERE position <= ?1 ORDER BY position")
            .map_err(&failed)?;
        let mut events = select.query([within_sqlite(indexed)]).map_err(&failed)?;
        while let Some(event) = events.next().map_err(&failed)? {
            let position: u64 = event.get(0).map_err(&failed)?;
            if !entered.has(position) {
                let (version, id): (u64, String) = (event.get(1).map_err(&failed)?, event.get(2).map_err(&failed)?);
                self.report.problem(format!(
                    "the stream index lacks version {version} of an aggregate {id}, which is at position {position}"
                ));
            }
        }
        Ok(())
    }

    /// Compares each entry of the index with its event. Returns the positions that are in the index.
    fn entered(&mut self) -> Result<Positions, Error> {
        let failed = failed("looking the store over");
        let (connection, mut entered) = (self.connection, Positions::default());
        let mut event = connection
            .prepare(
                "SELECT t.aggregate_type, e.aggregate_id, e.version FROM events e JOIN event_types t ON t.id = e.type
                 WHERE e.position = ?1",
            )
            .map_err(&failed)?;
        let mut select = connection
            .prepare(&format!("SELECT aggregate_type, aggregate_id, {CHUNK_COLUMNS} FROM stream_index"))
            .map_err(&failed)?;
        let mut found = select.query([]).map_err(&failed)?;
        while let Some(row) = found.next().map_err(&failed)? {
            let (number, id): (i64, String) = (row.get(0).map_err(&failed)?, row.get(1).map_err(&failed)?);
            let Some(chunk) = self.report.or_told(Chunk::read(row, 2))? else { continue };
            for (version, position) in chunk.entries() {
                let of = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                let there = event.query_row([within_sqlite(position)], of).optional().map_err(&failed)?;
                if there == Some((number, id.clone(), version)) {
                    entered.add(position);
                } else {
                    self.report.problem(format!(
                        "the stream index has position {position} for version {version} of an aggregate {id}, which is not there"
                    ));
                }
            }
        }
        Ok(entered)
    }

    fn mark(&self, name: &str) -> Result<u64, Error> {
        let found = self
            .connection
            .query_row("SELECT value FROM marks WHERE name = ?1", params![name], |row| row.get(0))
            .optional()
            .map_err(failed(&format!("reading the mark {name}")))?;
        Ok(found.unwrap_or(0))
    }

    fn list<T>(&self, sql: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>, Error> {
        self.connection
            .prepare(sql)
            .and_then(|mut select| select.query_map([], read)?.collect())
            .map_err(failed("looking the store over"))
    }
}
