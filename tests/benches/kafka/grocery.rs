//! The whole flow: baskets from a topic, through orders, warehouse, households, notifier and sales, until the last
//! notification is visible to a `read_committed` reader and the read model has everything.
//!
//! The baseline is the flow in Kafka Streams on the same records, in turn with the host, if this machine can run it. It does less: its
//! orders are not confirmed, only loyal households are notified, and it has no read model. The clock of both starts when the first
//! basket is handled, so the start of the processes is outside of the figures.

use crate::flow::{Flow, Notifications, pid};
use crate::load::{Baskets, Expected, Loader};
use crate::streams::Streams;
use crate::usage::{cpu_seconds, memory_mib, threads};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use uuid::Uuid;
use wasmill::clock::Clock;
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::postgres::Postgres;
use wasmill_tests::report::{Report, median, middle, rounds};

const BASKETS: usize = 200_000;
/// Number of baskets in one measurement of the stores against each other, and of these.
const FEWER_BASKETS: usize = 30_000;
const ROUNDS: usize = 3;
const LINGER_MS: u32 = 20;

pub(crate) fn measure(kafka: &Kafka, report: &mut Report) {
    let streams = Streams::find();
    let [mut whole, mut second_half, mut host_cpu, mut broker_cpu] = [const { Vec::new() }; 4];
    let [mut streams_whole, mut streams_second_half, mut streams_cpu] = [const { Vec::new() }; 3];
    let microseconds = |seconds: f64| seconds * 1e6 / BASKETS as f64;
    for round in 1..=ROUNDS {
        let ran = Ran::new(kafka, BASKETS, "");
        let pid = pid(&ran.host);
        whole.push(ran.rate);
        second_half.push(ran.second_half);
        host_cpu.push(microseconds(cpu_seconds(pid)));
        if let (Some(broker), Some(before)) = (kafka.broker(), ran.broker_before) {
            broker_cpu.push(microseconds(cpu_seconds(broker) - before));
        }
        if round == ROUNDS {
            let (peak, own) = memory_mib(pid);
            report.figure("kafka/grocery/host-memory", peak, "MiB");
            for (name, seconds) in threads(pid) {
                println!("    {name:<20} {:>8.1} µs a basket", microseconds(seconds));
            }
            println!("    of the host's memory {own:.0} MiB belong to no file");
        }
        ran.host.stop();
        if let Some(streams) = &streams {
            let measured = streams.run(kafka, &ran.flow.topic, BASKETS, &ran.expected);
            streams_whole.push(measured.rate);
            streams_second_half.push(measured.second_half);
            streams_cpu.push(microseconds(measured.cpu_seconds));
        }
    }
    beside(report, "kafka/grocery", "1/s", &whole, &streams_whole);
    beside(report, "kafka/grocery/second-half", "1/s", &second_half, &streams_second_half);
    // The host's figure has the compilation of the plugins in it, and the other has no start at all.
    beside(report, "kafka/grocery/host-cpu", "µs", &host_cpu, &streams_cpu);
    if let Some(broker) = kafka.broker() {
        report.figure("kafka/grocery/broker-cpu", median(broker_cpu), "µs");
        report.figure("kafka/grocery/broker-memory", memory_mib(broker).0, "MiB");
    }
}

/// Adds a row with the baseline of the same round, or without one if nothing was measured beside it.
fn beside(report: &mut Report, name: &str, unit: &str, values: &[f64], baselines: &[f64]) {
    if baselines.is_empty() {
        return report.figure(name, median(values.to_vec()), unit);
    }
    let (value, baseline) = middle(values, baselines);
    report.ratio(name, value, unit, baseline);
}

/// Measures the flow on a store in PostgreSQL, as a ratio to the flow on the embedded store. The server shares the machine.
pub(crate) fn measure_postgres(kafka: &Kafka, report: &mut Report) {
    let Some(server) = Postgres::own(&["fsync = on", "max_wal_size = '4GB'", "shared_buffers = '256MB'"]) else {
        return;
    };
    let rate = |more: &str| Ran::new(kafka, FEWER_BASKETS, more).rate;
    let [embedded, postgres] =
        rounds(ROUNDS, [&mut || rate(""), &mut || rate(&format!("\n[store]\nurl = \"{}\"\n", server.database()))]);
    let (rate, baseline) = middle(&postgres, &embedded);
    report.ratio("postgres/flow", rate, "1/s", baseline);
}

/// A host that has done all work for its baskets, checked.
struct Ran {
    flow: Flow,
    host: TestHost,
    expected: Expected,
    /// Baskets per second, from the first one that was handled.
    rate: f64,
    /// Baskets per second after half of the notifications were visible.
    second_half: f64,
    /// The seconds of CPU of the broker before the start.
    broker_before: Option<f64>,
}

impl Ran {
    /// Loads baskets into a topic, then starts a host on it. Its manifest gets these lines too.
    fn new(kafka: &Kafka, count: usize, more: &str) -> Self {
        let baskets = Baskets::read();
        let expected = baskets.expected(count);
        // Each run has a topic of its own.
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let flow = Flow::new(kafka, &format!("grocery-{}", RUNS.fetch_add(1, Ordering::Relaxed)), more);
        let loader = Loader::new(kafka.brokers(), &flow.topic, LINGER_MS);
        baskets.records(count).for_each(|record| loader.send(&record));
        loader.flush();

        let notifications = Notifications::new(kafka);
        let broker_before = kafka.broker().map(cpu_seconds);
        let host = flow.start();
        let (mut seen, mut half) = (0, Instant::now());
        notifications.read(expected.notifications, |_| {
            seen += 1;
            if seen == expected.notifications / 2 {
                half = Instant::now();
            }
        });
        host.drained();
        let (end, since_half) = (Clock::system().now_ms(), half.elapsed());
        let rate = count as f64 * 1_000.0 / (end - first_event_ms(&host)) as f64;
        let second_half = (count - count / 2) as f64 / since_half.as_secs_f64();
        assert_eq!(found(&host), expected);
        Self { flow, host, expected, rate, second_half, broker_before }
    }
}

/// Returns when the first event was recorded, in milliseconds since 1970-01-01T00:00:00Z. Its id has that time.
fn first_event_ms(host: &TestHost) -> u64 {
    let event = host.get("/v1/events?from=1&limit=1").body;
    let id: Uuid = event["id"].as_str().expect("an id").parse().expect("a UUID");
    let (seconds, nanos) = id.get_timestamp().expect("UUIDs of version 7 have a time").to_unix();
    seconds * 1_000 + u64::from(nanos) / 1_000_000
}

/// Returns the results of the baskets as the host reports them.
fn found(host: &TestHost) -> Expected {
    let totals = host.query("sales", "totals", &json!({})).body;
    let number = |value: &Value| value.as_i64().unwrap_or_else(|| panic!("not a number in {totals}"));
    let status = host.status();
    let sinks = status["sinks"].as_array().unwrap_or_else(|| panic!("no list of sinks in {status}"));
    Expected {
        orders: number(&totals["confirmed"]) as u64,
        sales_cents: number(&totals["sales_cents"]),
        notifications: sinks.iter().map(|sink| number(&sink["published"]) as u64).sum(),
    }
}
