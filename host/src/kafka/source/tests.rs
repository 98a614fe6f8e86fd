//! A source against a broker and a store, through everything that may happen to it.

mod groups;
mod identity;
mod places;

use super::*;
use crate::ack;
use crate::kafka::testing::{Broker, Folder, Mood, Recorder, eventually};
use crate::model::{Origin, Position};
use crate::status::State;
use std::collections::BTreeSet;

/// Numbers that are the same in every run.
pub(in crate::kafka) fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

const TOPIC: &str = "baskets";

fn config(from: manifest::From) -> Config {
    Config::new("till", &settings(from), &[])
}

fn settings(from: manifest::From) -> manifest::Source {
    let name = |name: &str| manifest::Name::Fixed(name.into());
    let (aggregate, command) = (name("order"), name("CreateOrder"));
    let commands = manifest::Commands {
        aggregate,
        command,
        key: manifest::Key::Text,
        tombstone: None,
        rejected: manifest::Rejected::Count,
    };
    manifest::Source {
        topics: vec![TOPIC.into()],
        target: manifest::Target::Commands(commands),
        from,
        is_from_written: true,
        was: None,
        lost: manifest::Lost::Continue,
        recreated: manifest::Recreated::Stop,
        membership: manifest::Membership::Assigned,
        group: None,
        properties: Default::default(),
        dead_letter_topic: None,
        drop_headers: vec!["cookie".into()],
        in_flight_max: 64,
        in_flight_mib: 64,
    }
}

fn start(broker: &Broker, folder: &Folder, inbox: &Arc<Recorder>) -> Source {
    start_with(config(manifest::From::Beginning), broker.connection(&[]), folder, inbox)
}

fn start_with(config: Config, connection: Connection, folder: &Folder, inbox: &Arc<Recorder>) -> Source {
    let targets = Targets { aggregates: inbox.clone(), subscriber: None };
    Source::start(config, connection, folder.store.clone(), targets).unwrap()
}

fn produce(broker: &Broker, partitions: i32, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let partition = number as i32 % partitions;
        broker.produce(TOPIC, partition, Some(format!("b{number}").as_bytes()), Some(b"{}"));
    }
    broker.flush();
}

fn wait_until_caught_up(source: &Source) {
    eventually("the source is caught up", || source.refresh_ends().is_ok());
    eventually("the source is caught up", || source.is_caught_up());
}

/// The ids of the aggregates, each seen once.
fn taken(folder: &Folder) -> BTreeSet<String> {
    let events = folder.events();
    let ids: BTreeSet<String> = events.iter().map(|event| event.stream.aggregate_id.to_string()).collect();
    assert_eq!(ids.len(), events.len(), "a record was taken twice");
    ids
}

fn expected(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    numbers.map(|number| format!("b{number}")).collect()
}

#[test]
fn every_record_is_taken_once_and_in_order_of_its_partition() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 3), Folder::new());
    produce(&broker, 3, 0..3_000);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start(&broker, &folder, &inbox);
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(0..3_000));
    let of_first: Vec<_> =
        folder.events().into_iter().filter(|event| event.causation_id.starts_with("baskets:0:")).collect();
    let offsets: Vec<usize> = of_first.iter().map(|event| event.causation_id[10..].parse().unwrap()).collect();
    assert_eq!(offsets, (0..1_000).collect::<Vec<_>>());

    let status = source.status();
    assert_eq!((status.state, status.error, status.handled, status.in_flight), (State::Running, None, 3_000, 0));
    assert_eq!(*source.progress().borrow(), 3_000);
    // It follows: what comes later needs no asking.
    produce(&broker, 3, 3_000..3_030);
    eventually("later records", || *source.progress().borrow() == 3_030);
    assert_eq!(taken(&folder), expected(0..3_030));
}

#[test]
fn a_restart_goes_on_exactly_where_the_store_says() {
    let broker = Broker::with_topic(TOPIC, 2);
    let mut folder = Folder::new();
    for round in 1..=4 {
        produce(&broker, 2, (round - 1) * 500..round * 500);
        let inbox = Recorder::new(&folder.store, Mood::Willing);
        let source = start(&broker, &folder, &inbox);
        // In the middle of the work, except the last time.
        let enough = if round == 4 { 2_000 } else { (round as u64 - 1) * 500 + 100 };
        eventually("progress", || *source.progress().borrow() >= enough);
        source.stop();
        folder = folder.reopen();
    }
    assert_eq!(taken(&folder), expected(0..2_000));
}

