//! Appends: deduplication, the expected version, positions and rows.

use super::age::Moment;
use super::fault::{self, FaultPoint};
use super::stream_index::{CHUNK_COLUMNS, Chunk, Key};
use super::write_request::{recorded, refuse_unexpected};
use super::writer::{WriteBatch, Writer};
use super::{Error, failed, rows};
use crate::model::{
    Command, Ending, ExpectedVersion, NewEvent, Origin, Outcome, OutcomeUse, Position, QuickMap, Remembered, StreamId,
    Undecided, Version,
};
use crate::store::{Append, Appended, Decision, SagaAppend, check_sizes, shared_bytes};
use rusqlite::{OptionalExtension, params};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// The number of stored outcomes after which old ones are deleted.
pub(super) const OUTCOMES_PER_CLEAN_UP: u32 = 1_000;

/// The version of a stream and whether it is archived, as kept in memory.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) version: u64,
    /// Whether it accepts no more events.
    pub(super) archived: bool,
}

impl Writer {
    /// Records the decision on a command. All checks that can refuse it come before the first write, except that the
    /// name of its aggregate type may be written before.
    pub(super) fn append(
        &mut self,
        batch: &mut WriteBatch,
        append: Append,
        fingerprint: Option<[u8; 16]>,
    ) -> Result<Appended, Error> {
        let Append { command, expected, decision, chain: _ } = append;
        if let Some(origin) = &command.origin
            && self.is_settled(origin)?
        {
            return Err(Error::Duplicate { id: command.id.clone(), outcome: None });
        }
        if let Some(fingerprint) = fingerprint {
            self.refuse_repetition(&command, fingerprint)?;
        }
        if !matches!(decision, Decision::Events(_)) && expected != ExpectedVersion::Any {
            let (_, head) = self.place(&command.stream)?;
            refuse_unexpected(&command, expected, head.version)?;
        }
        let (appended, outcome) = match decision {
            Decision::Events(events) => {
                let (key, head) = self.place(&command.stream)?;
                if head.archived {
                    return Err(Error::Archived { stream: command.stream.clone() });
                }
                let actual = refuse_unexpected(&command, expected, head.version)?;
                self.check_sizes(&command, &events)?;
                batch.tally(&command)[0] += 1;
                let count = events.len() as u32;
                let appended = self.insert(batch, &command, key, actual, events)?;
                fault::at(FaultPoint::EventsInserted);
                let outcome =
                    Outcome::Accepted { version: appended.version, position: appended.position, events: count };
                (appended, outcome)
            }
            Decision::Rejected(reason) => (self.nothing(), Outcome::Rejected { reason }),
            Decision::Malformed(reason) => (self.nothing(), Outcome::Malformed { reason }),
            Decision::Undecided(undecided) => return self.end_undecided(batch, &command, undecided),
        };
        // There may be no room for its dead letter, and then nothing may be counted.
        self.end(batch, &command, &outcome)?;
        match outcome {
            Outcome::Rejected { .. } => batch.tally(&command)[1] += 1,
            Outcome::Malformed { .. } => batch.tally(&command)[2] += 1,
            _ => {}
        }
        if let Some(fingerprint) = fingerprint {
            self.remember(&command, fingerprint, &outcome)?;
            fault::at(FaultPoint::OutcomeRemembered);
        }
        Ok(appended)
    }

    /// Refuses an append that was decided on events which were not recorded.
    pub(super) fn refuse_broken(&mut self, append: &Append) -> Result<Appended, Error> {
        let stream = &append.command.stream;
        let (_, head) = self.place(stream)?;
        Err(Error::Conflict { stream: stream.clone(), actual: Version(head.version), expected: append.expected })
    }

    /// Settles a command with an origin, in the way that its outcome is to be used.
    fn end(&mut self, batch: &mut WriteBatch, command: &Command, outcome: &Outcome) -> Result<(), Error> {
        let Some(origin) = &command.origin else { return Ok(()) };
        let (ending, dead_letter) = match outcome {
            Outcome::Rejected { reason } => {
                let is_dead_lettered = command.outcome_use == OutcomeUse::DeadLettered;
                let dead_letter = is_dead_lettered.then(|| format!("rejected: {reason}"));
                (Ending::Rejected(reason.clone()), dead_letter)
            }
            Outcome::Malformed { reason } => (Ending::Malformed(reason.clone()), Some(reason.clone())),
            Outcome::Accepted { version, position, .. } => {
                (Ending::Accepted { version: *version, position: *position }, None)
            }
            _ => return self.settle(origin),
        };
        self.report_or_dead_letter(batch, command, origin, ending, dead_letter)
    }

    fn end_undecided(
        &mut self,
        batch: &mut WriteBatch,
        command: &Command,
        undecided: Undecided,
    ) -> Result<Appended, Error> {
        // The names of commands that nobody serves may be anything, so they are not counted by name.
        let is_counted = !matches!(undecided, Undecided::Unserved(_));
        if let Some(origin) = &command.origin {
            let reason = undecided.to_string();
            self.report_or_dead_letter(batch, command, origin, Ending::Undecided(undecided), Some(reason))?;
        }
        if is_counted {
            batch.tally(command)[2] += 1;
        }
        Ok(self.nothing())
    }

