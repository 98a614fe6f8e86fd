//! The key worker: the thread that handles the events of a subscription's held keys.
//!
//! It retries the event that failed in a guest of its own, so an event that fails slowly holds up no other key. Then it
//! handles the later events of the key, which the subscription's thread left to it. It reads them from their stream, in
//! their order. See [`super::keys`] for how a key comes and goes.

use super::effects::{Outgoing, outgoing};
use super::events::SubscriptionLinks;
use super::handler::{Handler, RetryDecision, Unhandled};
use super::keys::{FirstAttempt, KeyAnswer, KeyLinks, KeyRequest, KeyView, NewHold, WorkerEnds};
use super::pausing::event_place;
use super::{Options, dead_lettered};
use crate::ack;
use crate::filter::Filter;
use crate::manifest::OnFailure;
use crate::model::{Position, RecordedEvent, StreamId, Version};
use crate::plugin::{Effects, Slot};
use crate::store::{Error, HeldKey, KeyChange, KeyState, Reached, Reader, Step};
use crate::supervise::{self, Held as _};
use crossbeam_channel::{RecvTimeoutError, TryRecvError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest wait for a request. After it the worker looks for dead letters that were discarded.
const IDLE: Duration = Duration::from_secs(1);

/// How often a worker with keys looks whether there is new code, or whether a person has paused or resumed the
/// subscription.
const LOOK: Duration = Duration::from_millis(100);

/// The state of the thread.
pub(super) struct KeyWorker {
    /// The name of the subscription, or of the segment.
    name: Arc<str>,
    plugin: Arc<str>,
    handler: Handler,
    filter: Filter,
    options: Options,
    shared: SubscriptionLinks,
    links: KeyLinks,
    ends: WorkerEnds,
    reader: Box<dyn Reader>,
    keys: HashMap<StreamId, Key>,
    /// When the dead letters with waiting keys were last looked for.
    looked: Instant,
    /// Whether they must be looked for soon, because a replay was in the way.
    must_look: bool,
    stopping: bool,
}

/// A held key.
struct Key {
    /// The version from which the key is held in the store.
    next: Version,
    /// The version of the last event that was looked at: it was handled or is not wanted.
    after: Version,
    /// The position of the last event that was read or handled. A later event may be recorded and not in the stream yet,
    /// for a moment after its commit.
    seen: Position,
    wait: KeyWait,
}

/// What a held key waits for.
enum KeyWait {
    /// The next attempt.
    Retry {
        /// Number of attempts at the event that count.
        attempts: u32,
        /// Number of attempts in a row that the host, not the event, is to blame for.
        held_up: u32,
        due: Instant,
    },
    /// The end of a dead letter.
    DeadLetter,
    /// The subscription's thread.
    Handled,
}

impl KeyWait {
    fn now() -> Self {
        Self::Retry { attempts: 0, held_up: 0, due: Instant::now() }
    }
}

impl Key {
    /// Makes a key as the store holds it. Everything up to `seen` can be read from its stream.
    fn of(held: &HeldKey, seen: Position) -> Self {
        let wait = if held.behind.is_some() { KeyWait::DeadLetter } else { KeyWait::now() };
        Self { next: held.next, after: before(held.next), seen, wait }
    }
}

fn before(version: Version) -> Version {
    Version(version.0.saturating_sub(1))
}

impl KeyWorker {
    pub(super) fn new(
        name: Arc<str>,
        slot: Arc<Slot>,
        options: Options,
        shared: SubscriptionLinks,
        ends: WorkerEnds,
    ) -> Result<Self, Error> {
        let (plugin, links) = (slot.name.clone(), shared.keys.clone());
        let handler = Handler::new(slot);
        let (filter, reader) = (handler.filter(), shared.store.reader()?);
        let (keys, looked) = (HashMap::new(), Instant::now());
        let (must_look, stopping) = (false, false);
        Ok(Self {
            name,
            plugin,
            handler,
            filter,
            options,
            shared,
            links,
            ends,
            reader,
            keys,
            looked,
            must_look,
            stopping,
        })
    }

    /// Restarts after a panic. The subscription's thread reads from the store how the keys are held, and sends them again.
    pub(super) fn begin_again(&mut self) -> Result<(), Error> {
        self.handler.replace();
        self.keys.clear();
        self.answer(KeyAnswer::Lost("the thread that retries events panicked".to_owned()));
        Ok(())
    }

    /// Works until it is stopped.
    pub(super) fn run(&mut self) {
        while !self.stopping {
            supervise::round();
            self.wait();
            if self.shared.pausing.is_paused() {
                continue;
            }
            if self.must_look || self.looked.elapsed() >= IDLE {
                self.look();
            }
            // New code may want other events, so nothing may come between this and reading them.
            if self.handler.renew() {
                self.filter = self.handler.filter();
                self.try_all_now();
            }
            if let Some(stream) = self.due() {
                self.work_on(&stream);
            }
        }
    }

    /// Waits until a key is due or there is a request, and takes all requests.
    fn wait(&mut self) {
        let longest = match self.keys.is_empty() {
            true => IDLE,
            false if self.shared.pausing.is_paused() => LOOK,
            false => self.until_due().min(LOOK),
        };
        match self.ends.requests.recv_timeout(longest) {
            Ok(request) => self.take(request),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.stopping = true,
        }
        loop {
            match self.ends.requests.try_recv() {
                Ok(request) => self.take(request),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => return self.stopping = true,
            }
        }
    }

    fn until_due(&self) -> Duration {
        let due = self.keys.values().filter_map(|key| match key.wait {
            KeyWait::Retry { due, .. } => Some(due),
            KeyWait::DeadLetter | KeyWait::Handled => None,
        });
        due.min().map_or(IDLE, |due| due.saturating_duration_since(Instant::now()).min(IDLE))
    }

    /// Returns a key whose next attempt is due, the first one first.
    fn due(&self) -> Option<StreamId> {
        let now = Instant::now();
        let due = self.keys.iter().filter_map(|(stream, key)| match key.wait {
            KeyWait::Retry { due, .. } if due <= now => Some((due, stream)),
            _ => None,
        });
        due.min().map(|(_, stream)| stream.clone())
    }

    fn take(&mut self, request: KeyRequest) {
        match request {
            KeyRequest::Restart { held, checkpoint } => {
                self.keys = held.iter().map(|held| (held.stream.clone(), Key::of(held, checkpoint))).collect();
            }
            KeyRequest::Hold(NewHold { stream, version, position, retry }) => {
                // An event that is retried is read again first.
                let (wait, seen) = match retry {
                    None => (KeyWait::DeadLetter, position),
                    Some(FirstAttempt { attempts, pause, .. }) => {
                        let due = Instant::now() + pause;
                        (KeyWait::Retry { attempts, held_up: 0, due }, Position(position.0.saturating_sub(1)))
                    }
                };
                self.keys.insert(stream, Key { next: version, after: before(version), seen, wait });
            }
            KeyRequest::GoOn(stream) => {
                if let Some(key) = self.keys.get_mut(&stream) {
                    key.wait = KeyWait::now();
                }
            }
            KeyRequest::Free(stream) => {
                self.keys.remove(&stream);
                if self.keys.is_empty() {
                    // Most subscriptions hold no key, so the guest would be there for nothing.
                    self.handler.replace();
                }
            }
            KeyRequest::Look => self.look(),
            KeyRequest::Stop => self.stopping = true,
        }
    }

    /// Ends all pauses, because there is new code.
    fn try_all_now(&mut self) {
        for key in self.keys.values_mut() {
            if let KeyWait::Retry { .. } = key.wait {
                key.wait = KeyWait::now();
            }
        }
    }

    /// Looks for keys whose dead letters were removed. They go on after the event that was dead-lettered.
    fn look(&mut self) {
        (self.looked, self.must_look) = (Instant::now(), false);
        if !self.keys.values().any(|key| matches!(key.wait, KeyWait::DeadLetter)) {
            return;
        }
        // A replay sends its commands before those of later events. Other keys must not wait for it.
        let replays = self.shared.replays.clone();
        let Some(_none) = replays.held_now() else {
            self.must_look = true;
            return;
        };
        match self.reader.held_keys(&self.name) {
            Ok(held) => held.iter().filter(|held| held.behind.is_none()).for_each(|held| self.release(held)),
            Err(error) => tracing::error!("subscription {}: its held keys can't be read: {error}", self.name),
        }
    }

    fn release(&mut self, held: &HeldKey) {
        if let Some(key) = self.keys.get_mut(&held.stream)
            && matches!(key.wait, KeyWait::DeadLetter)
        {
            *key = Key::of(held, key.seen);
            self.links.view.change(&held.stream, KeyView::Retried(None));
        }
    }

    /// Handles the next events of a key with one call.
    fn work_on(&mut self, stream: &StreamId) {
        let events = self.next_events(stream);
        let done = events.and_then(|events| match events.as_deref() {
            // More is to be looked at. Other keys come first.
            None => Ok(()),
            Some([]) => self.handled(stream),
            Some(events) => {
                self.handle(stream, events);
                Ok(())
            }
        });
        if let Err(error) = done {
            self.held_up(stream, &error.to_string());
        }
    }

    /// Reads the next wanted events of a key, of those that are left to this thread. The list is empty if there are no
    /// more, and `None` if only unwanted ones were found so far.
    fn next_events(&mut self, stream: &StreamId) -> Result<Option<Vec<RecordedEvent>>, Error> {
        let left = self.links.left();
        let Self { reader, keys, filter, options, handler, .. } = self;
        let key = keys.get_mut(stream).expect("it is due");
        let mut events = reader.read_stream(stream, key.after, options.batch_max)?;
        // They may be of newer code, which only the newer code of this subscription may meet.
        if handler.is_outdated() {
            return Ok(None);
        }
        events.retain(|event| event.position <= left);
        let Some((last, position)) = events.last().map(|event| (event.version, event.position)) else {
            return Ok(Some(events));
        };
        key.seen = position.max(key.seen);
        events.retain(|event| filter.matches(&event.stream.aggregate_type, &event.name));
        if events.is_empty() {
            key.after = last;
            return Ok(None);
        }
        Ok(Some(events))
    }

    /// Tells the subscription's thread that all that was left to this one is handled.
    fn handled(&mut self, stream: &StreamId) -> Result<(), Error> {
        let Self { keys, reader, .. } = self;
        let key = keys.get_mut(stream).expect("it is due");
        // Before a restart the worker may have handled events that are past the subscription's checkpoint.
        let last = reader.read_stream(stream, before(before(key.next)), 1)?;
        let handled = last.first().filter(|event| event.version < key.next).map(|event| event.position);
        key.seen = key.seen.max(handled.unwrap_or_default());
        key.wait = KeyWait::Handled;
        let (next, seen) = (key.next, key.seen);
        self.answer(KeyAnswer::Handled { stream: stream.clone(), next, seen });
        Ok(())
    }

    fn answer(&self, answer: KeyAnswer) {
        // An error means that the subscription's thread has ended, because the subscription stops.
        let _ = self.ends.answers.send(answer);
        self.links.wake();
    }

    /// Handles as many of these events as possible in one call. An event that failed before is handled alone.
    fn handle(&mut self, stream: &StreamId, events: &[RecordedEvent]) {
        let failed_before = matches!(self.keys[stream].wait, KeyWait::Retry { attempts: 1.., .. });
        let mut count = if failed_before { 1 } else { self.handler.list(events.len()) };
        loop {
            match self.handler.events(&events[..count]) {
                Ok(effects) => return self.keep(stream, &events[..count], effects),
                Err(Unhandled::Host(reason)) => return self.held_up(stream, &reason),
                Err(unhandled) if count == 1 => return self.failed(stream, &events[0], unhandled),
                Err(unhandled) => count = unhandled.fewer(count),
            }
        }
    }

    /// Makes the effects durable, together with the progress of the key.
    fn keep(&mut self, stream: &StreamId, events: &[RecordedEvent], effects: Effects) {
        let outgoing = outgoing(&self.plugin, effects, self.options.bounds, |index| &events[index]).logged(&self.name);
        let last = events[events.len() - 1].version;
        if self.step(stream, outgoing, KeyState::Retried(next(last)), None) {
            self.goes_on(stream, last);
        }
    }

    /// Notes that the events of a key up to a version are handled.
    fn goes_on(&mut self, stream: &StreamId, last: Version) {
        let key = self.keys.get_mut(stream).expect("it is due");
        (key.next, key.after, key.wait) = (next(last), last, KeyWait::now());
        self.links.view.change(stream, KeyView::Retried(None));
    }

    /// Schedules the next attempt at an event, or dead-letters it.
    fn failed(&mut self, stream: &StreamId, event: &RecordedEvent, unhandled: Unhandled) {
        let KeyWait::Retry { attempts, .. } = self.keys[stream].wait else { return };
        let attempts = attempts + 1;
        match unhandled.decision() {
            RetryDecision::DeadLetter(reason) => self.dead_letter(stream, event, reason),
            RetryDecision::Later(reason) => self.held_up(stream, &reason),
            RetryDecision::Again(reason, _) if attempts >= self.options.attempts_max => {
                self.dead_letter(stream, event, format!("{reason} (tried {attempts} times)"));
            }
            RetryDecision::Again(reason, wait) => {
                let pause = self.options.bounds.pause(self.options.backoff.pause(attempts), wait);
                tracing::warn!(
                    "subscription {}: event {} is tried again in {pause:?}: {reason}",
                    self.name,
                    event.position
                );
                self.retry(stream, KeyWait::Retry { attempts, held_up: 0, due: Instant::now() + pause }, reason);
            }
        }
    }

    fn retry(&mut self, stream: &StreamId, wait: KeyWait, reason: String) {
        self.keys.get_mut(stream).expect("it is due").wait = wait;
        self.links.view.change(stream, KeyView::Retried(Some(reason)));
    }

    /// Schedules the next attempt, because the host is to blame. This does not count as an attempt at the event.
    fn held_up(&mut self, stream: &StreamId, reason: &str) {
        let KeyWait::Retry { attempts, held_up, .. } = self.keys[stream].wait else { return };
        tracing::error!("subscription {}: key {stream} is held up: {reason}", self.name);
        let held_up = held_up + 1;
        let due = Instant::now() + self.options.backoff.pause(held_up);
        self.retry(stream, KeyWait::Retry { attempts, held_up, due }, reason.to_owned());
    }

    fn dead_letter(&mut self, stream: &StreamId, event: &RecordedEvent, reason: String) {
        let (outgoing, stop) = dead_lettered(&self.shared.pausing, self.options.on_failure, event, reason);
        let (passes, stops) = (self.options.on_failure == OnFailure::Pass, stop.is_some());
        let to =
            if passes { KeyState::Retried(next(event.version)) } else { KeyState::BehindDeadLetter(event.version) };
        if !self.step(stream, outgoing, to, stop) {
            return;
        }
        if stops {
            self.shared.pausing.has_stopped_behind(&event_place(event));
        }
        if passes {
            return self.goes_on(stream, event.version);
        }
        let key = self.keys.get_mut(stream).expect("it is due");
        (key.next, key.after, key.wait) = (event.version, before(event.version), KeyWait::DeadLetter);
        self.links.view.change(stream, KeyView::Waits);
    }

    /// Records a step of a key, and sends its commands once it is durable. Returns whether it was taken.
    fn step(&mut self, stream: &StreamId, outgoing: Outgoing, to: KeyState, fact: Option<(String, String)>) -> bool {
        let key = Some(KeyChange { stream: stream.clone(), from: Some(self.keys[stream].next), to });
        let step = Step { key, fact, ..outgoing.step(&self.name, Reached::Key) };
        match ack::wait(|ack| self.shared.store.advance(step, ack)) {
            Ok(advanced) => {
                self.shared.outbox.send(advanced.commands);
                return true;
            }
            Err(Error::Closed) => self.stopping = true,
            Err(error @ Error::KeyMoved { .. }) => {
                self.keys.remove(stream);
                self.answer(KeyAnswer::Moved { stream: stream.clone(), reason: error.to_string() });
            }
            Err(error) => self.held_up(stream, &error.to_string()),
        }
        false
    }
}

fn next(version: Version) -> Version {
    Version(version.0 + 1)
}
