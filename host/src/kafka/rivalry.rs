//! How often a client may be fenced before it gives way.
//!
//! Kafka fences a client when another one takes its transactional id or its `group.instance.id`. A single fencing does
//! not prove that the rival is still there. There need not have been one at all: a member of a group that slept for
//! longer than its session, and has joined again since, is fenced by the late answer to a request of its former
//! membership. A client that is fenced therefore takes its id back, until that has happened too often.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// This many fencings within [`RIVALRY_WINDOW`] mean that there is a rival.
pub(super) const RIVALRY_MAX: usize = 3;
/// See [`RIVALRY_MAX`].
pub(super) const RIVALRY_WINDOW: Duration = Duration::from_secs(300);

/// The times at which a client was fenced.
#[derive(Default)]
pub(super) struct Rivalry(VecDeque<Instant>);

impl Rivalry {
    /// Counts a fencing. If there were too many of late, returns how many, for the text of the error.
    pub(super) fn fenced(&mut self, now: Instant) -> Option<String> {
        self.0.push_back(now);
        self.0.retain(|at| now.duration_since(*at) < RIVALRY_WINDOW);
        let minutes = RIVALRY_WINDOW.as_secs() / 60;
        (self.0.len() >= RIVALRY_MAX).then(|| format!("this happened {} times within {minutes} minutes", self.0.len()))
    }
}

/// What happened to a member of a group that was fenced.
pub(super) fn member_was_fenced(group: &str) -> String {
    format!("group {group}: another member has joined with this one's `group.instance.id`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fencings_that_are_far_apart_are_no_rivalry() {
        let (mut rivalry, start) = (Rivalry::default(), Instant::now());
        for n in 0..10 {
            assert_eq!(rivalry.fenced(start + RIVALRY_WINDOW * n), None);
        }
        let (mut rivalry, step) = (Rivalry::default(), RIVALRY_WINDOW / 10);
        assert_eq!((rivalry.fenced(start), rivalry.fenced(start + step)), (None, None));
        assert_eq!(rivalry.fenced(start + step * 2).unwrap(), "this happened 3 times within 5 minutes");
    }
}
