//! The only writer: a thread that turns queued requests into transactions.
//!
//! A transaction takes the queued requests, up to its limits, and never waits for more: while it commits, the next ones
//! gather. A request that is refused (conflict, duplicate, moved checkpoint) is refused before it writes anything that
//! counts, so the other requests of the transaction are not affected. If the database itself fails, the whole
//! transaction is rolled back, all of its requests fail, and the next transaction first reloads from the file what
//! memory knew.

use super::age::{Age, Moment};
use super::dead_letter_room::DeadLetterRoom;
use super::fault::{self, FaultPoint};
use super::ids::Ids;
use super::ledgers::Ledgers;
use super::log::Log;
use super::outbox::Queue;
use super::owner::{self, Ownership};
use super::recovery::Doubt;
use super::room::Room;
use super::stream_index::{Entry, Filler, Key, StreamIndex};
use super::tail::{Recorded, Tail};
use super::wal_checkpoint::Fold;
use super::watches::{Announcer, NewestNumbers, Watches};
use super::write_request::{PendingAnswer, WriteRequest, deliver_all, refuse_beyond, split};
use super::{Error, Meters, Options, appends, callbacks, dead_letters, dictionary::Dictionary, failed, rows, schema};
use crate::model::{Command, DeadLetter, Origin, QuickMap, SinkName};
use crate::store::recording::{Recording as _, StreamHead};
use crate::supervise;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use lru::LruCache;
use rusqlite::{Connection, OptionalExtension, params};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The content of one transaction so far.
#[derive(Default)]
pub(super) struct WriteBatch {
    answers: Vec<PendingAnswer>,
    /// The new entries of the stream index, which readers see after the commit.
    pub(super) entries: Vec<(Key, Entry)>,
    /// The new events, which readers see after the commit.
    pub(super) recorded: Recorded,
    /// The number of commands that were accepted, rejected and malformed.
    pub(super) tallies: QuickMap<(Arc<str>, Arc<str>), [u64; 3]>,
    /// The bytes of events, dead letters, and effects in the outbox.
    pub(super) bytes: usize,
}

impl WriteBatch {
    /// Returns the counts of this kind of command.
    pub(super) fn tally(&mut self, command: &Command) -> &mut [u64; 3] {
        self.tallies.entry((command.stream.aggregate_type.clone(), command.name.clone())).or_default()
    }
}

/// The thread's state. All of it but the connection can be rebuilt from the file.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) options: Options,
    pub(super) dictionary: Dictionary,
    pub(super) ledgers: Ledgers,
    /// The versions of the streams with the most recent appends.
    pub(super) heads: LruCache<Key, StreamHead>,
    pub(super) index: Arc<StreamIndex>,
    tail: Arc<Tail>,
    pub(super) ids: Ids,
    pub(super) next_position: u64,
    /// Whether any stream is archived.
    pub(super) any_archived: bool,
    /// The number of outcomes stored since the last clean-up.
    pub(super) outcomes_stored: u32,
    /// The number of the next step in the row of each subscription to records.
    pub(super) rows: QuickMap<Arc<str>, u64>,
    pub(super) next_message: u64,
    pub(super) newest_dead_letter: u64,
    pub(super) newest_callback: u64,
    /// A number that increases when an HTTP request may be due earlier than before.
    pub(super) requests_changed: u64,
    pub(super) dead_letter_room: DeadLetterRoom,
    filler: Filler,
    /// Whether the last transaction failed. Then memory does not match the file. The index waits for the next request,
    /// so that the thread does not spin while the disk is full.
    failed: bool,
    /// The doubt whether a transaction like a failed one would succeed again.
    pub(super) doubt: Option<Doubt>,
    pub(super) log: Log,
    /// The size of the log at which it is folded next.
    pub(super) fold_at: u64,
    /// The bytes of events in the log since it was last folded.
    pub(super) unfolded_bytes: usize,
    /// Whether the next transaction may be the first one of a log, and must mark it.
    pub(super) is_log_new: bool,
    announcer: Announcer,
    pub(super) ownership: Ownership,
    pub(super) age: Age,
    pub(super) meters: Arc<Meters>,
    /// The limit on the bytes of queued requests.
    room: Arc<Room>,
    /// The lock on the store, which is held while the writer lives.
    _lock: schema::Lock,
}

