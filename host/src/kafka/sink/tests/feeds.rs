//! Tests of the feeds other than the outbox: recorded events and dead letters.

use super::*;
use crate::ack;
use crate::filter::Filter;
use crate::manifest::{EventSink, Key, SinkKey};
use crate::model::*;
use crate::store::{Append, Decision};
use crate::upcasts::{Migrates, Tries, Unmigrated};

type Headers = Vec<(String, String)>;

fn event_sink(filter: &str, key: SinkKey, start: Start) -> Config {
    let filter = Filter::parse([filter]).unwrap();
    let (shape, is_start_written, was, settings) = Default::default();
    let topic = TOPIC.into();
    let upcasts = Upcasts::new(|| Box::new(Scripted));
    Config::events("orders", &EventSink { filter, topic, key, shape, start, is_start_written, was, settings }, &upcasts)
}

/// Gives each event the payload `"newest"`, except one with the name `Odd`.
struct Scripted;

impl Migrates for Scripted {
    fn migrate(&mut self, events: &mut [RecordedEvent], _: Tries) -> Vec<Result<(), Unmigrated>> {
        let migrated = events.iter_mut().map(|event| match &*event.name {
            "Odd" => Err(Unmigrated::Event("it has no `name`".into())),
            _ => {
                event.payload = b"\"newest\"".to_vec();
                Ok(())
            }
        });
        migrated.collect()
    }
}

#[test]
fn events_are_published_in_their_newest_shape_or_dead_lettered_as_they_were_recorded() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    record(&folder, "1", &["OrderCreated", "Odd", "OrderCreated"]);
    let mut config = event_sink("order.*", SinkKey::AggregateId, Start::Beginning);
    let Content::Events { upcasts, .. } = &mut config.content else { panic!("it is a sink of events") };
    *upcasts = Some(Upcasts::new(|| Box::new(Scripted)));
    let sink = Sink::start(config, broker.connection(&[]), folder.store.clone()).unwrap();
    wait_until_published(&sink);
    let values: Vec<String> = broker.consume(TOPIC, 2).into_iter().map(|(value, _)| value).collect();
    assert_eq!(values, ["\"newest\"", "\"newest\""]);
    let letters = folder.dead_letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = format!("{:?}", letters[0]);
    assert!(letter.contains("it can't be upcast: it has no `name`"), "{letter}");
    sink.stop();
}

fn letters(group: &str) -> Config {
    let (source, group) = ("till".into(), group.to_owned());
    let content = Content::DeadLetters { source, group, key: Key::Text, tombstone: None, topic: TOPIC.into() };
    Config::with("dead-letters-till", "sink".into(), content, &Default::default())
}

fn command(id: &str, origin: Option<Origin>) -> Command {
    let header = |name: &str, value: &str| Header { name: name.into(), value: Some(value.into()) };
    Command {
        stream: StreamId::new("order", "b1"),
        name: "Create".into(),
        payload: format!("{{\"n\": {id}}}").into_bytes(),
        id: id.into(),
        time_ms: 0,
        correlation_id: "c".into(),
        causation_id: id.into(),
        headers: vec![header("traceparent", "00-1-2-01"), header("ce_type", "of-the-command")],
        origin,
        durable_id: false,
        outcome_use: Default::default(),
        first_ms: None,
        hops: 0,
        expected: None,
    }
}

/// Records events of one command, with its payload.
fn record(folder: &Folder, id: &str, names: &[&str]) {
    let command = command(id, None);
    let event = |name: &&str| NewEvent { name: name.to_string(), payload: command.payload.clone() };
    let decision = Decision::Events(names.iter().map(event).collect());
    let append = Append { command: command.into(), expected: ExpectedVersion::Any, decision, chain: None };
    ack::wait(|ack| folder.store.append(append, ack)).unwrap();
}

fn dead_letter(folder: &Folder, consumer: &str, content: DeadLetterContent) {
    let (consumer, place, reason) = (consumer.to_owned(), "somewhere".into(), "no such basket".into());
    let letter = DeadLetter { consumer, place, key: None, reason, time_ms: Some(9), content };
    ack::wait(|ack| folder.store.dead_letter(letter, None, ack)).unwrap();
}

fn dead_lettered_record(partition: i32, offset: i64, payload: &str) -> DeadLetterContent {
    let header = Header { name: "ce_id".into(), value: Some(b"theirs".to_vec()) };
    let payload = Some(payload.as_bytes().to_vec());
    let (key, headers) = (Some(vec![0xff]), vec![header]);
    DeadLetterContent::Record(Record { topic: "baskets".into(), partition, offset, time_ms: 5, key, headers, payload })
}

fn wait_until_published(sink: &Sink) {
    eventually("everything is published", || sink.pending() == 0);
    assert_eq!(sink.status().error, None);
}

fn assert_has(headers: &Headers, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let found: Vec<_> =
            headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect();
        assert_eq!(found, [*value], "{name} in {headers:?}");
    }
}

