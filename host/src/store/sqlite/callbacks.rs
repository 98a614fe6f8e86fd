//! The callbacks of subscriptions: outcomes of their commands, timers, responses, and deferred events and records. They are rows, in the
//! order of the times at which they are due. A row is inserted, and it is deleted by the step that handles it or cancels it.
//! Nothing else of it changes than the time of a deferred one that waits behind a dead letter.

use super::fault::{self, FaultPoint};
use super::reader::within_sqlite;
use super::write_request::outcome_callback;
use super::writer::{WriteBatch, Writer};
use super::{Error, division, failed, held_keys, rows};
use crate::model::{Callback, CallbackKey, Command, Due, Ending, KeptCallback, saga_timer};
use crate::store::{CallbackChange, FlowQuery, KeptTimer, NextCallback, PAGE_BYTES_MAX, TimerQuery};
use rusqlite::{Connection, Row, params};
use std::collections::HashSet;

/// The columns of a callback, in the order in which [`kept`] reads them.
const COLUMNS: &str = "number, timer, time_ms, body, key";

/// The time at which an event or a record is due that was deferred: before all outcomes and timers.
const DEFERRED: i64 = -1;

/// The time at which what waits behind a dead letter is due: never.
const WAITS: i64 = i64::MAX;

/// Returns the callbacks of a subscription that are due at a time, in their order, without those of some keys. The list
/// ends at the limit or at [`PAGE_BYTES_MAX`].
pub(super) fn due(
    connection: &Connection,
    subscription: &str,
    now_ms: u64,
    without: &HashSet<CallbackKey>,
    limit: usize,
) -> Result<Vec<KeptCallback>, Error> {
    let failed = failed("reading the callbacks of a subscription");
    let sql =
        format!("SELECT {COLUMNS} FROM callbacks WHERE subscription = ?1 AND due_ms <= ?2 ORDER BY due_ms, number");
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut found = select.query(params![subscription, within_sqlite(now_ms)]).map_err(&failed)?;
    let (mut due, mut bytes) = (Vec::new(), 0);
    while due.len() < limit
        && bytes < PAGE_BYTES_MAX
        && let Some(row) = found.next().map_err(&failed)?
    {
        if !without.is_empty() && without.contains(&row.get::<_, CallbackKey>(4).map_err(&failed)?) {
            continue;
        }
        let kept = kept(row)?;
        bytes += kept.callback.size();
        due.push(kept);
    }
    Ok(due)
}

/// Returns what is known of the next callback of a subscription after a time.
pub(super) fn next(connection: &Connection, subscription: &str, after_ms: u64) -> Result<NextCallback, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM callbacks WHERE subscription = ?1 AND due_ms <= ?2),
               (SELECT min(due_ms) FROM callbacks WHERE subscription = ?1 AND due_ms > ?2 AND due_ms < ?3),
               (SELECT min(due_ms) FROM callbacks WHERE subscription = ?1 AND due_ms > 0 AND due_ms < ?3)";
    connection
        .prepare_cached(sql)
        .and_then(|mut select| {
            select.query_row(params![subscription, within_sqlite(after_ms), WAITS], |row| {
                Ok(NextCallback { is_due: row.get(0)?, later_ms: row.get(1)?, timer_ms: row.get(2)? })
            })
        })
        .map_err(failed("looking for the next callback of a subscription"))
}

/// Returns whether a callback is still there.
pub(super) fn exists(connection: &Connection, number: u64) -> Result<bool, Error> {
    connection
        .prepare_cached("SELECT 1 FROM callbacks WHERE number = ?1")
        .and_then(|mut select| select.exists([within_sqlite(number)]))
        .map_err(failed("looking for a callback"))
}

