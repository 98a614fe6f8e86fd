//! The queue by which the reader learns what became of records. Any thread adds to it, and the reader takes all at
//! once.

use crate::ack::{Settlement, SettlementReceiver};
use crate::supervise::Held as _;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;

/// The identity of one assignment of a partition to this host. If the partition is revoked and assigned again, that is
/// another assignment, and the records of the earlier one no longer count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AssignmentId {
    /// Its index in the reader's list.
    pub(super) number: usize,
    /// The number that tells it from earlier assignments with the same index.
    pub(super) epoch: u64,
}

/// What became of offsets that were handed on. If they are not settled, the partition is read again from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    pub(super) assignment: AssignmentId,
    pub(super) settlement: Settlement,
    /// Why the offsets are not settled, if that is known.
    pub(super) why: Option<Box<str>>,
}

/// The completions that the reader has not seen. Their number is bounded by the records in flight.
pub(super) struct Completions {
    waiting: Mutex<Waiting>,
    /// The number of completed records that wakes the reader. Waking it for each record would cost more than the
    /// record.
    enough: usize,
    reader: OnceLock<Thread>,
}

#[derive(Default)]
struct Waiting {
    completions: Vec<Completion>,
    records: usize,
}

impl Completions {
    /// Creates the queue. `enough` completed records wake the reader.
    pub(super) fn new(enough: usize) -> Self {
        Self { waiting: Mutex::default(), enough, reader: OnceLock::new() }
    }

    /// Makes the calling thread the reader.
    pub(super) fn wakes_this_thread(&self) {
        let _ = self.reader.set(std::thread::current());
    }

    /// Wakes the reader, or makes its next park return at once.
    pub(super) fn wake(&self) {
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }

    /// Moves all completions into `taken`, which must be empty. Its capacity is reused for the next ones.
    pub(super) fn take(&self, taken: &mut Vec<Completion>) {
        let mut waiting = self.waiting.held();
        std::mem::swap(&mut waiting.completions, taken);
        waiting.records = 0;
    }

    /// Returns the receiver of the settlements of one assignment.
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
