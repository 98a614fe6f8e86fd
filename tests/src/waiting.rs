//! Waiting for a condition that nothing announces.

use std::thread;
use std::time::{Duration, Instant};

/// Longest wait.
const WAIT: Duration = Duration::from_secs(60);
/// Interval at which the condition is checked.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until a condition is met. It panics with `what` if it is not met in time.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::park_timeout(LOOK);
    }
}