#[test]
fn what_was_not_settled_is_read_again() {
    for mood in [Mood::Forgetful, Mood::Failing] {
        let (broker, folder) = (Broker::with_topic(TOPIC, 2), Folder::new());
        produce(&broker, 2, 0..400);
        let inbox = Recorder::new(&folder.store, mood);
        let source = start(&broker, &folder, &inbox);
        eventually("failures", || inbox.offered() >= 3);
        *inbox.mood.lock().unwrap() = Mood::Willing;
        wait_until_caught_up(&source);
        assert_eq!(taken(&folder), expected(0..400));
        assert_eq!(source.status().error, None);
    }
}

#[test]
fn a_full_inbox_holds_the_source_and_loses_nothing() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 2), Folder::new());
    produce(&broker, 2, 0..200);
    let inbox = Recorder::new(&folder.store, Mood::Full);
    let source = start(&broker, &folder, &inbox);
    eventually("each partition holds one", || source.status().in_flight == 2);
    *inbox.mood.lock().unwrap() = Mood::Willing;
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(0..200));
}

#[test]
fn a_record_that_is_no_command_is_dead_lettered_and_its_partition_goes_on() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    produce(&broker, 1, 0..1);
    broker.produce(TOPIC, 0, None, Some(b"no key"));
    broker.produce(TOPIC, 0, Some(b"\xff"), Some(b"bad key"));
    broker.produce(TOPIC, 0, Some(b"tombstone"), None);
    broker.flush();
    produce(&broker, 1, 1..2);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start(&broker, &folder, &inbox);
    wait_until_caught_up(&source);
    assert_eq!((taken(&folder), source.status().handled), (expected(0..2), 5));
    let mut places: Vec<_> = folder
        .dead_letters()
        .into_iter()
        .map(|letter| (letter.place.clone(), letter.payload().unwrap_or_default().to_vec()))
        .collect();
    places.sort();
    let place = |offset| format!("topic baskets partition 0 offset {offset}");
    let expected = [(place(1), b"no key".to_vec()), (place(2), b"bad key".to_vec()), (place(3), Vec::new())];
    assert_eq!(places, expected);
}

#[test]
fn from_the_end_means_what_comes_after_the_first_start() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    produce(&broker, 1, 0..10);
    let at_end = || config(manifest::From::End);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start_with(at_end(), broker.connection(&[]), &folder, &inbox);
    wait_until_caught_up(&source);
    source.stop();
    produce(&broker, 1, 10..20);
    let source = start_with(at_end(), broker.connection(&[]), &folder, &inbox);
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(10..20));
}

#[test]
fn a_broker_that_is_away_is_waited_for_at_the_start_and_later() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 2), Folder::new());
    produce(&broker, 2, 0..100);
    broker.cluster.broker_down(-1).unwrap();
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start(&broker, &folder, &inbox);
    eventually("the status says so", || source.status().error.is_some());
    assert_eq!(source.status().state, State::Starting);
    assert!(!source.is_caught_up());
    broker.cluster.broker_up(-1).unwrap();
    wait_until_caught_up(&source);

    broker.cluster.broker_down(-1).unwrap();
    eventually("the status says so again", || source.status().state == State::Retrying);
    assert!(source.refresh_ends().unwrap_err().contains("Kafka at 127.0.0.1"), "{:?}", source.status());
    broker.cluster.broker_up(-1).unwrap();
    produce(&broker, 2, 100..200);
    wait_until_caught_up(&source);
    assert_eq!((taken(&folder), source.status().error), (expected(0..200), None));
}

#[test]
fn records_that_retention_removed_are_dead_lettered_as_a_range() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    let connection = broker.connection(&[]);
    let ledger = connection.ledger("till", TOPIC, 0, None);
    ack::wait(|ack| folder.store.start_ledger(&ledger, 1, ack)).unwrap();
    // The mock cluster keeps 5 MiB.
    for _ in 0..80 {
        broker.produce(TOPIC, 0, Some(b"b"), Some(&[0; 100_000]));
    }
    broker.flush();
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start_with(config(manifest::From::Beginning), connection, &folder, &inbox);
    wait_until_caught_up(&source);
    let letters = folder.dead_letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let lost = 80 - 1 - folder.events().len();
    assert!(lost > 0);
    assert_eq!(letters[0].place, format!("topic baskets partition 0 offsets 1 to {lost}"));
    assert!(letters[0].reason.contains(&format!("up to {lost} records were removed")));
    assert!(source.status().error.unwrap().contains("retention"));
}

