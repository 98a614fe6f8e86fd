//! Where a source's records go: to the aggregates as commands, or to a subscriber as they are.

use crate::ack::{Ack, RangeAck};
use crate::aggregates::{Inbox, Unaccepted};
use crate::bounds::Bounds;
use crate::kafka::record::Mapping;
use crate::manifest::Target;
use crate::model::{Command, Outcome};
use crate::subscriptions::{RecordInbox, RecordRun};
use std::sync::Arc;

/// Who takes what a source reads.
#[derive(Clone)]
pub struct Targets {
    /// Takes the commands.
    pub aggregates: Arc<dyn Inbox>,
    /// Takes the records of a source that delivers to a subscriber.
    pub subscriber: Option<Arc<dyn RecordInbox>>,
}

/// Where a source's records go.
pub(super) enum Destination {
    /// Each becomes a command.
    Commands(Mapping, Arc<dyn Inbox>),
    /// As they are, so many in a run at most.
    Records(usize, Arc<dyn RecordInbox>),
}

/// Something to be handed on, with its acknowledgement.
pub(super) enum Delivery {
    Command(Arc<Command>, Ack<Outcome>),
    Records(RecordRun),
}

/// What was not taken, handed back.
pub(super) enum Refused {
    /// A command, and why.
    Command(Unaccepted),
    /// Records for which there is no room.
    Records(RecordRun),
}

impl Delivery {
    pub(super) fn command(command: Command, ack: RangeAck) -> Self {
        Self::Command(command.into(), Ack::new(move |outcome| ack.give(settled(&outcome))))
    }
}

impl Destination {
    pub(super) fn new(source: &Arc<str>, target: &Target, bounds: Bounds, targets: Targets) -> Self {
        match target {
            Target::Commands(commands) => {
                Self::Commands(Mapping::new(source.clone(), commands, bounds), targets.aggregates)
            }
            Target::Deliveries(deliveries) => {
                Self::Records(deliveries.batch_max, targets.subscriber.expect("who delivers has a subscriber"))
            }
        }
    }

    /// Whether each record says itself which type of aggregate it is for, so that one of them may be wrong.
    pub(super) fn is_addressed_by_records(&self) -> bool {
        matches!(self, Self::Commands(mapping, _) if mapping.is_addressed_by_records())
    }

    /// Hands something on, without waiting.
    pub(super) fn offer(&self, delivery: Delivery) -> Result<(), Refused> {
        match (self, delivery) {
            (Self::Commands(_, inbox), Delivery::Command(command, ack)) => {
                inbox.offer(command, ack).map_err(Refused::Command)
            }
            (Self::Records(_, inbox), Delivery::Records(run)) => inbox.offer(run).map_err(Refused::Records),
            _ => unreachable!("what is delivered was made for this destination"),
        }
    }
}

/// Everything but a failure of the host is settled in the ledger, with its outcome.
fn settled(outcome: &Outcome) -> Result<(), &str> {
    match outcome {
        Outcome::Failed { reason } => Err(reason),
        Outcome::Busy { .. } => Err("its aggregate is busy"),
        _ => Ok(()),
    }
}