impl Writer {
    pub(super) fn new(
        mut connection: Connection,
        lock: schema::Lock,
        ownership: Ownership,
        options: Options,
        index: Arc<StreamIndex>,
        tail: Arc<Tail>,
        room: Arc<Room>,
    ) -> Result<Self, Error> {
        connection.set_prepared_statement_cache_capacity(64);
        let meters = Meters::new();
        let age = Age::resume(owner::noted_moment(&connection)?, options.clock.clone(), &meters.clock_jumps);
        let filler = Filler::open(&connection, index.clone(), &options)?;
        let log = Log::open(&mut connection, options.log_bytes_max)?;
        // A stream's version must not leave memory before the transaction that changed it is committed.
        let heads_max = options.heads_max.max(options.batch_max);
        let heads = LruCache::new(NonZeroUsize::new(heads_max).unwrap_or(NonZeroUsize::MIN));
        let mut writer = Self {
            fold_at: options.log_bytes_max,
            unfolded_bytes: 0,
            is_log_new: false,
            ids: Ids::new(options.clock.clone()),
            connection,
            options,
            dictionary: Dictionary::default(),
            ledgers: Ledgers::default(),
            heads,
            index,
            tail,
            next_position: 1,
            any_archived: false,
            // The first outcome triggers a clean-up, so that hosts that stop early also do it.
            outcomes_stored: appends::OUTCOMES_PER_CLEAN_UP,
            rows: QuickMap::default(),
            next_message: 1,
            newest_dead_letter: 0,
            newest_callback: 0,
            requests_changed: 0,
            dead_letter_room: DeadLetterRoom::default(),
            filler,
            failed: false,
            doubt: None,
            log,
            announcer: Announcer::new(),
            ownership,
            age,
            meters: Arc::new(meters),
            room,
            _lock: lock,
        };
        writer.reload()?;
        writer.announce();
        Ok(writer)
    }

    pub(super) fn watches(&self) -> Watches {
        self.announcer.watches()
    }

