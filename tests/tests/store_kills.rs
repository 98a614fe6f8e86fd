//! kill -9: nothing acknowledged is lost, and no mark is ahead of its effects.

use fastrand::Rng;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use wasmill::store::EventStore;
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore, verify};
use wasmill_tests::store_workload;

const KILLS: usize = 15;

/// Lets a process work on the store and kills it after so many acknowledgements, all of which it returns: the
/// process is told nothing, so it dies wherever it is.
fn kill_after(lines: usize, file: &Path, seed: u64) -> Vec<String> {
    let mut worker = Command::new(env!("CARGO_BIN_EXE_store-worker"))
        .args(["work", file.to_str().unwrap(), &seed.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a worker");
    let mut output = BufReader::new(worker.stdout.take().unwrap());
    let (mut acknowledged, mut line) = (Vec::new(), String::new());
    let mut next = |acknowledged: &mut Vec<String>| {
        line.clear();
        // A line that the kill has cut short acknowledges nothing.
        let whole = output.read_line(&mut line).expect("read from the worker") > 0 && line.ends_with('\n');
        if whole {
            acknowledged.push(line.trim_end().to_owned());
        }
        whole
    };
    while acknowledged.len() < lines {
        assert!(next(&mut acknowledged), "the worker ended by itself, seed {seed}");
    }
    worker.kill().expect("kill the worker");
    while next(&mut acknowledged) {}
    worker.wait().expect("the worker ends");
    acknowledged
}

#[test]
fn a_killed_store_has_all_that_was_acknowledged_and_its_marks_are_true() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE_NAME);
    let mut rng = Rng::new();
    let mut acknowledged = Vec::new();
    for kill in 0..KILLS {
        // Some die while they start or recover.
        let (lines, seed) = (if kill % 5 == 4 { kill % 2 } else { rng.usize(1..2_500) }, rng.u64(..));
        println!("kill {kill} after {lines} acknowledgements, seed {seed}");
        acknowledged.extend(kill_after(lines, &file, seed));
        let report = verify(&file).expect("look the store over");
        assert!(report.is_sound(), "{report:#?}");
        let store: Arc<dyn EventStore> =
            Arc::new(SqliteStore::open(&file, Options::default()).expect("open the store"));
        store_workload::check(&*store, &acknowledged);
        store.close();
    }
    let report = verify(&file).expect("look the store over");
    assert!(report.is_sound() && report.indexed > 0, "{report:#?}");
}
