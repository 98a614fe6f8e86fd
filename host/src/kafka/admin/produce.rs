//! The production of records to a topic, in order, each acknowledged by all in-sync replicas.
//!
//! Sending does not wait for acknowledgements; [`Producer::finish`] does. After the first record that Kafka does not
//! accept, nothing more is sent.

use crate::kafka::admin::Admin;
use crate::kafka::context::Context;
use crate::kafka::deliveries::{Deliveries, DeliveryContext};
use crate::kafka::{Connection, Error, client_error, error_hints, message};
use crate::model::Header;
use crate::supervise::Held as _;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The longest wait for an acknowledgement before the next check. It is only a safeguard, because each one wakes the
/// sender.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A record to be produced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// The partition; `None` leaves the choice to the partitioner.
    pub partition: Option<i32>,
    /// The key, which may be any bytes.
    pub key: Option<Vec<u8>>,
    /// The value, which may be any bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in this order. Names may repeat.
    pub headers: Vec<Header>,
    /// The timestamp in milliseconds since 1970-01-01T00:00:00Z; `None` is now.
    pub time_ms: Option<u64>,
}

/// A record that Kafka did not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTaken {
    /// The number that its sender gave it.
    pub number: u64,
    /// The topic, the cause and the remedy.
    pub error: String,
}

/// A producer for one topic.
pub struct Producer {
    topic: String,
    producer: ThreadedProducer<DeliveryContext<Arc<Shared>>>,
    counts: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    pending: u64,
    acknowledged: u64,
    /// The failed record with the lowest number.
    not_taken: Option<(u64, RDKafkaErrorCode)>,
}

impl Producer {
    /// Creates a producer for an existing topic.
    pub fn new(admin: &Admin, topic: &str) -> Result<Self, Error> {
        if !admin.connection.is_embedded() {
            admin.partitions(topic)?;
        }
        let counts = Arc::new(Shared::default());
        let context = Context::new("produce", admin.client.client().context().health().clone());
        let context = DeliveryContext { context, deliveries: counts.clone() };
        let config = config(&admin.connection);
        let producer = config.create_with_context(context).map_err(|error| client_error("produce", error))?;
        Ok(Self { topic: topic.to_owned(), producer, counts })
    }

    /// Hands a record over. This waits while the producer's queue is full. It returns false after Kafka did not accept
    /// a record, and then [`Producer::finish`] says which one.
    pub fn send(&self, number: u64, record: &NewRecord) -> bool {
        loop {
            let mut counts = self.counts.counts.held();
            if counts.not_taken.is_some() {
                return false;
            }
            counts.pending += 1;
            drop(counts);
            let Err((error, _)) = self.producer.send(native(&self.topic, number, record)) else { return true };
            let mut counts = self.counts.counts.held();
            counts.pending -= 1;
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => drop(self.counts.changed.wait_timeout(counts, LOOK_EVERY)),
                code => counts.note(number, code.unwrap_or(RDKafkaErrorCode::InvalidArgument)),
            }
        }
    }

    /// Waits until each record is acknowledged or has failed. Returns the number of acknowledged records, and the first
    /// one that failed.
    pub fn finish(self) -> (u64, Option<NotTaken>) {
        // librdkafka's own flush would wait in steps of 100 ms, and the records are sent without it.
        let mut counts = self.counts.counts.held();
        while counts.pending > 0 {
            counts = self.counts.changed.wait_timeout(counts, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        let not_taken = counts.not_taken.map(|(number, code)| {
            let trouble = self.producer.context().context.health().trouble();
            let cause = match (code, trouble) {
                (RDKafkaErrorCode::MessageTimedOut, Some(trouble)) => trouble,
                (code, _) => error_hints::answer(code),
            };
            NotTaken { number, error: format!("topic {}: {cause}", self.topic) }
        });
        (counts.acknowledged, not_taken)
    }
}

impl Counts {
    fn note(&mut self, number: u64, code: RDKafkaErrorCode) {
        if self.not_taken.is_none_or(|(first, _)| number < first) {
            self.not_taken = Some((number, code));
        }
    }
}

fn config(connection: &Connection) -> rdkafka::ClientConfig {
    let mut config = connection.producer("produce");
    config.set("client.id", "wasmill-produce").set("message.timeout.ms", "30000").set("linger.ms", "5");
    config
}

fn native<'a>(topic: &'a str, number: u64, record: &'a NewRecord) -> BaseRecord<'a, [u8], [u8], usize> {
    let mut native = BaseRecord::with_opaque_to(topic, number as usize);
    native.partition = record.partition;
    native.key = record.key.as_deref();
    native.payload = record.value.as_deref();
    native.timestamp = record.time_ms.and_then(|time_ms| i64::try_from(time_ms).ok());
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        native.headers = Some(message::insert(headers, record.headers.iter()));
    }
    native
}

impl Deliveries for Arc<Shared> {
    fn ended(&self, _: &Context, number: usize, failure: Option<RDKafkaErrorCode>) {
        let mut counts = self.counts.held();
        counts.pending -= 1;
        match failure {
            None => counts.acknowledged += 1,
            Some(code) => counts.note(number as u64, code),
        }
        self.changed.notify_all();
    }
}
