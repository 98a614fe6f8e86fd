//! Changes while a host runs: new code under load, a manifest that is applied again, the start of a host, and the author's loop.
//!
//! The figures are times that a person or a sender waits, so they have bounds and no baseline, except for the longest pause between
//! two answers, which is also measured without a change.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use wasmill::host::{Host, Startup};
use wasmill::manifest::Manifest;
use wasmill::model::{Outcome, StreamId};
use wasmill_tests::author::{Dev, first_build, succeeds};
use wasmill_tests::built;
use wasmill_tests::command_path::{IN_FLIGHT, command};
use wasmill_tests::module;
use wasmill_tests::report::{self, Report, median};
use wasmill_tests::setting::Setting;

/// Number of aggregates that are live when their code changes.
const AGGREGATES: usize = 1_000;
/// Number of events of each.
const EVENTS: u64 = 1_000;
/// How long answers are watched after a swap.
const WATCHED: Duration = Duration::from_secs(4);
/// How long they are watched before it.
const QUIET: Duration = Duration::from_secs(1);
/// Rest of each sender after an answer, where they rest: 2,000 commands a second in all.
const REST: Duration = Duration::from_secs(1);
/// Number of swaps.
const SWAPS: usize = 3;
/// Number of measurements of one thing.
const ROUNDS: usize = 5;
/// Longest wait for a step.
const WAIT: Duration = Duration::from_secs(60);

