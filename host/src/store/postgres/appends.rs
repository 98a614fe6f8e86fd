//! Appends: deduplication, the expected version, positions and rows.

use super::hints::{KnownOutcome, may_exist};
use super::progress::refuse_nul;
use super::writer::{WriteBatch, Writer};
use crate::model::{Command, DeadLetter, Ending, NewEvent, Origin, Outcome, Position, Remembered, StreamId, Version};
use crate::store::age::Moment;
use crate::store::fault::{self, FaultPoint};
use crate::store::recording::{Recording, StreamHead};
use crate::store::write_request::recorded;
use crate::store::{Appended, Error, Options, encoding};
use std::sync::Arc;

/// The number of stored outcomes after which old ones are deleted.
pub(super) const OUTCOMES_PER_CLEAN_UP: u32 = 1_000;

impl Recording for Writer {
    type Batch = WriteBatch;
    type Key = ();

    fn options(&self) -> &Options {
        &self.options
    }

    fn newest(&self) -> Position {
        self.head.newest()
    }

    fn tally<'b>(&self, batch: &'b mut WriteBatch, command: &Command) -> &'b mut [u64; 3] {
        batch.tally(command)
    }

    fn refuse_name(&self, name: &str) -> Result<(), Error> {
        refuse_nul(name)
    }

    fn place(&mut self, stream: &StreamId) -> Result<((), StreamHead), Error> {
        Ok(((), self.head_of(stream)?))
    }

    fn insert(
        &mut self,
        batch: &mut WriteBatch,
        command: &Command,
        (): (),
        actual: Version,
        events: Vec<NewEvent>,
    ) -> Result<Appended, Error> {
        let mut version = actual.0;
        if events.is_empty() {
            return Ok(Appended { version: actual, position: self.newest() });
        }
        let headers = encoding::encode_headers(&command.headers, command.hops, command.first_ms)?;
        let aggregate_type = self.aggregate_type(&command.stream.aggregate_type)?;
        for event in events {
            let event_type = self.event_type(aggregate_type, &event.name)?;
            version += 1;
            self.head.position += 1;
            let position = self.head.position;
            let id = self.ids.next();
            let rows = &mut self.pending.events;
            rows.position.push(position.cast_signed());
            rows.event_type.push(event_type);
            rows.aggregate_type.push(aggregate_type);
            rows.aggregate_id.push(command.stream.aggregate_id.as_bytes().to_vec());
            rows.version.push(version.cast_signed());
            rows.id.push(id.as_bytes().to_vec());
            rows.time_ms.push(command.time_ms.cast_signed());
            rows.correlation_id.push(command.correlation_id.as_bytes().to_vec());
            rows.causation_id.push(command.id.as_bytes().to_vec());
            rows.headers.push(headers.clone());
            rows.payload.push(event.payload.clone());
            fault::at(FaultPoint::EventInserted);
            let name = event.name.into();
            batch.recorded.push((event_type.into(), recorded(command, position, version, id, name, event.payload)));
        }
        self.hints.heads.put(command.stream.clone(), StreamHead { version, archived: false });
        Ok(Appended { version: Version(version), position: Position(self.head.position) })
    }

    fn archive_stream(&mut self, stream: &StreamId) -> Result<(), Error> {
        self.archive(stream)
    }

    fn cancel_timers(&mut self, subscription: &str, saga: &str) -> Result<(), Error> {
        self.cancel_timers_of(subscription, saga)
    }

    fn refuse_repetition(&mut self, command: &Command, fingerprint: [u8; 16]) -> Result<(), Error> {
        let since = self.remembered_since();
        let known = match self.hints.outcomes.get(&command.id) {
            Some(known) => known.clone(),
            None => {
                let sql = "SELECT fingerprint, outcome, time_ms, running_ms FROM outcomes WHERE id = $1";
                let row = self.first("looking for an earlier outcome", sql, &[&command.id.as_bytes()])?;
                let known = row.map(|row| KnownOutcome {
                    fingerprint: row.get(0),
                    outcome: row.get(1),
                    time_ms: row.get::<_, i64>(2).cast_unsigned(),
                    running_ms: row.get::<_, i64>(3).cast_unsigned(),
                });
                self.hints.outcomes.insert(command.id.clone(), known.clone());
                known
            }
        };
        let is_current = |known: &KnownOutcome| known.time_ms >= since.wall_ms || known.running_ms >= since.running_ms;
        let Some(known) = known.filter(is_current) else { return Ok(()) };
        let id: Arc<str> = command.id.clone();
        // This error must not affect the other requests of the transaction.
        let outcome: Outcome = serde_json::from_slice(&known.outcome).map_err(|error| {
            Error::NotFound(format!(
                "command {id} was recorded before, and the outcome that was stored does not decode ({error}): look for its events"
            ))
        })?;
        if !self.is_remembered(&outcome) {
            return Ok(());
        }
        if known.fingerprint != fingerprint {
            return Err(Error::IdReused { id });
        }
        let outcome = Some(Remembered { outcome: Box::new(outcome), remembered_from_ms: known.time_ms });
        Err(Error::Duplicate { id, outcome })
    }

    fn remember(&mut self, command: &Command, fingerprint: [u8; 16], outcome: &Outcome) -> Result<(), Error> {
        if !self.is_remembered(outcome) {
            return Ok(());
        }
        let Moment { wall_ms, running_ms } = self.age.now();
        let outcome = serde_json::to_vec(outcome).map_err(|error| Error::Invalid(error.to_string()))?;
        if matches!(self.hints.outcomes.get(&command.id), Some(Some(_))) {
            // One statement can't replace a row that it has inserted itself.
            self.flush()?;
        }
        let known =
            KnownOutcome { fingerprint: fingerprint.to_vec(), outcome: outcome.clone(), time_ms: wall_ms, running_ms };
        self.hints.outcomes.insert(command.id.clone(), Some(known));
        self.pending.add_outcome(&command.id, fingerprint, outcome, wall_ms, running_ms);
        self.outcomes_stored += 1;
        if self.outcomes_stored >= OUTCOMES_PER_CLEAN_UP {
            self.outcomes_stored = 0;
            let since = self.remembered_since();
            // Only the oldest are checked, so that the cost does not grow with the number of outcomes.
            let sql = "DELETE FROM outcomes WHERE id IN (SELECT id FROM
                       (SELECT id, time_ms, running_ms FROM outcomes ORDER BY running_ms LIMIT $3) AS oldest
                       WHERE time_ms < $1 AND running_ms < $2)";
            let (wall_ms, running_ms) = (since.wall_ms.cast_signed(), since.running_ms.cast_signed());
            let count = i64::from(2 * OUTCOMES_PER_CLEAN_UP);
            self.execute("forgetting old outcomes", sql, &[&wall_ms, &running_ms, &count])?;
        }
        Ok(())
    }

    fn keep_outcome(&mut self, _: &mut WriteBatch, command: &Command, ending: Ending) -> Result<bool, Error> {
        self.report(command, ending)
    }

    fn ledger_has(&mut self, origin: &Origin) -> Result<bool, Error> {
        Ok(self.ledger(&origin.ledger)?.value.has(origin.last))
    }

    fn settle_in_ledger(&mut self, origin: &Origin) -> Result<(), Error> {
        self.ledger(&origin.ledger)?.change().settle(origin.first, origin.last);
        Ok(())
    }

    fn has_letter(&mut self, number: u64) -> Result<bool, Error> {
        self.has_dead_letter(number)
    }

    fn remove_letter(&mut self, number: u64) -> Result<(), Error> {
        self.remove_dead_letter(number)
    }

    fn explain_letter(&mut self, number: u64, reason: &str) -> Result<(), Error> {
        self.explain_dead_letter(number, reason)
    }

    fn refuse_if_letters_are_full(&self, coming: usize) -> Result<(), Error> {
        self.options.dead_letters.refuse_if_full(self.head.letters, self.head.letter_bytes, coming)
    }

    fn keep_letter(&mut self, _: &mut WriteBatch, letter: &DeadLetter, origin: Option<&Origin>) -> Result<(), Error> {
        self.keep_dead_letter(letter, origin)
    }
}

