//! Reading the store as it grows: what subscriptions and projections have in common.

use crate::filter::Filter;
use crate::model::Position;
use crate::status::State;
use crate::store::{Error, EventStore, Page, Reader};
use crate::supervise::{self, Held as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Where nothing was wanted, a checkpoint is written only once in so many positions: scanning again is harmless.
pub const IDLE_STRIDE: u64 = 10_000;

/// How often a thread that waits looks whether what it waits for has another end, such as new code.
const LOOK: Duration = Duration::from_millis(100);

/// Asks threads to end.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// The asking side and the side to hand out. Dropping the asking side asks too.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (ask, asked) = watch::channel(false);
        (ask, Self(asked))
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Returns when it is asked for.
    pub async fn asked(&mut self) {
        // An error means that the asking side is gone.
        let _ = self.0.wait_for(|asked| *asked).await;
    }

    /// Waits for so long; true where it was asked for meanwhile. For threads outside the runtime.
    pub fn asked_within(&mut self, runtime: &Handle, time: Duration) -> bool {
        runtime.block_on(async {
            let _ = tokio::time::timeout(time, self.asked()).await;
        });
        self.is_asked()
    }
}

/// A thread's place in the store.
pub struct Follower {
    reader: Box<dyn Reader>,
    head: watch::Receiver<Position>,
    stop: Stop,
    runtime: Handle,
}

impl Follower {
    /// A follower of a store, until it is stopped.
    pub fn new(store: &dyn EventStore, stop: Stop, runtime: Handle) -> Result<Self, Error> {
        Ok(Self { reader: store.reader()?, head: store.head(), stop, runtime })
    }

    /// The store as this thread reads it.
    pub fn reader(&mut self) -> &mut dyn Reader {
        &mut *self.reader
    }

    /// The newest position.
    pub fn head(&self) -> Position {
        *self.head.borrow()
    }

    /// Events after a position, without waiting; the page is empty at the end of the store.
    pub fn page(&mut self, after: Position, filter: &Filter, limit: usize) -> Result<Page, Error> {
        self.reader.read_all(after, filter, limit)
    }

    /// Waits until there is something after a position. False where it is time to end, true also when `time` is up.
    pub fn wait(&mut self, after: Position, time: Duration) -> bool {
        self.wait_or(after, time, std::future::pending::<()>());
        !self.is_stopped()
    }

    /// Waits until there is something after a position, until it is time to end, or until `time` is up; or until
    /// `other` is ready, which is then the result.
    pub fn wait_or<T>(&mut self, after: Position, time: Duration, other: impl Future<Output = T>) -> Option<T> {
        let Self { head, stop, runtime, .. } = self;
        // Under load there is: then a timer would be made and thrown away for nothing.
        if stop.is_asked() || *head.borrow() > after {
            return None;
        }
        runtime.block_on(async {
            tokio::select! {
                // An error means that the store is closed: the next read tells.
                _ = head.wait_for(|head| *head > after) => None,
                () = stop.asked() => None,
                () = tokio::time::sleep(time) => None,
                other = other => Some(other),
            }
        })
    }

    /// Waits for so long; true where it is time to end.
    pub fn pause(&mut self, time: Duration) -> bool {
        self.stop.asked_within(&self.runtime, time)
    }

    /// Waits for so long, or until `is_over`, which is asked now and then. True if it is time to end.
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

    /// Whether it is time to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_asked()
    }
}

/// How far a follower is, for those who watch it.
pub struct Progress {
    reached: watch::Sender<Position>,
    condition: Mutex<(State, Option<String>)>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { reached: watch::Sender::new(Position(0)), condition: Mutex::new((State::Starting, None)) }
    }
}

impl Progress {
    /// Everything up to a position is done, durably.
    pub fn reach(&self, position: Position) {
        self.reached.send_if_modified(|reached| std::mem::replace(reached, position) != position);
    }

    /// How far it is.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.reached.subscribe()
    }

    /// What it is doing.
    pub fn is(&self, state: State) {
        *self.condition.held() = (state, None);
    }

    /// What it is doing, and why that is not well.
    pub fn is_because(&self, state: State, reason: String) {
        *self.condition.held() = (state, Some(reason));
    }

    /// What it is doing, and what is in the way.
    pub fn condition(&self) -> (State, Option<String>) {
        self.condition.held().clone()
    }
}

/// A thread that follows the store, for those who watch it and end it.
pub struct Running {
    name: Arc<str>,
    progress: Arc<Progress>,
    head: watch::Receiver<Position>,
    stop: watch::Sender<bool>,
    thread: supervise::Thread,
}

impl Running {
    /// Starts the thread. `stop` asks it to end. After a panic `again` prepares the worker to work again from what is
    /// durable.
    pub fn start<W: Send + 'static>(
        name: Arc<str>,
        store: &dyn EventStore,
        progress: Arc<Progress>,
        stop: watch::Sender<bool>,
        worker: W,
        again: impl Fn(&mut W) -> Result<(), Error> + Send + 'static,
        work: impl FnMut(&mut W) + Send + 'static,
    ) -> Result<Self, Error> {
        let thread = supervise::restarting(name.clone(), || Ok(worker), again, work)
            .map_err(|error| Error::Failed(format!("can't start the thread of {name}: {error}")))?;
        Ok(Self { name, progress, head: store.head(), stop, thread })
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How far it is.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.progress.reached()
    }

    /// What it is doing, and what is in the way.
    pub fn condition(&self) -> (State, Option<String>) {
        self.thread.monitor().state(self.progress.condition())
    }

    /// How far it is, and how far behind the store.
    pub fn place(&self) -> (u64, u64) {
        let reached = self.reached().borrow().0;
        (reached, self.head.borrow().0.saturating_sub(reached))
    }

    /// Asks it to end and waits for it.
    pub fn stop(&self) {
        // Nobody left to tell is as good.
        let _ = self.stop.send(true);
        self.thread.join();
    }
}

/// The pause before a try: doubling, at most 30 seconds, with up to a quarter of jitter so that many do not come at once.
pub fn backoff(first: Duration, attempt: u32) -> Duration {
    let pause = first.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(Duration::from_secs(30));
    let jitter = fastrand::u32(..256);
    pause + pause * jitter / 1024
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
            hops: 0,
            expected: None,
        };
        let event = crate::model::NewEvent { name: "Done".into(), payload: b"null".to_vec() };
        let expected = crate::model::ExpectedVersion::Any;
        Append { command: command.into(), expected, decision: Decision::Events(vec![event]) }
    }

    /// The store is the only truth: the bus may lose a wake-up and nothing is lost.
    #[test]
    fn an_event_whose_wake_up_was_lost_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join(FILE_NAME), Options::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let (_ask, stop) = Stop::new();
        let mut follower = Follower::new(&store, stop, runtime.handle().clone()).unwrap();
        // It hears of nothing, and is not told that nobody will tell it.
        let (_silent, head) = watch::channel(Position(0));
        follower.head = head;
        ack::wait(|ack| store.append(happened(), ack)).unwrap();
        assert!(follower.wait(Position(0), Duration::from_millis(1)), "it looks by itself");
        assert_eq!(follower.page(Position(0), &Filter::all(), 10).unwrap().events.len(), 1);
    }
}