/// Returns the timers that are due first, in the order of their times, and the number of all.
pub(super) fn timers(connection: &Connection, wanted: TimerQuery<'_>) -> Result<(Vec<KeptTimer>, u64), Error> {
    let TimerQuery { subscription, limit } = wanted;
    let failed = failed("listing timers");
    // Outcomes have a `due_ms` of 0. SQLite uses the index only if the condition has no alternative.
    let own = if subscription.is_some() { division::OF_SUBSCRIPTION } else { "?1 IS NULL" };
    let total = connection
        .query_row(
            &format!("SELECT count(*) FROM callbacks WHERE {own} AND due_ms > 0 AND due_ms < ?2"),
            params![subscription, WAITS],
            |row| row.get(0),
        )
        .map_err(&failed)?;
    let sql = format!(
        "SELECT {COLUMNS}, subscription FROM callbacks WHERE {own} AND due_ms > 0 AND due_ms < ?3
         ORDER BY due_ms, number LIMIT ?2"
    );
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut found = select.query(params![subscription, limit.min(i64::MAX as usize), WAITS]).map_err(&failed)?;
    let (mut timers, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES_MAX
        && let Some(row) = found.next().map_err(&failed)?
    {
        let kept = kept(row)?;
        bytes += kept.callback.size();
        timers.push(KeptTimer { callback: kept, subscription: row.get(5).map_err(&failed)? });
    }
    Ok((timers, total))
}

/// Returns the number of callbacks of a flow that are due, and the keys of those that wait behind a dead letter.
pub(super) fn of_flow(
    connection: &Connection,
    subscription: &str,
    flow: &FlowQuery<'_>,
) -> Result<(u64, HashSet<CallbackKey>), Error> {
    let failed = failed("reading the callbacks of a flow");
    let sql = format!(
        "SELECT {COLUMNS}, due_ms FROM callbacks WHERE subscription = ?1 AND due_ms <= ?2
         UNION ALL SELECT {COLUMNS}, due_ms FROM callbacks WHERE subscription = ?1 AND due_ms = ?3"
    );
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut rows = select.query(params![subscription, within_sqlite(flow.now_ms), WAITS]).map_err(&failed)?;
    let (mut due, mut waiting) = (0, HashSet::new());
    while let Some(row) = rows.next().map_err(&failed)? {
        let KeptCallback { callback, .. } = kept(row)?;
        if *callback.correlation_id != *flow.correlation_id {
            continue;
        }
        match row.get::<_, i64>(5).map_err(&failed)? {
            WAITS => _ = waiting.insert(callback.key),
            _ => due += 1,
        }
    }
    Ok((due, waiting))
}

/// Returns the keys of a subscription for which events or records were deferred, with their number.
pub(super) fn deferred(connection: &Connection, subscription: &str) -> Result<Vec<(CallbackKey, u64)>, Error> {
    let sql = "SELECT key, count(*) FROM callbacks WHERE subscription = ?1 AND due_ms IN (?2, ?3) GROUP BY key";
    connection
        .prepare_cached(sql)
        .and_then(|mut select| {
            let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            select.query_map(params![subscription, DEFERRED, WAITS], read)?.collect()
        })
        .map_err(failed("reading what was deferred"))
}

/// Forgets what was deferred for a subscription.
pub(super) fn forget_deferred(connection: &Connection, subscription: &str) -> Result<(), Error> {
    connection
        .prepare_cached("DELETE FROM callbacks WHERE subscription = ?1 AND due_ms IN (?2, ?3)")
        .and_then(|mut delete| delete.execute(params![subscription, DEFERRED, WAITS]))
        .map(drop)
        .map_err(failed("forgetting what was deferred"))
}

/// Returns the number of events or records that wait behind a dead letter, by their key.
pub(super) fn waiting(connection: &Connection, subscription: &str, key: &str) -> Result<u64, Error> {
    connection
        .prepare_cached("SELECT count(*) FROM callbacks WHERE subscription = ?1 AND key = ?2 AND due_ms = ?3")
        .and_then(|mut select| select.query_row(params![subscription, key.as_bytes(), WAITS], |row| row.get(0)))
        .map_err(failed("counting what waits behind a dead letter"))
}

/// Lets what was deferred for a key wait, because it is held behind a dead letter.
pub(super) fn hold(connection: &Connection, subscription: &str, key: &str) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE callbacks SET due_ms = ?4 WHERE subscription = ?1 AND due_ms = ?3 AND key = ?2")
        .and_then(|mut update| update.execute(params![subscription, key.as_bytes(), DEFERRED, WAITS]))
        .map(drop)
        .map_err(failed("holding what was deferred"))
}

/// Lets what waits for a key go on.
pub(super) fn release(connection: &Connection, subscription: &str, key: &str) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE callbacks SET due_ms = ?3 WHERE subscription = ?1 AND key = ?2 AND due_ms = ?4")
        .and_then(|mut update| update.execute(params![subscription, key.as_bytes(), DEFERRED, WAITS]))
        .map(drop)
        .map_err(failed("releasing what was deferred"))
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
    let body = row.get_ref(3).and_then(|body| Ok(body.as_blob()?)).map_err(&failed)?;
    Ok(KeptCallback {
        number,
        timer: timer.map(Into::into),
        time_ms: row.get(2).map_err(&failed)?,
        callback: rows::decode(&format!("callback {number}"), body)?,
    })
}

/// When a new callback is due.
#[derive(Clone, Copy)]
pub(super) enum Time {
    /// At once and before all outcomes.
    Deferred,
    /// When a dead letter is removed.
    Waits,
    /// At once. The time is that of the outcome or the response.
    Outcome(u64),
    /// At this time.
    Timer(u64),
}

