//! Tests of a sink with a broker and a store.

mod answers;
mod feeds;

use super::*;
use crate::ack;
use crate::kafka::testing::{Broker, Folder, eventually};
use crate::model::{Message, Position};
use crate::store::sqlite::{DeadLetterLimits, Options};
use crate::store::{Reached, Step};

const TOPIC: &str = "notifications";

fn config() -> Config {
    Config::new(&crate::manifest::Sink { batch_max: 7, ..Default::default() })
}

fn message(id: &str) -> Message {
    Message {
        id: id.into(),
        topic: TOPIC.into(),
        key: Some(b"k".to_vec()),
        partition: Some(0),
        headers: vec![crate::model::Header { name: "type".into(), value: Some(b"order-confirmed".to_vec()) }],
        payload: Some(id.as_bytes().to_vec()),
        time_ms: 0,
        correlation_id: "c".into(),
        causation_id: "e".into(),
        hops: 0,
        source: "notifier".into(),
    }
}

/// Puts messages into the outbox, as a subscription does after it has handled an event.
fn publish(folder: &Folder, messages: Vec<Message>) {
    folder.record_event();
    let from = folder.store.reader().unwrap().checkpoint("notifier").unwrap().unwrap_or_default();
    let reached = Reached::Events { from, to: Position(from.0 + 1) };
    let step = Step { messages, ..Step::new("notifier".into(), reached) };
    ack::wait(|ack| folder.store.advance(step, ack)).unwrap();
}

fn numbered(numbers: std::ops::Range<usize>) -> Vec<Message> {
    numbers.map(|number| message(&format!("m{number}"))).collect()
}

fn ids(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("m{number}")).collect()
}

fn values(broker: &Broker, count: usize) -> Vec<String> {
    broker.consume(TOPIC, count).into_iter().map(|(value, _)| value).collect()
}

fn wait_until_empty(sink: &Sink) {
    eventually("the outbox is empty", || sink.status().pending == 0);
}

#[test]
fn messages_are_published_in_order_and_not_again_after_a_restart() {
    let broker = Broker::with_topic(TOPIC, 1);
    let folder = Folder::new();
    publish(&folder, numbered(0..50));
    let sink = Sink::start(config(), broker.connection(&[]), folder.store.clone()).unwrap();
    wait_until_empty(&sink);
    publish(&folder, numbered(50..60));
    wait_until_empty(&sink);
    assert_eq!((sink.status().state, sink.status().published), (State::Running, 60));
    sink.stop();
    assert_eq!(sink.status().state, State::Stopped);

    let folder = folder.reopen();
    publish(&folder, numbered(60..61));
    let sink = Sink::start(config(), broker.connection(&[]), folder.store.clone()).unwrap();
    wait_until_empty(&sink);
    assert_eq!(values(&broker, 61), ids(0..61));
    let (_, headers) = broker.consume(TOPIC, 1).swap_remove(3);
    for header in [("ce_id", "m3"), ("ce_type", "order-confirmed"), ("correlation-id", "c")] {
        assert!(headers.contains(&(header.0.to_owned(), header.1.to_owned())), "{headers:?}");
    }
}

#[test]
fn a_message_that_kafka_refuses_is_dead_lettered_and_the_rest_goes_on() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    let large = Message { payload: Some(vec![0; 3_000]), ..message("large") };
    let nowhere = Message { partition: Some(9), ..message("nowhere") };
    let nul = Message { topic: "no\0topic".into(), ..message("nul") };
    publish(&folder, vec![message("m0"), large, message("m1"), nowhere, nul, message("m2")]);
    let connection = broker.connection(&[("message.max.bytes", "2000")]);
    let sink = Sink::start(config(), connection, folder.store.clone()).unwrap();
    wait_until_empty(&sink);
    assert_eq!(values(&broker, 3), ids(0..3));
    assert_eq!((sink.status().published, sink.status().error), (3, None));
    let mut letters = folder.dead_letters();
    letters.sort_by(|a, b| a.place.cmp(&b.place));
    let reasons: Vec<_> = letters.iter().map(|letter| (&*letter.consumer, letter.reason.as_str())).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons.iter().all(|(consumer, _)| *consumer == "notifier"));
    assert!(reasons[0].1.contains("too large for Kafka (3000 bytes)"), "{reasons:?}");
    assert!(reasons[1].1.contains("has no partition 9"), "{reasons:?}");
    assert!(reasons[2].1.contains("can't be the name of a topic"), "{reasons:?}");
}

