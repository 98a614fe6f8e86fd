//! Supervision: the one place that starts threads, and that decides what a panic in one of them means.
//!
//! Every thread has a name, and this module catches its panic. What happens next depends on the kind of the thread:
//!
//! - [`restarting`]: the part restarts from durable state, after a pause that doubles. Meanwhile its state is
//!   *restarting*, with the panic's text. Nearly all parts are of this kind.
//! - [`once`]: the part has stopped, and its state says so. This is for threads that serve one call.
//! - [`vital`]: the process ends. This is for the store's writer, which nothing can replace.
//!
//! This module does not know what a part does. If a part panics, those who wait for its answers are told when what it
//! had taken over is dropped, never by this module.

use crate::status::State;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::convert::Infallible;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
};
use std::time::{Duration, Instant};

/// The environment variable that makes threads panic once each, for tests: `THREAD:N,…`, in the N-th round of the loop.
pub const PANIC_AT: &str = "WASMILL_PANIC_AT";

/// The pause before the first restart. It doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// How long a part must work after a restart before its panic no longer counts.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);

/// A supervised thread. Dropping the handle leaves the thread running; a part ends its thread with [`Thread::join`].
pub struct Thread {
    name: Arc<str>,
    thread: std::thread::Thread,
    monitor: Monitor,
    /// Disconnected once everything that the thread held is dropped.
    ended: Receiver<Infallible>,
}

/// The panics of a thread, for those who report its state. It is cheap to clone.
#[derive(Clone, Default)]
pub struct Monitor(Arc<Watched>);

#[derive(Default)]
struct Watched {
    /// Whether the part is to end: it is then not restarted any more.
    ending: AtomicBool,
    panicked: Mutex<Option<Panicked>>,
}

struct Panicked {
    text: String,
    /// How often the thread has panicked in a row.
    times: u32,
    /// When the part was restarted; `None` until it is.
    restarted: Option<Instant>,
    restarts: bool,
}

/// Why a thread did not start.
#[derive(Debug)]
pub enum Unstarted<E> {
    /// The operating system gave no thread, or the thread panicked during its set-up.
    Thread(String),
    /// The worker could not be created.
    Needs(E),
}

/// Starts a thread that runs once. After a panic its part counts as stopped.
pub fn once(name: impl Into<Arc<str>>, run: impl FnOnce() + Send + 'static) -> std::io::Result<Thread> {
    spawn(name.into(), move |name, monitor| {
        if let Err(text) = caught(run) {
            tracing::error!(thread = name, "has stopped: its thread panicked: {text}");
            monitor.panicked(text, false);
        }
    })
}

/// Starts a thread that the process can't do without: if it panics, the process ends.
pub fn vital(name: impl Into<Arc<str>>, run: impl FnOnce() + Send + 'static) -> std::io::Result<Thread> {
    spawn(name.into(), move |name, _| {
        if let Err(text) = caught(run) {
            tracing::error!(thread = name, "panicked, and nothing can replace it: the process ends: {text}");
            end_at_once();
        }
    })
}

#[expect(clippy::disallowed_methods, reason = "the store's writer is gone, and whoever waits for it can't be answered")]
fn end_at_once() -> ! {
    std::process::abort()
}

/// Starts a thread that creates its worker with `first`, on that thread, and then runs `work` until it returns.
///
/// When `work` panics, the thread pauses, has `again` reset the worker to durable state, and runs `work` again, as
/// often as needed. If `first` fails, the thread does not start.
pub fn restarting<W: 'static, E: Display + Send + 'static>(
    name: impl Into<Arc<str>>,
    first: impl FnOnce() -> Result<W, E> + Send + 'static,
    mut again: impl FnMut(&mut W) -> Result<(), E> + Send + 'static,
    mut work: impl FnMut(&mut W) + Send + 'static,
) -> Result<Thread, Unstarted<E>> {
    let (begun, beginning) = crossbeam_channel::bounded(1);
    let thread = spawn(name.into(), move |name, monitor| {
        let mut worker = match caught(first) {
            Ok(Ok(worker)) => worker,
            Ok(Err(error)) => return drop(begun.send(Err(Unstarted::Needs(error)))),
            Err(text) => return drop(begun.send(Err(Unstarted::Thread(format!("it panicked: {text}"))))),
        };
        let _ = begun.send(Ok(()));
        while let Err(text) = caught(|| work(&mut worker)) {
            if !begin_again(name, monitor, text, || again(&mut worker)) {
                break;
            }
        }
        if let Err(text) = caught(|| drop(worker)) {
            tracing::error!(thread = name, "panicked at its end: {text}");
        }
    });
    let thread = thread.map_err(|error| Unstarted::Thread(error.to_string()))?;
    let gone = || Err(Unstarted::Thread("it ended at once".to_owned()));
    beginning.recv().unwrap_or_else(|_| gone()).map(|()| thread)
}

