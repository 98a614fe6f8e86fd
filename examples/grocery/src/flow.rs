//! Waiting until all work is done, and noticing when it stands still.

use crate::api::{Api, Status};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Without any progress for so long, the work counts as stuck.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long one question to the host may take, so that standing still is noticed.
const LOOK: Duration = Duration::from_secs(2);

/// Notices when a measure of progress stands still.
pub(crate) struct Stall {
    seen: u64,
    since: Instant,
}

impl Stall {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        Self { seen: 0, since: Instant::now() }
    }

    /// Fails when `measure` has not changed for too long; the host's own troubles are in the error.
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

/// Waits until the source has handled so many records.
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

/// A number that changes whenever any part of the host gets something done.
pub(crate) fn work(status: &Status) -> u64 {
    let parts = status.subscriptions.iter().chain(&status.projections);
    let checkpoints: u64 = parts.map(|part| part.checkpoint).sum();
    let tallies: u64 = status.commands.iter().map(|tally| tally.accepted + tally.rejected + tally.malformed).sum();
    let published: u64 = status.sinks.iter().map(|sink| sink.published).sum();
    status.store.position + checkpoints + tallies + published + status.dead_letters.total
}

/// What the host says is in the way, a line each.
fn troubles(status: &Status) -> String {
    let parts = status.sources.iter().chain(&status.subscriptions).chain(&status.projections);
    let errors = parts.filter_map(|part| part.error.as_ref().map(|error| (part.name.as_str(), error)));
    let sinks = status.sinks.iter().filter_map(|sink| sink.error.as_ref().map(|error| (sink.name.as_str(), error)));
    errors.chain(sinks).map(|(name, error)| format!("\n  {name}: {error}")).collect()
}
