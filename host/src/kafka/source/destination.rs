//! The destination of a source's records: the aggregates as commands, or a subscriber as they are.

use crate::ack::{Ack, RangeAck};
use crate::aggregates::{Inbox, Unaccepted};
use crate::bounds::Bounds;
use crate::kafka::record::Mapping;
use crate::manifest::Target;
use crate::model::{Command, Outcome};
use crate::subscriptions::{RecordInbox, RecordRun};
use std::sync::Arc;

/// The receivers of a source's records.
#[derive(Clone)]
pub struct Targets {
    /// The receiver of commands.
    pub aggregates: Arc<dyn Inbox>,
    /// The receiver of records, if the source delivers to a subscriber.
    pub subscriber: Option<Arc<dyn RecordInbox>>,
}

/// The destination of a source's records.
pub(super) enum Destination {
    /// Each record becomes a command.
    Commands(Mapping, Arc<dyn Inbox>),
    /// Records are delivered as they are, with this maximum number in a run.
    Records(usize, Arc<dyn RecordInbox>),
}

/// A command or records to be handed on, with their acknowledgement.
pub(super) enum Delivery {
    Command(Arc<Command>, Ack<Outcome>),
    Records(RecordRun),
}

/// A delivery that was not accepted and is handed back.
pub(super) enum Refused {
    /// A command, with the reason.
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

    /// Whether each record names the type of its aggregate, so that a single record may be wrong.
    pub(super) fn is_addressed_by_records(&self) -> bool {
        matches!(self, Self::Commands(mapping, _) if mapping.is_addressed_by_records())
    }

    /// Hands a delivery on, without waiting.
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

/// Returns whether an outcome means that the command is settled in its ledger: all do, except failures of the host.
fn settled(outcome: &Outcome) -> Result<(), &str> {
    match outcome {
        Outcome::Failed { reason } => Err(reason),
        Outcome::Busy { .. } => Err("its aggregate is busy"),
        _ => Ok(()),
    }
}
