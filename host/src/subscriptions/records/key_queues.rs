//! The key queues: the records of each key that wait behind a record which is retried after a pause.
//!
//! This is pure bookkeeping. The number of records is bounded by what the source has in flight.

use super::redelivery::RecordRedeliveries;
use super::run::{RecordRun, Runs};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A key of a partition. All records of a partition that have no key share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct QueueKey {
    ledger: Arc<str>,
    key: Option<Vec<u8>>,
}

impl QueueKey {
    /// Returns the key of a record, which is a run of its own.
    fn of(record: &RecordRun) -> Self {
        Self { ledger: record.ledger().clone(), key: record.head().key.clone() }
    }
}

struct Held {
    /// The records, each a run of its own. The first is the one that failed.
    records: VecDeque<RecordRun>,
    attempts: u32,
    due: Instant,
}

/// A record whose pause is over.
pub(super) struct Due {
    record: RecordRun,
    /// The number of attempts so far.
    attempts: u32,
    behind: Behind,
}

/// The key queues of a source.
#[derive(Default)]
pub(super) struct KeyQueues {
    held: HashMap<QueueKey, Held>,
    /// Whether nothing is retried any more. Blocked keys stay blocked, or later records would overtake those given
    /// back.
    gives_back: bool,
}

impl KeyQueues {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether nothing is retried any more.
    pub(super) fn gives_back(&self) -> bool {
        self.gives_back
    }

    /// Adds each record of a blocked key to that key's queue, and all others to `free`.
    pub(super) fn join(&mut self, mut run: RecordRun, free: &mut Runs) {
        if self.held.is_empty() {
            return free.push(run);
        }
        while run.len() > 1 {
            self.join_one(run.take(1), free);
        }
        self.join_one(run, free);
    }

    fn join_one(&mut self, record: RecordRun, free: &mut Runs) {
        match self.held.get_mut(&QueueKey::of(&record)) {
            Some(_) if self.gives_back => drop(record),
            Some(held) => held.records.push_back(record),
            None => free.push(record),
        }
    }

    /// Makes a record wait for its retry, and blocks its key.
    pub(super) fn hold(&mut self, record: RecordRun, attempts: u32, pause: Duration) {
        let key = QueueKey::of(&record);
        let records = if self.gives_back { VecDeque::new() } else { [record].into() };
        self.held.insert(key, Held { records, attempts, due: Instant::now() + pause });
    }

    /// Returns how long it is until a record is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let next = self.held.values().filter(|held| !held.records.is_empty()).map(|held| held.due).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Takes a record whose pause is over. The caller must then call [`Self::hold`] again or [`Behind::go_on`].
    pub(super) fn due(&mut self) -> Option<Due> {
        let now = Instant::now();
        let is_due = |(_, held): &(&QueueKey, &Held)| held.due <= now && !held.records.is_empty();
        let key = self.held.iter().find(is_due).map(|(key, _)| key.clone())?;
        let Held { mut records, attempts, .. } = self.held.remove(&key)?;
        let record = records.pop_front().expect("the record that failed is there");
        Some(Due { record, attempts, behind: Behind { key, records } })
    }

    /// Ends all pauses, for example because there is new code.
    pub(super) fn try_all_now(&mut self) {
        let now = Instant::now();
        self.held.values_mut().for_each(|held| held.due = now);
    }

    /// Gives back waiting records that would overtake a pending redelivery.
    pub(super) fn give_back_after(&mut self, pending: &RecordRedeliveries) {
        self.held.retain(|_, held| {
            held.records.retain(|record| !pending.is_before(record));
            self.gives_back || !held.records.is_empty()
        });
    }

    /// Gives back all waiting records, and from now on those that would wait. A dropped record counts as not settled.
    pub(super) fn give_back(&mut self) {
        self.gives_back = true;
        self.held.values_mut().for_each(|held| held.records.clear());
    }
}

impl Due {
    /// Returns the record to be handled, its attempts, and the records that wait behind it.
    pub(super) fn take(self) -> (RecordRun, u32, Behind) {
        (self.record, self.attempts, self.behind)
    }
}

/// The records of a key that wait behind one that is being retried.
pub(super) struct Behind {
    key: QueueKey,
    records: VecDeque<RecordRun>,
}

impl Behind {
    /// Puts the records back into the key's queue if the record before them failed again. Otherwise it puts them in
    /// front of `ready`, because they come before later records.
    pub(super) fn go_on(self, queues: &mut KeyQueues, ready: &mut Runs) {
        match queues.held.get_mut(&self.key) {
            Some(held) => held.records.extend(self.records),
            None => self.records.into_iter().rev().for_each(|record| ready.push_front(record)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscriptions::records::run::tests::record;
    use std::sync::Arc;

    fn run(records: &[(&str, u64)]) -> RecordRun {
        let mut records = records.iter().map(|&(key, offset)| (offset, record(key, offset)));
        let (first, record) = records.next().unwrap();
        let mut run = RecordRun::new("kafka/s/t/0".into(), first, record, Arc::new(|_, _| {}));
        records.for_each(|(first, record)| run.push(first, record).unwrap());
        run
    }

    /// Returns the offsets of the records that are free.
    fn join(queues: &mut KeyQueues, records: &[(&str, u64)]) -> Vec<i64> {
        let mut free = Runs::default();
        queues.join(run(records), &mut free);
        offsets(&free)
    }

    fn offsets(runs: &Runs) -> Vec<i64> {
        runs.records().map(|record| record.offset).collect()
    }

    #[test]
    fn records_of_a_key_wait_behind_the_one_that_failed_and_keep_their_order() {
        let mut queues = KeyQueues::default();
        queues.hold(run(&[("a", 1)]), 1, Duration::ZERO);
        assert_eq!(join(&mut queues, &[("b", 2), ("a", 3)]), [2]);
        let (first, attempts, behind) = queues.due().unwrap().take();
        assert_eq!((first.head().offset, attempts), (1, 1));

        let mut ready = Runs::from(run(&[("a", 5)]));
        queues.hold(first, 2, Duration::ZERO);
        behind.go_on(&mut queues, &mut ready);
        assert_eq!(ready.len(), 1);
        assert!(join(&mut queues, &[("a", 4)]).is_empty());
        let (first, attempts, behind) = queues.due().unwrap().take();
        assert_eq!((first.head().offset, attempts, queues.is_empty()), (1, 2, true));

        behind.go_on(&mut queues, &mut ready);
        assert_eq!(offsets(&ready), [3, 4, 5]);
    }

    #[test]
    fn nothing_is_due_before_its_pause_is_over() {
        let mut queues = KeyQueues::default();
        queues.hold(run(&[("a", 1)]), 1, Duration::from_secs(3600));
        assert!(queues.due().is_none());
        assert!(queues.next_due().unwrap() > Duration::from_secs(3000));
    }

    #[test]
    fn what_is_given_back_is_not_passed_by_later_records_of_its_key() {
        let mut queues = KeyQueues::default();
        queues.hold(run(&[("a", 1)]), 1, Duration::ZERO);
        queues.give_back();
        assert!(queues.due().is_none() && queues.next_due().is_none());
        assert_eq!(join(&mut queues, &[("a", 2), ("b", 3)]), [3]);
        queues.hold(run(&[("b", 3)]), 1, Duration::ZERO);
        assert!(join(&mut queues, &[("b", 4)]).is_empty() && queues.due().is_none());
    }
}
