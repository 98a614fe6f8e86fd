//! The places that parts of a manifest have in the store: listing them, moving one to another name, and removing one.

use super::connection::{Connection, int, uint};
use super::writer::Writer;
use crate::model::{Command, DeadLetterContent, LedgerName, SubscriptionName};
use crate::store::parts::{self, Progresses, is_of};
use crate::store::{Error, Part, PartKind, Place, encoding};
use std::sync::Arc;
use tokio_postgres::Row;

pub(super) const CHECKPOINTS: &str = "SELECT subscription, position FROM checkpoints ORDER BY 1";
const LEDGERS: &str = "SELECT name, next FROM ledgers ORDER BY 1";
const SINKS: &str = "SELECT name, position FROM sinks ORDER BY 1";
const STEPS: &str = "SELECT queue, first, last FROM outbox WHERE kind = 'commands'";
const CALLBACKS: &str = "SELECT subscription, count(*) FROM callbacks GROUP BY 1 ORDER BY 1";
const REQUESTS: &str = "SELECT subscription, count(*) FROM http_requests GROUP BY 1 ORDER BY 1";

/// Returns the places that a connection sees, by kind and name.
pub(super) fn of(connection: &Connection) -> Result<Vec<Place>, Error> {
    listed(|sql| connection.query("listing what parts have done", sql, &[]))
}

