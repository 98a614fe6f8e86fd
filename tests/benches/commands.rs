//! Durable commands through WebAssembly, as ratios to raw inserts of the same event rows.
//!
//! A closed loop keeps a fixed number of commands in flight; every command is answered after its commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wasmill::aggregates::{Aggregates, Options as AggregateOptions};
use wasmill::model::{Command, Outcome, StreamId, now_ms};
use wasmill::plugin::{Catalog, Compiler, Limits};
use wasmill::store::EventStore;
use wasmill::store::sqlite::{Options, SqliteStore};

const PAYLOAD: &str = r#"{"items":[{"product_id":"1095275","quantity":1,"amount_cents":50},{"product_id":"9878513","quantity":2,"amount_cents":198},{"product_id":"1041453","quantity":1,"amount_cents":143}]}"#;

/// Commands that are sent and not answered.
const IN_FLIGHT: usize = 2_000;
/// Commands in one measurement.
const COMMANDS: u64 = 200_000;

fn main() {
    let mut results = Results::default();
    let raw = raw_inserts(COMMANDS);
    let thousand = Bench::new().closed_loop(COMMANDS, 1_000);
    results.add("commands/raw", thousand.rate, raw);
    results.add("commands/many", Bench::new().closed_loop(COMMANDS, 100_000).rate, thousand.rate);

    let growing = Bench::new();
    growing.closed_loop(10_000, 1_000);
    let small = growing.closed_loop(COMMANDS, 1_000);
    growing.closed_loop(1_000_000 - 10_000 - COMMANDS, 1_000);
    let large = growing.closed_loop(COMMANDS, 1_000);
    results.add("commands/growth", large.rate, small.rate);
    println!("latency with {IN_FLIGHT} in flight: p50 {:?}, p99 {:?}", thousand.p50, thousand.p99);
    println!("store: {} bytes an event", growing.store_bytes() / (1_000_000 + COMMANDS));
    results.write();
}

/// Rows of the results file: a ratio is the value over the baseline of the same run.
#[derive(Default)]
struct Results(Vec<serde_json::Value>);

impl Results {
    fn add(&mut self, name: &str, value: f64, baseline: f64) {
        let ratio = value / baseline;
        println!("{name:<16} {value:>10.0}/s   baseline {baseline:>10.0}/s   ratio {ratio:.2}");
        let row =
            serde_json::json!({"name": name, "value": value, "unit": "1/s", "baseline": baseline, "ratio": ratio});
        self.0.push(row);
    }

    /// Adds to what other benchmarks of this run have written.
    fn write(self) {
        let Ok(path) = std::env::var("WASMILL_BENCH_RESULTS") else { return };
        let earlier = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let mut rows: Vec<serde_json::Value> = earlier.unwrap_or_default();
        rows.extend(self.0);
        std::fs::write(&path, serde_json::to_string_pretty(&rows).expect("rows are JSON")).expect("write the results");
    }
}

/// A store and one shard in a folder of their own.
struct Bench {
    folder: tempfile::TempDir,
    store: Arc<dyn EventStore>,
    served: Aggregates,
}

/// One measurement.
struct Measured {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("events.sqlite");
        let store: Arc<dyn EventStore> = Arc::new(SqliteStore::open(&file, Options::default()).expect("a store"));
        let plugin = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/plugins/cart.wasm");
        let limits = Limits { instances_max: 200_000, ..Limits::default() };
        let compiler = Compiler::new(None).expect("an engine");
        let catalog = Catalog::open(compiler, [("cart", plugin.into(), limits)])
            .unwrap_or_else(|errors| panic!("{}; run `cargo xtask build`", errors[0]));
        let shards = catalog.slots().map(|slot| (slot.clone(), 1));
        let served = Aggregates::start(shards, &store, &AggregateOptions::default()).expect("a shard");
        Self { folder, store, served }
    }

    fn closed_loop(&self, commands: u64, aggregates: u64) -> Measured {
        closed_loop(&self.served, commands, aggregates, IN_FLIGHT)
    }

    fn store_bytes(&self) -> u64 {
        std::fs::metadata(self.folder.path().join("events.sqlite")).map_or(0, |file| file.len())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.served.stop();
        self.store.close();
    }
}

