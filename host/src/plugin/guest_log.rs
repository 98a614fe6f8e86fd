//! The lines that the guests of a plugin write to the host's log.

use super::guest_text::line;
use crate::supervise::Held as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::Level;

/// The number of lines that the guests of a plugin may write to the host's log in a second. Further lines are only
/// counted.
const LOG_LINES_MAX: u32 = 1_000;

/// The log of a plugin's guests.
#[derive(Clone)]
pub(super) struct GuestLog {
    /// Name and version.
    label: Arc<str>,
    lines: Arc<Mutex<Lines>>,
}

/// The lines that the guests of a plugin have written in this second.
struct Lines {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { since: Instant::now(), written: 0, left_out: 0 }
    }
}

/// What happens to a log line.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Written,
    /// The first line in its second that is left out.
    FirstLeftOut,
    LeftOut,
}

impl Lines {
    /// Decides about the next line, and returns how many lines were left out in the second that has just ended.
    fn next(&mut self, now: Instant) -> (Line, u64) {
        let mut left_out = 0;
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            left_out = std::mem::take(&mut self.left_out);
            (self.since, self.written) = (now, 0);
        }
        if self.written < LOG_LINES_MAX {
            self.written += 1;
            return (Line::Written, left_out);
        }
        self.left_out += 1;
        (if self.left_out == 1 { Line::FirstLeftOut } else { Line::LeftOut }, left_out)
    }
}

impl GuestLog {
    /// Makes the log of a plugin.
    pub(super) fn new(label: Arc<str>) -> Self {
        Self { label, lines: Arc::default() }
    }

    /// Returns name and version of the plugin.
    pub(super) fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Writes a line, unless there are too many.
    pub(super) fn write(&self, level: Level, module: &str, text: &str) {
        let plugin = &*self.label;
        let (next, left_out) = self.lines.held().next(Instant::now());
        if left_out > 0 {
            tracing::warn!(target: "guest", plugin, "{left_out} lines were left out");
        }
        match next {
            Line::Written => {}
            Line::LeftOut => return,
            Line::FirstLeftOut => {
                tracing::warn!(target: "guest", plugin, "lines beyond {LOG_LINES_MAX} in this second are left out");
                return;
            }
        }
        let (module, text) = (line(module), line(text));
        match level {
            Level::TRACE => tracing::trace!(target: "guest", plugin, module, "{text}"),
            Level::DEBUG => tracing::debug!(target: "guest", plugin, module, "{text}"),
            Level::INFO => tracing::info!(target: "guest", plugin, module, "{text}"),
            Level::WARN => tracing::warn!(target: "guest", plugin, module, "{text}"),
            Level::ERROR => tracing::error!(target: "guest", plugin, module, "{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_second_are_bounded_and_those_left_out_are_counted() {
        let mut lines = Lines::default();
        let begin = lines.since;
        assert!((0..LOG_LINES_MAX).all(|_| lines.next(begin) == (Line::Written, 0)));
        assert_eq!(lines.next(begin), (Line::FirstLeftOut, 0));
        assert_eq!(lines.next(begin), (Line::LeftOut, 0));
        let next = begin + Duration::from_secs(1);
        assert_eq!(lines.next(next), (Line::Written, 2));
        assert_eq!(lines.next(next), (Line::Written, 0));
    }
}