/// Resets a worker that panicked, after a pause. Returns false if its part is to end instead.
fn begin_again<E: Display>(
    name: &str,
    monitor: &Monitor,
    mut text: String,
    mut again: impl FnMut() -> Result<(), E>,
) -> bool {
    loop {
        let pause = monitor.panicked(text, true);
        if monitor.is_ending() {
            return false;
        }
        tracing::error!(thread = name, "restarts in {pause:?}: {}", monitor.text());
        if monitor.pause(pause) {
            return false;
        }
        match caught(&mut again) {
            Ok(Ok(())) => {
                monitor.restarted();
                return true;
            }
            Ok(Err(error)) => text = format!("it could not restart: {error}"),
            Err(panic) => text = panic,
        }
    }
}

/// Runs jobs as [`side_by_side`] does, after what the host serves: where there are too few cores for all threads, these get little.
pub fn behind_others<'job>(name: &str, jobs: impl IntoIterator<Item = Box<dyn FnOnce() + Send + 'job>>) {
    /// The niceness of the threads, of which 19 is the highest.
    const NICENESS: i32 = 15;
    let jobs = jobs.into_iter().map(|job| -> Box<dyn FnOnce() + Send + 'job> {
        Box::new(move || {
            // On Linux this is the priority of the calling thread, which ends after the job. An error would mean that it has the
            // usual one.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            job();
        })
    });
    side_by_side(name, jobs);
}

/// Runs jobs concurrently, and returns when all have ended. If a job panics, that is logged.
#[expect(clippy::disallowed_methods, reason = "this is where threads are started")]
pub fn side_by_side<'job>(name: &str, jobs: impl IntoIterator<Item = Box<dyn FnOnce() + Send + 'job>>) {
    std::thread::scope(|scope| {
        for (number, job) in jobs.into_iter().enumerate() {
            let job = move || {
                if let Err(text) = caught(job) {
                    tracing::error!("{name} panicked: {text}");
                }
            };
            let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
            if let Err(error) = thread.spawn_scoped(scope, job) {
                tracing::error!("{name} is skipped because the system gives no thread: {error}");
            }
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "this is where threads are started")]
fn spawn(name: Arc<str>, body: impl FnOnce(&str, &Monitor) + Send + 'static) -> std::io::Result<Thread> {
    let (end, ended) = crossbeam_channel::bounded::<Infallible>(0);
    let monitor = Monitor::default();
    let (thread_name, watched) = (name.clone(), monitor.clone());
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(move || {
        // Dropped last: after everything that the thread holds.
        let _end: Sender<Infallible> = end;
        body(&thread_name, &watched);
    })?;
    Ok(Thread { name, thread: thread.thread().clone(), monitor, ended })
}

fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    // What is used after a panic is either recreated from durable state, or guarded by a lock whose poison can be
    // ignored, because every change under the lock is complete.
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| text_of(&*payload))
}

fn text_of(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it gave no text".to_owned())
}

impl Thread {
    /// Returns the name of the thread.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends the thread's park, or makes its next one return at once.
    pub fn unpark(&self) {
        self.thread.unpark();
    }

    /// Returns the thread, for those who unpark it.
    pub fn thread(&self) -> &std::thread::Thread {
        &self.thread
    }

    /// Returns the monitor of the thread.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Waits until the thread has ended. Its part must have been asked to end before. After a panic it is not restarted
    /// any more.
    pub fn join(&self) {
        self.end();
        let _ = self.ended.recv();
    }

    /// Waits as [`Thread::join`] does, but at most for `max`, because dropping a client of librdkafka can block.
    /// Returns whether the thread has ended.
    pub fn join_within(&self, max: Duration) -> bool {
        self.end();
        let has_ended = self.ended.recv_timeout(max) == Err(RecvTimeoutError::Disconnected);
        if !has_ended {
            tracing::warn!(thread = &*self.name, "did not end within {max:?}; it is left behind");
        }
        has_ended
    }

