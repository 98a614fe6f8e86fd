//! The reading of the store as it grows, which subscriptions and projections share.

use crate::filter::Filter;
use crate::model::Position;
use crate::status::State;
use crate::store::{Error, EventStore, Page, Reader};
use crate::supervise::{self, Held as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The positions between two checkpoint writes while no event matches the filter. Scanning these again is harmless.
pub const IDLE_STRIDE: u64 = 10_000;

/// How often a waiting thread checks whether something else ends its wait, such as new code.
const LOOK: Duration = Duration::from_millis(100);

/// The signal that asks threads to end.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Creates the sender of the signal and the receiving side, which can be cloned. Dropping the sender also gives the
    /// signal.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (ask, asked) = watch::channel(false);
        (ask, Self(asked))
    }

    /// Whether the signal was given.
    pub fn is_asked(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Returns once the signal is given.
    pub async fn asked(&mut self) {
        // An error means that the sender is gone.
        let _ = self.0.wait_for(|asked| *asked).await;
    }

    /// Waits for at most `time` and returns whether the signal was given. This is for threads outside the runtime.
    pub fn asked_within(&mut self, runtime: &Handle, time: Duration) -> bool {
        runtime.block_on(async {
            let _ = tokio::time::timeout(time, self.asked()).await;
        });
        self.is_asked()
    }
}

/// A thread's reader of the store, with the means to wait for new events.
pub struct Follower {
    reader: Box<dyn Reader>,
    head: watch::Receiver<Position>,
    stop: Stop,
    runtime: Handle,
}

impl Follower {
    /// Creates a follower that reads the store until `stop` is given.
    pub fn new(store: &dyn EventStore, stop: Stop, runtime: Handle) -> Result<Self, Error> {
        Ok(Self { reader: store.reader()?, head: store.head(), stop, runtime })
    }

    /// Returns this thread's reader of the store.
    pub fn reader(&mut self) -> &mut dyn Reader {
        &mut *self.reader
    }

    /// Returns the newest position.
    pub fn head(&self) -> Position {
        *self.head.borrow()
    }

    /// Reads events after a position without waiting. The page is empty at the end of the store.
    pub fn page(&mut self, after: Position, filter: &Filter, limit: usize) -> Result<Page, Error> {
        self.reader.read_all(after, filter, limit)
    }

    /// Waits until there is an event after a position or `time` is up. Returns false if the thread must end.
    pub fn wait(&mut self, after: Position, time: Duration) -> bool {
        self.wait_or(after, time, std::future::pending::<()>());
        !self.is_stopped()
    }

    /// Waits until there is an event after a position, the thread must end, `time` is up, or `other` is ready. Only the
    /// result of `other` is returned.
    pub fn wait_or<T>(&mut self, after: Position, time: Duration, other: impl Future<Output = T>) -> Option<T> {
        let Self { head, stop, runtime, .. } = self;
        // Under load there usually is a newer event: this avoids creating a timer for nothing.
        if stop.is_asked() || *head.borrow() > after {
            return None;
        }
        runtime.block_on(async {
            tokio::select! {
                // An error means that the store is closed: the next read reports it.
                _ = head.wait_for(|head| *head > after) => None,
                () = stop.asked() => None,
                () = tokio::time::sleep(time) => None,
                other = other => Some(other),
            }
        })
    }

    /// Waits for at most `time`. Returns true if the thread must end.
    pub fn pause(&mut self, time: Duration) -> bool {
        self.stop.asked_within(&self.runtime, time)
    }

    /// Waits for at most `time`, or until `is_over`, which is polled. Returns true if the thread must end.
    pub fn pause_unless(&mut self, time: Duration, mut is_over: impl FnMut() -> bool) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.pause(left.min(LOOK)) {
                return true;
            }
            if is_over() || left <= LOOK {
                return false;
            }
        }
    }

    /// Whether the thread must end.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_asked()
    }
}

/// The position and state of a follower, as others may see them.
pub struct FollowerProgress {
    reached: watch::Sender<Position>,
    condition: Mutex<(State, Option<String>)>,
}

impl Default for FollowerProgress {
    fn default() -> Self {
        Self { reached: watch::Sender::new(Position(0)), condition: Mutex::new((State::Starting, None)) }
    }
}

