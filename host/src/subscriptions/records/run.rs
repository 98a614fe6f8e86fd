//! Records on their way to a subscriber, in runs of one partition that share a ledger and an acknowledgement.

use crate::ack::{RangeAck, SettlementReceiver};
use crate::model::{Origins, Record};
use std::collections::VecDeque;
use std::sync::Arc;

/// Consecutive records of one partition: no other record settles an offset between them.
pub struct RecordRun {
    ledger: Arc<str>,
    records: VecDeque<Record>,
    ack: RangeAck,
}

impl RecordRun {
    /// Creates a run with one record, which settles the offsets from `first` on.
    pub fn new(ledger: Arc<str>, first: u64, record: Record, receiver: SettlementReceiver) -> Self {
        let ack = RangeAck::new(receiver, first, record.offset as u64, record.size());
        Self { ledger, records: [record].into(), ack }
    }

    /// Adds the next record, which settles the offsets from `first` on. If `first` does not follow the run, the record
    /// is handed back.
    pub fn push(&mut self, first: u64, record: Record) -> Result<(), Record> {
        if first != self.ack.settlement().last + 1 {
            return Err(record);
        }
        self.ack.extend(record.offset as u64, record.size());
        self.records.push_back(record);
        Ok(())
    }

    /// Returns the number of records, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns the approximate memory of its records, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.ack.settlement().bytes
    }

    pub(super) fn ledger(&self) -> &Arc<str> {
        &self.ledger
    }

    /// Returns the first offset that it settles. Offsets without a record may come before its first record.
    pub(super) fn first(&self) -> u64 {
        self.ack.settlement().first
    }

    /// Returns its first record.
    pub(super) fn head(&self) -> &Record {
        &self.records[0]
    }

    /// Splits off the first `count` records, of more.
    pub(super) fn take(&mut self, count: usize) -> Self {
        let records: VecDeque<_> = self.records.drain(..count).collect();
        let bytes = records.iter().map(Record::size).sum();
        let ack = self.ack.split(records[count - 1].offset as u64, count, bytes);
        Self { ledger: self.ledger.clone(), records, ack }
    }

    /// Splits it into runs of one record each.
    pub(super) fn singly(mut self) -> impl Iterator<Item = Self> {
        let mut runs = VecDeque::with_capacity(self.len());
        while self.len() > 1 {
            runs.push_back(self.take(1));
        }
        runs.push_back(self);
        runs.into_iter()
    }

    /// Returns the origins that it settles, and its acknowledgement.
    pub(super) fn settle(self) -> (Origins, RangeAck) {
        let Self { ledger, records, ack } = self;
        let items = records.iter().map(|record| record.offset as u64).collect();
        (Origins { ledger, first: ack.settlement().first, items }, ack)
    }
}

/// A queue of runs.
#[derive(Default)]
pub(super) struct Runs {
    runs: VecDeque<RecordRun>,
    records: usize,
}

