//! The callbacks of subscriptions: outcomes of their commands, and timers. They are rows, in the order of the times at which
//! they are due.
//!
//! If an attempt at a callback fails, the callback is postponed together with the later ones of its key, so that they keep
//! their order. A new callback of this key is postponed like them.

use super::fault::{self, FaultPoint};
use super::reader::within_sqlite;
use super::writer::{WriteBatch, Writer};
use super::{Error, failed, rows};
use crate::model::{
    Callback, CallbackContent, Command, Due, Ending, KeptCallback, LedgerName, Origin, OutcomeRequest, OutcomeUse,
};
use crate::store::{KeptTimer, NextCallback, PAGE_BYTES_MAX, TimerChange, TimerQuery};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

/// The columns of a callback, in the order in which [`kept`] reads them.
const COLUMNS: &str = "number, timer, time_ms, attempts, body";

/// Returns the callbacks of a subscription that are due at a time, in their order. The list ends at the limit or at
/// [`PAGE_BYTES_MAX`].
pub(super) fn due(
    connection: &Connection,
    subscription: &str,
    now_ms: u64,
    limit: usize,
) -> Result<Vec<KeptCallback>, Error> {
    let failed = failed("reading the callbacks of a subscription");
    let sql = format!(
        "SELECT {COLUMNS} FROM callbacks WHERE subscription = ?1 AND due_ms <= ?2
         ORDER BY due_ms, order_ms, number LIMIT ?3"
    );
    let limit = limit.min(i64::MAX as usize);
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut found = select.query(params![subscription, within_sqlite(now_ms), limit]).map_err(&failed)?;
    let (mut due, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES_MAX
        && let Some(row) = found.next().map_err(&failed)?
    {
        let kept = kept(row)?;
        bytes += kept.callback.size();
        due.push(kept);
    }
    Ok(due)
}

/// Returns what is known of the next callback of a subscription.
pub(super) fn next(connection: &Connection, subscription: &str) -> Result<NextCallback, Error> {
    let sql = "SELECT (SELECT min(due_ms) FROM callbacks WHERE subscription = ?1),
               (SELECT time_ms FROM callbacks WHERE subscription = ?1 AND order_ms > 0
                ORDER BY due_ms, order_ms, number LIMIT 1),
               EXISTS (SELECT 1 FROM callbacks WHERE subscription = ?1 AND attempts > 0)";
    connection
        .prepare_cached(sql)
        .and_then(|mut select| {
            select.query_row([subscription], |row| {
                Ok(NextCallback { due_ms: row.get(0)?, timer_ms: row.get(1)?, is_retried: row.get(2)? })
            })
        })
        .map_err(failed("looking for the next callback of a subscription"))
}

/// Returns the timers that are due first, in the order of their times, and the number of all.
pub(super) fn timers(connection: &Connection, wanted: TimerQuery<'_>) -> Result<(Vec<KeptTimer>, u64), Error> {
    let TimerQuery { subscription, limit } = wanted;
    let failed = failed("listing timers");
    // Outcomes have an `order_ms` of 0. SQLite uses the index only if the condition has no alternative.
    let own = if subscription.is_some() { "subscription = ?1" } else { "?1 IS NULL" };
    let total = connection
        .query_row(&format!("SELECT count(*) FROM callbacks WHERE {own} AND order_ms > 0"), [subscription], |row| {
            row.get(0)
        })
        .map_err(&failed)?;
    let sql = format!(
        "SELECT {COLUMNS}, subscription FROM callbacks WHERE {own} AND order_ms > 0
         ORDER BY due_ms, order_ms, number LIMIT ?2"
    );
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut found = select.query(params![subscription, limit.min(i64::MAX as usize)]).map_err(&failed)?;
    let mut timers = Vec::new();
    while let Some(row) = found.next().map_err(&failed)? {
        timers.push(KeptTimer { callback: kept(row)?, subscription: row.get(5).map_err(&failed)? });
    }
    Ok((timers, total))
}

/// Returns the number of callbacks of each subscription.
pub(super) fn counts(connection: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    connection
        .prepare("SELECT subscription, count(*) FROM callbacks GROUP BY subscription ORDER BY subscription")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Returns the greatest number that was ever assigned.
pub(super) fn newest(connection: &Connection) -> Result<u64, Error> {
    connection
        .query_row("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'callbacks'", [], |row| row.get(0))
        .map_err(failed("reading the number of callbacks"))
}

/// Reads a row that begins with [`COLUMNS`].
pub(super) fn kept(row: &Row<'_>) -> Result<KeptCallback, Error> {
    let failed = failed("reading a callback");
    let number: u64 = row.get(0).map_err(&failed)?;
    let timer: Option<String> = row.get(1).map_err(&failed)?;
    let body = row.get_ref(4).and_then(|body| Ok(body.as_blob()?)).map_err(&failed)?;
    Ok(KeptCallback {
        number,
        timer: timer.map(Into::into),
        time_ms: row.get(2).map_err(&failed)?,
        attempts: row.get(3).map_err(&failed)?,
        callback: rows::decode(&format!("callback {number}"), body)?,
    })
}

/// When a new callback is due.
#[derive(Clone, Copy)]
enum Time {
    /// At once. The time is that of the outcome.
    Outcome(u64),
    /// At this time.
    Timer(u64),
}

impl Writer {
    /// Fails if one of these callbacks of a subscription is gone.
    pub(super) fn check_callbacks(&self, subscription: &str, numbers: &[u64]) -> Result<(), Error> {
        let failed = failed("looking for a callback");
        let sql = "SELECT 1 FROM callbacks WHERE number = ?1 AND subscription = ?2";
        let mut select = self.connection.prepare_cached(sql).map_err(&failed)?;
        for &number in numbers {
            if !select.exists(params![number, subscription]).map_err(&failed)? {
                return Err(Error::CallbackGone { number });
            }
        }
        Ok(())
    }

    pub(super) fn remove_callbacks(&self, numbers: &[u64]) -> Result<(), Error> {
        let failed = failed("removing a callback");
        let mut delete = self.connection.prepare_cached("DELETE FROM callbacks WHERE number = ?1").map_err(&failed)?;
        for number in numbers {
            delete.execute([number]).map_err(&failed)?;
            fault::at(FaultPoint::CallbackRemoved);
        }
        Ok(())
    }

    pub(super) fn change_timers(
        &mut self,
        batch: &mut WriteBatch,
        subscription: &str,
        changes: &[TimerChange],
    ) -> Result<(), Error> {
        let now_ms = self.options.clock.now_ms();
        for change in changes {
            match change {
                TimerChange::Cancel(name) => self.cancel_named(subscription, name)?,
                TimerChange::Set { name, due, callback } => {
                    let at_ms = within_sqlite(match due {
                        Due::After(ms) => now_ms.saturating_add(*ms),
                        Due::At(ms) => *ms,
                    });
                    if let Some(name) = name {
                        self.cancel_named(subscription, name)?;
                    }
                    self.add_callback(batch, subscription, name.as_deref(), Time::Timer(at_ms.max(1)), callback)?;
                }
            }
        }
        Ok(())
    }

    fn cancel_named(&self, subscription: &str, name: &str) -> Result<(), Error> {
        let sql = "DELETE FROM callbacks WHERE subscription = ?1 AND timer = ?2 RETURNING subscription, key, attempts";
        self.cancel(sql, params![subscription, name]).map(drop)
    }

    /// Cancels the timer with a number.
    pub(super) fn cancel_timer(&self, number: u64) -> Result<(), Error> {
        let sql = "DELETE FROM callbacks WHERE number = ?1 AND order_ms > 0 RETURNING subscription, key, attempts";
        match self.cancel(sql, params![within_sqlite(number)])? {
            true => Ok(()),
            false => {
                Err(Error::NotFound(format!("there is no timer {number}: it has fired, or it was cancelled before")))
            }
        }
    }

    /// Runs the statement that deletes a timer. If the timer had failed, the callbacks of its key that were postponed with
    /// it are due again. Returns whether there was one.
    fn cancel(&self, sql: &str, parameters: impl Params) -> Result<bool, Error> {
        let failed = failed("cancelling a timer");
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let deleted: Option<(String, Option<Vec<u8>>, u32)> = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut delete| delete.query_row(parameters, read).optional())
            .map_err(&failed)?;
        if let Some((subscription, key, 1..)) = &deleted {
            self.connection
                .prepare_cached(
                    "UPDATE callbacks SET due_ms = order_ms WHERE subscription = ?1 AND due_ms > order_ms AND key IS ?2",
                )
                .and_then(|mut update| update.execute(params![subscription, key]))
                .map_err(&failed)?;
        }
        Ok(deleted.is_some())
    }

    /// Keeps the outcome of a command for the subscription that sent it, if it asked for that. Returns whether it did.
    pub(super) fn report(&mut self, batch: &mut WriteBatch, command: &Command, ending: Ending) -> Result<bool, Error> {
        let Some((subscription, request)) = asker(command) else { return Ok(false) };
        let callback = Callback {
            key: request.key.clone(),
            correlation_id: command.correlation_id.clone(),
            causation_id: command.id.clone(),
            hops: command.hops,
            first_ms: command.first_ms.unwrap_or(command.time_ms),
            headers: crate::trace::context(&command.headers),
            content: CallbackContent::Outcome {
                stream: command.stream.clone(),
                name: command.name.clone(),
                ending,
                attachment: request.attachment.clone(),
            },
        };
        let now_ms = self.options.clock.now_ms();
        self.add_callback(batch, &subscription, None, Time::Outcome(now_ms), &callback)?;
        fault::at(FaultPoint::OutcomeKept);
        Ok(true)
    }

    fn add_callback(
        &mut self,
        batch: &mut WriteBatch,
        subscription: &str,
        timer: Option<&str>,
        time: Time,
        callback: &Callback,
    ) -> Result<(), Error> {
        let failed = failed("storing a callback");
        let (time_ms, order_ms) = match time {
            Time::Outcome(now_ms) => (now_ms, 0),
            Time::Timer(at_ms) => (at_ms, at_ms),
        };
        let postponed = self
            .connection
            .prepare_cached("SELECT max(due_ms) FROM callbacks WHERE subscription = ?1 AND key IS ?2 AND attempts > 0")
            .and_then(|mut select| {
                select.query_row(params![subscription, callback.key], |row| row.get::<_, Option<u64>>(0))
            })
            .map_err(&failed)?;
        let due_ms = order_ms.max(postponed.unwrap_or(0));
        let body = rows::encode(callback)?;
        batch.bytes += body.len();
        self.connection
            .prepare_cached(
                "INSERT INTO callbacks (subscription, timer, key, time_ms, due_ms, order_ms, attempts, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)",
            )
            .and_then(|mut insert| {
                insert.execute(params![subscription, timer, callback.key, time_ms, due_ms, order_ms, body])
            })
            .map_err(&failed)?;
        self.newest_callback = self.connection.last_insert_rowid().unsigned_abs();
        fault::at(FaultPoint::CallbackKept);
        Ok(())
    }

    /// Postpones a callback after a failed attempt, and the later callbacks of its key.
    pub(super) fn postpone_callback(&self, subscription: &str, number: u64, until_ms: u64) -> Result<(), Error> {
        let failed = failed("postponing a callback");
        let sql = "SELECT key FROM callbacks WHERE number = ?1 AND subscription = ?2";
        let key: Option<Option<Vec<u8>>> = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut select| select.query_row(params![number, subscription], |row| row.get(0)).optional())
            .map_err(&failed)?;
        let Some(key) = key else { return Ok(()) };
        let until_ms = within_sqlite(until_ms);
        self.connection
            .prepare_cached("UPDATE callbacks SET attempts = attempts + 1 WHERE number = ?1")
            .and_then(|mut update| update.execute([number]))
            .map_err(&failed)?;
        self.connection
            .prepare_cached("UPDATE callbacks SET due_ms = ?3 WHERE subscription = ?1 AND due_ms < ?3 AND key IS ?2")
            .and_then(|mut update| update.execute(params![subscription, key, until_ms]))
            .map_err(&failed)?;
        fault::at(FaultPoint::CallbackPostponed);
        Ok(())
    }

    /// Ends the pauses of the callbacks that were postponed, and forgets their failures.
    pub(super) fn hasten_callbacks(&mut self, subscription: &str) -> Result<(), Error> {
        // No callback is postponed beyond the last one that failed.
        self.connection
            .prepare_cached(
                "UPDATE callbacks SET due_ms = order_ms, attempts = 0 WHERE subscription = ?1 AND due_ms > order_ms AND due_ms <=
                 (SELECT max(due_ms) FROM callbacks WHERE subscription = ?1 AND attempts > 0)",
            )
            .and_then(|mut update| update.execute([subscription]))
            .map(drop)
            .map_err(failed("ending the pauses of callbacks"))
    }
}

/// Returns the subscription that asked for the outcome of a command, with its request.
fn asker(command: &Command) -> Option<(String, &OutcomeRequest)> {
    let OutcomeUse::Delivered(request) = &command.outcome_use else { return None };
    let Origin { ledger, .. } = command.origin.as_ref()?;
    match LedgerName::parse(ledger)? {
        LedgerName::Commands(subscription) => Some((subscription.to_string(), request)),
        _ => None,
    }
}
