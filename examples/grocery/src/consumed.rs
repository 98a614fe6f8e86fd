//! The records that are produced and not consumed yet, by partition. The producer limits itself by them.

use crate::api::Progress;
use std::collections::{BTreeMap, VecDeque};

/// The records that Kafka has and the host has not processed.
#[derive(Debug, Default)]
pub(crate) struct Unconsumed {
    partitions: BTreeMap<i32, Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The offset and the size of each record, in order of the offsets.
    records: VecDeque<(u64, usize)>,
    bytes: usize,
    /// The offset below which every record is processed.
    next: u64,
}

impl Unconsumed {
    /// Adds a record that Kafka has acknowledged.
    pub(crate) fn delivered(&mut self, partition: i32, offset: u64, bytes: usize) {
        let waiting = self.partitions.entry(partition).or_default();
        if offset >= waiting.next {
            waiting.records.push_back((offset, bytes));
            waiting.bytes += bytes;
        }
    }

    /// Removes the records that the host has processed.
    pub(crate) fn handled(&mut self, progress: &Progress) {
        for found in &progress.partitions {
            let waiting = self.partitions.entry(found.partition).or_default();
            waiting.next = waiting.next.max(found.next);
            while let Some((_, bytes)) = waiting.records.pop_front_if(|(offset, _)| *offset < waiting.next) {
                waiting.bytes -= bytes;
            }
        }
    }

    /// Returns the number of records that wait, in all partitions.
    pub(crate) fn records(&self) -> u64 {
        self.partitions.values().map(|waiting| waiting.records.len() as u64).sum()
    }

    /// Returns the bytes of the fullest partition.
    pub(crate) fn bytes_max(&self) -> usize {
        self.partitions.values().map(|waiting| waiting.bytes).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Partition;

    #[test]
    fn only_what_is_not_handled_counts() {
        let mut unconsumed = Unconsumed::default();
        (0..10).for_each(|offset| unconsumed.delivered(0, offset, 100));
        unconsumed.delivered(1, 0, 70);
        assert_eq!((unconsumed.records(), unconsumed.bytes_max()), (11, 1000));
        let partitions = vec![Partition { partition: 0, next: 8 }, Partition { partition: 1, next: 5 }];
        unconsumed.handled(&Progress { handled: 13, partitions });
        unconsumed.delivered(1, 4, 70);
        assert_eq!((unconsumed.records(), unconsumed.bytes_max()), (2, 200));
    }
}
