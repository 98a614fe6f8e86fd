//! The rate of an endpoint: at most so many attempts in a second, evenly.

use std::time::{Duration, Instant};

pub(super) struct Pace {
    /// The least time from one attempt to the next.
    interval: Duration,
    /// The time before which no attempt begins.
    next: Option<Instant>,
}

impl Pace {
    pub(super) fn new(per_second: Option<u32>) -> Self {
        let interval = per_second.map_or(Duration::ZERO, |count| Duration::from_secs(1) / count.max(1));
        Self { interval, next: None }
    }

    /// Takes the turn of one attempt. Otherwise it returns the time until the next turn.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        match self.next.map(|next| next.saturating_duration_since(now)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.next = Some(now + self.interval);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_evenly_and_none_are_saved_up() {
        let (mut pace, begin) = (Pace::new(Some(4)), Instant::now());
        let at = |ms: u64| begin + Duration::from_millis(ms);
        assert_eq!(pace.take(at(0)), Ok(()));
        assert_eq!(pace.take(at(100)), Err(Duration::from_millis(150)));
        assert_eq!(pace.take(at(250)), Ok(()));
        assert_eq!(pace.take(at(5_000)), Ok(()));
        assert_eq!(pace.take(at(5_001)), Err(Duration::from_millis(249)));
        let mut unlimited = Pace::new(None);
        assert!((0..1_000).all(|_| unlimited.take(begin).is_ok()));
    }
}
