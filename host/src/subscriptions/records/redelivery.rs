//! Records that failed with their step, because the store failed or refused the step, and that their source reads
//! again.
//!
//! Until such a record comes again, later records of its partition must not be handled, because they would overtake it.
//! They go back to the source as well, which reads them again once nothing of the partition is in flight.

use super::run::RecordRun;
use crate::store::EventStore;
use std::collections::HashMap;
use std::sync::Arc;

/// The number of the first pending redelivery of each ledger.
#[derive(Default)]
pub(super) struct RecordRedeliveries(HashMap<Arc<str>, u64>);

impl RecordRedeliveries {
    /// Adds a record that was not settled.
    pub(super) fn add(&mut self, ledger: &Arc<str>, number: u64) {
        self.0.entry(ledger.clone()).and_modify(|first| *first = number.min(*first)).or_insert(number);
    }

    /// Whether records that were already received would overtake a pending redelivery.
    pub(super) fn is_before(&self, run: &RecordRun) -> bool {
        self.0.get(run.ledger()).is_some_and(|&first| first < run.first())
    }

    /// Whether arriving records would overtake a pending redelivery. A pending redelivery ends when its record arrives.
    ///
    /// Some of what is pending may be settled by now and never come again: a record failed because an earlier copy of it
    /// had been settled, or retention removed it. The records behind it are still pending.
    pub(super) fn is_passed_by(&mut self, run: &RecordRun, store: &dyn EventStore) -> bool {
        let Some(first) = self.0.get_mut(run.ledger()) else { return false };
        if let Ok(ledger) = store.reader().and_then(|mut reader| reader.ledger(run.ledger())) {
            *first = ledger.first_open(*first);
        }
        let is_passed = *first < run.first();
        if !is_passed {
            self.0.remove(run.ledger());
        }
        is_passed
    }
}
