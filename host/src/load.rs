//! The load of items in flight: their count and bytes in one word, so that limiting both costs one atomic operation.

use std::sync::atomic::{AtomicU64, Ordering};

/// The bits for the bytes. The count has the other bits.
const BYTES_BITS: u32 = 40;

/// The count and bytes of the items in flight.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU64);

/// The share of one item in a load, which is added and later removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight(u64);

/// The value of a load at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded(u64);

impl Weight {
    /// Makes the weight of one item with this many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        // Payloads are limited, so the bytes of an item never overflow into the count.
        Self((1 << BYTES_BITS) | (bytes as u64).min(u32::MAX.into()))
    }
}

impl Load {
    /// Adds an item.
    pub(crate) fn add(&self, weight: Weight) {
        self.0.fetch_add(weight.0, Ordering::Relaxed);
    }

    /// Removes an item, and returns the load before that.
    pub(crate) fn remove(&self, weight: Weight) -> Loaded {
        Loaded(self.0.fetch_sub(weight.0, Ordering::Release))
    }

    /// Returns the current load.
    pub(crate) fn now(&self) -> Loaded {
        Loaded(self.0.load(Ordering::Acquire))
    }
}

impl Loaded {
    /// Returns the number of items.
    pub(crate) fn count(self) -> usize {
        (self.0 >> BYTES_BITS) as usize
    }

    /// Returns the bytes of the items.
    pub(crate) fn bytes(self) -> usize {
        (self.0 & ((1 << BYTES_BITS) - 1)) as usize
    }

    /// Returns the load without one of its items.
    pub(crate) fn without(self, weight: Weight) -> Self {
        Self(self.0 - weight.0)
    }

    /// Returns whether there are at least this many items or bytes.
    pub(crate) fn reaches(self, count: usize, bytes: usize) -> bool {
        self.count() >= count || self.bytes() >= bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_and_bytes_are_counted_together_and_end_at_nothing() {
        let load = Load::default();
        let weights: Vec<Weight> = [0, 1, 8 << 20, usize::MAX].map(Weight::of).into();
        weights.iter().for_each(|weight| load.add(*weight));
        let full = load.now();
        assert_eq!((full.count(), full.bytes()), (4, (8 << 20) + 1 + u32::MAX as usize));
        assert!(full.reaches(4, usize::MAX) && full.reaches(5, 8 << 20) && !full.reaches(5, 1 << 34));
        for weight in weights {
            let before = load.remove(weight);
            assert_eq!(before.without(weight), load.now());
        }
        assert_eq!((load.now().count(), load.now().bytes()), (0, 0));
    }
}
