//! The replay of a subscription's dead letters. The effects and the end of a dead letter are one transaction.

use super::effects::{Outgoing, outgoing};
use super::handler::{Handler, Unhandled};
use super::outbox::Outbox;
use crate::ack::{self, Unanswered};
use crate::bounds::Bounds;
use crate::model::{DeadLetterContent, Segment};
use crate::plugin::Slot;
use crate::store::{self, EventStore, Reached, event_at};
use std::sync::Arc;

/// Why a dead letter was not replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The subscriber failed again. The text says how.
    #[error("{0}")]
    Refused(String),
    /// The dead letter is not one that a subscription can handle.
    #[error("{0}")]
    Foreign(String),
    /// It is for another segment of the subscription.
    #[error("segment {0} of the subscription handles it")]
    OtherSegment(Segment),
    /// The store failed, or the dead letter is gone.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Unanswered for Result<(), ReplayError> {
    fn unanswered() -> Self {
        Err(store::Error::Closed.into())
    }
}

/// A replay, which runs next to the subscription's own thread with its own wasm store.
pub(super) struct Again<'s> {
    pub(super) slot: &'s Arc<Slot>,
    pub(super) bounds: Bounds,
    /// The subscription's name in the store.
    pub(super) subscription: &'s Arc<str>,
    /// The consumer of the dead letters, after which the ids of the effects are named.
    pub(super) consumer: &'s Arc<str>,
    pub(super) store: &'s Arc<dyn EventStore>,
    pub(super) outbox: &'s Outbox,
}

impl Again<'_> {
    /// Handles a dead letter again. This blocks until it is done.
    pub(super) fn replay(&self, number: u64, content: &DeadLetterContent) -> Result<(), ReplayError> {
        let outgoing = self.handle(content)?.logged(self.consumer);
        let step = outgoing.step(self.subscription, Reached::Replayed(number));
        let advanced = ack::wait(|ack| self.store.advance(step, ack))?;
        self.outbox.send(advanced.commands);
        Ok(())
    }

    fn handle(&self, content: &DeadLetterContent) -> Result<Outgoing, ReplayError> {
        let mut handler = Handler::new(self.slot.clone());
        match content {
            DeadLetterContent::Event(position) => {
                let event = event_at(&mut *self.store.reader()?, *position)?;
                let effects = handler.events(std::slice::from_ref(&event)).map_err(refused)?;
                Ok(outgoing(self.consumer, effects, self.bounds, |_| &event))
            }
            DeadLetterContent::Record(record) => {
                let effects = handler.records(self.consumer, &[record]).map_err(refused)?;
                Ok(outgoing(self.consumer, effects, self.bounds, |_| record))
            }
            DeadLetterContent::Callback(callback) => {
                let effects = handler.callbacks(std::slice::from_ref(callback)).map_err(refused)?;
                Ok(outgoing(self.consumer, effects, self.bounds, |_| callback))
            }
            _ => Err(ReplayError::Foreign("this dead letter holds nothing that a subscriber could handle".into())),
        }
    }
}

fn refused(unhandled: Unhandled) -> ReplayError {
    ReplayError::Refused(unhandled.to_string())
}
