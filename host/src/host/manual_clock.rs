//! The manual clock: a wall clock that stands still until a person or a test moves it. The store keeps its time over a
//! restart.

use super::{Host, store_location};
use crate::ack;
use crate::clock::{self, Clock, LAST_MS};
use crate::manifest::{ClockKind, Manifest};
use crate::model::FactName;
use crate::status::ClockStatus;
use crate::store::{self, Error};

/// Reason for which the clock was not moved.
#[derive(Debug, thiserror::Error)]
pub enum Unmoved {
    /// The clock shows the machine's time.
    #[error(
        "the clock of this host shows the machine's time: only `clock = \"manual\"` in the manifest lets it be moved"
    )]
    NotManual,
    /// The time is after the year 9999.
    #[error("the clock can't be moved past the year 9999, which ends {LAST_MS} ms after 1970")]
    TooLate,
    /// The store could not keep the time.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Stops the clock, if the manifest says so, before anything reads it: at the time that the store has kept, or at the
/// machine's time.
pub(super) fn stop(manifest: &Manifest) {
    if manifest.clock == ClockKind::Manual {
        tracing::warn!("the clock is manual: it stands still until `wasmill clock` moves it; this is for tests only");
        // If the store can't be found or read, opening it says why.
        let location = store_location(manifest).ok();
        let kept = location.and_then(|location| store::fact(&location, &FactName::Clock.to_string()).ok().flatten());
        clock::hold_at(kept.and_then(|ms| ms.parse().ok()).unwrap_or_else(|| Clock::system().now_ms()));
    }
}

impl Host {
    /// Returns what the clock shows.
    pub fn clock_status(&self) -> ClockStatus {
        ClockStatus { now_ms: self.clock.now_ms(), manual: self.parts().manifest.clock == ClockKind::Manual }
    }

    /// Moves a manual clock from the time that it shows to another, also back. The store keeps the time first.
    pub async fn move_clock(&self, to: impl FnOnce(u64) -> u64) -> Result<ClockStatus, Unmoved> {
        if self.parts().manifest.clock != ClockKind::Manual {
            return Err(Unmoved::NotManual);
        }
        // Two moves at the same time would lose one.
        let _turn = self.clock_moves.lock().await;
        let to_ms = to(self.clock.now_ms());
        if to_ms > LAST_MS {
            return Err(Unmoved::TooLate);
        }
        let kept = Some(to_ms.to_string());
        self.change(move |store, ack: ack::Ack<Result<(), Error>>| {
            store.set_fact(&FactName::Clock.to_string(), kept, ack)
        })
        .await?;
        clock::hold_at(to_ms);
        tracing::info!("the clock is moved to {}", humantime::format_rfc3339_millis(clock::writable(to_ms)));
        Ok(self.clock_status())
    }
}
