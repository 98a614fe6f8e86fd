//! A transform as a member of a group on librdkafka's mock cluster, with a subscriber that fails as it is told to.

use super::*;
use crate::kafka::testing::{Broker, Folder, eventually};
use crate::model::{Message, Record};
use crate::status::State;
use crate::subscriptions::Untransformed;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};
use std::sync::atomic::{AtomicUsize, Ordering};

const IN: &str = "in";
const OUT: &str = "out";
/// The member counts as gone if it does not poll for so long.
const POLL_INTERVAL_MS: &str = "2000";

/// Makes a message of each record. One whose value is `bad` fails until it has been tried often enough.
struct Echo {
    tries: Arc<AtomicUsize>,
    enough: usize,
    /// How long it works on each record.
    each: Duration,
}

impl Transforming for Echo {
    fn replace(&mut self) {}

    fn renew(&mut self) {}

    fn list(&self, records: usize) -> usize {
        records
    }

    fn messages(&mut self, records: &[&Record]) -> Result<Vec<(usize, Message)>, Untransformed> {
        let is_bad = |record: &&Record| record.payload.as_deref() == Some(b"bad");
        if records.iter().any(is_bad) && self.tries.load(Ordering::SeqCst) < self.enough {
            if records.len() > 1 {
                return Err(Untransformed::Fewer(records.len() / 2));
            }
            self.tries.fetch_add(1, Ordering::SeqCst);
            return Err(Untransformed::Again("not now".into(), Duration::ZERO));
        }
        std::thread::sleep(self.each * records.len() as u32);
        let echo =
            |record: &&Record| Message { payload: record.payload.clone(), ..crate::kafka::testing::message(OUT) };
        Ok(records.iter().map(echo).enumerate().collect())
    }
}

struct Scene {
    broker: Broker,
    folder: Folder,
    tries: Arc<AtomicUsize>,
}

impl Scene {
    fn new() -> Self {
        let broker = Broker::with_topic(IN, 1);
        broker.cluster.create_topic(OUT, 1, 1).unwrap();
        Self { broker, folder: Folder::new(), tries: Arc::default() }
    }

    fn start(&self, enough: usize) -> Transform {
        self.start_with(enough, Duration::ZERO)
    }

    fn start_with(&self, enough: usize, each: Duration) -> Transform {
        // The mock cluster has such groups formed at once.
        self.start_as(enough, each, &[("group.protocol", "consumer"), ("max.poll.interval.ms", POLL_INTERVAL_MS)])
    }

    fn start_as(&self, enough: usize, each: Duration, properties: &[(&str, &str)]) -> Transform {
        let properties = [properties, &[("transaction.timeout.ms", POLL_INTERVAL_MS)]].concat();
        let connection = self.broker.cluster_connection(&properties);
        let deliveries = Deliveries { attempts_max: 1_000, backoff_ms: 50, ..Deliveries::to("echo") };
        let config = Config {
            name: "taps".into(),
            topics: vec![IN.into()],
            written: Vec::new(),
            group: "taps".into(),
            from: manifest::From::Beginning,
            lost: manifest::Lost::Continue,
            recreated: manifest::Recreated::Stop,
            dead_letter_topic: "dead".into(),
            drop_headers: Default::default(),
            deliveries,
            bounds: crate::bounds::Bounds::default(),
        };
        let echo = Echo { tries: self.tries.clone(), enough, each };
        Transform::start_with(config, connection, self.folder.store.clone(), Box::new(echo)).unwrap()
    }

    fn produce(&self, values: &[&str]) {
        values.iter().for_each(|value| self.broker.produce(IN, 0, None, Some(value.as_bytes())));
        self.broker.flush();
    }

    fn published(&self, count: usize) -> Vec<String> {
        self.broker.consume(OUT, count).into_iter().map(|(value, _)| value).collect()
    }
}

#[test]
fn while_a_record_is_tried_again_what_came_before_is_committed_and_the_member_stays() {
    let scene = Scene::new();
    scene.produce(&["a", "b", "bad", "c"]);
    let transform = scene.start(7);
    eventually("what came before it is committed", || transform.status().handled == 2);
    assert_eq!(scene.published(2), ["a", "b"]);
    eventually("it says that the record is tried again", || {
        let status = transform.status();
        let told = |error: String| error.contains("offset 2 is tried again: not now");
        status.state == State::Retrying && status.error.is_some_and(told)
    });
    eventually("all is done", || transform.status().handled == 4);
    assert_eq!(scene.published(4), ["a", "b", "bad", "c"], "in order, each once");
    // The tries took longer than the member may be silent.
    assert_eq!((transform.status().rebalances, transform.status().error), (1, None));
    assert_eq!(scene.tries.load(Ordering::SeqCst), 7);
}

#[test]
fn after_a_fence_the_member_goes_on_with_a_new_producer() {
    let scene = Scene::new();
    scene.broker.answers(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    scene.produce(&["a", "b"]);
    let transform = scene.start(0);
    eventually("all is done", || transform.status().handled == 2);
    let status = transform.status();
    assert_eq!((status.state, status.rebalances, status.error), (State::Running, 1, None));
}

#[test]
fn a_rival_that_fences_again_and_again_stops_the_transform() {
    let scene = Scene::new();
    scene.broker.answers(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH; 20]);
    scene.produce(&["a"]);
    let transform = scene.start(0);
    eventually("it has stopped", || transform.status().state == State::Stopped);
    let error = transform.status().error.unwrap();
    assert!(error.contains("two hosts run on copies of one data folder"), "{error}");
}

#[test]
fn a_static_member_that_was_fenced_once_joins_again_and_one_that_is_fenced_often_stops() {
    let scene = Scene::new();
    scene.produce(&["a", "b"]);
    // The group waits until the session of the old member ends: the mock cluster does not know one that comes back.
    let session = [("heartbeat.interval.ms", "50"), ("session.timeout.ms", "5000")];
    let transform = scene.start_as(0, Duration::ZERO, &session);
    eventually("all is done", || transform.status().handled == 2);
    scene.broker.answers(Api::Heartbeat, &[Answer::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
    eventually("it says what happened", || {
        let told = |error: String| error.contains("joined with this one's `group.instance.id`; it joins again");
        transform.status().error.is_some_and(told)
    });
    scene.produce(&["c"]);
    eventually("it is a member again", || transform.status().handled == 3);
    // The mock cluster forgets the offsets of transactions: all is read again.
    assert_eq!(scene.published(5), ["a", "b", "a", "b", "c"]);
    let status = transform.status();
    assert_eq!((status.state, status.error), (State::Running, None));

    scene.broker.answers(Api::Heartbeat, &[Answer::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
    scene.broker.answers(Api::JoinGroup, &[Answer::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID; 20]);
    eventually("it has stopped", || transform.status().state == State::Stopped);
    let error = transform.status().error.unwrap();
    assert!(error.contains("this happened 3 times within 5 minutes: two hosts run on copies"), "{error}");
}

#[test]
fn a_slow_subscriber_has_its_records_committed_in_time_and_each_once() {
    let scene = Scene::new();
    let values: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    scene.produce(&values.iter().map(String::as_str).collect::<Vec<_>>());
    // All together take longer than a transaction may, and longer than the member may be silent.
    let transform = scene.start_with(0, Duration::from_millis(30));
    eventually("all is done", || transform.status().handled == 100);
    // The mock cluster shows aborted messages too.
    assert_eq!(scene.published(100), values);
    assert_eq!((transform.status().rebalances, transform.status().error), (1, None));
}
