//! What a source's offsets are about: topics and a cluster that are told by their ids, and places that are fixed once.

use super::*;
use crate::ack;
use crate::kafka::cluster_identity;
use crate::manifest::{From as StartAt, Membership, Recreated};
use crate::model::{FactName, PartitionName};
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::Instant;

fn reading(topics: &[&str], from: StartAt, recreated: Recreated) -> Config {
    let mut settings = settings(from);
    settings.topics = topics.iter().map(|topic| topic.to_string()).collect();
    settings.recreated = recreated;
    Config::new("till", &settings, &[])
}

fn produce_to(broker: &Broker, topic: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        broker.produce(topic, 0, Some(format!("{topic}{number}").as_bytes()), Some(b"{}"));
    }
    broker.flush();
}

fn is_fixed(source: &Source) -> bool {
    source.is_fixed_by(Instant::now() + Duration::from_secs(30))
}

#[test]
fn a_topic_that_was_made_again_stops_whole_until_a_person_says_where_to_go_on() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 2), Folder::new());
    broker.cluster.create_topic("other", 1, 1).unwrap();
    produce(&broker, 2, 0..80);
    produce_to(&broker, "other", 0..5);
    // One partition was read of the topic that had the name before.
    let old = PartitionName { source: "till", topic: TOPIC, partition: 0, topic_id: Some("OLD") }.to_string();
    ack::wait(|ack| folder.store.start_ledger(&old, 10, ack)).unwrap();
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let start = |recreated| {
        start_with(
            reading(&[TOPIC, "other"], StartAt::Beginning, recreated),
            broker.real_connection(&[]),
            &folder,
            &inbox,
        )
    };
    let source = start(Recreated::Stop);
    assert!(is_fixed(&source));
    produce_to(&broker, "other", 5..8);
    eventually("the other topic is read", || folder.events().len() == 8);
    eventually("the status says so", || source.status().error.is_some());
    let error = source.status().error.unwrap();
    for expected in [
        "topic baskets partition 0: the topic was deleted and recreated",
        "topic baskets partition 1: the topic was deleted",
        "has read OLD",
        "wasmill kafka offsets reset till --topic baskets --to beginning --yes",
    ] {
        assert!(error.contains(expected), "{error}");
    }
    assert!(!source.is_caught_up());
    source.stop();
    // By the manifest.
    let source = start(Recreated::Beginning);
    wait_until_caught_up(&source);
    assert_eq!(folder.events().len(), 88);
    source.stop();
    // It is known now.
    produce(&broker, 2, 80..90);
    let source = start(Recreated::Stop);
    wait_until_caught_up(&source);
    assert_eq!((folder.events().len(), source.status().error), (98, None));
    taken(&folder);
}

#[test]
fn the_end_is_fixed_once_and_what_comes_later_is_read_from_its_beginning() {
    for is_real in [true, false] {
        let (broker, folder) = (Broker::with_topic("shop.1", 1), Folder::new());
        produce_to(&broker, "shop.1", 0..5);
        let inbox = Recorder::new(&folder.store, Mood::Willing);
        let start = || {
            let connection = if is_real { broker.real_connection(&[]) } else { broker.connection(&[]) };
            start_with(reading(&["^shop\\..*"], StartAt::End, Recreated::Stop), connection, &folder, &inbox)
        };
        let source = start();
        assert!(is_fixed(&source));
        // Written before the partition was first looked at, perhaps.
        produce_to(&broker, "shop.1", 5..8);
        broker.cluster.create_topic("shop.2", 1, 1).unwrap();
        produce_to(&broker, "shop.2", 0..5);
        eventually("the new topic", || source.refresh_ends().is_ok() && folder.events().len() == 8);
        wait_until_caught_up(&source);
        source.stop();
        broker.cluster.create_topic("shop.3", 1, 1).unwrap();
        produce_to(&broker, "shop.3", 0..4);
        let source = start();
        assert!(is_fixed(&source));
        eventually("a topic that came while it was stopped", || {
            source.refresh_ends().is_ok() && folder.events().len() == 12
        });
        taken(&folder);
    }
}

#[test]
fn where_a_source_starts_waits_for_an_answer_and_is_not_guessed() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    produce(&broker, 1, 0..5);
    broker.cluster.broker_down(-1).unwrap();
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source =
        start_with(reading(&[TOPIC], StartAt::End, Recreated::Stop), broker.real_connection(&[]), &folder, &inbox);
    assert!(!source.is_fixed_by(Instant::now() + Duration::from_millis(200)));
    broker.cluster.broker_up(-1).unwrap();
    assert!(is_fixed(&source));
    produce(&broker, 1, 5..9);
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(5..9));
}

#[test]
fn a_member_starts_where_its_group_is_and_not_where_others_have_been() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    produce(&broker, 1, 0..10);
    let connection = broker.connection(&[("group.protocol", "consumer")]);
    let other: BaseConsumer = connection.consumer("other", "wasmill-till").create().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(TOPIC, 0, Offset::Offset(7)).unwrap();
    other.commit(&offsets, CommitMode::Sync).unwrap();
    let mut settings = settings(StartAt::Beginning);
    settings.membership = Membership::Group;
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start_with(Config::new("till", &settings, &[]), connection, &folder, &inbox);
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(7..10));
}

#[test]
fn another_cluster_is_not_read_and_the_right_one_is_once_it_is_back() {
    let (broker, other, folder) = (Broker::with_topic(TOPIC, 1), Broker::with_topic(TOPIC, 1), Folder::new());
    produce(&broker, 1, 0..5);
    produce(&other, 1, 5..25);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let start = |broker: &Broker| {
        let config = reading(&[TOPIC], StartAt::Beginning, Recreated::Beginning);
        start_with(config, broker.real_connection(&[]), &folder, &inbox)
    };
    let source = start(&broker);
    wait_until_caught_up(&source);
    source.stop();
    let known = cluster_identity::known(&*folder.store).unwrap().unwrap();
    let source = start(&other);
    eventually("the status says so", || source.status().error.is_some());
    let (error, state) = (source.status().error.unwrap(), source.status().state);
    assert!(error.contains(&known) && error.contains("accept-cluster"), "{error}");
    assert_ne!(state, State::Running);
    assert_eq!((source.is_caught_up(), folder.events().len()), (false, 5));
    source.stop();
    // A person says that it is right.
    ack::wait(|ack| folder.store.set_fact(&FactName::Cluster.to_string(), None, ack)).unwrap();
    let source = start(&other);
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(0..25));
}
