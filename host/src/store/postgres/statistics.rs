//! The statistics of a store in PostgreSQL.

use super::connection::{Connection, uint};
use crate::store::{Counted, Error, Statistics, TypeCount};

/// Returns the statistics of the store that a connection sees.
pub(super) fn of(connection: &Connection, count: bool) -> Result<Statistics, Error> {
    const DOING: &str = "counting";
    connection.batch(DOING, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    let found = counted_in_view(connection, count);
    connection.batch(DOING, "ROLLBACK")?;
    found
}

fn counted_in_view(connection: &Connection, count: bool) -> Result<Statistics, Error> {
    const DOING: &str = "counting";
    let sql = "SELECT h.position, h.dead_letters,
        (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
         WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace),
        (SELECT count(*) FROM archived_streams), (SELECT count(*) FROM checkpoints), (SELECT count(*) FROM ledgers),
        (SELECT coalesce(sum(last - first + 1), 0)::bigint FROM outbox WHERE kind = 'commands'),
        (SELECT coalesce(sum(last - first + 1), 0)::bigint FROM outbox WHERE kind = 'messages'),
        (SELECT count(*) FROM callbacks), (SELECT count(*) FROM http_requests), (SELECT count(*) FROM outcomes)
        FROM head h";
    let row = connection.first(DOING, sql, &[])?;
    let row =
        row.ok_or_else(|| Error::Failed("the store has no head: restore the database from a backup".to_owned()))?;
    let number = |column| uint(&row, column);
    let mut statistics = Statistics {
        position: number(0),
        dead_letters: number(1),
        file_bytes: number(2),
        // PostgreSQL reuses room by itself, and its log is of the whole server.
        free_bytes: 0,
        log_bytes: 0,
        archived_streams: number(3),
        subscriptions: number(4),
        ledgers: number(5),
        outbox_commands: number(6),
        outbox_messages: number(7),
        callbacks: number(8),
        http_requests: number(9),
        outcomes: number(10),
        counted: None,
    };
    if count {
        statistics.counted = Some(counted(connection)?);
    }
    Ok(statistics)
}

/// Counts what needs a read of every event.
fn counted(connection: &Connection) -> Result<Counted, Error> {
    let sql = "SELECT a.name, t.name, count(*), count(*) FILTER (WHERE e.version = 1),
               sum(length(e.payload) + coalesce(length(e.headers), 0))::bigint
               FROM events e JOIN event_types t ON t.id = e.type JOIN aggregate_types a ON a.id = t.aggregate_type
               GROUP BY 1, 2 ORDER BY 1, 2";
    let rows = connection.query("counting events", sql, &[])?;
    let mut counted = Counted::default();
    for row in rows {
        let of =
            TypeCount { aggregate_type: row.get(0), name: row.get(1), events: uint(&row, 2), bytes: uint(&row, 4) };
        counted.events += of.events;
        counted.streams += uint(&row, 3);
        counted.bytes += of.bytes;
        counted.types.push(of);
    }
    Ok(counted)
}
