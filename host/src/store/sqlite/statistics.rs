//! The statistics of a store.
//!
//! Most of them are cheap, however large the store is. Those that need a read of every event are counted only if they
//! are requested.

use super::{Error, dead_letters, failed, files, outbox, schema};
use crate::store::{Counted, DeadLetterQuery, Statistics, TypeCount};
use rusqlite::Connection;
use std::path::Path;

/// Returns the statistics of a store that no host has open.
pub fn statistics(path: &Path, count: bool) -> Result<Statistics, Error> {
    let _lock = schema::lock_existing(path)?;
    of(&schema::open_for_inspection(path)?, path, count)
}

/// Returns the statistics of the store that a connection sees.
pub(super) fn of(connection: &Connection, path: &Path, count: bool) -> Result<Statistics, Error> {
    let failed = failed("counting");
    let view = connection.unchecked_transaction().map_err(&failed)?;
    let number = |sql: &str| view.query_row(sql, [], |row| row.get::<_, u64>(0)).map_err(&failed);
    let bytes = |file: &Path| std::fs::metadata(file).map_or(0, |file| file.len());
    let (outbox_commands, outbox_messages) = outbox::counts(&view).map_err(&failed)?;
    let mut statistics = Statistics {
        position: number("SELECT coalesce(max(position), 0) FROM events")?,
        file_bytes: bytes(path),
        free_bytes: number("SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size")?,
        log_bytes: bytes(&files::log_of(path)),
        archived_streams: number("SELECT count(*) FROM archived_streams")?,
        subscriptions: number("SELECT count(*) FROM checkpoints")?,
        ledgers: number("SELECT count(*) FROM ledgers")?,
        outbox_commands,
        outbox_messages,
        callbacks: number("SELECT count(*) FROM callbacks")?,
        http_requests: number("SELECT count(*) FROM http_requests")?,
        outcomes: number("SELECT count(*) FROM outcomes")?,
        dead_letters: dead_letters::list(&view, &DeadLetterQuery::newest(0))?.1,
        counted: None,
    };
    if count {
        statistics.counted = Some(counted(&view)?);
    }
    Ok(statistics)
}

/// Counts what needs a read of every event.
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
