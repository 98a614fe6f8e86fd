//! What a person changes in a store: dead letters that are discarded or published again, streams that are archived.
//!
//! Each is one step in the writer's transaction and refuses before it writes. None of them touches an event.

use super::appends::Head;
use super::fault::{self, FaultPoint};
use super::stream_index::Key;
use super::writer::{Batch, Writer};
use super::{Error, failed, letters};
use crate::model::{Command, DeadLetterContent, LedgerName, Origin, StreamId};
use crate::store::{Discard, Part};
use rusqlite::params;
use std::sync::Arc;

/// Something that a person wants changed.
pub(super) enum AdminRequest {
    /// Forget a dead letter.
    Discard(u64),
    /// Put the message of a dead letter into the outbox again.
    Republish(u64),
    /// Keep why a dead letter could not be handled this time either.
    Explain(u64, String),
    /// Let a stream take no more events.
    Archive(StreamId),
    /// Let it take events again.
    Restore(StreamId),
    /// Give the place of a part to another name.
    CarryOver(Part, String),
    /// Forget the place of a part.
    Forget(Part),
    /// Let a ledger go on from a number.
    ResetLedger(Arc<str>, u64),
    /// Keep a fact, or forget it.
    SetFact(String, Option<String>),
}

impl Writer {
    pub(super) fn administer(&mut self, batch: &mut Batch, request: AdminRequest) -> Result<(), Error> {
        match request {
            AdminRequest::Discard(number) => self.remove_letter(number),
            AdminRequest::Republish(number) => self.republish(batch, number),
            AdminRequest::Explain(number, reason) => letters::explain(&self.connection, number, &reason),
            AdminRequest::Archive(stream) => self.archive(&stream),
            AdminRequest::Restore(stream) => self.restore(&stream),
            AdminRequest::CarryOver(part, to) => self.carry_over(&part, &to),
            AdminRequest::Forget(part) => self.forget(&part),
            AdminRequest::ResetLedger(name, next) => self.ledgers.reset(&self.connection, &name, next),
            AdminRequest::SetFact(name, value) => self.set_fact(&name, value.as_deref()),
        }
    }

    fn republish(&mut self, batch: &mut Batch, number: u64) -> Result<(), Error> {
        let kept = letters::find(&self.connection, number)?.ok_or_else(|| letters::absent(number))?;
        let DeadLetterContent::Message(_, mut message) = kept.letter.content else {
            return Err(Error::Invalid(format!("dead letter {number} is no message: it can't be published")));
        };
        // A person has looked at it: the count of its chain starts over.
        message.hops = 0;
        self.add_messages(batch, &[message])?;
        self.remove_letter(number)
    }

    pub(super) fn remove_letter(&mut self, number: u64) -> Result<(), Error> {
        let removed = letters::remove(&self.connection, number)?;
        self.letter_room.give(removed);
        Ok(())
    }

    pub(super) fn discard_many(&mut self, which: &Discard) -> Result<u64, Error> {
        let removed = letters::remove_many(&self.connection, which)?;
        self.letter_room.give(removed);
        Ok(removed.count)
    }

    fn archive(&mut self, stream: &StreamId) -> Result<(), Error> {
        let (key, head) = self.existing(stream)?;
        self.connection
            .prepare_cached(
                "INSERT OR IGNORE INTO archived_streams (aggregate_type, aggregate_id, time_ms) VALUES (?1, ?2, ?3)",
            )
            .and_then(|mut insert| insert.execute(params![key.0, key.1, self.options.clock.now_ms()]))
            .map_err(failed("archiving a stream"))?;
        fault::at(FaultPoint::StreamArchived);
        self.heads.put(key, Head { archived: true, ..head });
        self.any_archived = true;
        Ok(())
    }

    fn restore(&mut self, stream: &StreamId) -> Result<(), Error> {
        let (key, head) = self.existing(stream)?;
        self.connection
            .prepare_cached("DELETE FROM archived_streams WHERE aggregate_type = ?1 AND aggregate_id = ?2")
            .and_then(|mut delete| delete.execute(params![key.0, key.1]))
            .map_err(failed("restoring an archived stream"))?;
        fault::at(FaultPoint::StreamRestored);
        self.heads.put(key, Head { archived: false, ..head });
        Ok(())
    }

    fn set_fact(&self, name: &str, value: Option<&str>) -> Result<(), Error> {
        let changed = match value {
            Some(value) => self
                .connection
                .prepare_cached("INSERT OR REPLACE INTO facts (name, value) VALUES (?1, ?2)")
                .and_then(|mut insert| insert.execute(params![name, value])),
            None => self
                .connection
                .prepare_cached("DELETE FROM facts WHERE name = ?1")
                .and_then(|mut delete| delete.execute([name])),
        };
        changed.map_err(failed("keeping a fact"))?;
        fault::at(FaultPoint::FactKept);
        Ok(())
    }

    /// A stream with events, archived or not.
    fn existing(&mut self, stream: &StreamId) -> Result<(Key, Head), Error> {
        let none = || Error::NotFound(format!("there is no stream {stream}: it has no events"));
        let number = self.dictionary.find_aggregate_type(&self.connection, &stream.aggregate_type);
        let number = number.map_err(failed("looking for a stream"))?.ok_or_else(none)?;
        let key = (number, stream.aggregate_id.clone());
        match self.head_of(&key)? {
            Head { version: 0, .. } => Err(none()),
            head => Ok((key, head)),
        }
    }

    /// Whether a stream takes no more events, as the file has it.
    pub(super) fn is_archived(&self, key: &Key) -> Result<bool, Error> {
        if !self.any_archived {
            return Ok(false);
        }
        self.connection
            .prepare_cached("SELECT 1 FROM archived_streams WHERE aggregate_type = ?1 AND aggregate_id = ?2")
            .and_then(|mut select| select.exists(params![key.0, key.1]))
            .map_err(failed("looking for an archived stream"))
    }

    /// Whether the item of an origin is settled. One that tries a dead letter again is, once the letter is gone.
    pub(super) fn is_settled(&mut self, origin: &Origin) -> Result<bool, Error> {
        match replayed(origin) {
            Some(number) => letters::exists(&self.connection, number).map(|there| !there),
            None => self.ledgers.has(&self.connection, origin),
        }
    }

    /// Settles the item of an origin. Where it tried a dead letter again, the letter goes away.
    pub(super) fn settle(&mut self, origin: &Origin) -> Result<(), Error> {
        match replayed(origin) {
            Some(number) => self.remove_letter(number),
            None => self.ledgers.settle(&self.connection, origin),
        }
    }

    /// A command of a ledger that can't be handled is dead-lettered and settled. One that was dead-lettered before keeps its
    /// letter, with the newest reason.
    pub(super) fn dead_letter_command(
        &mut self,
        batch: &mut Batch,
        command: &Command,
        reason: &str,
    ) -> Result<(), Error> {
        let Some(origin) = &command.origin else { return Ok(()) };
        let letter = super::appends::dead_letter(command, reason);
        match replayed(origin) {
            Some(number) => letters::explain(&self.connection, number, &letter.reason),
            None => {
                self.dead_letter(batch, &letter, None)?;
                self.ledgers.settle(&self.connection, origin)
            }
        }
    }
}

/// The dead letter that an origin's command tries again.
fn replayed(origin: &Origin) -> Option<u64> {
    LedgerName::is_of_dead_letters(&origin.ledger).then_some(origin.last)
}
