//! The stream index: the positions of the events of each stream.
//!
//! Writing an index entry with every event would dirty one page per event. So new entries are kept in memory, where
//! readers look first. When there are enough, the writer sorts them and inserts them in slices, each of them in a
//! transaction that it makes anyway. Consecutive entries of one stream are one row ([`Chunk`]). The last slice is
//! committed together with the mark up to which the index is complete, and only then do the entries leave memory. A
//! crash loses nothing, because the events above the mark are read at the start.

use super::fault::{self, FaultPoint};
use super::known_streams::KnownStreams;
use super::{Error, Options, failed, rows};
use crate::model::QuickMap;
use crate::supervise::Shared as _;
use rusqlite::{Connection, Row, params};
use std::sync::{Arc, RwLock};

/// A stream, with its type as a number of the dictionary.
pub(super) type Key = (i64, Arc<str>);

/// A version and the position of its event.
pub(super) type Entry = (u64, u64);

/// The most entries of one row, because a row is read and written as a whole.
const CHUNK_MAX: usize = 128;

/// The columns that [`Chunk::read`] reads, in its order.
pub(super) const CHUNK_COLUMNS: &str = "version, position, more";

/// A row of the index: consecutive versions of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    first: Entry,
    /// The distance of each following event's position from the one before it.
    more: Vec<u64>,
}

impl Chunk {
    /// Makes a row from entries of a run with consecutive versions. There must be at least one.
    fn of(entries: &[Entry]) -> Self {
        Self { first: entries[0], more: entries.windows(2).map(|pair| pair[1].1 - pair[0].1).collect() }
    }

    /// Reads a row of [`CHUNK_COLUMNS`], which begin at this column.
    pub(super) fn read(row: &Row<'_>, column: usize) -> Result<Self, Error> {
        let failed = failed("reading the stream index");
        let more = row.get_ref(column + 2).and_then(|more| Ok(more.as_blob_or_null()?)).map_err(&failed)?;
        let more = more.map_or_else(|| Ok(Vec::new()), |bytes| rows::decode("a row of the stream index", bytes))?;
        Ok(Self { first: (row.get(column).map_err(&failed)?, row.get(column + 1).map_err(&failed)?), more })
    }

    /// Returns the newest version in the row.
    pub(super) fn last_version(&self) -> u64 {
        self.first.0.saturating_add(self.more.len() as u64)
    }

    /// Returns the entries in version order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        let next = |entry: &mut Entry, distance: &u64| {
            *entry = (entry.0.saturating_add(1), entry.1.saturating_add(*distance));
            Some(*entry)
        };
        std::iter::once(self.first).chain(self.more.iter().scan(self.first, next))
    }

    /// Encodes the entries after the first, or returns `None` if there are none.
    fn encode_more(&self) -> Result<Option<Vec<u8>>, Error> {
        if self.more.is_empty() { Ok(None) } else { rows::encode(&self.more).map(Some) }
    }
}

/// The entries that are not in the table yet. The writer and all readers share them.
#[derive(Default)]
pub(super) struct StreamIndex {
    recent: RwLock<Recent>,
    /// The streams that may have a row in the table.
    pub(super) known: KnownStreams,
}

#[derive(Default)]
struct Recent {
    /// The new entries.
    growing: QuickMap<Key, Vec<Entry>>,
    /// The run that is being inserted.
    frozen: Arc<QuickMap<Key, Vec<Entry>>>,
}

impl StreamIndex {
    /// Returns the entries of a stream that are only in memory, in version order.
    ///
    /// Call this before reading the table, because an entry leaves memory only after it is in the table.
    pub(super) fn recent(&self, key: &Key) -> Vec<Entry> {
        let recent = self.recent.held_shared();
        [&*recent.frozen, &recent.growing].into_iter().filter_map(|map| map.get(key)).flatten().copied().collect()
    }

    /// Returns the version of a stream, if memory has an entry of it.
    pub(super) fn recent_version(&self, key: &Key) -> Option<u64> {
        let recent = self.recent.held_shared();
        [&recent.growing, &*recent.frozen].into_iter().find_map(|map| map.get(key)?.last()).map(|&(version, _)| version)
    }

    /// Shows committed entries to the readers. Returns the number of streams with new entries.
    fn publish(&self, entries: impl Iterator<Item = (Key, Entry)>) -> usize {
        let mut recent = self.recent.held_alone();
        for (key, entry) in entries {
            recent.growing.entry(key).or_insert_with(|| Vec::with_capacity(1)).push(entry);
        }
        recent.growing.len()
    }
}

/// The writer's side. Only the writer freezes, inserts and drops entries.
pub(super) struct Filler {
    index: Arc<StreamIndex>,
    /// The number of entries in `growing`, and of their streams.
    growing: Growing,
    /// The number of entries, or of streams, that make a run.
    run: Growing,
    /// The number of rows inserted with one transaction.
    slice: usize,
    /// The run that is being inserted, sorted, with the number of inserted entries.
    filling: Option<Run>,
    /// The position up to which everything will be indexed after the run that follows the current one.
    newest: u64,
}

#[derive(Clone, Copy, Default)]
struct Growing {
    entries: usize,
    streams: usize,
}

struct Run {
    rows: Vec<(Key, Chunk)>,
    inserted: usize,
    complete_to: u64,
}