    fn report_or_dead_letter(
        &mut self,
        batch: &mut WriteBatch,
        command: &Command,
        origin: &Origin,
        ending: Ending,
        dead_letter: Option<String>,
    ) -> Result<(), Error> {
        match dead_letter {
            _ if self.report(batch, command, ending)? => self.settle(origin),
            None => self.settle(origin),
            Some(reason) => self.dead_letter_command(batch, command, &reason),
        }
    }

    /// Fails if the events of sagas can't be recorded as a step wants it. It writes nothing but the name of a type.
    pub(super) fn check_sagas(&mut self, sagas: &[SagaAppend]) -> Result<(), Error> {
        let mut planned: QuickMap<Key, Head> = QuickMap::default();
        for SagaAppend { input, expected, events, ends } in sagas {
            let (key, head) = self.place(&input.stream)?;
            let head = planned.entry(key).or_insert(head);
            if head.archived {
                return Err(Error::Archived { stream: input.stream.clone() });
            }
            refuse_unexpected(input, ExpectedVersion::Exact(*expected), head.version)?;
            self.check_sizes(input, events)?;
            *head = Head { version: head.version + events.len() as u64, archived: *ends };
        }
        Ok(())
    }

    /// Records the events of sagas, which were checked.
    pub(super) fn append_sagas(
        &mut self,
        batch: &mut WriteBatch,
        subscription: &str,
        sagas: Vec<SagaAppend>,
    ) -> Result<(), Error> {
        // A stream's version must not leave memory before the transaction that changed it is committed.
        let changed = batch.entries.len() + sagas.len();
        if changed >= self.heads.cap().get() {
            self.heads.resize(NonZeroUsize::MIN.saturating_add(2 * changed));
        }
        for SagaAppend { input, expected, events, ends } in sagas {
            let key = self.key(&input.stream)?;
            self.insert(batch, &input, key, expected, events)?;
            fault::at(FaultPoint::SagaMoved);
            if ends {
                self.archive(&input.stream)?;
                self.cancel_timers_of(subscription, &input.stream.aggregate_id)?;
            }
        }
        Ok(())
    }

    fn place(&mut self, stream: &StreamId) -> Result<(Key, Head), Error> {
        let key = self.key(stream)?;
        let head = self.head_of(&key)?;
        Ok((key, head))
    }

    fn nothing(&self) -> Appended {
        Appended { version: Version(0), position: Position(self.next_position - 1) }
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
        let headers = rows::encode_headers(&command.headers, command.hops, command.first_ms)?;
        let shared = shared_bytes(command);
        let mut version = actual.0;
        for event in events {
            version += 1;
            let position = self.next_position;
            let event_type = self.dictionary.event_type(&self.connection, key.0, &event.name).map_err(&failed)?;
            let id = self.ids.next();
            self.connection
                .prepare_cached(rows::INSERT_EVENT)
                .and_then(|mut insert| {
                    insert.execute(params![
                        position,
                        event_type,
                        key.1,
                        version,
                        id.as_bytes(),
                        command.time_ms,
                        command.correlation_id,
                        command.id,
                        headers,
                        event.payload
                    ])
                })
                .map_err(&failed)?;
            fault::at(FaultPoint::EventInserted);
            self.next_position += 1;
            batch.bytes += shared + event.name.len() + event.payload.len();
            batch.entries.push((key.clone(), (version, position)));
            let names = self.dictionary.names(&self.connection, event_type).map_err(&failed)?;
            batch
                .recorded
                .push((event_type, recorded(command, position, version, id, names.name.clone(), event.payload)));
        }
        if version > actual.0 {
            self.heads.put(key, Head { version, archived: false });
        }
        Ok(Appended { version: Version(version), position: Position(self.next_position - 1) })
    }

    fn check_sizes(&self, command: &Command, events: &[NewEvent]) -> Result<(), Error> {
        check_sizes(command, events, self.options.event_bytes_max).map_err(Error::Invalid)
    }

    fn key(&mut self, stream: &StreamId) -> Result<Key, Error> {
        let number = self
            .dictionary
            .aggregate_type(&self.connection, &stream.aggregate_type)
            .map_err(failed("naming an aggregate type"))?;
        Ok((number, stream.aggregate_id.clone()))
    }

    /// Returns the version of a stream: from recent appends, from entries that are not indexed yet, or from the index,
    /// in this order.
    pub(super) fn head_of(&mut self, key: &Key) -> Result<Head, Error> {
        if let Some(&head) = self.heads.get(key) {
            return Ok(head);
        }
        let version = match self.index.recent_version(key) {
            Some(version) => version,
            None => self.indexed_version(key)?,
        };
        let head = Head { version, archived: self.is_archived(key)? };
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

    /// Fails if the command's id was used before: with the stored outcome if it is the same command, and with another
    /// error if it is not.
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

    /// Returns whether an outcome is remembered, according to the manifest.
    fn is_remembered(&self, outcome: &Outcome) -> bool {
        self.options.remember_refusals || matches!(outcome, Outcome::Accepted { .. })
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

    /// Returns the moment before which outcomes no longer count, even if they are not deleted yet.
    fn remembered_since(&self) -> Moment {
        self.age.now().before(self.options.outcomes_window_ms)
    }
}
