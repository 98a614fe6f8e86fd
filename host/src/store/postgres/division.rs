//! The change of a subscription to another number of segments, in the writer's transaction.

use super::connection::{Connection, int, text, uint};
use super::outbox;
use super::places::CHECKPOINTS;
use super::writer::Writer;
use crate::model::{Position, Segment, SubscriptionName};
use crate::store::division::{MovedCallbacks, Redivision, subscription_of_key};
use crate::store::fault::{self, FaultPoint};
use crate::store::write_request::refuse_beyond;
use crate::store::{Error, InterruptedOf, lease_of_subscription};
use std::collections::HashMap;
use std::sync::Arc;
use tokio_postgres::Row;

const DOING: &str = "dividing a subscription into segments";

/// The condition that a row is of the subscription `$1`, or of one of its segments. It holds for all rows if `$1` is NULL.
macro_rules! of_subscription {
    () => {
        "($1::text IS NULL OR subscription = $1 OR subscription BETWEEN $1 || ':' AND $1 || ';')"
    };
}
pub(super) use of_subscription;

/// Returns the checkpoints of all subscriptions, by name.
pub(super) fn checkpoints(connection: &Connection) -> Result<Vec<(String, Position)>, Error> {
    Ok(connection.query("reading the checkpoints", CHECKPOINTS, &[])?.iter().map(checkpoint).collect())
}

/// The held keys that move, by column.
#[derive(Default)]
struct MovedKeys<'d> {
    to: Vec<&'d str>,
    from: Vec<&'d str>,
    types: Vec<String>,
    ids: Vec<Vec<u8>>,
}

fn checkpoint(row: &Row) -> (String, Position) {
    (row.get(0), Position(uint(row, 1)))
}

