//! The sink's side of a producer: the sink's name and view.

use super::SinkView;
use super::publisher::Interruption;
use crate::kafka::transaction::{Broken, Owner};
use crate::supervise::Held as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The longest pause between checks of the stop flag.
const REST_MAX: Duration = Duration::from_millis(100);

/// The sink that a producer belongs to. It is cheap to clone.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) sink: Arc<str>,
    pub(super) view: Arc<SinkView>,
}

impl Seat {
    /// Shows and logs an error after which the sink retries.
    pub(super) fn note(&self, error: String) {
        let mut known = self.view.error.held();
        if known.as_ref() != Some(&error) {
            tracing::warn!(sink = &*self.sink, "{error}");
            *known = Some(error);
        }
    }

    /// Pauses before a retry. A stop ends the pause with an error.
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

    /// Fails if the sink is stopping and its deadline is over.
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
