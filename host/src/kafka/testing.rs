//! Test fixtures: librdkafka's mock cluster, the SQLite store, and an inbox that records one event for each command.

use super::Connection;
use super::dev_broker::tests::broker_at;
use crate::ack::{self, Ack};
use crate::aggregates::{Inbox, Unaccepted};
use crate::filter::Filter;
use crate::model::*;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Append, DeadLetterQuery, Decision, EventStore};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message as _, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Waits for a condition. On a time-out the test fails with `what` it waited for.
pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A mock broker for one test.
pub(super) struct Broker {
    pub(super) cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Broker {
    pub(super) fn with_topic(topic: &str, partitions: i32) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(topic, partitions, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers()).set("linger.ms", "0");
        Self { producer: config.create().unwrap(), cluster }
    }

    pub(super) fn connection(&self, properties: &[(&str, &str)]) -> Connection {
        let properties: BTreeMap<_, _> = properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Connection::of_dev_broker(&properties.into()).unwrap().at(&broker_at(&self.cluster.bootstrap_servers()))
    }

    /// Connects to the same broker as to a cluster with transactions. The broker does not keep the offsets in
    /// transactions, and does not hide aborted messages.
    pub(super) fn cluster_connection(&self, properties: &[(&str, &str)]) -> Connection {
        let properties: BTreeMap<_, _> = properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Connection::new(&self.cluster.bootstrap_servers(), &properties.into()).unwrap()
    }

    /// Makes the broker answer the next requests of a kind with these errors, one for each.
    pub(super) fn answers(&self, api: RDKafkaApiKey, errors: &[RDKafkaRespErr]) {
        self.cluster.request_errors(api, errors);
    }

    /// Connects to the same broker as to a durable cluster, which is identified by its id, as are its topics.
    pub(super) fn real_connection(&self, properties: &[(&str, &str)]) -> Connection {
        let mut all = vec![("fetch.wait.max.ms", "5")];
        all.extend(properties);
        let properties: BTreeMap<_, _> = all.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Connection::new(&self.cluster.bootstrap_servers(), &properties.into()).unwrap()
    }

    pub(super) fn produce(&self, topic: &str, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition);
        (record.key, record.payload) = (key, value);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
    }

    /// Produces a record with headers whose names may be any bytes.
    pub(super) fn produce_with(&self, topic: &str, key: &[u8], headers: &[(&[u8], &[u8])]) {
        use rdkafka::bindings::{rd_kafka_header_add, rd_kafka_headers_t};
        let native = OwnedHeaders::new();
        for (name, value) in headers {
            // SAFETY: rdkafka's headers are a reference to librdkafka's; names and values are copied.
            unsafe {
                let native = native.as_borrowed() as *const _ as *mut rd_kafka_headers_t;
                rd_kafka_header_add(
                    native,
                    name.as_ptr().cast(),
                    name.len() as isize,
                    value.as_ptr().cast(),
                    value.len() as isize,
                );
            }
        }
        let record = BaseRecord::to(topic).partition(0).key(key).payload(&b"{}"[..]).headers(native);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
    }

    pub(super) fn flush(&self) {
        self.producer.flush(Duration::from_secs(20)).unwrap();
    }

    /// Returns value and headers of all records in partition 0 of a topic, once there are at least `count`.
    pub(super) fn consume(&self, topic: &str, count: usize) -> Vec<(String, Vec<(String, String)>)> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", "test");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&partitions).unwrap();
        let mut records = Vec::new();
        eventually("records in the topic", || {
            while let Some(Ok(record)) = consumer.poll(Duration::from_millis(20)) {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = super::headers::of(&record, &Default::default()).list.into_iter();
                let headers = headers.map(|header| (header.name, text(&header.value.unwrap_or_default()))).collect();
                records.push((text(record.payload().unwrap_or_default()), headers));
            }
            records.len() >= count
        });
        records
    }
}

/// Returns a message to partition 0 of a topic.
pub(super) fn message(topic: &str) -> Message {
    Message {
        id: "m".into(),
        topic: topic.into(),
        key: None,
        partition: Some(0),
        headers: Vec::new(),
        payload: Some(b"m".to_vec()),
        time_ms: 0,
        correlation_id: "c".into(),
        causation_id: "c".into(),
        hops: 0,
        source: "test".into(),
    }
}

/// A store in a temporary folder.
pub(super) struct Folder {
    folder: tempfile::TempDir,
    pub(super) store: Arc<dyn EventStore>,
}

