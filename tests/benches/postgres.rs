//! Durable commands through WebAssembly into PostgreSQL, as ratios to raw inserts of the same event rows.
//!
//! The server is one of its own on this machine, with its usual settings for durability. It shares the cores with the host.

#[path = "support/numbering.rs"]
mod numbering;

use numbering::{Numbering, rows_per_second};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;
use wasmill::filter::Filter;
use wasmill::model::Position;
use wasmill::store::postgres::PostgresStore;
use wasmill::store::{Events as _, Options};
use wasmill_tests::command_path::{CommandPath, Load, PAYLOAD, Pace};
use wasmill_tests::postgres::{Postgres, address};
use wasmill_tests::report::{self, Budget, Report, middle, rounds};
use wasmill_tests::store_conformance::requests::{order, reader, record};

/// Number of commands in one measurement.
const COMMANDS: u64 = 50_000;
/// Number of aggregates, which get the commands in turn.
const AGGREGATES: u64 = 1_000;
const ROUNDS: usize = 5;
/// Number of hosts that share a store.
const HOSTS: u64 = 3;
/// Number of commands to one aggregate, and how many of each host are in flight.
const HOT_COMMANDS: u64 = 6_000;
const HOT_IN_FLIGHT: usize = 64;
/// Number of events that are followed from one host to another.
const FOLLOWED: usize = 500;
/// Number of rows that are numbered in one measurement.
const NUMBERED: u64 = 60_000;
/// Number of events that a large store has.
const LARGE: u64 = 1_000_000;
/// Number of rows in one statement of raw inserts, which is a transaction.
const ROWS: u64 = 1_000;

/// A benchmark and its name.
type Benchmark = (&'static str, fn(&mut Report, &Postgres));

const ALL: [Benchmark; 5] =
    [("raw", raw), ("hosts", hosts), ("follow", follow), ("growth", growth), ("numbering", numbering)];

fn main() {
    let Some(server) = Postgres::own(&["fsync = on", "max_wal_size = '4GB'", "shared_buffers = '256MB'"]) else {
        return;
    };
    let server = &server;
    report::run(ALL.map(|(name, measure)| (name, move |report: &mut Report| measure(report, server))));
}

/// Measures one host against raw inserts.
fn raw(report: &mut Report, server: &Postgres) {
    let usual = Load::new(COMMANDS, AGGREGATES);
    let [raw, wasm] = rounds(
        ROUNDS,
        [&mut || raw_inserts(&server.database(), COMMANDS), &mut || {
            CommandPath::on_postgres(&server.database()).run(&usual).rate
        }],
    );
    let (rate, baseline) = middle(&wasm, &raw);
    report.judge("postgres/raw", rate, "1/s", baseline, Budget::AtLeast(0.5));
}

/// Measures the store's way of numbering against the other one that lets no reader skip anything.
fn numbering(report: &mut Report, server: &Postgres) {
    let rate = |numbering| rows_per_second(&server.database(), numbering, NUMBERED);
    let [head_row, transaction_ids] =
        rounds(ROUNDS, [&mut || rate(Numbering::HeadRow), &mut || rate(Numbering::TransactionIds)]);
    let (rate, baseline) = middle(&head_row, &transaction_ids);
    report.ratio("postgres/numbering", rate, "1/s", baseline);
}

/// Measures three hosts on one store against one: with aggregates of their own, and all on one aggregate.
fn hosts(report: &mut Report, server: &Postgres) {
    let own = |host| Load {
        aggregates: host * AGGREGATES / HOSTS..(host + 1) * AGGREGATES / HOSTS,
        ..Load::new(COMMANDS, 0)
    };
    let hot = |_| Load { aggregates: 0..1, pace: Pace::InFlight(HOT_IN_FLIGHT), ..Load::new(HOT_COMMANDS, 0) };
    let [one, three] = rounds(
        ROUNDS,
        [&mut || together(&server.database(), [Load::new(COMMANDS, AGGREGATES)]), &mut || {
            together(&server.database(), (0..HOSTS).map(own).map(part))
        }],
    );
    let (rate, baseline) = middle(&three, &one);
    report.judge("postgres/hosts", rate, "1/s", baseline, Budget::AtLeast(0.8));
    let [one, three] = rounds(
        ROUNDS,
        [&mut || together(&server.database(), [hot(0)]), &mut || {
            together(&server.database(), (0..HOSTS).map(hot).map(part))
        }],
    );
    let (rate, baseline) = middle(&three, &one);
    report.ratio("postgres/hot", rate, "1/s", baseline);
}

/// Returns what one host of several sends of a load.
fn part(load: Load) -> Load {
    Load { commands: load.commands / HOSTS, ..load }
}

/// Returns the rate of all commands of hosts that share a store, each with a load of its own.
fn together(url: &str, loads: impl IntoIterator<Item = Load>) -> f64 {
    let hosts: Vec<_> = loads.into_iter().map(|load| (CommandPath::on_shared_postgres(url), load)).collect();
    let commands: u64 = hosts.iter().map(|(_, load)| load.commands).sum();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> = hosts.iter().map(|(path, load)| scope.spawn(move || path.run(load))).collect();
        running.into_iter().for_each(|host| _ = host.join().expect("a host ends"));
    });
    commands as f64 / started.elapsed().as_secs_f64()
}

/// Measures the time from an append on one host to the reading of its event by a follower on another one.
fn follow(report: &mut Report, server: &Postgres) {
    let url = server.database();
    let open = || PostgresStore::open_shared(&address(&url), Options::default()).expect("a store");
    let (writer, follower) = (open(), open());
    let (mut reader, mut head, mut reached) = (reader(&follower), follower.head(), Position(0));
    let runtime = Runtime::new().expect("start a runtime");
    let mut times: Vec<Duration> = (0..FOLLOWED)
        .map(|_| {
            let begun = Instant::now();
            let position = record(&writer, &order(1), 1).position;
            while reached < position {
                runtime.block_on(head.wait_for(|newest| *newest > reached)).expect("the store is open");
                reached = reader.read_all(reached, &Filter::all(), 100).expect("events are read").reached;
            }
            begun.elapsed()
        })
        .collect();
    times.sort();
    for (name, share) in [("postgres/follow-p50", 0.5), ("postgres/follow-p99", 0.99)] {
        report.figure(name, times[((FOLLOWED - 1) as f64 * share) as usize].as_secs_f64() * 1_000.0, "ms");
    }
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
