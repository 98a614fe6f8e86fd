//! kill -9 at any moment, and at every fault point of the writer. Nothing acknowledged is lost, and no mark is ahead of
//! its effects.

use fastrand::Rng;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use wasmill::store::EventStore;
use wasmill::store::sqlite::{FILE_NAME, FaultPoint, KILL_AT, Options, SqliteStore, verify};
use wasmill_tests::store_workload;

const KILLS: usize = 15;

/// A worker passes every point several times while it acknowledges so many requests.
const ACKNOWLEDGEMENTS_MAX: usize = 200_000;

/// The tests take turns: a process on its way from fork to exec holds what this one has open, the lock of a store too.
pub(crate) static TURN: Mutex<()> = Mutex::new(());

/// A process that works on a store and says what was acknowledged.
pub(crate) struct Worker {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    acknowledged: Vec<String>,
}

impl Worker {
    pub(crate) fn start(place: &str, seed: u64, kill_at: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_store-worker"));
        command.args(["work", place, &seed.to_string()]).stdout(Stdio::piped());
        let mut process = command.envs(kill_at.map(|point| (KILL_AT, point))).spawn().expect("start a worker");
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output, acknowledged: Vec::new() }
    }

    /// Waits for the next acknowledgement; there is none when the worker has ended.
    pub(crate) fn next(&mut self) -> bool {
        let line = self.output.next().map(|line| line.expect("read from the worker"));
        let more = line.is_some();
        self.acknowledged.extend(line);
        more
    }

    /// Kills it after so many acknowledgements: it is told nothing, so it dies wherever it is.
    pub(crate) fn killed_after(mut self, lines: usize) -> Vec<String> {
        while self.acknowledged.len() < lines {
            assert!(self.next(), "the worker ended by itself");
        }
        self.process.kill().expect("kill the worker");
        self.ended()
    }

    /// Waits until it dies by itself, of SIGKILL.
    pub(crate) fn killed(mut self, point: &str) -> Vec<String> {
        while self.next() {
            let alive = self.acknowledged.len() < ACKNOWLEDGEMENTS_MAX;
            assert!(alive, "the worker never comes to {point}");
        }
        self.ended()
    }

    /// Sends a signal to it.
    pub(crate) fn signal(&self, signal: i32) {
        wasmill_tests::host::signal(self.process.id(), signal);
    }

    /// Waits until it ends by itself, because it has lost its store.
    pub(crate) fn lost(mut self) -> Vec<String> {
        while self.next() {}
        let status = self.process.wait().expect("the worker ends");
        assert!(!status.success() && status.signal() != Some(libc::SIGKILL), "{status}");
        std::mem::take(&mut self.acknowledged)
    }

    fn ended(mut self) -> Vec<String> {
        while self.next() {}
        let status = self.process.wait().expect("the worker ends");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "the worker was not killed: {status}");
        std::mem::take(&mut self.acknowledged)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Only where the test has failed is there still something to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The file verifies, and the store that opens has all that was acknowledged.
fn check(file: &Path, acknowledged: &[String]) {
    if file.exists() {
        let report = verify(file).expect("look the store over");
        assert!(report.is_sound(), "{report:#?}");
    }
    let store: Arc<dyn EventStore> = Arc::new(SqliteStore::open(file, Options::default()).expect("open the store"));
    store_workload::check(&*store, acknowledged);
    store.close();
}

#[test]
fn a_killed_store_has_all_that_was_acknowledged_and_its_marks_are_true() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE_NAME);
    let mut rng = Rng::new();
    let mut acknowledged = Vec::new();
    for kill in 0..KILLS {
        // Some die while they start or recover.
        let (lines, seed) = (if kill % 5 == 4 { kill % 2 } else { rng.usize(1..2_500) }, rng.u64(..));
        println!("kill {kill} after {lines} acknowledgements, seed {seed}");
        acknowledged.extend(Worker::start(file.to_str().unwrap(), seed, None).killed_after(lines));
        check(&file, &acknowledged);
    }
    let report = verify(&file).expect("look the store over");
    assert!(report.is_sound() && report.indexed > 0, "{report:#?}");
}

#[test]
fn a_kill_between_any_two_steps_of_the_writer_loses_nothing() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = Rng::new();
    for &point in FaultPoint::ALL.iter().filter(|point| !point.is_of_restoring() && !point.is_of_moving()) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE_NAME);
        let mut acknowledged = Vec::new();
        // The first passage, and one when more is under way, on what the first kill has left.
        for passage in if point.is_of_making() { vec![1] } else { vec![1, rng.u64(2..8)] } {
            let (kill_at, seed) = (format!("{}:{passage}", point.name()), rng.u64(..));
            println!("kill at {kill_at}, seed {seed}");
            acknowledged.extend(Worker::start(file.to_str().unwrap(), seed, Some(&kill_at)).killed(&kill_at));
            check(&file, &acknowledged);
        }
        // What is left is no dead end.
        acknowledged.extend(Worker::start(file.to_str().unwrap(), rng.u64(..), None).killed_after(500));
        check(&file, &acknowledged);
    }
}
