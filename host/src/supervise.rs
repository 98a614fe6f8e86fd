//! Supervision: the one place that starts threads, and that decides what a panic in one of them means.
//!
//! A thread has a name, and its panic is caught here. What follows depends on what the thread does:
//!
//! - [`restarting`]: the part begins again from what is durable, after a pause that doubles. Meanwhile its state is
//!   *restarting*, with the panic's text. Nearly all parts are of this kind.
//! - [`once`]: the part has stopped, and its state says so. For threads that serve one call of somebody who waits.
//! - [`vital`]: the process ends. For the store's writer, which nothing can replace.
//!
//! Nothing here knows what a part does. Whoever waits for an answer of a part that panicked is told by a `Drop` of what
//! the part had taken over, never by this module.

use crate::status::State;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::convert::Infallible;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// The environment variable that has threads panic, each once: `THREAD:N,…`, in the N-th round of its loop.
pub const PANIC_AT: &str = "WASMILL_PANIC_AT";

/// The pause before the first restart; it doubles with each that follows.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// A part that has worked for so long after a restart has got over its panic.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);

/// A supervised thread. Dropping the handle leaves the thread running; a part ends its thread with [`Thread::join`].
pub struct Thread {
    name: Arc<str>,
    thread: std::thread::Thread,
    monitor: Monitor,
    /// Disconnected once everything that the thread held is dropped.
    ended: Receiver<Infallible>,
}

/// What is known of a thread, for those who show it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Monitor(Arc<Watched>);

#[derive(Default)]
struct Watched {
    /// The part is to end: it is not restarted any more.
    ending: AtomicBool,
    panicked: Mutex<Option<Panicked>>,
}

struct Panicked {
    text: String,
    /// How often in a row.
    times: u32,
    /// When the part began to work again; `None` while it does not.
    restarted: Option<Instant>,
    restarts: bool,
}

/// Why a thread did not start.
#[derive(Debug)]
pub enum Unstarted<E> {
    /// The system gave no thread, or what the thread began with panicked.
    Thread(String),
    /// What the thread needs could not be made.
    Needs(E),
}

/// Starts a thread that runs to its end. After a panic its part counts as stopped.
pub fn once(name: impl Into<Arc<str>>, run: impl FnOnce() + Send + 'static) -> std::io::Result<Thread> {
    spawn(name.into(), move |name, monitor| {
        if let Err(text) = caught(run) {
            tracing::error!(thread = name, "has stopped: its thread panicked: {text}");
            monitor.panicked(text, false);
        }
    })
}

/// Starts a thread without which the process can't go on: the process ends when it panics.
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

/// Starts a thread that makes its worker, on itself, and then works until it is asked to end.
///
/// When it panics, `again` has the worker begin again from what is durable, and it works again: after a pause, and as
/// often as it takes. `first` must succeed.
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

/// Has a worker begin again that panicked. False once it is to end.
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
        tracing::error!(thread = name, "begins again in {pause:?}: {}", monitor.text());
        if monitor.pause(pause) {
            return false;
        }
        match caught(&mut again) {
            Ok(Ok(())) => {
                monitor.restarted();
                return true;
            }
            Ok(Err(error)) => text = format!("it could not begin again: {error}"),
            Err(panic) => text = panic,
        }
    }
}

/// Runs jobs at the same time, and returns when all have ended. A job that panics is logged.
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
                tracing::error!("{name} is left out, the system gives no thread: {error}");
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
    // What is used again after a panic is made again from durable state, or is behind a lock whose poison is ignored
    // because every change below it is whole.
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| text_of(&*payload))
}

fn text_of(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it gave no text".to_owned())
}

impl Thread {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends its rest, or its next one.
    pub fn unpark(&self) {
        self.thread.unpark();
    }

    /// For those who wake it.
    pub fn thread(&self) -> &std::thread::Thread {
        &self.thread
    }

    /// What is known of it.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Waits until it has ended; the part has been asked to. One that panicked is not restarted any more.
    pub fn join(&self) {
        self.end();
        let _ = self.ended.recv();
    }

    /// As [`Thread::join`], but gives up after a while: dropping a client of librdkafka can block. Whether it has ended.
    pub fn join_within(&self, max: Duration) -> bool {
        self.end();
        let has_ended = self.ended.recv_timeout(max) == Err(RecvTimeoutError::Disconnected);
        if !has_ended {
            tracing::warn!(thread = &*self.name, "did not end within {max:?}; it is left behind");
        }
        has_ended
    }

    /// Has it not be restarted any more, and ends a pause before a restart. One that works is not touched.
    pub fn end(&self) {
        self.monitor.0.ending.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Monitor {
    /// The state of a part, which is its own unless its thread has panicked.
    pub fn state(&self, own: (State, Option<String>)) -> (State, Option<String>) {
        self.trouble().map_or(own, |(state, reason)| (state, Some(reason)))
    }

    /// What a panic means for the part; `None` where there was none or it is over.
    pub fn trouble(&self) -> Option<(State, String)> {
        let panicked = self.0.panicked.held();
        let panicked = panicked.as_ref().filter(|panicked| !panicked.is_over())?;
        let state = if panicked.restarts { State::Restarting } else { State::Stopped };
        Some((state, panicked.to_string()))
    }

    fn text(&self) -> String {
        self.0.panicked.held().as_ref().map_or_else(String::new, ToString::to_string)
    }

    /// Notes a panic. Returns the pause before the next restart.
    fn panicked(&self, text: String, restarts: bool) -> Duration {
        let mut panicked = self.0.panicked.held();
        let times = 1 + panicked.as_ref().filter(|before| !before.is_over()).map_or(0, |before| before.times);
        *panicked = Some(Panicked { text, times, restarted: None, restarts });
        crate::follow::backoff(PAUSE_FIRST, times)
    }

    fn restarted(&self) {
        if let Some(panicked) = &mut *self.0.panicked.held() {
            panicked.restarted = Some(Instant::now());
        }
    }

    fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Acquire)
    }

    /// Waits on the part's own thread. True where it is to end.
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
            (true, 1) => write!(f, "its thread panicked and begins again: {text}"),
            (true, times) => write!(f, "its thread panicked {times} times in a row and begins again: {text}"),
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

/// Has panics written to the log, where programs read them too, in place of the standard error.
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

/// Locks that hold on after a panic of a holder: what they guard is changed in whole steps, and a part that panics must
/// not take others with it.
pub trait Held<T> {
    /// The value, exclusively.
    fn held(&self) -> MutexGuard<'_, T>;
}

impl<T> Held<T> for Mutex<T> {
    #[expect(clippy::disallowed_methods, reason = "this is the way to take a lock")]
    fn held(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As [`Held`], for locks that many may read.
pub trait Shared<T> {
    /// The value, beside other readers.
    fn held_shared(&self) -> RwLockReadGuard<'_, T>;
    /// The value, exclusively.
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

/// The calling thread begins a round of its loop. Tests have it panic here ([`PANIC_AT`]); unarmed, it costs a load and
/// a branch.
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
