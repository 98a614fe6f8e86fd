//! The places that parts of a manifest keep in the store: listed, carried over to another name, or forgotten.

use super::writer::Writer;
use super::{Error, failed, rows, schema};
use crate::model::{Command, Parked};
use crate::store::{EVENT_SINK, LETTER_SINK, Part, PartKind, Place, SUBSCRIPTION_LEDGER};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The subscription of a source's subscriber is named this, then the source.
const OF_SOURCE: &str = "source/";

/// A partition's ledger is named this, then source, topic and partition.
const PARTITION: &str = "kafka/";

/// The places in a store that no host has open.
pub fn places(path: &Path) -> Result<Vec<Place>, Error> {
    let _lock = schema::lock_existing(path)?;
    of(&schema::open_for_inspection(path)?)
}

/// The places that a connection sees, by kind and name.
pub(super) fn of(connection: &Connection) -> Result<Vec<Place>, Error> {
    let mut places: BTreeMap<Part, (Vec<String>, u64)> = BTreeMap::new();
    let mut add = |part: Option<Part>, at: Option<String>, pending: u64| {
        if let Some(part) = part {
            let place = places.entry(part).or_default();
            place.0.extend(at);
            place.1 += pending;
        }
    };
    for (name, position) in list(connection, "SELECT subscription, position FROM checkpoints ORDER BY 1")? {
        let part = of_subscription(&name);
        let at = part.as_ref().is_some_and(|part| part.kind == PartKind::Subscription);
        add(part, at.then(|| format!("at position {position}")), 0);
    }
    for (name, next) in list(connection, "SELECT name, next FROM ledgers ORDER BY 1")? {
        if let Some(partition) = name.strip_prefix(PARTITION).and_then(|rest| rest.split_once('/')) {
            let part = Part { kind: PartKind::Source, name: partition.0.to_owned() };
            add(Some(part), Some(format!("{} at offset {next}", partition.1)), 0);
        } else {
            add(name.strip_prefix(SUBSCRIPTION_LEDGER).and_then(of_subscription), None, 0);
        }
    }
    for (name, position) in list(connection, "SELECT name, position FROM sinks ORDER BY 1")? {
        if let Some(name) = name.strip_prefix(EVENT_SINK) {
            let part = Part { kind: PartKind::Sink, name: name.to_owned() };
            add(Some(part), Some(format!("at position {position}")), 0);
        } else if let Some(source) = name.strip_prefix(LETTER_SINK) {
            add(Some(Part { kind: PartKind::Source, name: source.to_owned() }), None, 0);
        }
    }
    let pending =
        "SELECT o.subscription, coalesce(sum(o.last - max(o.first, coalesce(l.next, 0)) + 1), 0) FROM outbox_commands o
         LEFT JOIN ledgers l ON l.name = ?1 || o.subscription WHERE o.last >= coalesce(l.next, 0) GROUP BY 1";
    for (name, pending) in list_with(connection, pending, [SUBSCRIPTION_LEDGER])? {
        add(of_subscription(&name), None, pending);
    }
    let place = |(part, (at, pending)): (Part, (Vec<String>, u64))| Place { part, at: summary(&at), pending };
    Ok(places.into_iter().map(place).collect())
}

fn summary(at: &[String]) -> String {
    const SHOWN: usize = 3;
    match at {
        [] => "nothing done".to_owned(),
        at if at.len() <= SHOWN => at.join(", "),
        at => format!("{}, and {} more", at[..SHOWN].join(", "), at.len() - SHOWN),
    }
}

/// The part whose subscription it is.
fn of_subscription(name: &str) -> Option<Part> {
    let (kind, name) = match name.strip_prefix(OF_SOURCE) {
        Some(source) => (PartKind::Source, source),
        None => (PartKind::Subscription, name),
    };
    Some(Part { kind, name: name.to_owned() })
}

