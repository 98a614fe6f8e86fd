//! Importing events into a new store: their ids, times, versions and positions stay as they are.
//!
//! The new store is made beside the place of the store, and moved there when it is complete and on the disk. Until then the
//! place is as it was, whatever happens. A store that is there must have no events and nothing that came of any, and then it is
//! replaced. The new store takes over how far its schedules and sources are, and has an identity of its own. The caller has
//! checked the events; this only writes them, in large transactions.

use super::dictionary::Dictionary;
use super::stream_index::{Entry, Filler, Key, StreamIndex};
use super::{Error, Options, failed, files, moving, owner, rows, schema};
use crate::exhaustion;
use crate::model::{FactName, LedgerName, RecordedEvent, Segment, SinkName, StreamId, SubscriptionName};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// The events of one transaction.
const TRANSACTION_EVENTS: usize = 50_000;

/// The bytes of events at which a transaction ends before.
const TRANSACTION_BYTES: usize = 64 << 20;

/// The parts that have a place in the imported store. Every other part begins as in a new store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begins {
    /// The parts that begin after the imported events.
    pub after: Parts,
    /// The parts that begin at the first event, whatever their settings say.
    pub at_first: Parts,
}

/// Parts that keep a place in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
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
    /// The sources whose offsets it has from the empty store that was there.
    pub sources: Vec<String>,
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
    /// What the new store takes over from the empty one.
    kept: Kept,
    /// What keeps hosts away from the place.
    _lock: schema::Lock,
}

/// What a host has written without any event: how far its schedules and sources are, and what the sources remember of Kafka.
/// Without it, the due times and records since then would be skipped or handled again.
#[derive(Default)]
struct Kept {
    ledgers: Vec<KeptLedger>,
    /// The names and values of facts.
    facts: Vec<(String, String)>,
}

/// A row of a ledger.
struct KeptLedger {
    name: String,
    next: u64,
    ahead: Vec<u8>,
}

