//! Messages from the outbox into a topic, 1,000 in a transaction, compared with a plain transactional producer.

use crate::records::{PARTITIONS, publish, value};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmill::ack;
use wasmill::kafka::{Connection, Sink, sink};
use wasmill::model::{Message, Position};
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore};
use wasmill::store::{EventStore, Reached, Step};
use wasmill_tests::kafka::Kafka;
use wasmill_tests::report::{Budget, Report};

const MESSAGES: usize = 200_000;
/// Number of messages in a transaction.
const BATCH: usize = 1_000;
/// Number of messages in a step of the subscription that asked for them.
const STEP: usize = 256;
const WAIT: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(1);

pub(crate) fn measure(kafka: &Kafka, report: &mut Report) {
    let baseline = publish(kafka, &kafka.topic("bare-sink", PARTITIONS), MESSAGES, BATCH);
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&folder.path().join(FILE_NAME), Options::default()).expect("a store");
    let store: Arc<dyn EventStore> = Arc::new(store);
    fill(&*store, &kafka.topic("sink", PARTITIONS));

    let connection = Connection::new(kafka.brokers(), &Default::default()).expect("a configuration");
    let settings = wasmill::manifest::Sink { batch_max: BATCH, ..Default::default() };
    let sink = Sink::start(sink::Config::new(&settings), connection, store.clone()).expect("a sink");
    let lead = published(&sink, 1);
    let began = Instant::now();
    let all = published(&sink, MESSAGES as u64);
    let rate = (all - lead) as f64 / began.elapsed().as_secs_f64();
    sink.stop();
    store.close();
    report.judge("kafka/sink", rate, "1/s", baseline, Budget::AtLeast(0.6));
}

/// Puts all messages into the outbox, as a subscription would.
fn fill(store: &dyn EventStore, topic: &str) {
    for first in (0..MESSAGES).step_by(STEP) {
        let messages = (first..MESSAGES.min(first + STEP)).map(|number| message(topic, number)).collect();
        let reached = Reached::Events { from: Position(0), to: Position(0) };
        let step = Step { messages, ..Step::new("bench".into(), reached) };
        ack::wait(|ack| store.advance(step, ack)).expect("the store takes the step");
    }
}

fn message(topic: &str, number: usize) -> Message {
    Message {
        id: format!("bench:{number}:0").into(),
        topic: topic.to_owned(),
        key: Some(format!("key-{}", number % 10_000).into_bytes()),
        partition: None,
        headers: Vec::new(),
        payload: Some(value()),
        time_ms: 0,
        correlation_id: format!("bench-{number}").into(),
        causation_id: format!("bench-{number}").into(),
        hops: 0,
        source: "bench".into(),
    }
}

/// Waits until this many messages are published. Returns how many are.
fn published(sink: &Sink, count: u64) -> u64 {
    let deadline = Instant::now() + WAIT;
    loop {
        let status = sink.status();
        if status.published >= count {
            return status.published;
        }
        assert!(Instant::now() < deadline, "{} of {count} messages: {:?}", status.published, status.error);
        std::thread::park_timeout(LOOK);
    }
}
