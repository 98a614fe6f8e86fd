//! A search through the events of the whole store, in steps.

use crate::model::{Position, RecordedEvent};
use crate::store::{Error, EventSearch, Reader};

/// A search, and how far it is.
pub(super) struct Search {
    pub(super) wanted: EventSearch,
    /// The next position to search.
    pub(super) next: Position,
    /// The last position to search.
    pub(super) to: Position,
    pub(super) backwards: bool,
    /// The number of events that may still be searched.
    pub(super) left: u64,
}

impl Search {
    /// Whether everything is searched.
    pub(super) fn is_over(&self) -> bool {
        if self.backwards { self.next < self.to } else { self.next > self.to }
    }

    /// Whether there is more to search, and it may be searched.
    pub(super) fn may_go_on(&self) -> bool {
        self.left > 0 && !self.is_over()
    }

    /// Returns the last position that was searched.
    pub(super) fn searched_to(&self) -> Position {
        Position(if self.backwards { self.next.0 + 1 } else { self.next.0 - 1 })
    }

    /// Searches on, if it may. The events may be none although there are more.
    pub(super) fn step(&mut self, reader: &mut dyn Reader, limit: usize) -> Result<Vec<RecordedEvent>, Error> {
        let next = self.next.0;
        let last = self.to.0.abs_diff(next).min(self.left - 1);
        let last = if self.backwards { next - last } else { next + last };
        let page = reader.search(&self.wanted, self.next, Position(last), limit)?;
        self.left -= page.reached.0.abs_diff(next) + 1;
        self.next.0 = if self.backwards { page.reached.0 - 1 } else { page.reached.0 + 1 };
        Ok(page.events)
    }
}
