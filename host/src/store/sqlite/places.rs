//! The places that parts of a manifest have in the store: listing them, moving one to another name, and removing one.

use super::outbox::{self, Queue};
use super::parts::{self, COLUMNS, Column, Progresses, is_of};
use super::writer::Writer;
use super::{Error, callbacks, division, failed, http_requests, rows, schema};
use crate::model::{Command, DeadLetterContent, LedgerName, Position, SubscriptionName};
use crate::store::{Part, PartKind, Place};
use rusqlite::{Connection, params};
use std::path::Path;
use std::sync::Arc;

/// Returns the places in a store that no host has open.
pub fn places(path: &Path) -> Result<Vec<Place>, Error> {
    let _lock = schema::lock_existing(path)?;
    of(&schema::open_for_inspection(path)?)
}

/// Returns a fact of a store that no host has open.
pub fn fact(path: &Path, name: &str) -> Result<Option<String>, Error> {
    let _lock = schema::lock_existing(path)?;
    let connection = schema::open_for_inspection(path)?;
    rows::fact(&connection, name)
}

/// Returns the places that a connection sees, by kind and name.
pub(super) fn of(connection: &Connection) -> Result<Vec<Place>, Error> {
    Ok(parts::places(Progresses {
        checkpoints: division::checkpoints(connection)?.into_iter().map(|(name, Position(at))| (name, at)).collect(),
        ledgers: list(connection, "SELECT name, next FROM ledgers ORDER BY 1")?,
        sinks: list(connection, "SELECT name, position FROM sinks ORDER BY 1")?,
        steps: steps(connection)?,
        callbacks: callbacks::counts(connection).map_err(failed("counting callbacks"))?,
        requests: http_requests::per_subscription(connection).map_err(failed("counting HTTP requests"))?,
    }))
}

/// Returns the steps with commands in the outbox: subscription, first and last number of each.
fn steps(connection: &Connection) -> Result<Vec<(String, u64, u64)>, Error> {
    outbox::commands(connection).map_err(failed("listing the commands of the outbox"))
}

fn list(connection: &Connection, sql: &str) -> Result<Vec<(String, u64)>, Error> {
    connection
        .prepare(sql)
        .and_then(|mut select| select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(failed("listing what parts have done"))
}

/// Returns the names in a column that belong to a part.
fn names_of(connection: &Connection, column: &Column, part: &Part) -> Result<Vec<String>, Error> {
    let Column { table, name, owner, .. } = column;
    let names: rusqlite::Result<Vec<String>> = connection
        .prepare(&format!("SELECT DISTINCT {name} FROM {table}"))
        .and_then(|mut select| select.query_map([], |row| row.get(0))?.collect());
    let names = names.map_err(failed("listing the names of parts"))?;
    Ok(names.into_iter().filter(|name| owner(name).as_ref() == Some(part)).collect())
}

impl Writer {
    /// Moves the places of parts to other names, which must not have any.
    pub(super) fn carry_over(&mut self, moves: &[(Part, String)]) -> Result<(), Error> {
        // The ledgers' changes of this transaction are still in memory.
        self.ledgers.write(&self.connection)?;
        let named = |from: &Part, to: &str| Part { kind: from.kind, name: to.to_owned() };
        let mut places = of(&self.connection)?;
        for (from, to) in moves {
            let to = named(from, to);
            if let Some(place) = places.iter().find(|place| place.part == to) {
                return Err(Error::Invalid(format!("{from} can't be carried over: the store already has {place}")));
            }
            let Some(place) = places.iter_mut().find(|place| place.part == *from) else {
                return Err(Error::NotFound(format!("the store has no {from}")));
            };
            place.part = to;
        }
        for (from, to) in moves {
            self.rename(from, &named(from, to))?;
        }
        self.ledgers.forget();
        self.rows.clear();
        Ok(())
    }

    fn rename(&self, from: &Part, to: &Part) -> Result<(), Error> {
        for column in &COLUMNS {
            for old in names_of(&self.connection, column, from)? {
                let new = (column.with_owner)(&old, &to.name).expect("a name with an owner can have another");
                let Column { table, name, .. } = column;
                self.change(&format!("UPDATE {table} SET {name} = ?2 WHERE {name} = ?1"), &[&old, &new])?;
                if *table == "outbox" {
                    self.rename_commands(&new)?;
                }
            }
        }
        self.rename_dead_letters(from, to)
    }

    /// Renames the ledger in the commands of the outbox.
    fn rename_commands(&self, subscription: &str) -> Result<(), Error> {
        let failed = failed("carrying commands over");
        let ledger: Arc<str> = SubscriptionName::parse(subscription).ledger().to_string().into();
        let queue = Queue::Commands(subscription);
        for outbox::Row { first, body } in queue.rows(&self.connection).map_err(&failed)? {
            let mut commands: Vec<Command> =
                rows::decode(&format!("the outbox of subscription {subscription}"), &body)?;
            commands.iter_mut().filter_map(|command| command.origin.as_mut()).for_each(|origin| {
                origin.ledger = ledger.clone();
            });
            let body = rows::encode(&commands)?;
            queue.replace(&self.connection, first, &body).map_err(&failed)?;
        }
        Ok(())
    }

    /// Renames the consumer of dead letters. A source and a subscription may have the same name, so the content
    /// decides.
    fn rename_dead_letters(&self, from: &Part, to: &Part) -> Result<(), Error> {
        let failed = failed("carrying dead letters over");
        if from.kind == PartKind::Schedule {
            let [old, new] = [from, to].map(|part| LedgerName::Schedule(&part.name).to_string());
            return self.change("UPDATE dead_letters SET consumer = ?2 WHERE consumer = ?1", &[&old, &new]);
        }
        if from.kind == PartKind::Source {
            // Commands of the source's subscriber are dead-lettered under the name of its subscription.
            let [old, new] = [from, to].map(|part| SubscriptionName::Source(&part.name).to_string());
            self.change("UPDATE dead_letters SET consumer = ?2 WHERE consumer = ?1", &[&old, &new])?;
        }
        let mut select =
            self.connection.prepare("SELECT number, content FROM dead_letters WHERE consumer = ?1").map_err(&failed)?;
        let found = select.query_map([&from.name], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)));
        let found: Vec<_> = found.and_then(Iterator::collect).map_err(&failed)?;
        for (number, content) in found {
            let content: DeadLetterContent = rows::decode(&format!("the content of dead letter {number}"), &content)?;
            if is_of(from.kind, &content) {
                self.connection
                    .execute("UPDATE dead_letters SET consumer = ?2 WHERE number = ?1", params![number, to.name])
                    .map_err(&failed)?;
            }
        }
        Ok(())
    }

    /// Removes the place of a part. Its dead letters stay.
    pub(super) fn forget(&mut self, part: &Part) -> Result<(), Error> {
        self.ledgers.write(&self.connection)?;
        if !of(&self.connection)?.iter().any(|place| place.part == *part) {
            return Err(Error::NotFound(format!("the store has no {part}")));
        }
        for column in &COLUMNS {
            for name in names_of(&self.connection, column, part)? {
                self.change(&format!("DELETE FROM {} WHERE {} = ?1", column.table, column.name), &[&name])?;
            }
        }
        self.ledgers.forget();
        self.rows.clear();
        Ok(())
    }

    fn change(&self, sql: &str, names: &[&str]) -> Result<(), Error> {
        let names = rusqlite::params_from_iter(names);
        self.connection.execute(sql, names).map(drop).map_err(failed("changing the name of a part"))
    }
}
