//! The outbox: effects of subscriptions that are durable and not sent yet, all in one table.
//!
//! A row has the effects of one kind from one step. Effects are numbered within their [`Queue`], and the consumer of a
//! queue deletes the rows whose effects are all settled. A new kind of effect is a new queue, not a new table.

use super::reader::within_sqlite;
use rusqlite::{Connection, params};
use std::ops::RangeInclusive;

/// The kinds of effects.
const COMMANDS: &str = "commands";
const MESSAGES: &str = "messages";

/// A numbered sequence of effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue<'a> {
    /// The commands of a subscription, numbered as in the subscription's ledger.
    Commands(&'a str),
    /// The messages of all subscriptions, numbered as sinks count them.
    Messages,
}

/// The effects of one step.
pub(super) struct Row {
    pub(super) first: u64,
    /// The effects, encoded together.
    pub(super) body: Vec<u8>,
}

impl<'a> Queue<'a> {
    fn kind(self) -> &'static str {
        match self {
            Self::Commands(_) => COMMANDS,
            Self::Messages => MESSAGES,
        }
    }

    fn name(self) -> &'a str {
        match self {
            Self::Commands(subscription) => subscription,
            Self::Messages => "",
        }
    }

    /// Adds the effects of a step.
    pub(super) fn add(
        self,
        connection: &Connection,
        numbers: RangeInclusive<u64>,
        body: &[u8],
    ) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT INTO outbox (kind, queue, first, last, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![self.kind(), self.name(), numbers.start(), numbers.end(), body])
            .map(drop)
    }

    /// Deletes the rows whose effects all have a number below `next`.
    pub(super) fn remove_below(self, connection: &Connection, next: u64) -> rusqlite::Result<()> {
        // The bound on `first` follows from that on `last`. With it SQLite need not scan all rows of the queue.
        connection
            .prepare_cached("DELETE FROM outbox WHERE kind = ?1 AND queue = ?2 AND first < ?3 AND last < ?3")?
            .execute(params![self.kind(), self.name(), next])
            .map(drop)
    }

    /// Reads rows in the order of their numbers, from the first that has an effect after a number, until `take` returns
    /// false or fails.
    pub(super) fn read_after<E>(
        self,
        connection: &Connection,
        after: u64,
        failed: impl Fn(rusqlite::Error) -> E,
        mut take: impl FnMut(u64, &[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let sql = "SELECT first, body FROM outbox WHERE kind = ?1 AND queue = ?2 AND last > ?3 ORDER BY first";
        let mut select = connection.prepare_cached(sql).map_err(&failed)?;
        let mut rows = select.query(params![self.kind(), self.name(), within_sqlite(after)]).map_err(&failed)?;
        while let Some(row) = rows.next().map_err(&failed)? {
            let body = row.get_ref(1).and_then(|body| Ok(body.as_blob()?)).map_err(&failed)?;
            if !take(row.get(0).map_err(&failed)?, body)? {
                break;
            }
        }
        Ok(())
    }

    /// Returns all rows, in the order of their numbers.
    pub(super) fn rows(self, connection: &Connection) -> rusqlite::Result<Vec<Row>> {
        let read = |row: &rusqlite::Row<'_>| Ok(Row { first: row.get(0)?, body: row.get(1)? });
        connection
            .prepare_cached("SELECT first, body FROM outbox WHERE kind = ?1 AND queue = ?2 ORDER BY first")?
            .query_map(params![self.kind(), self.name()], read)?
            .collect()
    }

    /// Replaces the body of the row with this first number.
    pub(super) fn replace(self, connection: &Connection, first: u64, body: &[u8]) -> rusqlite::Result<()> {
        connection
            .prepare("UPDATE outbox SET body = ?4 WHERE kind = ?1 AND queue = ?2 AND first = ?3")?
            .execute(params![self.kind(), self.name(), first, body])
            .map(drop)
    }
}

/// Returns the number of commands and the number of messages.
pub(super) fn counts(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let count = |kind: &str| {
        let sql = "SELECT coalesce(sum(last - first + 1), 0) FROM outbox WHERE kind = ?1";
        connection.query_row(sql, [kind], |row| row.get(0))
    };
    Ok((count(COMMANDS)?, count(MESSAGES)?))
}

/// Returns the subscription, the first and the last number of each row of commands.
pub(super) fn commands(connection: &Connection) -> rusqlite::Result<Vec<(String, u64, u64)>> {
    connection
        .prepare("SELECT queue, first, last FROM outbox WHERE kind = ?1")?
        .query_map([COMMANDS], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}