fn list(connection: &Connection, sql: &str) -> Result<Vec<(String, u64)>, Error> {
    list_with(connection, sql, [])
}

fn list_with(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<Vec<(String, u64)>, Error> {
    connection
        .prepare(sql)
        .and_then(|mut select| select.query_map(params, |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(failed("listing what parts have done"))
}

/// The names that a part has in the tables.
struct Names {
    /// Of its subscription, if it can have one.
    subscription: Option<String>,
    /// What its ledgers begin with, if it has some of its own.
    ledgers: Option<String>,
    sink: Option<String>,
    /// What its facts begin with.
    facts: Vec<String>,
}

impl Names {
    fn of(Part { kind, name }: &Part) -> Self {
        match kind {
            PartKind::Subscription => Self {
                subscription: Some(name.clone()),
                ledgers: None,
                sink: None,
                facts: vec![format!("{SUBSCRIPTION_LEDGER}{name}/")],
            },
            PartKind::Source => Self {
                subscription: Some(format!("{OF_SOURCE}{name}")),
                ledgers: Some(format!("{PARTITION}{name}/")),
                sink: Some(format!("{LETTER_SINK}{name}")),
                facts: vec![format!("{SUBSCRIPTION_LEDGER}{OF_SOURCE}{name}/"), format!("kafka/topic/{name}/")],
            },
            PartKind::Sink => Self {
                subscription: None,
                ledgers: None,
                sink: Some(format!("{EVENT_SINK}{name}")),
                facts: vec![format!("sink/{name}/")],
            },
        }
    }
}

impl Writer {
    /// Gives the place of a part to another name, which has none.
    pub(super) fn carry_over(&mut self, from: &Part, to: &str) -> Result<(), Error> {
        let to = Part { kind: from.kind, name: to.to_owned() };
        // What is settled in this transaction stands in memory until then.
        self.ledgers.write(&self.connection)?;
        let places = of(&self.connection)?;
        if let Some(place) = places.iter().find(|place| place.part == to) {
            return Err(Error::Invalid(format!("{from} can't be carried over: the store has {place} already")));
        }
        if !places.iter().any(|place| place.part == *from) {
            return Err(Error::NotFound(format!("the store has no {from}")));
        }
        self.rename(from, &to)?;
        self.ledgers.forget();
        self.rows.clear();
        Ok(())
    }

    fn rename(&self, from: &Part, to: &Part) -> Result<(), Error> {
        let (old, new) = (Names::of(from), Names::of(to));
        if let (Some(old), Some(new)) = (&old.subscription, &new.subscription) {
            self.change("UPDATE checkpoints SET subscription = ?2 WHERE subscription = ?1", &[old, new])?;
            let ledgers = [old, new].map(|name| format!("{SUBSCRIPTION_LEDGER}{name}"));
            self.change("UPDATE ledgers SET name = ?2 WHERE name = ?1", &[&ledgers[0], &ledgers[1]])?;
            self.rename_commands(old, new, &ledgers[1])?;
        }
        if let (Some(old), Some(new)) = (&old.ledgers, &new.ledgers) {
            self.change(&prefixed("ledgers"), &[old, new])?;
        }
        if let (Some(old), Some(new)) = (&old.sink, &new.sink) {
            self.change("UPDATE sinks SET name = ?2 WHERE name = ?1", &[old, new])?;
        }
        for (old, new) in old.facts.iter().zip(&new.facts) {
            self.change(&prefixed("facts"), &[old, new])?;
        }
        self.rename_letters(from, to)
    }

    /// The commands of the outbox say themselves which ledger they are of.
    fn rename_commands(&self, old: &str, new: &str, ledger: &str) -> Result<(), Error> {
        let failed = failed("carrying commands over");
        let ledger: Arc<str> = ledger.into();
        let mut select = self
            .connection
            .prepare("SELECT number, body FROM outbox_commands WHERE subscription = ?1")
            .map_err(&failed)?;
        let found = select.query_map([old], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)));
        let found: Vec<_> = found.and_then(Iterator::collect).map_err(&failed)?;
        for (number, body) in found {
            let mut commands: Vec<Command> = rows::decode(&format!("the outbox of subscription {old}"), &body)?;
            commands.iter_mut().filter_map(|command| command.origin.as_mut()).for_each(|origin| {
                origin.ledger = ledger.clone();
            });
            let body = rows::encode(&commands)?;
            self.connection
                .execute(
                    "UPDATE outbox_commands SET subscription = ?2, body = ?3 WHERE number = ?1",
                    params![number, new, body],
                )
                .map_err(&failed)?;
        }
        Ok(())
    }

    /// Dead letters name who put them aside; a source and a subscription may have one name.
    fn rename_letters(&self, from: &Part, to: &Part) -> Result<(), Error> {
        let failed = failed("carrying dead letters over");
        let mut select =
            self.connection.prepare("SELECT number, content FROM dead_letters WHERE consumer = ?1").map_err(&failed)?;
        let found = select.query_map([&from.name], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)));
        let found: Vec<_> = found.and_then(Iterator::collect).map_err(&failed)?;
        for (number, content) in found {
            let content: Parked = rows::decode(&format!("the content of dead letter {number}"), &content)?;
            if is_of(from.kind, &content) {
                self.connection
                    .execute("UPDATE dead_letters SET consumer = ?2 WHERE number = ?1", params![number, to.name])
                    .map_err(&failed)?;
            }
        }
        Ok(())
    }

    /// Forgets the place of a part. Dead letters stay.
    pub(super) fn forget(&mut self, part: &Part) -> Result<(), Error> {
        self.ledgers.write(&self.connection)?;
        if !of(&self.connection)?.iter().any(|place| place.part == *part) {
            return Err(Error::NotFound(format!("the store has no {part}")));
        }
        let Names { subscription, ledgers, sink, facts } = Names::of(part);
        if let Some(subscription) = &subscription {
            let ledger = format!("{SUBSCRIPTION_LEDGER}{subscription}");
            self.change("DELETE FROM checkpoints WHERE subscription = ?1", &[subscription])?;
            self.change("DELETE FROM outbox_commands WHERE subscription = ?1", &[subscription])?;
            self.change("DELETE FROM ledgers WHERE name = ?1", &[&ledger])?;
        }
        if let Some(ledgers) = &ledgers {
            self.change("DELETE FROM ledgers WHERE substr(name, 1, length(?1)) = ?1", &[ledgers])?;
        }
        if let Some(sink) = &sink {
            self.change("DELETE FROM sinks WHERE name = ?1", &[sink])?;
        }
        for facts in &facts {
            self.change("DELETE FROM facts WHERE substr(name, 1, length(?1)) = ?1", &[facts])?;
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

/// Gives names that begin with one text another beginning.
fn prefixed(table: &str) -> String {
    format!("UPDATE {table} SET name = ?2 || substr(name, length(?1) + 1) WHERE substr(name, 1, length(?1)) = ?1")
}

/// Whether a part of this kind puts such things aside.
fn is_of(kind: PartKind, content: &Parked) -> bool {
    let is_of_source = match content {
        Parked::Record(_) | Parked::Gone => Some(true),
        Parked::Event(_) => Some(false),
        Parked::Command(command) => command
            .origin
            .as_ref()
            .map(|origin| !origin.ledger.starts_with(SUBSCRIPTION_LEDGER) || is_of_records(&origin.ledger)),
        _ => None,
    };
    match kind {
        PartKind::Subscription => is_of_source != Some(true),
        PartKind::Source => is_of_source != Some(false),
        PartKind::Sink => false,
    }
}

fn is_of_records(ledger: &str) -> bool {
    ledger.strip_prefix(SUBSCRIPTION_LEDGER).is_some_and(|name| name.starts_with(OF_SOURCE))
}