#[test]
fn events_that_pass_the_filter_are_published_as_cloud_events() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    record(&folder, "1", &["OrderCreated", "Noise"]);
    let config = || event_sink("order.OrderCreated", SinkKey::AggregateId, Start::Beginning);
    let sink = Sink::start(config(), broker.connection(&[]), folder.store.clone()).unwrap();
    wait_until_published(&sink);
    record(&folder, "2", &["OrderCreated"]);
    wait_until_published(&sink);
    sink.stop();
    let folder = folder.reopen();
    record(&folder, "3", &["Noise", "OrderCreated"]);
    let sink = Sink::start(config(), broker.connection(&[]), folder.store.clone()).unwrap();
    wait_until_published(&sink);
    let found = broker.consume(TOPIC, 3);
    let values: Vec<&str> = found.iter().map(|(value, _)| value.as_str()).collect();
    assert_eq!(values, ["{\"n\": 1}", "{\"n\": 2}", "{\"n\": 3}"]);
    let id = folder.events()[2].id.to_string();
    let source = format!("urn:uuid:{}#order", folder.store.identity());
    let expected = [
        ("ce_id", id.as_str()),
        ("ce_source", source.as_str()),
        ("content-type", "application/json"),
        ("ce_type", "order.OrderCreated"),
        ("ce_subject", "b1"),
        ("stream", "order/b1"),
        ("version", "3"),
        ("position", "3"),
        ("correlation-id", "c"),
        ("causation-id", "2"),
        ("traceparent", "00-1-2-01"),
    ];
    assert_has(&found[1].1, &expected);
    assert_eq!(sink.status().published, 1);
}

#[test]
fn a_sink_that_starts_now_keeps_where_it_started() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    record(&folder, "1", &["Old"]);
    let config = || event_sink("**", SinkKey::None, Start::Now);
    drop(Sink::start(config(), broker.connection(&[]), folder.store.clone()).map(|sink| wait_until_published(&sink)));
    let folder = folder.reopen();
    record(&folder, "2", &["New"]);
    let sink = Sink::start(config(), broker.connection(&[]), folder.store.clone()).unwrap();
    wait_until_published(&sink);
    assert_eq!(values(&broker, 1), ["{\"n\": 2}"]);
}

#[test]
fn an_event_without_the_field_of_its_key_is_dead_lettered_and_the_rest_goes_on() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    record(&folder, "1", &["OrderCreated"]);
    let key = SinkKey::Field("household".into());
    let config = event_sink("**", key, Start::Beginning);
    let sink = Sink::start(config, broker.connection(&[]), folder.store.clone()).unwrap();
    eventually("the event is dead-lettered", || !folder.dead_letters().is_empty());
    wait_until_published(&sink);
    let letter = folder.dead_letters().remove(0);
    assert_eq!(
        (letter.consumer.as_str(), letter.place.as_str()),
        ("orders", "event 1 of order/b1 to topic notifications")
    );
    assert!(letter.reason.contains("order.OrderCreated has no field `household`"), "{}", letter.reason);
}

#[test]
fn dead_letters_of_a_source_go_to_their_topic_as_the_records_they_were() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    dead_letter(&folder, "till", dead_lettered_record(0, 17, "first"));
    dead_letter(&folder, "another", dead_lettered_record(0, 18, "not this one"));
    let origin = Origin { ledger: "kafka/till/baskets/0".into(), first: 19, last: 19 };
    dead_letter(&folder, "till", DeadLetterContent::Command(command("7", Some(origin))));
    dead_letter(&folder, "till", dead_lettered_record(3, 20, "from a partition that is not there"));
    let sink = Sink::start(letters("shop"), broker.connection(&[]), folder.store.clone()).unwrap();
    wait_until_published(&sink);
    dead_letter(&folder, "source/till", dead_lettered_record(0, 21, "later"));
    wait_until_published(&sink);
    let found = broker.consume(TOPIC, 4);
    let values: Vec<&str> = found.iter().map(|(value, _)| value.as_str()).collect();
    assert_eq!(values, ["first", "{\"n\": 7}", "from a partition that is not there", "later"]);
    let expected = [
        ("ce_id", "theirs"),
        ("dead-letter-topic", "baskets"),
        ("dead-letter-partition", "0"),
        ("dead-letter-offset", "17"),
        ("dead-letter-timestamp", "5"),
        ("dead-letter-group", "shop"),
        ("dead-letter-error", "no such basket"),
    ];
    assert_has(&found[0].1, &expected);
    assert_has(&found[1].1, &[("dead-letter-offset", "19"), ("ce_type", "of-the-command")]);
    assert_has(&found[2].1, &[("dead-letter-partition", "3")]);
    assert_eq!(folder.dead_letters().len(), 5, "the topic has copies; nothing was dead-lettered because of it");
}

#[test]
fn a_batch_that_may_wait_is_sent_when_it_is_full() {
    let (broker, folder) = (Broker::with_topic(TOPIC, 1), Folder::new());
    let config = Config { batch_max: 3, batch_wait: Duration::from_secs(3_600), ..config() };
    let sink = Sink::start(config, broker.connection(&[]), folder.store.clone()).unwrap();
    for number in 0..3 {
        publish(&folder, numbered(number..number + 1));
    }
    wait_until_published(&sink);
    let Measures { batch_size, batch_time, .. } = sink.measures();
    assert_eq!((batch_size.count(), batch_size.sum, batch_time.count()), (1, 3.0, 1));
    assert_eq!(values(&broker, 3), ids(0..3));
}
