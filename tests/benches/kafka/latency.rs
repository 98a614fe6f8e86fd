//! The time from handing a basket to the producer until its notification is visible to a `read_committed` reader, at a
//! steady rate well below what the flow can do.
//!
//! The load is open: a basket is sent when it is due, even if earlier ones are still in flight, and its latency counts
//! from that time.

use crate::flow::{Flow, Notifications};
use crate::load::{Baskets, Loader, Record};
use rdkafka::Message as _;
use std::collections::HashMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use wasmill_tests::kafka::Kafka;
use wasmill_tests::report::Report;

/// Baskets per second.
const RATE: u32 = 1_000;
/// Number of baskets that are not counted, because caches and connections fill.
const WARM_UP: usize = 2_000;
const BASKETS: usize = 22_000;

pub(crate) fn measure(kafka: &Kafka, report: &mut Report) {
    let baskets = Baskets::read();
    let records: Vec<Record> = baskets.records(BASKETS).collect();
    let expected = baskets.expected(BASKETS);
    let flow = Flow::new(kafka, "latency", "");
    let host = flow.start();
    host.drained();
    let notifications = Notifications::new(kafka);
    let loader = Loader::new(kafka.brokers(), &flow.topic, 0);
    let (seen, visible) = mpsc::channel();
    let due = thread::scope(|scope| {
        scope.spawn(|| {
            notifications.read(expected.notifications, |message| {
                let key = message.key().unwrap_or_default().to_vec();
                seen.send((key, Instant::now())).expect("it is taken below");
            });
        });
        send_steadily(&loader, &records)
    });
    drop(seen);
    let visible: HashMap<Vec<u8>, Instant> = visible.iter().collect();
    let mut latencies: Vec<Duration> = (records.iter().zip(&due).skip(WARM_UP))
        .filter(|(record, _)| record.is_placed)
        .map(|(record, due)| visible[record.key.as_bytes()] - *due)
        .collect();
    latencies.sort();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    report.figure("kafka/latency/p50", at(0.5), "ms");
    report.figure("kafka/latency/p99", at(0.99), "ms");
    println!("    p90 {:.1} ms, p99.9 {:.1} ms, longest {:.1} ms", at(0.9), at(0.999), at(1.0));
    host.stop();
}

/// Sends each record when it is due. Returns when that was.
#[expect(clippy::disallowed_methods, reason = "the load is steady: there is nothing to wait for but the time")]
fn send_steadily(loader: &Loader, records: &[Record]) -> Vec<Instant> {
    let began = Instant::now();
    let due: Vec<Instant> =
        (0..records.len()).map(|number| began + Duration::from_secs(1) / RATE * number as u32).collect();
    for (record, due) in records.iter().zip(&due) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        loader.send(record);
    }
    loader.flush();
    due
}
