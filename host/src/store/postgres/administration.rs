//! The changes that a person makes in a store, such as discarding a dead letter or archiving a stream.
//!
//! Each change is one step in the writer's transaction, which refuses before it writes. None of them changes an event.

use super::membership;
use super::progress::refuse_nul;
use super::writer::Writer;
use crate::model::{DeadLetterContent, StreamId};
use crate::store::fault::{self, FaultPoint};
use crate::store::recording::StreamHead;
use crate::store::write_request::AdminRequest;
use crate::store::{Error, SharingChange};

impl Writer {
    pub(super) fn administer(&mut self, request: AdminRequest) -> Result<(), Error> {
        match request {
            AdminRequest::Discard(number) => self.remove_dead_letter(number),
            AdminRequest::Republish(number) => self.republish(number),
            AdminRequest::Explain(number, reason) => self.explain_dead_letter(number, &reason),
            AdminRequest::Archive(stream) => self.archive(&stream),
            AdminRequest::Restore(stream) => self.restore(&stream),
            AdminRequest::CarryOver(moves) => self.carry_over(&moves),
            AdminRequest::Forget(part) => self.forget(&part),
            AdminRequest::Divide(plugin, segments, start) => self.divide(&plugin, segments, start),
            AdminRequest::BeginLedger(name, next) => self.begin_ledger(&name, next),
            AdminRequest::ResetLedger(name, next) => self.reset_ledger(&name, next),
            AdminRequest::SetFact(name, value) => self.set_fact(&name, value.as_deref()),
            AdminRequest::KeepFirstFact(name, value) => self.keep_first_fact(&name, &value),
            AdminRequest::CancelTimer(number) => self.cancel_timer(number),
            AdminRequest::RefuseRequest(number, reason) => self.refuse_request(number, reason),
            AdminRequest::GiveUpRequest(number, reason) => self.give_up_request(number, reason),
            AdminRequest::Share(change) => self.share(change),
        }
    }

    fn share(&mut self, change: SharingChange) -> Result<(), Error> {
        let this = self.host;
        match change {
            SharingChange::Introduce(url, settings) => {
                let settings = serde_json::to_vec(&settings).map_err(|error| Error::Invalid(error.to_string()))?;
                let sql = "UPDATE hosts SET url = $2, settings = $3 WHERE id = $1";
                self.execute("introducing this host", sql, &[&this, &url, &settings])?;
            }
            SharingChange::Take(gone, parts) => {
                let gone: Vec<i64> = gone.into_iter().map(u64::cast_signed).filter(|host| *host != this).collect();
                membership::remove(self.connected()?, &gone)?;
                let sql = "INSERT INTO leases (part, host) SELECT *, $1 FROM unnest($2::text[]) ON CONFLICT DO NOTHING";
                self.execute("taking leases", sql, &[&this, &parts])?;
            }
            SharingChange::Want(parts) => {
                let sql = "UPDATE leases SET wanted_by = $1 WHERE part = ANY($2) AND host <> $1";
                self.execute("wanting leases", sql, &[&this, &parts])?;
            }
            SharingChange::HandOver(parts) => {
                let sql = "UPDATE leases SET host = wanted_by, wanted_by = NULL
                           WHERE host = $1 AND part = ANY($2) AND wanted_by IS NOT NULL";
                self.execute("handing leases over", sql, &[&this, &parts])?;
            }
            SharingChange::GiveUp(parts) => {
                let sql = "DELETE FROM leases WHERE host = $1 AND part = ANY($2)";
                self.execute("giving up leases", sql, &[&this, &parts])?;
            }
        }
        Ok(())
    }

    fn republish(&mut self, number: u64) -> Result<(), Error> {
        let kept = self.find_dead_letter(number)?;
        // A person has dealt with it, so the count of its chain starts again.
        match kept.letter.content {
            DeadLetterContent::Message(_, mut message) => {
                message.hops = 0;
                self.add_messages(&[message])?;
            }
            DeadLetterContent::Http(mut request) => {
                request.request.hops = 0;
                request.subscription = self.asker(&kept.letter.consumer, request.request.key.as_deref())?;
                self.add_request(&request)?;
            }
            _ => {
                return Err(Error::Invalid(format!(
                    "dead letter {number} is neither a message nor an HTTP request: it can't be sent from the store"
                )));
            }
        }
        self.remove_dead_letter(number)
    }

    pub(super) fn archive(&mut self, stream: &StreamId) -> Result<(), Error> {
        let head = self.existing(stream)?;
        let sql = "INSERT INTO archived_streams (aggregate_type, aggregate_id, time_ms)
                   SELECT id, $2, $3 FROM aggregate_types WHERE name = $1 ON CONFLICT DO NOTHING";
        let now_ms = self.options.clock.now_ms().cast_signed();
        let (aggregate_type, id) = (&*stream.aggregate_type, stream.aggregate_id.as_bytes());
        self.execute("archiving a stream", sql, &[&aggregate_type, &id, &now_ms])?;
        fault::at(FaultPoint::StreamArchived);
        self.hints.heads.put(stream.clone(), StreamHead { archived: true, ..head });
        Ok(())
    }

    fn restore(&mut self, stream: &StreamId) -> Result<(), Error> {
        let head = self.existing(stream)?;
        let sql = "DELETE FROM archived_streams WHERE aggregate_id = $2
                   AND aggregate_type = (SELECT id FROM aggregate_types WHERE name = $1)";
        let (aggregate_type, id) = (&*stream.aggregate_type, stream.aggregate_id.as_bytes());
        self.execute("restoring an archived stream", sql, &[&aggregate_type, &id])?;
        fault::at(FaultPoint::StreamRestored);
        self.hints.heads.put(stream.clone(), StreamHead { archived: false, ..head });
        Ok(())
    }

    fn keep_first_fact(&mut self, name: &str, value: &str) -> Result<(), Error> {
        refuse_nul(name)?;
        let sql = "INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
        self.execute("keeping a fact", sql, &[&name, &value.as_bytes()])?;
        fault::at(FaultPoint::FactKept);
        Ok(())
    }

    pub(super) fn set_fact(&mut self, name: &str, value: Option<&str>) -> Result<(), Error> {
        const DOING: &str = "keeping a fact";
        refuse_nul(name)?;
        match value {
            Some(value) => {
                let sql = "INSERT INTO facts (name, value) VALUES ($1, $2)
                           ON CONFLICT (name) DO UPDATE SET value = excluded.value";
                self.execute(DOING, sql, &[&name, &value.as_bytes()])?;
            }
            None => _ = self.execute(DOING, "DELETE FROM facts WHERE name = $1", &[&name])?,
        }
        fault::at(FaultPoint::FactKept);
        Ok(())
    }

    /// Finds a stream that has events, archived or not.
    fn existing(&mut self, stream: &StreamId) -> Result<StreamHead, Error> {
        refuse_nul(&stream.aggregate_type)?;
        match self.head_of(stream)? {
            StreamHead { version: 0, .. } => {
                Err(Error::NotFound(format!("there is no stream {stream}: it has no events")))
            }
            head => Ok(head),
        }
    }
}
