//! The whole flow: baskets from a topic, through orders, warehouse, households, notifier and sales, until the last
//! notification is visible to a `read_committed` reader and the read model has everything.

use crate::flow::{Flow, Notifications, pid};
use crate::load::{Baskets, Expected, Loader};
use crate::usage::{cpu_seconds, memory_mib, threads};
use serde_json::{Value, json};
use std::time::Instant;
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::report::Report;

const BASKETS: usize = 200_000;
const LINGER_MS: u32 = 20;

pub(crate) fn measure(kafka: &Kafka, report: &mut Report) {
    let baskets = Baskets::read();
    let expected = baskets.expected(BASKETS);
    let flow = Flow::new(kafka, "grocery");
    let loader = Loader::new(kafka.brokers(), &flow.topic, LINGER_MS);
    baskets.records(BASKETS).for_each(|record| loader.send(&record));
    loader.flush();

    let notifications = Notifications::new(kafka);
    let broker_before = kafka.broker().map(cpu_seconds);
    let began = Instant::now();
    let host = flow.start();
    notifications.read(expected.notifications, |_| {});
    host.drained();
    let elapsed = began.elapsed().as_secs_f64();
    assert_eq!(found(&host), expected);

    let pid = pid(&host);
    report.figure("kafka/grocery", BASKETS as f64 / elapsed, "1/s");
    let microseconds = |seconds: f64| seconds * 1e6 / BASKETS as f64;
    report.figure("kafka/grocery/host-cpu", microseconds(cpu_seconds(pid)), "µs");
    let (peak, own) = memory_mib(pid);
    report.figure("kafka/grocery/host-memory", peak, "MiB");
    for (name, seconds) in threads(pid) {
        println!("    {name:<20} {:>8.1} µs a basket", microseconds(seconds));
    }
    println!("    of the host's memory {own:.0} MiB belong to no file");
    if let (Some(broker), Some(before)) = (kafka.broker(), broker_before) {
        report.figure("kafka/grocery/broker-cpu", microseconds(cpu_seconds(broker) - before), "µs");
        report.figure("kafka/grocery/broker-memory", memory_mib(broker).0, "MiB");
    }
    host.stop();
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