#[test]
fn a_sink_waits_for_room_for_its_dead_letters_and_publishes_nothing_again() {
    let letters = DeadLetterLimits { count_max: 1, ..DeadLetterLimits::default() };
    let folder = Folder::with(Options { dead_letters: letters, ..Options::default() });
    let broker = Broker::with_topic(TOPIC, 1);
    let nowhere = |id| Message { partition: Some(9), ..message(id) };
    publish(&folder, vec![message("m0"), nowhere("first")]);
    let sink = Sink::start(config(), broker.connection(&[]), folder.store.clone()).unwrap();
    wait_until_empty(&sink);
    publish(&folder, vec![message("m1"), nowhere("second"), message("m2")]);
    eventually("the status says so", || sink.status().error.is_some());
    let status = sink.status();
    assert_eq!(status.state, State::Retrying);
    let error = status.error.unwrap();
    assert!(error.contains("store.dead_letters_max") && error.contains("wasmill dead-letters"), "{error}");
    assert_eq!(folder.dead_letters().len(), 1);
    ack::wait(|ack| folder.store.discard_dead_letter(1, ack)).unwrap();
    wait_until_empty(&sink);
    // A message that was published twice would come before this one.
    publish(&folder, vec![message("m3")]);
    wait_until_empty(&sink);
    assert_eq!(values(&broker, 4), ids(0..4));
    let places: Vec<_> = folder.dead_letters().into_iter().map(|letter| letter.place).collect();
    assert!(places.len() == 1 && places[0].contains("second"), "{places:?}");
    eventually("nothing is in the way", || sink.status().error.is_none());
}

#[test]
fn a_broker_that_is_away_is_waited_for() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    publish(&folder, numbered(0..10));
    broker.cluster.broker_down(-1).unwrap();
    let sink = Sink::start(config(), broker.connection(&[]), folder.store.clone()).unwrap();
    eventually("the status says so", || sink.status().state == State::Retrying);
    assert_eq!(sink.status().pending, 10);
    broker.cluster.broker_up(-1).unwrap();
    wait_until_empty(&sink);
    assert_eq!((values(&broker, 10), sink.status().error), (ids(0..10), None));
    // The same holds when there is nothing to publish.
    broker.cluster.broker_down(-1).unwrap();
    eventually("the status says so again", || sink.status().state == State::Retrying);
    broker.cluster.broker_up(-1).unwrap();
    eventually("the status says that it is back", || sink.status().state == State::Running);
}

#[test]
fn what_times_out_is_sent_again() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    publish(&folder, numbered(0..20));
    broker.cluster.broker_down(-1).unwrap();
    let connection = broker.connection(&[("message.timeout.ms", "300")]);
    let sink = Sink::start(config(), connection, folder.store.clone()).unwrap();
    let timed_out = |error: String| error.contains("is not published yet");
    eventually("a time-out", || sink.status().error.is_some_and(timed_out));
    broker.cluster.broker_up(-1).unwrap();
    wait_until_empty(&sink);
    assert_eq!(values(&broker, 20), ids(0..20));
    assert!(folder.dead_letters().is_empty());
}

#[test]
fn a_stop_does_not_wait_for_a_broker_for_ever() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    publish(&folder, numbered(0..1));
    broker.cluster.broker_down(-1).unwrap();
    let config = Config { drain_max: Duration::from_millis(200), ..config() };
    let sink = Sink::start(config, broker.connection(&[]), folder.store.clone()).unwrap();
    sink.stop();
    broker.cluster.broker_up(-1).unwrap();
    assert_eq!(folder.store.reader().unwrap().sink_position("outbox").unwrap(), Some(0));
}
