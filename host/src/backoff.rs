//! The pauses between attempts at something that fails.

use std::time::{Duration, Instant};

/// The longest pause between two attempts at something without settings of its own.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The pauses of work that fails and is begun again: they double while failures come soon after each other.
pub struct Pauses {
    first: Duration,
    /// Number of failures, each of which came soon after the one before it.
    failures: u32,
    /// When the work was begun, or is begun again.
    begun: Instant,
}

impl Pauses {
    /// Work that lasted this long failed for a reason of its own: the pauses start again from the first.
    const CALM: Duration = Duration::from_secs(120);

    /// For work that begins now, with this as its first pause.
    pub fn new(first: Duration) -> Self {
        Self { first, failures: 0, begun: Instant::now() }
    }

    /// Counts a failure. Returns the pause after which the work begins again.
    pub fn after_failure(&mut self) -> Duration {
        self.after_failure_at(Instant::now())
    }

    /// Whether the pause after the last failure is not over yet.
    pub fn is_pausing(&self) -> bool {
        Instant::now() < self.begun
    }

    fn after_failure_at(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.begun) > Self::CALM {
            self.failures = 0;
        }
        self.failures += 1;
        let pause = backoff(self.first, self.failures);
        self.begun = now + pause;
        pause
    }
}

/// The pauses between the attempts at one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause before the second attempt. It doubles with each further one.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Backoff {
    /// Makes the pauses of a part from its settings, in milliseconds.
    pub fn from_ms(first: u64, max: u64) -> Self {
        let [first, max] = [first, max].map(Duration::from_millis);
        Self { first, max }
    }

    /// Returns the pause after this many failed attempts, plus up to a quarter of jitter, so that many retries do not
    /// come at once.
    pub fn pause(self, attempts: u32) -> Duration {
        let pause = self.first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(self.max);
        let jitter = fastrand::u32(..256);
        pause + pause * jitter / 1024
    }
}

/// Returns the pause before a retry of something without settings of its own. It doubles with each attempt up to 30
/// seconds, plus up to a quarter of jitter.
pub fn backoff(first: Duration, attempts: u32) -> Duration {
    Backoff { first, max: BACKOFF_MAX }.pause(attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_while_failures_come_soon_and_start_again_after_a_calm() {
        let mut pauses = Pauses::new(Duration::from_millis(100));
        let mut now = pauses.begun;
        let mut next = |after: Duration| {
            now += after;
            let pause = pauses.after_failure_at(now);
            now += pause;
            // Without the jitter.
            [100, 200, 400, 800].into_iter().rfind(|&ms| Duration::from_millis(ms) <= pause).unwrap()
        };
        let soon = Duration::from_secs(1);
        assert_eq!([next(soon), next(soon), next(soon)], [100, 200, 400]);
        assert_eq!([next(Pauses::CALM), next(Pauses::CALM + soon)], [800, 100]);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_have_up_to_a_quarter_of_jitter() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_millis(350) };
        for (attempts, ms) in [(0, 100), (1, 100), (2, 200), (3, 350), (4, 350), (u32::MAX, 350)] {
            let pause = backoff.pause(attempts);
            let shortest = Duration::from_millis(ms);
            assert!((shortest..shortest + shortest / 4).contains(&pause), "{attempts}: {pause:?}");
        }
    }
}
