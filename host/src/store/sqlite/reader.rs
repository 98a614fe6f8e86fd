//! The reader: one thread's own connection, and the entries that are only in memory.

use super::dictionary::Dictionary;
use super::id_columns::IdColumn;
use super::outbox::Queue;
use super::snapshots::{self, SnapshotReader};
use super::stream_index::{CHUNK_COLUMNS, Chunk, Key, StreamIndex};
use super::tail::Tail;
use super::{Error, callbacks, dead_letters, division, failed, held_keys, http_requests, places, rows, schema};
use crate::filter::Filter;
use crate::model::{
    CallbackKey, Command, DeadLetterContent, KeptCallback, KeptDeadLetter, KeptRequest, Message, Position,
    RecordedEvent, StreamId, SubscriptionName, Version, ms_of_id,
};
use crate::store::{
    ArchivedStream, DeadLetterQuery, DeadLetterReader, EventReader, EventSearch, Filling, FlowQuery, HeldKey,
    HttpRequestReader, KeptTimer, Ledger, ListedRequest, NextCallback, Page, Place, ProgressReader, RequestQuery,
    RequestQueue, SearchedId, Snapshot, Tally, TimerQuery, UnderWay,
};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The number of events that are scanned per wanted event before a page ends without being full. A filter that rarely
/// matches must not hold a snapshot open for long.
const SCANNED_PER_WANTED: usize = 16;

/// The number of events that one search reads, for the same reason.
const SEARCHED_MAX: u64 = 50_000;

/// The order of a stream's events.
#[derive(Clone, Copy)]
enum Order {
    Forwards,
    Backwards,
}

/// The embedded [`Reader`].
pub(super) struct SqliteReader {
    connection: Connection,
    dictionary: Dictionary,
    index: Arc<StreamIndex>,
    tail: Arc<Tail>,
    path: PathBuf,
    snapshots: SnapshotReader,
}

impl SqliteReader {
    pub(super) fn open(path: &Path, index: Arc<StreamIndex>, tail: Arc<Tail>) -> Result<Self, Error> {
        Ok(Self {
            connection: schema::open_for_reading(path)?,
            dictionary: Dictionary::default(),
            index,
            tail,
            path: path.to_owned(),
            snapshots: SnapshotReader::default(),
        })
    }

    /// Returns the positions of a stream's events with versions within the bounds, in version order.
    fn positions(
        &mut self,
        stream: &StreamId,
        from: u64,
        to: u64,
        order: Order,
        limit: usize,
    ) -> Result<Vec<u64>, Error> {
        let (from, to, limit) = (within_sqlite(from), within_sqlite(to), limit.min(i64::MAX as usize));
        let number = self.dictionary.find_aggregate_type(&self.connection, &stream.aggregate_type);
        let Some(number) = number.map_err(failed("reading the stream index"))? else {
            return Ok(Vec::new());
        };
        let key = (number, stream.aggregate_id.clone());
        // Memory is read first, because an entry leaves it only after it is in the table.
        let mut found: BTreeMap<u64, u64> =
            self.index.recent(&key).into_iter().filter(|(version, _)| (from..=to).contains(version)).collect();
        if self.index.known.may_have(&key) {
            self.add_indexed(&mut found, &key, (from, to), order, limit)?;
        }
        Ok(match order {
            Order::Forwards => found.into_values().take(limit).collect(),
            Order::Backwards => found.into_values().rev().take(limit).collect(),
        })
    }

    /// Adds the entries of the table with versions within the bounds, as many as are wanted.
    fn add_indexed(
        &self,
        found: &mut BTreeMap<u64, u64>,
        key: &Key,
        (from, to): (u64, u64),
        order: Order,
        limit: usize,
    ) -> Result<(), Error> {
        let failed = failed("reading the stream index");
        // A row has several consecutive versions, so the first wanted one may be in a row that begins before it.
        let sql = match order {
            Order::Forwards => format!(
                "SELECT {CHUNK_COLUMNS} FROM stream_index WHERE aggregate_type = ?1 AND aggregate_id = ?2
                 AND version >= coalesce((SELECT max(version) FROM stream_index
                     WHERE aggregate_type = ?1 AND aggregate_id = ?2 AND version <= ?3), 0)
                 AND version <= ?4 ORDER BY version"
            ),
            Order::Backwards => format!(
                "SELECT {CHUNK_COLUMNS} FROM stream_index WHERE aggregate_type = ?1 AND aggregate_id = ?2
                 AND version <= ?4 AND ?3 <= ?4 ORDER BY version DESC"
            ),
        };
        let mut select = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let mut chunks = select.query(params![key.0, key.1, from, to]).map_err(&failed)?;
        let mut indexed = 0;
        while indexed < limit {
            let Some(row) = chunks.next().map_err(&failed)? else { break };
            let chunk = Chunk::read(row, 0)?;
            if chunk.last_version() < from {
                break;
            }
            let wanted = chunk.entries().filter(|(version, _)| (from..=to).contains(version));
            indexed += wanted.map(|(version, position)| found.insert(version, position)).count();
        }
        Ok(())
    }

