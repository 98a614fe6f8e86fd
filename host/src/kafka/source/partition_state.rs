//! The state of one partition: which of its offsets are handed on, which are settled, and what waits for room.
//!
//! This is pure bookkeeping, without calls to Kafka, the store or the aggregates.

use super::destination::Delivery;
use crate::ack::Settlement;
use crate::store::Ledger;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The state of a partition that is being read.
pub(super) struct PartitionState {
    ledger_name: Arc<str>,
    /// The ledger, as far as the reader knows what the store has settled.
    ledger: Ledger,
    /// The offset below which every offset is handed on or settled.
    uncovered: u64,
    /// The offset from which on no offset can be settled yet, so that the ledger need not be checked.
    settled_until: u64,
    in_flight: usize,
    /// The bytes of the records in flight.
    bytes: usize,
    /// The bytes of the records in flight of all partitions of the source.
    bytes_of_all: Arc<AtomicUsize>,
    held: Option<Delivery>,
}

impl Drop for PartitionState {
    fn drop(&mut self) {
        self.bytes_of_all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl PartitionState {
    /// Creates the state of a partition that resumes where its ledger says.
    pub(super) fn new(ledger_name: Arc<str>, ledger: Ledger) -> Self {
        let settled_until = ledger.ahead.values().next_back().map_or(ledger.next, |&last| last + 1);
        let (in_flight, bytes, bytes_of_all, held) = Default::default();
        let uncovered = ledger.next;
        Self { ledger_name, ledger, uncovered, settled_until, in_flight, bytes, bytes_of_all, held }
    }

    /// Returns the same state, with its bytes included in those of all partitions of the source.
    pub(super) fn counted_in(mut self, bytes_of_all: &Arc<AtomicUsize>) -> Self {
        self.bytes_of_all = bytes_of_all.clone();
        self
    }

    /// Adds the bytes of a record that was taken.
    pub(super) fn weighs(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.bytes_of_all.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the offset to read from.
    pub(super) fn next(&self) -> u64 {
        self.ledger.next
    }

    /// Returns the number of records that are handed on or held, and not settled.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn ledger_name(&self) -> &Arc<str> {
        &self.ledger_name
    }

    /// Takes the record at an offset. Returns the first offset that it settles, or `None` if it is already settled or
    /// in flight.
    ///
    /// The first offset is the first one that is neither settled nor in flight, so that offsets without a record
    /// (compaction, transaction markers) are settled with the record after them.
    pub(super) fn take(&mut self, offset: u64) -> Option<u64> {
        if offset < self.uncovered {
            return None;
        }
        if offset < self.settled_until && self.ledger.has(offset) {
            self.cover_settled();
            return None;
        }
        let first = self.uncovered;
        self.uncovered = offset + 1;
        if self.uncovered < self.settled_until {
            self.cover_settled();
        }
        self.in_flight += 1;
        Some(first)
    }

    /// Ends records that were in flight.
    pub(super) fn end(&mut self, settlement: Settlement) {
        self.in_flight -= settlement.records;
        let bytes = settlement.bytes.min(self.bytes);
        self.bytes -= bytes;
        self.bytes_of_all.fetch_sub(bytes, Ordering::Relaxed);
        if settlement.is_settled {
            self.ledger.settle(settlement.first, settlement.last);
        }
    }

    /// Settles the offsets below `position`, if nothing is in flight. The caller has read everything below it, so the
    /// remaining offsets have no record. Returns whether there were any.
    pub(super) fn skip_to(&mut self, position: u64) -> bool {
        let skips = self.in_flight == 0 && position > self.ledger.next;
        if skips {
            self.ledger.settle(self.ledger.next, position - 1);
            self.uncovered = self.uncovered.max(self.ledger.next);
        }
        skips
    }

    /// Holds a delivery for which there was no room.
    pub(super) fn hold(&mut self, offer: Delivery) {
        self.held = Some(offer);
    }

    pub(super) fn held(&mut self) -> Option<Delivery> {
        self.held.take()
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Moves `uncovered` over a settled range that starts at it.
    fn cover_settled(&mut self) {
        if let Some((_, &last)) = self.ledger.ahead.range(..=self.uncovered).next_back()
            && last >= self.uncovered
        {
            self.uncovered = last + 1;
        }
        self.uncovered = self.uncovered.max(self.ledger.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(next: u64, ahead: &[(u64, u64)]) -> PartitionState {
        PartitionState::new("kafka/s/t/0".into(), Ledger { next, ahead: ahead.iter().copied().collect() })
    }

    fn take(state: &mut PartitionState, offset: u64) -> Option<(u64, u64)> {
        state.take(offset).map(|first| (first, offset))
    }

    fn settlement(first: u64, last: u64, is_settled: bool) -> Settlement {
        Settlement { first, last, records: 1, bytes: 0, is_settled }
    }

    #[test]
    fn an_origin_reaches_back_over_offsets_without_records() {
        let mut state = state(5, &[]);
        assert_eq!(take(&mut state, 5), Some((5, 5)));
        assert_eq!(take(&mut state, 9), Some((6, 9)));
        assert_eq!(take(&mut state, 9), None);
        state.end(settlement(6, 9, true));
        assert_eq!((state.next(), state.in_flight()), (5, 1));
        state.end(settlement(5, 5, true));
        assert_eq!((state.next(), state.in_flight()), (10, 0));
    }

    #[test]
    fn settled_records_are_skipped() {
        let mut state = state(5, &[(6, 7), (9, 9)]);
        let taken: Vec<_> = (4..=11).filter_map(|offset| take(&mut state, offset)).collect();
        assert_eq!(taken, [(5, 5), (8, 8), (10, 10), (11, 11)]);
        for (first, last) in taken {
            state.end(settlement(first, last, true));
        }
        assert_eq!(state.next(), 12);
    }

    #[test]
    fn a_gap_that_compaction_made_before_a_settled_record_is_settled_with_the_next_one() {
        let mut state = state(5, &[(7, 7)]);
        assert_eq!(take(&mut state, 7), None);
        assert_eq!(take(&mut state, 8), Some((5, 8)));
        state.end(settlement(5, 8, true));
        assert_eq!(state.next(), 9);
    }

    #[test]
    fn offsets_at_the_end_without_records_are_skipped_once_nothing_is_in_work() {
        let mut state = state(0, &[]);
        state.take(0);
        assert!(!state.skip_to(2));
        state.end(settlement(0, 0, true));
        assert!(state.skip_to(2));
        assert!(!state.skip_to(2));
        assert_eq!(take(&mut state, 2), Some((2, 2)));
    }

    #[test]
    fn what_is_not_settled_stays_below_next() {
        let mut state = state(0, &[]);
        state.take(0);
        state.take(1);
        state.end(settlement(1, 1, true));
        state.end(settlement(0, 0, false));
        assert_eq!((state.next(), state.in_flight()), (0, 0));
    }

    /// With any mix of gaps, completions out of order and crashes, every record is settled exactly once.
    #[test]
    fn every_record_is_settled_once_whatever_the_order() {
        for seed in 1..300u64 {
            let mut random = crate::kafka::source::tests::random(seed);
            let records: Vec<u64> = (0..120).filter(|_| random(4) != 0).collect();
            let mut stored = Ledger::default();
            let mut settled = std::collections::BTreeSet::new();
            while records.iter().any(|&offset| !stored.has(offset)) {
                let mut state = state(0, &[]);
                state = PartitionState::new(state.ledger_name.clone(), stored.clone());
                let start = state.next();
                let mut flying = Vec::new();
                for &offset in records.iter().filter(|&&offset| offset >= start) {
                    flying.extend(take(&mut state, offset));
                    while flying.len() > random(8) as usize {
                        let (first, last) = flying.swap_remove(random(flying.len() as u64) as usize);
                        assert!(settled.insert(last), "{last} was settled twice");
                        stored.settle(first, last);
                        state.end(settlement(first, last, true));
                    }
                    if random(40) == 0 {
                        break; // A crash: the records in flight are lost.
                    }
                }
                assert_eq!(state.next(), stored.next);
            }
            assert_eq!(settled.into_iter().collect::<Vec<_>>(), records);
        }
    }
}
