//! Sinks on a real broker: `read_committed` readers see each message exactly once, whatever happens to the host.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmill::filter::Filter;
use wasmill::kafka::{Connection, Sink, sink};
use wasmill::manifest::{EventSink, SinkKey, Start};
use wasmill::model::{Message, Position};
use wasmill::status::{SinkStatus, State};
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore};
use wasmill::store::{EventStore, Step};
use wasmill_tests::kafka::Kafka;
use wasmill_tests::postgres::Postgres;
use wasmill_tests::store_conformance::requests;
use wasmill_tests::{baskets, built};

const WAIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

/// Runs the demo on the cluster, and checks its figures and messages.
fn run_demo(kafka: &Kafka, args: &[&str]) {
    let before = kafka.ends("notifications");
    let mut demo = Command::new(built::program("grocery-demo"));
    let figures = baskets::demo_figures(demo.args(args).args(["--brokers", kafka.brokers()]));
    let expected = baskets::figures(&built::grocery().join("data/baskets.jsonl.gz"));
    assert_eq!(figures, expected);
    let before = |partition: i32| before.get(partition as usize).copied().unwrap_or(0);
    let read = kafka.read_committed("notifications").into_iter();
    let ids: Vec<String> = read.filter(|shown| shown.offset >= before(shown.partition)).map(|shown| shown.id).collect();
    assert_eq!(ids.len() as u64, expected["notifications"].as_u64().unwrap(), "records, not distinct ids");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
}

#[test]
fn crashes_of_one_host_or_of_one_of_several_neither_lose_nor_repeat_a_message() {
    let Some(kafka) = Kafka::shared() else { return };
    run_demo(&kafka, &["--crash", "3"]);
    if Postgres::shared().is_some() {
        run_demo(&kafka, &["--postgres", "--hosts", "3", "--crash", "1"]);
    }
}

#[test]
fn of_two_producers_with_one_transactional_id_each_takes_it_back_until_one_gives_up() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("fenced", 1);
    let id = Some(topic.as_str());
    let (older, newer) = (Outbox::new(&topic), Outbox::new(&topic));
    let (old_sink, new_sink) = (older.sink(&kafka, id), newer.sink(&kafka, id));
    let rivals = [("older", &older, &old_sink), ("newer", &newer, &new_sink)];
    let (name, round, status) = (0..10)
        .flat_map(|round| rivals.map(|rival| (round, rival)))
        .find_map(|(round, (name, outbox, sink))| {
            outbox.put(name, round..round + 1);
            let is_decided = |status: &SinkStatus| status.pending == 0 || status.state == State::Stopped;
            let status = until("it has published, or has stopped", sink, is_decided);
            (status.state == State::Stopped).then_some((name, round, status))
        })
        .expect("one of them gives up");
    let error = status.error.expect("a stop is explained");
    let says = |part: &str| assert!(error.contains(part), "{error}");
    says(&format!("another producer with the transactional id {topic} has taken over and fenced this one"));
    says("give one of them another `transactional_id` in [sink]");
    assert_eq!((status.published, status.pending), (round as u64, 1));

    let (other, outbox, sink) = *rivals.iter().find(|(other, _, _)| *other != name).expect("the other one");
    outbox.put(other, 100..110);
    until_published(sink);
    let mut read: Vec<String> = kafka.read_committed(&topic).into_iter().map(|shown| shown.value).collect();
    let others = sink.status().published as usize - 10;
    let mut expected = [values(name, 0..round), values(other, 0..others), values(other, 100..110)].concat();
    read.sort_unstable();
    expected.sort_unstable();
    assert_eq!(read, expected, "each once");
}

#[test]
fn what_kafka_has_is_not_published_again_when_the_store_is_behind() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("behind", 1);
    let outbox = Outbox::new(&topic);
    outbox.put("m", 0..30);
    until_published(&outbox.sink(&kafka, None));
    // What a crash leaves that comes between Kafka's commit and the store's: messages are in Kafka, and in the store
    // they are still to be published.
    let copy = outbox.copy();
    outbox.put("m", 30..40);
    until_published(&outbox.sink(&kafka, None));
    copy.put("m", 30..45);
    let sink = copy.sink(&kafka, None);
    until_published(&sink);
    assert_eq!(sink.status().published, 5);
    let read: Vec<String> = kafka.read_committed(&topic).into_iter().map(|shown| shown.value).collect();
    assert_eq!(read, values("m", 0..45));
}

