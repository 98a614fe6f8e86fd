//! Importing events into a store in PostgreSQL that has none: their ids, times, versions and positions stay as they are.
//!
//! The whole import is one transaction under the lock of the head row, so no host can take the store over meanwhile, and an import
//! that does not end leaves nothing. The caller has checked the events; this only writes them.

use super::address::Address;
use super::connection::{Change, Connection, Network, int, uint, value};
use super::pending::Pending;
use super::{content, membership, schema};
use crate::model::{LedgerName, QuickMap, RecordedEvent, Segment, SinkName, StreamId, SubscriptionName};
use crate::store::sqlite::{Begins, Imported};
use crate::store::{Error, encoding, move_mark};
use std::collections::BTreeSet;
use std::sync::Arc;

const DOING: &str = "importing events";

/// The events and their bytes at which the rows so far are sent.
const ROWS: usize = 2_000;
const BYTES: usize = 8 << 20;

/// An import under way. If it is dropped before it is finished, nothing is left of it.
pub struct Importer {
    connection: Connection,
    pending: Pending,
    bytes: usize,
    newest: Option<(u64, Vec<u8>)>,
    aggregate_types: QuickMap<Arc<str>, i32>,
    event_types: QuickMap<(i32, Arc<str>), i32>,
    /// The sources whose offsets the empty store has.
    sources: Vec<String>,
}

