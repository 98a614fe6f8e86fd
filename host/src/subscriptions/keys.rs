//! The held keys of a subscription to recorded events.
//!
//! The key of an event is its stream. If an event fails, the subscription's thread holds its key and goes on: it leaves
//! this event and all later ones of the key to the key worker ([`super::key_worker`]), which reads them from their stream.
//! When the key worker has handled all that was left to it, the thread takes the key back. Only the thread decides
//! about that, between two pages, so no event of the key is left out or handled twice.
//!
//! Messages between both may be outdated. That is harmless, because each step that changes a key says how it expects the
//! key to be held, and the store refuses the step otherwise.

use crate::model::{Position, RecordedEvent, StreamId, Version};
use crate::store::HeldKey;
use crate::supervise::Held as _;
use crossbeam_channel::{Receiver, Sender};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// A message to the key worker.
pub(super) enum KeyRequest {
    /// Forget all keys and take these, because the subscription restarts from its checkpoint.
    Restart { held: Vec<HeldKey>, checkpoint: Position },
    /// Take a key.
    Hold(NewHold),
    /// Read the stream again, because more was left to the worker.
    GoOn(StreamId),
    /// Forget a key. The subscription's thread handles its events again.
    Free(StreamId),
    /// Look whether dead letters with waiting keys were removed.
    Look,
    /// End the thread.
    Stop,
}

/// A key that was just held.
pub(super) struct NewHold {
    pub(super) stream: StreamId,
    /// The version of the event that failed.
    pub(super) version: Version,
    /// Its position.
    pub(super) position: Position,
    /// The first attempt, or `None` if the event was dead-lettered.
    pub(super) retry: Option<FirstAttempt>,
}

/// The result of the first attempt at an event.
pub(super) struct FirstAttempt {
    /// The number of attempts that count: 0 or 1.
    pub(super) attempts: u32,
    /// The time until the next attempt.
    pub(super) pause: Duration,
    /// Why it failed, or `None` if it only takes long.
    pub(super) reason: Option<String>,
}

/// A message from the key worker.
pub(super) enum KeyAnswer {
    /// The worker has handled all events of the key that it found. `seen` is the position of the last one. It waits for
    /// [`KeyRequest::GoOn`] or [`KeyRequest::Free`].
    Handled { stream: StreamId, next: Version, seen: Position },
    /// The store refused a step of this key, for this reason.
    Moved { stream: StreamId, reason: String },
    /// The worker has lost all keys, for this reason, and must get them again.
    Lost(String),
}

/// What is known of the held keys, for the status and for `drained`.
#[derive(Default)]
pub(super) struct KeysView(Mutex<HashMap<StreamId, KeyView>>);

/// What is known of a held key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyView {
    /// Its event is retried. The text has the reason of the last failure, if it has failed in this process.
    Retried(Option<String>),
    /// It waits behind a dead letter.
    Waits,
}

/// A summary of the held keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeysSummary {
    /// The number of keys that are retried.
    pub(super) retried: u64,
    /// The number of keys that wait behind dead letters.
    pub(super) waiting: u64,
    /// A reason why a key is retried.
    pub(super) reason: Option<String>,
}

impl KeysView {
    pub(super) fn set(&self, stream: &StreamId, view: KeyView) {
        self.0.held().insert(stream.clone(), view);
    }

    /// Changes the view of a key that is still held.
    pub(super) fn change(&self, stream: &StreamId, view: KeyView) {
        if let Some(held) = self.0.held().get_mut(stream) {
            *held = view;
        }
    }

    fn remove(&self, stream: &StreamId) {
        self.0.held().remove(stream);
    }

    fn restart(&self, held: &[HeldKey]) {
        let view = |held: &HeldKey| held.behind.map_or(KeyView::Retried(None), |_| KeyView::Waits);
        *self.0.held() = held.iter().map(|held| (held.stream.clone(), view(held))).collect();
    }

    /// Returns whether a key is retried, so that its events move without any input.
    pub(super) fn is_busy(&self) -> bool {
        self.0.held().values().any(|view| *view != KeyView::Waits)
    }

    pub(super) fn summary(&self) -> KeysSummary {
        let mut summary = KeysSummary::default();
        for view in self.0.held().values() {
            match view {
                KeyView::Waits => summary.waiting += 1,
                KeyView::Retried(reason) => {
                    summary.retried += 1;
                    // The least of the texts, so that the status does not change by chance.
                    if let Some(reason) = reason
                        && summary.reason.as_ref().is_none_or(|shown| reason < shown)
                    {
                        summary.reason = Some(reason.clone());
                    }
                }
            }
        }
        summary
    }
}

/// The parts that the subscription's thread and the key worker share.
#[derive(Clone)]
pub(super) struct KeyLinks {
    pub(super) view: Arc<KeysView>,
    /// The position up to which the thread has left the events of held keys to the worker.
    left: Arc<AtomicU64>,
    pub(super) requests: Sender<KeyRequest>,
    /// Wakes the thread when there is an answer.
    answered: Arc<Notify>,
}

impl KeyLinks {
    /// Returns the position up to which the events of held keys are left to the worker.
    pub(super) fn left(&self) -> Position {
        Position(self.left.load(Ordering::Acquire))
    }

    /// Waits until there is an answer.
    pub(super) async fn answered(&self) {
        self.answered.notified().await;
    }

    pub(super) fn wake(&self) {
        self.answered.notify_one();
    }
}

