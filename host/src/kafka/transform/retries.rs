//! The retries of failed records: the attempts of each, and what to do next.
//!
//! A record is identified by its partition and offset, because it is read again before a retry. At most one record of a
//! partition waits, because no later one may overtake it.

use crate::kafka::source::TopicPartition;
use crate::manifest::Deliveries;
use crate::model::Record;
use crate::subscriptions::Untransformed;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one record may be retried.
const TRIES_MAX: Duration = Duration::from_secs(120);

/// The records that wait for a retry, by partition.
#[derive(Default)]
pub(super) struct Retries(BTreeMap<TopicPartition, Tries>);

struct Tries {
    offset: i64,
    first: Instant,
    count: u32,
}

/// What to do with a record that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is retried after this time.
    Wait(Duration, String),
    /// It is dead-lettered.
    DeadLetter(String),
    /// Something must change before any record can be handled.
    Trouble(String),
}

impl Retries {
    /// Counts a failure of a record that was handled alone.
    pub(super) fn failed(&mut self, record: &Record, failed: Untransformed, limits: &Deliveries) -> Decision {
        let (reason, wait) = match failed {
            Untransformed::Again(reason, wait) => (reason, wait),
            Untransformed::Command(reason) | Untransformed::Host(reason) => return Decision::Trouble(reason),
            Untransformed::Refused(reason) => return Decision::DeadLetter(reason),
            Untransformed::Fewer(_) => unreachable!("one record can't be fewer"),
        };
        let partition = TopicPartition { topic: record.topic.clone(), partition: record.partition };
        let new = || Tries { offset: record.offset, first: Instant::now(), count: 0 };
        let tries = self.0.entry(partition).or_insert_with(new);
        if tries.offset != record.offset {
            *tries = new();
        }
        tries.count += 1;
        let pause = limits.backoff().pause(tries.count).max(wait);
        if tries.count >= limits.attempts_max || tries.first.elapsed() + pause > TRIES_MAX {
            return Decision::DeadLetter(format!("{reason} (tried {} times)", tries.count));
        }
        Decision::Wait(pause, reason)
    }

    /// Notes that everything of a partition before an offset is committed.
    pub(super) fn passed(&mut self, partition: &TopicPartition, next: u64) {
        if self.0.get(partition).is_some_and(|tries| u64::try_from(tries.offset).is_ok_and(|offset| offset < next)) {
            self.0.remove(partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: i32, offset: i64) -> Record {
        Record { topic: "taps".into(), partition, offset, time_ms: 0, key: None, headers: Vec::new(), payload: None }
    }

    #[test]
    fn a_record_is_known_by_its_place_until_it_is_passed() {
        let limits = Deliveries { attempts_max: 3, backoff_ms: 10, ..Deliveries::to("courier") };
        let mut retries = Retries::default();
        let again = || Untransformed::Again("no".into(), Duration::ZERO);
        let mut fail = |offset| retries.failed(&record(0, offset), again(), &limits);
        let waits = |decision| matches!(decision, Decision::Wait(..));
        assert!(waits(fail(7)) && waits(fail(7)));
        assert_eq!(fail(7), Decision::DeadLetter("no (tried 3 times)".into()));
        assert!(waits(fail(8)), "another record starts from its first try");
        let partition = TopicPartition { topic: "taps".into(), partition: 0 };
        retries.passed(&partition, 8);
        assert_eq!(retries.0.len(), 1, "the record at 8 is not passed yet");
        retries.passed(&partition, 9);
        assert!(retries.0.is_empty());
    }

    #[test]
    fn a_pause_beyond_the_time_for_tries_ends_them() {
        let limits = Deliveries { attempts_max: 100, ..Deliveries::to("courier") };
        let failed = Untransformed::Again("later".into(), TRIES_MAX * 2);
        let decision = Retries::default().failed(&record(0, 1), failed, &limits);
        assert_eq!(decision, Decision::DeadLetter("later (tried 1 times)".into()));
    }
}
