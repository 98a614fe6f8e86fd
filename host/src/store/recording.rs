//! The rules by which a writer records the decision on a command, whatever its database is.
//!
//! A writer implements what its database does ([`Recording`]'s required functions), and gets the rules: what makes a repetition
//! harmless, which decision is refused, and what becomes of the item that the command came from.

use super::fault::{self, FaultPoint};
use super::write_request::{dead_letter_of, refuse_unexpected};
use super::{Append, Appended, Decision, Error, Options, SagaAppend, check_sizes};
use crate::model::{
    Command, DeadLetter, Ending, ExpectedVersion, LedgerName, NewEvent, Origin, Outcome, OutcomeUse, Position,
    QuickMap, StreamId, Undecided, Version,
};

/// The version of a stream and whether it is archived, as kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamHead {
    pub(super) version: u64,
    /// Whether it accepts no more events.
    pub(super) archived: bool,
}

/// A writer that records decisions.
pub(super) trait Recording {
    /// The content of one transaction so far.
    type Batch;
    /// What the database knows a stream by.
    type Key;

    /// Returns the options of the store.
    fn options(&self) -> &Options;

    /// Returns the position of the newest event, in this transaction.
    fn newest(&self) -> Position;

    /// Returns the counts of accepted, rejected and malformed commands of this kind.
    fn tally<'b>(&self, batch: &'b mut Self::Batch, command: &Command) -> &'b mut [u64; 3];

    /// Fails if the database can't store a name.
    fn refuse_name(&self, _name: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Returns the key and the head of a stream, in this transaction.
    fn place(&mut self, stream: &StreamId) -> Result<(Self::Key, StreamHead), Error>;

    /// Adds events to a stream that is at this version.
    fn insert(
        &mut self,
        batch: &mut Self::Batch,
        command: &Command,
        key: Self::Key,
        actual: Version,
        events: Vec<NewEvent>,
    ) -> Result<Appended, Error>;

    /// Is told how many sagas are about to move.
    fn expect_sagas(&mut self, _batch: &Self::Batch, _count: usize) {}

    /// Archives a stream, which has events.
    fn archive_stream(&mut self, stream: &StreamId) -> Result<(), Error>;

    /// Cancels all timers of a saga.
    fn cancel_timers(&mut self, subscription: &str, saga: &str) -> Result<(), Error>;

    /// Fails if the command's id was used before: with the stored outcome if it is the same command, and with another
    /// error if it is not.
    fn refuse_repetition(&mut self, command: &Command, fingerprint: [u8; 16]) -> Result<(), Error>;

    /// Stores the outcome of a command whose sender chose the id.
    fn remember(&mut self, command: &Command, fingerprint: [u8; 16], outcome: &Outcome) -> Result<(), Error>;

    /// Keeps the outcome of a command for the subscription that sent it, if it asked for that. Returns whether it did.
    fn keep_outcome(&mut self, batch: &mut Self::Batch, command: &Command, ending: Ending) -> Result<bool, Error>;

    /// Returns whether the ledger of an origin has settled it.
    fn ledger_has(&mut self, origin: &Origin) -> Result<bool, Error>;

    /// Settles an origin in its ledger.
    fn settle_in_ledger(&mut self, origin: &Origin) -> Result<(), Error>;

    /// Returns whether there is a dead letter with this number.
    fn has_letter(&mut self, number: u64) -> Result<bool, Error>;

    /// Removes a dead letter.
    fn remove_letter(&mut self, number: u64) -> Result<(), Error>;

    /// Replaces the reason of a dead letter.
    fn explain_letter(&mut self, number: u64, reason: &str) -> Result<(), Error>;

    /// Fails if there is no room for more dead letters.
    fn refuse_if_letters_are_full(&self, coming: usize) -> Result<(), Error>;

    /// Stores a dead letter for which there is room, and settles its origin. A caller with several dead letters must check the room
    /// for all of them before it changes anything, because a refusal in the middle would be committed with the changes before it.
    fn keep_letter(
        &mut self,
        batch: &mut Self::Batch,
        letter: &DeadLetter,
        origin: Option<&Origin>,
    ) -> Result<(), Error>;

    /// Records the decision on a command. All checks that can refuse it come before the first write, except that the
    /// name of its aggregate type may be written before. If an append fails, the next ones of its chain are refused.
    fn append(
        &mut self,
        batch: &mut Self::Batch,
        append: Append,
        fingerprint: Option<[u8; 16]>,
    ) -> Result<Appended, Error> {
        let Append { command, expected, decision, chain } = append;
        if chain.is_some_and(|chain| chain.is_broken()) {
            // It was decided on events that were not recorded.
            let actual = Version(self.place(&command.stream)?.1.version);
            return Err(Error::Conflict { stream: command.stream.clone(), actual, expected });
        }
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
                self.check_events(&command, &events)?;
                self.tally(batch, &command)[0] += 1;
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
            Outcome::Rejected { .. } => self.tally(batch, &command)[1] += 1,
            Outcome::Malformed { .. } => self.tally(batch, &command)[2] += 1,
            _ => {}
        }
        if let Some(fingerprint) = fingerprint {
            self.remember(&command, fingerprint, &outcome)?;
            fault::at(FaultPoint::OutcomeRemembered);
        }
        Ok(appended)
    }

    /// Returns what an append without events says.
    fn nothing(&self) -> Appended {
        Appended { version: Version(0), position: self.newest() }
    }

    /// Fails if events can't be recorded, because of their sizes or names.
    fn check_events(&self, command: &Command, events: &[NewEvent]) -> Result<(), Error> {
        check_sizes(command, events, self.options().event_bytes_max).map_err(Error::Invalid)?;
        events.iter().try_for_each(|event| self.refuse_name(&event.name))?;
        self.refuse_name(&command.stream.aggregate_type)
    }

    /// Settles a command with an origin, in the way that its outcome is to be used.
    fn end(&mut self, batch: &mut Self::Batch, command: &Command, outcome: &Outcome) -> Result<(), Error> {
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

    /// Ends a command that is not decided, and never will be.
    fn end_undecided(
        &mut self,
        batch: &mut Self::Batch,
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
            self.tally(batch, command)[2] += 1;
        }
        Ok(self.nothing())
    }

    /// Settles the origin of a command, after it has told the subscription that asked for the outcome, or else has dead-lettered
    /// the command if there is a reason for that.
    fn report_or_dead_letter(
        &mut self,
        batch: &mut Self::Batch,
        command: &Command,
        origin: &Origin,
        ending: Ending,
        dead_letter: Option<String>,
    ) -> Result<(), Error> {
        match dead_letter {
            _ if self.keep_outcome(batch, command, ending)? => self.settle(origin),
            None => self.settle(origin),
            Some(reason) => self.dead_letter_command(batch, command, &reason),
        }
    }

    /// Fails if the events of sagas can't be recorded as a step wants it. It writes nothing but the name of a type.
    fn check_sagas(&mut self, sagas: &[SagaAppend]) -> Result<(), Error> {
        let mut planned: QuickMap<StreamId, StreamHead> = QuickMap::default();
        for SagaAppend { input, expected, events, ends } in sagas {
            let (_, head) = self.place(&input.stream)?;
            let head = planned.entry(input.stream.clone()).or_insert(head);
            if head.archived {
                return Err(Error::Archived { stream: input.stream.clone() });
            }
            refuse_unexpected(input, ExpectedVersion::Exact(*expected), head.version)?;
            self.check_events(input, events)?;
            *head = StreamHead { version: head.version + events.len() as u64, archived: *ends };
        }
        Ok(())
    }

    /// Records the events of sagas, which were checked.
    fn append_sagas(
        &mut self,
        batch: &mut Self::Batch,
        subscription: &str,
        sagas: Vec<SagaAppend>,
    ) -> Result<(), Error> {
        self.expect_sagas(batch, sagas.len());
        for SagaAppend { input, expected, events, ends } in sagas {
            let (key, _) = self.place(&input.stream)?;
            self.insert(batch, &input, key, expected, events)?;
            fault::at(FaultPoint::SagaMoved);
            if ends {
                self.archive_stream(&input.stream)?;
                self.cancel_timers(subscription, &input.stream.aggregate_id)?;
            }
        }
        Ok(())
    }

    /// Returns whether the item of an origin is settled. The retry of a dead letter is settled if the dead letter is
    /// gone.
    fn is_settled(&mut self, origin: &Origin) -> Result<bool, Error> {
        match replayed(origin) {
            Some(number) => self.has_letter(number).map(|there| !there),
            None => self.ledger_has(origin),
        }
    }

    /// Settles the item of an origin. If it retried a dead letter, the dead letter is removed.
    fn settle(&mut self, origin: &Origin) -> Result<(), Error> {
        match replayed(origin) {
            Some(number) => self.remove_letter(number),
            None => self.settle_in_ledger(origin),
        }
    }

    /// Dead-letters an item. If its origin is already settled, it was dead-lettered before, and nothing happens.
    fn dead_letter(
        &mut self,
        batch: &mut Self::Batch,
        letter: &DeadLetter,
        origin: Option<&Origin>,
    ) -> Result<(), Error> {
        if let Some(origin) = origin
            && self.is_settled(origin)?
        {
            return Ok(());
        }
        self.refuse_name(&letter.consumer)?;
        self.refuse_if_letters_are_full(1)?;
        self.keep_letter(batch, letter, origin)
    }

    /// Dead-letters and settles a command with an origin that can't be handled. If it retried a dead letter, that
    /// dead letter stays and gets the new reason.
    fn dead_letter_command(&mut self, batch: &mut Self::Batch, command: &Command, reason: &str) -> Result<(), Error> {
        let Some(origin) = &command.origin else { return Ok(()) };
        let letter = dead_letter_of(command, reason);
        match replayed(origin) {
            Some(number) => self.explain_letter(number, &letter.reason),
            None => {
                self.dead_letter(batch, &letter, None)?;
                self.settle_in_ledger(origin)
            }
        }
    }
}

/// Returns the dead letter that the command of an origin retries, if it retries one.
fn replayed(origin: &Origin) -> Option<u64> {
    LedgerName::is_of_dead_letters(&origin.ledger).then_some(origin.last)
}
