//! Small records for the benchmarks that pass them on or do nothing with them, and plain clients that do the same.

use crate::load::Loader;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use std::time::{Duration, Instant};
use wasmill_tests::kafka::Kafka;

pub(crate) const PARTITIONS: i32 = 6;
/// The value of a record.
const VALUE: &[u8] = &[b'v'; 100];
const LINGER_MS: u32 = 20;
const ANSWER_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// Interval at which a producer is polled while messages are in flight.
const LOOK: Duration = Duration::from_millis(1);

/// Makes a topic with this many records of 100 bytes. `to` is the header for the plugin `relay`.
pub(crate) fn produce(kafka: &Kafka, name: &str, count: usize, to: Option<&str>) -> String {
    let topic = kafka.topic(name, PARTITIONS);
    let loader = Loader::new(kafka.brokers(), &topic, LINGER_MS);
    for number in 0..count {
        let key = format!("key-{}", number % 10_000);
        let mut record = BaseRecord::to(&topic).key(key.as_bytes()).payload(VALUE);
        if let Some(to) = to {
            record = record.headers(OwnedHeaders::new().insert(Header { key: "to", value: Some(to) }));
        }
        loader.send_record(record);
    }
    loader.flush();
    topic
}

/// Returns the records per second that a plain client takes from a topic.
pub(crate) fn consume(kafka: &Kafka, topic: &str, count: usize) -> f64 {
    let consumer = consumer(kafka, topic, "wasmill-bench");
    let mut began = None;
    for _ in 0..count {
        let record = next(&consumer);
        std::hint::black_box(record.payload());
        began.get_or_insert_with(Instant::now);
    }
    count as f64 / began.expect("there are records").elapsed().as_secs_f64()
}

/// Headers as long as those of a host's message: a CloudEvent, its causes, and its hops.
const HEADERS: [(&str, &str); 9] = [
    ("ce_id", "relay/transform-1000-0/3/166667/0"),
    ("ce_source", "urn:uuid:0199f2a7-7d0c-7a52-9d3f-3d1c5f6a7b8c#relay"),
    ("ce_specversion", "1.0"),
    ("ce_type", "wasmill.message"),
    ("ce_time", "2026-11-27T12:00:00.000Z"),
    ("correlation-id", "transform-1000-0:3:166667"),
    ("causation-id", "transform-1000-0:3:166667"),
    ("content-type", "application/json"),
    ("wasmill-hops", "1"),
];

fn headers() -> OwnedHeaders {
    let headers = OwnedHeaders::new_with_capacity(HEADERS.len());
    HEADERS.iter().fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(*value) }))
}

/// Returns the records per second that plain clients pass on, each batch in a transaction with its offsets. The records
/// are as large as those of a host.
pub(crate) fn pass_on(kafka: &Kafka, topic: &str, to: &str, count: usize, batch_max: usize) -> f64 {
    let group = format!("bare-{to}-{batch_max}");
    let consumer = consumer(kafka, topic, &group);
    let producer = transactional_producer(kafka, &group);
    producer.init_transactions(ANSWER_MAX).expect("Kafka has transactions");
    let mut began = None;
    let mut passed = 0;
    while passed < count {
        let mut offsets = TopicPartitionList::new();
        let mut batch = Vec::with_capacity(batch_max);
        while batch.len() < batch_max.min(count - passed) {
            batch.push(next(&consumer));
        }
        began.get_or_insert_with(Instant::now);
        producer.begin_transaction().expect("begin a transaction");
        for record in &batch {
            let message = BaseRecord::to(to).key(record.key().unwrap_or_default()).headers(headers());
            send(&producer, message.payload(record.payload().unwrap_or_default()));
            let next = Offset::Offset(record.offset() + 1);
            match offsets.find_partition(topic, record.partition()) {
                Some(mut known) => known.set_offset(next).expect("an offset"),
                None => offsets.add_partition_offset(topic, record.partition(), next).expect("an offset"),
            }
        }
        let member = consumer.group_metadata().expect("the consumer has a group");
        deliver(&producer);
        producer.send_offsets_to_transaction(&offsets, &member, ANSWER_MAX).expect("Kafka takes the offsets");
        producer.commit_transaction(ANSWER_MAX).expect("commit a transaction");
        passed += batch.len();
    }
    count as f64 / began.expect("there are records").elapsed().as_secs_f64()
}

/// Returns the messages per second of a plain transactional producer.
pub(crate) fn publish(kafka: &Kafka, topic: &str, count: usize, batch_max: usize) -> f64 {
    let producer = transactional_producer(kafka, topic);
    producer.init_transactions(ANSWER_MAX).expect("Kafka has transactions");
    let began = Instant::now();
    for first in (0..count).step_by(batch_max) {
        producer.begin_transaction().expect("begin a transaction");
        for number in first..count.min(first + batch_max) {
            let key = format!("key-{}", number % 10_000);
            send(&producer, BaseRecord::to(topic).key(key.as_bytes()).payload(VALUE));
        }
        deliver(&producer);
        producer.commit_transaction(ANSWER_MAX).expect("commit a transaction");
    }
    count as f64 / began.elapsed().as_secs_f64()
}

/// Makes the value of a message.
pub(crate) fn value() -> Vec<u8> {
    VALUE.to_vec()
}

fn consumer(kafka: &Kafka, topic: &str, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers()).set("group.id", group).set("enable.auto.commit", "false");
    config.set("fetch.queue.backoff.ms", "20").set("socket.nagle.disable", "true");
    let consumer: BaseConsumer = config.create().expect("make a consumer");
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
    }
    consumer.assign(&partitions).expect("assign the partitions");
    consumer
}

fn next(consumer: &BaseConsumer) -> BorrowedMessage<'_> {
    let deadline = Instant::now() + ANSWER_MAX;
    loop {
        match consumer.poll(POLL) {
            Some(Ok(record)) => return record,
            _ => assert!(Instant::now() < deadline, "the topic has fewer records than were put there"),
        }
    }
}

fn transactional_producer(kafka: &Kafka, id: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers()).set("transactional.id", id).set("linger.ms", "1");
    config.set("retry.backoff.ms", "1").set("socket.nagle.disable", "true").set("partitioner", "murmur2_random");
    config.create().expect("make a producer")
}

fn send(producer: &BaseProducer, mut record: BaseRecord<'_, [u8], [u8]>) {
    while let Err((error, again)) = producer.send(record) {
        assert!(matches!(error, KafkaError::MessageProduction(_)), "{error}");
        record = again;
        producer.poll(LOOK);
    }
}

/// Waits until nothing is in flight, because `commit_transaction` would wait in steps of 100 ms.
fn deliver(producer: &BaseProducer) {
    while producer.in_flight_count() > 0 {
        producer.poll(LOOK);
    }
}
