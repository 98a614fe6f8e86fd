//! How far a long run is, said on standard error from time to time.

use super::table::number;
use crate::escape::escape;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

/// The interval at which a long run says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// The number of items between two looks at the clock.
const LOOK_EVERY: u64 = 256;

/// The progress of a long run.
pub(super) struct Progress {
    what: &'static str,
    items: &'static str,
    of: u64,
    look_at: u64,
    next: Instant,
}

impl Progress {
    /// Begins, with the number of events in all, or 0 if that is not known.
    pub(super) fn of_events(what: &'static str, of: u64) -> Self {
        Self::new(what, "events", of)
    }

    /// Begins, with the number of items in all, or 0 if that is not known.
    pub(super) fn new(what: &'static str, items: &'static str, of: u64) -> Self {
        Self { what, items, of, look_at: LOOK_EVERY, next: Instant::now() + PROGRESS_EVERY }
    }

    /// Says how many items are done, if it is time to.
    pub(super) fn at(&mut self, done: u64) {
        // The clock is not read for each item.
        if done < self.look_at {
            return;
        }
        self.look_at = done + LOOK_EVERY;
        if Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + PROGRESS_EVERY;
        let of = if self.of > 0 { format!(" of {}", number(self.of)) } else { String::new() };
        say(&format!("{} {}{of} {}", self.what, number(done), self.items));
    }
}

/// Writes a line to standard error.
pub(super) fn say(text: &str) {
    // If standard error can't be written, only the exit code is left.
    let _ = writeln!(io::stderr(), "{}", escape(text));
}