impl Filler {
    /// Reads the events above the mark into memory.
    pub(super) fn open(connection: &Connection, index: Arc<StreamIndex>, options: &Options) -> Result<Self, Error> {
        let doing = "reading the events that the stream index lacks";
        let run = Growing { entries: options.index_run.max(1), streams: options.index_run_streams.max(1) };
        let (growing, slice) = (Growing::default(), options.index_slice.max(1));
        let mut filler = Self { index, growing, run, slice, filling: None, newest: 0 };
        let mut statement = connection
            .prepare(
                "SELECT t.aggregate_type, e.aggregate_id, e.version, e.position FROM events e
                 JOIN event_types t ON t.id = e.type
                 WHERE e.position > (SELECT coalesce(max(value), 0) FROM marks WHERE name = 'indexed') ORDER BY e.position",
            )
            .map_err(failed(doing))?;
        let entries = statement
            .query_map([], |row| Ok(((row.get(0)?, row.get(1)?), (row.get(2)?, row.get(3)?))))
            .and_then(|rows| rows.collect::<rusqlite::Result<Vec<_>>>())
            .map_err(failed(doing))?;
        filler.publish(entries);
        Ok(filler)
    }

    /// Shows entries to the readers, and counts them for the next run.
    pub(super) fn publish(&mut self, entries: Vec<(Key, Entry)>) {
        if let Some((_, (_, position))) = entries.last() {
            self.newest = *position;
            self.growing.entries += entries.len();
            self.growing.streams = self.index.publish(entries.into_iter());
        }
    }

    /// Returns whether there is a run to insert.
    pub(super) fn has_work(&self) -> bool {
        self.filling.is_some() || self.is_run()
    }

    /// Returns whether there are enough entries for a run.
    fn is_run(&self) -> bool {
        self.growing.entries >= self.run.entries || self.growing.streams >= self.run.streams
    }

    /// Inserts the next slice, in the writer's transaction, which also appends this many events.
    pub(super) fn insert_slice(&mut self, connection: &Connection, appended: usize) -> Result<(), Error> {
        if self.filling.is_none() && self.is_run() {
            self.filling = Some(self.freeze());
        }
        // If the next run is full before this one is done, slices are larger than the appends. Otherwise memory would
        // fill.
        let slice = if self.is_run() { self.slice.max(2 * appended) } else { self.slice };
        let Some(run) = &mut self.filling else { return Ok(()) };
        let failed = failed("filling the stream index");
        let slice = &run.rows[run.inserted..run.rows.len().min(run.inserted + slice)];
        // A crash in the middle of a run leaves rows behind. They begin at the same versions and have no more entries.
        let mut insert = connection
            .prepare_cached(
                "INSERT INTO stream_index (aggregate_type, aggregate_id, version, position, more) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET (position, more) = (excluded.position, excluded.more)
                 WHERE (position, more) IS NOT (excluded.position, excluded.more)",
            )
            .map_err(&failed)?;
        for ((aggregate_type, aggregate_id), chunk) in slice {
            let ((version, position), more) = (chunk.first, chunk.encode_more()?);
            insert.execute(params![aggregate_type, aggregate_id, version, position, more]).map_err(&failed)?;
            fault::at(FaultPoint::EntryIndexed);
        }
        fault::at(FaultPoint::SliceIndexed);
        run.inserted += slice.len();
        if run.inserted == run.rows.len() {
            connection
                .prepare_cached("INSERT OR REPLACE INTO marks (name, value) VALUES ('indexed', ?1)")
                .and_then(|mut insert| insert.execute([run.complete_to]))
                .map_err(&failed)?;
            fault::at(FaultPoint::IndexMarkMoved);
        }
        Ok(())
    }

    /// Notes that the transaction with the slice is committed.
    pub(super) fn committed(&mut self) {
        if self.filling.as_ref().is_some_and(|run| run.inserted == run.rows.len()) {
            self.filling = None;
            self.index.recent.held_alone().frozen = Arc::default();
        }
    }

    /// Notes that the transaction with the slice was rolled back, so the run starts again.
    pub(super) fn rolled_back(&mut self) {
        if let Some(run) = &mut self.filling {
            run.inserted = 0;
        }
    }

    fn freeze(&mut self) -> Run {
        let mut recent = self.index.recent.held_alone();
        recent.frozen = Arc::new(std::mem::take(&mut recent.growing));
        let frozen = recent.frozen.clone();
        // Readers need not wait for the rest.
        drop(recent);
        self.index.known.add(frozen.keys());
        self.growing = Growing::default();
        let mut streams: Vec<_> = frozen.iter().collect();
        streams.sort_unstable_by_key(|(key, _)| *key);
        let chunks = |(key, entries): (&Key, &Vec<Entry>)| -> Vec<_> {
            entries.chunks(CHUNK_MAX).map(|entries| (key.clone(), Chunk::of(entries))).collect()
        };
        Run { rows: streams.into_iter().flat_map(chunks).collect(), inserted: 0, complete_to: self.newest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_the_entries_that_it_is_of() {
        let entries = [(7, 100), (8, 101), (9, 5_000)];
        let chunk = Chunk::of(&entries);
        assert_eq!(chunk.entries().collect::<Vec<_>>(), entries);
        assert_eq!(chunk.last_version(), 9);
        let alone = Chunk::of(&[(1, 3)]);
        assert_eq!((alone.entries().collect::<Vec<_>>(), alone.encode_more().unwrap()), (vec![(1, 3)], None));
    }
}
