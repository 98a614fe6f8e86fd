//! Importing events into a new store: their ids, times, versions and positions stay as they are.
//!
//! The new store is made beside the place of the store, and moved there when it is complete and on the disk. Until then the
//! place is as it was, whatever happens. What is there must be empty, and then it is replaced. The new store has an identity
//! of its own. The caller has checked the events; this only writes them, in large transactions.

use super::dictionary::Dictionary;
use super::stream_index::{Entry, Filler, Key, StreamIndex};
use super::{Error, Options, failed, files, owner, rows, schema};
use crate::exhaustion;
use crate::model::{FactName, RecordedEvent, SinkName, StreamId, SubscriptionName};
use rusqlite::{Connection, params};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// The events of one transaction.
const TRANSACTION_EVENTS: usize = 50_000;

/// The bytes of events at which a transaction ends before.
const TRANSACTION_BYTES: usize = 64 << 20;

/// The parts that begin after the imported events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begins {
    /// The plugins with a subscription.
    pub subscriptions: Vec<String>,
    /// The sinks of events.
    pub sinks: Vec<String>,
}

/// The result of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The identity of the new store.
    pub identity: Uuid,
    /// The position of its newest event.
    pub position: u64,
}

/// An import under way. If it is dropped before it is finished, nothing is left of it.
pub struct Importer {
    place: PathBuf,
    aside: PathBuf,
    connection: Connection,
    dictionary: Dictionary,
    filler: Filler,
    /// The index entries of the events in the open transaction.
    entries: Vec<(Key, Entry)>,
    bytes: usize,
    position: u64,
    /// What keeps hosts away from the place.
    _lock: schema::Lock,
}

impl Importer {
    /// Begins an import to a place. Fails if a host has its store open, or if the store is not empty.
    pub fn begin(place: &Path) -> Result<Self, Error> {
        let lock = schema::lock(place)?;
        refuse_filled(place)?;
        let aside = place.with_extension("import");
        remove(&aside)?;
        let connection = schema::open_or_make(&aside)?;
        // If the import does not end, the file is deleted. If it does, the file is synced as a whole.
        connection
            .execute_batch(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA cache_size = -131072; BEGIN",
            )
            .map_err(failed("beginning an import"))?;
        // A run of the stream index is a part of the transaction that completes it.
        let options = Options { index_slice: usize::MAX >> 1, ..Options::default() };
        let filler = Filler::open(&connection, Arc::new(StreamIndex::default()), &options)?;
        let dictionary = Dictionary::default();
        let (entries, bytes, position) = (Vec::new(), 0, 0);
        let place = place.to_owned();
        Ok(Self { place, aside, connection, dictionary, filler, entries, bytes, position, _lock: lock })
    }

    /// Adds an event, which comes after all that were added before.
    pub fn event(&mut self, event: &RecordedEvent) -> Result<(), Error> {
        let failed = failed("importing an event");
        let aggregate_type = self.aggregate_type(&event.stream)?;
        let event_type = self.dictionary.event_type(&self.connection, aggregate_type, &event.name).map_err(&failed)?;
        let headers = rows::encode_headers(&event.headers, event.hops, event.first_ms)?;
        self.connection
            .prepare_cached(&format!(
                "INSERT INTO events ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                rows::EVENT_COLUMNS
            ))
            .and_then(|mut insert| {
                insert.execute(params![
                    event.position.0,
                    event_type,
                    event.stream.aggregate_id,
                    event.version.0,
                    event.id.as_bytes(),
                    event.time_ms,
                    event.correlation_id,
                    event.causation_id,
                    headers,
                    event.payload
                ])
            })
            .map_err(&failed)?;
        self.position = event.position.0;
        self.bytes += event.size();
        let key = (aggregate_type, event.stream.aggregate_id.clone());
        self.entries.push((key, (event.version.0, event.position.0)));
        if self.entries.len() >= TRANSACTION_EVENTS || self.bytes >= TRANSACTION_BYTES {
            self.commit()?;
            self.connection.execute_batch("BEGIN").map_err(&failed)?;
        }
        Ok(())
    }

    /// Archives a stream, which has events.
    pub fn archive(&mut self, stream: &StreamId, time_ms: u64) -> Result<(), Error> {
        let aggregate_type = self.aggregate_type(stream)?;
        self.connection
            .prepare_cached("INSERT INTO archived_streams (aggregate_type, aggregate_id, time_ms) VALUES (?1, ?2, ?3)")
            .and_then(|mut insert| insert.execute(params![aggregate_type, stream.aggregate_id, time_ms]))
            .map_err(failed("importing an archived stream"))
            .map(drop)
    }

