//! The subscriber of a transform: it turns records into messages only, which Kafka keeps, not the store.

use super::effects::{Outgoing, outgoing_at};
use super::handler::{Handler, RetryDecision, Unhandled};
use crate::bounds::Bounds;
use crate::framing;
use crate::model::{Message, Record};
use crate::plugin::{Effect, OutgoingCommand, OutgoingRequest, Slot};
use std::sync::Arc;
use std::time::Duration;

/// Code that turns records into messages.
pub trait Transforming: Send {
    /// Drops the guest, so that the next call gets a new one. After a panic the old one may be in the middle of a call.
    fn replace(&mut self);

    /// Switches to new code, if there is any. This may only be called between two batches.
    fn renew(&mut self);

    /// Returns how many of the next records to put into a batch.
    fn list(&self, records: usize) -> usize;

    /// Returns the messages for the records, each with the index of its record: all of them, or none.
    fn messages(&mut self, records: &[&Record]) -> Result<Vec<(usize, Message)>, Untransformed>;
}

/// A subscriber that handles the records of a source. It belongs to one thread, which also creates the guest.
pub struct Transformer {
    source: Arc<str>,
    subscriber: Arc<str>,
    bounds: Bounds,
    handler: Handler,
}

/// Why a batch of records has no messages.
#[derive(Debug, PartialEq, Eq)]
pub enum Untransformed {
    /// A smaller batch is to be tried, with this number of records, at least one.
    Fewer(usize),
    /// The host could not call the subscriber. The records can be retried.
    Host(String),
    /// The only record in the batch can never be handled.
    Refused(String),
    /// The only record in the batch is to be retried after a pause.
    Again(String, Duration),
    /// The subscriber asked for an effect other than a message, which is an error until its code or the manifest is changed.
    Command(String),
}

impl Transformer {
    /// Creates a transformer with the subscriber's current code.
    pub fn new(slot: &Arc<Slot>, source: Arc<str>, bounds: Bounds) -> Self {
        Self { source, bounds, subscriber: slot.name.clone(), handler: Handler::new(slot.clone()) }
    }
}

impl Transforming for Transformer {
    fn replace(&mut self) {
        self.handler.replace();
    }

    fn renew(&mut self) {
        self.handler.renew();
    }

    fn list(&self, records: usize) -> usize {
        self.handler.list(records)
    }

    fn messages(&mut self, records: &[&Record]) -> Result<Vec<(usize, Message)>, Untransformed> {
        let effects = self.handler.records(&self.source, records).map_err(|unhandled| {
            if let Unhandled::Host(reason) = unhandled {
                return Untransformed::Host(reason);
            }
            if records.len() > 1 {
                return Untransformed::Fewer(unhandled.fewer(records.len()));
            }
            match unhandled.decision() {
                RetryDecision::Later(reason) => Untransformed::Host(reason),
                RetryDecision::DeadLetter(reason) => {
                    let payload = records[0].payload.as_deref().unwrap_or_default();
                    Untransformed::Refused(framing::explained(reason, "value", payload))
                }
                RetryDecision::Again(reason, wait) => {
                    Untransformed::Again(reason, wait.min(self.bounds.retry_after_max))
                }
            }
        })?;
        let other = effects.list.iter().find_map(|(index, effect)| Some((*index as usize, beyond_kafka(effect)?)));
        if let Some((index, effect)) = other {
            return Err(Untransformed::Command(format!(
                "for {} plugin {} {effect}, but a Kafka transaction can only hold messages: set `transaction = \"store\"` of \
                 [sources.{}], or let the plugin publish only messages",
                records[index].place(),
                self.subscriber,
                self.source
            )));
        }
        let indices: Vec<usize> = effects.list.iter().map(|(index, _)| *index as usize).collect();
        let Outgoing { messages, mut dead_letters, .. } =
            // As in other stream processors, a message has the time of its record.
            outgoing_at(None, &self.source, effects, self.bounds, |index| records[index]);
        // Here the record ends the chain of causes, not the message, because the dead-letter topic takes records.
        if let Some(letter) = dead_letters.pop() {
            return Err(match records.len() {
                1 => Untransformed::Refused(letter.reason),
                several => Untransformed::Fewer(several / 2),
            });
        }
        Ok(indices.into_iter().zip(messages).collect())
    }
}

/// Returns what an effect does, if a Kafka transaction can't hold it.
fn beyond_kafka(effect: &Effect) -> Option<String> {
    match effect {
        Effect::Message(_) => None,
        Effect::Command(command) => {
            let OutgoingCommand { name, aggregate_type, aggregate_id, .. } = command;
            Some(format!("sends the command {name} to {aggregate_type}/{aggregate_id}"))
        }
        Effect::Later(_, _, command) => Some(format!("sets a timer that sends the command {}", command.name)),
        Effect::Wake(name, ..) => Some(format!("sets the timer {name}")),
        Effect::Http(request) => {
            let OutgoingRequest { method, endpoint, path, .. } = request;
            Some(format!("sends the HTTP request {method} {endpoint}/{path}"))
        }
        Effect::Cancel(name) => Some(format!("cancels the timer {name}")),
    }
}
