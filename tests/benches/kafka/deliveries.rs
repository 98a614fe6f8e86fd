//! Records to a subscriber in WebAssembly: one that does nothing, through the event store, and one that passes them on,
//! in Kafka transactions. The baselines are plain clients that do the same.

use crate::records::{consume, pass_on, produce};
use std::time::{Duration, Instant};
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::report::{Budget, Report, middle, rounds};
use wasmill_tests::setting::Setting;

const RECORDS: usize = 2_000_000;
/// Batch sizes, each with the number of records. Small batches get fewer, because every transaction takes some time.
const BATCHES: [(usize, usize); 3] = [(1, 1_000), (100, 50_000), (1_000, 1_000_000)];
/// Number of measurements of one thing, in turn with its baseline.
const ROUNDS: usize = 5;
/// Divisor of the records: this share is not timed, because the host still starts and compiles the plugin.
const LEAD: usize = 10;
const WAIT: Duration = Duration::from_secs(300);

pub(crate) fn subscriber(kafka: &Kafka, report: &mut Report) {
    let topic = produce(kafka, "subscriber", RECORDS, None);
    let [bare, hosted] =
        rounds(ROUNDS, [&mut || consume(kafka, &topic, RECORDS), &mut || hosted(&relay(kafka, &topic, ""), RECORDS)]);
    let (rate, baseline) = middle(&hosted, &bare);
    report.judge("kafka/subscriber", rate, "1/s", baseline, Budget::AtLeast(0.4));
}

pub(crate) fn transform(kafka: &Kafka, report: &mut Report) {
    for (batch_max, records) in BATCHES {
        let name = format!("transform-{batch_max}");
        let out = kafka.topic(&format!("{name}-out"), 2);
        let topic = produce(kafka, &name, records, Some(&out));
        let dead = kafka.topic(&format!("{name}-dead"), 1);
        let mut round = 0;
        let mut of_host = || {
            round += 1;
            let source = format!(
                "transaction = \"kafka\"\nbatch_max = {batch_max}\ndead_letter_topic = \"{dead}\"\ngroup = \"{topic}-{round}\"\n"
            );
            hosted(&relay(kafka, &topic, &source), records)
        };
        let [bare, hosted] = rounds(ROUNDS, [&mut || pass_on(kafka, &topic, &out, records, batch_max), &mut of_host]);
        let (rate, baseline) = middle(&hosted, &bare);
        report.judge(&format!("kafka/transform/{batch_max}"), rate, "1/s", baseline, Budget::AtLeast(0.7));
    }
}

/// Returns the records per second of a new host.
fn hosted(setting: &Setting, records: usize) -> f64 {
    let host = setting.start();
    let rate = rate(&host, records);
    host.stop();
    rate
}

/// Makes the setting of a host whose only work is to hand the topic's records to the plugin `relay`.
fn relay(kafka: &Kafka, topic: &str, source: &str) -> Setting {
    Setting::new(&format!(
        "[kafka]\nbrokers = \"{}\"\n[plugins.relay]\nfile = \"PLUGINS/relay.wasm\"\n\
         [sources.records]\ntopic = \"{topic}\"\nsubscriber = \"relay\"\n{source}",
        kafka.brokers()
    ))
}

/// Returns the records per second, measured from when the host is at work.
pub(crate) fn rate(host: &TestHost, records: usize) -> f64 {
    let lead = until_handled(host, records / LEAD);
    let began = Instant::now();
    let all = until_handled(host, records);
    (all - lead) as f64 / began.elapsed().as_secs_f64()
}

/// Waits until this many records are settled. Returns how many are.
fn until_handled(host: &TestHost, records: usize) -> usize {
    let deadline = Instant::now() + WAIT;
    loop {
        let progress = host.get(&format!("/v1/sources/records/wait?handled={records}&timeout_ms=10000"));
        let handled = progress.body["handled"].as_u64().unwrap_or_else(|| panic!("no progress: {progress:?}")) as usize;
        if handled >= records {
            return handled;
        }
        assert!(Instant::now() < deadline, "{handled} of {records} records: {:#}", host.status());
    }
}