impl FollowerProgress {
    /// Records that everything up to a position is durably processed.
    pub fn reach(&self, position: Position) {
        self.reached.send_if_modified(|reached| std::mem::replace(reached, position) != position);
    }

    /// Subscribes to the position that was reached.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.reached.subscribe()
    }

    /// Sets the state, without an error. A part that is `Following` and lags behind the store shows as `CatchingUp`.
    pub fn is(&self, state: State) {
        *self.condition.held() = (state, None);
    }

    /// Sets the state and the reason why it is not a healthy one.
    pub fn is_because(&self, state: State, reason: String) {
        *self.condition.held() = (state, Some(reason));
    }

    /// Returns the state, and what is in the way.
    pub fn condition(&self) -> (State, Option<String>) {
        self.condition.held().clone()
    }
}

/// The handle of a thread that follows the store: to observe it and to stop it.
pub struct Running {
    name: Arc<str>,
    progress: Arc<FollowerProgress>,
    head: watch::Receiver<Position>,
    stop: watch::Sender<bool>,
    thread: supervise::Thread,
}

impl Running {
    /// Starts the thread. `stop` asks it to end. After a panic, `again` prepares the worker to resume from durable
    /// state.
    pub fn start<W: Send + 'static>(
        name: Arc<str>,
        store: &dyn EventStore,
        progress: Arc<FollowerProgress>,
        stop: watch::Sender<bool>,
        worker: W,
        again: impl Fn(&mut W) -> Result<(), Error> + Send + 'static,
        work: impl FnMut(&mut W) + Send + 'static,
    ) -> Result<Self, Error> {
        let thread = supervise::restarting(name.clone(), || Ok(worker), again, work)
            .map_err(|error| Error::Failed(format!("can't start the thread of {name}: {error}")))?;
        Ok(Self { name, progress, head: store.head(), stop, thread })
    }

    /// Returns the name of the part.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Subscribes to the position that was reached.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.progress.reached()
    }

    /// Returns the state, and what is in the way.
    pub fn condition(&self) -> (State, Option<String>) {
        let (state, reason) = self.thread.monitor().state(self.progress.condition());
        // Its lag is told beside its state, so the one can't contradict the other.
        let lags = state == State::Following && self.place().1 > 0;
        (if lags { State::CatchingUp } else { state }, reason)
    }

    /// Returns the position that was reached, and by how many positions it lags behind the store.
    pub fn place(&self) -> (u64, u64) {
        let reached = self.reached().borrow().0;
        (reached, self.head.borrow().0.saturating_sub(reached))
    }

    /// Asks the thread to end and waits for it.
    pub fn stop(&self) {
        // An error means that the thread has already dropped its side.
        let _ = self.stop.send(true);
        self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ack;
    use crate::store::sqlite::{FILE_NAME, Options, SqliteStore};
    use crate::store::{Append, Decision, Events as _};

    fn happened() -> Append {
        let command = crate::model::Command {
            stream: crate::model::StreamId::new("order", "1"),
            name: "Do".into(),
            payload: Vec::new(),
            id: "1".into(),
            time_ms: 0,
            correlation_id: "1".into(),
            causation_id: "1".into(),
            headers: Vec::new(),
            origin: None,
            durable_id: false,
            outcome_use: Default::default(),
            first_ms: None,
            hops: 0,
            expected: None,
        };
        let event = crate::model::NewEvent { name: "Done".into(), payload: b"null".to_vec() };
        let expected = crate::model::ExpectedVersion::Any;
        Append { command: command.into(), expected, decision: Decision::Events(vec![event]), chain: None }
    }

    /// The store is the only truth: if the bus loses a wake-up, no event is lost.
    #[test]
    fn an_event_whose_wake_up_was_lost_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join(FILE_NAME), Options::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let (_ask, stop) = Stop::new();
        let mut follower = Follower::new(&store, stop, runtime.handle().clone()).unwrap();
        // This watch never changes, and its sender lives on, so the follower gets no wake-up and no error.
        let (_silent, head) = watch::channel(Position(0));
        follower.head = head;
        ack::wait(|ack| store.append(happened(), ack)).unwrap();
        assert!(follower.wait(Position(0), Duration::from_millis(1)), "it looks by itself");
        assert_eq!(follower.page(Position(0), &Filter::all(), 10).unwrap().events.len(), 1);
    }
}
