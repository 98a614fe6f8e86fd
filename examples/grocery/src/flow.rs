//! Waiting until all work is done, with a check that it makes progress.

use crate::api::{Api, Status};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// The time without any progress after which the work counts as stalled.
const STALL_MAX: Duration = Duration::from_secs(60);
/// The longest time of one request to the host, after which a stall is noticed.
const LOOK: Duration = Duration::from_secs(2);

/// A check that a measure of progress keeps changing.
pub(crate) struct Stall {
    seen: u64,
    since: Instant,
}

impl Stall {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        Self { seen: 0, since: Instant::now() }
    }

    /// Fails if `measure` has not changed for too long. The error has the problems that the host reports.
    pub(crate) fn check(&mut self, measure: u64, api: &Api<'_>, waiting_for: impl FnOnce() -> String) -> Result<()> {
        if self.seen != measure {
            *self = Self { seen: measure, since: Instant::now() };
        }
        if self.since.elapsed() < STALL_MAX {
            return Ok(());
        }
        let troubles = troubles(&api.status()?);
        bail!("nothing has moved for {} s while waiting for {}{troubles}", STALL_MAX.as_secs(), waiting_for())
    }
}

/// Waits until the source has processed this many records.
pub(crate) fn handled(api: &Api<'_>, records: u64) -> Result<()> {
    let mut stall = Stall::new();
    loop {
        let now = api.wait_source(records, LOOK)?.handled;
        if now >= records {
            return Ok(());
        }
        stall.check(now, api, || format!("the source to reach {records} records, it has {now}"))?;
    }
}

/// Waits until nothing is left to do, and returns the store's position then.
pub(crate) fn drain(api: &Api<'_>) -> Result<u64> {
    let mut stall = Stall::new();
    loop {
        let answer = api.drained(LOOK)?;
        if let (true, Some(position)) = (answer.drained, answer.position) {
            return Ok(position);
        }
        let waiting_for = || answer.waiting_for.unwrap_or_else(|| "the host to be drained".to_owned());
        stall.check(work(&api.status()?), api, waiting_for)?;
    }
}

/// Returns a number that changes whenever any part of the host makes progress.
pub(crate) fn work(status: &Status) -> u64 {
    let parts = status.subscriptions.iter().chain(&status.projections);
    let checkpoints: u64 = parts.map(|part| part.checkpoint).sum();
    let tallies: u64 = status.commands.iter().map(|tally| tally.accepted + tally.rejected + tally.malformed).sum();
    let published: u64 = status.sinks.iter().map(|sink| sink.published).sum();
    status.store.position + checkpoints + tallies + published + status.dead_letters.total
}

/// Lists the problems that the host reports, one per line.
fn troubles(status: &Status) -> String {
    let parts = status.sources.iter().chain(&status.subscriptions).chain(&status.projections);
    let errors = parts.filter_map(|part| part.error.as_ref().map(|error| (part.name.as_str(), error)));
    let sinks = status.sinks.iter().filter_map(|sink| sink.error.as_ref().map(|error| (sink.name.as_str(), error)));
    errors.chain(sinks).map(|(name, error)| format!("\n  {name}: {error}")).collect()
}
