//! The callbacks of subscriptions: outcomes of their commands, timers, responses, and deferred events and records. They are
//! rows, in the order of the times at which they are due. A row is inserted, and it is deleted by the step that handles it or
//! cancels it. Nothing else of it changes than the time of a deferred one that waits behind a dead letter.

use super::connection::{Connection, int, uint};
use super::division::of_subscription;
use super::hints::KnownCallback;
use super::pending::CallbackRow;
use super::writer::Writer;
use crate::model::{Callback, CallbackKey, Command, Due, Ending, KeptCallback, saga_timer};
use crate::store::fault::{self, FaultPoint};
use crate::store::write_request::outcome_callback;
use crate::store::{CallbackChange, Error, FlowQuery, KeptTimer, NextCallback, PAGE_BYTES_MAX, TimerQuery, encoding};
use std::collections::HashSet;
use tokio_postgres::Row;

/// The time at which an event or a record is due that was deferred: before all outcomes and timers.
const DEFERRED: i64 = -1;

/// The time at which what waits behind a dead letter is due: never.
const WAITS: i64 = i64::MAX;

/// The most callbacks that one statement reads.
const ROWS_MAX: usize = 2_000;

/// Returns the callbacks of a subscription that are due at a time, in their order, without those of some keys. The list
/// ends at the limit or at [`PAGE_BYTES_MAX`].
pub(super) fn due(
    connection: &Connection,
    subscription: &str,
    now_ms: u64,
    without: &HashSet<CallbackKey>,
    limit: usize,
) -> Result<Vec<KeptCallback>, Error> {
    const DOING: &str = "reading the callbacks of a subscription";
    let sql = "SELECT number, timer, time_ms, body, key, due_ms FROM callbacks
               WHERE subscription = $1 AND due_ms <= $2 AND (due_ms, number) > ($3, $4) ORDER BY due_ms, number LIMIT $5";
    let (mut due, mut bytes, mut after) = (Vec::new(), 0, (i64::MIN, i64::MIN));
    loop {
        // Without the keys that are left out, the first rows are enough.
        let rows_max = if without.is_empty() { limit.min(ROWS_MAX) } else { ROWS_MAX };
        let bounds = (int(now_ms).min(WAITS - 1), int(rows_max as u64));
        let rows = connection.query(DOING, sql, &[&subscription, &bounds.0, &after.0, &after.1, &bounds.1])?;
        for row in &rows {
            after = (row.get(5), row.get(0));
            if !without.is_empty() && without.contains(&row.get::<_, CallbackKey>(4)) {
                continue;
            }
            let kept = kept(row)?;
            bytes += kept.callback.size();
            due.push(kept);
            if due.len() >= limit || bytes >= PAGE_BYTES_MAX {
                return Ok(due);
            }
        }
        if rows.len() < rows_max {
            return Ok(due);
        }
    }
}

/// Returns what is known of the next callback of a subscription after a time.
pub(super) fn next(connection: &Connection, subscription: &str, after_ms: u64) -> Result<NextCallback, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM callbacks WHERE subscription = $1 AND due_ms <= $2),
               (SELECT min(due_ms) FROM callbacks WHERE subscription = $1 AND due_ms > $2 AND due_ms < $3),
               (SELECT min(due_ms) FROM callbacks WHERE subscription = $1 AND due_ms > 0 AND due_ms < $3)";
    let doing = "looking for the next callback of a subscription";
    let row = connection.first(doing, sql, &[&subscription, &int(after_ms).min(WAITS - 1), &WAITS])?;
    let number = |row: &Row, column| row.get::<_, Option<i64>>(column).map(i64::cast_unsigned);
    Ok(row.map_or(NextCallback::default(), |row| NextCallback {
        is_due: row.get(0),
        later_ms: number(&row, 1),
        timer_ms: number(&row, 2),
    }))
}

/// Returns whether a callback is still there.
pub(super) fn exists(connection: &Connection, number: u64) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM callbacks WHERE number = $1";
    Ok(connection.first("looking for a callback", sql, &[&int(number)])?.is_some())
}

/// Returns the timers that are due first, in the order of their times, and the number of all.
pub(super) fn timers(connection: &Connection, wanted: TimerQuery<'_>) -> Result<(Vec<KeptTimer>, u64), Error> {
    const DOING: &str = "listing timers";
    let TimerQuery { subscription, limit } = wanted;
    // Outcomes have a `due_ms` of 0.
    let sql = concat!("SELECT count(*) FROM callbacks WHERE ", of_subscription!(), " AND due_ms > 0 AND due_ms < $2");
    let total = connection.first(DOING, sql, &[&subscription, &WAITS])?.map_or(0, |row| uint(&row, 0));
    let sql = concat!(
        "SELECT number, timer, time_ms, body, key, subscription FROM callbacks WHERE ",
        of_subscription!(),
        " AND due_ms > 0 AND due_ms < $3 ORDER BY due_ms, number LIMIT $2"
    );
    let rows = connection.query(DOING, sql, &[&subscription, &int(limit as u64), &WAITS])?;
    let (mut timers, mut bytes) = (Vec::new(), 0);
    for row in rows {
        if bytes >= PAGE_BYTES_MAX {
            break;
        }
        let kept = kept(&row)?;
        bytes += kept.callback.size();
        timers.push(KeptTimer { callback: kept, subscription: row.get(5) });
    }
    Ok((timers, total))
}