impl Runs {
    /// Returns the number of records.
    pub(super) fn len(&self) -> usize {
        self.records
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn push(&mut self, run: RecordRun) {
        self.records += run.len();
        self.runs.push_back(run);
    }

    pub(super) fn push_front(&mut self, run: RecordRun) {
        self.records += run.len();
        self.runs.push_front(run);
    }

    /// Takes the first run, or its first `count` records if it has more.
    pub(super) fn pop(&mut self, count: usize) -> Option<RecordRun> {
        let run = match self.runs.front_mut() {
            Some(run) if run.len() > count => run.take(count),
            _ => self.runs.pop_front()?,
        };
        self.records -= run.len();
        Some(run)
    }

    /// Returns how many records of the first run to take: at most `count`, and at most about `bytes`, but at least one.
    pub(super) fn fitting(&self, count: usize, bytes: usize) -> usize {
        let Some(run) = self.runs.front().filter(|run| run.bytes() > bytes) else { return count };
        let mut left = bytes;
        let fits = |record: &&Record| {
            let fits = left > 0;
            left = left.saturating_sub(record.size());
            fits
        };
        run.records.iter().take(count).take_while(fits).count().max(1)
    }

    /// Takes the first `count` records.
    pub(super) fn take(&mut self, count: usize) -> Self {
        let mut taken = Self::default();
        while taken.records < count
            && let Some(run) = self.pop(count - taken.records)
        {
            taken.push(run);
        }
        taken
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.runs.iter().flat_map(|run| &run.records)
    }

    pub(super) fn into_runs(self) -> impl Iterator<Item = RecordRun> {
        self.runs.into_iter()
    }
}

impl From<RecordRun> for Runs {
    fn from(run: RecordRun) -> Self {
        Self { records: run.len(), runs: [run].into() }
    }
}

#[cfg(test)]
pub(in crate::subscriptions) mod tests {
    use super::*;
    use crate::ack::Settlement;
    use std::sync::Mutex;

    pub(in crate::subscriptions) fn record(key: &str, offset: u64) -> Record {
        Record {
            topic: "t".into(),
            partition: 0,
            offset: offset as i64,
            time_ms: 0,
            key: Some(key.into()),
            headers: Vec::new(),
            payload: None,
        }
    }

    fn run(offsets: &[u64], receiver: SettlementReceiver) -> RecordRun {
        let mut run = RecordRun::new("kafka/s/t/0".into(), 5, record("k", offsets[0]), receiver);
        for pair in offsets.windows(2) {
            run.push(pair[0] + 1, record("k", pair[1])).unwrap();
        }
        run
    }

    #[test]
    fn a_run_ends_where_an_offset_is_missing() {
        let mut run = run(&[5, 8], Arc::new(|_, _| {}));
        assert_eq!(run.push(10, record("k", 10)).unwrap_err().offset, 10);
        run.push(9, record("k", 10)).unwrap();
        let (origins, _) = run.settle();
        assert_eq!((origins.first, origins.items), (5, vec![5, 8, 10]));
    }

    #[test]
    fn a_list_takes_what_fits_into_its_bytes_and_at_least_one() {
        let size = record("k", 5).size();
        let runs = Runs::from(run(&[5, 6, 7, 8], Arc::new(|_, _| {})));
        for (count, bytes, expected) in
            [(9, 4 * size, 9), (9, 4 * size - 1, 4), (9, 2 * size, 2), (1, 2 * size, 1), (9, 1, 1), (9, 0, 1)]
        {
            assert_eq!(runs.fitting(count, bytes), expected, "{count} of {bytes} bytes");
        }
        assert_eq!(Runs::default().fitting(3, 0), 3);
    }

    #[test]
    fn each_record_is_acknowledged_once_however_its_run_is_cut() {
        let settlements = Arc::new(Mutex::new(Vec::new()));
        let all = settlements.clone();
        let mut runs = Runs::from(run(&[5, 6, 9, 10, 11], Arc::new(move |part, _| all.lock().unwrap().push(part))));
        let mut head = runs.take(3);
        assert_eq!((head.len(), runs.len()), (3, 2));
        let (origins, ack) = head.pop(2).unwrap().settle();
        assert_eq!((origins.first, origins.items), (5, vec![5, 6]));
        ack.give(Ok::<_, &str>(()));
        let (origins, ack) = head.pop(2).unwrap().settle();
        assert_eq!((origins.first, origins.items), (7, vec![9]));
        ack.give(Ok::<_, &str>(()));
        drop((head, runs));
        let size = record("k", 5).size();
        let part =
            |first, last, records, is_settled| Settlement { first, last, records, bytes: records * size, is_settled };
        assert_eq!(*settlements.lock().unwrap(), [part(5, 6, 2, true), part(7, 9, 1, true), part(10, 11, 2, false)]);
    }
}