fn closed_loop(served: &Aggregates, commands: u64, aggregates: u64, in_flight: usize) -> Measured {
    let (done, finished) = crossbeam_channel::bounded::<()>(in_flight);
    for _ in 0..in_flight {
        done.send(()).unwrap();
    }
    let accepted = Arc::new(AtomicU64::new(0));
    let latencies = Arc::new(std::sync::Mutex::new(Vec::with_capacity(commands as usize)));
    let ids: Vec<Arc<str>> = (0..aggregates).map(|n| format!("cart-{n}").into()).collect();
    let (aggregate_type, name): (Arc<str>, Arc<str>) = ("cart".into(), "AddItems".into());
    let started = Instant::now();
    for number in 0..commands {
        finished.recv().unwrap();
        let id: Arc<str> = uuid::Uuid::now_v7().to_string().into();
        let command = Arc::new(Command {
            stream: StreamId::new(aggregate_type.clone(), ids[(number % aggregates) as usize].clone()),
            name: name.clone(),
            payload: PAYLOAD.into(),
            correlation_id: id.clone(),
            causation_id: id.clone(),
            id,
            time_ms: now_ms(),
            headers: Vec::new(),
            origin: None,
            durable_id: false,
            expected: None,
        });
        let (done, accepted, latencies, sent) = (done.clone(), accepted.clone(), latencies.clone(), Instant::now());
        let reply = Box::new(move |outcome| {
            match outcome {
                Outcome::Accepted { events: 1, .. } => accepted.fetch_add(1, Ordering::Relaxed),
                other => {
                    eprintln!("a command was not accepted: {other:?}");
                    std::process::exit(1)
                }
            };
            latencies.lock().unwrap().push(sent.elapsed());
            let _ = done.send(());
        });
        assert!(served.send(command, reply).is_ok());
    }
    for _ in 0..in_flight {
        finished.recv().unwrap();
    }
    let elapsed = started.elapsed();
    assert_eq!(accepted.load(Ordering::Relaxed), commands, "every command is accepted");
    let mut latencies = latencies.lock().unwrap();
    latencies.sort();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    Measured { rate: commands as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

/// The same event rows into an ordinary event table: integer key, unique index on stream and version, 1,000 rows a
/// transaction, the same pragmas.
fn raw_inserts(rows: u64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(folder.path().join("raw.sqlite")).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536;
             CREATE TABLE events (position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL,
                type TEXT NOT NULL, id BLOB NOT NULL, time_ms INTEGER NOT NULL, correlation_id TEXT NOT NULL,
                causation_id TEXT NOT NULL, headers BLOB, payload BLOB NOT NULL, UNIQUE (stream, version));",
        )
        .unwrap();
    let streams: Vec<String> = (0..1_000).map(|n| format!("cart-{n}")).collect();
    let started = Instant::now();
    let mut insert = connection.prepare("INSERT INTO events VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)").unwrap();
    for row in 0..rows {
        if row % 1_000 == 0 {
            connection.execute_batch("BEGIN").unwrap();
        }
        let id = uuid::Uuid::now_v7();
        let text = id.to_string();
        insert
            .execute(rusqlite::params![
                row + 1,
                streams[(row % 1_000) as usize],
                row / 1_000 + 1,
                "ItemsAdded",
                id.as_bytes(),
                now_ms(),
                text,
                text,
                None::<Vec<u8>>,
                PAYLOAD.as_bytes()
            ])
            .unwrap();
        if row % 1_000 == 999 || row + 1 == rows {
            connection.execute_batch("COMMIT").unwrap();
        }
    }
    rows as f64 / started.elapsed().as_secs_f64()
}
