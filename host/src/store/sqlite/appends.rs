//! Appends: deduplication, the expected version, positions and rows.

use super::age::Moment;
use super::fault::{self, FaultPoint};
use super::stream_index::{CHUNK_COLUMNS, Chunk, Key};
use super::write_request::recorded;
use super::writer::{WriteBatch, Writer};
use super::{Error, dead_letters, failed, rows};
use crate::model::{Command, DeadLetter, Ending, NewEvent, Origin, Outcome, Position, Remembered, StreamId, Version};
use crate::store::recording::{Recording, StreamHead};
use crate::store::{Appended, Options, shared_bytes};
use rusqlite::{OptionalExtension, params};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// The number of stored outcomes after which old ones are deleted.
pub(super) const OUTCOMES_PER_CLEAN_UP: u32 = 1_000;

impl Recording for Writer {
    type Batch = WriteBatch;
    type Key = Key;

    fn options(&self) -> &Options {
        &self.options
    }

    fn newest(&self) -> Position {
        Position(self.next_position - 1)
    }

    fn tally<'b>(&self, batch: &'b mut WriteBatch, command: &Command) -> &'b mut [u64; 3] {
        batch.tally(command)
    }

    fn place(&mut self, stream: &StreamId) -> Result<(Key, StreamHead), Error> {
        let key = self.key(stream)?;
        let head = self.head_of(&key)?;
        Ok((key, head))
    }

    fn insert(
        &mut self,
        batch: &mut WriteBatch,
        command: &Command,
        key: Key,
        actual: Version,
        events: Vec<NewEvent>,
    ) -> Result<Appended, Error> {
        let failed = failed("appending events");
        let shared = shared_bytes(command);
        let mut version = actual.0;
        for event in events {
            version += 1;
            let position = self.next_position;
            let event_type = self.dictionary.event_type(&self.connection, key.0, &event.name).map_err(&failed)?;
            let id = self.ids.next();
            self.next_position += 1;
            batch.bytes += shared + event.name.len() + event.payload.len();
            batch.entries.push((key.clone(), (version, position)));
            let names = self.dictionary.names(&self.connection, event_type).map_err(&failed)?;
            batch
                .recorded
                .push((event_type, recorded(command, position, version, id, names.name.clone(), event.payload)));
        }
        if version > actual.0 {
            self.heads.put(key, StreamHead { version, archived: false });
        }
        Ok(Appended { version: Version(version), position: Position(self.next_position - 1) })
    }

    fn expect_sagas(&mut self, batch: &WriteBatch, count: usize) {
        // A stream's version must not leave memory before the transaction that changed it is committed.
        let changed = batch.entries.len() + count;
        if changed >= self.heads.cap().get() {
            self.heads.resize(NonZeroUsize::MIN.saturating_add(2 * changed));
        }
    }

    fn archive_stream(&mut self, stream: &StreamId) -> Result<(), Error> {
        self.archive(stream)
    }

    fn cancel_timers(&mut self, subscription: &str, saga: &str) -> Result<(), Error> {
        self.cancel_timers_of(subscription, saga)
    }

    fn refuse_repetition(&mut self, command: &Command, fingerprint: [u8; 16]) -> Result<(), Error> {
        let since = self.remembered_since();
        let row = self
            .connection
            .prepare_cached(
                "SELECT fingerprint, outcome, time_ms FROM outcomes WHERE id = ?1 AND (time_ms >= ?2 OR running_ms >= ?3)",
            )
            .and_then(|mut select| {
                select
                    .query_row(params![command.id, since.wall_ms, since.running_ms], |row| {
                        Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, u64>(2)?))
                    })
                    .optional()
            })
            .map_err(failed("looking for an earlier outcome"))?;
        let Some((earlier, outcome, time_ms)) = row else { return Ok(()) };
        let id: Arc<str> = command.id.clone();
        // This error must not affect the other requests of the transaction.
        let outcome: Outcome = serde_json::from_slice(&outcome).map_err(|error| {
            Error::NotFound(format!(
                "command {id} was recorded before, and the outcome that was stored does not decode ({error}): look for its \
                 events, and let `wasmill store verify` say what else is damaged"
            ))
        })?;
        if !self.is_remembered(&outcome) {
            return Ok(());
        }
        if earlier != fingerprint {
            return Err(Error::IdReused { id });
        }
        Err(Error::Duplicate {
            id,
            outcome: Some(Remembered { outcome: Box::new(outcome), remembered_from_ms: time_ms }),
        })
    }

    fn remember(&mut self, command: &Command, fingerprint: [u8; 16], outcome: &Outcome) -> Result<(), Error> {
        if !self.is_remembered(outcome) {
            return Ok(());
        }
        let Moment { wall_ms, running_ms } = self.age.now();
        let failed = failed("storing an outcome");
        let outcome = serde_json::to_vec(outcome).map_err(|error| Error::Invalid(error.to_string()))?;
        self.connection
            // This may replace an outcome that is no longer remembered.
            .prepare_cached(
                "INSERT OR REPLACE INTO outcomes (id, fingerprint, outcome, time_ms, running_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .and_then(|mut insert| {
                insert.execute(params![command.id, fingerprint, outcome, wall_ms, running_ms])
            })
            .map_err(&failed)?;
        self.outcomes_stored += 1;
        if self.outcomes_stored >= OUTCOMES_PER_CLEAN_UP {
            self.outcomes_stored = 0;
            let since = self.remembered_since();
            // Only the oldest are checked, so that the cost does not grow with the number of outcomes.
            self.connection
                .prepare_cached(
                    "DELETE FROM outcomes WHERE number IN (SELECT number FROM
                     (SELECT number, time_ms, running_ms FROM outcomes ORDER BY number LIMIT ?3)
                     WHERE time_ms < ?1 AND running_ms < ?2)",
                )
                .and_then(|mut delete| {
                    delete.execute(params![since.wall_ms, since.running_ms, 2 * OUTCOMES_PER_CLEAN_UP])
                })
                .map_err(&failed)?;
        }
        Ok(())
    }

    fn keep_outcome(&mut self, batch: &mut WriteBatch, command: &Command, ending: Ending) -> Result<bool, Error> {
        self.report(batch, command, ending)
    }

    fn ledger_has(&mut self, origin: &Origin) -> Result<bool, Error> {
        self.ledgers.has(&self.connection, origin)
    }

    fn settle_in_ledger(&mut self, origin: &Origin) -> Result<(), Error> {
        self.ledgers.settle(&self.connection, origin)
    }

    fn has_letter(&mut self, number: u64) -> Result<bool, Error> {
        dead_letters::exists(&self.connection, number)
    }

    fn remove_letter(&mut self, number: u64) -> Result<(), Error> {
        self.remove_dead_letter(number)
    }

    fn explain_letter(&mut self, number: u64, reason: &str) -> Result<(), Error> {
        dead_letters::explain(&self.connection, number, reason)
    }

    fn refuse_if_letters_are_full(&self, coming: usize) -> Result<(), Error> {
        self.dead_letter_room.refuse_if_full(coming, &self.options.dead_letters)
    }

    fn keep_letter(
        &mut self,
        batch: &mut WriteBatch,
        letter: &DeadLetter,
        origin: Option<&Origin>,
    ) -> Result<(), Error> {
        self.keep_dead_letter(batch, letter, origin)
    }
}

