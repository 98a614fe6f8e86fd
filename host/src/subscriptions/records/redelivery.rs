//! Records that failed with their step, because the store failed or refused it, and that their source reads again.
//!
//! Until such a record comes again, later ones of its partition must not be handled: they would pass it. They go back to
//! the source as well, which reads them again once nothing of the partition is in flight.

use super::run::RecordRun;
use crate::store::EventStore;
use std::collections::HashMap;
use std::sync::Arc;

/// The first pending record of each ledger, by its number.
#[derive(Default)]
pub(super) struct PendingRedeliveries(HashMap<Arc<str>, u64>);

impl PendingRedeliveries {
    /// Adds a record that was not settled.
    pub(super) fn add(&mut self, ledger: &Arc<str>, number: u64) {
        self.0.entry(ledger.clone()).and_modify(|first| *first = number.min(*first)).or_insert(number);
    }

    /// Whether records that are here already would pass a pending one.
    pub(super) fn is_before(&self, run: &RecordRun) -> bool {
        self.0.get(run.ledger()).is_some_and(|&first| first < run.head().offset as u64)
    }

    /// Whether records that arrive would pass a pending one. What is pending no longer is, once it arrives itself.
    pub(super) fn is_passed_by(&mut self, run: &RecordRun, store: &dyn EventStore) -> bool {
        let Some(&first) = self.0.get(run.ledger()) else { return false };
        // It may have been settled elsewhere, such as by a range that retention removed: then it never comes again.
        let is_settled =
            || store.reader().and_then(|mut reader| reader.ledger(run.ledger())).is_ok_and(|ledger| ledger.has(first));
        let is_passed = self.is_before(run) && !is_settled();
        if !is_passed {
            self.0.remove(run.ledger());
        }
        is_passed
    }
}