/// Returns the number of callbacks of a flow that are due, and the keys of those that wait behind a dead letter.
pub(super) fn of_flow(
    connection: &Connection,
    subscription: &str,
    flow: &FlowQuery<'_>,
) -> Result<(u64, HashSet<CallbackKey>), Error> {
    let sql = "SELECT number, timer, time_ms, body, key, due_ms FROM callbacks
               WHERE subscription = $1 AND (due_ms <= $2 OR due_ms = $3)";
    let doing = "reading the callbacks of a flow";
    let rows = connection.query(doing, sql, &[&subscription, &int(flow.now_ms).min(WAITS - 1), &WAITS])?;
    let (mut due, mut waiting) = (0, HashSet::new());
    for row in rows {
        let KeptCallback { callback, .. } = kept(&row)?;
        if *callback.correlation_id != *flow.correlation_id {
            continue;
        }
        match row.get::<_, i64>(5) {
            WAITS => _ = waiting.insert(callback.key),
            _ => due += 1,
        }
    }
    Ok((due, waiting))
}

/// Returns the keys of a subscription for which events or records were deferred, with their number.
pub(super) fn deferred(connection: &Connection, subscription: &str) -> Result<Vec<(CallbackKey, u64)>, Error> {
    let sql =
        "SELECT key, count(*) FROM callbacks WHERE subscription = $1 AND due_ms IN ($2, $3) GROUP BY key ORDER BY key";
    let rows = connection.query("reading what was deferred", sql, &[&subscription, &DEFERRED, &WAITS])?;
    Ok(rows.iter().map(|row| (row.get(0), uint(row, 1))).collect())
}

/// Returns the number of events or records that wait behind a dead letter, by their key.
pub(super) fn waiting(connection: &Connection, subscription: &str, key: &[u8]) -> Result<u64, Error> {
    let sql = "SELECT count(*) FROM callbacks WHERE subscription = $1 AND key = $2 AND due_ms = $3";
    let row = connection.first("counting what waits behind a dead letter", sql, &[&subscription, &key, &WAITS])?;
    Ok(row.map_or(0, |row| uint(&row, 0)))
}

