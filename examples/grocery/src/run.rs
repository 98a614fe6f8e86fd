//! One run: start, produce, wait, read back, stop.

use crate::api::Api;
use crate::crash::{self, Crash, Work};
use crate::figures::Figures;
use crate::hosts::Hosts;
use crate::producer::{self, Producer};
use crate::progress::Progress;
use crate::start::{NOTIFICATIONS, Start};
use crate::{Options, baskets, flow};
use anyhow::{Context, Result, anyhow, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use wasmill_driver::host::{self, Host, Leash};
use wasmill_driver::messages::Messages;
use wasmill_driver::topic;

/// The outcome of a run.
pub(crate) struct Outcome {
    /// The figures that were read back.
    pub(crate) figures: Figures,
    /// The number of events in the store.
    pub(crate) events: u64,
    /// The time from the first record until everything was drained.
    pub(crate) elapsed: Duration,
    /// The number of records of this run.
    pub(crate) records: u64,
    /// The number of hosts.
    pub(crate) hosts: usize,
    /// The deliberate crashes.
    pub(crate) crashes: Vec<Crash>,
    /// The highest peak memory of the processes that ran last.
    pub(crate) memory_peak_kib: Option<u64>,
    /// The data folder, if it was kept.
    pub(crate) kept: Option<PathBuf>,
    /// A sentence for everything that should be done and is not.
    pub(crate) left_undone: Vec<String>,
}

/// Runs the example.
pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let records = baskets::count(&options.input)?;
    let folder = Folder::new(options.keep.as_deref())?;
    let data = folder.path().to_path_buf();
    if options.brokers.is_none() && data.join(host::LOG).exists() {
        bail!(
            "{} holds the data of an earlier run, whose broker is gone: name a new folder with --keep",
            data.display()
        );
    }
    let start = options.brokers.as_ref().map_or_else(|| Ok(Start::default()), |brokers| Start::of(brokers, &data))?;
    let leashes: Arc<Mutex<Vec<Arc<Leash>>>> = Arc::default();
    end_on_signals(leashes.clone(), options.keep.is_none().then_some(data.clone()))?;
    let held = |leash: &Arc<Leash>| leashes.lock().unwrap_or_else(PoisonError::into_inner).push(leash.clone());
    let hosts = Hosts::start(options, &data, held)?;
    let all = hosts.all();
    let brokers = options.brokers.clone().map_or_else(|| all[0].dev_broker(), Ok)?;
    let run = Run { options, hosts: all, api: Api::new(all), brokers, start, records };
    let mut outcome = run.through()?;
    outcome.memory_peak_kib = all.iter().filter_map(Host::memory_peak_kib).max();
    hosts.stop()?;
    outcome.kept = options.keep.clone();
    Ok(outcome)
}

/// One run on hosts that are serving.
struct Run<'a> {
    options: &'a Options,
    hosts: &'a [Host],
    api: Api<'a>,
    brokers: String,
    start: Start,
    records: u64,
}

/// The state that the threads of a run share.
#[derive(Default)]
struct Shared {
    /// Whether everything is published, so that the reader must finish at the end of the topic.
    finish: AtomicBool,
    /// Whether the run is over.
    over: AtomicBool,
    /// The number of different messages so far.
    notifications: AtomicU64,
}

/// A guard that ends the threads of a run, even if the run fails.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
        self.0.finish.store(true, Ordering::Relaxed);
    }
}

impl Run<'_> {
    fn through(&self) -> Result<Outcome> {
        // The host must know where to begin in every partition before there are new records. The partitions of a new
        // topic may take a moment until they answer. A drained host has asked all of them.
        flow::handled(&self.api, self.start.baskets)?;
        flow::drain(&self.api)?;
        let baskets = topic::partitions_created(&self.brokers, producer::TOPIC)?;
        let work = Work { before: topic::offsets(&baskets), records: self.records };
        let notifications = Messages::from(&self.brokers, NOTIFICATIONS, &self.start.notifications)?;
        let progress = Progress::new(self.records)?;
        let shared = Shared::default();
        let outcome = thread::scope(|scope| {
            let over = Over(&shared);
            let reader = scope.spawn(|| notifications.read(&shared.finish, &shared.notifications));
            let watcher = scope.spawn(|| progress.follow(&self.api, work, &shared.notifications, &shared.over));
            let crasher = scope.spawn(|| {
                let tell = |crash| progress.crashed(crash);
                crash::crash(self.hosts, &self.api, work, self.options.crash, &shared.over, tell)
            });
            let began = Instant::now();
            let produced = self.produce()?;
            let crashes = joined(crasher)?;
            flow::handled(&self.api, work.before + produced)?;
            let position = flow::drain(&self.api)?;
            let elapsed = began.elapsed();
            drop(over);
            joined(watcher)?;
            let mut outcome = self.read_back(position, work.before + produced, joined(reader)?)?;
            outcome.elapsed = elapsed;
            outcome.crashes = crashes;
            Ok(outcome)
        });
        progress.finish();
        outcome
    }

    fn produce(&self) -> Result<u64> {
        let producer = Producer::new(&self.brokers, self.options.brokers.is_none())?;
        producer.produce(baskets::read(&self.options.input)?, &self.api)
    }

    /// Reads the results back. `produced` is the number of records in the topic, including those of earlier runs.
    fn read_back(&self, position: u64, produced: u64, notifications: u64) -> Result<Outcome> {
        let status = self.api.status()?;
        let handled = self.api.wait_source(0, Duration::ZERO)?.handled;
        let baskets = handled.saturating_sub(self.start.baskets);
        let figures = Figures::read(&self.api, &status, position, baskets, notifications)?;
        let left_undone = figures.left_undone(&status, produced, handled);
        Ok(Outcome {
            figures,
            left_undone,
            events: status.store.position,
            records: self.records,
            elapsed: Duration::ZERO,
            hosts: self.hosts.len(),
            crashes: Vec::new(),
            memory_peak_kib: None,
            kept: None,
        })
    }
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the demo panicked"))?
}

/// A data folder: the requested one, or a temporary one.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn new(keep: Option<&Path>) -> Result<Self> {
        let Some(folder) = keep else { return Ok(Self::Temporary(tempfile::tempdir().context("make a data folder")?)) };
        fs::create_dir_all(folder).with_context(|| format!("make the data folder {}", folder.display()))?;
        Ok(Self::Kept(folder.canonicalize()?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(folder) => folder,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// Ends the hosts if a signal ends this program, and removes the data if it is in a temporary folder.
fn end_on_signals(leashes: Arc<Mutex<Vec<Arc<Leash>>>>, temporary: Option<PathBuf>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("listen to signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // No host can start any more.
            let leashes = leashes.lock().unwrap_or_else(PoisonError::into_inner);
            leashes.iter().for_each(|leash| leash.end());
            if let Some(folder) = temporary {
                // If something can't be removed, the system removes it.
                _ = fs::remove_dir_all(folder);
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
