//! A command on its way through a shard, with its acknowledgement.

use super::redelivery::CommandRedeliveries;
use crate::ack::{Ack, Unanswered as _};
use crate::load::{Load, Weight};
use crate::model::{Command, Outcome};
use crate::supervise::Held as _;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

/// A command with its acknowledgement. The command counts as pending until this is answered or dropped. If it is
/// dropped without an answer, for example because its shard panics, the command has failed: no sender waits for ever,
/// and its source sends it again.
pub(super) struct PendingCommand {
    /// The command. It is shared with the store, which may need it longer than the shard.
    pub(super) command: Arc<Command>,
    /// The acknowledgement. `None` once the command is answered or withdrawn.
    ack: Option<Ack<Outcome>>,
    weight: Weight,
    gauges: Arc<Gauges>,
    /// The number of attempts so far.
    pub(super) attempts: u32,
    /// How often others wrote to its stream between its decision and the append.
    pub(super) conflicts: u32,
}

/// The measurements of a shard that other threads read.
#[derive(Default)]
pub(super) struct Gauges {
    /// The number of live aggregates.
    pub(super) live: AtomicUsize,
    /// The number and bytes of pending commands.
    pub(super) pending: Load,
    /// Commands that were dropped without an answer. The shard keeps later ones from overtaking them.
    pub(super) dropped: Mutex<Vec<Arc<Command>>>,
    /// What the shard has left to its successors: commands that their sources send again.
    pub(super) redeliveries: Mutex<CommandRedeliveries>,
    /// Why the shard can't decide, if the host is at fault; `None` once it can again.
    pub(super) trouble: Mutex<Option<String>>,
}

impl PendingCommand {
    pub(super) fn new(command: Arc<Command>, ack: Ack<Outcome>, gauges: &Arc<Gauges>) -> Self {
        let weight = Weight::of(command.size());
        gauges.pending.add(weight);
        Self { command, ack: Some(ack), weight, gauges: gauges.clone(), attempts: 0, conflicts: 0 }
    }

    /// Returns its share of the load of its shard.
    pub(super) fn weight(&self) -> Weight {
        self.weight
    }

    /// Hands the command back to its sender, as if it had never been sent.
    pub(super) fn withdraw(mut self) -> (Arc<Command>, Ack<Outcome>) {
        self.gauges.pending.remove(self.weight);
        let ack = self.ack.take().expect("it is answered once, and then gone");
        (self.command.clone(), ack)
    }

    /// Gives the outcome to the sender.
    pub(super) fn answer(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(ack) = self.ack.take() {
            ack.give(outcome);
            self.gauges.pending.remove(self.weight);
        }
    }
}

#[cfg(test)]
impl PendingCommand {
    /// Makes a command with this name, whose outcome nobody waits for.
    pub(super) fn example(name: &str) -> Self {
        let command = Command {
            stream: crate::model::StreamId::new("order", "1"),
            name: name.into(),
            payload: Vec::new(),
            id: "".into(),
            time_ms: 0,
            correlation_id: "".into(),
            causation_id: "".into(),
            headers: Vec::new(),
            origin: None,
            durable_id: false,
            outcome_use: Default::default(),
            first_ms: None,
            hops: 0,
            expected: None,
        };
        Self::new(Arc::new(command), Ack::new(|_| {}), &Arc::new(Gauges::default()))
    }
}

impl Drop for PendingCommand {
    fn drop(&mut self) {
        if self.ack.is_none() {
            return;
        }
        self.gauges.dropped.held().push(self.command.clone());
        self.end(Outcome::unanswered());
    }
}
