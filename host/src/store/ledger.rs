//! Ledgers, which say what is settled in a numbered sequence.
//!
//! A ledger is a watermark and the settled ranges above it. Items may be settled in any order. A range that is
//! contiguous with the watermark moves it.

use std::collections::BTreeMap;

/// The settled items of a numbered sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The watermark: everything below it is settled.
    pub next: u64,
    /// The settled ranges above `next`, first → last, with gaps between them.
    pub ahead: BTreeMap<u64, u64>,
}

impl Ledger {
    /// Returns whether an item is settled.
    pub fn has(&self, number: u64) -> bool {
        self.first_open(number) > number
    }

    /// Returns the first number from `from` on that is not settled.
    pub fn first_open(&self, from: u64) -> u64 {
        let from = from.max(self.next);
        match self.ahead.range(..=from).next_back() {
            // Ranges have gaps between them.
            Some((_, &last)) if from <= last => last + 1,
            _ => from,
        }
    }

    /// Marks a range as settled, and moves `next` past all ranges that are now contiguous.
    pub fn settle(&mut self, first: u64, last: u64) {
        if first > self.next {
            return self.settle_ahead(first, last);
        }
        self.next = self.next.max(last + 1);
        while let Some(range) = self.ahead.first_entry() {
            if *range.key() > self.next {
                break;
            }
            self.next = self.next.max(range.remove() + 1);
        }
    }

    fn settle_ahead(&mut self, mut first: u64, mut last: u64) {
        if let Some((&start, &end)) = self.ahead.range(..=first).next_back()
            && end + 1 >= first
        {
            first = start;
            last = last.max(end);
        }
        while let Some((&start, &end)) = self.ahead.range(first..=last + 1).next() {
            last = last.max(end);
            self.ahead.remove(&start);
        }
        self.ahead.insert(first, last);
    }
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    #[test]
    fn a_ledger_moves_over_what_is_contiguous() {
        let mut ledger = Ledger::default();
        ledger.settle(2, 2);
        ledger.settle(4, 6);
        ledger.settle(3, 3);
        assert_eq!((ledger.next, ledger.ahead.clone().into_iter().collect::<Vec<_>>()), (0, vec![(2, 6)]));
        assert!(ledger.has(5) && !ledger.has(1) && !ledger.has(7));
        assert_eq!([0, 1, 2, 5, 7].map(|from| ledger.first_open(from)), [0, 1, 7, 7, 7]);
        ledger.settle(0, 1);
        assert_eq!(ledger, Ledger { next: 7, ahead: Default::default() });
        assert_eq!([3, 9].map(|from| ledger.first_open(from)), [7, 9]);
    }

    #[test]
    fn a_ledger_in_any_order_ends_the_same() {
        for seed in 0..200u64 {
            let mut numbers: Vec<u64> = (0..50).collect();
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for at in (1..numbers.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                numbers.swap(at, (state >> 33) as usize % (at + 1));
            }
            let mut ledger = Ledger::default();
            for (done, &number) in numbers.iter().enumerate() {
                assert!(!ledger.has(number));
                ledger.settle(number, number);
                assert!(numbers[..=done].iter().all(|&number| ledger.has(number)));
                assert!(numbers[done + 1..].iter().all(|&number| !ledger.has(number)));
            }
            assert_eq!(ledger, Ledger { next: 50, ahead: Default::default() });
        }
    }
}
