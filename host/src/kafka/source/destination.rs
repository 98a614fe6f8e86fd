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

/// The way of a source's records.
pub(super) enum Destination {
    /// Each becomes a command.
    Commands(Mapping, Arc<dyn Inbox>),
    /// As they are, so many in a run at most.
    Records(usize, Arc<dyn RecordInbox>),
}

/// Something to be handed on, with who is told when it is settled.
pub(super) enum Delivery {
    Command(Arc<Command>, Ack<Outcome>),
    Records(RecordRun),
}

/// Why something was not taken. It comes back.
pub(super) enum Refused {
    Full(Delivery),
    /// No plugin serves its aggregate.
    NoSuchAggregate {
        /// The types that are served.
        known: Vec<String>,
        command: Arc<Command>,
        ack: Ack<Outcome>,
    },
    /// The command's id or name breaks the rule for ids.
    InvalidId {
        reason: String,
        command: Arc<Command>,
        ack: Ack<Outcome>,
    },
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
    pub(super) fn offer(&self, offer: Delivery) -> Result<(), Refused> {
        match (self, offer) {
            (Self::Commands(_, inbox), Delivery::Command(command, ack)) => {
                inbox.offer(command, ack).map_err(|back| match back {
                    Unaccepted::Full(command, ack) => Refused::Full(Delivery::Command(command, ack)),
                    Unaccepted::NoSuchAggregate { known, command, ack } => {
                        Refused::NoSuchAggregate { known, command, ack }
                    }
                    Unaccepted::InvalidId { reason, command, ack } => Refused::InvalidId { reason, command, ack },
                })
            }
            (Self::Records(_, inbox), Delivery::Records(run)) => {
                inbox.offer(run).map_err(|run| Refused::Full(Delivery::Records(run)))
            }
            _ => unreachable!("what is offered was made for this way"),
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
