//! Which topics a source reads, where it begins, and for whom its records are.

use super::*;
use crate::ack;
use crate::manifest::{From as StartAt, Lost};

fn reading(topics: &[&str], change: impl FnOnce(&mut manifest::Source)) -> Config {
    let mut settings = settings(StartAt::Beginning);
    settings.topics = topics.iter().map(|topic| topic.to_string()).collect();
    change(&mut settings);
    Config::new("till", &settings, &["shop.dead".into()])
}

fn produce_to(broker: &Broker, topic: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        broker.produce(topic, 0, Some(format!("{topic}{number}").as_bytes()), Some(b"{}"));
    }
    broker.flush();
}

#[test]
fn topics_that_a_pattern_finds_are_read_also_when_they_come_later() {
    let (broker, folder) = (Broker::with_topic("orders", 1), Folder::new());
    broker.cluster.create_topic("shop.1", 1, 1).unwrap();
    broker.cluster.create_topic("other", 1, 1).unwrap();
    broker.cluster.create_topic("shop.dead", 1, 1).unwrap();
    for topic in ["orders", "shop.1", "other", "shop.dead"] {
        produce_to(&broker, topic, 0..5);
    }
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start_with(reading(&["orders", "^shop\\..*"], |_| ()), broker.connection(&[]), &folder, &inbox);
    wait_until_caught_up(&source);
    assert_eq!(folder.events().len(), 10);
    broker.cluster.create_topic("shop.2", 1, 1).unwrap();
    produce_to(&broker, "shop.2", 0..5);
    eventually("the new topic", || source.refresh_ends().is_ok() && folder.events().len() == 15);
    wait_until_caught_up(&source);
    assert!(taken(&folder).iter().all(|id| !id.starts_with("other")));
    let status = source.status();
    let places: Vec<_> = status.partitions.iter().map(|found| (found.topic.as_str(), found.next)).collect();
    assert_eq!(places, [("orders", 5), ("shop.1", 5), ("shop.2", 5)]);
}

#[test]
fn a_topic_that_is_missing_does_not_hold_the_others() {
    let (broker, folder) = (Broker::with_topic("orders", 1), Folder::new());
    produce_to(&broker, "orders", 0..5);
    let connection = broker.connection(&[("allow.auto.create.topics", "false")]);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start_with(reading(&["missing", "orders"], |_| ()), connection, &folder, &inbox);
    eventually("the other topic is read", || folder.events().len() == 5);
    let error = source.refresh_ends().unwrap_err();
    assert!(error.contains("topic missing does not exist"), "{error}");
    assert!(!source.is_caught_up());
}

#[test]
fn a_record_for_an_aggregate_that_nobody_serves_is_dead_lettered_and_its_partition_goes_on() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    broker.produce(TOPIC, 0, Some(b"1"), Some(br#"{"kind":"order"}"#));
    broker.produce(TOPIC, 0, Some(b"2"), Some(br#"{"kind":1}"#));
    broker.flush();
    let config = reading(&[TOPIC], |settings| {
        let manifest::Target::Commands(commands) = &mut settings.target else { return };
        commands.aggregate = manifest::Name::Field("kind".into());
    });
    let inbox = Recorder::new(&folder.store, Mood::Foreign);
    let source = start_with(config, broker.connection(&[]), &folder, &inbox);
    wait_until_caught_up(&source);
    let mut reasons: Vec<_> = folder.dead_letters().into_iter().map(|letter| (letter.place, letter.reason)).collect();
    reasons.sort();
    assert!(reasons[0].1.contains("no plugin serves aggregate order, which the record names"), "{reasons:?}");
    assert!(reasons[1].1.contains("the field kind, which names the aggregate, is no text"), "{reasons:?}");
    assert_eq!((reasons.len(), source.status().handled), (2, 2));
}

#[test]
fn from_an_offset_means_from_there_or_from_where_the_partition_is() {
    for (wanted, expected) in [(0, 0..10), (7, 7..10), (99, 10..10)] {
        let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
        produce(&broker, 1, 0..10);
        let inbox = Recorder::new(&folder.store, Mood::Willing);
        let config = reading(&[TOPIC], |settings| settings.from = StartAt::Offset(wanted));
        let source = start_with(config, broker.connection(&[]), &folder, &inbox);
        wait_until_caught_up(&source);
        assert_eq!(taken(&folder), super::expected(expected), "from {wanted}");
    }
}

#[test]
fn a_partition_stands_still_where_nothing_may_be_lost() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 2), Folder::new());
    let connection = broker.connection(&[]);
    let ledger = connection.ledger("till", TOPIC, 0, None);
    ack::wait(|ack| folder.store.start_ledger(&ledger, 1, ack)).unwrap();
    // The mock cluster keeps 5 MiB.
    for _ in 0..80 {
        broker.produce(TOPIC, 0, Some(b"b"), Some(&[0; 100_000]));
    }
    broker.produce(TOPIC, 1, Some(b"other"), Some(b"{}"));
    broker.flush();
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let stop = || reading(&[TOPIC], |settings| settings.lost = Lost::Stop);
    let source = start_with(stop(), connection.clone(), &folder, &inbox);
    eventually("the other partition is read", || folder.events().len() == 1);
    eventually("the status says so", || source.status().error.is_some());
    let error = source.status().error.unwrap();
    assert!(error.contains("topic baskets partition 0: offsets 1 to "), "{error}");
    assert!(error.contains("were removed by the topic's retention") && error.contains("[sources.till]"), "{error}");
    assert!(!source.is_caught_up() && folder.dead_letters().is_empty());
    source.stop();
    // A person has seen it.
    let source = start_with(reading(&[TOPIC], |_| ()), connection, &folder, &inbox);
    wait_until_caught_up(&source);
    assert_eq!(folder.dead_letters().len(), 1);
}
