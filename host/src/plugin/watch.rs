//! The watch of new code: for a while after a swap, its failures are counted against the code before.

use super::Plugin;
use crate::supervise::Held as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The fewest failures that condemn code.
const FAILURES_MIN: u64 = 3;

/// How long commands are held at which condemned code fails, at least: the code before returns within this time.
const REVERT_MAX: Duration = Duration::from_secs(30);

/// How long new code is watched, and which share of failures condemns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchRule {
    /// The time after the swap. 0 is no watch.
    pub window: Duration,
    /// The percentage of inputs.
    pub percent: u64,
}

impl Default for WatchRule {
    fn default() -> Self {
        Self { window: Duration::from_secs(60), percent: 1 }
    }
}

/// The watch of code that has just begun to serve.
pub struct Watch {
    new: Arc<Plugin>,
    old: Arc<Plugin>,
    ends: Instant,
    percent: u64,
    handled: AtomicU64,
    failed: AtomicU64,
    /// Why the last of those failed.
    reason: Mutex<String>,
    /// Whether the code was found to fail too often. It is still watched until the code before has returned.
    condemned: AtomicBool,
}

impl Watch {
    pub(super) fn new(new: Arc<Plugin>, old: Arc<Plugin>, WatchRule { window, percent }: WatchRule) -> Self {
        let (handled, failed, reason, condemned) = Default::default();
        Self { new, old, ends: Instant::now() + window, percent, handled, failed, reason, condemned }
    }

    /// Returns the rest of this watch, for the same code with other limits or secrets.
    pub(super) fn of_same_code(&self, new: Arc<Plugin>) -> Self {
        let copy = |count: &AtomicU64| AtomicU64::new(count.load(Ordering::Relaxed));
        Self {
            new,
            old: self.old.clone(),
            ends: self.ends,
            percent: self.percent,
            handled: copy(&self.handled),
            failed: copy(&self.failed),
            reason: Mutex::new(self.reason.held().clone()),
            condemned: AtomicBool::new(false),
        }
    }

    /// Returns the code that is watched.
    pub fn new_code(&self) -> &Arc<Plugin> {
        &self.new
    }

    /// Returns the code before.
    pub fn old(&self) -> &Arc<Plugin> {
        &self.old
    }

    /// Whether this is the code that is watched.
    pub(super) fn is_of(&self, plugin: &Arc<Plugin>) -> bool {
        Arc::ptr_eq(&self.new, plugin)
    }

    /// Returns the time until it ends.
    pub fn rest(&self) -> Duration {
        let rest = self.ends.saturating_duration_since(Instant::now());
        if self.condemned.load(Ordering::Acquire) { rest.max(REVERT_MAX) } else { rest }
    }

    /// Counts inputs that the code has been given.
    pub fn handled(&self, inputs: usize) {
        self.handled.fetch_add(inputs as u64, Ordering::Relaxed);
    }

    /// Counts an input at which the code before would not have failed in this way.
    pub fn failed(&self, reason: &str) {
        reason.clone_into(&mut self.reason.held());
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns why the code must not serve any longer, if that is so. It says so once.
    pub(super) fn condemn(&self) -> Option<String> {
        let (failed, handled) = (self.failed.load(Ordering::Relaxed), self.handled.load(Ordering::Relaxed));
        let is_condemned = is_condemned(failed, handled, self.percent);
        (is_condemned && !self.condemned.swap(true, Ordering::AcqRel)).then(|| {
            let reason = self.reason.held();
            format!(
                "{} failed at {failed} of {handled} inputs at which the code before did not: {reason}",
                self.new.label()
            )
        })
    }
}

fn is_condemned(failed: u64, handled: u64, percent: u64) -> bool {
    failed >= FAILURES_MIN && failed.saturating_mul(100) >= handled.saturating_mul(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_commands_condemns_code_and_one_alone_does_not() {
        for (failed, handled, percent, condemned) in [
            (0, 0, 1, false),
            (1, 1, 1, false),
            (2, 2, 1, false),
            (3, 3, 1, true),
            (3, 300, 1, true),
            (3, 301, 1, false),
            (30, 60, 51, false),
        ] {
            assert_eq!(is_condemned(failed, handled, percent), condemned, "{failed} of {handled} at {percent} %");
        }
    }
}