impl Importer {
    /// Begins an import. Fails if a host owns the store, or if the store is not empty.
    pub fn begin(address: &Address) -> Result<Self, Error> {
        let connection = Network::start(address)?.connect()?;
        // The transaction lasts as long as the import, whose next line may be slow to come.
        connection.batch(DOING, "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")?;
        schema::check_server(&connection)?;
        schema::check_writable(&connection)?;
        schema::migrate(&connection, address)?;
        connection.batch(DOING, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")?;
        membership::lock_head(&connection)?;
        if membership::is_open(&connection)? {
            return Err(Error::Invalid(format!("a host has the store {address} open: stop it first")));
        }
        move_mark::refuse(address.url(), content::mark(&connection)?.as_deref())?;
        let sources = sources_of_empty(&connection, address)?;
        Ok(Self {
            connection,
            pending: Pending::default(),
            bytes: 0,
            newest: None,
            aggregate_types: QuickMap::default(),
            event_types: QuickMap::default(),
            sources,
        })
    }

    /// Adds an event, which comes after all that were added before.
    pub fn event(&mut self, event: &RecordedEvent) -> Result<(), Error> {
        let aggregate_type = self.aggregate_type(&event.stream.aggregate_type)?;
        let event_type = self.event_type(aggregate_type, &event.name)?;
        let rows = &mut self.pending.events;
        rows.position.push(int(event.position.0));
        rows.event_type.push(event_type);
        rows.aggregate_type.push(aggregate_type);
        rows.aggregate_id.push(event.stream.aggregate_id.as_bytes().to_vec());
        rows.version.push(int(event.version.0));
        rows.id.push(event.id.as_bytes().to_vec());
        rows.time_ms.push(event.time_ms.cast_signed());
        rows.correlation_id.push(event.correlation_id.as_bytes().to_vec());
        rows.causation_id.push(event.causation_id.as_bytes().to_vec());
        rows.headers.push(encoding::encode_headers(&event.headers, event.hops, event.first_ms)?);
        rows.payload.push(event.payload.clone());
        self.newest = Some((event.position.0, event.id.as_bytes().to_vec()));
        self.bytes += event.size();
        let is_full = rows.position.len() >= ROWS || self.bytes >= BYTES;
        if is_full { self.send() } else { Ok(()) }
    }

    /// Archives a stream, which has events.
    pub fn archive(&mut self, stream: &StreamId, time_ms: u64) -> Result<(), Error> {
        let aggregate_type = self.aggregate_type(&stream.aggregate_type)?;
        let sql = "INSERT INTO archived_streams (aggregate_type, aggregate_id, time_ms) VALUES ($1, $2, $3)";
        let values = (aggregate_type, stream.aggregate_id.as_bytes(), time_ms.cast_signed());
        self.connection.execute("importing an archived stream", sql, &[&values.0, &values.1, &values.2]).map(drop)
    }

    /// Completes the store.
    pub fn finish(mut self, begins: &Begins) -> Result<Imported, Error> {
        self.send()?;
        let (position, newest_id) = self.newest.take().map_or((0, None), |(position, id)| (position, Some(id)));
        let mut changes = Vec::new();
        for (parts, position) in [(&begins.after, position), (&begins.at_first, 0)] {
            for plugin in &parts.subscriptions {
                let name = SubscriptionName::Plugin(plugin, Segment::WHOLE).to_string();
                let sql = "INSERT INTO checkpoints (subscription, position, commands) VALUES ($1, $2, 0)
                           ON CONFLICT (subscription) DO UPDATE SET position = excluded.position";
                changes.push(Change { doing: DOING, sql, values: vec![value(name), value(int(position))] });
            }
            for sink in &parts.sinks {
                let name = SinkName::Events(sink).to_string();
                let sql = "INSERT INTO sinks (name, position) VALUES ($1, $2)
                           ON CONFLICT (name) DO UPDATE SET position = excluded.position";
                changes.push(Change { doing: DOING, sql, values: vec![value(name), value(int(position))] });
            }
        }
        let sql = "UPDATE head SET commits = commits + 1, position = $1, newest_id = $2 WHERE number = 1";
        changes.push(Change { doing: DOING, sql, values: vec![value(int(position)), value(newest_id)] });
        self.connection.run(&changes, true).map_err(Error::from)?;
        let identity = schema::identity(&self.connection)?;
        Ok(Imported { identity, position, sources: self.sources })
    }

    fn send(&mut self) -> Result<(), Error> {
        self.bytes = 0;
        let changes = self.pending.take();
        self.connection.run(&changes, false).map_err(Error::from)
    }

    fn aggregate_type(&mut self, name: &Arc<str>) -> Result<i32, Error> {
        if let Some(&number) = self.aggregate_types.get(name) {
            return Ok(number);
        }
        let sql = "INSERT INTO aggregate_types (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name
                   RETURNING id";
        let number = self.connection.first(DOING, sql, &[&&**name])?.map_or(0, |row| row.get(0));
        self.aggregate_types.insert(name.clone(), number);
        Ok(number)
    }

    fn event_type(&mut self, aggregate_type: i32, name: &Arc<str>) -> Result<i32, Error> {
        let key = (aggregate_type, name.clone());
        if let Some(&number) = self.event_types.get(&key) {
            return Ok(number);
        }
        let sql = "INSERT INTO event_types (aggregate_type, name) VALUES ($1, $2)
                   ON CONFLICT (aggregate_type, name) DO UPDATE SET name = excluded.name RETURNING id";
        let number = self.connection.first(DOING, sql, &[&aggregate_type, &&**name])?.map_or(0, |row| row.get(0));
        self.event_types.insert(key, number);
        Ok(number)
    }
}

/// Fails if the store has anything that an import would lose. Returns the sources whose offsets it has.
fn sources_of_empty(connection: &Connection, address: &Address) -> Result<Vec<String>, Error> {
    let counts: [(&str, &str); 9] = [
        ("events", "SELECT count(*) FROM events"),
        (
            "subscriptions that have handled events",
            "SELECT count(*) FROM checkpoints WHERE position > 0 OR commands > 0",
        ),
        ("sinks that have published", "SELECT count(*) FROM sinks WHERE position > 0"),
        ("commands or messages in the outbox", "SELECT count(*) FROM outbox"),
        ("outcomes and timers", "SELECT count(*) FROM callbacks"),
        ("HTTP requests", "SELECT count(*) FROM http_requests"),
        ("held keys", "SELECT count(*) FROM held_keys"),
        ("dead letters", "SELECT count(*) FROM dead_letters"),
        ("remembered outcomes", "SELECT count(*) FROM outcomes"),
    ];
    for (what, sql) in counts {
        let count = connection.first(DOING, sql, &[])?.map_or(0, |row| uint(&row, 0));
        if count > 0 {
            return Err(Error::Invalid(format!(
                "the store {address} is not empty: it has {count} {what}; import into a new database, or name another schema in \
                 the URL (schema=NAME)"
            )));
        }
    }
    let rows = connection.query(DOING, "SELECT name FROM ledgers", &[])?;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let sources = names.iter().filter_map(|name| match LedgerName::parse(name)? {
        LedgerName::Partition(partition) => Some(partition.source.to_owned()),
        _ => None,
    });
    Ok(sources.collect::<BTreeSet<_>>().into_iter().collect())
}
