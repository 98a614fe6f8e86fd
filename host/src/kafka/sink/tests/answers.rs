//! Tests of what a sink does and shows when Kafka answers with an error.

use super::*;
use crate::kafka::sink::transactional::POSITIONS;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};

/// Starts a broker with transactions, and a store with ten messages.
fn scene() -> (Broker, Folder) {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    broker.cluster.create_topic(POSITIONS, 1, 1).unwrap();
    publish(&folder, numbered(0..10));
    (broker, folder)
}

#[test]
fn a_sink_that_is_fenced_takes_its_id_back_and_publishes_the_rest() {
    let (broker, folder) = scene();
    broker.answers(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
    let sink = Sink::start(config(), broker.cluster_connection(&[]), folder.store.clone()).unwrap();
    wait_until_empty(&sink);
    eventually("nothing is in the way", || sink.status().error.is_none());
    assert_eq!((sink.status().state, sink.status().published), (State::Running, 10));
}

#[test]
fn a_sink_that_is_fenced_again_and_again_stops_and_names_the_rival() {
    let (broker, folder) = scene();
    broker.answers(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_PRODUCER_FENCED; 20]);
    let sink = Sink::start(config(), broker.cluster_connection(&[]), folder.store.clone()).unwrap();
    eventually("it has stopped", || sink.status().state == State::Stopped);
    let error = sink.status().error.unwrap();
    assert!(error.contains("another producer with the transactional id wasmill-sink-outbox-"), "{error}");
    assert!(error.contains("give one of them another `transactional_id` in [sink]"), "{error}");
    assert_eq!((sink.status().published, sink.status().pending), (0, 10));
}

#[test]
fn a_sink_without_transactions_shows_why_the_broker_takes_nothing() {
    let (broker, folder) = scene();
    broker.answers(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 10_000]);
    let sink = Sink::start(config(), broker.connection(&[]), folder.store.clone()).unwrap();
    eventually("the broker's answer is the reason", || sink.status().error.is_some());
    let status = sink.status();
    let error = status.error.unwrap();
    assert!(error.starts_with(&format!("topic {TOPIC} partition 0 takes no messages: Broker: Not enough in-sync")));
    assert_eq!((status.state, status.pending), (State::Retrying, 10));
    broker.cluster.clear_request_errors(Api::Produce);
    wait_until_empty(&sink);
    assert_eq!((values(&broker, 10), sink.status().error), (ids(0..10), None));
}