/// A benchmark and its name.
type Benchmark = (&'static str, fn(&mut Report));

const ALL: [Benchmark; 4] = [("swap", swap), ("unchanged", unchanged), ("start", start), ("dev", author)];

fn main() {
    report::run(ALL);
}

/// The answers to commands: how many there are, and the longest time without one.
#[derive(Default)]
struct Answers {
    count: AtomicU64,
    over: AtomicBool,
    /// The rest of each sender after an answer.
    rest_ms: AtomicU64,
    /// In nanoseconds since the beginning.
    last: AtomicU64,
    longest: AtomicU64,
    longest_wait: AtomicU64,
}

impl Answers {
    fn answered(&self, begun: Instant, sent: Instant) {
        let now = begun.elapsed().as_nanos() as u64;
        let last = self.last.fetch_max(now, Ordering::Relaxed);
        self.longest.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        self.longest_wait.fetch_max(sent.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the longest time without an answer and the longest wait for one, in milliseconds, since this was asked last.
    fn longest_ms(&self) -> [f64; 2] {
        [&self.longest, &self.longest_wait].map(|longest| longest.swap(0, Ordering::Relaxed) as f64 / 1e6)
    }
}

/// Measures how long nobody gets an answer while code with many live aggregates is swapped under load. Each round has a store of its
/// own, because histories that grow from round to round would take longer to rebuild.
fn swap(report: &mut Report) {
    let rounds: Vec<Swap> = (0..SWAPS).map(|_| swapped(Duration::ZERO)).collect();
    let of = |value: fn(&Swap) -> f64| median(rounds.iter().map(value).collect());
    report.bound("plugins/swap-pause", of(|swap| swap.pause), "ms", 50.0);
    report.figure("plugins/swap-pause-without", of(|swap| swap.pause_without), "ms");
    report.figure("plugins/swap-longest-wait", of(|swap| swap.wait), "ms");
    report.figure("plugins/swap-served-after", of(|swap| swap.served_after), "ms");
    // Each sender rests after each answer, so that the machine is not busy.
    let paced: Vec<Swap> = (0..SWAPS).map(|_| swapped(REST)).collect();
    report.figure("plugins/swap-wait-paced", median(paced.iter().map(|swap| swap.wait).collect()), "ms");
}

/// What was measured at a swap, in milliseconds.
struct Swap {
    pause: f64,
    pause_without: f64,
    wait: f64,
    served_after: f64,
}

fn swapped(rest: Duration) -> Swap {
    let runtime = Runtime::new().expect("a runtime");
    let setting = Setting::new("[plugins.cart]\nfile = \"cart.wasm\"\n");
    let code = fs::read(built::plugin("cart")).expect("read the plugin; run `cargo xtask build`");
    setting.write("cart.wasm", &code);
    let host = runtime.block_on(start_host(&setting));
    let answers = Arc::new(Answers::default());
    let begun = Instant::now();
    for task in 0..IN_FLIGHT {
        runtime.spawn(send_all(host.clone(), task, begun, answers.clone()));
    }
    while answers.count.load(Ordering::Relaxed) < AGGREGATES as u64 * EVENTS {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    answers.rest_ms.store(rest.as_millis() as u64, Ordering::Relaxed);
    std::thread::park_timeout(QUIET);
    let _ = answers.longest_ms();
    std::thread::park_timeout(QUIET);
    let [pause_without, _] = answers.longest_ms();
    setting.write("cart.wasm", module::rebuilt(code));
    let since = Instant::now();
    let reloaded = runtime.block_on(host.reload(BTreeSet::from(["cart".to_owned()]), false, WAIT));
    reloaded.expect("the code is taken");
    let served_after = ms(since);
    std::thread::park_timeout(WATCHED);
    let [pause, wait] = answers.longest_ms();
    answers.over.store(true, Ordering::Relaxed);
    runtime.block_on(host.stop(Instant::now() + WAIT));
    Swap { pause, pause_without, wait, served_after }
}

async fn send_all(host: Arc<Host>, task: usize, begun: Instant, answers: Arc<Answers>) {
    let name: Arc<str> = "AddItems".into();
    for number in 0.. {
        let cart = (task + number) % AGGREGATES;
        let sent = Instant::now();
        let command = command(StreamId::new("cart", format!("cart-{cart}")), name.clone());
        let outcome = host.send(Arc::unwrap_or_clone(command)).await;
        if answers.over.load(Ordering::Relaxed) {
            return;
        }
        if !matches!(outcome, Ok(Outcome::Accepted { .. })) {
            // The process ends here, because a panic would only end a task.
            eprintln!("a command was not accepted: {outcome:?}");
            std::process::exit(1);
        }
        answers.answered(begun, sent);
        let rest = Duration::from_millis(answers.rest_ms.load(Ordering::Relaxed));
        if !rest.is_zero() {
            // Nothing ends the rest.
            let _ = tokio::time::timeout(rest, std::future::pending::<()>()).await;
        }
    }
}

async fn start_host(setting: &Setting) -> Arc<Host> {
    let manifest = Manifest::load(setting.path("wasmill.toml")).expect("a manifest");
    Host::start(manifest, Startup::default()).await.expect("a host")
}

/// Measures a manifest that is applied again and has not changed.
fn unchanged(report: &mut Report) {
    let setting = Setting::grocery();
    let host = setting.start();
    let reload = || {
        let since = Instant::now();
        let answer = host.post("/v1/manifest/reload", &serde_json::Value::Null, &[]);
        assert!(answer.status == 200 && answer.body["parts"] == serde_json::json!([]), "{answer:?}");
        ms(since)
    };
    let times = (0..ROUNDS).map(|_| reload()).collect();
    host.stop();
    report.bound("plugins/reload-unchanged", median(times), "ms", 100.0);
}

/// Measures the start of the grocery's host, with and without compiled code, until it serves.
fn start(report: &mut Report) {
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let setting = Setting::grocery();
        for times in [&mut cold, &mut warm] {
            let since = Instant::now();
            let host = setting.start_without_compiled();
            times.push(ms(since));
            host.stop();
        }
    }
    report.figure("plugins/start-cold", median(cold), "ms");
    report.figure("plugins/start-warm", median(warm), "ms");
}

/// Measures the time from saving a source file until `wasmill dev` has built it and it serves.
fn author(report: &mut Report) {
    let folder = tempfile::tempdir().expect("make a folder");
    let folder = folder.path();
    succeeds(folder, &["new", "aggregate", "counter"]);
    let source = folder.join("counter/src/lib.rs");
    let dev = Dev::start(folder);
    first_build(&dev);
    let times = (0..ROUNDS).map(|round| save(&dev, &source, round)).collect();
    report.bound("plugins/dev", median(times), "ms", 3_000.0);
}

fn save(dev: &Dev, source: &Path, round: usize) -> f64 {
    let text = fs::read_to_string(source).expect("read the code");
    let since = Instant::now();
    fs::write(source, text.replace("there are only", &format!("in round {round} there are only"))).expect("write it");
    let _ = dev.until("serving");
    ms(since)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
