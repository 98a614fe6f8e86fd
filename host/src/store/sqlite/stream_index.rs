//! Where the events of a stream are.
//!
//! Writing an index entry with every event would dirty one page per event. So new entries live in memory, where
//! readers look first; when enough have come together the writer sorts them and inserts them in slices, each inside
//! a transaction it makes anyway. Only after the last slice is committed, together with the mark up to which the
//! index is complete, do the entries leave memory. A crash loses nothing: at start the events above the mark are read.

use super::fault::{self, FaultPoint};
use super::{Error, Options, failed};
use crate::model::QuickMap;
use rusqlite::{Connection, params};
use std::sync::{Arc, RwLock};

/// A stream, with its type as the dictionary's number.
pub(super) type Key = (i64, Arc<str>);

/// A version and the position of its event.
pub(super) type Entry = (u64, u64);

/// The entries that are not in the table yet. Shared by the writer and all readers.
#[derive(Default)]
pub(super) struct StreamIndex {
    recent: RwLock<Recent>,
}

#[derive(Default)]
struct Recent {
    /// Where new entries go.
    growing: QuickMap<Key, Vec<Entry>>,
    /// The run that is being inserted.
    frozen: QuickMap<Key, Vec<Entry>>,
}

impl StreamIndex {
    /// The entries of a stream that are only in memory, in version order.
    ///
    /// Look here before looking at the table: an entry leaves memory only after it is in the table.
    pub(super) fn recent(&self, key: &Key) -> Vec<Entry> {
        let recent = self.recent.read().expect("no holder panics");
        [&recent.frozen, &recent.growing].into_iter().filter_map(|map| map.get(key)).flatten().copied().collect()
    }

    /// The version of a stream, as far as memory knows.
    pub(super) fn recent_version(&self, key: &Key) -> Option<u64> {
        let recent = self.recent.read().expect("no holder panics");
        [&recent.growing, &recent.frozen].into_iter().find_map(|map| map.get(key)?.last()).map(|&(version, _)| version)
    }

    /// Shows committed entries to the readers.
    pub(super) fn publish(&self, entries: impl Iterator<Item = (Key, Entry)>) {
        let mut recent = self.recent.write().expect("no holder panics");
        for (key, entry) in entries {
            recent.growing.entry(key).or_default().push(entry);
        }
    }
}

/// The writer's side: it alone freezes, inserts and forgets.
pub(super) struct Filler {
    index: Arc<StreamIndex>,
    /// Entries in `growing`.
    growing: usize,
    /// Entries in a run.
    run: usize,
    /// Entries inserted with one transaction.
    slice: usize,
    /// The run being inserted, sorted, and how many of it are inserted.
    filling: Option<Run>,
    /// Everything up to here will be indexed once the run after the current one is.
    newest: u64,
}

struct Run {
    entries: Vec<(Key, Entry)>,
    inserted: usize,
    complete_to: u64,
}

impl Filler {
    /// Reads the events above the mark into memory.
    pub(super) fn open(connection: &Connection, index: Arc<StreamIndex>, options: &Options) -> Result<Self, Error> {
        let doing = "reading the events that the stream index lacks";
        let (run, slice) = (options.index_run.max(1), options.index_slice.max(1));
        let mut filler = Self { index, growing: 0, run, slice, filling: None, newest: 0 };
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

    /// Shows entries to the readers; they count towards the next run.
    pub(super) fn publish(&mut self, entries: Vec<(Key, Entry)>) {
        if let Some((_, (_, position))) = entries.last() {
            self.newest = *position;
            self.growing += entries.len();
            self.index.publish(entries.into_iter());
        }
    }

    /// Whether there is a run to work on.
    pub(super) fn has_work(&self) -> bool {
        self.filling.is_some() || self.growing >= self.run
    }

    /// Inserts the next slice, in the writer's transaction, which appends so many events.
    pub(super) fn insert_slice(&mut self, connection: &Connection, appended: usize) -> rusqlite::Result<()> {
        if self.filling.is_none() && self.growing >= self.run {
            self.filling = Some(self.freeze());
        }
        // Where the next run is full before this one is done, slices outgrow the appends: else memory would fill up.
        let behind = self.growing >= self.run;
        let slice = if behind { self.slice.max(2 * appended) } else { self.slice };
        let Some(run) = &mut self.filling else { return Ok(()) };
        let slice = &run.entries[run.inserted..run.entries.len().min(run.inserted + slice)];
        // A run that a crash cut short leaves entries behind; they are the same.
        let mut insert = connection.prepare_cached(
            "INSERT INTO stream_index (aggregate_type, aggregate_id, version, position) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET position = excluded.position WHERE position <> excluded.position",
        )?;
        for ((aggregate_type, aggregate_id), (version, position)) in slice {
            insert.execute(params![aggregate_type, aggregate_id, version, position])?;
            fault::at(FaultPoint::EntryIndexed);
        }
        fault::at(FaultPoint::SliceIndexed);
        run.inserted += slice.len();
        if run.inserted == run.entries.len() {
            connection
                .prepare_cached("INSERT OR REPLACE INTO marks (name, value) VALUES ('indexed', ?1)")?
                .execute([run.complete_to])?;
            fault::at(FaultPoint::IndexMarkMoved);
        }
        Ok(())
    }

    /// The transaction with the slice is committed.
    pub(super) fn committed(&mut self) {
        if self.filling.as_ref().is_some_and(|run| run.inserted == run.entries.len()) {
            self.filling = None;
            self.index.recent.write().expect("no holder panics").frozen.clear();
        }
    }

    /// The transaction with the slice was rolled back: the run starts again.
    pub(super) fn rolled_back(&mut self) {
        if let Some(run) = &mut self.filling {
            run.inserted = 0;
        }
    }

    fn freeze(&mut self) -> Run {
        let mut recent = self.index.recent.write().expect("no holder panics");
        recent.frozen = std::mem::take(&mut recent.growing);
        self.growing = 0;
        let mut entries: Vec<_> = recent
            .frozen
            .iter()
            .flat_map(|(key, entries)| entries.iter().map(move |&entry| (key.clone(), entry)))
            .collect();
        drop(recent);
        entries.sort_unstable();
        Run { entries, inserted: 0, complete_to: self.newest }
    }
}
