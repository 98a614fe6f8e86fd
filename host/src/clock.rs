//! Time: the wall clock, and the running time of the process.
//!
//! Everything in the host reads the time from a [`Clock`], so that a test can set it. The wall clock may jump in both
//! directions, and the running time only ever grows. Nothing here knows what the time is used for.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The environment variable that names a file with the milliseconds by which the host's wall clock differs from the
/// machine's. A test uses it to move the clock of a running host. Without it the host has the machine's time.
pub const OFFSET_FILE: &str = "WASMILL_CLOCK_OFFSET_FILE";

/// The interval at which the file is read.
const OFFSET_LOOK: Duration = Duration::from_millis(50);

/// The longest wait for a time on a clock that is held.
const HELD_WAIT_MAX: Duration = Duration::from_millis(10);

/// The last value of the file.
static OFFSET_MS: AtomicI64 = AtomicI64::new(0);

/// The time at which the wall clock of this process is held; 0 if it goes.
static HELD_MS: AtomicU64 = AtomicU64::new(0);

/// Holds the wall clock of this process at a time, from now on. Every [`Clock`] of the machine shows it until it is held at
/// another time. This is the manual clock of a manifest, for tests.
pub fn hold_at(ms: u64) {
    HELD_MS.store(ms.max(1), Ordering::Relaxed);
}

/// The last millisecond of the year 9999, the last year that RFC 3339 can write.
pub const LAST_MS: u64 = 253_402_300_799_999;

/// Converts milliseconds since 1970 into a time that RFC 3339 can write. A later time becomes the last one.
pub fn writable(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS))
}

/// Writes milliseconds since 1970 as a time to the second, without colons: `2026-11-29T15-22-46Z`.
pub fn without_colons(ms: u64) -> String {
    humantime::format_rfc3339_seconds(writable(ms)).to_string().replace(':', "-")
}

/// Reads the machine's time, which tests do not move. Use it only to compare with the times of files, with the time that
/// the machine was awake, or with times that another system has given. Everything else reads a [`Clock`].
#[expect(clippy::disallowed_methods, reason = "this is where the time is read")]
pub fn machine_time() -> SystemTime {
    SystemTime::now()
}

/// Returns the machine's time in milliseconds since 1970-01-01T00:00:00Z. See [`machine_time`].
pub fn machine_ms() -> u64 {
    machine_time().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A source of time. Clones of a manual clock show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    System,
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    wall_ms: AtomicU64,
    running_ms: AtomicU64,
}

impl Clock {
    /// Returns the clock of the machine.
    pub const fn system() -> Self {
        Self(Kind::System)
    }

    /// Makes a clock that stays at a time until it is moved.
    pub fn manual(wall_ms: u64) -> Self {
        let (wall_ms, running_ms) = (AtomicU64::new(wall_ms), AtomicU64::new(0));
        Self(Kind::Manual(Arc::new(Manual { wall_ms, running_ms })))
    }

    /// Reads the wall clock: milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Kind::System => {
                let held_ms = HELD_MS.load(Ordering::Relaxed);
                if held_ms > 0 {
                    return held_ms;
                }
                machine_ms().saturating_add_signed(OFFSET_MS.load(Ordering::Relaxed))
            }
            Kind::Manual(manual) => manual.wall_ms.load(Ordering::Relaxed),
        }
    }

    /// Reads the running time, in milliseconds since some moment of this process. It never goes back, and a change of
    /// the wall clock does not affect it.
    pub fn running_ms(&self) -> u64 {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        match &self.0 {
            Kind::System => BEGIN.get_or_init(Instant::now).elapsed().as_millis() as u64,
            Kind::Manual(manual) => manual.running_ms.load(Ordering::Relaxed),
        }
    }

    /// Returns how long to wait before the clock is read again, which is at most `time`. A clock that is held may be moved at
    /// any moment.
    pub fn wait_max(&self, time: Duration) -> Duration {
        let is_held = matches!(self.0, Kind::System) && HELD_MS.load(Ordering::Relaxed) > 0;
        if is_held { time.min(HELD_WAIT_MAX) } else { time }
    }

    /// Lets time pass on a manual clock. Does nothing to the clock of the machine.
    pub fn advance_ms(&self, ms: u64) {
        if let Kind::Manual(manual) = &self.0 {
            manual.wall_ms.fetch_add(ms, Ordering::Relaxed);
            manual.running_ms.fetch_add(ms, Ordering::Relaxed);
        }
    }

    /// Sets the wall time of a manual clock without letting time pass. Does nothing to the clock of the machine.
    pub fn jump_to_ms(&self, wall_ms: u64) {
        if let Kind::Manual(manual) = &self.0 {
            manual.wall_ms.store(wall_ms, Ordering::Relaxed);
        }
    }
}

/// From now on moves this process's view of the machine's clock by the value in the file of [`OFFSET_FILE`], if the
/// variable is set. A file that is missing or has no number changes nothing. Call this in a runtime, before anything
/// reads the time.
pub fn follow_offset_file() {
    let Some(file) = std::env::var_os(OFFSET_FILE).map(PathBuf::from) else { return };
    tracing::warn!("the wall clock is moved by {OFFSET_FILE}, {}: for tests only", file.display());
    let read = move || {
        let offset = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        offset.into_iter().for_each(|ms| OFFSET_MS.store(ms, Ordering::Relaxed));
    };
    read();
    tokio::spawn(async move {
        let mut look = tokio::time::interval(OFFSET_LOOK);
        loop {
            look.tick().await;
            read();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_jump_of_the_wall_is_no_running_time() {
        let clock = Clock::manual(1_000);
        let same = clock.clone();
        same.advance_ms(5);
        assert_eq!((clock.now_ms(), clock.running_ms()), (1_005, 5));
        same.jump_to_ms(90_000);
        assert_eq!((clock.now_ms(), clock.running_ms()), (90_000, 5));
    }

    #[test]
    fn the_clock_of_the_machine_goes_forward() {
        let clock = Clock::system();
        let (wall, running) = (clock.now_ms(), clock.running_ms());
        assert!(wall > 1_700_000_000_000 && clock.running_ms() >= running);
        clock.jump_to_ms(0);
        assert!(clock.now_ms() >= wall, "nothing moves it");
    }
}