impl Writer {
    /// Fails if one of these callbacks of a subscription is gone, or waits behind a dead letter now.
    pub(super) fn check_callbacks(&self, subscription: &str, numbers: &[u64]) -> Result<(), Error> {
        let failed = failed("looking for a callback");
        let sql = "SELECT 1 FROM callbacks WHERE number = ?1 AND subscription = ?2 AND due_ms < ?3";
        let mut select = self.connection.prepare_cached(sql).map_err(&failed)?;
        for &number in numbers {
            if !select.exists(params![number, subscription, WAITS]).map_err(&failed)? {
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

    pub(super) fn change_callbacks(
        &mut self,
        batch: &mut WriteBatch,
        subscription: &str,
        changes: &[CallbackChange],
    ) -> Result<(), Error> {
        let now_ms = self.options.clock.now_ms();
        for change in changes {
            match change {
                CallbackChange::Cancel(name) => self.cancel_named(subscription, name)?,
                CallbackChange::Set { name, due, callback } => {
                    let at_ms = within_sqlite(match due {
                        Due::After(ms) => now_ms.saturating_add(*ms),
                        Due::At(ms) => *ms,
                    });
                    if let Some(name) = name {
                        self.cancel_named(subscription, name)?;
                    }
                    let time = Time::Timer(at_ms.clamp(1, WAITS.unsigned_abs() - 1));
                    self.add_callback(batch, subscription, name.as_deref(), time, callback)?;
                }
                CallbackChange::Defer { key, callback } => {
                    let waits = held_keys::is_behind_dead_letter(&self.connection, subscription, key)?;
                    let time = if waits { Time::Waits } else { Time::Deferred };
                    self.add_callback(batch, subscription, None, time, callback)?;
                }
            }
        }
        Ok(())
    }

    fn cancel_named(&self, subscription: &str, name: &str) -> Result<(), Error> {
        self.connection
            .prepare_cached("DELETE FROM callbacks WHERE subscription = ?1 AND timer = ?2")
            .and_then(|mut delete| delete.execute([subscription, name]))
            .map(drop)
            .map_err(failed("cancelling a timer"))
    }

    /// Cancels the named timers of a saga that has ended.
    pub(super) fn cancel_timers_of(&self, subscription: &str, key: &str) -> Result<(), Error> {
        let from = saga_timer(key, "");
        // The names of a saga's timers begin with its key and `/`, and `0` follows `/`.
        let to = format!("{key}0");
        let sql = "DELETE FROM callbacks WHERE subscription = ?1 AND timer > ?2 AND timer < ?3 AND key = ?4";
        self.connection
            .prepare_cached(sql)
            .and_then(|mut delete| delete.execute(params![subscription, from, to, key.as_bytes()]))
            .map(drop)
            .map_err(failed("cancelling the timers of a saga"))
    }

    /// Cancels the timer with a number.
    pub(super) fn cancel_timer(&self, number: u64) -> Result<(), Error> {
        let removed = self
            .connection
            .prepare_cached("DELETE FROM callbacks WHERE number = ?1 AND due_ms > 0 AND due_ms < ?2")
            .and_then(|mut delete| delete.execute(params![within_sqlite(number), WAITS]))
            .map_err(failed("cancelling a timer"))?;
        match removed {
            0 => Err(Error::NotFound(format!(
                "there is no timer {number}: it has fired, or it was cancelled or replaced before"
            ))),
            _ => Ok(()),
        }
    }

    /// Keeps the outcome of a command for the subscription that sent it, if it asked for that. Returns whether it did.
    pub(super) fn report(&mut self, batch: &mut WriteBatch, command: &Command, ending: Ending) -> Result<bool, Error> {
        let Some((subscription, callback)) = outcome_callback(command, ending) else { return Ok(false) };
        let now_ms = self.options.clock.now_ms();
        self.add_callback(batch, &subscription, None, Time::Outcome(now_ms), &callback)?;
        fault::at(FaultPoint::OutcomeKept);
        Ok(true)
    }

    pub(super) fn add_callback(
        &mut self,
        batch: &mut WriteBatch,
        subscription: &str,
        timer: Option<&str>,
        time: Time,
        callback: &Callback,
    ) -> Result<(), Error> {
        let failed = failed("storing a callback");
        let (time_ms, due_ms) = match time {
            Time::Deferred => (self.options.clock.now_ms(), DEFERRED),
            Time::Waits => (self.options.clock.now_ms(), WAITS),
            Time::Outcome(now_ms) => (now_ms, 0),
            Time::Timer(at_ms) => (at_ms, at_ms.cast_signed()),
        };
        let body = rows::encode(callback)?;
        batch.bytes += body.len();
        self.connection
            .prepare_cached(
                "INSERT INTO callbacks (subscription, timer, key, time_ms, due_ms, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )
            .and_then(|mut insert| {
                insert.execute(params![subscription, timer, callback.key, time_ms, due_ms, body])
            })
            .map_err(&failed)?;
        self.newest_callback = self.connection.last_insert_rowid().unsigned_abs();
        fault::at(FaultPoint::CallbackKept);
        Ok(())
    }
}