/// The ends of the channels that belong to the key worker.
pub(super) struct WorkerEnds {
    pub(super) requests: Receiver<KeyRequest>,
    pub(super) answers: Sender<KeyAnswer>,
}

/// The held keys, as the subscription's thread knows them.
pub(super) struct HeldKeys {
    /// The position of the last event of each key that was left to the worker.
    keys: HashMap<StreamId, Position>,
    /// The events of held keys in the page in work. They are left to the worker when the thread has come to them. If it has to
    /// leave the page before, it reads them again.
    ahead: Vec<(StreamId, Position)>,
    links: KeyLinks,
    answers: Receiver<KeyAnswer>,
}

impl HeldKeys {
    pub(super) fn new() -> (Self, WorkerEnds) {
        #[expect(
            clippy::disallowed_methods,
            reason = "the held keys bound it, and the thread must never wait for the worker"
        )]
        let (request, requests) = crossbeam_channel::unbounded();
        #[expect(
            clippy::disallowed_methods,
            reason = "the worker gives one answer for each key and waits for a request"
        )]
        let (answer, answers) = crossbeam_channel::unbounded();
        let links =
            KeyLinks { view: Arc::default(), left: Arc::default(), requests: request, answered: Arc::default() };
        (Self { keys: HashMap::new(), ahead: Vec::new(), links, answers }, WorkerEnds { requests, answers: answer })
    }

    pub(super) fn links(&self) -> &KeyLinks {
        &self.links
    }

    /// Takes over the keys that the store holds. Everything of them up to the checkpoint is left to the worker.
    pub(super) fn restart(&mut self, held: Vec<HeldKey>, checkpoint: Position) {
        self.keys = held.iter().map(|held| (held.stream.clone(), checkpoint)).collect();
        self.ahead.clear();
        // The worker answers again for all keys.
        self.answers.try_iter().for_each(drop);
        self.links.view.restart(&held);
        self.left_through(checkpoint);
        self.request(KeyRequest::Restart { held, checkpoint });
    }

    /// Returns the number of held keys.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Leaves the events of held keys to the worker, and keeps all others.
    pub(super) fn leave(&mut self, events: &mut Vec<RecordedEvent>) {
        if self.keys.is_empty() {
            return;
        }
        events.retain(|event| {
            let is_held = self.keys.contains_key(&event.stream);
            if is_held {
                self.ahead.push((event.stream.clone(), event.position));
            }
            !is_held
        });
    }

    /// Notes that the page in work is left before its end.
    pub(super) fn leave_page(&mut self) {
        self.ahead.clear();
    }

    /// Notes that all events up to a position are processed or left to the worker.
    pub(super) fn left_through(&mut self, position: Position) {
        let Self { keys, ahead, .. } = self;
        ahead.retain(|(stream, last)| {
            if let Some(known) = keys.get_mut(stream).filter(|_| *last <= position) {
                *known = (*known).max(*last);
            }
            *last > position
        });
        self.links.left.store(position.0, Ordering::Release);
    }

    /// Holds the key of an event that failed, after the step that does so in the store.
    pub(super) fn hold(&mut self, event: &RecordedEvent, retry: Option<FirstAttempt>) {
        self.keys.insert(event.stream.clone(), event.position);
        let view = retry.as_ref().map_or(KeyView::Waits, |first| KeyView::Retried(first.reason.clone()));
        self.links.view.set(&event.stream, view);
        self.left_through(event.position);
        let RecordedEvent { stream, version, position, .. } = event;
        self.request(KeyRequest::Hold(NewHold {
            stream: stream.clone(),
            version: *version,
            position: *position,
            retry,
        }));
    }

    /// Returns the next answer of the worker.
    pub(super) fn answer(&self) -> Option<KeyAnswer> {
        self.answers.try_recv().ok()
    }

    /// Returns the position of the last event of a key that was left to the worker, if the key is held.
    pub(super) fn last_left(&self, stream: &StreamId) -> Option<Position> {
        self.keys.get(stream).copied()
    }

    /// Lets the worker read the stream of a key again.
    pub(super) fn go_on(&self, stream: StreamId) {
        self.request(KeyRequest::GoOn(stream));
    }

    /// Takes a key back. The step that does so in the store must be handed over before.
    pub(super) fn free(&mut self, stream: StreamId) {
        self.keys.remove(&stream);
        self.links.view.remove(&stream);
        self.request(KeyRequest::Free(stream));
    }

    fn request(&self, request: KeyRequest) {
        // An error means that the worker has ended, because the subscription stops.
        let _ = self.links.requests.send(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: &str) -> StreamId {
        StreamId::new("order", id)
    }

    #[test]
    fn a_key_that_waits_moves_nothing_and_a_key_that_is_retried_does() {
        let view = KeysView::default();
        assert!(!view.is_busy());
        view.set(&stream("1"), KeyView::Waits);
        assert!(!view.is_busy());
        view.set(&stream("2"), KeyView::Retried(Some("b".into())));
        view.set(&stream("3"), KeyView::Retried(Some("a".into())));
        view.set(&stream("4"), KeyView::Retried(None));
        let expected = KeysSummary { retried: 3, waiting: 1, reason: Some("a".into()) };
        assert!(view.is_busy());
        assert_eq!(view.summary(), expected);
        view.change(&stream("5"), KeyView::Waits);
        assert_eq!(view.summary(), expected, "it is not held");
        view.remove(&stream("1"));
        assert_eq!(view.summary().waiting, 0);
    }
}
