//! The changes that a person makes in a store, such as discarding a dead letter or archiving a stream.
//!
//! Each change is one step in the writer's transaction, which refuses before it writes. None of them changes an event.

use super::fault::{self, FaultPoint};
use super::stream_index::Key;
use super::write_request::AdminRequest;
use super::writer::{WriteBatch, Writer};
use super::{Error, dead_letters, failed, rows};
use crate::model::{DeadLetterContent, StreamId};
use crate::store::Discard;
use crate::store::recording::StreamHead;
use rusqlite::params;

impl Writer {
    pub(super) fn administer(&mut self, batch: &mut WriteBatch, request: AdminRequest) -> Result<(), Error> {
        match request {
            AdminRequest::Discard(number) => self.remove_dead_letter(number),
            AdminRequest::Republish(number) => self.republish(batch, number),
            AdminRequest::Explain(number, reason) => dead_letters::explain(&self.connection, number, &reason),
            AdminRequest::Archive(stream) => self.archive(&stream),
            AdminRequest::Restore(stream) => self.restore(&stream),
            AdminRequest::CarryOver(moves) => self.carry_over(&moves),
            AdminRequest::Forget(part) => self.forget(&part),
            AdminRequest::Divide(plugin, segments, start) => self.divide(&plugin, segments, start),
            AdminRequest::BeginLedger(name, next) => self.ledgers.begin(&self.connection, &name, next),
            AdminRequest::ResetLedger(name, next) => self.ledgers.reset(&self.connection, &name, next),
            AdminRequest::SetFact(name, value) => self.set_fact(&name, value.as_deref()),
            AdminRequest::KeepFirstFact(name, value) => match rows::fact(&self.connection, &name)? {
                Some(_) => Ok(()),
                None => self.set_fact(&name, Some(&value)),
            },
            AdminRequest::CancelTimer(number) => self.cancel_timer(number),
            AdminRequest::RefuseRequest(number, reason) => self.refuse_request(batch, number, reason),
            AdminRequest::GiveUpRequest(number, reason) => self.give_up_request(batch, number, reason),
            AdminRequest::Share(_) => Err(Error::Invalid("an embedded store has one host".to_owned())),
        }
    }

    fn republish(&mut self, batch: &mut WriteBatch, number: u64) -> Result<(), Error> {
        let kept = dead_letters::find(&self.connection, number)?.ok_or_else(|| dead_letters::absent(number))?;
        // A person has dealt with it, so the count of its chain starts again.
        match kept.letter.content {
            DeadLetterContent::Message(_, mut message) => {
                message.hops = 0;
                self.add_messages(batch, &[message])?;
            }
            DeadLetterContent::Http(mut request) => {
                request.request.hops = 0;
                request.subscription = self.asker(&kept.letter.consumer, request.request.key.as_deref())?;
                self.add_request(batch, &request)?;
            }
            _ => {
                return Err(Error::Invalid(format!(
                    "dead letter {number} is neither a message nor an HTTP request: it can't be sent from the store"
                )));
            }
        }
        self.remove_dead_letter(number)
    }

    pub(super) fn remove_dead_letter(&mut self, number: u64) -> Result<(), Error> {
        let removed = dead_letters::remove(&self.connection, number)?;
        self.dead_letter_room.give(removed);
        Ok(())
    }

    pub(super) fn discard_many(&mut self, which: &Discard) -> Result<u64, Error> {
        let removed = dead_letters::remove_many(&self.connection, which)?;
        self.dead_letter_room.give(removed);
        Ok(removed.count)
    }

    pub(super) fn archive(&mut self, stream: &StreamId) -> Result<(), Error> {
        let (key, head) = self.existing(stream)?;
        self.connection
            .prepare_cached(
                "INSERT OR IGNORE INTO archived_streams (aggregate_type, aggregate_id, time_ms) VALUES (?1, ?2, ?3)",
            )
            .and_then(|mut insert| insert.execute(params![key.0, key.1, self.options.clock.now_ms()]))
            .map_err(failed("archiving a stream"))?;
        fault::at(FaultPoint::StreamArchived);
        self.heads.put(key, StreamHead { archived: true, ..head });
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
        self.heads.put(key, StreamHead { archived: false, ..head });
        Ok(())
    }

    pub(super) fn set_fact(&self, name: &str, value: Option<&str>) -> Result<(), Error> {
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

    /// Finds a stream that has events, archived or not.
    fn existing(&mut self, stream: &StreamId) -> Result<(Key, StreamHead), Error> {
        let none = || Error::NotFound(format!("there is no stream {stream}: it has no events"));
        let number = self.dictionary.find_aggregate_type(&self.connection, &stream.aggregate_type);
        let number = number.map_err(failed("looking for a stream"))?.ok_or_else(none)?;
        let key = (number, stream.aggregate_id.clone());
        match self.head_of(&key)? {
            StreamHead { version: 0, .. } => Err(none()),
            head => Ok((key, head)),
        }
    }

    /// Returns whether a stream is archived, from the file.
    pub(super) fn is_archived(&self, key: &Key) -> Result<bool, Error> {
        if !self.any_archived {
            return Ok(false);
        }
        self.connection
            .prepare_cached("SELECT 1 FROM archived_streams WHERE aggregate_type = ?1 AND aggregate_id = ?2")
            .and_then(|mut select| select.exists(params![key.0, key.1]))
            .map_err(failed("looking for an archived stream"))
    }
}
