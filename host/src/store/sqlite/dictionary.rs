//! The dictionary of names: aggregate types and event types are stored once, and rows have their numbers.

use crate::model::QuickMap;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// An event type as its two names.
#[derive(Clone, Debug)]
pub(super) struct EventType {
    pub(super) aggregate_type: Arc<str>,
    pub(super) name: Arc<str>,
}

/// A connection's cache of the names. It only grows, because a number never changes its meaning.
#[derive(Default)]
pub(super) struct Dictionary {
    aggregate_types: QuickMap<Arc<str>, i64>,
    /// The numbers of event types, by the number of their aggregate type.
    event_types: QuickMap<i64, QuickMap<Arc<str>, i64>>,
    by_number: QuickMap<i64, EventType>,
}

impl Dictionary {
    /// Returns the number of an aggregate type, if any of its events was ever stored.
    pub(super) fn find_aggregate_type(&mut self, connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
        if let Some(&number) = self.aggregate_types.get(name) {
            return Ok(Some(number));
        }
        let found = connection
            .prepare_cached("SELECT id FROM aggregate_types WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        if let Some(number) = found {
            self.aggregate_types.insert(name.into(), number);
        }
        Ok(found)
    }

    /// Returns the number of an aggregate type, and assigns one if the type is new.
    pub(super) fn aggregate_type(&mut self, connection: &Connection, name: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(number) = self.find_aggregate_type(connection, name)? {
            return Ok(number);
        }
        connection.execute("INSERT INTO aggregate_types (name) VALUES (?1)", [name])?;
        let number = connection.last_insert_rowid();
        self.aggregate_types.insert(name.clone(), number);
        Ok(number)
    }

    /// Returns the number of an event type, and assigns one if the type is new.
    pub(super) fn event_type(
        &mut self,
        connection: &Connection,
        aggregate_type: i64,
        name: &str,
    ) -> rusqlite::Result<i64> {
        if let Some(&number) = self.event_types.get(&aggregate_type).and_then(|names| names.get(name)) {
            return Ok(number);
        }
        let found = connection
            .query_row(
                "SELECT id FROM event_types WHERE aggregate_type = ?1 AND name = ?2",
                params![aggregate_type, name],
                |row| row.get(0),
            )
            .optional()?;
        let number = match found {
            Some(number) => number,
            None => {
                connection.execute(
                    "INSERT INTO event_types (aggregate_type, name) VALUES (?1, ?2)",
                    params![aggregate_type, name],
                )?;
                connection.last_insert_rowid()
            }
        };
        self.event_types.entry(aggregate_type).or_default().insert(name.into(), number);
        Ok(number)
    }

    /// Returns the names of a number.
    pub(super) fn names(&mut self, connection: &Connection, number: i64) -> rusqlite::Result<&EventType> {
        let unknown = match self.by_number.entry(number) {
            Entry::Occupied(known) => return Ok(known.into_mut()),
            Entry::Vacant(unknown) => unknown,
        };
        let names = connection.query_row(
            "SELECT a.name, e.name FROM event_types e JOIN aggregate_types a ON a.id = e.aggregate_type WHERE e.id = ?1",
            [number],
            |row| Ok(EventType { aggregate_type: row.get(0)?, name: row.get(1)? }),
        )?;
        Ok(unknown.insert(names))
    }
}
