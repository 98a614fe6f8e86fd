//! The reader. Each call borrows a connection, and sees everything that was committed before it.

use super::connection::{Connection, int, text, uint};
use super::pool::Pool;
use super::{callbacks, dead_letters, division, held_keys, http_requests, outbox, places, snapshots};
use crate::filter::Filter;
use crate::model::{
    CallbackKey, Command, DeadLetterContent, KeptCallback, KeptDeadLetter, KeptRequest, Message, Position, QuickMap,
    RecordedEvent, StreamId, Version, ms_of_id,
};
use crate::store::encoding::{Extras, decode_headers};
use crate::store::tail::Tail;
use crate::store::{
    ArchivedStream, DeadLetterQuery, DeadLetterReader, Error, EventReader, EventSearch, Filling, FlowQuery, HeldKey,
    HttpRequestReader, KeptTimer, Ledger, ListedRequest, NextCallback, PAGE_BYTES_MAX, Page, Place, ProgressReader,
    RequestQuery, RequestQueue, SearchedId, Snapshot, Tally, TimerQuery, UnderWay,
};
use std::collections::HashSet;
use std::sync::Arc;
use tokio_postgres::Row;

/// The number of events that are scanned per wanted event before a page ends without being full.
const SCANNED_PER_WANTED: usize = 16;

/// The number of events that one search reads.
const SEARCHED_MAX: u64 = 50_000;

/// The most events that one statement reads. Their bytes are limited too, in [`pages`].
const ROWS_MAX: usize = 2_000;

/// Where a reader has its connections from.
pub(super) enum Source {
    /// It borrows one of the store for each call.
    Pool(Arc<Pool>),
    /// It has one of its own, in a transaction that sees one moment.
    Moment(Box<Connection>),
}

/// The reader of a store in PostgreSQL.
pub(super) struct PostgresReader {
    source: Source,
    names: Names,
    tail: Arc<Tail>,
}

impl PostgresReader {
    pub(super) fn new(source: Source, tail: Arc<Tail>) -> Self {
        Self { source, names: Names::default(), tail }
    }

    fn with<T>(&mut self, mut read: impl FnMut(&Connection, &mut Names) -> Result<T, Error>) -> Result<T, Error> {
        let names = &mut self.names;
        match &self.source {
            Source::Pool(pool) => pool.with(|connection| read(connection, names)),
            Source::Moment(connection) => read(connection, names),
        }
    }
}

/// The names of event types by their numbers. It only grows, because a number never changes its meaning.
#[derive(Default)]
pub(super) struct Names(QuickMap<i32, (Arc<str>, Arc<str>)>);

impl Names {
    /// Returns the names of the aggregate type and of the event.
    fn of(&mut self, connection: &Connection, number: i32) -> Result<&(Arc<str>, Arc<str>), Error> {
        if !self.0.contains_key(&number) {
            let sql =
                "SELECT t.id, a.name, t.name FROM event_types t JOIN aggregate_types a ON a.id = t.aggregate_type";
            for row in connection.query("reading the names of events", sql, &[])? {
                let names = (row.get::<_, &str>(1).into(), row.get::<_, &str>(2).into());
                self.0.entry(row.get(0)).or_insert(names);
            }
        }
        self.0.get(&number).ok_or_else(|| {
            Error::Failed(format!("the event type {number} has no name: restore the database from a backup"))
        })
    }
}

/// Reads a row of position, type, aggregate_id, version, id, time_ms, correlation_id, causation_id, headers, payload.
fn event(connection: &Connection, names: &mut Names, row: &Row) -> Result<RecordedEvent, Error> {
    let (aggregate_type, name) = names.of(connection, row.get(1))?.clone();
    let position = Position(uint(row, 0));
    let Extras { headers, hops, first_ms } = match row.get::<_, Option<&[u8]>>(8) {
        Some(bytes) => decode_headers(position, bytes)?,
        None => Extras::default(),
    };
    let id = uuid::Uuid::from_slice(row.get(4)).map_err(|error| {
        Error::Failed(format!("the id of the event at position {position} is none ({error}): restore a backup"))
    })?;
    Ok(RecordedEvent {
        id,
        position,
        stream: StreamId { aggregate_type, aggregate_id: text(row, 2)?.into() },
        version: Version(uint(row, 3)),
        name,
        payload: row.get(9),
        time_ms: uint(row, 5),
        first_ms,
        correlation_id: text(row, 6)?.into(),
        causation_id: text(row, 7)?.into(),
        hops,
        headers,
    })
}

