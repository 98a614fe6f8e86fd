//! What the guests of a plugin do: their calls, the time of these, their failures, and their memory.
//!
//! Each guest counts for itself, in a cell that only its thread writes, so counting costs next to nothing. The time is that of
//! one call in 64, because reading the clock twice would cost as much as a small call.

use crate::supervise::Held as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// One call in this many is timed.
const SAMPLED: u64 = 64;

/// What all guests of a plugin did since the host started, whichever code they had.
#[derive(Debug, Default)]
pub struct PluginMeter {
    guests: Mutex<Vec<Arc<Cell>>>,
    /// What guests did that are gone.
    ended: Mutex<PluginUse>,
}

/// The content of a meter at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PluginUse {
    /// The calls to functions of the plugin.
    pub calls: u64,
    /// The time that they took, in seconds, estimated from a part of them.
    pub seconds: f64,
    /// The calls that trapped, took too long or broke the contract.
    pub failures: u64,
    /// The present guests.
    pub guests: u64,
    /// The linear memory of these, in bytes.
    pub memory_bytes: u64,
}

/// What one guest did. Only its own thread writes.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell {
    calls: AtomicU64,
    timed_ns: AtomicU64,
    failures: AtomicU64,
    memory_bytes: AtomicU64,
}

/// The meter of one guest.
pub(super) struct GuestMeter {
    cell: Arc<Cell>,
    plugin: Arc<PluginMeter>,
}

impl PluginMeter {
    /// Begins to count a guest.
    pub(super) fn guest(self: &Arc<Self>) -> GuestMeter {
        let cell = Arc::<Cell>::default();
        self.guests.held().push(cell.clone());
        GuestMeter { cell, plugin: self.clone() }
    }

    /// Returns the current content.
    pub fn read(&self) -> PluginUse {
        // A guest that ends meanwhile is counted once: it moves from one to the other under both locks.
        let (guests, mut all) = (self.guests.held(), *self.ended.held());
        for cell in guests.iter() {
            let of_guest = cell.read();
            all.calls += of_guest.calls;
            all.seconds += of_guest.seconds;
            all.failures += of_guest.failures;
            all.memory_bytes += of_guest.memory_bytes;
        }
        all.guests = guests.len() as u64;
        all
    }
}

impl Cell {
    fn read(&self) -> PluginUse {
        PluginUse {
            calls: self.calls.load(Ordering::Relaxed),
            seconds: (self.timed_ns.load(Ordering::Relaxed) * SAMPLED) as f64 / 1e9,
            failures: self.failures.load(Ordering::Relaxed),
            guests: 1,
            memory_bytes: self.memory_bytes.load(Ordering::Relaxed),
        }
    }
}

impl GuestMeter {
    /// Begins a call. It returns when, if the call is timed.
    #[inline]
    pub(super) fn begin(&self) -> Option<Instant> {
        // Nobody else writes, so this need not be one step.
        let calls = self.cell.calls.load(Ordering::Relaxed);
        self.cell.calls.store(calls + 1, Ordering::Relaxed);
        calls.is_multiple_of(SAMPLED).then(Instant::now)
    }

    /// Ends a call that was timed.
    #[cold]
    pub(super) fn end(&self, begun: Instant, memory_bytes: usize) {
        let timed_ns = self.cell.timed_ns.load(Ordering::Relaxed) + begun.elapsed().as_nanos() as u64;
        self.cell.timed_ns.store(timed_ns, Ordering::Relaxed);
        self.cell.memory_bytes.store(memory_bytes as u64, Ordering::Relaxed);
    }

    /// Counts a call that failed.
    pub(super) fn failed(&self) {
        self.cell.failures.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for GuestMeter {
    fn drop(&mut self) {
        let mut guests = self.plugin.guests.held();
        let of_guest = self.cell.read();
        let mut ended = self.plugin.ended.held();
        ended.calls += of_guest.calls;
        ended.seconds += of_guest.seconds;
        ended.failures += of_guest.failures;
        guests.retain(|cell| !Arc::ptr_eq(cell, &self.cell));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_did_stays_when_they_are_gone() {
        let meter = Arc::<PluginMeter>::default();
        let (one, two) = (meter.guest(), meter.guest());
        for _ in 0..SAMPLED + 1 {
            if let Some(begun) = one.begin() {
                one.end(begun, 100);
            }
        }
        two.failed();
        let all = meter.read();
        assert_eq!((all.calls, all.failures, all.guests, all.memory_bytes), (SAMPLED + 1, 1, 2, 100));
        drop(one);
        let all = meter.read();
        assert_eq!((all.calls, all.failures, all.guests, all.memory_bytes), (SAMPLED + 1, 1, 1, 0));
        assert!(all.seconds > 0.0);
    }
}
