//! The whole flow: baskets from a topic, through orders, warehouse, households, notifier and sales, until the last
//! notification is visible to a `read_committed` reader and the read model has everything.

use crate::flow::{Flow, Notifications, pid};
use crate::load::{Baskets, Expected, Loader};
use crate::usage::{cpu_seconds, memory_mib, threads};
use serde_json::{Value, json};
use std::time::Instant;
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::postgres::Postgres;
use wasmill_tests::report::{Report, middle, rounds};

const BASKETS: usize = 200_000;
/// Number of baskets in one measurement of the stores against each other, and of these.
const FEWER_BASKETS: usize = 30_000;
const ROUNDS: usize = 3;
const LINGER_MS: u32 = 20;

pub(crate) fn measure(kafka: &Kafka, report: &mut Report) {
    let Ran { host, rate, broker_before, .. } = &Ran::new(kafka, BASKETS, "");

    let pid = pid(host);
    report.figure("kafka/grocery", *rate, "1/s");
    let microseconds = |seconds: f64| seconds * 1e6 / BASKETS as f64;
    report.figure("kafka/grocery/host-cpu", microseconds(cpu_seconds(pid)), "µs");
    let (peak, own) = memory_mib(pid);
    report.figure("kafka/grocery/host-memory", peak, "MiB");
    for (name, seconds) in threads(pid) {
        println!("    {name:<20} {:>8.1} µs a basket", microseconds(seconds));
    }
    println!("    of the host's memory {own:.0} MiB belong to no file");
    if let (Some(broker), Some(before)) = (kafka.broker(), *broker_before) {
        report.figure("kafka/grocery/broker-cpu", microseconds(cpu_seconds(broker) - before), "µs");
        report.figure("kafka/grocery/broker-memory", memory_mib(broker).0, "MiB");
    }
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
    _flow: Flow,
    host: TestHost,
    /// Baskets per second, from the start of the host.
    rate: f64,
    /// The seconds of CPU of the broker before the start.
    broker_before: Option<f64>,
}

impl Ran {
    /// Loads baskets into a topic, then starts a host on it. Its manifest gets these lines too.
    fn new(kafka: &Kafka, count: usize, more: &str) -> Self {
        let baskets = Baskets::read();
        let expected = baskets.expected(count);
        let flow = Flow::new(kafka, "grocery", more);
        let loader = Loader::new(kafka.brokers(), &flow.topic, LINGER_MS);
        baskets.records(count).for_each(|record| loader.send(&record));
        loader.flush();

        let notifications = Notifications::new(kafka);
        let broker_before = kafka.broker().map(cpu_seconds);
        let began = Instant::now();
        let host = flow.start();
        notifications.read(expected.notifications, |_| {});
        host.drained();
        let rate = count as f64 / began.elapsed().as_secs_f64();
        assert_eq!(found(&host), expected);
        Self { _flow: flow, host, rate, broker_before }
    }
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
