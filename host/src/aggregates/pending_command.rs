//! A command on its way through a shard, and who waits for it.

use crate::ack::{Ack, Unanswered as _};
use crate::load::{Load, Weight};
use crate::model::{Command, Outcome};
use crate::supervise::Held as _;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

/// A command and who waits for it. While it lives the command counts as pending. Dropped without an answer, as when its
/// shard panics, it counts as failed: no sender waits for ever, and its source sends it again.
pub(super) struct PendingCommand {
    /// Shared with the store, which still needs it when the shard is done with it.
    pub(super) command: Arc<Command>,
    /// `None` once answered, or withdrawn.
    ack: Option<Ack<Outcome>>,
    weight: Weight,
    gauges: Arc<Gauges>,
    /// How often it was tried.
    pub(super) attempts: u32,
}

/// What others may know of a shard.
#[derive(Default)]
pub(super) struct Gauges {
    /// Live aggregates.
    pub(super) live: AtomicUsize,
    /// Commands that are accepted and not answered.
    pub(super) pending: Load,
    /// Commands that were dropped without an answer, for the shard to keep later ones from overtaking them.
    pub(super) dropped: Mutex<Vec<Arc<Command>>>,
    /// Why the host can't have the shard decide, until it can again.
    pub(super) trouble: Mutex<Option<String>>,
}

impl PendingCommand {
    pub(super) fn new(command: Arc<Command>, ack: Ack<Outcome>, gauges: &Arc<Gauges>) -> Self {
        let weight = Weight::of(command.size());
        gauges.pending.add(weight);
        Self { command, ack: Some(ack), weight, gauges: gauges.clone(), attempts: 0 }
    }

    /// Back to the sender, as if it had never been sent.
    pub(super) fn withdraw(mut self) -> (Arc<Command>, Ack<Outcome>) {
        self.gauges.pending.remove(self.weight);
        let ack = self.ack.take().expect("it is answered once, and then gone");
        (self.command.clone(), ack)
    }

    /// Tells the sender how it ended.
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

impl Drop for PendingCommand {
    fn drop(&mut self) {
        if self.ack.is_none() {
            return;
        }
        self.gauges.dropped.held().push(self.command.clone());
        self.end(Outcome::unanswered());
    }
}
