//! Retries of dead letters. Each dead letter takes its original way again and is deleted when its effect is durable.
//!
//! A command, or a record that becomes one, goes to its aggregate with the dead letter as its origin, so the store
//! deletes the dead letter in the transaction of its outcome. A message goes into the outbox, and an event or a record
//! to its subscriber; both delete the dead letter in the transaction of the effect. However often a dead letter is
//! retried, it takes effect once.

use super::maintenance::blocking;
use super::plan::{Kind, PartName, Recipe};
use super::{Host, Untaken};
use crate::model::{
    Command, DeadLetter, DeadLetterContent, KeptDeadLetter, Outcome, OutcomeUse, Segment, SubscriptionName,
};
use crate::status::Replayed;
use crate::store::{self, dead_letter_origin};
use crate::subscriptions::ReplayError;
use std::sync::Arc;

/// Reason for which a dead letter is still there.
#[derive(Debug, thiserror::Error)]
pub enum Unreplayed {
    /// It can't be retried, or not with this manifest. The text says why.
    #[error("{0}")]
    Impossible(String),
    /// It failed again.
    #[error("{0}")]
    Again(String),
    /// A queue is full. A later retry may succeed.
    #[error("{0}")]
    Busy(String),
    /// The store has no such dead letter, or it failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Host {
    /// Retries a dead letter.
    pub async fn replay(self: &Arc<Self>, number: u64) -> Result<Replayed, Unreplayed> {
        let letter = self.read(move |reader| reader.dead_letter(number)).await?;
        let KeptDeadLetter { letter, .. } =
            letter.ok_or_else(|| store::Error::NotFound(format!("there is no dead letter {number}")))?;
        match &letter.content {
            DeadLetterContent::Gone => Err(Unreplayed::Impossible(format!(
                "dead letter {number} holds nothing that could be tried again: discard it once you have seen it"
            ))),
            DeadLetterContent::Message(..) => {
                self.change(move |store, done| store.republish_dead_letter(number, done)).await?;
                Ok(Replayed { number, outcome: "published".into(), reason: None })
            }
            DeadLetterContent::Http(kept) => {
                self.change(move |store, done| store.republish_dead_letter(number, done)).await?;
                let reason =
                    format!("HTTP request {} is sent again; `wasmill requests list` shows it", kept.request.id);
                Ok(Replayed { number, outcome: "queued".into(), reason: Some(reason) })
            }
            DeadLetterContent::Command(command) => self.send_again(number, command.clone()).await,
            DeadLetterContent::Record(_) => match self.command_again(number, &letter).await? {
                Some(command) => self.send_again(number, command).await,
                None => self.deliver_again(number, letter).await,
            },
            DeadLetterContent::Event(_) | DeadLetterContent::Callback(_) => self.deliver_again(number, letter).await,
        }
    }

    async fn send_again(&self, number: u64, command: Command) -> Result<Replayed, Unreplayed> {
        let aggregate_type = command.stream.aggregate_type.clone();
        // A person has decided to retry it, so its chain of causes starts again.
        let command = Command { origin: Some(dead_letter_origin(number)), durable_id: false, hops: 0, ..command };
        let stays = command.outcome_use == OutcomeUse::DeadLettered;
        let done = |outcome: &str, reason| Ok(Replayed { number, outcome: outcome.into(), reason });
        match self.send(command).await.map(|outcome| outcome.what().clone()) {
            Ok(Outcome::Accepted { .. }) => done("accepted", None),
            Ok(Outcome::Rejected { reason }) if stays => Err(Unreplayed::Again(format!("rejected: {reason}"))),
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
            // The command has `durable_id: false`, so no outcome is kept under its id.
            Ok(Outcome::Remembered(_)) => done("accepted", None),
            Err(Untaken::UnknownAggregate { known }) => Err(Unreplayed::Impossible(format!(
                "no plugin serves aggregate type {aggregate_type}; served are: {}",
                known.join(", ")
            ))),
            Err(Untaken::InvalidId(reason)) => Err(Unreplayed::Impossible(reason)),
        }
    }

    /// Returns the command that a record becomes. It is `None` if its source delivers to a subscriber.
    async fn command_again(&self, number: u64, letter: &DeadLetter) -> Result<Option<Command>, Unreplayed> {
        let DeadLetterContent::Record(record) = &letter.content else { return Ok(None) };
        let Some(source) = self.parts().sources.get(&*letter.consumer).cloned() else {
            return Err(self.no_consumer("source", number, letter, &letter.consumer));
        };
        match source.command(record, dead_letter_origin(number)) {
            Ok(command) => Ok(command),
            Err(reason) => Err(self.failed_again(number, reason).await?),
        }
    }