/// Reads a row that begins with number, timer, time and body.
fn kept(row: &Row) -> Result<KeptCallback, Error> {
    let number = uint(row, 0);
    Ok(KeptCallback {
        number,
        timer: super::connection::optional_text(row, 1)?.map(Into::into),
        time_ms: uint(row, 2),
        callback: encoding::decode(&format!("callback {number}"), row.get(3))?,
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
    pub(super) fn check_callbacks(&mut self, subscription: &str, numbers: &[u64]) -> Result<(), Error> {
        for &number in numbers {
            if !self.hints.callbacks.contains_key(&number) {
                let sql =
                    "SELECT subscription, timer FROM callbacks WHERE number = $1 AND due_ms < 9223372036854775807";
                let row = self.first("looking for a callback", sql, &[&int(number)])?;
                let known = row.map(|row| KnownCallback { subscription: row.get(0), timer: row.get(1) });
                self.hints.callbacks.insert(number, known);
            }
            match self.hints.callbacks.get(&number) {
                Some(Some(known)) if known.subscription == subscription => {}
                _ => return Err(Error::CallbackGone { number }),
            }
        }
        Ok(())
    }

    /// Removes callbacks that were checked.
    pub(super) fn remove_callbacks(&mut self, numbers: &[u64]) {
        for &number in numbers {
            self.pending.remove_callback(number);
            self.hints.callbacks.insert(number, None);
            fault::at(FaultPoint::CallbackRemoved);
        }
    }

    pub(super) fn change_callbacks(&mut self, subscription: &str, changes: &[CallbackChange]) -> Result<(), Error> {
        let now_ms = self.options.clock.now_ms();
        for change in changes {
            match change {
                CallbackChange::Cancel(name) => self.cancel_named(subscription, name),
                CallbackChange::Set { name, due, callback } => {
                    let at_ms = match due {
                        Due::After(ms) => now_ms.saturating_add(*ms),
                        Due::At(ms) => *ms,
                    };
                    if let Some(name) = name {
                        self.cancel_named(subscription, name);
                    }
                    let time = Time::Timer(at_ms.clamp(1, WAITS.unsigned_abs() - 1));
                    self.add_callback(subscription, name.as_deref(), time, callback)?;
                }
                CallbackChange::Defer { key, callback } => {
                    let waits = self.is_behind_dead_letter(subscription, key)?;
                    let time = if waits { Time::Waits } else { Time::Deferred };
                    self.add_callback(subscription, None, time, callback)?;
                }
            }
        }
        Ok(())
    }

    fn cancel_named(&mut self, subscription: &str, name: &str) {
        self.pending.cancel_timer(subscription, name);
        for known in self.hints.callbacks.values_mut() {
            if known.as_ref().is_some_and(|known| {
                known.timer.as_deref() == Some(name.as_bytes()) && known.subscription == subscription
            }) {
                *known = None;
            }
        }
    }

    /// Cancels the named timers of a saga that has ended.
    pub(super) fn cancel_timers_of(&mut self, subscription: &str, key: &str) -> Result<(), Error> {
        let from = saga_timer(key, "");
        // The names of a saga's timers begin with its key and `/`, and `0` follows `/`.
        let to = format!("{key}0");
        let sql = "DELETE FROM callbacks WHERE subscription = $1 AND timer > $2 AND timer < $3 AND key = $4";
        let values: [&[u8]; 3] = [from.as_bytes(), to.as_bytes(), key.as_bytes()];
        self.execute("cancelling the timers of a saga", sql, &[&subscription, &values[0], &values[1], &values[2]])?;
        self.hints.callbacks.clear();
        Ok(())
    }

    /// Cancels the timer with a number.
    pub(super) fn cancel_timer(&mut self, number: u64) -> Result<(), Error> {
        let sql = "DELETE FROM callbacks WHERE number = $1 AND due_ms > 0 AND due_ms < $2";
        let removed = self.execute("cancelling a timer", sql, &[&int(number), &WAITS])?;
        self.hints.callbacks.clear();
        match removed {
            0 => Err(Error::NotFound(format!(
                "there is no timer {number}: it has fired, or it was cancelled or replaced before"
            ))),
            _ => Ok(()),
        }
    }

    /// Forgets what was deferred for a subscription.
    pub(super) fn forget_deferred(&mut self, subscription: &str) -> Result<(), Error> {
        let sql = "DELETE FROM callbacks WHERE subscription = $1 AND due_ms IN ($2, $3)";
        self.execute("forgetting what was deferred", sql, &[&subscription, &DEFERRED, &WAITS])?;
        self.hints.callbacks.clear();
        Ok(())
    }

    /// Lets what was deferred for a key wait, because it is held behind a dead letter.
    pub(super) fn hold_deferred(&mut self, subscription: &str, key: &[u8]) -> Result<(), Error> {
        let sql = "UPDATE callbacks SET due_ms = $4 WHERE subscription = $1 AND due_ms = $3 AND key = $2";
        self.execute("holding what was deferred", sql, &[&subscription, &key, &DEFERRED, &WAITS])?;
        self.hints.callbacks.clear();
        Ok(())
    }

    /// Lets what waits for a key go on.
    pub(super) fn release_deferred(&mut self, subscription: &str, key: &[u8]) -> Result<(), Error> {
        let sql = "UPDATE callbacks SET due_ms = $3 WHERE subscription = $1 AND key = $2 AND due_ms = $4";
        self.execute("releasing what was deferred", sql, &[&subscription, &key, &DEFERRED, &WAITS])?;
        self.hints.callbacks.clear();
        Ok(())
    }

    /// Keeps the outcome of a command for the subscription that sent it, if it asked for that. Returns whether it did.
    pub(super) fn report(&mut self, command: &Command, ending: Ending) -> Result<bool, Error> {
        let Some((subscription, callback)) = outcome_callback(command, ending) else { return Ok(false) };
        let now_ms = self.options.clock.now_ms();
        self.add_callback(&subscription, None, Time::Outcome(now_ms), &callback)?;
        fault::at(FaultPoint::OutcomeKept);
        Ok(true)
    }

    pub(super) fn add_callback(
        &mut self,
        subscription: &str,
        timer: Option<&str>,
        time: Time,
        callback: &Callback,
    ) -> Result<(), Error> {
        let (time_ms, due_ms) = match time {
            Time::Deferred => (self.options.clock.now_ms(), DEFERRED),
            Time::Waits => (self.options.clock.now_ms(), WAITS),
            Time::Outcome(now_ms) => (now_ms, 0),
            Time::Timer(at_ms) => (at_ms, at_ms.cast_signed()),
        };
        let body = encoding::encode(callback)?;
        self.head.callback += 1;
        let (number, key) = (self.head.callback, callback.key.as_deref());
        self.pending.add_callback(CallbackRow { number, subscription, timer, key, time_ms, due_ms, body });
        fault::at(FaultPoint::CallbackKept);
        Ok(())
    }
}