    fn events_at(&mut self, positions: &[u64]) -> Result<Vec<RecordedEvent>, Error> {
        let failed = failed("reading a stream");
        let mut select = self
            .connection
            .prepare_cached(&format!("SELECT {} FROM events WHERE position = ?1", rows::EVENT_COLUMNS))
            .map_err(&failed)?;
        let mut page = Filling::new(positions.len());
        for position in positions {
            if page.is_full() {
                break;
            }
            let mut found = select.query([position]).map_err(&failed)?;
            let row = found.next().map_err(&failed)?.ok_or_else(|| {
                Error::Failed(format!(
                    "the index names position {position}, which does not exist: the store is damaged"
                ))
            })?;
            page.push(rows::event(&self.connection, &mut self.dictionary, row)?);
        }
        Ok(page.events)
    }

    /// Counts the events that wait behind a dead letter.
    fn with_waiting(&mut self, mut kept: KeptDeadLetter) -> Result<KeptDeadLetter, Error> {
        if matches!(kept.letter.content, DeadLetterContent::Event(_) | DeadLetterContent::Record(_))
            && let Some((held, subscription)) = held_keys::behind(&self.connection, kept.number)?
        {
            kept.waiting = if held.next == HeldKey::NO_VERSION {
                callbacks::waiting(&self.connection, &subscription, &held.stream.aggregate_id)?
            } else {
                self.stream_version(&held.stream)?.0.saturating_sub(held.next.0)
            };
        }
        Ok(kept)
    }

    fn list<T>(
        &self,
        doing: &str,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Error> {
        self.connection
            .prepare_cached(sql)
            .and_then(|mut select| select.query_map(params, read)?.collect())
            .map_err(failed(doing))
    }

    fn number(&self, doing: &str, sql: &str, params: impl Params) -> Result<u64, Error> {
        let found = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut select| select.query_row(params, |row| row.get(0)).optional())
            .map_err(failed(doing))?;
        Ok(found.unwrap_or(0))
    }
}

/// Limits a number to SQLite's range, which ends at `i64::MAX`. No position, version or number of the store is beyond
/// it.
pub(super) fn within_sqlite(number: u64) -> u64 {
    number.min(i64::MAX as u64)
}