#[test]
fn records_that_are_removed_while_they_wait_to_be_read_are_dead_lettered_too() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    let connection = broker.connection(&[("queued.max.messages.kbytes", "1")]);
    let inbox = Recorder::new(&folder.store, Mood::Full);
    produce(&broker, 1, 0..1);
    let source = start_with(config(manifest::From::Beginning), connection, &folder, &inbox);
    eventually("the first is held", || source.status().in_flight == 1);
    for _ in 0..80 {
        broker.produce(TOPIC, 0, Some(b"b"), Some(&[0; 100_000]));
    }
    broker.flush();
    *inbox.mood.lock().unwrap() = Mood::Willing;
    wait_until_caught_up(&source);
    let letters = folder.dead_letters();
    assert_eq!(letters.len(), 1, "{letters:?} {:?}", source.status());
    assert!(letters[0].place.starts_with("topic baskets partition 0 offsets"), "{letters:?}");
    assert_eq!(source.status().handled, 81);
}

/// However many records and partitions there are: what counts is what they hold.
#[test]
fn large_records_are_bounded_by_their_bytes_over_all_partitions() {
    const BYTES: usize = 100_000;
    let (broker, folder) = (Broker::with_topic(TOPIC, 2), Folder::new());
    for number in 0..40 {
        broker.produce(TOPIC, number % 2, Some(b"b"), Some(&[b'x'; BYTES]));
    }
    broker.flush();
    let inbox = Recorder::new(&folder.store, Mood::Silent);
    let mut config = config(manifest::From::Beginning);
    config.in_flight_bytes_max = 5 * BYTES;
    let source = start_with(config, broker.connection(&[]), &folder, &inbox);
    for round in 1..=8 {
        eventually("as many as fit are handed on", || {
            assert!(inbox.offered() <= 5 * round, "and no more");
            inbox.offered() == 5 * round
        });
        inbox.release();
    }
    wait_until_caught_up(&source);
    assert_eq!(folder.events().len(), 40);
}

#[test]
fn a_partition_that_ends_before_the_stored_offset_is_given_up_and_the_others_go_on() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 2), Folder::new());
    produce(&broker, 2, 0..20);
    let connection = broker.connection(&[]);
    let ledger = connection.ledger("till", TOPIC, 0, None);
    ack::wait(|ack| folder.store.start_ledger(&ledger, 1_000, ack)).unwrap();
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start_with(config(manifest::From::Beginning), connection, &folder, &inbox);
    eventually("the other partition is read", || folder.events().len() == 10);
    assert!(!source.is_caught_up());
    let error = source.status().error.unwrap();
    assert!(error.contains("partition 0: offset 1000 comes next but the partition ends at 10"), "{error}");
    assert!(error.contains("offsets reset till --topic baskets --partition 0"), "{error}");
    assert_eq!(source.status().state, State::Stalled);
}

#[test]
fn a_topic_that_does_not_exist_is_waited_for() {
    let (broker, folder) = (Broker::with_topic("other", 1), Folder::new());
    let connection = broker.connection(&[("allow.auto.create.topics", "false")]);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start_with(config(manifest::From::Beginning), connection, &folder, &inbox);
    eventually("the status says so", || source.status().error.is_some_and(|error| error.contains("does not exist")));
    broker.cluster.create_topic(TOPIC, 2, 1).unwrap();
    produce(&broker, 2, 0..10);
    wait_until_caught_up(&source);
    assert_eq!(taken(&folder), expected(0..10));
}

