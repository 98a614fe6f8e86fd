//! The held keys of subscriptions: reading them, and changing them in the writer's transaction.

use super::connection::{Connection, int, text, uint};
use super::writer::Writer;
use crate::model::{StreamId, Version};
use crate::store::{Error, HeldKey, KeyChange, KeyState};
use std::sync::Arc;
use tokio_postgres::Row;

/// Returns the held keys of a subscription, in the order of their streams.
pub(super) fn of(connection: &Connection, subscription: &str) -> Result<Vec<HeldKey>, Error> {
    let sql = "SELECT aggregate_type, aggregate_id, version, dead_letter FROM held_keys WHERE subscription = $1
               ORDER BY aggregate_type, aggregate_id";
    let rows = connection.query("reading the held keys of a subscription", sql, &[&subscription])?;
    rows.iter().map(read).collect()
}

/// Returns the key that waits behind a dead letter, and its subscription, if one does.
pub(super) fn behind(connection: &Connection, dead_letter: u64) -> Result<Option<(HeldKey, String)>, Error> {
    let sql = "SELECT aggregate_type, aggregate_id, version, dead_letter, subscription FROM held_keys
               WHERE dead_letter = $1";
    let doing = "looking for the key that waits behind a dead letter";
    let row = connection.first(doing, sql, &[&int(dead_letter)])?;
    row.map(|row| Ok((read(&row)?, row.get(4)))).transpose()
}

fn read(row: &Row) -> Result<HeldKey, Error> {
    let behind = row.get::<_, Option<i64>>(3).map(i64::cast_unsigned);
    let stream = StreamId::new(row.get::<_, String>(0), text(row, 1)?);
    Ok(HeldKey { stream, next: Version(uint(row, 2)), behind })
}

/// Forgets all held keys of a subscription.
pub(super) fn forget(writer: &mut Writer, subscription: &str) -> Result<(), Error> {
    let doing = "forgetting the held keys of a subscription";
    writer.execute(doing, "DELETE FROM held_keys WHERE subscription = $1", &[&subscription]).map(drop)
}

impl Writer {
    /// Returns whether a key of a subscription waits behind a dead letter.
    pub(super) fn is_behind_dead_letter(&mut self, subscription: &str, stream: &StreamId) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM held_keys WHERE subscription = $1 AND aggregate_type = $2 AND aggregate_id = $3
                   AND dead_letter IS NOT NULL";
        let (aggregate_type, id) = (&*stream.aggregate_type, stream.aggregate_id.as_bytes());
        Ok(self.first("looking for a held key", sql, &[&subscription, &aggregate_type, &id])?.is_some())
    }

    /// Fails if a key is not held as a change expects it, or if the change can't be made. It writes nothing.
    pub(super) fn check_key(
        &mut self,
        subscription: &Arc<str>,
        change: &KeyChange,
        dead_letters: usize,
    ) -> Result<(), Error> {
        if matches!(change.to, KeyState::BehindDeadLetter(_)) && dead_letters != 1 {
            return Err(Error::Invalid(format!(
                "key {} of subscription {subscription} would wait behind one dead letter of {dead_letters}",
                change.stream
            )));
        }
        super::progress::refuse_nul(&change.stream.aggregate_type)?;
        let sql = "SELECT aggregate_type, aggregate_id, version, dead_letter FROM held_keys
                   WHERE subscription = $1 AND aggregate_type = $2 AND aggregate_id = $3";
        let (aggregate_type, id) = (&*change.stream.aggregate_type, change.stream.aggregate_id.as_bytes());
        let row = self.first("reading a held key", sql, &[&&**subscription, &aggregate_type, &id])?;
        let held = row.map(|row| read(&row)).transpose()?;
        let is_expected = match (&held, change.from) {
            (None, None) => true,
            (Some(held), Some(from)) => held.next == from && held.behind.is_none(),
            _ => false,
        };
        if is_expected {
            return Ok(());
        }
        let actual = match held {
            None => "not held".to_owned(),
            Some(HeldKey { next, behind: None, .. }) => format!("held from version {next} on"),
            Some(HeldKey { next, behind: Some(number), .. }) => {
                format!("held from version {next} on, behind dead letter {number}")
            }
        };
        let expected = change.from.map_or("not held".to_owned(), |from| format!("held from version {from} on"));
        Err(Error::KeyMoved { subscription: subscription.clone(), key: change.stream.clone(), actual, expected })
    }

    /// Makes a change that was checked. A key that waits does so behind the newest dead letter.
    pub(super) fn apply_key(&mut self, subscription: &str, change: &KeyChange) -> Result<(), Error> {
        const DOING: &str = "changing a held key";
        let (aggregate_type, id) = (&*change.stream.aggregate_type, change.stream.aggregate_id.as_bytes());
        let (version, behind) = match change.to {
            KeyState::Free => {
                let sql = "DELETE FROM held_keys WHERE subscription = $1 AND aggregate_type = $2 AND aggregate_id = $3";
                return self.execute(DOING, sql, &[&subscription, &aggregate_type, &id]).map(drop);
            }
            KeyState::Retried(version) => (version, None),
            KeyState::BehindDeadLetter(version) => (version, Some(int(self.head.dead_letter))),
        };
        if version == HeldKey::NO_VERSION && behind.is_some() {
            self.hold_deferred(subscription, id)?;
        }
        let sql = "INSERT INTO held_keys (subscription, aggregate_type, aggregate_id, version, dead_letter)
                   VALUES ($1, $2, $3, $4, $5) ON CONFLICT (subscription, aggregate_type, aggregate_id)
                   DO UPDATE SET (version, dead_letter) = (excluded.version, excluded.dead_letter)";
        self.execute(DOING, sql, &[&subscription, &aggregate_type, &id, &int(version.0), &behind]).map(drop)
    }

    /// Lets the key that waits behind a dead letter go on after it, because the dead letter is removed.
    pub(super) fn release_behind(&mut self, dead_letter: u64) -> Result<(), Error> {
        let sql = "UPDATE held_keys SET version = CASE version WHEN 0 THEN 0 ELSE version + 1 END, dead_letter = NULL
                   WHERE dead_letter = $1 RETURNING subscription, aggregate_id, version";
        let released = self.first("releasing a held key", sql, &[&int(dead_letter)])?;
        match released {
            Some(row) if Version(uint(&row, 2)) == HeldKey::NO_VERSION => {
                self.release_deferred(row.get(0), row.get::<_, &[u8]>(1))
            }
            _ => Ok(()),
        }
    }
}
