//! The age of items in the store, whatever the wall clock does.
//!
//! If the wall clock jumps ahead, the store must not drop items too early. So it adds up the time that hosts have run
//! on it, and drops an item only when it is too old by both the wall clock and the running time. A crash may lose a
//! part of the running time. This makes items younger, never older.

use crate::clock::Clock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The interval at which the running time is written to the store, in milliseconds.
const NOTE_EVERY_MS: u64 = 60_000;

/// The difference between wall time and running time, from one check to the next, that counts as a jump.
const JUMP_MS: u64 = 60_000;

/// A moment by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) wall_ms: u64,
    pub(super) running_ms: u64,
}

impl Moment {
    /// Returns the bounds below which an item is older than this age by each clock. Drop it only if it is below both.
    pub(super) fn before(self, age_ms: u64) -> Self {
        Self { wall_ms: self.wall_ms.saturating_sub(age_ms), running_ms: self.running_ms.saturating_sub(age_ms) }
    }
}

/// The running time of a store, with a check for jumps of the wall clock.
pub(super) struct Age {
    clock: Clock,
    /// The running time of earlier hosts, minus the clock's running time when this host opened the store.
    offset_ms: i128,
    noted_ms: u64,
    seen: Moment,
}

impl Age {
    /// Resumes the running time where the last host ended. `noted` is the moment that it wrote last.
    pub(super) fn resume(noted: Moment, clock: Clock, jumps: &AtomicU64) -> Self {
        let Moment { wall_ms, running_ms } = noted;
        let offset_ms = i128::from(running_ms) - i128::from(clock.running_ms());
        let seen = Moment { wall_ms: clock.now_ms(), running_ms };
        if seen.wall_ms.saturating_add(JUMP_MS) < wall_ms {
            tell(wall_ms, seen.wall_ms, "since the last host ran on this store", jumps);
        }
        Self { clock, offset_ms, noted_ms: running_ms, seen }
    }

    /// Goes on with the running time that another host has noted, if that is further.
    pub(super) fn follow(&mut self, noted_ms: u64) {
        let behind_ms = noted_ms.saturating_sub(self.running_ms());
        self.offset_ms += i128::from(behind_ms);
        self.seen.running_ms += behind_ms;
    }

    /// Returns the current moment.
    pub(super) fn now(&self) -> Moment {
        Moment { wall_ms: self.clock.now_ms(), running_ms: self.running_ms() }
    }

    fn running_ms(&self) -> u64 {
        u64::try_from(self.offset_ms + i128::from(self.clock.running_ms())).unwrap_or(0)
    }

    /// Checks if the wall clock has jumped.
    pub(super) fn watch(&mut self, jumps: &AtomicU64) {
        let now = self.now();
        let expected_ms = self.seen.wall_ms + now.running_ms.saturating_sub(self.seen.running_ms);
        if now.wall_ms.abs_diff(expected_ms) > JUMP_MS {
            tell(expected_ms, now.wall_ms, "while this host ran", jumps);
        }
        self.seen = now;
    }

    /// Returns whether it is time to write the running time.
    pub(super) fn is_due(&self) -> bool {
        self.running_ms() >= self.noted_ms + NOTE_EVERY_MS
    }

    /// Notes that the running time of this moment is written to the store.
    pub(super) fn noted(&mut self, now: Moment) {
        self.noted_ms = now.running_ms;
    }
}

fn tell(expected_ms: u64, found_ms: u64, when: &str, jumps: &AtomicU64) {
    jumps.fetch_add(1, Ordering::Relaxed);
    let (way, seconds) =
        if found_ms > expected_ms { ("ahead", found_ms - expected_ms) } else { ("back", expected_ms - found_ms) };
    tracing::warn!(
        "the wall clock jumped {way} by {} s {when}, or the machine slept: times that are recorded from here on have the new \
         clock, and nothing is forgotten earlier for it",
        seconds / 1_000
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_time_adds_up_over_hosts_and_a_jump_is_noticed() {
        let (mut noted, jumps) = (Moment { wall_ms: 0, running_ms: 0 }, AtomicU64::new(0));
        for host in 1..=3 {
            let clock = Clock::manual(1_000_000_000 * host);
            clock.advance_ms(77);
            let mut age = Age::resume(noted, clock.clone(), &jumps);
            clock.advance_ms(NOTE_EVERY_MS);
            assert!(age.is_due());
            noted = age.now();
            age.noted(noted);
            assert!(!age.is_due());
            assert_eq!(age.now().running_ms, NOTE_EVERY_MS * host);
            age.watch(&jumps);
        }
        assert_eq!(jumps.load(Ordering::Relaxed), 0, "a host that did not run for long is no jump");
        let clock = Clock::manual(5_000_000_000);
        let mut age = Age::resume(noted, clock.clone(), &jumps);
        for wall_ms in [9_000_000_000, 2_000_000_000] {
            clock.jump_to_ms(wall_ms);
            age.watch(&jumps);
            age.watch(&jumps);
        }
        assert_eq!(jumps.load(Ordering::Relaxed), 2, "each jump is told once");
        Age::resume(noted, Clock::manual(1_000), &jumps);
        assert_eq!(jumps.load(Ordering::Relaxed), 3, "a clock that is behind the last host's has gone back");
    }
}
