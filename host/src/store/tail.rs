//! The tail: the newest events in memory, which followers that keep up read without SQLite.
//!
//! Several followers read every event soon after it is recorded. The writer has it in memory at that time, so it keeps
//! the newest events in the form that readers get, up to a number of bytes. Followers that lag further behind read the
//! file. An event is added after its commit, so everything here is also in the file. The oldest events are dropped
//! first.

use crate::filter::Filter;
use crate::model::{Position, RecordedEvent};
use crate::store::{Filling, Page};
use crate::supervise::Shared as _;
use std::collections::VecDeque;
use std::sync::{Arc, RwLock};

/// The events of one transaction, in position order and without a gap, each with the number of its type.
pub(super) type Recorded = Vec<(i64, RecordedEvent)>;

/// The newest events, which the writer and all readers share.
pub(super) struct Tail {
    held: RwLock<Held>,
    bytes_max: usize,
}

#[derive(Default)]
struct Held {
    /// The transactions, without gaps between them.
    batches: VecDeque<Arc<TailBatch>>,
    bytes: usize,
}

struct TailBatch {
    events: Recorded,
    bytes: usize,
}

impl TailBatch {
    fn first(&self) -> u64 {
        self.events[0].1.position.0
    }

    fn last(&self) -> u64 {
        self.events[self.events.len() - 1].1.position.0
    }
}

impl Tail {
    /// Makes an empty tail for about this many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { held: RwLock::default(), bytes_max }
    }

    /// Shows the events of a committed transaction to the readers.
    pub(super) fn publish(&self, events: Recorded) {
        if events.is_empty() {
            return;
        }
        let bytes = events.iter().map(|(_, event)| event.size()).sum();
        let batch = Arc::new(TailBatch { events, bytes });
        let mut left = Vec::new();
        let mut held = self.held.held_alone();
        // Readers rely on it that nothing is missing between two transactions.
        if held.batches.back().is_some_and(|newest| newest.last() + 1 != batch.first()) {
            held.bytes = 0;
            left.extend(held.batches.drain(..));
        }
        held.bytes += bytes;
        held.batches.push_back(batch);
        while held.bytes > self.bytes_max {
            let Some(oldest) = held.batches.pop_front() else { break };
            held.bytes -= oldest.bytes;
            left.push(oldest);
        }
        // Memory is freed after the lock is released.
        drop(held);
    }

    /// Returns a page of the events after a position if the very next event is here, or `None` if the file must be
    /// read.
    pub(super) fn page(&self, after: Position, filter: &Filter, limit: usize) -> Option<Page> {
        let (mut page, mut reached) = (Filling::new(limit), after);
        let mut wanted = Wanted { filter, known: Vec::new() };
        'page: for batch in self.after(after)? {
            let skipped = after.0.saturating_add(1).saturating_sub(batch.first()) as usize;
            for (number, event) in batch.events.iter().skip(skipped) {
                if page.is_full() {
                    break 'page;
                }
                reached = event.position;
                if wanted.has(*number, event) {
                    page.push(event.clone());
                }
            }
        }
        Some(Page { events: page.events, reached })
    }

    /// Returns the batches with events after a position. The caller holds them, so the writer need not wait.
    fn after(&self, after: Position) -> Option<Vec<Arc<TailBatch>>> {
        let held = self.held.held_shared();
        let next = after.0.saturating_add(1);
        if held.batches.front()?.first() > next || held.batches.back()?.last() < next {
            return None;
        }
        let from = held.batches.partition_point(|batch| batch.last() < next);
        Some(held.batches.range(from..).cloned().collect())
    }
}

/// The types that pass a filter. Each type is checked only once.
struct Wanted<'f> {
    filter: &'f Filter,
    known: Vec<(i64, bool)>,
}

impl Wanted<'_> {
    fn has(&mut self, number: i64, event: &RecordedEvent) -> bool {
        if let Some((_, wanted)) = self.known.iter().find(|(known, _)| *known == number) {
            return *wanted;
        }
        let wanted = self.filter.matches(&event.stream.aggregate_type, &event.name);
        self.known.push((number, wanted));
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{StreamId, Version};

    fn event(position: u64) -> (i64, RecordedEvent) {
        let number = (position % 2) as i64;
        let event = RecordedEvent {
            position: Position(position),
            stream: StreamId::new("order", "1"),
            version: Version(position),
            name: if number == 0 { "Even".into() } else { "Odd".into() },
            payload: vec![0; 100],
            correlation_id: "".into(),
            causation_id: "".into(),
            ..RecordedEvent::example()
        };
        (number, event)
    }

    fn positions(page: Option<Page>) -> Option<(Vec<u64>, u64)> {
        page.map(|page| (page.events.iter().map(|event| event.position.0).collect(), page.reached.0))
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended() {
        let tail = Tail::new(1 << 20);
        tail.publish((4..7).map(event).collect());
        tail.publish((7..9).map(event).collect());
        let page = |after, filter: &str, limit| {
            positions(tail.page(Position(after), &Filter::parse([filter]).unwrap(), limit))
        };
        assert_eq!(page(2, "**", 9), None, "event 3 is in the file alone");
        assert_eq!(page(3, "**", 9), Some((vec![4, 5, 6, 7, 8], 8)));
        assert_eq!(page(3, "**", 2), Some((vec![4, 5], 5)));
        assert_eq!(page(5, "**", 2), Some((vec![6, 7], 7)));
        assert_eq!(page(3, "order.Odd", 9), Some((vec![5, 7], 8)));
        assert_eq!(page(3, "order.Odd", 1), Some((vec![5], 5)));
        assert_eq!(page(3, "household.*", 9), Some((vec![], 8)));
        assert_eq!(page(8, "**", 9), None, "whether there is more is for the file to say");
    }

    #[test]
    fn the_oldest_leave_when_there_are_too_many_bytes() {
        let tail = Tail::new(4 * event(1).1.size());
        for first in [1, 3, 5, 7] {
            tail.publish((first..first + 2).map(event).collect());
        }
        let page = |after| positions(tail.page(Position(after), &Filter::all(), 100));
        assert_eq!(page(3), None);
        assert_eq!(page(4), Some((vec![5, 6, 7, 8], 8)));
    }
}
