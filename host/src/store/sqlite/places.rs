//! The places that parts of a manifest have in the store: listing them, moving one to another name, and removing one.

use super::outbox::{self, Queue};
use super::writer::Writer;
use super::{Error, callbacks, failed, http_requests, rows, schema};
use crate::model::{self, Command, DeadLetterContent, FactName, LedgerName, PartitionName, SinkName, SubscriptionName};
use crate::store::{Part, PartKind, Place};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
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

/// What the rows of a part say about its place.
#[derive(Default)]
struct Found {
    /// How far it is, in words.
    at: Vec<String>,
    /// The number of commands that are not sent yet.
    pending: u64,
    callbacks: u64,
    requests: u64,
}

impl Found {
    fn at(at: Option<String>) -> Self {
        Self { at: at.into_iter().collect(), ..Self::default() }
    }
}

/// Returns the places that a connection sees, by kind and name.
pub(super) fn of(connection: &Connection) -> Result<Vec<Place>, Error> {
    let mut places: BTreeMap<Part, Found> = BTreeMap::new();
    let mut add = |part: Option<Part>, found: Found| {
        if let Some(part) = part {
            let place = places.entry(part).or_default();
            place.at.extend(found.at);
            place.pending += found.pending;
            place.callbacks += found.callbacks;
            place.requests += found.requests;
        }
    };
    for (name, position) in list(connection, "SELECT subscription, position FROM checkpoints ORDER BY 1")? {
        let part = of_subscription(&name);
        let at = part.as_ref().is_some_and(|part| part.kind == PartKind::Subscription);
        add(part, Found::at(at.then(|| format!("at position {position}"))));
    }
    let ledgers = list(connection, "SELECT name, next FROM ledgers ORDER BY 1")?;
    for (name, next) in &ledgers {
        add(of_ledger(name), Found::at(reached(name, *next)));
    }
    for (name, position) in list(connection, "SELECT name, position FROM sinks ORDER BY 1")? {
        let at = matches!(SinkName::parse(&name), SinkName::Events(_));
        add(of_sink(&name), Found::at(at.then(|| format!("at position {position}"))));
    }
    let ledgers: BTreeMap<String, u64> = ledgers.into_iter().collect();
    for (subscription, first, last) in steps(connection)? {
        let ledger = SubscriptionName::parse(&subscription).ledger().to_string();
        let next = ledgers.get(&ledger).copied().unwrap_or(0);
        let pending = (last + 1).saturating_sub(first.max(next));
        add(of_subscription(&subscription), Found { pending, ..Found::default() });
    }
    for (subscription, count) in callbacks::counts(connection).map_err(failed("counting callbacks"))? {
        add(of_subscription(&subscription), Found { callbacks: count, ..Found::default() });
    }
    for (subscription, count) in
        http_requests::per_subscription(connection).map_err(failed("counting HTTP requests"))?
    {
        add(of_subscription(&subscription), Found { requests: count, ..Found::default() });
    }
    let place = |(part, Found { at, pending, callbacks, requests })| Place {
        part,
        at: summary(&at),
        pending,
        callbacks,
        requests,
    };
    Ok(places.into_iter().map(place).collect())
}

/// Describes how far a ledger is, unless it has the commands of a subscription.
fn reached(ledger: &str, next: u64) -> Option<String> {
    match LedgerName::parse(ledger)? {
        LedgerName::Partition(PartitionName { topic, partition, topic_id, .. }) => {
            let id = topic_id.map(|id| format!("@{id}")).unwrap_or_default();
            Some(format!("{topic}/{partition}{id} at offset {next}"))
        }
        LedgerName::Schedule(_) => Some(format!("at {}", model::second(next.saturating_sub(1)))),
        LedgerName::Commands(_) | LedgerName::DeadLetters => None,
    }
}

fn summary(at: &[String]) -> String {
    const SHOWN: usize = 3;
    match at {
        [] => "nothing done".to_owned(),
        at if at.len() <= SHOWN => at.join(", "),
        at => format!("{}, and {} more", at[..SHOWN].join(", "), at.len() - SHOWN),
    }
}

/// Returns the part whose subscription has this name.
fn of_subscription(name: &str) -> Option<Part> {
    Some(subscriber(SubscriptionName::parse(name)))
}

/// Returns the part whose ledger has this name.
pub(crate) fn of_ledger(name: &str) -> Option<Part> {
    match LedgerName::parse(name)? {
        LedgerName::Partition(partition) => Some(source(partition.source)),
        LedgerName::Commands(subscription) => Some(subscriber(subscription)),
        LedgerName::Schedule(name) => Some(Part { kind: PartKind::Schedule, name: name.to_owned() }),
        LedgerName::DeadLetters => None,
    }
}