    /// Prevents further restarts, and ends a pause before a restart. A thread that works is not affected.
    pub fn end(&self) {
        self.monitor.0.ending.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Monitor {
    /// Returns the state of a part: its own state, unless its thread has panicked.
    pub fn state(&self, own: (State, Option<String>)) -> (State, Option<String>) {
        self.trouble().map_or(own, |(state, reason)| (state, Some(reason)))
    }

    /// Returns the state that a panic puts the part into; `None` if there was no panic or the part has recovered.
    pub fn trouble(&self) -> Option<(State, String)> {
        let panicked = self.0.panicked.held();
        let panicked = panicked.as_ref().filter(|panicked| !panicked.is_over())?;
        let state = if panicked.restarts { State::Restarting } else { State::Stopped };
        Some((state, panicked.to_string()))
    }

    fn text(&self) -> String {
        self.0.panicked.held().as_ref().map_or_else(String::new, ToString::to_string)
    }

    /// Records a panic and returns the pause before the next restart.
    fn panicked(&self, text: String, restarts: bool) -> Duration {
        let mut panicked = self.0.panicked.held();
        let times = 1 + panicked.as_ref().filter(|before| !before.is_over()).map_or(0, |before| before.times);
        *panicked = Some(Panicked { text, times, restarted: None, restarts });
        crate::backoff::backoff(PAUSE_FIRST, times)
    }

    fn restarted(&self) {
        if let Some(panicked) = &mut *self.0.panicked.held() {
            panicked.restarted = Some(Instant::now());
        }
    }

    fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Acquire)
    }

    /// Waits on the part's own thread. Returns true if the part is to end.
    fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.is_ending() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::park_timeout(left);
        }
        true
    }
}

impl Panicked {
    fn is_over(&self) -> bool {
        self.restarted.is_some_and(|since| since.elapsed() >= RECOVERED_AFTER)
    }
}

impl Display for Panicked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { text, times, restarts, .. } = self;
        match (restarts, times) {
            (false, _) => write!(f, "its thread panicked: {text}; restart the host, and report this"),
            (true, 1) => write!(f, "its thread panicked and restarts: {text}"),
            (true, times) => write!(f, "its thread panicked {times} times in a row and restarts: {text}"),
        }
    }
}

impl<E: Display> Display for Unstarted<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Thread(cause) => write!(f, "its thread did not start: {cause}"),
            Self::Needs(error) => error.fmt(f),
        }
    }
}

/// Installs a hook that writes panics to the log, which programs read too, instead of to the standard error.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        let text = text_of(panic.payload());
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), place, "panicked: {text}{backtrace}");
    }));
}

/// Locking that ignores poison: guarded values change only in complete steps, and a part that panics must not take
/// others down with it.
pub trait Held<T> {
    /// Locks the value.
    fn held(&self) -> MutexGuard<'_, T>;
    /// Locks the value if nobody else has locked it.
    fn held_now(&self) -> Option<MutexGuard<'_, T>>;
}

impl<T> Held<T> for Mutex<T> {
    #[expect(clippy::disallowed_methods, reason = "this is the way to take a lock")]
    fn held(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_now(&self) -> Option<MutexGuard<'_, T>> {
        match self.try_lock() {
            Ok(held) => Some(held),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// The same as [`Held`], for reader-writer locks.
pub trait Shared<T> {
    /// Locks the value for reading, shared with other readers.
    fn held_shared(&self) -> RwLockReadGuard<'_, T>;
    /// Locks the value for writing, exclusively.
    fn held_alone(&self) -> RwLockWriteGuard<'_, T>;
}

#[expect(clippy::disallowed_methods, reason = "this is the way to take a lock")]
impl<T> Shared<T> for RwLock<T> {
    fn held_shared(&self) -> RwLockReadGuard<'_, T> {
        self.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_alone(&self) -> RwLockWriteGuard<'_, T> {
        self.write().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Armed {
    thread: String,
    rounds_left: AtomicU64,
}

static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();

/// Marks the beginning of a round of the calling thread's loop. Tests can make the thread panic here ([`PANIC_AT`]). If
/// none is armed, the call costs a load and a branch.
#[inline]
pub fn round() {
    let armed = ARMED.get_or_init(arm);
    if !armed.is_empty() {
        pass(armed);
    }
}

#[cold]
fn arm() -> Vec<Armed> {
    let text = std::env::var(PANIC_AT).unwrap_or_default();
    let armed = |part: &str| {
        let (thread, round) = part.rsplit_once(':')?;
        Some(Armed { thread: thread.to_owned(), rounds_left: AtomicU64::new(round.parse().ok()?) })
    };
    let armed: Vec<Armed> = text.split(',').filter_map(armed).collect();
    if !text.is_empty() {
        tracing::warn!("{PANIC_AT}: {} threads will panic", armed.len());
    }
    armed
}

#[cold]
fn pass(armed: &[Armed]) {
    let thread = std::thread::current();
    for armed in armed.iter().filter(|armed| thread.name() == Some(&*armed.thread)) {
        if armed.rounds_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            panic!("{PANIC_AT} asked for it");
        }
    }
}

#[cfg(test)]
mod tests;