impl Kept {
    /// Returns the sources with partitions that have a ledger.
    fn sources(&self) -> Vec<String> {
        let sources = self.ledgers.iter().filter_map(|ledger| match LedgerName::parse(&ledger.name)? {
            LedgerName::Partition(partition) => Some(partition.source.to_owned()),
            _ => None,
        });
        sources.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Importer {
    /// Begins an import to a place. Fails if a host has its store open, or if the store is not empty.
    pub fn begin(place: &Path) -> Result<Self, Error> {
        let lock = schema::lock(place)?;
        let kept = keep_of_empty(place)?;
        let aside = place.with_extension("import");
        files::remove(&aside)?;
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
        Ok(Self { place, aside, connection, dictionary, filler, entries, bytes, position, kept, _lock: lock })
    }

    /// Adds an event, which comes after all that were added before.
    pub fn event(&mut self, event: &RecordedEvent) -> Result<(), Error> {
        let failed = failed("importing an event");
        let aggregate_type = self.aggregate_type(&event.stream)?;
        let event_type = self.dictionary.event_type(&self.connection, aggregate_type, &event.name).map_err(&failed)?;
        rows::insert_event(&mut *rows::inserting_events(&self.connection)?, event_type, event)?;
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

    /// Completes the store and moves it to its place.
    pub fn finish(mut self, begins: &Begins) -> Result<Imported, Error> {
        let failed = failed("completing an import");
        for (parts, position) in [(&begins.after, self.position), (&begins.at_first, 0)] {
            for plugin in &parts.subscriptions {
                let name = SubscriptionName::Plugin(plugin, Segment::WHOLE).to_string();
                let insert = "INSERT INTO checkpoints (subscription, position, commands) VALUES (?1, ?2, 0)";
                self.connection.execute(insert, params![name, position]).map_err(&failed)?;
            }
            for sink in &parts.sinks {
                let name = SinkName::Events(sink).to_string();
                let insert = "INSERT INTO sinks (name, position) VALUES (?1, ?2)";
                self.connection.execute(insert, params![name, position]).map_err(&failed)?;
            }
        }
        for KeptLedger { name, next, ahead } in &self.kept.ledgers {
            let insert = "INSERT INTO ledgers (name, next, ahead) VALUES (?1, ?2, ?3)";
            self.connection.execute(insert, params![name, next, ahead]).map_err(&failed)?;
        }
        for (name, value) in &self.kept.facts {
            let insert = "INSERT INTO facts (name, value) VALUES (?1, ?2)";
            self.connection.execute(insert, params![name, value]).map_err(&failed)?;
        }
        self.commit()?;
        let identity = owner::identity(&self.connection)?;
        // The store is a single file without a log, like a copy. The host that opens it creates a log.
        self.connection.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(&failed)?;
        let position = self.position;
        self.move_to_place()?;
        Ok(Imported { identity, position, sources: self.kept.sources() })
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
        let _ = files::remove(&self.aside);
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

/// Fails if there is a store that has anything that an import would lose. Returns what the new store takes over.
fn keep_of_empty(place: &Path) -> Result<Kept, Error> {
    files::refuse_unfit(place)?;
    if !place.exists() {
        return Ok(Kept::default());
    }
    let connection = schema::open_for_inspection(place)?;
    moving::refuse_marked(&connection, place)?;
    let failed = failed("looking whether the store is empty");
    let filled = |count: u64, what: &str| {
        Error::Invalid(format!(
            "the store {} is not empty: it has {count} {what}; import into a new data folder (--data DIR)",
            place.display()
        ))
    };
    for (what, rows) in [
        ("events", "events"),
        ("subscriptions that have handled events", "checkpoints WHERE position > 0 OR commands > 0"),
        ("sinks that have published", "sinks WHERE position > 0"),
        ("commands or messages in the outbox", "outbox"),
        ("outcomes and timers", "callbacks"),
        ("HTTP requests", "http_requests"),
        ("held keys", "held_keys"),
        ("dead letters", "dead_letters"),
        ("remembered outcomes", "outcomes"),
    ] {
        let count = connection.query_row(&format!("SELECT count(*) FROM {rows}"), [], |row| row.get(0));
        match count.map_err(&failed)? {
            0 => {}
            count => return Err(filled(count, what)),
        }
    }
    let ledgers: Vec<KeptLedger> = connection
        .prepare("SELECT name, next, ahead FROM ledgers")
        .and_then(|mut select| {
            let row =
                |row: &rusqlite::Row<'_>| Ok(KeptLedger { name: row.get(0)?, next: row.get(1)?, ahead: row.get(2)? });
            select.query_map([], row)?.collect()
        })
        .map_err(&failed)?;
    let is_kept = |ledger: &KeptLedger| {
        matches!(LedgerName::parse(&ledger.name), Some(LedgerName::Partition(_) | LedgerName::Schedule(_)))
    };
    match ledgers.iter().filter(|ledger| !is_kept(ledger)).count() as u64 {
        0 => {}
        count => return Err(filled(count, "ledgers of subscriptions or dead letters")),
    }
    let mut facts: Vec<(String, String)> = connection
        .prepare("SELECT name, value FROM facts")
        .and_then(|mut select| select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(&failed)?;
    // The clock starts as in a new store.
    facts.retain(|(name, _)| FactName::parse(name) != Some(FactName::Clock));
    let is_kept = |name: &str| {
        matches!(FactName::parse(name), Some(FactName::Cluster | FactName::Starts(_) | FactName::TopicId { .. }))
    };
    match facts.iter().filter(|(name, _)| !is_kept(name)).count() as u64 {
        0 => Ok(Kept { ledgers, facts }),
        count => Err(filled(count, "paused subscriptions or skipped events of projections")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FILE_NAME, SqliteStore, inspect, verify};
    use super::*;
    use crate::ack;
    use crate::store::{EventStore as _, Progress as _};

    /// Lets a host without events write something into a new store.
    fn written(place: &Path, write: impl FnOnce(&SqliteStore)) {
        let store = SqliteStore::open(place, Options::default()).expect("a store");
        write(&store);
        store.close();
    }

    #[test]
    fn how_far_schedules_and_sources_are_is_taken_over_from_a_store_without_events() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join(FILE_NAME);
        let ledgers = [("schedule/close-day", 1_795_965_766), ("kafka/tills/t/0@x", 0), ("kafka/tills/t/1@x", 7)];
        let facts = [("kafka/start/tills", "{}"), ("kafka/topic/scans/t", "x"), ("kafka/cluster", "c")];
        written(&place, |store| {
            for (name, next) in ledgers {
                ack::wait(|ack| store.start_ledger(name, next, ack)).expect("start a ledger");
            }
            for (name, value) in facts.into_iter().chain([("clock", "5")]) {
                ack::wait(|ack| store.set_fact(name, Some(value.to_owned()), ack)).expect("keep a fact");
            }
        });
        let importer = Importer::begin(&place).expect("the store is empty");
        let parts = Parts { subscriptions: vec!["p".to_owned()], sinks: vec!["feed".to_owned()] };
        let begins = Begins { at_first: parts, ..Begins::default() };
        let imported = importer.finish(&begins).expect("an import");
        assert_eq!(imported.sources, ["tills"]);
        assert!(verify(&place).expect("it is a store").is_sound());
        let mut reader = inspect(&place).expect("it is a store").reader;
        for (name, next) in ledgers {
            assert_eq!(reader.ledger(name).expect("a ledger").next, next, "{name}");
        }
        for (name, value) in facts {
            assert_eq!(reader.fact(name).expect("a fact").as_deref(), Some(value), "{name}");
        }
        assert_eq!(reader.fact("clock").expect("no fact"), None);
        assert_eq!(reader.checkpoint("p").expect("a checkpoint").map(|position| position.0), Some(0));
        assert_eq!(reader.sink_position("events/feed").expect("a position"), Some(0));
    }

    #[test]
    fn what_an_import_would_lose_is_named() {
        type Write = fn(&SqliteStore);
        let cases: [(Write, &str); 2] = [
            (
                |store| ack::wait(|ack| store.start_ledger("subscription/p", 3, ack)).expect("start a ledger"),
                "1 ledgers of subscriptions",
            ),
            (
                |store| {
                    let paused = |ack| store.set_fact("subscription/p/paused", Some("1".to_owned()), ack);
                    ack::wait(paused).expect("keep a fact");
                },
                "1 paused subscriptions",
            ),
        ];
        for (write, what) in cases {
            let folder = tempfile::tempdir().expect("a folder");
            let place = folder.path().join(FILE_NAME);
            written(&place, write);
            let refused = Importer::begin(&place).err().expect("it is not empty").to_string();
            assert!(refused.contains(what) && refused.contains("--data DIR"), "{refused}");
        }
    }
}
