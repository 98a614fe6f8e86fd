//! A source that is a member of a consumer group, beside members that do as they please.

use super::*;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const PROTOCOL: (&str, &str) = ("group.protocol", "consumer");

fn member(broker: &Broker, folder: &Folder, inbox: &Arc<Recorder>, properties: &[(&str, &str)]) -> Source {
    let settings = manifest::Source { membership: manifest::Membership::Group, ..settings(manifest::From::Beginning) };
    start_with(Config::new("till", &settings, &[]), broker.connection(properties), folder, inbox)
}

/// Another member of the group, which takes partitions and does nothing with them.
fn foreign(broker: &Broker) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.cluster.bootstrap_servers()).set("group.id", "wasmill-till");
    config.set("group.protocol", "consumer").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "5");
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.subscribe(&[TOPIC]).unwrap();
    consumer
}

fn holds(consumer: &BaseConsumer) -> usize {
    let _ = consumer.poll(Duration::from_millis(5));
    consumer.assignment().unwrap().count()
}

#[test]
fn members_that_come_commit_nonsense_and_go_change_nothing() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 4), Folder::new());
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = member(&broker, &folder, &inbox, &[PROTOCOL]);
    produce(&broker, 4, 0..400);
    eventually("the group gives partitions", || *source.progress().borrow() == 400);
    for round in 1..=3 {
        let other = foreign(&broker);
        eventually("the other member gets partitions", || holds(&other) > 0);
        eventually("ours are fewer", || source.status().partitions.iter().filter(|found| found.assigned).count() < 4);
        produce(&broker, 4, round * 400..(round + 1) * 400);
        let mut nonsense = TopicPartitionList::new();
        for held in other.assignment().unwrap().elements() {
            nonsense.add_partition_offset(TOPIC, held.partition(), Offset::Offset(1_000_000)).unwrap();
        }
        other.commit(&nonsense, CommitMode::Sync).unwrap();
        drop(other);
        eventually("all comes back", || *source.progress().borrow() == (round as u64 + 1) * 400);
    }
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(0..1_600));
    let status = source.status();
    assert_eq!((status.error, status.in_flight, status.group.as_deref()), (None, 0, Some("wasmill-till")));
    assert!(status.rebalances >= 7, "{}", status.rebalances);
}

#[test]
fn partitions_that_go_with_work_in_flight_are_not_done_twice() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 2), Folder::new());
    produce(&broker, 2, 0..200);
    // What is taken never comes back: the partitions go when the wait is over.
    let inbox = Recorder::new(&folder.store, Mood::Silent);
    let settings = manifest::Source { membership: manifest::Membership::Group, ..settings(manifest::From::Beginning) };
    let config = Config { give_back_max: Duration::from_millis(300), ..Config::new("till", &settings, &[]) };
    let source = start_with(config, broker.connection(&[PROTOCOL]), &folder, &inbox);
    eventually("work is in flight", || source.status().in_flight == 128);
    let other = foreign(&broker);
    eventually("the other member gets one", || holds(&other) == 1);
    *inbox.mood.lock().unwrap() = Mood::Willing;
    drop(other);
    // Completions of an assignment that has ended count for nobody, and its records are read again.
    eventually("what had gone is read again", || folder.events().len() >= 100);
    inbox.release();
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(0..200));
}

#[test]
fn a_member_goes_on_where_the_store_says_after_a_restart_and_after_the_broker_was_away() {
    let broker = Broker::with_topic(TOPIC, 2);
    let mut folder = Folder::new();
    for round in 1..=3 {
        produce(&broker, 2, (round - 1) * 500..round * 500);
        let inbox = Recorder::new(&folder.store, Mood::Willing);
        let source = member(&broker, &folder, &inbox, &[PROTOCOL]);
        eventually("progress", || *source.progress().borrow() >= (round as u64 - 1) * 500 + 100);
        if round == 2 {
            broker.cluster.broker_down(-1).unwrap();
            eventually("the status says so", || source.status().error.is_some());
            broker.cluster.broker_up(-1).unwrap();
        }
        if round == 3 {
            wait_until_caught_up(&source);
        }
        source.stop();
        folder = folder.reopen();
    }
    assert_eq!(taken(&folder), expected(0..1_500));
}

#[test]
fn a_strategy_that_takes_all_partitions_at_each_change_is_refused() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let settings = manifest::Source { membership: manifest::Membership::Group, ..settings(manifest::From::Beginning) };
    let connection = broker.connection(&[("partition.assignment.strategy", "range")]);
    let targets = Targets { aggregates: inbox, subscriber: None };
    let refused = Source::start(Config::new("till", &settings, &[]), connection, folder.store.clone(), targets);
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("`partition.assignment.strategy` must be cooperative-sticky"), "{error}");
}
