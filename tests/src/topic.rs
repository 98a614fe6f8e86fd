//! Writing records to a Kafka topic, reading them, and counting those that hosts have settled.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(120);

/// Produces records to one partition, in order, and waits until Kafka has them.
pub fn produce(brokers: &str, topic: &str, partition: i32, records: &[(Option<&[u8]>, &[u8])]) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("make a producer");
    for (key, value) in records {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value);
        if let Some(key) = key {
            record = record.key(key);
        }
        producer.send(record).map_err(|(error, _)| error).expect("produce a record");
    }
    producer.flush(Duration::from_secs(120)).expect("Kafka takes the records");
}

/// Produces JSON by key, each record once, to the partitions that the Java clients would choose, and waits until Kafka
/// has it.
pub fn produce_keyed(brokers: &str, topic: &str, records: &[(String, Value)]) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("partitioner", "murmur2_random");
    // A broker that goes away in between may have records that it did not acknowledge; they must not be written twice.
    config.set("enable.idempotence", "true");
    let producer: BaseProducer = config.create().expect("make a producer");
    for (key, value) in records {
        let payload = value.to_string();
        let record = BaseRecord::to(topic).key(key).payload(&payload);
        producer.send(record).map_err(|(error, _)| error).expect("produce a record");
    }
    producer.flush(WAIT).expect("Kafka takes the records");
}

/// Produces records in a transaction that is aborted.
pub fn abort(brokers: &str, topic: &str, partition: i32, records: usize) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("transactional.id", format!("aborts-{topic}"));
    let producer: BaseProducer = config.create().expect("make a producer");
    producer.init_transactions(WAIT).expect("start transactions");
    producer.begin_transaction().expect("begin a transaction");
    for _ in 0..records {
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(b"aborted");
        producer.send(record).map_err(|(error, _)| error).expect("produce a record");
    }
    producer.flush(WAIT).expect("Kafka takes the records");
    producer.abort_transaction(WAIT).expect("abort the transaction");
}

/// A record as a consumer reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its value.
    pub value: Option<Vec<u8>>,
}

impl Read {
    /// Returns the value of a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = self.headers.iter().find(|(other, _)| other == name)?.1.as_deref()?;
        std::str::from_utf8(value).ok()
    }
}

/// Reads this many committed records of all partitions of a topic, from its beginning.
pub fn read(brokers: &str, topic: &str, count: usize) -> Vec<Read> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "wasmill-tests").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.set("enable.auto.commit", "false").create().expect("make a consumer");
    let deadline = Instant::now() + WAIT;
    let mut partitions = TopicPartitionList::new();
    while partitions.count() == 0 {
        let metadata = consumer.fetch_metadata(Some(topic), WAIT).expect("Kafka answers");
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let added = partitions.add_partition_offset(topic, partition.id(), Offset::Beginning);
            added.expect("the offset is one");
        }
        assert!(Instant::now() < deadline, "there is no topic {topic}");
    }
    consumer.assign(&partitions).expect("assign all partitions");
    let mut found = Vec::new();
    while found.len() < count {
        assert!(Instant::now() < deadline, "{} records of {count} in topic {topic}", found.len());
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            found.push(owned(&record.expect("read a record")));
        }
    }
    found
}

fn owned(record: &impl Message) -> Read {
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    Read {
        key: record.key().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
        value: record.payload().map(<[u8]>::to_vec),
    }
}

/// Returns how many records of a source are settled, by what several hosts say about it. A host that has lost a partition does not know what
/// others have settled there since.
pub fn settled(sources: impl IntoIterator<Item = Value>) -> u64 {
    let mut next = BTreeMap::<(String, Option<u64>), u64>::new();
    for source in sources {
        for partition in source["partitions"].as_array().into_iter().flatten() {
            let known = next.entry((partition["topic"].to_string(), partition["partition"].as_u64())).or_default();
            *known = (*known).max(partition["next"].as_u64().expect("an offset"));
        }
    }
    next.values().sum()
}
