//! Where a source's records go: to the aggregates as commands, or to a subscriber as they are.

use super::completions::Ticket;
use crate::aggregates::{Inbox, Reply, Unaccepted};
use crate::kafka::record::Handed;
use crate::model::{Command, Outcome};
use crate::subscriptions::{RecordDelivery, RecordInbox};
use std::sync::Arc;

/// Who takes what a source reads.
#[derive(Clone)]
pub struct Outlet {
    /// Takes the commands.
    pub aggregates: Arc<dyn Inbox>,
    /// Takes the records of a source that delivers to a subscriber.
    pub subscriber: Option<Arc<dyn RecordInbox>>,
}

/// Something to be handed on, with who is told when it is settled.
pub(super) enum Offer {
    Command(Arc<Command>, Reply),
    Record(RecordDelivery),
}

/// Why something was not taken. It comes back.
pub(super) enum Refused {
    Full(Offer),
    /// No plugin serves it: the types that are served, and the one that is not.
    NoSuchAggregate {
        known: Vec<String>,
        aggregate: Arc<str>,
        offer: Offer,
    },
}

impl Offer {
    pub(super) fn new(handed: Handed, ticket: Ticket) -> Self {
        match handed {
            Handed::Command(command) => {
                Self::Command(command, Box::new(move |outcome| ticket.end(is_settled(&outcome))))
            }
            Handed::Record(record, origin) => {
                Self::Record(RecordDelivery { record, origin, settled: Box::new(move |settled| ticket.end(settled)) })
            }
        }
    }
}

impl Outlet {
    /// Hands something on, without waiting.
    pub(super) fn offer(&self, offer: Offer) -> Result<(), Refused> {
        match offer {
            Offer::Command(command, reply) => self.aggregates.offer(command, reply).map_err(|back| match back {
                Unaccepted::Full(command, reply) => Refused::Full(Offer::Command(command, reply)),
                Unaccepted::NoSuchAggregate { known, command, reply } => {
                    let aggregate = command.stream.aggregate_type.clone();
                    Refused::NoSuchAggregate { known, aggregate, offer: Offer::Command(command, reply) }
                }
            }),
            Offer::Record(delivery) => {
                let subscriber = self.subscriber.as_ref().expect("records are made for a subscriber only");
                subscriber.offer(delivery).map_err(|delivery| Refused::Full(Offer::Record(delivery)))
            }
        }
    }
}

/// Everything but a failure of the host is settled in the ledger, with its outcome.
fn is_settled(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Failed { .. } | Outcome::Busy { .. })
}