/// Makes a statement on events, which ends at a number of rows and about [`PAGE_BYTES_MAX`]. The sum over the rows before costs
/// less than to send what nobody wants.
macro_rules! events {
    ($condition:literal, $order:literal) => {
        concat!(
            "SELECT position, type, aggregate_id, version, id, time_ms, correlation_id, causation_id, headers, payload FROM (
                SELECT *, sum(length(payload) + 320) OVER (ORDER BY ",
            $order,
            " ROWS UNBOUNDED PRECEDING) - length(payload) AS before FROM (
                SELECT * FROM events WHERE ",
            $condition,
            " ORDER BY ",
            $order,
            " LIMIT $1) AS page) AS page WHERE before <= 8388608 ORDER BY ",
            $order
        )
    };
}

const _: () = assert!(PAGE_BYTES_MAX == 8_388_608, "the statements have the limit as a number");

const OF_STREAM: &str = events!(
    "aggregate_type = (SELECT id FROM aggregate_types WHERE name = $2) AND aggregate_id = $3 AND version > $4",
    "version"
);
const OF_STREAM_BACKWARDS: &str = events!(
    "aggregate_type = (SELECT id FROM aggregate_types WHERE name = $2) AND aggregate_id = $3 AND version < $4",
    "version DESC"
);
const AFTER: &str = events!("position > $2", "position");

impl PostgresReader {
    /// Reads events of a stream, from statements of at most [`ROWS_MAX`] rows.
    fn of_stream(
        &mut self,
        sql: &'static str,
        stream: &StreamId,
        bound: u64,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, Error> {
        const DOING: &str = "reading a stream";
        self.with(|connection, names| {
            let (mut page, mut bound) = (Filling::new(limit), int(bound));
            loop {
                let rows_max = (limit - page.events.len()).min(ROWS_MAX);
                let (aggregate_type, id) = (&*stream.aggregate_type, stream.aggregate_id.as_bytes());
                let rows = connection.query(DOING, sql, &[&int(rows_max as u64), &aggregate_type, &id, &bound])?;
                for row in &rows {
                    if page.is_full() {
                        return Ok(page.events);
                    }
                    page.push(event(connection, names, row)?);
                    bound = row.get(3);
                }
                if rows.is_empty() || page.is_full() {
                    return Ok(page.events);
                }
            }
        })
    }

    /// Counts the events that wait behind a dead letter.
    fn with_waiting(&mut self, mut kept: KeptDeadLetter) -> Result<KeptDeadLetter, Error> {
        if !matches!(kept.letter.content, DeadLetterContent::Event(_) | DeadLetterContent::Record(_)) {
            return Ok(kept);
        }
        let number = kept.number;
        let behind = self.with(|connection, _| held_keys::behind(connection, number))?;
        if let Some((held, subscription)) = behind {
            kept.waiting = if held.next == HeldKey::NO_VERSION {
                let key = held.stream.aggregate_id.as_bytes();
                self.with(|connection, _| callbacks::waiting(connection, &subscription, key))?
            } else {
                self.stream_version(&held.stream)?.0.saturating_sub(held.next.0)
            };
        }
        Ok(kept)
    }
}

impl EventReader for PostgresReader {
    fn read_stream(&mut self, stream: &StreamId, after: Version, limit: usize) -> Result<Vec<RecordedEvent>, Error> {
        self.of_stream(OF_STREAM, stream, after.0, limit)
    }

    fn read_stream_backwards(
        &mut self,
        stream: &StreamId,
        before: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, Error> {
        self.of_stream(OF_STREAM_BACKWARDS, stream, before.0, limit)
    }

    fn read_all(&mut self, after: Position, filter: &Filter, limit: usize) -> Result<Page, Error> {
        if let Some(page) = self.tail.page(after, filter, limit) {
            return Ok(page);
        }
        self.with(|connection, names| {
            let mut scan_max = limit.saturating_mul(SCANNED_PER_WANTED);
            let (mut page, mut reached) = (Filling::new(limit), after);
            while !page.is_full() && scan_max > 0 {
                // A filter that wants nearly everything should not read much more than it wants.
                let rows_max = scan_max.min(ROWS_MAX).min(limit.saturating_mul(2));
                let values = (int(rows_max as u64), int(reached.0));
                let rows = connection.query("reading events", AFTER, &[&values.0, &values.1])?;
                for row in &rows {
                    if page.is_full() {
                        break;
                    }
                    let (aggregate_type, name) = names.of(connection, row.get(1))?;
                    let is_wanted = filter.matches(aggregate_type, name);
                    reached = Position(uint(row, 0));
                    if is_wanted {
                        page.push(event(connection, names, row)?);
                    }
                }
                if rows.is_empty() {
                    break;
                }
                scan_max = scan_max.saturating_sub(rows.len());
            }
            Ok(Page { events: page.events, reached })
        })
    }

    fn search(&mut self, search: &EventSearch, from: Position, to: Position, limit: usize) -> Result<Page, Error> {
        const DOING: &str = "searching events";
        let (from, to) = (from.0.min(i64::MAX as u64), to.0.min(i64::MAX as u64));
        let is_forwards = from <= to;
        let end = if is_forwards {
            to.min(from.saturating_add(SEARCHED_MAX - 1))
        } else {
            to.max(from.saturating_sub(SEARCHED_MAX - 1))
        };
        // NULL stands for everything.
        let (correlation, any) = match &search.id {
            None => (None, None),
            Some(SearchedId::Correlation(id)) => (Some(id.as_bytes()), None),
            Some(SearchedId::Any(id)) => (None, Some(id)),
        };
        let own = any.and_then(|id| uuid::Uuid::try_parse(id).ok()).map(|id| id.into_bytes().to_vec());
        let any = any.map(|id| id.as_bytes());
        let sql = if is_forwards { SEARCH_FORWARDS } else { SEARCH_BACKWARDS };
        self.with(|connection, names| {
            let (mut page, mut next) = (Filling::new(limit), from);
            loop {
                let bounds = (int(next.min(end)), int(next.max(end)));
                let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                    [&int(ROWS_MAX as u64), &bounds.0, &bounds.1, &correlation, &any, &own];
                let rows = connection.query(DOING, sql, &values)?;
                let mut reached = next;
                for row in &rows {
                    reached = uint(row, 0);
                    let (aggregate_type, name) = names.of(connection, row.get(1))?;
                    if search.filter.matches(aggregate_type, name) {
                        page.push(event(connection, names, row)?);
                        if page.is_full() {
                            return Ok(Page { events: page.events, reached: Position(reached) });
                        }
                    }
                }
                if rows.is_empty() || reached == end {
                    return Ok(Page { events: page.events, reached: Position(end) });
                }
                next = if is_forwards { reached + 1 } else { reached - 1 };
            }
        })
    }

    fn position_at(&mut self, recorded_ms: u64) -> Result<Position, Error> {
        const DOING: &str = "looking for the events of a time";
        self.with(|connection, _| {
            let newest = connection.first(DOING, "SELECT coalesce(max(position), 0) FROM events", &[])?;
            let newest = newest.map_or(0, |row| uint(&row, 0));
            // Ids, and so the times in them, rise with the positions.
            let (mut first, mut end) = (1, newest + 1);
            while first < end {
                let middle = first + (end - first) / 2;
                let sql = "SELECT position, id FROM events WHERE position >= $1 ORDER BY position LIMIT 1";
                let found = connection.first(DOING, sql, &[&int(middle)])?;
                let recorded = found.map(|row| {
                    let id = uuid::Uuid::from_slice(row.get(1)).ok();
                    (uint(&row, 0), id.and_then(ms_of_id).unwrap_or_default())
                });
                match recorded {
                    Some((position, ms)) if ms < recorded_ms => first = position + 1,
                    _ => end = middle,
                }
            }
            Ok(Position(first))
        })
    }

    fn stream_version(&mut self, stream: &StreamId) -> Result<Version, Error> {
        let sql = "SELECT version FROM events WHERE aggregate_type = (SELECT id FROM aggregate_types WHERE name = $1)
                   AND aggregate_id = $2 ORDER BY version DESC LIMIT 1";
        let (aggregate_type, id) = (&*stream.aggregate_type, stream.aggregate_id.as_bytes());
        let doing = "reading the version of a stream";
        let row = self.with(|connection, _| connection.first(doing, sql, &[&aggregate_type, &id]))?;
        Ok(Version(row.map_or(0, |row| uint(&row, 0))))
    }

    fn is_archived(&mut self, stream: &StreamId) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM archived_streams WHERE aggregate_id = $2 AND aggregate_type =
                   (SELECT id FROM aggregate_types WHERE name = $1)";
        let (aggregate_type, id) = (&*stream.aggregate_type, stream.aggregate_id.as_bytes());
        let doing = "looking for an archived stream";
        Ok(self.with(|connection, _| connection.first(doing, sql, &[&aggregate_type, &id]))?.is_some())
    }

    fn archived_streams(&mut self, after: Option<&StreamId>, limit: usize) -> Result<Vec<ArchivedStream>, Error> {
        let (aggregate_type, id) =
            after.map_or(("", &b""[..]), |after| (&*after.aggregate_type, after.aggregate_id.as_bytes()));
        let sql = "SELECT a.name, s.aggregate_id, s.time_ms FROM archived_streams s
                   JOIN aggregate_types a ON a.id = s.aggregate_type
                   WHERE a.name > $1 OR (a.name = $1 AND s.aggregate_id > $2) ORDER BY a.name, s.aggregate_id LIMIT $3";
        let values = (&aggregate_type, &id, &int(limit as u64));
        let doing = "listing archived streams";
        let rows = self.with(|connection, _| connection.query(doing, sql, &[values.0, values.1, values.2]))?;
        let archived = |row: &Row| {
            let stream = StreamId::new(row.get::<_, String>(0), text(row, 1)?);
            Ok(ArchivedStream { stream, time_ms: uint(row, 2) })
        };
        rows.iter().map(archived).collect()
    }

    fn snapshot(&mut self, stream: &StreamId, code: &str) -> Result<Option<Snapshot>, Error> {
        self.with(|connection, _| snapshots::find(connection, stream, code))
    }

    fn tallies(&mut self) -> Result<Vec<Tally>, Error> {
        let sql = "SELECT aggregate_type, command, accepted, rejected, malformed FROM tallies
                   ORDER BY aggregate_type, command";
        let rows = self.with(|connection, _| connection.query("reading the outcomes", sql, &[]))?;
        let tally = |row: &Row| {
            Ok(Tally {
                aggregate_type: row.get(0),
                command: text(row, 1)?,
                accepted: uint(row, 2),
                rejected: uint(row, 3),
                malformed: uint(row, 4),
            })
        };
        rows.iter().map(tally).collect()
    }
}

const SEARCH_FORWARDS: &str = events!(
    "position BETWEEN $2 AND $3 AND ($4::bytea IS NULL OR correlation_id = $4)
     AND ($5::bytea IS NULL OR correlation_id = $5 OR causation_id = $5 OR id = $6)",
    "position"
);
const SEARCH_BACKWARDS: &str = events!(
    "position BETWEEN $2 AND $3 AND ($4::bytea IS NULL OR correlation_id = $4)
     AND ($5::bytea IS NULL OR correlation_id = $5 OR causation_id = $5 OR id = $6)",
    "position DESC"
);

impl ProgressReader for PostgresReader {
    fn ledger(&mut self, name: &str) -> Result<Ledger, Error> {
        self.with(|connection, _| outbox::ledger(connection, name))
    }

    fn ledgers(&mut self, prefix: &str) -> Result<Vec<(String, Ledger)>, Error> {
        let sql = "SELECT name, next, ahead FROM ledgers WHERE starts_with(name, $1) ORDER BY name";
        let rows = self.with(|connection, _| connection.query("listing ledgers", sql, &[&prefix]))?;
        let ledger = |row: &Row| {
            let name: String = row.get(0);
            let ledger = super::hints::ledger(&name, row, 1)?;
            Ok((name, ledger))
        };
        rows.iter().map(ledger).collect()
    }

    fn checkpoint(&mut self, subscription: &str) -> Result<Option<Position>, Error> {
        let sql = "SELECT position FROM checkpoints WHERE subscription = $1";
        let row = self.with(|connection, _| connection.first("reading a checkpoint", sql, &[&subscription]))?;
        Ok(row.map(|row| Position(uint(&row, 0))))
    }

    fn checkpoints(&mut self) -> Result<Vec<(String, Position)>, Error> {
        self.with(|connection, _| division::checkpoints(connection))
    }

    fn held_keys(&mut self, subscription: &str) -> Result<Vec<HeldKey>, Error> {
        self.with(|connection, _| held_keys::of(connection, subscription))
    }

    fn places(&mut self) -> Result<Vec<Place>, Error> {
        self.with(|connection, _| places::of(connection))
    }

    fn pending_commands(&mut self, subscription: &str) -> Result<Vec<Command>, Error> {
        self.with(|connection, _| outbox::pending_commands(connection, subscription))
    }

    fn messages(&mut self, after: u64, limit: usize) -> Result<Vec<(u64, Message)>, Error> {
        self.with(|connection, _| outbox::messages(connection, after, limit))
    }

    fn sink_position(&mut self, sink: &str) -> Result<Option<u64>, Error> {
        let sql = "SELECT position FROM sinks WHERE name = $1";
        let row = self.with(|connection, _| connection.first("reading the sink's position", sql, &[&sink]))?;
        Ok(row.map(|row| uint(&row, 0)))
    }

    fn fact(&mut self, name: &str) -> Result<Option<String>, Error> {
        self.with(|connection, _| fact(connection, name))
    }

    fn due_callbacks(
        &mut self,
        subscription: &str,
        now_ms: u64,
        without: &HashSet<CallbackKey>,
        limit: usize,
    ) -> Result<Vec<KeptCallback>, Error> {
        self.with(|connection, _| callbacks::due(connection, subscription, now_ms, without, limit))
    }

    fn deferred(&mut self, subscription: &str) -> Result<Vec<(CallbackKey, u64)>, Error> {
        self.with(|connection, _| callbacks::deferred(connection, subscription))
    }

    fn has_callback(&mut self, number: u64) -> Result<bool, Error> {
        self.with(|connection, _| callbacks::exists(connection, number))
    }

    fn next_callback(&mut self, subscription: &str, now_ms: u64) -> Result<NextCallback, Error> {
        self.with(|connection, _| callbacks::next(connection, subscription, now_ms))
    }

    fn timers(&mut self, wanted: &TimerQuery<'_>) -> Result<(Vec<KeptTimer>, u64), Error> {
        self.with(|connection, _| callbacks::timers(connection, *wanted))
    }

    fn under_way(&mut self, flow: &FlowQuery<'_>) -> Result<UnderWay, Error> {
        const DOING: &str = "reading what is under way";
        let has_moment = matches!(self.source, Source::Moment(_));
        self.with(|connection, _| {
            // One view for all reads: what moves from one place to another is in one of them.
            if !has_moment {
                connection.batch(DOING, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
            }
            let found = under_way(connection, flow);
            if !has_moment {
                connection.batch(DOING, "ROLLBACK")?;
            }
            found
        })
    }

    fn facts(&mut self, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        let sql = "SELECT name, value FROM facts WHERE starts_with(name, $1) ORDER BY name";
        let rows = self.with(|connection, _| connection.query("listing facts", sql, &[&prefix]))?;
        rows.iter().map(|row| Ok((row.get(0), text(row, 1)?))).collect()
    }
}

fn under_way(connection: &Connection, flow: &FlowQuery<'_>) -> Result<UnderWay, Error> {
    let newest = connection.first("reading what is under way", "SELECT position FROM head", &[])?;
    let requests = http_requests::of_flow(connection, flow.correlation_id)?;
    let position = Position(newest.map_or(0, |row| uint(&row, 0)));
    let mut found = UnderWay { position, requests, ..UnderWay::default() };
    for subscription in flow.subscriptions {
        let pending = outbox::pending_commands(connection, subscription)?;
        let is_of_flow = |command: &&Command| *command.correlation_id == *flow.correlation_id;
        found.commands += pending.iter().filter(is_of_flow).count() as u64;
        let (due, waiting) = callbacks::of_flow(connection, subscription, flow)?;
        found.callbacks += due;
        for key in held_keys::of(connection, subscription)? {
            found.count_key(subscription, key, &waiting, flow);
        }
    }
    Ok(found)
}

/// Returns the value of a fact, if it has one.
pub(super) fn fact(connection: &Connection, name: &str) -> Result<Option<String>, Error> {
    let row = connection.first("reading a fact", "SELECT value FROM facts WHERE name = $1", &[&name])?;
    row.map(|row| text(&row, 0)).transpose()
}

impl HttpRequestReader for PostgresReader {
    fn due_requests(&mut self, queue: RequestQueue<'_>, now_ms: u64, limit: usize) -> Result<Vec<KeptRequest>, Error> {
        self.with(|connection, _| http_requests::due(connection, queue, now_ms, limit))
    }

    fn next_request(&mut self, queue: RequestQueue<'_>) -> Result<Option<u64>, Error> {
        self.with(|connection, _| http_requests::next(connection, queue))
    }

    fn has_requests(&mut self, queue: RequestQueue<'_>) -> Result<bool, Error> {
        self.with(|connection, _| http_requests::exist(connection, queue))
    }

    fn count_requests(&mut self, queue: RequestQueue<'_>) -> Result<u64, Error> {
        self.with(|connection, _| http_requests::count(connection, queue))
    }

    fn newest_numbers(&mut self) -> Result<(u64, u64), Error> {
        let sql = "SELECT http_request, callback FROM head WHERE number = 1";
        let row = self.with(|connection, _| connection.first("reading the newest numbers", sql, &[]))?;
        Ok(row.map_or((0, 0), |row| (uint(&row, 0), uint(&row, 1))))
    }

    fn requested_endpoints(&mut self, subscription: &str) -> Result<Vec<String>, Error> {
        self.with(|connection, _| http_requests::endpoints(connection, subscription))
    }

    fn requests(&mut self, wanted: &RequestQuery<'_>) -> Result<(Vec<ListedRequest>, u64), Error> {
        self.with(|connection, _| http_requests::list(connection, *wanted))
    }
}

impl DeadLetterReader for PostgresReader {
    fn dead_letters_after(&mut self, after: u64, limit: usize) -> Result<Vec<KeptDeadLetter>, Error> {
        let letters = self.with(|connection, _| dead_letters::after(connection, after, limit))?;
        letters.into_iter().map(|letter| self.with_waiting(letter)).collect()
    }

    fn dead_letters(&mut self, wanted: &DeadLetterQuery<'_>) -> Result<(Vec<KeptDeadLetter>, u64), Error> {
        let (letters, total) = self.with(|connection, _| dead_letters::list(connection, wanted))?;
        let letters = letters.into_iter().map(|letter| self.with_waiting(letter)).collect::<Result<_, _>>()?;
        Ok((letters, total))
    }

    fn dead_letter(&mut self, number: u64) -> Result<Option<KeptDeadLetter>, Error> {
        let found = self.with(|connection, _| dead_letters::find(connection, number))?;
        found.map(|letter| self.with_waiting(letter)).transpose()
    }
}
