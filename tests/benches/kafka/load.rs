//! Baskets for the benchmarks: those of a file, repeated as often as needed, each time with new ids.

use flate2::read::MultiGzDecoder;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::time::Duration;
use wasmill_tests::built;

/// Environment variable that names a gzip file with one basket per line, in place of the example's.
const FILE: &str = "WASMILL_BENCH_BASKETS";
/// Total of its purchases from which a household is loyal.
const LOYAL_CENTS: i64 = 50_000;
const POLL: Duration = Duration::from_millis(2);
const DELIVERED_MAX: Duration = Duration::from_secs(60);

/// A file of baskets.
pub(crate) struct Baskets {
    lines: Vec<Value>,
}

/// A basket as a Kafka record.
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    /// Whether it becomes an order. The others are rejected.
    pub(crate) is_placed: bool,
}

/// Expected results of baskets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) orders: u64,
    pub(crate) sales_cents: i64,
    pub(crate) notifications: u64,
}

impl Baskets {
    pub(crate) fn read() -> Self {
        let file = std::env::var_os(FILE).map_or_else(|| built::grocery().join("data/baskets.jsonl.gz"), PathBuf::from);
        let file = File::open(&file).unwrap_or_else(|error| panic!("open {}: {error}", file.display()));
        let lines = BufReader::new(MultiGzDecoder::new(file)).lines();
        let lines = lines.map(|line| serde_json::from_str(&line.expect("read a basket")).expect("a basket is JSON"));
        Self { lines: lines.collect() }
    }

    /// Returns this many records: the file again and again, each copy with baskets and households of its own.
    pub(crate) fn records(&self, count: usize) -> impl Iterator<Item = Record> {
        (0..).flat_map(move |copy| self.lines.iter().map(move |line| record(line, copy))).take(count)
    }

    /// Returns the expected results of this many records, computed without a host.
    pub(crate) fn expected(&self, count: usize) -> Expected {
        let mut expected = Expected::default();
        let mut households: HashMap<(usize, &str), i64> = HashMap::new();
        let numbered = (0..).flat_map(|copy| self.lines.iter().map(move |line| (copy, line))).take(count);
        for (copy, line) in numbered.filter(|(_, line)| is_placed(line)) {
            let cents: i64 = items(line).map(|item| item["amount_cents"].as_i64().expect("an amount")).sum();
            expected.orders += 1;
            expected.sales_cents += cents;
            *households.entry((copy, line["household_id"].as_str().expect("an id"))).or_default() += cents;
        }
        let loyal = households.values().filter(|cents| **cents >= LOYAL_CENTS).count() as u64;
        Expected { notifications: expected.orders + loyal, ..expected }
    }
}

fn record(line: &Value, copy: usize) -> Record {
    let mut basket = line.clone();
    for id in ["basket_id", "household_id"] {
        basket[id] = format!("{}-{copy}", basket[id].as_str().expect("an id")).into();
    }
    let key = basket["basket_id"].as_str().expect("it was just set").to_owned();
    Record { key, is_placed: is_placed(line), value: serde_json::to_vec(&basket).expect("a basket is JSON") }
}

fn is_placed(basket: &Value) -> bool {
    let quantities: Vec<_> = items(basket).map(|item| item["quantity"].as_i64().expect("a quantity")).collect();
    !quantities.is_empty() && quantities.iter().all(|quantity| *quantity >= 1)
}

fn items(basket: &Value) -> impl Iterator<Item = &Value> {
    basket["items"].as_array().expect("a basket has items").iter()
}

/// A producer of baskets to one topic.
pub(crate) struct Loader {
    kafka: BaseProducer,
    topic: String,
}

impl Loader {
    /// Makes a producer. `linger_ms` is how long a record may wait for others.
    pub(crate) fn new(brokers: &str, topic: &str, linger_ms: u32) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("enable.idempotence", "true").set("socket.nagle.disable", "true");
        config.set("partitioner", "murmur2_random").set("linger.ms", linger_ms.to_string());
        Self { kafka: config.create().expect("make a producer"), topic: topic.to_owned() }
    }

    /// Hands a record to the client.
    pub(crate) fn send(&self, record: &Record) {
        self.send_record(BaseRecord::to(&self.topic).key(record.key.as_bytes()).payload(&record.value[..]));
    }

    /// Hands any record to the client.
    pub(crate) fn send_record(&self, mut message: BaseRecord<'_, [u8], [u8]>) {
        while let Err((error, again)) = self.kafka.send(message) {
            assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
            message = again;
            self.kafka.poll(POLL);
        }
        self.kafka.poll(Duration::ZERO);
    }

    /// Waits until Kafka has everything.
    pub(crate) fn flush(&self) {
        self.kafka.flush(DELIVERED_MAX).expect("Kafka takes the records");
    }
}
