//! Reading a store that no host has open, with the reader that a host has.

use super::reader::SqliteReader;
use super::stream_index::{Filler, StreamIndex};
use super::tail::Tail;
use super::{Error, Options, dead_letters, failed, moving, owner, rows, schema};
use crate::store::move_mark::Mark;
use crate::store::{Inspection, Newest};
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;

/// Opens a store for reading. Fails if a host has it open, or if it is not complete.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let lock = schema::lock_existing(path)?;
    let connection = schema::open_for_inspection(path)?;
    moving::refuse_unfinished(path, rows::fact(&connection, Mark::name())?.as_deref())?;
    let identity = owner::identity(&connection)?;
    // Readers find the newest events of a stream in memory.
    let index = Arc::new(StreamIndex::default());
    Filler::open(&connection, index.clone(), &Options::default())?;
    let newest = newest(&connection)?;
    let reader = SqliteReader::open(path, index, Arc::new(Tail::new(0)))?;
    Ok(Inspection { identity, reader: Box::new(reader), newest, _lock: Box::new(lock) })
}

fn newest(connection: &Connection) -> Result<Newest, Error> {
    let number =
        |sql: &str| connection.query_row(sql, [], |row| row.get(0)).map_err(failed("reading the newest numbers"));
    Ok(Newest {
        event: number("SELECT coalesce(max(position), 0) FROM events")?,
        message: number("SELECT coalesce(max(value), 0) FROM marks WHERE name = 'messages'")?,
        dead_letter: dead_letters::newest(connection)?,
    })
}
