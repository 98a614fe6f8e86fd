//! The progress bar on standard error. It is hidden if standard error is not a terminal.

use crate::api::Api;
use crate::crash::{Crash, Work};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The interval at which the bar is drawn.
const TICK: Duration = Duration::from_millis(100);
/// The longest time of one request to the host, after which the end of the run is noticed.
const LOOK: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{spinner} {wide_bar:.green/dim} {human_pos}/{human_len} baskets  {rate}  {msg}";

/// The bar of one run.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Makes a bar for this many records.
    pub(crate) fn new(records: u64) -> Result<Self> {
        let bar = ProgressBar::new(records).with_style(ProgressStyle::with_template(TEMPLATE)?.with_key("rate", rate));
        bar.enable_steady_tick(TICK);
        Ok(Self { bar })
    }

    /// Follows the source until the run is over.
    pub(crate) fn follow(&self, api: &Api<'_>, work: Work, notifications: &AtomicU64, over: &AtomicBool) -> Result<()> {
        let step = (work.records / 200).max(1);
        let mut handled = work.before;
        while !over.load(Ordering::Relaxed) {
            handled = api.wait_source(handled + step, LOOK)?.handled.max(work.before);
            self.bar.set_position(handled - work.before);
            let left = if handled < work.before + work.records { "" } else { ", draining" };
            self.bar.set_message(format!("{} notifications{left}", notifications.load(Ordering::Relaxed)));
        }
        Ok(())
    }

    /// Prints a crash above the bar.
    pub(crate) fn crashed(&self, crash: Crash) {
        let Crash { handled, served, resumed } = crash;
        let line = format!(
            "killed the host at {handled} baskets: serves again after {} ms, at work after {} ms",
            served.as_millis(),
            resumed.as_millis()
        );
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn rate(state: &ProgressState, text: &mut dyn Write) {
    // A bar that can't be drawn fails by itself.
    _ = write!(text, "{:.0}/s", state.per_sec());
}