#[test]
fn offsets_are_committed_to_the_group_for_lag_tools() {
    use rdkafka::consumer::Consumer;
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    produce(&broker, 1, 0..10);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start(&broker, &folder, &inbox);
    wait_until_caught_up(&source);
    source.stop();
    assert_eq!(source.status().state, State::Stopped);
    let asking: BaseConsumer = broker.connection(&[]).consumer("till", "wasmill-till").create().unwrap();
    let mut partitions = rdkafka::TopicPartitionList::new();
    partitions.add_partition(TOPIC, 0);
    let committed = asking.committed_offsets(partitions, Duration::from_secs(10)).unwrap();
    assert_eq!(committed.elements()[0].offset(), rdkafka::Offset::Offset(10));
}

/// What a record is, and a part of why it is dead-lettered; `None` where it is taken.
type Hostile = (&'static str, &'static [u8], &'static [(&'static [u8], &'static [u8])], Option<&'static str>);

const HOSTILE: &[Hostile] = &[
    (
        "a name of a header that is not UTF-8",
        b"k1",
        &[(b"ok", b"1"), (b"caf\xe9", b"2")],
        Some("header 2 is not UTF-8: `caf\\xe9`"),
    ),
    ("a name that holds a NUL", b"k2", &[(b"a\0b", b"1")], None),
    ("no name at all", b"k3", &[(b"", b"")], None),
    ("a value that is not UTF-8", b"k4", &[(b"x-correlation-id", b"\xff\xfe")], None),
    ("names that repeat, and control characters", b"k5", &[(b"\x1b[2J", b"\n"), (b"\x1b[2J", b"\0")], None),
    ("a secret of its sender", b"k6", &[(b"Cookie", b"session=1")], None),
    ("a trace that is none", b"k7", &[(b"traceparent", b"00-zz-\xff-01"), (b"tracestate", b"\xff")], None),
    ("a key with a schema id", b"\0\0\0\0\x07k8", &[], Some("zero byte and 7")),
    ("a key with a byte order mark", b"\xef\xbb\xbfk9", &[], Some("byte order mark")),
    ("a key in UTF-16", b"\xff\xfek\x001\0", &[], Some("UTF-16")),
    ("a key that is not UTF-8", b"k\xc3\x28", &[], Some("the key is not UTF-8")),
];

#[test]
fn hostile_records_are_taken_or_dead_lettered_with_a_reason_and_their_partition_goes_on() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    for (_, key, headers, _) in HOSTILE {
        broker.produce_with(TOPIC, key, headers);
    }
    broker.flush();
    produce(&broker, 1, 0..1);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start(&broker, &folder, &inbox);
    wait_until_caught_up(&source);
    let letters = folder.dead_letters();
    for (offset, (what, _, _, expected)) in HOSTILE.iter().enumerate() {
        let place = format!("topic baskets partition 0 offset {offset}");
        let reason = letters.iter().find(|letter| letter.place == place).map(|letter| letter.reason.as_str());
        assert!(
            match (expected, reason) {
                (None, None) => true,
                (Some(expected), Some(reason)) => reason.contains(expected) && reason.contains("produce"),
                _ => false,
            },
            "{what}: {reason:?}"
        );
    }
    assert!(taken(&folder).contains("b0"), "the partition goes on");
    let events = folder.events();
    let names = |id: &str| -> Vec<&str> {
        let event = events.iter().find(|event| &*event.stream.aggregate_id == id).unwrap();
        event.headers.iter().map(|header| header.name.as_str()).collect()
    };
    assert_eq!((names("k2"), names("k6")), (vec!["a\0b"], Vec::<&str>::new()), "whole, and dropped");
}

#[test]
fn a_stop_does_not_wait_for_a_broker() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    produce(&broker, 1, 0..10);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let source = start(&broker, &folder, &inbox);
    wait_until_caught_up(&source);
    broker.cluster.broker_down(-1).unwrap();
    let began = std::time::Instant::now();
    source.stop();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn the_ledger_in_the_store_names_the_source_and_the_offsets() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    produce(&broker, 1, 0..3);
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let connection = broker.connection(&[]);
    let ledger = connection.ledger("till", TOPIC, 0, None);
    let source = start_with(config(manifest::From::Beginning), connection, &folder, &inbox);
    wait_until_caught_up(&source);
    assert_eq!(folder.store.reader().unwrap().ledger(&ledger).unwrap().next, 3);
    assert_eq!(folder.events().last().unwrap().position, Position(3));
    assert_eq!(Origin { ledger, first: 0, last: 0 }.consumer(), "till");
}
