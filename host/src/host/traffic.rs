//! The counts of the API: outcomes of commands, connections, event streams, and requests that were turned away.

use crate::access::Condition;
use crate::model::Outcome;
use crate::status::ApiStatus;
use crate::supervise::Held as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The names of the outcomes, as in the API. The last one is for requests that never became a command.
const OUTCOMES: [&str; 9] =
    ["accepted", "rejected", "malformed", "conflict", "id_reused", "archived", "failed", "busy", "refused"];

/// The counts since the host started. The API updates them, and status and metrics show them.
#[derive(Default)]
pub struct Traffic {
    outcomes: [AtomicU64; OUTCOMES.len()],
    /// Open connections.
    pub connections: AtomicU64,
    /// Open event streams.
    pub streams: AtomicU64,
    /// Requests that found no room and were answered with 503.
    pub turned_away: AtomicU64,
    /// Connections that were closed because their client read nothing for too long.
    pub stalled: AtomicU64,
    /// Connections that were closed because no request, or no whole one, came in time.
    pub idle: AtomicU64,
    /// Requests whose sender was not recognised, or may not do what it asked for.
    pub unauthorized: AtomicU64,
    /// Connections that were closed because they could not be secured by TLS.
    pub handshakes_failed: AtomicU64,
    /// The condition of the tokens and certificates.
    pub access: Mutex<Condition>,
}

impl Traffic {
    /// Counts a command by its outcome.
    pub fn count(&self, outcome: &Outcome) {
        let index = match outcome.what() {
            Outcome::Accepted { .. } => 0,
            Outcome::Rejected { .. } => 1,
            Outcome::Malformed { .. } => 2,
            Outcome::Conflict { .. } => 3,
            Outcome::IdReused { .. } => 4,
            Outcome::Archived { .. } => 5,
            Outcome::Failed { .. } => 6,
            Outcome::Busy { .. } | Outcome::Remembered(_) => 7,
        };
        self.outcomes[index].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that did not become a command.
    pub fn count_refused(&self) {
        self.outcomes[OUTCOMES.len() - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counts for the status.
    pub fn status(&self) -> ApiStatus {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Condition { error, certificate_ends_ms } = self.access.held().clone();
        let counts = OUTCOMES.into_iter().map(str::to_owned).zip(self.outcomes.iter().map(read));
        ApiStatus {
            commands: counts.collect(),
            connections: read(&self.connections),
            streams: read(&self.streams),
            turned_away: read(&self.turned_away),
            stalled: read(&self.stalled),
            idle: read(&self.idle),
            unauthorized: read(&self.unauthorized),
            handshakes_failed: read(&self.handshakes_failed),
            error,
            certificate_ends_ms,
        }
    }
}

/// A guard that counts one in a gauge for as long as it lives.
pub struct Counted<'g>(&'g AtomicU64);

impl<'g> Counted<'g> {
    /// Increments a gauge until the guard is dropped.
    pub fn new(gauge: &'g AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
