//! How much there is in a store.
//!
//! What is always said costs little, however large the store is. What needs every event to be read is counted only
//! when it is asked for.

use super::{Error, failed, files, letters, schema};
use crate::store::{Counted, Letters, Statistics, TypeCount};
use rusqlite::Connection;
use std::path::Path;

/// The statistics of a store that no host has open.
pub fn statistics(path: &Path, count: bool) -> Result<Statistics, Error> {
    let _lock = schema::lock_existing(path)?;
    of(&schema::open_for_inspection(path)?, path, count)
}

/// The statistics of what a connection sees.
pub(super) fn of(connection: &Connection, path: &Path, count: bool) -> Result<Statistics, Error> {
    let failed = failed("counting");
    let view = connection.unchecked_transaction().map_err(&failed)?;
    let number = |sql: &str| view.query_row(sql, [], |row| row.get::<_, u64>(0)).map_err(&failed);
    let bytes = |file: &Path| std::fs::metadata(file).map_or(0, |file| file.len());
    let mut statistics = Statistics {
        position: number("SELECT coalesce(max(position), 0) FROM events")?,
        file_bytes: bytes(path),
        free_bytes: number("SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size")?,
        log_bytes: bytes(&files::log_of(path)),
        archived_streams: number("SELECT count(*) FROM archived_streams")?,
        subscriptions: number("SELECT count(*) FROM checkpoints")?,
        ledgers: number("SELECT count(*) FROM ledgers")?,
        outbox_commands: number("SELECT coalesce(sum(last - first + 1), 0) FROM outbox_commands")?,
        outbox_messages: number("SELECT coalesce(sum(last - first + 1), 0) FROM outbox_messages")?,
        outcomes: number("SELECT count(*) FROM outcomes")?,
        dead_letters: letters::list(&view, &Letters::newest(0))?.1,
        counted: None,
    };
    if count {
        statistics.counted = Some(counted(&view)?);
    }
    Ok(statistics)
}

/// Reads every event.
fn counted(view: &Connection) -> Result<Counted, Error> {
    let failed = failed("counting events");
    let mut select = view
        .prepare(
            "SELECT a.name, t.name, count(*), sum(e.version = 1), sum(length(e.payload) + coalesce(length(e.headers), 0))
             FROM events e JOIN event_types t ON t.id = e.type JOIN aggregate_types a ON a.id = t.aggregate_type
             GROUP BY e.type ORDER BY 1, 2",
        )
        .map_err(&failed)?;
    let mut streams = 0;
    let types: rusqlite::Result<Vec<_>> = select
        .query_map([], |row| {
            streams += row.get::<_, u64>(3)?;
            Ok(TypeCount { aggregate_type: row.get(0)?, name: row.get(1)?, events: row.get(2)?, bytes: row.get(4)? })
        })
        .and_then(Iterator::collect);
    let types = types.map_err(&failed)?;
    let (events, bytes) = types.iter().fold((0, 0), |(events, bytes), of| (events + of.events, bytes + of.bytes));
    Ok(Counted { streams, events, bytes, types })
}
