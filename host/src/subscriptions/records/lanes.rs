//! The keys that stand still: each behind a record that is tried again after a pause.
//!
//! Pure bookkeeping. Bounded by what the source has in flight.

use super::RecordDelivery;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A key of a partition; records without a key of one partition are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lane {
    ledger: Arc<str>,
    key: Option<Vec<u8>>,
}

impl Lane {
    fn of(delivery: &RecordDelivery) -> Self {
        Self { ledger: delivery.origin.ledger.clone(), key: delivery.record.key.clone() }
    }
}

struct Held {
    /// The first is the one that failed.
    records: VecDeque<RecordDelivery>,
    attempts: u32,
    due: Instant,
}

/// A record whose pause is over.
pub(super) struct Due {
    pub(super) delivery: RecordDelivery,
    /// How often it was tried.
    pub(super) attempts: u32,
    lane: Lane,
    behind: VecDeque<RecordDelivery>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Lanes {
    held: HashMap<Lane, Held>,
    /// Nothing is tried again any more. Keys that stand still stay so, or later records would pass those given back.
    gives_back: bool,
}

impl Lanes {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Puts a record behind the one of its key that stands still. Hands it back where none does.
    pub(super) fn join(&mut self, delivery: RecordDelivery) -> Option<RecordDelivery> {
        if self.held.is_empty() {
            return Some(delivery);
        }
        match self.held.get_mut(&Lane::of(&delivery)) {
            Some(_) if self.gives_back => drop(delivery),
            Some(held) => held.records.push_back(delivery),
            None => return Some(delivery),
        }
        None
    }

    /// Lets a record wait, and all of its key behind it.
    pub(super) fn hold(&mut self, delivery: RecordDelivery, attempts: u32, pause: Duration) {
        let lane = Lane::of(&delivery);
        let records = if self.gives_back { VecDeque::new() } else { [delivery].into() };
        self.held.insert(lane, Held { records, attempts, due: Instant::now() + pause });
    }

    /// How long until a record is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let next = self.held.values().filter(|held| !held.records.is_empty()).map(|held| held.due).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// A record whose pause is over. Its key stands still until it is held again or released.
    pub(super) fn due(&mut self) -> Option<Due> {
        let now = Instant::now();
        let is_due = |(_, held): &(&Lane, &Held)| held.due <= now && !held.records.is_empty();
        let lane = self.held.iter().find(is_due).map(|(lane, _)| lane.clone())?;
        let Held { mut records, attempts, .. } = self.held.remove(&lane)?;
        let delivery = records.pop_front().expect("the record that failed is there");
        Some(Due { delivery, attempts, lane, behind: records })
    }

    /// Gives back what waits, and from now on what would: dropped, it counts as not settled.
    pub(super) fn give_back(&mut self) {
        self.gives_back = true;
        self.held.values_mut().for_each(|held| held.records.clear());
    }
}

impl Due {
    /// Takes the record out, to be handled; what is left is what waits behind it.
    pub(super) fn take(self) -> (RecordDelivery, u32, Behind) {
        (self.delivery, self.attempts, Behind { lane: self.lane, records: self.behind })
    }
}

/// The records of a key behind one that is being tried again.
pub(super) struct Behind {
    lane: Lane,
    records: VecDeque<RecordDelivery>,
}

impl Behind {
    /// They wait on where the one before them failed again. Where it is done their turn is before what came later.
    pub(super) fn go_on(self, lanes: &mut Lanes, ready: &mut VecDeque<RecordDelivery>) {
        match lanes.held.get_mut(&self.lane) {
            Some(held) => held.records.extend(self.records),
            None => self.records.into_iter().rev().for_each(|delivery| ready.push_front(delivery)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Origin, Record};

    fn delivery(key: &str, offset: u64) -> RecordDelivery {
        let record = Record {
            topic: "t".into(),
            partition: 0,
            offset: offset as i64,
            time_ms: 0,
            key: Some(key.into()),
            headers: Vec::new(),
            payload: None,
        };
        let origin = Origin { ledger: "kafka/s/t/0".into(), first: offset, last: offset };
        RecordDelivery { record: Box::new(record), origin, settled: Box::new(drop) }
    }

    #[test]
    fn records_of_a_key_wait_behind_the_one_that_failed_and_keep_their_order() {
        let mut lanes = Lanes::default();
        lanes.hold(delivery("a", 1), 1, Duration::ZERO);
        assert!(lanes.join(delivery("a", 3)).is_none());
        assert!(lanes.join(delivery("b", 2)).is_some());
        let (first, attempts, behind) = lanes.due().unwrap().take();
        assert_eq!((first.origin.last, attempts), (1, 1));

        let mut ready: VecDeque<_> = [delivery("a", 5)].into();
        lanes.hold(first, 2, Duration::ZERO);
        behind.go_on(&mut lanes, &mut ready);
        assert_eq!(ready.len(), 1);
        assert!(lanes.join(delivery("a", 4)).is_none());
        let (first, attempts, behind) = lanes.due().unwrap().take();
        assert_eq!((first.origin.last, attempts, lanes.is_empty()), (1, 2, true));

        behind.go_on(&mut lanes, &mut ready);
        assert_eq!(ready.iter().map(|delivery| delivery.origin.last).collect::<Vec<_>>(), [3, 4, 5]);
    }

    #[test]
    fn nothing_is_due_before_its_pause_is_over() {
        let mut lanes = Lanes::default();
        lanes.hold(delivery("a", 1), 1, Duration::from_secs(3600));
        assert!(lanes.due().is_none());
        assert!(lanes.next_due().unwrap() > Duration::from_secs(3000));
    }

    #[test]
    fn what_is_given_back_is_not_passed_by_later_records_of_its_key() {
        let mut lanes = Lanes::default();
        lanes.hold(delivery("a", 1), 1, Duration::ZERO);
        lanes.give_back();
        assert!(lanes.due().is_none() && lanes.next_due().is_none());
        assert!(lanes.join(delivery("a", 2)).is_none());
        assert!(lanes.join(delivery("b", 3)).is_some());
        lanes.hold(delivery("b", 3), 1, Duration::ZERO);
        assert!(lanes.join(delivery("b", 4)).is_none() && lanes.due().is_none());
    }
}
