//! Ids of events: UUIDs of version 7, which increase in the order in which they are made.
//!
//! The writer makes an id for each event, so this must not need a system call. The 12 bits after the milliseconds count
//! within a millisecond, and the other 62 bits are random. If the count is full, it continues in the next millisecond.

use crate::clock::Clock;
use crate::model::ms_of_id;
use uuid::{Builder, Uuid};

/// The number of ids in a millisecond, which is what 12 bits can count.
const PER_MS: u16 = 1 << 12;

/// A generator of ids. Each store has one.
pub(super) struct Ids {
    clock: Clock,
    random: fastrand::Rng,
    ms: u64,
    count: u16,
}

impl Ids {
    /// Makes a generator that uses this clock.
    pub(super) fn new(clock: Clock) -> Self {
        // The operating system gives the seed, as a part of a random id.
        let seed = Uuid::now_v7().as_u128() as u64;
        Self { clock, random: fastrand::Rng::with_seed(seed), ms: 0, count: 0 }
    }

    /// Lets all further ids come after this one.
    pub(super) fn continue_after(&mut self, last: Uuid) {
        if let Some(ms) = ms_of_id(last).filter(|ms| *ms >= self.ms) {
            (self.ms, self.count) = (ms, PER_MS);
        }
    }

    /// Returns the next id.
    pub(super) fn next(&mut self) -> Uuid {
        self.next_at(self.clock.now_ms())
    }

    /// Returns the next id at a time. Ids increase even if the clock goes back.
    fn next_at(&mut self, now_ms: u64) -> Uuid {
        if now_ms > self.ms {
            (self.ms, self.count) = (now_ms, 0);
        } else if self.count + 1 < PER_MS {
            self.count += 1;
        } else {
            (self.ms, self.count) = (self.ms + 1, 0);
        }
        let [high, low] = self.count.to_be_bytes();
        let mut rest = [high, low, 0, 0, 0, 0, 0, 0, 0, 0];
        rest[2..].copy_from_slice(&self.random.u64(..).to_be_bytes());
        Builder::from_unix_timestamp_millis(self.ms, &rest).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_increase_whatever_the_clock_does() {
        let mut ids = Ids::new(Clock::system());
        let mut last = Uuid::nil();
        for now_ms in [1_000; 10_000].into_iter().chain([1_001, 999, 5_000, 5_000]) {
            let id = ids.next_at(now_ms);
            assert!(id > last, "{id} after {last}");
            assert_eq!(id.get_version_num(), 7);
            last = id;
        }
        assert_eq!(last.get_timestamp().unwrap().to_unix(), (5, 0));
    }

    #[test]
    fn ids_continue_after_those_of_an_earlier_run_although_the_clock_went_back() {
        let mut ids = Ids::new(Clock::system());
        let last = ids.next_at(9_000);
        let mut later = Ids::new(Clock::system());
        later.continue_after(last);
        assert!(later.next_at(1_000) > last);
        later.continue_after(Uuid::nil());
        assert!(later.next_at(1_000) > last, "an id without a time changes nothing");
    }

    #[test]
    fn ids_of_two_stores_differ() {
        let (mut one, mut other) = (Ids::new(Clock::system()), Ids::new(Clock::system()));
        assert_ne!(one.next_at(1), other.next_at(1));
    }
}
