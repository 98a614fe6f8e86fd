//! The limit on the bytes of requests that wait for the writer. A sender that finds no room waits, as it does if the
//! queue is full.

use crate::supervise::Held as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The interval at which a waiting sender checks by itself, in case a wake-up is lost.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The bytes of the queued requests, with their limit.
pub(super) struct Room {
    bytes: AtomicUsize,
    bytes_max: usize,
    /// The lock that senders hold when they begin to wait, and that the writer holds when it wakes them.
    waiting: Mutex<()>,
    freed: Condvar,
}

impl Room {
    /// Makes a limit of this many bytes. One request of each sender may exceed it.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), bytes_max: bytes_max.max(1), waiting: Mutex::new(()), freed: Condvar::new() }
    }

    /// Takes room, and waits while there is none.
    pub(super) fn take(&self, bytes: usize) {
        if self.bytes.fetch_add(bytes, Ordering::AcqRel) < self.bytes_max {
            return;
        }
        self.free(bytes);
        let mut waiting = self.waiting.held();
        while self.bytes.load(Ordering::Acquire) >= self.bytes_max {
            waiting = self.freed.wait_timeout(waiting, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Gives room back.
    pub(super) fn free(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before >= self.bytes_max && before - bytes < self.bytes_max {
            drop(self.waiting.held());
            self.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Room;
    use std::sync::Arc;

    #[test]
    fn who_finds_no_room_waits_until_there_is_some() {
        let room = Arc::new(Room::new(10));
        room.take(9);
        room.take(100);
        let (other, (through, is_through)) = (room.clone(), std::sync::mpsc::channel());
        let waiter = std::thread::spawn(move || {
            other.take(5);
            through.send(()).unwrap();
        });
        room.free(9);
        assert!(is_through.try_recv().is_err(), "a hundred are still there");
        room.free(100);
        is_through.recv().unwrap();
        waiter.join().unwrap();
        room.free(5);
        room.take(10);
    }
}
