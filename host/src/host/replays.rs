//! Trying again what was dead-lettered: each dead letter goes the way it came, and is gone once that is durable.
//!
//! A command, and a record that becomes one, goes to its aggregate with the letter as its origin, so that the store
//! takes the letter away with what came of it. A message goes into the outbox, an event or a record to its subscriber;
//! both take the letter away in the same transaction. However often it is tried, it takes effect once.

use super::maintenance::blocking;
use super::{Host, Untaken};
use crate::model::{Command, DeadLetter, DeadLetterContent, KeptLetter, Outcome};
use crate::status::Replayed;
use crate::store::{self, letter_origin};
use crate::subscriptions::ReplayError;
use std::sync::Arc;

/// Why a dead letter is still there.
#[derive(Debug, thiserror::Error)]
pub enum Unreplayed {
    /// It can't be tried again, or not with this manifest; the text says why.
    #[error("{0}")]
    Impossible(String),
    /// It failed again.
    #[error("{0}")]
    Again(String),
    /// A queue is full: try later.
    #[error("{0}")]
    Busy(String),
    /// The store has no such letter, or failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Host {
    /// Tries a dead letter again.
    pub async fn replay(self: &Arc<Self>, number: u64) -> Result<Replayed, Unreplayed> {
        let letter = self.read(move |reader| reader.dead_letter(number)).await?;
        let KeptLetter { letter, .. } =
            letter.ok_or_else(|| store::Error::NotFound(format!("there is no dead letter {number}")))?;
        match &letter.content {
            DeadLetterContent::Gone => Err(Unreplayed::Impossible(format!(
                "dead letter {number} holds nothing that could be tried again: discard it once you have seen it"
            ))),
            DeadLetterContent::Message(..) => {
                self.change(move |store, done| store.republish_letter(number, done)).await?;
                Ok(Replayed { number, outcome: "published".into(), reason: None })
            }
            DeadLetterContent::Command(command) => self.send_again(number, command.clone()).await,
            DeadLetterContent::Record(_) => match self.command_again(number, &letter).await? {
                Some(command) => self.send_again(number, command).await,
                None => self.deliver_again(number, letter).await,
            },
            DeadLetterContent::Event(_) => self.deliver_again(number, letter).await,
        }
    }

    async fn send_again(&self, number: u64, command: Command) -> Result<Replayed, Unreplayed> {
        let aggregate_type = command.stream.aggregate_type.clone();
        // A person has looked at it: the count of its chain starts over.
        let command = Command { origin: Some(letter_origin(number)), durable_id: false, hops: 0, ..command };
        let done = |outcome: &str, reason| Ok(Replayed { number, outcome: outcome.into(), reason });
        match self.send(command).await.map(|outcome| outcome.what().clone()) {
            Ok(Outcome::Accepted { .. }) => done("accepted", None),
            Ok(Outcome::Rejected { reason }) => done("rejected", Some(reason)),
            Ok(Outcome::Busy { retry_after_ms }) => {
                Err(Unreplayed::Busy(format!("the aggregate's queue is full: try again in {retry_after_ms} ms")))
            }
            Ok(Outcome::Conflict { actual, expected }) => {
                Err(Unreplayed::Again(format!("its stream is at version {actual}, and it expects {expected}")))
            }
            Ok(
                Outcome::Malformed { reason }
                | Outcome::Failed { reason }
                | Outcome::Archived { reason }
                | Outcome::IdReused { reason },
            ) => Err(Unreplayed::Again(reason)),
            // Its id is that of the letter: none is remembered for it.
            Ok(Outcome::Remembered(_)) => done("accepted", None),
            Err(Untaken::UnknownAggregate { known }) => Err(Unreplayed::Impossible(format!(
                "no plugin serves aggregate type {aggregate_type}; served are: {}",
                known.join(", ")
            ))),
            Err(Untaken::InvalidId(reason)) => Err(Unreplayed::Impossible(reason)),
        }
    }

    /// The command that a record becomes; `None` where its source has a subscriber.
    async fn command_again(&self, number: u64, letter: &DeadLetter) -> Result<Option<Command>, Unreplayed> {
        let DeadLetterContent::Record(record) = &letter.content else { return Ok(None) };
        let Some(source) = self.parts.sources.iter().find(|source| source.name() == letter.consumer) else {
            return Err(self.no_consumer("source", number, letter));
        };
        match source.command(record, letter_origin(number)) {
            Ok(command) => Ok(command),
            Err(reason) => Err(self.failed_again(number, reason).await?),
        }
    }

    async fn deliver_again(self: &Arc<Self>, number: u64, letter: DeadLetter) -> Result<Replayed, Unreplayed> {
        let (host, consumer) = (self.clone(), letter.consumer.clone());
        let content = letter.content.clone();
        let delivered = blocking(move || {
            let parts = &host.parts;
            let of_records = || parts.records.iter().find(|records| records.source() == consumer);
            let of_events = || parts.subscriptions.iter().find(|subscription| **subscription.name() == *consumer);
            Ok(match content {
                DeadLetterContent::Record(_) => of_records().map(|records| records.replay(number, &content)),
                _ => of_events().map(|subscription| subscription.replay(number, &content)),
            })
        });
        match delivered.await? {
            None => Err(self.no_consumer("subscription", number, &letter)),
            Some(Ok(())) => Ok(Replayed { number, outcome: "handled".into(), reason: None }),
            Some(Err(ReplayError::Refused(reason))) => Err(self.failed_again(number, reason).await?),
            Some(Err(ReplayError::Foreign(reason))) => Err(Unreplayed::Impossible(reason)),
            Some(Err(ReplayError::Store(error))) => Err(error.into()),
        }
    }

    /// Keeps the newest reason with the letter.
    async fn failed_again(&self, number: u64, reason: String) -> Result<Unreplayed, Unreplayed> {
        let kept = reason.clone();
        self.change(move |store, done| store.explain_letter(number, kept, done)).await?;
        Ok(Unreplayed::Again(reason))
    }

    fn no_consumer(&self, kind: &str, number: u64, letter: &DeadLetter) -> Unreplayed {
        let DeadLetter { consumer, .. } = letter;
        Unreplayed::Impossible(format!(
            "dead letter {number} is of {kind} {consumer}, which this manifest does not have: add it, or discard the letter"
        ))
    }
}