impl Folder {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(&folder.path().join("store.db"), options).unwrap());
        Self { folder, store }
    }

    /// Closes the store and opens it again, as a new process would.
    pub(super) fn reopen(self) -> Self {
        let Self { folder, store } = self;
        store.close();
        drop(store);
        let store = Arc::new(SqliteStore::open(&folder.path().join("store.db"), Options::default()).unwrap());
        Self { folder, store }
    }

    /// Records an event that a subscription can handle.
    pub(super) fn record_event(&self) {
        let id: Arc<str> = "event".into();
        let command = Command {
            stream: StreamId::new("order", "b1"),
            name: "CreateOrder".into(),
            payload: Vec::new(),
            id: id.clone(),
            time_ms: 0,
            correlation_id: id.clone(),
            causation_id: id,
            headers: Vec::new(),
            origin: None,
            durable_id: false,
            outcome_use: Default::default(),
            first_ms: None,
            hops: 0,
            expected: None,
        };
        let decision = Decision::Events(vec![NewEvent { name: "OrderCreated".into(), payload: Vec::new() }]);
        let append = Append { command: command.into(), expected: ExpectedVersion::Any, decision, chain: None };
        ack::wait(|ack| self.store.append(append, ack)).unwrap();
    }

    pub(super) fn events(&self) -> Vec<RecordedEvent> {
        self.store.reader().unwrap().read_all(Position(0), &Filter::all(), 1_000_000).unwrap().events
    }

    pub(super) fn dead_letters(&self) -> Vec<DeadLetter> {
        let letters = self.store.reader().unwrap().dead_letters(&DeadLetterQuery::newest(1_000)).unwrap().0;
        letters.into_iter().map(|kept| kept.letter).collect()
    }
}

/// How the inbox treats the next commands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// It records an event for each.
    Willing,
    /// It is full.
    Full,
    /// It accepts them and drops every third with its acknowledgement.
    Forgetful,
    /// It accepts them and fails.
    Failing,
    /// It serves no aggregate of their type.
    Foreign,
    /// It accepts them and keeps them until they are released.
    Silent,
}

/// An inbox that records one event for each command.
pub(super) struct Recorder {
    store: Arc<dyn EventStore>,
    pub(super) mood: Mutex<Mood>,
    offered: AtomicUsize,
    kept: Mutex<Vec<(Arc<Command>, Ack<Outcome>)>>,
}

impl Recorder {
    pub(super) fn new(store: &Arc<dyn EventStore>, mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            mood: Mutex::new(mood),
            offered: AtomicUsize::new(0),
            kept: Mutex::default(),
        })
    }

    pub(super) fn offered(&self) -> usize {
        self.offered.load(Ordering::SeqCst)
    }

    /// Records an event for each command that it has kept.
    pub(super) fn release(&self) {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        kept.into_iter().for_each(|(command, ack)| self.record(command, ack));
    }

    fn record(&self, command: Arc<Command>, ack: Ack<Outcome>) {
        let event = NewEvent { name: "Taken".into(), payload: command.payload.clone() };
        let append =
            Append { command, expected: ExpectedVersion::Any, decision: Decision::Events(vec![event]), chain: None };
        let recorded = |result: Result<crate::store::Appended, crate::store::Error>| {
            ack.give(match result {
                Ok(appended) => Outcome::Accepted { version: appended.version, position: appended.position, events: 1 },
                Err(error) => Outcome::Failed { reason: error.to_string() },
            });
        };
        self.store.append(append, Ack::new(recorded));
    }
}

impl Inbox for Recorder {
    fn offer(&self, command: Arc<Command>, ack: Ack<Outcome>) -> Result<(), Unaccepted> {
        let number = self.offered.fetch_add(1, Ordering::SeqCst);
        match *self.mood.lock().unwrap() {
            Mood::Full => return Err(Unaccepted::Full(command, ack)),
            Mood::Foreign => {
                return Err(Unaccepted::NoSuchAggregate { known: vec!["cart".into()], command, ack });
            }
            Mood::Forgetful if number.is_multiple_of(3) => drop(ack),
            Mood::Failing => ack.give(Outcome::Failed { reason: "the disk is full".into() }),
            Mood::Silent => self.kept.lock().unwrap().push((command, ack)),
            Mood::Willing | Mood::Forgetful => self.record(command, ack),
        }
        Ok(())
    }
}
