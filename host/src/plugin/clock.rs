//! The time limits of guests. A clock ends calls that run too long, and calls that still run when the host stops.
//!
//! A thread counts ticks and raises the engine's epoch at each one. A running guest checks the epoch in each loop and
//! function, and at a new epoch [`Time::allows`] decides whether the call may go on.

use crate::supervise;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use wasmtime::Engine;

/// The interval of the engine's clock, which is also the precision of a time limit.
const TICK: Duration = Duration::from_millis(5);

/// How long calls may still take when the host stops.
const STOP_GRACE: Duration = Duration::from_millis(100);

/// Ticks that any call may take even after the grace period.
const QUICK_TICKS: u64 = 2;

/// The tick count of an engine, and when its host stops.
pub(super) struct Time {
    ticks: AtomicU64,
    /// The tick from which on long calls are interrupted.
    stop_at: AtomicU64,
}

/// Why a call is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Interrupted {
    #[error("it took too long")]
    Overrun,
    #[error("the host is stopping")]
    Stopping,
}

/// The deadline of one call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadline {
    began: u64,
    over: u64,
}

impl Default for Time {
    fn default() -> Self {
        Self { ticks: AtomicU64::new(0), stop_at: AtomicU64::new(u64::MAX) }
    }
}

impl Time {
    /// Interrupts long calls from now on, after the grace period.
    pub(super) fn stop(&self) {
        let at = self.now().saturating_add(ticks(STOP_GRACE));
        self.stop_at.fetch_min(at, Ordering::Relaxed);
    }

    /// Returns the deadline of a call that begins now and may take `ticks`.
    #[inline]
    pub(super) fn deadline(&self, ticks: u64) -> Deadline {
        let began = self.now();
        Deadline { began, over: began.saturating_add(ticks) }
    }

    /// Checks whether a call may go on.
    pub(super) fn allows(&self, call: Deadline) -> Result<(), Interrupted> {
        let now = self.now();
        if now >= call.over {
            return Err(Interrupted::Overrun);
        }
        if now >= self.stop_at.load(Ordering::Relaxed) && now >= call.began.saturating_add(QUICK_TICKS) {
            return Err(Interrupted::Stopping);
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Converts a time limit to ticks, rounded up.
pub(super) fn ticks(limit: Duration) -> u64 {
    (limit.as_nanos().div_ceil(TICK.as_nanos()) as u64).saturating_add(1)
}

/// The thread that ticks. Dropping it ends the thread.
pub(super) struct Clock {
    stop: Option<SyncSender<()>>,
    thread: supervise::Thread,
}

impl Clock {
    pub(super) fn start(
        engine: &Engine,
        time: Arc<Time>,
    ) -> Result<Self, supervise::Unstarted<std::convert::Infallible>> {
        let engine = engine.weak();
        let (stop, stopped) = sync_channel::<()>(0);
        let tick = move |_: &mut ()| {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                supervise::round();
                time.tick();
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        };
        let thread = supervise::restarting("epoch-clock", || Ok(()), |()| Ok(()), tick)?;
        Ok(Self { stop: Some(stop), thread })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_its_time_and_a_stop_shortens_it() {
        let time = Time::default();
        let pass = |ticks: u64| (0..ticks).for_each(|_| time.tick());
        let call = time.deadline(ticks(Duration::from_millis(100)));
        pass(20);
        assert_eq!(time.allows(call), Ok(()));
        pass(1);
        assert_eq!(time.allows(call), Err(Interrupted::Overrun));

        let long = time.deadline(ticks(Duration::from_secs(3_600)));
        time.stop();
        pass(20);
        assert_eq!(time.allows(long), Ok(()), "within the grace");
        pass(1);
        assert_eq!(time.allows(long), Err(Interrupted::Stopping));
        let late = time.deadline(ticks(Duration::from_secs(3_600)));
        pass(1);
        assert_eq!(time.allows(late), Ok(()), "what is quick is finished also then");
        pass(1);
        assert_eq!(time.allows(late), Err(Interrupted::Stopping));
    }
}
