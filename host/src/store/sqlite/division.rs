//! The change of a subscription to another number of segments, in the writer's transaction.

use super::fault::{self, FaultPoint};
use super::reader::pending_commands;
use super::write_request::refuse_beyond;
use super::writer::Writer;
use super::{Error, failed, rows};
use crate::model::{Position, SubscriptionName};
use crate::store::InterruptedOf;
use crate::store::division::{MovedCallbacks, Redivision, subscription_of_key};
use rusqlite::{Connection, Params, Row, params};
use std::sync::Arc;

const DOING: &str = "dividing a subscription into segments";

/// The condition that a row is of the subscription `?1` or of one of its segments. SQLite uses the index on the subscription for it.
pub(super) const OF_SUBSCRIPTION: &str = "subscription IN (SELECT ?1 UNION SELECT subscription FROM checkpoints
    WHERE subscription > ?1 || ':' AND subscription < ?1 || ';')";

/// Returns the checkpoints of all subscriptions, by name.
pub(super) fn checkpoints(connection: &Connection) -> Result<Vec<(String, Position)>, Error> {
    let sql = "SELECT subscription, position FROM checkpoints ORDER BY 1";
    list(connection, sql, [], |row| Ok((row.get(0)?, Position(row.get(1)?))))
}

fn list<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, Error> {
    connection
        .prepare_cached(sql)
        .and_then(|mut select| select.query_map(values, read)?.collect())
        .map_err(failed(DOING))
}

impl Writer {
    /// Gives a subscription this many segments, and moves there what it has in others. All checks that can refuse it come before the
    /// first write.
    pub(super) fn divide(&mut self, plugin: &str, segments: u32, start: Position) -> Result<(), Error> {
        // The ledgers' changes of this transaction are still in memory.
        self.ledgers.write(&self.connection)?;
        let connection = &self.connection;
        let fact = |name: &str| rows::fact(connection, name);
        let Some(division) = Redivision::plan(plugin, segments, start, &checkpoints(connection)?, fact)? else {
            return Ok(());
        };
        if division.old.is_empty() {
            refuse_beyond(&format!("the start of subscription {plugin}"), division.begin.0, self.next_position - 1)?;
        }
        let (mut callbacks, mut requests, mut keys) = (MovedCallbacks::default(), Vec::new(), Vec::new());
        for old in &division.old {
            let commands = pending_commands(connection, old)?.len();
            if commands > 0 {
                return Err(Error::Unsettled { subscription: old.as_str().into(), commands });
            }
            let sql = "SELECT number, key, timer FROM callbacks WHERE subscription = ?1";
            let of_old = list(connection, sql, [old], |row| {
                Ok((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?, row.get::<_, Option<String>>(2)?))
            })?;
            for (number, key, timer) in of_old {
                callbacks.add(&division, number, key.as_deref(), timer.as_deref().map(str::as_bytes))?;
            }
            let sql = "SELECT number, key FROM http_requests WHERE subscription = ?1";
            requests.extend(list(connection, sql, [old], |row| {
                Ok((row.get::<_, i64>(0)?, division.segment(row.get::<_, Option<Vec<u8>>>(1)?.as_deref())))
            })?);
            let sql = "SELECT aggregate_type, aggregate_id FROM held_keys WHERE subscription = ?1";
            keys.extend(list(connection, sql, [old], |row| {
                Ok((old, row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })?);
        }
        for (number, to) in callbacks.moves {
            self.divided("UPDATE callbacks SET subscription = ?2 WHERE number = ?1", params![number, to])?;
        }
        if !division.old.is_empty() {
            let old = division.old.iter().map(|old| old.as_str().into()).collect();
            let interrupted = self.interrupt_attempts(&InterruptedOf::These(old))?;
            interrupted.iter().for_each(|kept| tracing::warn!("{}", kept.interruption()));
        }
        self.requests_changed += u64::from(!requests.is_empty());
        for (number, to) in requests {
            self.divided("UPDATE http_requests SET subscription = ?2 WHERE number = ?1", params![number, to])?;
        }
        for (old, aggregate_type, aggregate_id) in keys {
            let to = division.segment(Some(aggregate_id.as_bytes()));
            let sql = "UPDATE held_keys SET subscription = ?4
                       WHERE subscription = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";
            self.divided(sql, params![old, aggregate_type, aggregate_id, to])?;
        }
        fault::at(FaultPoint::SubscriptionDivided);
        for old in &division.old {
            self.divided("DELETE FROM outbox WHERE kind = 'commands' AND queue = ?1", [old])?;
            self.divided("DELETE FROM checkpoints WHERE subscription = ?1", [old])?;
        }
        for new in &division.created {
            let ledger = rows::ledger(&self.connection, &SubscriptionName::parse(new).ledger().to_string())?;
            let sql = "INSERT INTO checkpoints (subscription, position, commands) VALUES (?1, ?2, ?3)";
            self.divided(sql, params![new, division.begin.0, ledger.next])?;
        }
        for (name, value) in division.facts() {
            self.set_fact(&name, value.as_deref())?;
        }
        division.names().for_each(|name| _ = self.rows.remove(name));
        division.tell(plugin);
        Ok(())
    }

    fn divided(&self, sql: &str, values: impl Params) -> Result<(), Error> {
        let changed = self.connection.prepare_cached(sql).and_then(|mut change| change.execute(values));
        changed.map(drop).map_err(failed(DOING))
    }

    /// Returns the name under which the consumer of a dead letter takes something of a key now.
    pub(super) fn asker(&self, consumer: &str, key: Option<&[u8]>) -> Result<Arc<str>, Error> {
        Ok(subscription_of_key(consumer, key, &checkpoints(&self.connection)?))
    }
}