impl EventReader for SqliteReader {
    fn read_stream(&mut self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<RecordedEvent>, Error> {
        let positions = self.positions(stream, after.0.saturating_add(1), u64::MAX, Order::Forwards, limit)?;
        self.events_at(&positions)
    }

    fn read_stream_backwards(
        &mut self,
        stream: &StreamId,
        before: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, Error> {
        let positions = self.positions(stream, 1, before.0.saturating_sub(1), Order::Backwards, limit)?;
        self.events_at(&positions)
    }

    fn read_all(&mut self, after: Position, filter: &Filter, limit: usize) -> Result<Page, Error> {
        if let Some(page) = self.tail.page(after, filter, limit) {
            return Ok(page);
        }
        let failed = failed("reading events");
        let scan_max = limit.saturating_mul(SCANNED_PER_WANTED).min(i64::MAX as usize);
        let (mut page, mut reached) = (Filling::new(limit), after);
        let mut wanted: HashMap<i64, bool> = HashMap::new();
        let mut select = self
            .connection
            .prepare_cached(&format!(
                "SELECT {} FROM events WHERE position > ?1 ORDER BY position LIMIT ?2",
                rows::EVENT_COLUMNS
            ))
            .map_err(&failed)?;
        let mut found = select.query(params![within_sqlite(after.0), scan_max]).map_err(&failed)?;
        while !page.is_full() {
            let Some(row) = found.next().map_err(&failed)? else { break };
            reached = Position(row.get(0).map_err(&failed)?);
            let event_type: i64 = row.get(1).map_err(&failed)?;
            let wanted = match wanted.get(&event_type) {
                Some(&wanted) => wanted,
                None => {
                    let names = self.dictionary.names(&self.connection, event_type).map_err(&failed)?;
                    *wanted.entry(event_type).or_insert(filter.matches(&names.aggregate_type, &names.name))
                }
            };
            if wanted {
                page.push(rows::event(&self.connection, &mut self.dictionary, row)?);
            }
        }
        Ok(Page { events: page.events, reached })
    }

    fn search(&mut self, search: &EventSearch, from: Position, to: Position, limit: usize) -> Result<Page, Error> {
        let failed = failed("searching events");
        let (from, to) = (within_sqlite(from.0), within_sqlite(to.0));
        let is_forwards = from <= to;
        let end = if is_forwards {
            to.min(from.saturating_add(SEARCHED_MAX - 1))
        } else {
            to.max(from.saturating_sub(SEARCHED_MAX - 1))
        };
        let (condition, id, own) = match &search.id {
            None => ("?3 IS NULL AND ?4 IS NULL", None, None),
            Some(SearchedId::Correlation(id)) => ("correlation_id = ?3 AND ?4 IS NULL", Some(IdColumn::of(id)), None),
            Some(SearchedId::Any(id)) => {
                let own = uuid::Uuid::try_parse(id).ok().map(|id| id.into_bytes());
                ("(correlation_id = ?3 OR causation_id = ?3 OR id = ?4)", Some(IdColumn::of(id)), own)
            }
        };
        let order = if is_forwards { "ASC" } else { "DESC" };
        let sql = format!(
            "SELECT {} FROM events WHERE position BETWEEN ?1 AND ?2 AND {condition} ORDER BY position {order}",
            rows::EVENT_COLUMNS
        );
        let mut select = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let bounds = (from.min(end), from.max(end));
        let mut found = select.query(params![bounds.0, bounds.1, id, own]).map_err(&failed)?;
        let (mut page, mut reached) = (Filling::new(limit), end);
        while !page.is_full() {
            let Some(row) = found.next().map_err(&failed)? else {
                reached = end;
                break;
            };
            reached = row.get(0).map_err(&failed)?;
            let names = self.dictionary.names(&self.connection, row.get(1).map_err(&failed)?).map_err(&failed)?;
            if search.filter.matches(&names.aggregate_type, &names.name) {
                page.push(rows::event(&self.connection, &mut self.dictionary, row)?);
            }
        }
        Ok(Page { events: page.events, reached: Position(reached) })
    }

    fn position_at(&mut self, recorded_ms: u64) -> Result<Position, Error> {
        let failed = failed("looking for the events of a time");
        let mut select = self
            .connection
            .prepare_cached("SELECT position, id FROM events WHERE position >= ?1 ORDER BY position LIMIT 1")
            .map_err(&failed)?;
        let newest =
            self.number("looking for the newest event", "SELECT coalesce(max(position), 0) FROM events", [])?;
        // Ids, and so the times in them, rise with the positions.
        let (mut first, mut end) = (1, newest + 1);
        while first < end {
            let middle = first + (end - first) / 2;
            let found: Option<(u64, [u8; 16])> =
                select.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(&failed)?;
            match found {
                Some((position, id)) if ms_of_id(uuid::Uuid::from_bytes(id)).unwrap_or_default() < recorded_ms => {
                    first = position + 1;
                }
                _ => end = middle,
            }
        }
        Ok(Position(first))
    }

    fn stream_version(&mut self, stream: &StreamId) -> Result<Version, Error> {
        let newest = self.read_stream_backwards(stream, Version(u64::MAX), 1)?;
        Ok(newest.first().map_or(Version(0), |event| event.version))
    }

    fn is_archived(&mut self, stream: &StreamId) -> Result<bool, Error> {
        let doing = "looking for an archived stream";
        let sql = "SELECT count(*) FROM archived_streams WHERE aggregate_id = ?2 AND aggregate_type =
             (SELECT id FROM aggregate_types WHERE name = ?1)";
        self.number(doing, sql, params![stream.aggregate_type, stream.aggregate_id]).map(|found| found > 0)
    }

    fn archived_streams(&mut self, after: Option<&StreamId>, limit: usize) -> Result<Vec<ArchivedStream>, Error> {
        let doing = "listing archived streams";
        let (first, id) = after.map_or(("", ""), |after| (&*after.aggregate_type, &*after.aggregate_id));
        let types: Vec<(i64, Arc<str>)> =
            self.list(doing, "SELECT id, name FROM aggregate_types WHERE name >= ?1 ORDER BY name", [first], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let mut found = Vec::new();
        for (number, aggregate_type) in types {
            // The id of an aggregate is never empty.
            let after = if *aggregate_type == *first { id } else { "" };
            let left = (limit - found.len()).min(i64::MAX as usize);
            found.extend(self.list(
                doing,
                "SELECT aggregate_id, time_ms FROM archived_streams WHERE aggregate_type = ?1 AND aggregate_id > ?2
                 ORDER BY aggregate_id LIMIT ?3",
                params![number, after, left],
                |row| {
                    let stream = StreamId { aggregate_type: aggregate_type.clone(), aggregate_id: row.get(0)? };
                    Ok(ArchivedStream { stream, time_ms: row.get(1)? })
                },
            )?);
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }

    fn snapshot(&mut self, stream: &StreamId, code: &str) -> Result<Option<Snapshot>, Error> {
        let Some((snapshot, last)) = self.snapshots.find(&self.path, stream, code) else { return Ok(None) };
        let is_of_this_history = snapshots::event_at(self, stream, snapshot.version)? == Some(last);
        Ok(is_of_this_history.then_some(snapshot))
    }

    fn tallies(&mut self) -> Result<Vec<Tally>, Error> {
        self.list(
            "reading the outcomes",
            "SELECT aggregate_type, command, accepted, rejected, malformed FROM tallies ORDER BY aggregate_type, command",
            [],
            |row| {
                Ok(Tally {
                    aggregate_type: row.get(0)?,
                    command: row.get(1)?,
                    accepted: row.get(2)?,
                    rejected: row.get(3)?,
                    malformed: row.get(4)?,
                })
            },
        )
    }
}

impl ProgressReader for SqliteReader {
    fn ledger(&mut self, name: &str) -> Result<Ledger, Error> {
        rows::ledger(&self.connection, name)
    }

    fn ledgers(&mut self, prefix: &str) -> Result<Vec<(String, Ledger)>, Error> {
        let names: Vec<String> = self.list(
            "listing ledgers",
            "SELECT name FROM ledgers WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name",
            [prefix],
            |row| row.get(0),
        )?;
        names
            .into_iter()
            .map(|name| {
                let ledger = rows::ledger(&self.connection, &name)?;
                Ok((name, ledger))
            })
            .collect()
    }

    fn checkpoint(&mut self, subscription: &str) -> Result<Option<Position>, Error> {
        let sql = "SELECT position FROM checkpoints WHERE subscription = ?1";
        let found = self.list("reading a checkpoint", sql, [subscription], |row| row.get(0).map(Position))?;
        Ok(found.into_iter().next())
    }

    fn checkpoints(&mut self) -> Result<Vec<(String, Position)>, Error> {
        division::checkpoints(&self.connection)
    }

    fn held_keys(&mut self, subscription: &str) -> Result<Vec<HeldKey>, Error> {
        held_keys::of(&self.connection, subscription)
    }

    fn places(&mut self) -> Result<Vec<Place>, Error> {
        places::of(&self.connection)
    }

    fn pending_commands(&mut self, subscription: &str) -> Result<Vec<Command>, Error> {
        pending_commands(&self.connection, subscription)
    }

    fn messages(&mut self, after: u64, limit: usize) -> Result<Vec<(u64, Message)>, Error> {
        let mut messages = Vec::new();
        let failed = failed("reading the outbox");
        Queue::Messages.read_after(&self.connection, after, failed, |first, body| {
            if messages.len() >= limit {
                return Ok(false);
            }
            let step: Vec<Message> = rows::decode("a row of the outbox", body)?;
            messages.extend((first..).zip(step).filter(|&(number, _)| number > after));
            Ok(true)
        })?;
        Ok(messages)
    }

    fn sink_position(&mut self, sink: &str) -> Result<Option<u64>, Error> {
        let doing = "reading the sink's position";
        let found = self.list(doing, "SELECT position FROM sinks WHERE name = ?1", [sink], |row| row.get(0))?;
        Ok(found.first().copied())
    }

    fn fact(&mut self, name: &str) -> Result<Option<String>, Error> {
        rows::fact(&self.connection, name)
    }

    fn due_callbacks(
        &mut self,
        subscription: &str,
        now_ms: u64,
        without: &HashSet<CallbackKey>,
        limit: usize,
    ) -> Result<Vec<KeptCallback>, Error> {
        callbacks::due(&self.connection, subscription, now_ms, without, limit)
    }

    fn deferred(&mut self, subscription: &str) -> Result<Vec<(CallbackKey, u64)>, Error> {
        callbacks::deferred(&self.connection, subscription)
    }

    fn has_callback(&mut self, number: u64) -> Result<bool, Error> {
        callbacks::exists(&self.connection, number)
    }

    fn next_callback(&mut self, subscription: &str, now_ms: u64) -> Result<NextCallback, Error> {
        callbacks::next(&self.connection, subscription, now_ms)
    }

    fn timers(&mut self, wanted: &TimerQuery<'_>) -> Result<(Vec<KeptTimer>, u64), Error> {
        callbacks::timers(&self.connection, *wanted)
    }

    fn under_way(&mut self, flow: &FlowQuery<'_>) -> Result<UnderWay, Error> {
        // One view for all reads: what moves from one place to another is in one of them.
        let view = self.connection.unchecked_transaction().map_err(failed("reading what is under way"))?;
        let newest = view.query_row("SELECT coalesce(max(position), 0) FROM events", [], |row| row.get(0));
        let newest: u64 = newest.map_err(failed("reading what is under way"))?;
        let requests = http_requests::of_flow(&view, flow.correlation_id)?;
        let mut found = UnderWay { position: Position(newest), requests, ..UnderWay::default() };
        for subscription in flow.subscriptions {
            let pending = pending_commands(&view, subscription)?;
            let is_of_flow = |command: &&Command| *command.correlation_id == *flow.correlation_id;
            found.commands += pending.iter().filter(is_of_flow).count() as u64;
            let (due, waiting) = callbacks::of_flow(&view, subscription, flow)?;
            found.callbacks += due;
            for key in held_keys::of(&view, subscription)? {
                found.count_key(subscription, key, &waiting, flow);
            }
        }
        Ok(found)
    }

    fn facts(&mut self, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        let sql = "SELECT name, value FROM facts WHERE substr(name, 1, length(?1)) = ?1 ORDER BY name";
        self.list("listing facts", sql, [prefix], |row| Ok((row.get(0)?, row.get(1)?)))
    }
}

/// Returns the commands of a subscription that are not settled, in order.
pub(super) fn pending_commands(connection: &Connection, subscription: &str) -> Result<Vec<Command>, Error> {
    let doing = "reading the commands of a subscription";
    let steps = Queue::Commands(subscription).rows(connection).map_err(failed(doing))?;
    // The ledger is read after the commands, so that it has what was settled meanwhile.
    let ledger = rows::ledger(connection, &SubscriptionName::parse(subscription).ledger().to_string())?;
    let mut pending = Vec::new();
    for step in steps {
        let commands: Vec<Command> = rows::decode(&format!("the outbox of subscription {subscription}"), &step.body)?;
        let settled = |command: &Command| command.origin.as_ref().is_some_and(|origin| ledger.has(origin.last));
        pending.extend(commands.into_iter().filter(|command| !settled(command)));
    }
    Ok(pending)
}

impl HttpRequestReader for SqliteReader {
    fn due_requests(&mut self, queue: RequestQueue<'_>, now_ms: u64, limit: usize) -> Result<Vec<KeptRequest>, Error> {
        http_requests::due(&self.connection, queue, now_ms, limit)
    }

    fn next_request(&mut self, queue: RequestQueue<'_>) -> Result<Option<u64>, Error> {
        http_requests::next(&self.connection, queue)
    }

    fn has_requests(&mut self, queue: RequestQueue<'_>) -> Result<bool, Error> {
        http_requests::exist(&self.connection, queue)
    }

    fn count_requests(&mut self, queue: RequestQueue<'_>) -> Result<u64, Error> {
        http_requests::count(&self.connection, queue)
    }

    fn newest_numbers(&mut self) -> Result<(u64, u64), Error> {
        Ok((http_requests::newest(&self.connection)?, callbacks::newest(&self.connection)?))
    }

    fn requested_endpoints(&mut self, subscription: &str) -> Result<Vec<String>, Error> {
        http_requests::endpoints(&self.connection, subscription)
    }

    fn requests(&mut self, wanted: &RequestQuery<'_>) -> Result<(Vec<ListedRequest>, u64), Error> {
        http_requests::list(&self.connection, *wanted)
    }
}

impl DeadLetterReader for SqliteReader {
    fn dead_letters_after(&mut self, after: u64, limit: usize) -> Result<Vec<KeptDeadLetter>, Error> {
        let letters = dead_letters::after(&self.connection, after, limit)?;
        letters.into_iter().map(|letter| self.with_waiting(letter)).collect()
    }

    fn dead_letters(&mut self, wanted: &DeadLetterQuery<'_>) -> Result<(Vec<KeptDeadLetter>, u64), Error> {
        let (letters, total) = dead_letters::list(&self.connection, wanted)?;
        let letters = letters.into_iter().map(|letter| self.with_waiting(letter)).collect::<Result<_, _>>()?;
        Ok((letters, total))
    }

    fn dead_letter(&mut self, number: u64) -> Result<Option<KeptDeadLetter>, Error> {
        dead_letters::find(&self.connection, number)?.map(|letter| self.with_waiting(letter)).transpose()
    }
}