    /// Works until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, requests: Receiver<WriteRequest>) {
        if let Err(lost @ Error::Lost { .. }) = self.work(&requests) {
            tracing::error!("{lost}");
            self.announcer.lost(lost.clone());
            schema::keep_log(&self.connection);
            return requests.into_iter().for_each(|request| self.refuse(request, &lost));
        }
        if let Err(error) = self.begin().and_then(|()| self.note_time()).and_then(|()| self.sql("COMMIT", "closing")) {
            tracing::warn!("the running time since it was last written is lost: {error}");
        }
        if let Err(error) = self.fold_log(Fold::Cut) {
            schema::keep_log(&self.connection);
            tracing::warn!("closing the store: {error}; the next start recovers from its log");
        }
    }

    /// Runs transactions until every sender is gone. The only error is that the store is lost.
    fn work(&mut self, requests: &Receiver<WriteRequest>) -> Result<(), Error> {
        loop {
            let first = if self.filler.has_work() && !self.failed {
                match requests.try_recv() {
                    Ok(request) => Some(request),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            } else {
                match self.next(requests)? {
                    Some(request) => Some(request),
                    None => return Ok(()),
                }
            };
            supervise::round();
            self.transaction(first, requests)?;
        }
    }

    /// Returns the next request. While nobody waits, a part of the log is folded, so that requests rarely have to wait
    /// for a complete fold.
    fn next(&mut self, requests: &Receiver<WriteRequest>) -> Result<Option<WriteRequest>, Error> {
        if self.has_much_to_fold() && !self.failed {
            match requests.try_recv() {
                Ok(request) => return Ok(Some(request)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => self.fold_at_rest(),
            }
        }
        loop {
            match requests.recv_timeout(owner::LOOK_EVERY) {
                Ok(request) => return Ok(Some(request)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {
                    self.rest()?;
                    // After a failure this tests if writing works again.
                    if self.age.is_due() || self.failed || self.doubt.is_some() {
                        self.transaction(None, requests)?;
                    }
                }
            }
        }
    }

    /// Checks the store while there is nothing else to do. If a check fails, the next transaction reports it.
    fn rest(&mut self) -> Result<(), Error> {
        self.age.watch(&self.meters.clock_jumps);
        match self.ownership.check(&self.connection) {
            Err(lost @ Error::Lost { .. }) => Err(lost),
            _ => Ok(()),
        }
    }

    /// Runs one transaction: begin, the queued requests, a slice of the index, commit, answers. The only error is that
    /// the store is lost.
    fn transaction(&mut self, first: Option<WriteRequest>, requests: &Receiver<WriteRequest>) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        match self.fill(&mut batch, first, requests) {
            Ok(()) => self.committed(batch),
            Err(error) => {
                self.rolled_back(batch, &error);
                if matches!(error, Error::Lost { .. }) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn fill(
        &mut self,
        batch: &mut WriteBatch,
        first: Option<WriteRequest>,
        requests: &Receiver<WriteRequest>,
    ) -> Result<(), Error> {
        fault::at(FaultPoint::BeforeBegin);
        if let Err(error) = self.begin() {
            // The requests behind the first one have waited as long.
            let queued = requests.try_iter().take(requests.len());
            first.into_iter().chain(queued).for_each(|request| self.refuse(request, &error));
            return Err(error);
        }
        fault::at(FaultPoint::Begun);
        let (mut next, mut queued_bytes) = (first, 0);
        while let Some(request) = next {
            queued_bytes += request.bytes();
            if let Err(error) = self.handle(batch, request) {
                self.room.free(queued_bytes);
                return Err(error);
            }
            fault::at(FaultPoint::RequestDone);
            let full = batch.answers.len() >= self.options.batch_max || batch.bytes >= self.options.batch_bytes_max;
            next = if full { None } else { requests.try_recv().ok() };
        }
        // All at once, because senders and this thread would take the counter from each other for every request.
        self.room.free(queued_bytes);
        self.insert_events(batch)?;
        self.ledgers.write(&self.connection)?;
        fault::at(FaultPoint::LedgersWritten);
        self.write_tallies(batch)?;
        self.keep_time()?;
        fault::at(FaultPoint::TalliesWritten);
        self.filler.insert_slice(&self.connection, batch.entries.len())?;
        fault::at(FaultPoint::BeforeCommit);
        let begun = Instant::now();
        self.sql("COMMIT", "committing")?;
        self.meters.commit_time.observe_time(begun.elapsed());
        self.meters.batch_size.observe(batch.answers.len() as f64);
        fault::at(FaultPoint::Committed);
        Ok(())
    }

    fn refuse(&self, request: WriteRequest, error: &Error) {
        self.room.free(request.bytes());
        request.fail(error.clone());
    }

    fn begin(&mut self) -> Result<(), Error> {
        self.sql("BEGIN IMMEDIATE", "beginning a transaction")?;
        self.ownership.check(&self.connection)?;
        self.log.make_room();
        if self.is_log_new {
            owner::mark_log(&self.connection)?;
        }
        if self.failed { self.reload() } else { Ok(()) }
    }

    /// Handles one request. An error means that the database failed; a refusal is an answer.
    fn handle(&mut self, batch: &mut WriteBatch, request: WriteRequest) -> Result<(), Error> {
        let (answer, fatal) = match request {
            WriteRequest::Append { append, fingerprint, ack, .. } => {
                let chain = append.chain.clone();
                let (result, fatal) = split(self.append(batch, *append, fingerprint));
                (PendingAnswer::append(ack, chain, result), fatal)
            }
            WriteRequest::Advance { step, ack, .. } => {
                let (result, fatal) = split(self.advance(batch, *step));
                (PendingAnswer::Advance(ack, result), fatal)
            }
            WriteRequest::Published { sink, from, to, refused, ack } => {
                let (result, fatal) = split(self.published(batch, &sink, from, to, &refused));
                (PendingAnswer::Unit(ack, result), fatal)
            }
            WriteRequest::DeadLetter(letter, origin, ack) => {
                let (result, fatal) = split(self.dead_letter(batch, &letter, origin.as_ref()));
                (PendingAnswer::Unit(ack, result), fatal)
            }
            WriteRequest::StartLedger { ledger, next, ack } => {
                let (result, fatal) = split(self.ledgers.start(&self.connection, &ledger, next));
                (PendingAnswer::Unit(ack, result), fatal)
            }
            WriteRequest::DiscardMany(which, ack) => {
                let (result, fatal) = split(self.discard_many(&which));
                (PendingAnswer::Count(ack, result), fatal)
            }
            WriteRequest::BeginAttempt(number, ack) => {
                let (result, fatal) = split(self.begin_attempt(number));
                (PendingAnswer::Attempts(ack, result), fatal)
            }
            WriteRequest::EndAttempt(number, end, ack) => {
                let (result, fatal) = split(self.end_attempt(batch, number, *end));
                (PendingAnswer::Unit(ack, result), fatal)
            }
            WriteRequest::InterruptAttempts(of, ack) => {
                let (result, fatal) = split(self.interrupt_attempts(&of));
                (PendingAnswer::Requests(ack, result), fatal)
            }
            WriteRequest::Administer(request, ack) => {
                let (result, fatal) = split(self.administer(batch, request));
                (PendingAnswer::Unit(ack, result), fatal)
            }
        };
        batch.answers.push(answer);
        fatal.map_or(Ok(()), Err)
    }

    fn published(
        &mut self,
        batch: &mut WriteBatch,
        sink: &str,
        from: u64,
        to: u64,
        refused: &[DeadLetter],
    ) -> Result<(), Error> {
        let failed = failed("moving the sink's position");
        let actual = self
            .connection
            .prepare_cached("SELECT position FROM sinks WHERE name = ?1")
            .and_then(|mut select| select.query_row([sink], |row| row.get(0)).optional())
            .map_err(&failed)?
            .unwrap_or(0);
        if actual != from {
            return Err(Error::CheckpointMoved { owner: format!("sink {sink}"), actual, expected: from });
        }
        let name = SinkName::parse(sink);
        let newest = match name {
            SinkName::Events(_) => self.next_position - 1,
            SinkName::DeadLetters(_) => self.newest_dead_letter,
            SinkName::Messages(_) => self.next_message - 1,
        };
        refuse_beyond(&format!("the position of sink {sink}"), to, newest)?;
        self.dead_letter_room.refuse_if_full(refused.len(), &self.options.dead_letters)?;
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO sinks (name, position) VALUES (?1, ?2)")
            .and_then(|mut insert| insert.execute(params![sink, to]))
            .map_err(&failed)?;
        fault::at(FaultPoint::SinkMoved);
        for letter in refused {
            self.keep_dead_letter(batch, letter, None)?;
        }
        if matches!(name, SinkName::Messages(_)) {
            self.forget_messages().map_err(&failed)?;
        }
        fault::at(FaultPoint::MessagesForgotten);
        Ok(())
    }

    /// Deletes the messages that all sinks of the outbox have published.
    fn forget_messages(&self) -> rusqlite::Result<()> {
        let mut select = self.connection.prepare_cached("SELECT name, position FROM sinks")?;
        let mut rows = select.query([])?;
        let mut published: Option<u64> = None;
        while let Some(row) = rows.next()? {
            if let SinkName::Messages(_) = SinkName::parse(row.get_ref(0)?.as_str()?) {
                let position = row.get(1)?;
                published = Some(published.map_or(position, |least| least.min(position)));
            }
        }
        match published {
            None => Ok(()),
            Some(published) => Queue::Messages.remove_below(&self.connection, published + 1),
        }
    }

    /// Stores a dead letter for which there is room. A caller with several dead letters must check the room for all of
    /// them before it changes anything, because a refusal in the middle would be committed with the changes before it.
    pub(super) fn keep_dead_letter(
        &mut self,
        batch: &mut WriteBatch,
        letter: &DeadLetter,
        origin: Option<&Origin>,
    ) -> Result<(), Error> {
        let content = rows::encode(&letter.content)?;
        let (bytes, now) = (content.len() + letter.reason.len() + letter.place.len(), self.age.now());
        self.dead_letter_room.take(&self.connection, bytes as u64, &self.options.dead_letters)?;
        if let Some(origin) = origin {
            self.settle(origin)?;
        }
        batch.bytes += bytes;
        self.connection
            .prepare_cached(
                "INSERT INTO dead_letters (consumer, place, key, reason, time_ms, dead_lettered_ms, running_ms, bytes, content)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )
            .and_then(|mut insert| {
                let DeadLetter { consumer, place, key, reason, time_ms, .. } = letter;
                let Moment { wall_ms, running_ms } = now;
                insert.execute(params![consumer, place, key, reason, time_ms, wall_ms, running_ms, bytes, content])
            })
            .map_err(failed("storing a dead letter"))?;
        self.newest_dead_letter = self.connection.last_insert_rowid().unsigned_abs();
        fault::at(FaultPoint::DeadLetterKept);
        Ok(())
    }

    /// Writes the running time of the store from time to time.
    fn keep_time(&mut self) -> Result<(), Error> {
        if self.age.is_due() || self.failed {
            self.age.watch(&self.meters.clock_jumps);
            self.note_time()?;
            if let Some(age_max_ms) = self.options.dead_letters.age_max_ms {
                self.dead_letter_room.drop_older(&self.connection, self.age.now().before(age_max_ms))?;
            }
        }
        self.dead_letter_room.write(&self.connection)
    }

    fn note_time(&mut self) -> Result<(), Error> {
        let now = self.age.now();
        owner::note_moment(&self.connection, now)?;
        self.age.noted(now);
        Ok(())
    }

    fn write_tallies(&mut self, batch: &mut WriteBatch) -> Result<(), Error> {
        for ((aggregate_type, command), [accepted, rejected, malformed]) in batch.tallies.drain() {
            self.connection
                .prepare_cached(
                    "INSERT INTO tallies (aggregate_type, command, accepted, rejected, malformed) VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT DO UPDATE SET accepted = accepted + excluded.accepted,
                         rejected = rejected + excluded.rejected, malformed = malformed + excluded.malformed",
                )
                .and_then(|mut insert| insert.execute(params![aggregate_type, command, accepted, rejected, malformed]))
                .map_err(failed("counting outcomes"))?;
        }
        Ok(())
    }

    /// Publishes a committed transaction: readers see it, then watchers are woken, then the callers get their answers.
    fn committed(&mut self, batch: WriteBatch) {
        self.failed = false;
        self.end_doubt();
        self.unfolded_bytes += batch.bytes;
        self.is_log_new = false;
        self.filler.committed();
        fault::at(FaultPoint::RunForgotten);
        self.filler.publish(batch.entries);
        self.tail.publish(batch.recorded);
        fault::at(FaultPoint::EntriesShown);
        self.announce();
        fault::at(FaultPoint::WatchersWoken);
        deliver_all(batch.answers);
        self.limit_log();
    }

    fn rolled_back(&mut self, batch: WriteBatch, error: &Error) {
        let file = self.connection.path().unwrap_or_default();
        tracing::error!("the store {file} rolled a transaction back: {error}");
        self.failed = true;
        self.begin_doubt(batch.bytes, error.to_string());
        // This fails if there is no transaction, which is fine.
        let _ = self.connection.execute_batch("ROLLBACK");
        self.filler.rolled_back();
        for answer in batch.answers {
            answer.fail(error.clone());
        }
    }

    /// Reloads from the file what memory knew.
    fn reload(&mut self) -> Result<(), Error> {
        self.dictionary = Dictionary::default();
        self.ledgers.forget();
        self.heads.clear();
        self.rows.clear();
        let number = |sql: &str| -> Result<u64, Error> {
            self.connection.query_row(sql, [], |row| row.get(0)).map_err(failed("reading where the store ends"))
        };
        self.next_position = number("SELECT coalesce(max(position), 0) + 1 FROM events")?;
        let newest: Option<[u8; 16]> = self
            .connection
            .query_row("SELECT id FROM events ORDER BY position DESC LIMIT 1", [], |row| row.get(0))
            .optional()
            .map_err(failed("reading the newest event"))?;
        newest.into_iter().for_each(|id| self.ids.continue_after(uuid::Uuid::from_bytes(id)));
        self.any_archived = number("SELECT count(*) FROM (SELECT 1 FROM archived_streams LIMIT 1)")? > 0;
        self.next_message = number("SELECT coalesce(max(value), 0) + 1 FROM marks WHERE name = 'messages'")?;
        self.newest_dead_letter = dead_letters::newest(&self.connection)?;
        self.newest_callback = callbacks::newest(&self.connection)?;
        self.dead_letter_room = DeadLetterRoom::read(&self.connection)?;
        Ok(())
    }

    fn announce(&self) {
        self.announcer.announce(NewestNumbers {
            position: self.next_position - 1,
            message: self.next_message - 1,
            dead_letter: self.newest_dead_letter,
            callback: self.newest_callback,
            requests_changed: self.requests_changed,
        });
        self.meters.dead_letter_bytes.store(self.dead_letter_room.bytes, Ordering::Relaxed);
        self.meters.dead_letters_dropped.store(self.dead_letter_room.dropped, Ordering::Relaxed);
    }

    fn sql(&self, statement: &str, doing: &str) -> Result<(), Error> {
        self.connection.prepare_cached(statement).and_then(|mut run| run.execute([])).map_err(failed(doing))?;
        Ok(())
    }
}
