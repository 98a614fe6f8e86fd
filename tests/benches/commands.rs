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

fn main() {
    let plugins = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/plugins/cart.wasm");
    let commands: u64 = std::env::var("COMMANDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300_000);
    let shards: usize = std::env::var("SHARDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let in_flight: usize = std::env::var("IN_FLIGHT").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    let raw = raw_inserts(commands);
    println!("raw inserts       {raw:>10.0}/s");
    for aggregates in [1_000u64, 100_000] {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn EventStore> =
            Arc::new(SqliteStore::open(&folder.path().join("events.sqlite"), Options::default()).unwrap());
        let compiler = Compiler::new(None).unwrap();
        let limits = Limits { instances_max: 200_000, ..Limits::default() };
        let catalog = Catalog::open(compiler, [("cart", plugins.into(), limits)]).unwrap();
        let shards = catalog.slots().map(|slot| (slot.clone(), shards));
        let served = Aggregates::start(shards, &store, &AggregateOptions::default()).unwrap();
        let (rate, p50, p99) = closed_loop(&served, commands, aggregates, in_flight);
        println!(
            "{aggregates:>7} aggregates {rate:>10.0}/s  ratio to raw {:.2}  p50 {p50:?} p99 {p99:?}  {} MB",
            rate / raw,
            std::fs::metadata(folder.path().join("events.sqlite")).unwrap().len() >> 20
        );
        served.stop();
        store.close();
    }
}

fn closed_loop(served: &Aggregates, commands: u64, aggregates: u64, in_flight: usize) -> (f64, Duration, Duration) {
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
        let command = Command {
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
        };
        let (done, accepted, latencies, sent) = (done.clone(), accepted.clone(), latencies.clone(), Instant::now());
        let reply = Box::new(move |outcome| {
            if matches!(outcome, Outcome::Accepted { events: 1, .. }) {
                accepted.fetch_add(1, Ordering::Relaxed);
            }
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
    (commands as f64 / elapsed.as_secs_f64(), at(0.5), at(0.99))
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