fn listed(mut query: impl FnMut(&'static str) -> Result<Vec<Row>, Error>) -> Result<Vec<Place>, Error> {
    let mut list = |sql| -> Result<Vec<(String, u64)>, Error> {
        Ok(query(sql)?.iter().map(|row| (row.get(0), uint(row, 1))).collect())
    };
    let (checkpoints, ledgers, sinks) = (list(CHECKPOINTS)?, list(LEDGERS)?, list(SINKS)?);
    let (callbacks, requests) = (list(CALLBACKS)?, list(REQUESTS)?);
    let steps = query(STEPS)?.iter().map(|row| (row.get(0), uint(row, 1), uint(row, 2))).collect();
    Ok(parts::places(Progresses { checkpoints, ledgers, sinks, steps, callbacks, requests }))
}

/// The statements on a column that has names of parts.
struct Statements {
    table: &'static str,
    names: &'static str,
    rename: &'static str,
    delete: &'static str,
}

macro_rules! statements {
    ($($table:literal $column:literal,)*) => {
        [$(Statements {
            table: $table,
            names: concat!("SELECT DISTINCT ", $column, " FROM ", $table),
            rename: concat!("UPDATE ", $table, " SET ", $column, " = $2 WHERE ", $column, " = $1"),
            delete: concat!("DELETE FROM ", $table, " WHERE ", $column, " = $1"),
        },)*]
    };
}

/// The statements on the columns of [`parts::COLUMNS`], in the same order.
const STATEMENTS: [Statements; parts::COLUMNS.len()] = statements! {
    "checkpoints" "subscription",
    "held_keys" "subscription",
    "callbacks" "subscription",
    "http_requests" "subscription",
    "outbox" "queue",
    "ledgers" "name",
    "sinks" "name",
    "facts" "name",
};

impl Writer {
    /// Moves the places of parts to other names, which must not have any.
    pub(super) fn carry_over(&mut self, moves: &[(Part, String)]) -> Result<(), Error> {
        // The progress of this transaction is still in memory.
        self.write_progress()?;
        let named = |from: &Part, to: &str| Part { kind: from.kind, name: to.to_owned() };
        let mut places = listed(|sql| self.query("listing what parts have done", sql, &[]))?;
        for (from, to) in moves {
            super::progress::refuse_nul(to)?;
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
        self.forget_names();
        Ok(())
    }

    fn rename(&mut self, from: &Part, to: &Part) -> Result<(), Error> {
        for (column, statements) in parts::COLUMNS.iter().zip(&STATEMENTS) {
            for old in self.names_of(column, statements, from)? {
                let new = (column.with_owner)(&old, &to.name).expect("a name with an owner can have another");
                self.execute("changing the name of a part", statements.rename, &[&old, &new])?;
                if statements.table == "outbox" {
                    self.rename_commands(&new)?;
                }
            }
        }
        self.rename_dead_letters(from, to)
    }

    /// Returns the names in a column that belong to a part.
    fn names_of(&mut self, column: &parts::Column, statements: &Statements, part: &Part) -> Result<Vec<String>, Error> {
        let rows = self.query("listing the names of parts", statements.names, &[])?;
        let names = rows.iter().map(|row| row.get::<_, String>(0));
        Ok(names.filter(|name| (column.owner)(name).as_ref() == Some(part)).collect())
    }

    /// Renames the ledger in the commands of the outbox.
    fn rename_commands(&mut self, subscription: &str) -> Result<(), Error> {
        const DOING: &str = "carrying commands over";
        let ledger: Arc<str> = SubscriptionName::parse(subscription).ledger().to_string().into();
        let sql = "SELECT first, body FROM outbox WHERE kind = 'commands' AND queue = $1";
        for row in self.query(DOING, sql, &[&subscription])? {
            let place = format!("the outbox of subscription {subscription}");
            let mut commands: Vec<Command> = encoding::decode(&place, row.get(1))?;
            commands.iter_mut().filter_map(|command| command.origin.as_mut()).for_each(|origin| {
                origin.ledger = ledger.clone();
            });
            let body = encoding::encode(&commands)?;
            let update = "UPDATE outbox SET body = $3 WHERE kind = 'commands' AND queue = $1 AND first = $2";
            self.execute(DOING, update, &[&subscription, &row.get::<_, i64>(0), &body])?;
        }
        Ok(())
    }

    /// Renames the consumer of dead letters. A source and a subscription may have the same name, so the content
    /// decides.
    fn rename_dead_letters(&mut self, from: &Part, to: &Part) -> Result<(), Error> {
        const DOING: &str = "carrying dead letters over";
        let sql = "UPDATE dead_letters SET consumer = $2 WHERE consumer = $1";
        if from.kind == PartKind::Schedule {
            let [old, new] = [from, to].map(|part| LedgerName::Schedule(&part.name).to_string());
            return self.execute(DOING, sql, &[&old, &new]).map(drop);
        }
        if from.kind == PartKind::Source {
            // Commands of the source's subscriber are dead-lettered under the name of its subscription.
            let [old, new] = [from, to].map(|part| SubscriptionName::Source(&part.name).to_string());
            self.execute(DOING, sql, &[&old, &new])?;
        }
        let rows = self.query(DOING, "SELECT number, content FROM dead_letters WHERE consumer = $1", &[&from.name])?;
        for row in rows {
            let number = uint(&row, 0);
            let place = format!("the content of dead letter {number}");
            let content: DeadLetterContent = encoding::decode(&place, row.get(1))?;
            if is_of(from.kind, &content) {
                let sql = "UPDATE dead_letters SET consumer = $2 WHERE number = $1";
                self.execute(DOING, sql, &[&int(number), &to.name])?;
            }
        }
        Ok(())
    }

    /// Removes the place of a part. Its dead letters stay.
    pub(super) fn forget(&mut self, part: &Part) -> Result<(), Error> {
        self.write_progress()?;
        let places = listed(|sql| self.query("listing what parts have done", sql, &[]))?;
        if !places.iter().any(|place| place.part == *part) {
            return Err(Error::NotFound(format!("the store has no {part}")));
        }
        for (column, statements) in parts::COLUMNS.iter().zip(&STATEMENTS) {
            for name in self.names_of(column, statements, part)? {
                self.execute("forgetting a part", statements.delete, &[&name])?;
            }
        }
        self.forget_names();
        Ok(())
    }

    /// Forgets what is known under the names of parts.
    fn forget_names(&mut self) {
        self.hints.forget_progress();
        self.hints.end_transaction();
        self.rows.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_are_on_the_columns_that_have_names_of_parts() {
        for (column, statements) in parts::COLUMNS.iter().zip(&STATEMENTS) {
            assert_eq!(column.table, statements.table);
            assert_eq!(statements.names, format!("SELECT DISTINCT {} FROM {}", column.name, column.table));
        }
    }
}