/// Returns the part that keeps a position under this name. A sink of messages is not a part that can be renamed.
fn of_sink(name: &str) -> Option<Part> {
    match SinkName::parse(name) {
        SinkName::Messages(_) => None,
        SinkName::Events(name) => Some(Part { kind: PartKind::Sink, name: name.to_owned() }),
        SinkName::DeadLetters(name) => Some(source(name)),
    }
}

/// Returns the part that keeps a fact under this name.
fn of_fact(name: &str) -> Option<Part> {
    match FactName::parse(name)? {
        FactName::Starts(name) | FactName::TopicId { source: name, .. } => Some(source(name)),
        FactName::Paused(subscription) => Some(subscriber(subscription)),
        FactName::Cluster | FactName::Clock | FactName::Skipped { .. } => None,
    }
}

fn subscriber(name: SubscriptionName<'_>) -> Part {
    match name {
        SubscriptionName::Plugin(name) => Part { kind: PartKind::Subscription, name: name.to_owned() },
        SubscriptionName::Source(name) => source(name),
    }
}

fn source(name: &str) -> Part {
    Part { kind: PartKind::Source, name: name.to_owned() }
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

/// A column that has names of parts.
struct Column {
    table: &'static str,
    name: &'static str,
    /// Returns the owner of a name.
    owner: fn(&str) -> Option<Part>,
    /// Returns the same name with another owner.
    with_owner: fn(&str, &str) -> Option<String>,
}

/// All columns that have names of parts.
const COLUMNS: [Column; 8] = [
    Column { table: "checkpoints", name: "subscription", owner: of_subscription, with_owner: subscription_of },
    Column { table: "held_keys", name: "subscription", owner: of_subscription, with_owner: subscription_of },
    Column { table: "callbacks", name: "subscription", owner: of_subscription, with_owner: subscription_of },
    Column { table: "http_requests", name: "subscription", owner: of_subscription, with_owner: subscription_of },
    Column { table: "outbox", name: "queue", owner: of_subscription, with_owner: subscription_of },
    Column { table: "ledgers", name: "name", owner: of_ledger, with_owner: ledger_of },
    Column { table: "sinks", name: "name", owner: of_sink, with_owner: sink_of },
    Column { table: "facts", name: "name", owner: of_fact, with_owner: fact_of },
];

fn subscription_of(name: &str, owner: &str) -> Option<String> {
    Some(SubscriptionName::parse(name).with_owner(owner).to_string())
}

fn ledger_of(name: &str, owner: &str) -> Option<String> {
    Some(LedgerName::parse(name)?.with_owner(owner).to_string())
}

fn sink_of(name: &str, owner: &str) -> Option<String> {
    Some(SinkName::parse(name).with_owner(owner).to_string())
}

fn fact_of(name: &str, owner: &str) -> Option<String> {
    Some(FactName::parse(name)?.with_owner(owner).to_string())
}

impl Column {
    /// Returns the names that belong to a part.
    fn names_of(&self, connection: &Connection, part: &Part) -> Result<Vec<String>, Error> {
        let Self { table, name, owner, .. } = self;
        let names: rusqlite::Result<Vec<String>> = connection
            .prepare(&format!("SELECT DISTINCT {name} FROM {table}"))
            .and_then(|mut select| select.query_map([], |row| row.get(0))?.collect());
        let names = names.map_err(failed("listing the names of parts"))?;
        Ok(names.into_iter().filter(|name| owner(name).as_ref() == Some(part)).collect())
    }
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
            for old in column.names_of(&self.connection, from)? {
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
        for outbox::Row { first, body, .. } in queue.rows(&self.connection).map_err(&failed)? {
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
            for name in column.names_of(&self.connection, part)? {
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

/// Returns whether a part of this kind dead-letters such an item.
fn is_of(kind: PartKind, content: &DeadLetterContent) -> bool {
    let is_of_source = match content {
        DeadLetterContent::Record(_) | DeadLetterContent::Gone => Some(true),
        DeadLetterContent::Event(_) => Some(false),
        // A callback or a request of a source's subscriber is dead-lettered under the name of the subscription.
        DeadLetterContent::Callback(_) | DeadLetterContent::Http(_) => Some(false),
        DeadLetterContent::Command(command) => command.origin.as_ref().map(|origin| {
            let plugin = |name| matches!(name, LedgerName::Commands(SubscriptionName::Plugin(_)));
            !LedgerName::parse(&origin.ledger).is_some_and(plugin)
        }),
        _ => None,
    };
    match kind {
        PartKind::Subscription => is_of_source != Some(true),
        PartKind::Source => is_of_source != Some(false),
        PartKind::Sink | PartKind::Schedule => false,
    }
}
