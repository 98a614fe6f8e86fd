//! The held keys of subscriptions: reading them, and changing them in the writer's transaction.

use super::reader::within_sqlite;
use super::{Error, callbacks, failed};
use crate::model::{StreamId, Version};
use crate::store::{HeldKey, KeyChange, KeyState};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Returns the held keys of a subscription, in the order of their streams.
pub(super) fn of(connection: &Connection, subscription: &str) -> Result<Vec<HeldKey>, Error> {
    let sql = "SELECT aggregate_type, aggregate_id, version, dead_letter FROM held_keys WHERE subscription = ?1
               ORDER BY aggregate_type, aggregate_id";
    connection
        .prepare_cached(sql)
        .and_then(|mut select| select.query_map([subscription], read)?.collect())
        .map_err(failed("reading the held keys of a subscription"))
}

/// Returns the key that waits behind a dead letter, and its subscription, if one does.
pub(super) fn behind(connection: &Connection, dead_letter: u64) -> Result<Option<(HeldKey, String)>, Error> {
    let sql = "SELECT aggregate_type, aggregate_id, version, dead_letter, subscription FROM held_keys
               WHERE dead_letter = ?1";
    connection
        .prepare_cached(sql)
        .and_then(|mut select| select.query_row([dead_letter], |row| Ok((read(row)?, row.get(4)?))).optional())
        .map_err(failed("looking for the key that waits behind a dead letter"))
}

fn read(row: &Row<'_>) -> rusqlite::Result<HeldKey> {
    let (aggregate_type, aggregate_id): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(HeldKey { stream: StreamId::new(aggregate_type, aggregate_id), next: Version(row.get(2)?), behind: row.get(3)? })
}

/// Returns whether a key of a subscription waits behind a dead letter.
pub(super) fn is_behind_dead_letter(
    connection: &Connection,
    subscription: &str,
    stream: &StreamId,
) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM held_keys WHERE subscription = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3
               AND dead_letter IS NOT NULL";
    connection
        .prepare_cached(sql)
        .and_then(|mut select| select.exists(key(subscription, stream)))
        .map_err(failed("looking for a held key"))
}

/// Fails if a key is not held as a change expects it, or if the change can't be made. It writes nothing.
pub(super) fn check(
    connection: &Connection,
    subscription: &std::sync::Arc<str>,
    change: &KeyChange,
    dead_letters: usize,
) -> Result<(), Error> {
    if matches!(change.to, KeyState::BehindDeadLetter(_)) && dead_letters != 1 {
        return Err(Error::Invalid(format!(
            "key {} of subscription {subscription} would wait behind one dead letter of {dead_letters}",
            change.stream
        )));
    }
    let sql = "SELECT aggregate_type, aggregate_id, version, dead_letter FROM held_keys
               WHERE subscription = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";
    let held: Option<HeldKey> = connection
        .prepare_cached(sql)
        .and_then(|mut select| select.query_row(key(subscription, &change.stream), read).optional())
        .map_err(failed("reading a held key"))?;
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

/// Makes a change that was checked. `dead_letter` is the number of the step's dead letter.
pub(super) fn apply(
    connection: &Connection,
    subscription: &str,
    change: &KeyChange,
    dead_letter: u64,
) -> Result<(), Error> {
    let failed = failed("changing a held key");
    let (version, behind) = match change.to {
        KeyState::Free => {
            let sql = "DELETE FROM held_keys WHERE subscription = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";
            let mut delete = connection.prepare_cached(sql).map_err(&failed)?;
            return delete.execute(key(subscription, &change.stream)).map(drop).map_err(&failed);
        }
        KeyState::Retried(version) => (version, None),
        KeyState::BehindDeadLetter(version) => (version, Some(dead_letter)),
    };
    let StreamId { aggregate_type, aggregate_id } = &change.stream;
    if version == HeldKey::NO_VERSION && behind.is_some() {
        callbacks::hold(connection, subscription, aggregate_id)?;
    }
    let sql = "INSERT OR REPLACE INTO held_keys (subscription, aggregate_type, aggregate_id, version, dead_letter)
               VALUES (?1, ?2, ?3, ?4, ?5)";
    connection
        .prepare_cached(sql)
        .and_then(|mut insert| insert.execute(params![subscription, aggregate_type, aggregate_id, version.0, behind]))
        .map(drop)
        .map_err(&failed)
}

/// Forgets all held keys of a subscription.
pub(super) fn forget(connection: &Connection, subscription: &str) -> Result<(), Error> {
    connection
        .prepare_cached("DELETE FROM held_keys WHERE subscription = ?1")
        .and_then(|mut delete| delete.execute([subscription]))
        .map(drop)
        .map_err(failed("forgetting the held keys of a subscription"))
}

/// Lets the key that waits behind a dead letter go on after it, because the dead letter is removed.
pub(super) fn release_behind(connection: &Connection, dead_letter: u64) -> Result<(), Error> {
    let failed = failed("releasing a held key");
    let sql = "UPDATE held_keys SET version = CASE version WHEN 0 THEN 0 ELSE version + 1 END, dead_letter = NULL
               WHERE dead_letter = ?1 RETURNING subscription, aggregate_id, version";
    let released: Option<(String, String, u64)> = connection
        .prepare_cached(sql)
        .and_then(|mut update| {
            update.query_row([within_sqlite(dead_letter)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
        })
        .map_err(&failed)?;
    match released {
        Some((subscription, key, version)) if Version(version) == HeldKey::NO_VERSION => {
            callbacks::release(connection, &subscription, &key)
        }
        _ => Ok(()),
    }
}

fn key<'a>(subscription: &'a str, stream: &'a StreamId) -> [&'a str; 3] {
    [subscription, &stream.aggregate_type, &stream.aggregate_id]
}