impl Writer {
    /// Returns the number of an aggregate type, and assigns one if the type is new.
    fn aggregate_type(&mut self, name: &Arc<str>) -> Result<i32, Error> {
        if let Some(&number) = self.hints.aggregate_types.get(name) {
            return Ok(number);
        }
        const DOING: &str = "naming an aggregate type";
        let found = self.first(DOING, "SELECT id FROM aggregate_types WHERE name = $1", &[&&**name])?;
        let insert = "INSERT INTO aggregate_types (name) VALUES ($1) RETURNING id";
        let row = match found {
            Some(row) => Some(row),
            None => self.first(DOING, insert, &[&&**name])?,
        };
        let number = row.map_or(0, |row| row.get(0));
        self.hints.aggregate_types.insert(name.clone(), number);
        Ok(number)
    }

    /// Returns the number of an event type, and assigns one if the type is new.
    fn event_type(&mut self, aggregate_type: i32, name: &str) -> Result<i32, Error> {
        if let Some(&number) = self.hints.event_types.get(&aggregate_type).and_then(|names| names.get(name)) {
            return Ok(number);
        }
        const DOING: &str = "naming an event type";
        let select = "SELECT id FROM event_types WHERE aggregate_type = $1 AND name = $2";
        let found = self.first(DOING, select, &[&aggregate_type, &name])?;
        let insert = "INSERT INTO event_types (aggregate_type, name) VALUES ($1, $2) RETURNING id";
        let row = match found {
            Some(row) => Some(row),
            None => self.first(DOING, insert, &[&aggregate_type, &name])?,
        };
        let number = row.map_or(0, |row| row.get(0));
        self.hints.event_types.entry(aggregate_type).or_default().insert(name.into(), number);
        Ok(number)
    }

    /// Returns the head of a stream, in this transaction.
    pub(super) fn head_of(&mut self, stream: &StreamId) -> Result<StreamHead, Error> {
        if let Some(&head) = self.hints.heads.get(stream) {
            return Ok(head);
        }
        if !may_exist(stream) {
            return Ok(StreamHead { version: 0, archived: false });
        }
        let sql = "SELECT coalesce((SELECT e.version FROM events e
                       WHERE e.aggregate_type = t.id AND e.aggregate_id = $2 ORDER BY e.version DESC LIMIT 1), 0),
                   EXISTS (SELECT 1 FROM archived_streams a WHERE a.aggregate_type = t.id AND a.aggregate_id = $2)
                   FROM (SELECT $1::text AS name) n LEFT JOIN aggregate_types t ON t.name = n.name";
        let doing = "reading the version of a stream";
        let row = self.first(doing, sql, &[&&*stream.aggregate_type, &stream.aggregate_id.as_bytes()])?;
        let head = row.map_or(StreamHead { version: 0, archived: false }, |row| StreamHead {
            version: row.get::<_, i64>(0).cast_unsigned(),
            archived: row.get(1),
        });
        self.hints.heads.put(stream.clone(), head);
        Ok(head)
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
