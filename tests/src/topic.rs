//! Records into a Kafka topic.

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::time::Duration;

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
    producer.flush(Duration::from_secs(30)).expect("Kafka takes the records");
}
