//! A command on its way through a shard, and who waits for it.

use super::Reply;
use crate::model::{Command, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A command and who waits for it.
pub(super) struct Order {
    /// Shared with the store, which still needs it when the shard is done with it.
    pub(super) command: Arc<Command>,
    pub(super) waiter: Waiter,
    /// How often it was tried.
    pub(super) attempts: u32,
}

/// Who waits for a command. While it lives the command counts as pending.
pub(super) struct Waiter {
    reply: Reply,
    gauges: Arc<Gauges>,
}

/// What others may know of a shard.
#[derive(Default)]
pub(super) struct Gauges {
    /// Live aggregates.
    pub(super) live: AtomicUsize,
    /// Commands that are accepted and not answered.
    pub(super) pending: AtomicUsize,
}

impl Order {
    pub(super) fn new(command: Arc<Command>, reply: Reply, gauges: &Arc<Gauges>) -> Self {
        gauges.pending.fetch_add(1, Ordering::Relaxed);
        Self { command, waiter: Waiter { reply, gauges: gauges.clone() }, attempts: 0 }
    }

    /// Back to the sender, as if it had never been sent.
    pub(super) fn withdraw(self) -> (Arc<Command>, Reply) {
        self.waiter.gauges.pending.fetch_sub(1, Ordering::Relaxed);
        (self.command, self.waiter.reply)
    }
}

impl Waiter {
    pub(super) fn answer(self, outcome: Outcome) {
        (self.reply)(outcome);
        self.gauges.pending.fetch_sub(1, Ordering::Release);
    }
}
