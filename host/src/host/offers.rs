//! Commands that are queued at once. Their sender collects the outcomes itself, so it can have many commands under way.

use super::{Host, Untaken};
use crate::ack::Ack;
use crate::aggregates::{Inbox as _, Unaccepted};
use crate::model::{Command, IdRule, Outcome};
use std::sync::Arc;

/// Reason for which a command is not queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unqueued {
    /// The queue of its shard is full. The command may be offered again when another one has ended.
    Full,
    /// No shard will ever take it.
    Untaken(Untaken),
}

impl Host {
    /// Returns the rule that the ids of aggregates and the names of commands must keep. No shard takes a command that breaks it.
    pub fn ids(&self) -> IdRule {
        self.core.aggregates.ids()
    }

    /// Queues a command and does not wait. The acknowledgement is given once the outcome is durable; if the command is not
    /// queued, it is never given. Commands to one aggregate are decided in the order in which they are queued. The caller
    /// counts the outcomes in [`traffic`](Self::traffic).
    pub fn offer(&self, command: Arc<Command>, ack: Ack<Outcome>) -> Result<(), Unqueued> {
        let (reason, ack) = match self.core.aggregates.offer(command, ack) {
            Ok(()) => return Ok(()),
            Err(Unaccepted::Full(_, ack)) => (Unqueued::Full, ack),
            Err(Unaccepted::NoSuchAggregate { known, ack, .. }) => {
                (Unqueued::Untaken(Untaken::UnknownAggregate { known }), ack)
            }
            Err(Unaccepted::InvalidId { reason, ack, .. }) => (Unqueued::Untaken(Untaken::InvalidId(reason)), ack),
        };
        ack.cancel();
        Err(reason)
    }
}