impl Writer {
    /// Gives a subscription this many segments, and moves there what it has in others. All checks that can refuse it come before the
    /// first write.
    pub(super) fn divide(&mut self, plugin: &str, segments: u32, start: Position) -> Result<(), Error> {
        // The progress of this transaction is still in memory.
        self.write_progress()?;
        let checkpoints = self.checkpoints()?;
        let facts = self.query(DOING, "SELECT name, value FROM facts WHERE starts_with(name, 'subscription/')", &[])?;
        let facts = facts.iter().map(|row| Ok((row.get(0), text(row, 1)?)));
        let facts: HashMap<String, String> = facts.collect::<Result<_, Error>>()?;
        let fact = |name: &str| Ok(facts.get(name).cloned());
        let Some(division) = Redivision::plan(plugin, segments, start, &checkpoints, fact)? else { return Ok(()) };
        if division.old.is_empty() {
            refuse_beyond(&format!("the start of subscription {plugin}"), division.begin.0, self.newest().0)?;
        }
        self.refuse_other_divisions(plugin)?;
        let (mut callbacks, mut requests) = (MovedCallbacks::default(), Vec::new());
        let mut keys = MovedKeys::default();
        for old in &division.old {
            let commands = outbox::pending_commands(self.connected()?, old)?.len();
            if commands > 0 {
                return Err(Error::Unsettled { subscription: old.as_str().into(), commands });
            }
            let sql = "SELECT number, key, timer FROM callbacks WHERE subscription = $1";
            for row in self.query(DOING, sql, &[old])? {
                callbacks.add(&division, row.get(0), row.get(1), row.get(2))?;
            }
            let sql = "SELECT number, key FROM http_requests WHERE subscription = $1";
            let rows = self.query(DOING, sql, &[old])?;
            requests.extend(rows.iter().map(|row| (row.get::<_, i64>(0), division.segment(row.get(1)))));
            let sql = "SELECT aggregate_type, aggregate_id FROM held_keys WHERE subscription = $1";
            let rows = self.query(DOING, sql, &[old])?;
            for row in &rows {
                let (aggregate_type, id): (String, Vec<u8>) = (row.get(0), row.get(1));
                keys.to.push(division.segment(Some(&id)));
                keys.from.push(old.as_str());
                keys.types.push(aggregate_type);
                keys.ids.push(id);
            }
        }
        let (numbers, names): (Vec<i64>, Vec<&str>) = callbacks.moves.into_iter().unzip();
        let sql = "UPDATE callbacks SET subscription = moved.name
                   FROM unnest($1::bigint[], $2::text[]) moved (number, name) WHERE callbacks.number = moved.number";
        self.execute(DOING, sql, &[&numbers, &names])?;
        if !division.old.is_empty() {
            let old = division.old.iter().map(|old| old.as_str().into()).collect();
            let interrupted = self.interrupt_attempts(&InterruptedOf::These(old))?;
            interrupted.iter().for_each(|kept| tracing::warn!("{}", kept.interruption()));
        }
        self.requests_changed += u64::from(!requests.is_empty());
        let (numbers, names): (Vec<i64>, Vec<&str>) = requests.into_iter().unzip();
        let sql = "UPDATE http_requests SET subscription = moved.name
                   FROM unnest($1::bigint[], $2::text[]) moved (number, name) WHERE http_requests.number = moved.number";
        self.execute(DOING, sql, &[&numbers, &names])?;
        let sql = "UPDATE held_keys SET subscription = moved.name
                   FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) moved (name, old, aggregate_type, id)
                   WHERE held_keys.subscription = moved.old AND held_keys.aggregate_type = moved.aggregate_type
                       AND held_keys.aggregate_id = moved.id";
        self.execute(DOING, sql, &[&keys.to, &keys.from, &keys.types, &keys.ids])?;
        fault::at(FaultPoint::SubscriptionDivided);
        for old in &division.old {
            self.execute(DOING, "DELETE FROM outbox WHERE kind = 'commands' AND queue = $1", &[old])?;
            self.execute(DOING, "DELETE FROM checkpoints WHERE subscription = $1", &[old])?;
        }
        for new in &division.created {
            let ledger: Arc<str> = SubscriptionName::parse(new).ledger().to_string().into();
            let settled = int(self.ledger(&ledger)?.value.next);
            let sql = "INSERT INTO checkpoints (subscription, position, commands) VALUES ($1, $2, $3)";
            self.execute(DOING, sql, &[new, &int(division.begin.0), &settled])?;
        }
        for (name, value) in division.facts() {
            self.set_fact(&name, value.as_deref())?;
        }
        self.hints.forget_progress();
        self.hints.end_transaction();
        division.names().for_each(|name| _ = self.rows.remove(name));
        division.tell(plugin);
        Ok(())
    }

    /// Fails while another host with other settings runs a segment of a subscription, because it may have the number of segments
    /// before.
    fn refuse_other_divisions(&mut self, plugin: &str) -> Result<(), Error> {
        let whole = lease_of_subscription(SubscriptionName::Plugin(plugin, Segment::WHOLE));
        let of_segments = format!("{whole}:");
        let sql = "SELECT l.part, h.name, h.url FROM leases l JOIN hosts h ON h.id = l.host
                   WHERE (l.part = $2 OR starts_with(l.part, $3)) AND h.id <> $1
                   AND h.settings IS DISTINCT FROM (SELECT settings FROM hosts WHERE id = $1) LIMIT 1";
        let this = self.host;
        let Some(row) = self.first(DOING, sql, &[&this, &whole, &of_segments])? else { return Ok(()) };
        let (part, host): (String, String) = (row.get(0), row.get(1));
        let place = row.get::<_, Option<String>>(2).map_or(String::new(), |url| format!(" at {url}"));
        Err(Error::NotYet(format!(
            "{part} can't get other segments while another host with other settings runs it, {host}{place}: give all hosts the same \
             manifest and plugins"
        )))
    }

    /// Returns the name under which the consumer of a dead letter takes something of a key now.
    pub(super) fn asker(&mut self, consumer: &str, key: Option<&[u8]>) -> Result<Arc<str>, Error> {
        self.write_progress()?;
        Ok(subscription_of_key(consumer, key, &self.checkpoints()?))
    }

    fn checkpoints(&mut self) -> Result<Vec<(String, Position)>, Error> {
        Ok(self.query("reading the checkpoints", CHECKPOINTS, &[])?.iter().map(checkpoint).collect())
    }
}