    /// Completes the store and moves it to its place. The parts begin after the newest event.
    pub fn finish(mut self, begins: &Begins) -> Result<Imported, Error> {
        let failed = failed("completing an import");
        for plugin in &begins.subscriptions {
            let name = SubscriptionName::Plugin(plugin).to_string();
            let insert = "INSERT INTO checkpoints (subscription, position, commands) VALUES (?1, ?2, 0)";
            self.connection.execute(insert, params![name, self.position]).map_err(&failed)?;
        }
        for sink in &begins.sinks {
            let name = SinkName::Events(sink).to_string();
            let insert = "INSERT INTO sinks (name, position) VALUES (?1, ?2)";
            self.connection.execute(insert, params![name, self.position]).map_err(&failed)?;
        }
        self.commit()?;
        let identity = owner::identity(&self.connection)?;
        // The store is a single file without a log, like a copy. The host that opens it creates a log.
        self.connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(&failed)?;
        let position = self.position;
        self.move_to_place()?;
        Ok(Imported { identity, position })
    }

    fn aggregate_type(&mut self, stream: &StreamId) -> Result<i64, Error> {
        self.dictionary
            .aggregate_type(&self.connection, &stream.aggregate_type)
            .map_err(failed("naming an aggregate type"))
    }

    /// Commits what was added, with the runs of the stream index that are complete.
    fn commit(&mut self) -> Result<(), Error> {
        self.filler.publish(std::mem::take(&mut self.entries));
        self.bytes = 0;
        while self.filler.has_work() {
            self.filler.insert_slice(&self.connection, 0)?;
            self.filler.committed();
        }
        self.connection.execute_batch("COMMIT").map_err(failed("importing events"))
    }

    fn move_to_place(&mut self) -> Result<(), Error> {
        // Closing the file must not be left to the end of this value, after the file has moved.
        let memory = Connection::open_in_memory().map_err(failed("completing an import"))?;
        let connection = std::mem::replace(&mut self.connection, memory);
        connection.close().map_err(|(_, error)| failed("completing an import")(error))?;
        let io_failed = |error: io::Error| {
            Error::Failed(format!(
                "can't put the store {} in its place: {}",
                self.place.display(),
                exhaustion::told(&error)
            ))
        };
        File::open(&self.aside).and_then(|file| file.sync_all()).map_err(io_failed)?;
        remove_empty_log(&self.place)?;
        fs::rename(&self.aside, &self.place).map_err(io_failed)?;
        self.place.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()).map_err(io_failed)
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        // After the move nothing is there.
        let _ = remove(&self.aside);
    }
}

/// Folds the log of an empty store into its file, so that nothing is beside the file when another takes its place.
fn remove_empty_log(place: &Path) -> Result<(), Error> {
    if !place.exists() {
        return Ok(());
    }
    let failed = failed("closing the empty store");
    let connection = Connection::open(place).map_err(&failed)?;
    connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(&failed)?;
    connection.close().map_err(|(_, error)| failed(error))
}

fn remove(aside: &Path) -> Result<(), Error> {
    for file in [aside.to_owned(), files::log_of(aside), files::index_of(aside)] {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Failed(format!("can't remove {}: {error}; remove it", file.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Fails if there is a store that has anything that an import would lose. What a host writes at its first start does not
/// count, nor the id of a cluster, which it asks for again.
fn refuse_filled(place: &Path) -> Result<(), Error> {
    files::refuse_unfit(place)?;
    if !place.exists() {
        return Ok(());
    }
    let connection = schema::open_for_inspection(place)?;
    let [cluster, clock] = [FactName::Cluster, FactName::Clock].map(|fact| fact.to_string());
    let rest = format!("facts WHERE name NOT IN ('{cluster}', '{clock}')");
    for (what, rows) in [
        ("events", "events"),
        ("subscriptions that have handled events", "checkpoints WHERE position > 0 OR commands > 0"),
        ("ledgers of sources, subscriptions or schedules", "ledgers"),
        ("sinks that have published", "sinks WHERE position > 0"),
        ("commands or messages in the outbox", "outbox"),
        ("outcomes and timers", "callbacks"),
        ("HTTP requests", "http_requests"),
        ("held keys", "held_keys"),
        ("dead letters", "dead_letters"),
        ("remembered outcomes", "outcomes"),
        ("facts of sources or projections", &*rest),
    ] {
        let count: u64 = connection
            .query_row(&format!("SELECT count(*) FROM {rows}"), [], |row| row.get(0))
            .map_err(failed("looking whether the store is empty"))?;
        if count > 0 {
            return Err(Error::Invalid(format!(
                "the store {} is not empty: it has {count} {what}; import into a new data folder (--data DIR)",
                place.display()
            )));
        }
    }
    Ok(())
}