    async fn deliver_again(self: &Arc<Self>, number: u64, letter: DeadLetter) -> Result<Replayed, Unreplayed> {
        let mut subscription = self.segment_of_letter(&letter);
        // A segment says which other one it is for, if that can't be seen from outside, and that one says no other.
        loop {
            return match self.delivered_again(number, &letter, subscription.clone()).await? {
                None => Err(self.no_consumer("subscription", number, &letter, &subscription)),
                Some(Ok(())) => Ok(Replayed { number, outcome: "handled".into(), reason: None }),
                Some(Err(ReplayError::OtherSegment(segment))) => {
                    subscription = SubscriptionName::Plugin(&letter.consumer, segment).to_string();
                    continue;
                }
                Some(Err(ReplayError::Refused(reason))) => Err(self.failed_again(number, reason).await?),
                Some(Err(ReplayError::Foreign(reason))) => Err(Unreplayed::Impossible(reason)),
                Some(Err(ReplayError::Store(error))) => Err(error.into()),
            };
        }
    }

    /// Returns the subscription that handles a dead letter, or the segment of it that has the key of the letter.
    fn segment_of_letter(&self, letter: &DeadLetter) -> String {
        let SubscriptionName::Plugin(plugin, _) = SubscriptionName::parse(&letter.consumer) else {
            return letter.consumer.clone();
        };
        let parts = self.parts();
        let name = |segment| SubscriptionName::Plugin(plugin, segment).to_string();
        let segments: Vec<Segment> = parts.manifest.segments(plugin).collect();
        let by_key = name(Segment::of(letter.key.as_deref().map(str::as_bytes), segments.len() as u32));
        // The letter of a saga's event has the key of the event's aggregate. Each segment can tell which one has the saga.
        let is_event = matches!(letter.content, DeadLetterContent::Event(_));
        let has_sagas = matches!(
            parts.applied.plan.recipe(&PartName::new(Kind::Subscription, by_key.as_str())),
            Some(Recipe::Subscription { sagas: Some(_), .. })
        );
        if !is_event || !has_sagas || parts.subscriptions.contains_key(&*by_key) {
            return by_key;
        }
        segments.into_iter().map(name).find(|name| parts.subscriptions.contains_key(&**name)).unwrap_or(by_key)
    }

    /// Has a subscription handle a dead letter. Returns `None` if it does not run here.
    async fn delivered_again(
        self: &Arc<Self>,
        number: u64,
        letter: &DeadLetter,
        subscription: String,
    ) -> Result<Option<Result<(), ReplayError>>, Unreplayed> {
        let (host, consumer, content) = (self.clone(), letter.consumer.clone(), letter.content.clone());
        let _used = self.in_use.read().await;
        let delivered = blocking(move || {
            let parts = host.parts();
            Ok::<_, store::Error>(match content {
                DeadLetterContent::Record(_) => {
                    parts.records.get(&*consumer).map(|records| records.replay(number, &content))
                }
                _ => match SubscriptionName::parse(&subscription) {
                    SubscriptionName::Plugin(..) => {
                        parts.subscriptions.get(&*subscription).map(|found| found.replay(number, &content))
                    }
                    SubscriptionName::Source(name) => {
                        parts.records.get(name).map(|records| records.replay(number, &content))
                    }
                },
            })
        });
        Ok(delivered.await?)
    }

    /// Keeps the newest reason with the dead letter.
    async fn failed_again(&self, number: u64, reason: String) -> Result<Unreplayed, Unreplayed> {
        let kept = reason.clone();
        self.change(move |store, done| store.explain_dead_letter(number, kept, done)).await?;
        Ok(Unreplayed::Again(reason))
    }

    fn no_consumer(&self, kind: &str, number: u64, letter: &DeadLetter, part: &str) -> Unreplayed {
        let DeadLetter { consumer, .. } = letter;
        let elsewhere = match kind {
            "source" => self.source_elsewhere(part),
            _ => self.subscription_elsewhere(part),
        };
        if let Some(elsewhere) = elsewhere {
            return Unreplayed::Impossible(elsewhere);
        }
        Unreplayed::Impossible(format!(
            "dead letter {number} is of {kind} {consumer}, which this manifest does not have: add it, or discard the letter"
        ))
    }
}
