//! The streams that may have a row in the stream index, so that nobody looks there for one that has none.
//!
//! A command that creates an aggregate is about a stream that does not exist, and both its shard and the writer ask for it. Bloom
//! filters answer nearly all of these questions: a stream that they do not have has no row. The writer adds the streams of a run before it
//! inserts the first of its rows. Those of earlier runs are read from the file once the store is open, on a thread of their own. Until
//! that ends, any stream may have a row.

use super::stream_index::{Key, StreamIndex};
use super::{Error, failed, schema};
use crate::supervise::{self, Shared as _};
use fastbloom::AtomicBloomFilter;
use rusqlite::{Connection, params};
use std::hash::BuildHasher as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

/// The number of streams of the first filter. Each further one is for twice as many as the one before.
const STREAMS_FIRST: usize = 1 << 17;

/// The most filters. The last one takes all further streams, and rules out fewer of those that have no row.
const FILTERS_MAX: usize = 8;

/// The bits of a filter for each of its streams. About one of a hundred streams without a row is not ruled out.
const BITS: usize = 10;

/// The number of rows that are read at once. In between, the log may be checkpointed.
const PAGE: usize = 10_000;

/// The filters. The writer, the thread that fills them, and all readers share them.
#[derive(Default)]
pub(super) struct KnownStreams {
    /// The newest and largest is the last one.
    filters: RwLock<Vec<Filter>>,
    hash: foldhash::quality::RandomState,
    /// Whether the streams of earlier runs are in the filters too.
    is_complete: AtomicBool,
    is_closing: AtomicBool,
}

struct Filter {
    bits: AtomicBloomFilter,
    streams: AtomicUsize,
    streams_max: usize,
}

impl Filter {
    fn new(streams_max: usize) -> Self {
        let bits = AtomicBloomFilter::with_num_bits(streams_max * BITS).expected_items(streams_max);
        Self { bits, streams: AtomicUsize::new(0), streams_max }
    }

    fn is_full(&self) -> bool {
        self.streams.load(Ordering::Relaxed) >= self.streams_max
    }

    fn insert(&self, hash: u64) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.bits.insert_hash(hash);
    }
}

/// The thread that reads the streams of earlier runs.
pub(super) struct Reading {
    index: Arc<StreamIndex>,
    thread: Option<supervise::Thread>,
}

impl Reading {
    /// Begins to read the streams of a store that was just opened. If that fails, streams are looked up in the file.
    pub(super) fn begin(path: &Path, index: Arc<StreamIndex>) -> Self {
        let thread = Self::start(path, &index).unwrap_or_else(|error| {
            not_known(&error);
            None
        });
        Self { index, thread }
    }

    /// Starts the thread, if there is something to read. The connection is made here, because one that is made later would give a
    /// log that another program has removed a successor.
    fn start(path: &Path, index: &Arc<StreamIndex>) -> Result<Option<supervise::Thread>, Error> {
        let connection = schema::open_for_reading(path)?;
        let has_rows = connection.query_row("SELECT EXISTS (SELECT 1 FROM stream_index)", [], |row| row.get(0));
        if !has_rows.map_err(failed("reading the stream index"))? {
            index.known.is_complete.store(true, Ordering::Release);
            return Ok(None);
        }
        let index = index.clone();
        let read = move || index.known.read(&connection).unwrap_or_else(|error| not_known(&error));
        let started = supervise::once("known-streams", read);
        started.map(Some).map_err(|error| Error::Failed(format!("can't start a thread: {error}")))
    }

    /// Stops reading.
    pub(super) fn end(&self) {
        self.index.known.is_closing.store(true, Ordering::Relaxed);
        self.thread.iter().for_each(supervise::Thread::join);
    }
}

fn not_known(error: &Error) {
    tracing::warn!("every stream is looked up in the store's file from now on: {error}");
}

impl KnownStreams {
    /// Returns whether a stream may have a row in the table. Ask only after memory was looked at, because a stream is added before its
    /// entries leave memory.
    pub(super) fn may_have(&self, key: &Key) -> bool {
        !self.is_complete.load(Ordering::Acquire) || self.has(self.hash.hash_one(key))
    }

    fn has(&self, hash: u64) -> bool {
        self.filters.held_shared().iter().rev().any(|filter| filter.bits.contains_hash(hash))
    }