impl Writer {
    fn key(&mut self, stream: &StreamId) -> Result<Key, Error> {
        let number = self
            .dictionary
            .aggregate_type(&self.connection, &stream.aggregate_type)
            .map_err(failed("naming an aggregate type"))?;
        Ok((number, stream.aggregate_id.clone()))
    }

    /// Inserts the rows of all new events of a transaction. Nothing reads them before its end, and one statement after the other would
    /// look for the same statement again each time.
    pub(super) fn insert_events(&self, batch: &WriteBatch) -> Result<(), Error> {
        if batch.recorded.is_empty() {
            return Ok(());
        }
        let mut insert = rows::inserting_events(&self.connection)?;
        for (event_type, event) in &batch.recorded {
            rows::insert_event(&mut insert, *event_type, event)?;
            fault::at(FaultPoint::EventInserted);
        }
        Ok(())
    }

    /// Returns the version of a stream: from recent appends, from entries that are not indexed yet, or from the index,
    /// in this order.
    pub(super) fn head_of(&mut self, key: &Key) -> Result<StreamHead, Error> {
        if let Some(&head) = self.heads.get(key) {
            return Ok(head);
        }
        let version = match self.index.recent_version(key) {
            Some(version) => version,
            None if self.index.known.may_have(key) => self.indexed_version(key)?,
            None => 0,
        };
        let head = StreamHead { version, archived: self.is_archived(key)? };
        self.heads.put(key.clone(), head);
        Ok(head)
    }

    fn indexed_version(&self, key: &Key) -> Result<u64, Error> {
        let failed = failed("reading a stream's version");
        let sql = format!(
            "SELECT {CHUNK_COLUMNS} FROM stream_index WHERE aggregate_type = ?1 AND aggregate_id = ?2
             ORDER BY version DESC LIMIT 1"
        );
        let mut select = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let mut found = select.query(params![key.0, key.1]).map_err(&failed)?;
        let newest = found.next().map_err(&failed)?;
        newest.map_or(Ok(0), |row| Ok(Chunk::read(row, 0)?.last_version()))
    }

    /// Returns whether an outcome is remembered, according to the manifest.
    fn is_remembered(&self, outcome: &Outcome) -> bool {
        self.options.remember_refusals || matches!(outcome, Outcome::Accepted { .. })
    }

    /// Returns the moment before which outcomes no longer count, even if they are not deleted yet.
    fn remembered_since(&self) -> Moment {
        self.age.now().before(self.options.outcomes_window_ms)
    }
}
