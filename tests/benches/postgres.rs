//! Durable commands through WebAssembly into PostgreSQL, as ratios to raw inserts of the same event rows.
//!
//! The server is one of its own on this machine, with its usual settings for durability. It shares the cores with the host.

use tokio::runtime::Runtime;
use tokio_postgres::NoTls;
use wasmill_tests::command_path::{CommandPath, Load, PAYLOAD};
use wasmill_tests::postgres::Postgres;
use wasmill_tests::report::{Budget, Report, middle, rounds};

/// Number of commands in one measurement.
const COMMANDS: u64 = 50_000;
/// Number of aggregates, which get the commands in turn.
const AGGREGATES: u64 = 1_000;
const ROUNDS: usize = 5;
/// Number of events that a large store has.
const LARGE: u64 = 1_000_000;
/// Number of rows in one statement of raw inserts, which is a transaction.
const ROWS: u64 = 1_000;

fn main() {
    let Some(server) = Postgres::own(&["fsync = on", "max_wal_size = '4GB'", "shared_buffers = '256MB'"]) else {
        return;
    };
    let mut report = Report::default();
    let usual = Load::new(COMMANDS, AGGREGATES);
    let [raw, wasm] = rounds(
        ROUNDS,
        [&mut || raw_inserts(&server.database(), COMMANDS), &mut || {
            CommandPath::on_postgres(&server.database()).run(&usual).rate
        }],
    );
    let (rate, baseline) = middle(&wasm, &raw);
    report.judge("postgres/raw", rate, "1/s", baseline, Budget::AtLeast(0.5));
    growth(&mut report, &server);
    report.write();
}

/// Measures the same load on one store that holds 10⁴ and 10⁶ events when it begins.
fn growth(report: &mut Report, server: &Postgres) {
    let path = CommandPath::on_postgres(&server.database());
    let grow = |events| path.run(&Load::new(events, AGGREGATES)).rate;
    grow(10_000);
    let small: Vec<f64> = (0..ROUNDS).map(|_| grow(COMMANDS)).collect();
    grow(LARGE - 10_000 - ROUNDS as u64 * COMMANDS);
    let large: Vec<f64> = (0..ROUNDS).map(|_| grow(COMMANDS)).collect();
    let (rate, baseline) = middle(&large, &small);
    report.judge("postgres/growth", rate, "1/s", baseline, Budget::AtLeast(0.9));
}

/// Returns the rows per second into a table with the keys of the store's, 1,000 rows in a statement and a transaction.
fn raw_inserts(url: &str, rows: u64) -> f64 {
    let runtime = Runtime::new().expect("start a runtime");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
        tokio::spawn(async move { drop(connection.await) });
        let table =
            "CREATE TABLE raw (position BIGINT PRIMARY KEY, type INTEGER NOT NULL, aggregate_type INTEGER NOT NULL,
            aggregate_id BYTEA NOT NULL, version BIGINT NOT NULL, id BYTEA NOT NULL, time_ms BIGINT NOT NULL,
            correlation_id BYTEA NOT NULL, causation_id BYTEA NOT NULL, headers BYTEA, payload BYTEA NOT NULL,
            UNIQUE (aggregate_type, aggregate_id, version))";
        client.batch_execute(table).await.expect("make a table");
        let insert = "INSERT INTO raw SELECT p, 1, 1, a, v, i, t, c, c, NULL, b
            FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bytea[], $7::bytea[])
            AS r(p, a, v, i, t, c, b)";
        let insert = client.prepare(insert).await.expect("prepare");
        let started = std::time::Instant::now();
        for first in (0..rows).step_by(ROWS as usize) {
            let numbers = first..(first + ROWS).min(rows);
            let ids: Vec<uuid::Uuid> = numbers.clone().map(|_| uuid::Uuid::now_v7()).collect();
            let positions: Vec<i64> = numbers.clone().map(|row| row as i64 + 1).collect();
            let streams: Vec<Vec<u8>> =
                numbers.clone().map(|row| format!("cart-{}", row % AGGREGATES).into_bytes()).collect();
            let versions: Vec<i64> = numbers.clone().map(|row| (row / AGGREGATES) as i64 + 1).collect();
            let texts: Vec<Vec<u8>> = ids.iter().map(|id| id.to_string().into_bytes()).collect();
            let bytes: Vec<Vec<u8>> = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
            let now_ms = wasmill::clock::Clock::system().now_ms() as i64;
            let times = vec![now_ms; ids.len()];
            let payloads: Vec<&[u8]> = vec![PAYLOAD.as_bytes(); ids.len()];
            client
                .execute(&insert, &[&positions, &streams, &versions, &bytes, &times, &texts, &payloads])
                .await
                .expect("insert");
        }
        rows as f64 / started.elapsed().as_secs_f64()
    })
}
