//! Crashes on purpose: the host is killed at random moments of its work and started again on the same folder.

use crate::api::Api;
use crate::flow;
use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wasmill_driver::host::Host;

/// How long one question to the host may take, so that the end of the run is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// How long a host that was started again may take until work goes on.
const RESUME_WAIT: Duration = Duration::from_secs(50);

/// What a crash cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    /// How many records were handled when the host came back.
    pub(crate) handled: u64,
    /// From the kill until it served again.
    pub(crate) served: Duration,
    /// From the kill until new work was done.
    pub(crate) resumed: Duration,
}

/// The work of one run.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// Records handled before it.
    pub(crate) before: u64,
    /// Records that it adds.
    pub(crate) records: u64,
}

/// Crashes the host `times` times while it is at work, and calls `tell` after each.
pub(crate) fn crash(
    host: &Host,
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
        let crash = once(host, api, work, handled)?;
        tell(crash);
        crashes.push(crash);
    }
    Ok(crashes)
}

/// Random numbers of handled records, in order. Some lie at the end, where only what follows is still at work.
fn moments(records: u64, times: usize) -> Vec<u64> {
    if records == 0 {
        return Vec::new();
    }
    let mut moments: Vec<_> = (0..times).map(|_| fastrand::u64(1..=records + records / 8).min(records)).collect();
    moments.sort_unstable();
    moments
}

/// `known`: how many records were handled before it. They are durable, so the next host starts no lower.
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

/// All records are handled: what is left is the work that follows from them.
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
