//! Deliberate crashes: a host is killed at random moments of its work and restarted on the same folder.

use crate::api::Api;
use crate::flow;
use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wasmill_driver::host::Host;

/// The longest time of one request to the host, after which the end of the run is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// The longest time until a restarted host resumes its work.
const RESUME_WAIT: Duration = Duration::from_secs(50);

/// The times of a crash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    /// The number of processed records when the host came back.
    pub(crate) handled: u64,
    /// The time from the kill until the host served again.
    pub(crate) served: Duration,
    /// The time from the kill until the host had done new work.
    pub(crate) resumed: Duration,
}

/// The work of one run.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// The number of records that were processed before the run.
    pub(crate) before: u64,
    /// The number of records that the run adds.
    pub(crate) records: u64,
}

/// Crashes one of the hosts `times` times while they are at work, and calls `tell` after each.
pub(crate) fn crash(
    hosts: &[Host],
    api: &Api<'_>,
    work: Work,
    times: usize,
    over: &AtomicBool,
    tell: impl Fn(Crash),
) -> Result<Vec<Crash>> {
    let mut crashes = Vec::new();
    for moment in moments(work.records, times) {
        let mut handled = 0;
        while handled < work.before + moment {
            if over.load(Ordering::Relaxed) {
                return Ok(crashes);
            }
            handled = api.wait_source(work.before + moment, LOOK)?.handled;
        }
        let crash = once(&hosts[fastrand::usize(..hosts.len())], api, work, handled)?;
        tell(crash);
        crashes.push(crash);
    }
    Ok(crashes)
}

/// Draws random numbers of processed records, in order. Some are at the end, when only the follow-up work is left.
fn moments(records: u64, times: usize) -> Vec<u64> {
    if records == 0 {
        return Vec::new();
    }
    let mut moments: Vec<_> = (0..times).map(|_| fastrand::u64(1..=records + records / 8).min(records)).collect();
    moments.sort_unstable();
    moments
}

/// Crashes the host once. `known` is the number of records that were processed before. They are durable, so the next
/// host does not start lower.
fn once(host: &Host, api: &Api<'_>, work: Work, known: u64) -> Result<Crash> {
    let killed = Instant::now();
    let served = host.crash()?;
    let handled = goes_on(host, api, known)?;
    if handled < work.before + work.records {
        goes_on(host, api, handled + 1)?;
    } else {
        until_something_moves(api)?;
    }
    Ok(Crash { handled: handled - work.before, served, resumed: killed.elapsed() })
}

fn goes_on(host: &Host, api: &Api<'_>, target: u64) -> Result<u64> {
    let handled = api.wait_source(target, RESUME_WAIT)?.handled;
    if handled < target {
        bail!("after a crash the source did not get from {handled} to {target} records\n{}", host.log_end());
    }
    Ok(handled)
}

/// Waits until the host makes progress when all records are processed, so that only the follow-up work is left.
fn until_something_moves(api: &Api<'_>) -> Result<()> {
    let before = flow::work(&api.status()?);
    let deadline = Instant::now() + RESUME_WAIT;
    while !api.drained(Duration::from_millis(20))?.drained && flow::work(&api.status()?) == before {
        if Instant::now() > deadline {
            bail!("nothing moved within {} s after a crash", RESUME_WAIT.as_secs());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_lie_in_the_work_and_in_order() {
        for records in [1, 2, 2_000] {
            let moments = moments(records, 50);
            assert_eq!(moments.len(), 50);
            assert!(moments.is_sorted() && moments.iter().all(|moment| (1..=records).contains(moment)));
        }
        assert!(moments(0, 3).is_empty());
    }
}
