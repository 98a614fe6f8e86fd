//! The sink that a producer belongs to: its name, and what it shows and is told.

use super::View;
use super::publisher::Interruption;
use crate::kafka::transaction::{Broken, Owner};
use crate::supervise::Held as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The longest rest between looks at the stop flag.
const REST_MAX: Duration = Duration::from_millis(100);

/// A sink, for its producer. Cheap to clone.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) sink: Arc<str>,
    pub(super) view: Arc<View>,
}

impl Seat {
    /// Tells about trouble that is tried again.
    pub(super) fn note(&self, error: String) {
        let mut known = self.view.error.held();
        if known.as_ref() != Some(&error) {
            tracing::warn!(sink = &*self.sink, "{error}");
            *known = Some(error);
        }
    }

    /// Pauses before another try; a stop ends it.
    pub(super) fn rest(&self, pause: Duration) -> Result<(), Interruption> {
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.view.stopping.load(Ordering::Acquire) {
                return Err(Interruption::Stopped);
            }
            std::thread::park_timeout(left.min(REST_MAX));
        }
        Ok(())
    }

    /// Fails when a stop does not want to wait any longer.
    pub(super) fn check_given_up(&self) -> Result<(), Interruption> {
        if self.view.has_given_up() { Err(Interruption::Stopped) } else { Ok(()) }
    }
}

impl Owner for Seat {
    fn check(&self) -> Result<(), Broken> {
        self.check_given_up().map_err(|_| Broken::Stopped)
    }

    fn trouble(&self, text: String) {
        self.note(text);
    }
}