    /// Adds streams whose rows are about to be inserted, or were.
    pub(super) fn add<'k>(&self, keys: impl Iterator<Item = &'k Key>) {
        for key in keys {
            let hash = self.hash.hash_one(key);
            // A stream gets rows again and again, and takes room once.
            if !self.has(hash) {
                self.insert(hash);
            }
        }
    }

    /// Inserts a stream into the last filter, and makes another one first if that is full.
    fn insert(&self, hash: u64) {
        let needs_another =
            |filters: &[Filter]| filters.len() < FILTERS_MAX && filters.last().is_none_or(Filter::is_full);
        if needs_another(&self.filters.held_shared()) {
            let mut filters = self.filters.held_alone();
            // Another thread may just have made one.
            if needs_another(&filters) {
                let streams = STREAMS_FIRST << filters.len();
                filters.push(Filter::new(streams));
            }
        }
        self.filters.held_shared().iter().next_back().into_iter().for_each(|last| last.insert(hash));
    }

    /// Adds the streams of all rows in the file. From then on, the filters rule streams out.
    fn read(&self, connection: &Connection) -> Result<(), Error> {
        let failed = failed("reading the streams of the stream index");
        let mut select = connection
            .prepare(
                "SELECT aggregate_type, aggregate_id FROM stream_index WHERE (aggregate_type, aggregate_id) > (?1, ?2)
                 ORDER BY aggregate_type, aggregate_id LIMIT ?3",
            )
            .map_err(&failed)?;
        // No type has the number 0.
        let mut last: Key = (0, "".into());
        while !self.is_closing.load(Ordering::Relaxed) {
            let page: Vec<Key> = select
                .query_map(params![last.0, last.1, PAGE], |row| Ok((row.get(0)?, row.get(1)?)))
                .and_then(Iterator::collect)
                .map_err(&failed)?;
            self.add(page.iter());
            match page.last() {
                Some(newest) if page.len() == PAGE => last = newest.clone(),
                _ => {
                    self.is_complete.store(true, Ordering::Release);
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        (1 + (number % 2) as i64, format!("stream-{number}").into())
    }

    /// Returns the rows of an index with these streams, each with two rows.
    fn index_of(streams: usize) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("schema.sql")).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        for number in 0..streams {
            for version in [1, 2] {
                let (aggregate_type, aggregate_id) = key(number);
                let insert =
                    "INSERT INTO stream_index (aggregate_type, aggregate_id, version, position) VALUES (?1, ?2, ?3, 1)";
                connection.execute(insert, params![aggregate_type, aggregate_id, version]).unwrap();
            }
        }
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    #[test]
    fn nothing_is_ruled_out_before_all_rows_are_read() {
        let known = KnownStreams::default();
        known.add([key(1)].iter());
        assert!(known.may_have(&key(1)) && known.may_have(&key(2)));
        known.is_closing.store(true, Ordering::Relaxed);
        known.read(&index_of(1)).unwrap();
        assert!(known.may_have(&key(2)), "a store that closes has not read them");
    }

    #[test]
    fn every_stream_with_a_row_is_known_and_few_others_are() {
        for streams in [0, 1, PAGE / 2, PAGE, PAGE + PAGE / 2 + 1] {
            let known = KnownStreams::default();
            known.read(&index_of(streams)).unwrap();
            assert!((0..streams).all(|number| known.may_have(&key(number))), "{streams} streams");
            let others = (streams..streams + 10_000).filter(|number| known.may_have(&key(*number))).count();
            assert!(others < 300, "{others} of 10,000 beside {streams} streams");
        }
    }

    #[test]
    fn a_stream_takes_room_once_and_the_filters_grow() {
        let known = KnownStreams::default();
        known.read(&index_of(0)).unwrap();
        let keys: Vec<Key> = (0..3 * STREAMS_FIRST).map(key).collect();
        // Each thread adds one half, and then the other one, which takes no more room.
        let halves = keys.split_at(keys.len() / 2);
        for halves in [[halves.0, halves.1], [halves.1, halves.0]] {
            std::thread::scope(|threads| {
                for half in halves {
                    let known = &known;
                    threads.spawn(move || half.chunks(1_000).for_each(|keys| known.add(keys.iter())));
                }
            });
        }
        assert!(keys.iter().all(|key| known.may_have(key)));
        let filters = known.filters.held_shared();
        let streams: usize = filters.iter().map(|filter| filter.streams.load(Ordering::Relaxed)).sum();
        // About one of a hundred seemed to be known.
        assert!(
            (2..=3).contains(&filters.len()) && streams <= 3 * STREAMS_FIRST,
            "{} filters, {streams}",
            filters.len()
        );
        drop(filters);
        let others = (keys.len()..keys.len() + 10_000).filter(|number| known.may_have(&key(*number))).count();
        assert!(others < 600, "{others} of 10,000");
    }
}
