//! The keys that stand still: each behind a record that is tried again after a pause.
//!
//! Pure bookkeeping. Bounded by what the source has in flight.

use super::redelivery::PendingRedeliveries;
use super::run::{RecordRun, Runs};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A key of a partition; records without a key of one partition are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct QueueKey {
    ledger: Arc<str>,
    key: Option<Vec<u8>>,
}

impl QueueKey {
    /// Of a record, which is a run of its own.
    fn of(record: &RecordRun) -> Self {
        Self { ledger: record.ledger().clone(), key: record.head().key.clone() }
    }
}

struct Held {
    /// Each a run of its own. The first is the one that failed.
    records: VecDeque<RecordRun>,
    attempts: u32,
    due: Instant,
}

/// A record whose pause is over.
pub(super) struct Due {
    record: RecordRun,
    /// How often it was tried.
    attempts: u32,
    behind: Behind,
}

/// See the module.
#[derive(Default)]
pub(super) struct KeyQueues {
    held: HashMap<QueueKey, Held>,
    /// Nothing is tried again any more. Keys that stand still stay so, or later records would pass those given back.
    gives_back: bool,
}

impl KeyQueues {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether nothing is tried again any more.
    pub(super) fn gives_back(&self) -> bool {
        self.gives_back
    }

    /// Puts each record of a key that stands still behind that key's first, and all others to those that are free.
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

    /// Lets a record wait, and all of its key behind it.
    pub(super) fn hold(&mut self, record: RecordRun, attempts: u32, pause: Duration) {
        let key = QueueKey::of(&record);
        let records = if self.gives_back { VecDeque::new() } else { [record].into() };
        self.held.insert(key, Held { records, attempts, due: Instant::now() + pause });
    }

    /// How long until a record is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let next = self.held.values().filter(|held| !held.records.is_empty()).map(|held| held.due).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// A record whose pause is over. Its key stands still until it is held again or released.
    pub(super) fn due(&mut self) -> Option<Due> {
        let now = Instant::now();
        let is_due = |(_, held): &(&QueueKey, &Held)| held.due <= now && !held.records.is_empty();
        let key = self.held.iter().find(is_due).map(|(key, _)| key.clone())?;
        let Held { mut records, attempts, .. } = self.held.remove(&key)?;
        let record = records.pop_front().expect("the record that failed is there");
        Some(Due { record, attempts, behind: Behind { key, records } })
    }

    /// Ends all pauses, such as when there is new code.
    pub(super) fn try_all_now(&mut self) {
        let now = Instant::now();
        self.held.values_mut().for_each(|held| held.due = now);
    }

    /// Gives back what waits and would pass a record that is pending.
    pub(super) fn give_back_after(&mut self, pending: &PendingRedeliveries) {
        self.held.retain(|_, held| {
            held.records.retain(|record| !pending.is_before(record));
            self.gives_back || !held.records.is_empty()
        });
    }

    /// Gives back what waits, and from now on what would: dropped, it counts as not settled.
    pub(super) fn give_back(&mut self) {
        self.gives_back = true;
        self.held.values_mut().for_each(|held| held.records.clear());
    }
}

impl Due {
    /// Takes the record out, to be handled; what is left is what waits behind it.
    pub(super) fn take(self) -> (RecordRun, u32, Behind) {
        (self.record, self.attempts, self.behind)
    }
}

/// The records of a key behind one that is being tried again.
pub(super) struct Behind {
    key: QueueKey,
    records: VecDeque<RecordRun>,
}

impl Behind {
    /// They wait on where the one before them failed again. Where it is done their turn is before what came later.
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

    /// The offsets of those that are free.
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
