//! The rate of an endpoint: at most so many attempts in a second, evenly.
//!
//! This is the generic cell rate algorithm (ITU-T I.371): each attempt moves the time of the next one by the interval, and an
//! attempt may come a little before its time. So a thread that is late makes up for it, and the rate holds in the long run.

use std::time::{Duration, Instant};

/// How far attempts may be ahead of an even rate.
const BURST: Duration = Duration::from_millis(50);

/// The most turns at one time of an endpoint without a rate.
const ANY_NUMBER: usize = usize::MAX;

pub(super) struct Pace {
    /// The time from one attempt to the next; none without a rate.
    interval: Option<Duration>,
    /// The time of the next attempt by an even rate.
    next: Instant,
}

impl Pace {
    pub(super) fn new(per_second: Option<u32>) -> Self {
        let interval = per_second.map(|count| Duration::from_secs(1) / count.max(1));
        Self { interval, next: Instant::now() }
    }

    /// Returns how many attempts may begin now.
    pub(super) fn turns(&self, now: Instant) -> usize {
        let Some(interval) = self.interval else { return ANY_NUMBER };
        if self.next > now + BURST {
            return 0;
        }
        let ahead = (now + BURST).saturating_duration_since(self.next.max(now));
        1 + (ahead.as_nanos() / interval.as_nanos().max(1)) as usize
    }

    /// Returns the time until an attempt may begin.
    pub(super) fn until_turn(&self, now: Instant) -> Duration {
        match self.interval {
            Some(_) => self.next.saturating_duration_since(now + BURST),
            None => Duration::ZERO,
        }
    }

    /// Takes the turn of one attempt.
    pub(super) fn take(&mut self, now: Instant) {
        if let Some(interval) = self.interval {
            self.next = self.next.max(now) + interval;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_evenly_and_only_a_few_at_once() {
        let mut pace = Pace::new(Some(4));
        let begin = pace.next;
        let at = |ms: u64| begin + Duration::from_millis(ms);
        assert_eq!((pace.turns(at(0)), pace.until_turn(at(0))), (1, Duration::ZERO));
        pace.take(at(0));
        assert_eq!((pace.turns(at(100)), pace.until_turn(at(100))), (0, Duration::from_millis(100)));
        assert_eq!(pace.turns(at(200)), 1);
        pace.take(at(200));
        assert_eq!(pace.turns(at(400)), 0, "the third one is due at 500, and 50 before it");
        // Nothing is saved up.
        assert_eq!(pace.turns(at(60_000)), 1);
        let mut unlimited = Pace::new(None);
        (0..1_000).for_each(|_| unlimited.take(begin));
        assert_eq!(unlimited.turns(begin), ANY_NUMBER);
    }

    #[test]
    fn who_is_late_makes_up_for_it() {
        let mut pace = Pace::new(Some(1_000));
        let begin = pace.next;
        let mut count = 0;
        for round in 0..100 {
            let now = begin + Duration::from_millis(round * 10);
            let turns = pace.turns(now);
            (0..turns).for_each(|_| pace.take(now));
            count += turns;
        }
        assert!((990..=1_051).contains(&count), "{count} in 990 ms");
    }
}
