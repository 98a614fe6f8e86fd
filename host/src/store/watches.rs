//! What followers of a store watch, from the writer's side and from theirs.
//!
//! The values are hints that there is something new. The database is the truth.

use super::Error;
use crate::model::Position;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// The newest numbers of everything that somebody follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NewestNumbers {
    /// The position of the newest event.
    pub(super) position: u64,
    /// The number of the newest message in the outbox.
    pub(super) message: u64,
    /// The number of the newest dead letter.
    pub(super) dead_letter: u64,
    /// The number of the newest callback.
    pub(super) callback: u64,
    /// A number that increases when an HTTP request may be due earlier than before.
    pub(super) requests_changed: u64,
}

/// The writer's side.
pub(super) struct Announcer {
    head: watch::Sender<Position>,
    outbox_head: watch::Sender<u64>,
    dead_letters_head: watch::Sender<u64>,
    callbacks_changed: watch::Sender<u64>,
    requests_changed: watch::Sender<u64>,
    /// The writer's last number of changed requests. That of the watch rises also when other hosts write.
    requests_seen: AtomicU64,
    loss: watch::Sender<Option<Error>>,
}

/// The side of those who wait.
pub(super) struct Watches {
    pub(super) head: watch::Receiver<Position>,
    pub(super) outbox_head: watch::Receiver<u64>,
    pub(super) dead_letters_head: watch::Receiver<u64>,
    pub(super) callbacks_changed: watch::Receiver<u64>,
    pub(super) requests_changed: watch::Receiver<u64>,
    pub(super) loss: watch::Receiver<Option<Error>>,
}

impl Announcer {
    /// Makes the writer's side of a store that was just opened.
    pub(super) fn new() -> Self {
        Self {
            head: watch::Sender::new(Position(0)),
            outbox_head: watch::Sender::new(0),
            dead_letters_head: watch::Sender::new(0),
            callbacks_changed: watch::Sender::new(0),
            requests_changed: watch::Sender::new(0),
            requests_seen: AtomicU64::new(0),
            loss: watch::Sender::new(None),
        }
    }

    /// Makes the other side.
    pub(super) fn watches(&self) -> Watches {
        Watches {
            head: self.head.subscribe(),
            outbox_head: self.outbox_head.subscribe(),
            dead_letters_head: self.dead_letters_head.subscribe(),
            callbacks_changed: self.callbacks_changed.subscribe(),
            requests_changed: self.requests_changed.subscribe(),
            loss: self.loss.subscribe(),
        }
    }

    /// Wakes those whose numbers have risen, after a commit of the writer.
    pub(super) fn announce(&self, newest: NewestNumbers) {
        self.raise(newest);
        if self.requests_seen.swap(newest.requests_changed, Ordering::Relaxed) != newest.requests_changed {
            self.requests_changed.send_modify(|changed| *changed += 1);
        }
    }

    /// Wakes those whose numbers have risen, after commits of other hosts, which may also have made or changed HTTP requests.
    pub(super) fn others_wrote(&self, newest: NewestNumbers) {
        self.raise(newest);
        self.requests_changed.send_modify(|changed| *changed += 1);
    }

    fn raise(&self, newest: NewestNumbers) {
        publish(&self.head, Position(newest.position));
        publish(&self.outbox_head, newest.message);
        publish(&self.dead_letters_head, newest.dead_letter);
        publish(&self.callbacks_changed, newest.callback);
    }

    /// Tells everybody that the host has lost the store.
    pub(super) fn lost(&self, lost: Error) {
        self.loss.send_replace(Some(lost));
    }
}

/// Sets the value and wakes the watchers only if it has risen.
fn publish<T: PartialOrd>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|current| {
        let has_risen = *current < value;
        if has_risen {
            *current = value;
        }
        has_risen
    });
}