#[test]
fn a_message_that_is_refused_is_dead_lettered_and_the_rest_of_its_transaction_goes_out_once() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("refused", 1);
    let outbox = Outbox::new(&topic);
    let large = Message { payload: Some(vec![b'x'; 1_500_000]), ..outbox.message("large") };
    let nowhere = Message { partition: Some(9), ..outbox.message("nowhere") };
    outbox.add(vec![outbox.message("m0"), large, outbox.message("m1"), nowhere, outbox.message("m2")]);
    let sink = outbox.sink(&kafka, None);
    until_published(&sink);
    assert_eq!((sink.status().published, sink.status().error), (3, None));
    let read: Vec<String> = kafka.read_committed(&topic).into_iter().map(|shown| shown.value).collect();
    assert_eq!(read, values("m", 0..3));
    let (letters, dead_letters) = requests::letters(&*outbox.store, 10);
    let reasons: BTreeMap<_, _> =
        letters.iter().map(|letter| (letter.place.as_str(), letter.reason.as_str())).collect();
    assert_eq!(dead_letters, 2, "{reasons:?}");
    assert!(reasons.values().any(|reason| reason.contains("too large for Kafka (1500000 bytes)")), "{reasons:?}");
    assert!(reasons.values().any(|reason| reason.contains("has no partition 9")), "{reasons:?}");
}

#[test]
fn recorded_events_are_in_their_topic_exactly_once_through_a_store_that_is_behind() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("events", 1);
    let outbox = Outbox::new(&topic);
    let record = |numbers: std::ops::Range<u64>, store: &dyn EventStore| {
        numbers.for_each(|number| _ = requests::record(store, &requests::order(number), 2));
    };
    record(1..20, &*outbox.store);
    until_published(&outbox.event_sink(&kafka));
    let copy = outbox.copy();
    // Kafka has these, and the copy does not know: as after a crash between the two commits.
    record(20..30, &*outbox.store);
    until_published(&outbox.event_sink(&kafka));
    record(20..35, &*copy.store);
    until_published(&copy.event_sink(&kafka));
    let read = kafka.read_committed(&topic);
    assert_eq!(read.len(), 2 * 34, "records, not distinct ids");
    assert_eq!(read.iter().map(|shown| &shown.id).collect::<BTreeSet<_>>().len(), read.len());
}

/// A store with messages for a topic.
struct Outbox {
    store: Arc<dyn EventStore>,
    folder: tempfile::TempDir,
    topic: String,
}

impl Outbox {
    fn new(topic: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), topic)
    }

    fn at(folder: tempfile::TempDir, topic: &str) -> Self {
        let store = SqliteStore::open(&folder.path().join(FILE_NAME), Options::default()).unwrap();
        Self { store: Arc::new(store), folder, topic: topic.to_owned() }
    }

    /// The same store as it is now: what is in its log counts.
    fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(self.folder.path()).unwrap() {
            let file = file.unwrap();
            if file.file_name().to_string_lossy().starts_with(FILE_NAME) {
                std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
            }
        }
        Self::at(folder, &self.topic)
    }

    fn message(&self, value: &str) -> Message {
        Message {
            topic: self.topic.clone(),
            payload: Some(value.into()),
            partition: Some(0),
            ..requests::message(value)
        }
    }

    fn put(&self, name: &str, numbers: std::ops::Range<usize>) {
        self.add(values(name, numbers).iter().map(|value| self.message(value)).collect());
    }

    fn add(&self, messages: Vec<Message>) {
        let progress = Step { messages, ..requests::step("notifier", Position(0), Position(0)) };
        requests::advance(&*self.store, progress).unwrap();
    }

    fn event_sink(&self, kafka: &Kafka) -> Sink {
        let settings = EventSink {
            filter: Filter::all(),
            topic: self.topic.clone(),
            shape: Default::default(),
            key: SinkKey::AggregateId,
            start: Start::Beginning,
            is_start_written: true,
            was: None,
            settings: wasmill::manifest::Sink { batch_max: 7, ..Default::default() },
        };
        let connection = Connection::new(kafka.brokers(), &Default::default()).unwrap();
        let upcasts = wasmill::upcasts::Upcasts::new(|| unreachable!("events are published as they were recorded"));
        Sink::start(sink::Config::events("orders", &settings, &upcasts), connection, self.store.clone()).unwrap()
    }

    fn sink(&self, kafka: &Kafka, transactional_id: Option<&str>) -> Sink {
        let settings = wasmill::manifest::Sink {
            transactional_id: transactional_id.map(str::to_owned),
            ..wasmill::manifest::Sink::default()
        };
        let connection = Connection::new(kafka.brokers(), &Default::default()).unwrap();
        Sink::start(sink::Config::new(&settings), connection, self.store.clone()).unwrap()
    }
}

fn values(name: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{name}{number}")).collect()
}

fn until_published(sink: &Sink) {
    until("the outbox is empty", sink, |status| status.pending == 0);
}

fn until(what: &str, sink: &Sink, condition: impl Fn(&SinkStatus) -> bool) -> SinkStatus {
    let deadline = Instant::now() + WAIT;
    loop {
        let status = sink.status();
        if condition(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}: {status:?}");
        std::thread::park_timeout(LOOK);
    }
}
