//! The manual clock: a wall clock that stands still until a person or a test moves it. The store keeps its time over a
//! restart.

use super::Host;
use crate::ack;
use crate::clock::{self, Clock, LAST_MS};
use crate::manifest::{ClockKind, Manifest};
use crate::model::FactName;
use crate::status::ClockStatus;
use crate::store::{Error, EventStore};

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

/// Stops the clock at the machine's time, if the manifest says so, before anything reads it.
pub(super) fn stop(manifest: &Manifest) {
    if manifest.clock == ClockKind::Manual {
        tracing::warn!("the clock is manual: it stands still until `wasmill clock` moves it; this is for tests only");
        clock::hold_at(Clock::system().now_ms());
    }
}

/// Sets the clock to the time that the store has kept, if it is manual.
pub(super) fn resume(manifest: &Manifest, store: &dyn EventStore) -> Result<(), Error> {
    if manifest.clock == ClockKind::Manual
        && let Some(kept) = store.reader()?.fact(&FactName::Clock.to_string())?
        && let Ok(ms) = kept.parse()
    {
        clock::hold_at(ms);
    }
    Ok(())
}

impl Host {
    /// Returns what the clock shows.
    pub fn clock_status(&self) -> ClockStatus {
        ClockStatus { now_ms: self.clock.now_ms(), manual: self.manifest.clock == ClockKind::Manual }
    }

    /// Moves a manual clock from the time that it shows to another, also back. The store keeps the time first.
    pub async fn move_clock(&self, to: impl FnOnce(u64) -> u64) -> Result<ClockStatus, Unmoved> {
        if self.manifest.clock != ClockKind::Manual {
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
        tracing::info!("the clock is moved to {to_ms} ms since 1970");
        Ok(self.clock_status())
    }
}
