//! The event store alone: appends through its trait, reading everything back, and its use of disk and memory.

#[path = "support/raw_inserts.rs"]
mod raw_inserts;

use raw_inserts::raw_inserts;
use std::time::Instant;
use wasmill::ack::Ack;
use wasmill::filter::Filter;
use wasmill::model::{NewEvent, Position, StreamId};
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore};
use wasmill::store::{Append, Appended, Decision, Error, EventStore, Events as _};
use wasmill_tests::command_path::{CommandPath, IN_FLIGHT, Load, PAYLOAD, command};
use wasmill_tests::report::{Report, in_turn};

/// Number of events in one measurement.
const EVENTS: u64 = 200_000;
/// Number of streams, which get the events in turn.
const STREAMS: u64 = 1_000;
/// Number of events read at once.
const PAGE: usize = 500;
/// Number of live aggregates that are added to measure their memory.
const LIVE: u64 = 100_000;
/// Number of measurements of one thing.
const ROUNDS: usize = 3;

fn main() {
    let mut report = Report::default();
    let mut read = Vec::new();
    let [raw, append] = in_turn(ROUNDS, [&mut || raw_inserts(EVENTS), &mut || append_and_read(&mut read)]);
    report.ratio("store/append", append, "1/s", raw);
    report.figure("store/read-all", wasmill_tests::report::median(read), "1/s");
    size(&mut report);
    live(&mut report);
    report.write();
}

/// Returns the appends per second, and adds to `read` the events per second of reading them back.
fn append_and_read(read: &mut Vec<f64>) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&folder.path().join(FILE_NAME), Options::default()).expect("a store");
    let (done, finished) = crossbeam_channel::bounded::<()>(IN_FLIGHT);
    let streams: Vec<_> = (0..STREAMS).map(|number| StreamId::new("cart", format!("cart-{number}"))).collect();
    let started = Instant::now();
    for number in 0..EVENTS {
        if number >= IN_FLIGHT as u64 {
            finished.recv().expect("this thread holds the other end");
        }
        let done = done.clone();
        store.append(
            appended(&streams, number),
            Ack::new(move |result: Result<Appended, Error>| {
                result.expect("nothing is in the way");
                let _ = done.send(());
            }),
        );
    }
    finished.iter().take(IN_FLIGHT).for_each(drop);
    let rate = EVENTS as f64 / started.elapsed().as_secs_f64();
    read.push(read_all(&store));
    rate
}

fn appended(streams: &[StreamId], number: u64) -> Append {
    let (stream, version) = (&streams[(number % STREAMS) as usize], number / STREAMS);
    let event = NewEvent { name: "ItemsAdded".into(), payload: PAYLOAD.into() };
    let expected = wasmill::model::ExpectedVersion::Exact(wasmill::model::Version(version));
    Append {
        command: command(stream.clone(), "AddItems".into()),
        expected,
        decision: Decision::Events(vec![event]),
        chain: None,
    }
}

fn read_all(store: &SqliteStore) -> f64 {
    let (mut reader, filter) = (store.reader().expect("a reader"), Filter::parse(["**"]).expect("a filter"));
    let (mut reached, mut events) = (Position(0), 0);
    let started = Instant::now();
    loop {
        let page = reader.read_all(reached, &filter, PAGE).expect("a page");
        if page.events.is_empty() {
            break;
        }
        events += page.events.len() as u64;
        reached = page.reached;
    }
    assert_eq!(events, EVENTS);
    events as f64 / started.elapsed().as_secs_f64()
}

/// Measures the file of a store with 200,000 events, whose streams are indexed as far as the writer has done it.
fn size(report: &mut Report) {
    let path = CommandPath::wasm();
    path.run(&Load::new(EVENTS, STREAMS));
    path.finish();
    let bytes = std::fs::metadata(path.store_file()).expect("the store's file").len();
    report.figure("store/size-per-million", bytes as f64 / EVENTS as f64, "MB");
}

/// Measures the memory of the process for each 10,000 live aggregates, when its caches are full already.
fn live(report: &mut Report) {
    let path = CommandPath::wasm();
    path.run(&Load::new(3 * LIVE, STREAMS));
    let before = resident_bytes();
    path.run(&Load { aggregates: STREAMS..STREAMS + LIVE, ..Load::new(LIVE, LIVE) });
    let grown = resident_bytes().saturating_sub(before);
    report.figure("store/live-10000", grown as f64 / (LIVE / 10_000) as f64 / f64::from(1 << 20), "MiB");
}

/// Returns the resident memory of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells of a process's memory");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kilobytes") << 10
}
