//! How much is on its way: a count and its bytes, kept together in one word, so that bounding both costs one atomic step.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of the bytes; the count has the others.
const BYTES_BITS: u32 = 40;

/// Items that are on their way, and their bytes.
#[derive(Debug, Default)]
pub(crate) struct Load(AtomicU64);

/// An item's part in a load: what is added is taken off again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight(u64);

/// What a load is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded(u64);

impl Weight {
    /// One item of so many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        // Of a payload, which is bounded: an item is never taken for several.
        Self((1 << BYTES_BITS) | (bytes as u64).min(u32::MAX.into()))
    }
}

impl Load {
    /// Adds an item.
    pub(crate) fn add(&self, weight: Weight) {
        self.0.fetch_add(weight.0, Ordering::Relaxed);
    }

    /// Takes an item off; the answer is what the load was with it.
    pub(crate) fn remove(&self, weight: Weight) -> Loaded {
        Loaded(self.0.fetch_sub(weight.0, Ordering::Release))
    }

    /// What it is now.
    pub(crate) fn now(&self) -> Loaded {
        Loaded(self.0.load(Ordering::Acquire))
    }
}

impl Loaded {
    /// The items.
    pub(crate) fn count(self) -> usize {
        (self.0 >> BYTES_BITS) as usize
    }

    /// Their bytes.
    pub(crate) fn bytes(self) -> usize {
        (self.0 & ((1 << BYTES_BITS) - 1)) as usize
    }

    /// The same without an item that was in it.
    pub(crate) fn without(self, weight: Weight) -> Self {
        Self(self.0 - weight.0)
    }

    /// Whether it has so many items or bytes.
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
