//! Records into messages and nothing else: a subscriber whose effects are Kafka's to keep, not the store's.

use super::effects::{Outgoing, outgoing};
use super::handler::{Handler, RetryDecision, Unhandled};
use crate::bounds::Bounds;
use crate::framing;
use crate::model::{Message, Record};
use crate::plugin::{Effect, Slot};
use std::sync::Arc;
use std::time::Duration;

/// What makes messages of records.
pub trait Transforming: Send {
    /// Has the next call made on a new guest: after a panic the old one may be in the middle of a call.
    fn replace(&mut self);

    /// Takes new code, if there is any. Between two lists only.
    fn renew(&mut self);

    /// How many of the next records to handle at once.
    fn list(&self, records: usize) -> usize;

    /// The messages that records lead to, each with the index of its record; all of them, or none.
    fn messages(&mut self, records: &[&Record]) -> Result<Vec<(usize, Message)>, Untransformed>;
}

/// A subscriber on the records of a source. On one thread: its guest is made where it is called.
pub struct Transformer {
    source: Arc<str>,
    subscriber: Arc<str>,
    bounds: Bounds,
    handler: Handler,
}

/// Why a list of records has no messages.
#[derive(Debug, PartialEq, Eq)]
pub enum Untransformed {
    /// Try so many of them: fewer than there were, at least one.
    Fewer(usize),
    /// The host could not call the subscriber. The records are as good as before.
    Host(String),
    /// The one record that was tried will never do.
    Refused(String),
    /// The one record that was tried may do after a while.
    Again(String, Duration),
    /// The subscriber asked for a command. Nothing helps until its code is another.
    Command(String),
}

impl Transformer {
    /// A subscriber's code as it is now.
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
        let command = effects.list.iter().find_map(|(index, effect)| match effect {
            Effect::Command(command) => Some((*index as usize, command)),
            Effect::Message(_) => None,
        });
        if let Some((index, command)) = command {
            return Err(Untransformed::Command(format!(
                "for {} plugin {} sends the command {} to {}/{}, and a Kafka transaction holds messages alone: set \
                 `transaction = \"store\"` of [sources.{}], or let the plugin send none",
                records[index].place(),
                self.subscriber,
                command.name,
                command.aggregate_type,
                command.aggregate_id,
                self.source
            )));
        }
        let indices: Vec<usize> = effects.list.iter().map(|(index, _)| *index as usize).collect();
        let Outgoing { messages, mut dead_letters, .. } =
            outgoing(&self.source, effects, self.bounds, |index| records[index]);
        // It is the record that ends the chain here: the dead-letter topic takes records.
        if let Some(letter) = dead_letters.pop() {
            return Err(match records.len() {
                1 => Untransformed::Refused(letter.reason),
                several => Untransformed::Fewer(several / 2),
            });
        }
        Ok(indices.into_iter().zip(messages).collect())
    }
}
