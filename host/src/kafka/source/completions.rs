//! How the reader learns that records are settled: any thread adds, the reader takes all at once.

use crate::ack::{Settlement, SettlementReceiver};
use crate::supervise::Held as _;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;

/// A partition while it is read by this host. Given back and got again it is another one: what was handed on before
/// no longer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AssignmentId {
    /// Its place in the reader's list.
    pub(super) number: usize,
    /// Tells it from those that had the place before.
    pub(super) epoch: u64,
}

/// What became of offsets that were handed on. Where they are not settled the partition is read again from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) assignment: AssignmentId,
    pub(super) settlement: Settlement,
    /// Why they are not settled, if that is known.
    pub(super) why: Option<Box<str>>,
}

/// Completions that the reader has not seen. Bounded by what is in flight.
pub(super) struct Completions {
    waiting: Mutex<Waiting>,
    /// So many records end the reader's rest. Each makes room for one more: to wake it for each would cost more than they.
    enough: usize,
    reader: OnceLock<Thread>,
}

#[derive(Default)]
struct Waiting {
    completions: Vec<Completion>,
    records: usize,
}

impl Completions {
    /// So many completed records are enough for the reader to be woken.
    pub(super) fn new(enough: usize) -> Self {
        Self { waiting: Mutex::default(), enough, reader: OnceLock::new() }
    }

    /// Makes the calling thread the reader.
    pub(super) fn wakes_this_thread(&self) {
        let _ = self.reader.set(std::thread::current());
    }

    /// Ends the reader's rest, or its next one.
    pub(super) fn wake(&self) {
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }

    /// Moves all completions into `taken`, which must be empty; its room is used for the next ones.
    pub(super) fn take(&self, taken: &mut Vec<Completion>) {
        let mut waiting = self.waiting.held();
        std::mem::swap(&mut waiting.completions, taken);
        waiting.records = 0;
    }

    /// Receives the settlements of a partition, as long as it is assigned.
    pub(super) fn receiver(self: &Arc<Self>, assignment: AssignmentId) -> SettlementReceiver {
        let completions = self.clone();
        Arc::new(move |settlement, why| {
            completions.add(Completion { assignment, settlement, why: why.map(Box::from) });
        })
    }

    fn add(&self, completion: Completion) {
        let mut waiting = self.waiting.held();
        waiting.records += completion.settlement.records;
        waiting.completions.push(completion);
        let is_enough = waiting.records >= self.enough;
        drop(waiting);
        if is_enough {
            self.wake();
        }
    }
}
