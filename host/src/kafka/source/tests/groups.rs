//! A source that is a member of a consumer group, beside members that do as they please.

use super::*;
use crate::kafka::rivalry::RIVALRY_MAX;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};
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

/// A static member, as it is with a real cluster. The mock cluster does not know a member that comes back, so the group
/// waits until the session of the old one ends.
fn static_member(broker: &Broker, folder: &Folder, inbox: &Arc<Recorder>) -> Source {
    member(broker, folder, inbox, &[("heartbeat.interval.ms", "50"), ("session.timeout.ms", "5000")])
}

/// Has the broker fence the member at its next heartbeat.
fn fence(broker: &Broker) {
    broker.answers(Api::Heartbeat, &[Answer::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
}

#[test]
fn a_member_that_was_fenced_once_joins_again_with_a_new_consumer() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 2), Folder::new());
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = static_member(&broker, &folder, &inbox);
    produce(&broker, 2, 0..100);
    eventually("the group gives partitions", || *source.progress().borrow() == 100);
    // What is in flight when it is fenced is not done twice.
    *inbox.mood.lock().unwrap() = Mood::Silent;
    produce(&broker, 2, 100..200);
    eventually("work is in flight", || source.status().in_flight == 100);
    fence(&broker);
    eventually("it says what happened, and goes on", || {
        let status = source.status();
        let told = |error: String| error.contains("another member has joined with this one's `group.instance.id`");
        status.state == State::Retrying && status.error.is_some_and(told)
    });
    inbox.release();
    *inbox.mood.lock().unwrap() = Mood::Willing;
    produce(&broker, 2, 200..300);
    eventually("all is read", || *source.progress().borrow() == 300);
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(0..300));
    let status = source.status();
    assert_eq!((status.state, status.error, status.in_flight), (State::Running, None, 0));
}

#[test]
fn a_member_that_is_fenced_again_and_again_stops_reads_nothing_more_and_names_the_remedy() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = static_member(&broker, &folder, &inbox);
    let has_it = || source.status().partitions.iter().any(|partition| partition.assigned);
    for _ in 0..RIVALRY_MAX {
        eventually("the group gives it its partition", has_it);
        fence(&broker);
        eventually("the fence takes it away", || !has_it());
    }
    eventually("it has stopped", || source.status().state == State::Stopped);
    assert_eq!(source.status().in_flight, 0);
    let error = source.status().error.unwrap();
    assert!(error.contains("this happened 3 times within 5 minutes; stop the other host"), "{error}");
}
