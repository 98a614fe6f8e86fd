//! Sources on a real broker: members of a group beside foreign ones, topics by pattern, start offsets, and records that
//! retention removed. Whatever the group does, each record counts once.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use std::ops::Range;
use std::time::{Duration, Instant};
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::setting::{ORDERS, Setting};
use wasmill_tests::topic;
use wasmill_tests::waiting::until;

const WAIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
pub(super) const ORDER: &[u8] =
    br#"{"basket_id":"b","household_id":"1","store_id":"2","placed_at":"2017-01-01T11:53:26Z",
    "items":[{"product_id":"3","quantity":1,"amount_cents":50,"discount_cents":0}]}"#;

#[test]
fn a_foreign_member_that_comes_and_goes_changes_nothing() {
    let Some(kafka) = Kafka::shared() else { return };
    for (protocol, more) in [("classic", ", heartbeat.interval.ms = 500"), ("consumer", "")] {
        let topic = kafka.topic(&format!("shared-{protocol}"), 6);
        let properties = format!("membership = 'group'\nproperties = {{ group.protocol = '{protocol}'{more} }}");
        let (_setting, host) = start(&kafka, &format!("topic = '{topic}'\ngroup = '{topic}'\n{properties}"));
        for round in 0..2 {
            let records = round * 600..(round + 1) * 600;
            order(&kafka, &topic, 6, records.start..records.start + 300);
            let foreign = Foreign::join(&kafka, &topic, protocol, &topic);
            foreign.until_it_holds(1);
            host.until("others have some of the partitions", |status| assigned(status) < 6);
            order(&kafka, &topic, 6, records.start + 300..records.end);
            host.until("its own are read", |status| own_are_read(status, records.end as u64 / 6));
            foreign.commit(&topic, 6, 1_000_000);
            drop(foreign);
            handles(&host, records.end as u64);
        }
        each_counts_once(&host, 1_200);
        assert!(host.status()["sources"][0]["rebalances"].as_u64() >= Some(4));
        host.stop();
    }
}

#[test]
fn a_member_that_was_killed_has_its_partitions_back_before_its_session_ends() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("killed", 6);
    // The session is 45 s by default.
    let (_setting, host) = start(&kafka, &format!("topic = '{topic}'\ngroup = '{topic}'\nmembership = 'group'"));
    order(&kafka, &topic, 6, 0..600);
    handles(&host, 600);
    order(&kafka, &topic, 6, 600..1_200);
    let killed = Instant::now();
    host.crash();
    handles(&host, 1_200);
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
    each_counts_once(&host, 1_200);
}

#[test]
fn a_member_that_another_one_has_fenced_takes_its_place_back() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("fenced-member", 6);
    let member = "membership = 'group'\nproperties = { group.instance.id = 'till', heartbeat.interval.ms = 500 }";
    let (_setting, host) = start(&kafka, &format!("topic = '{topic}'\ngroup = '{topic}'\n{member}"));
    order(&kafka, &topic, 6, 0..600);
    handles(&host, 600);
    let rival = Foreign::join(&kafka, &topic, "static", &topic);
    rival.until_it_holds(6);
    order(&kafka, &topic, 6, 600..1_200);
    host.until("it has joined again", |status| status["sources"][0]["rebalances"].as_u64() >= Some(2));
    handles(&host, 1_200);
    drop(rival);
    order(&kafka, &topic, 6, 1_200..1_800);
    handles(&host, 1_800);
    each_counts_once(&host, 1_800);
    let status = host.status();
    assert_eq!((&status["sources"][0]["state"], assigned(&status)), (&"running".into(), 6), "{status:#}");
}

#[test]
fn topics_that_a_pattern_finds_are_read_also_when_they_come_later() {
    let Some(kafka) = Kafka::shared() else { return };
    for (number, membership) in [
        "membership = 'assigned'",
        "membership = 'group'",
        "membership = 'group'\nproperties = { group.protocol = 'consumer' }",
    ]
    .into_iter()
    .enumerate()
    {
        let first = kafka.topic(&format!("found{number}.a"), 2);
        // A cluster that was given may have topics of other runs.
        let run = std::process::id();
        let (_setting, host) =
            start(&kafka, &format!("topics = ['^found{number}\\..*-{run}$']\ngroup = '{first}'\n{membership}"));
        order(&kafka, &first, 2, 0..100);
        handles(&host, 100);
        let second = kafka.topic(&format!("found{number}.b"), 2);
        order(&kafka, &second, 2, 100..200);
        handles(&host, 200);
        each_counts_once(&host, 200);
    }
}

#[test]
fn from_a_time_means_the_first_record_that_is_not_older() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("since", 2);
    order(&kafka, &topic, 2, 0..100);
    let before = std::time::SystemTime::now();
    let passed = || before.elapsed().is_ok_and(|elapsed| elapsed > Duration::from_millis(2));
    until("the clock has moved", passed);
    let since = humantime::format_rfc3339_millis(std::time::SystemTime::now());
    order(&kafka, &topic, 2, 100..200);
    let (_setting, host) = start(&kafka, &format!("topic = '{topic}'\nfrom = {{ time = '{since}' }}"));
    handles(&host, 200);
    each_counts_once(&host, 100);
}

#[test]
fn what_retention_removed_is_counted_and_ends_nothing_or_the_partition() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("removed", 2);
    let source = |lost: &str| format!("topic = '{topic}'\nlost = '{lost}'");
    let setting = Setting::new(&manifest(&kafka, &source("stop")));
    order(&kafka, &topic, 2, 0..20);
    let host = setting.start();
    handles(&host, 20);
    host.stop();
    order(&kafka, &topic, 2, 20..60);
    delete_before(&kafka, &topic, 0, 25);

    let host = setting.start();
    let status = host.until("the loss is told", |status| status["sources"][0]["error"].is_string());
    let error = status["sources"][0]["error"].as_str().expect("an error").to_owned();
    let says = |part: &str| assert!(error.contains(part), "{error}");
    says(&format!("topic {topic} partition 0: offsets 10 to 24, up to 15 records, were removed"));
    says("set `lost = \"continue\"` and restart");
    // The other partition goes on: 10 records of each before, 20 of it since.
    handles(&host, 10 + 30);
    host.stop();

    setting.manifest(&manifest(&kafka, &source("continue")));
    let host = setting.start();
    handles(&host, 60);
    each_counts_once(&host, 45);
    let status = host.status();
    assert_eq!(status["dead_letters"]["newest"][0]["place"], format!("topic {topic} partition 0 offsets 10 to 24"));
}

#[test]
fn a_group_that_another_tool_uses_is_no_harm_to_offsets_and_is_told_where_it_is_one() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("tool", 4);
    let tool = Foreign::join(&kafka, &topic, "classic-range", &topic);
    tool.until_it_holds(4);
    tool.commit(&topic, 4, 1_000_000);
    order(&kafka, &topic, 4, 0..400);
    // Its own assignment, and the group for its offsets alone: they are refused, and nothing waits for them.
    let (_setting, host) = start(&kafka, &format!("topic = '{topic}'\ngroup = '{topic}'"));
    handles(&host, 400);
    each_counts_once(&host, 400);
    host.stop();
    // As a member it has no way to agree with the others.
    let (_setting, host) = start(&kafka, &format!("topic = '{topic}'\ngroup = '{topic}'\nmembership = 'group'"));
    let status = host.until("the refusal is told", |status| status["sources"][0]["error"].is_string());
    let error = status["sources"][0]["error"].as_str().expect("an error");
    assert!(error.contains(&format!("group {topic}:")) && error.contains("[sources.orders]"), "{error}");
    drop(tool);
    handles(&host, 400);
    each_counts_once(&host, 400);
}

/// A member of a group that takes partitions and does nothing with their records.
struct Foreign(BaseConsumer);

impl Foreign {
    fn join(kafka: &Kafka, group: &str, protocol: &str, topic: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka.brokers()).set("group.id", group).set("enable.auto.commit", "false");
        match protocol {
            "consumer" => config.set("group.protocol", "consumer"),
            "classic" => config.set("partition.assignment.strategy", "cooperative-sticky"),
            "static" => {
                config.set("partition.assignment.strategy", "cooperative-sticky").set("group.instance.id", "till")
            }
            _ => config.set("partition.assignment.strategy", "range"),
        };
        let consumer: BaseConsumer = config.create().expect("make a consumer");
        consumer.subscribe(&[topic]).expect("join the group");
        Self(consumer)
    }

    fn until_it_holds(&self, partitions: usize) {
        until("the foreign member has partitions", || {
            let _ = self.0.poll(LOOK);
            self.0.assignment().expect("its assignment").count() >= partitions
        });
    }

    /// Commits the same offset for each partition that it has.
    fn commit(&self, topic: &str, partitions: i32, offset: i64) {
        let held = self.0.assignment().expect("its assignment");
        let mut offsets = TopicPartitionList::new();
        for partition in (0..partitions).filter(|partition| held.find_partition(topic, *partition).is_some()) {
            offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
        }
        // Refused where the group has changed meanwhile; it is nonsense either way.
        let _ = self.0.commit(&offsets, CommitMode::Sync);
    }
}

pub(super) fn manifest(kafka: &Kafka, source: &str) -> String {
    format!(
        "{ORDERS}[kafka]\nbrokers = '{}'\n[sources.orders]\naggregate = 'order'\ncommand = 'CreateOrder'\n{source}\n",
        kafka.brokers()
    )
}

/// The host ends before its folder.
fn start(kafka: &Kafka, source: &str) -> (Setting, TestHost) {
    let setting = Setting::new(&manifest(kafka, source));
    let host = setting.start();
    (setting, host)
}

/// Produces orders, each with an id of its own, over the partitions in turn.
pub(super) fn order(kafka: &Kafka, topic: &str, partitions: usize, numbers: Range<usize>) {
    for partition in 0..partitions {
        let keys: Vec<String> = numbers.clone().skip(partition).step_by(partitions).map(|n| n.to_string()).collect();
        let records: Vec<(Option<&[u8]>, &[u8])> = keys.iter().map(|key| (Some(key.as_bytes()), ORDER)).collect();
        topic::produce(kafka.brokers(), topic, partition as i32, &records);
    }
}

pub(super) fn delete_before(kafka: &Kafka, topic: &str, partition: i32, offset: i64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().expect("make an admin client");
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("make a runtime");
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    runtime.block_on(admin.delete_records(&offsets, &options)).expect("delete records");
}

/// Waits until so many offsets are settled.
fn handles(host: &TestHost, records: u64) {
    host.until(&format!("{records} records are handled"), |status| {
        status["sources"][0]["handled"].as_u64() >= Some(records)
    });
}

pub(super) fn partitions(status: &Value) -> impl Iterator<Item = &Value> {
    status["sources"][0]["partitions"].as_array().expect("partitions").iter()
}

pub(super) fn assigned(status: &Value) -> usize {
    partitions(status).filter(|partition| partition["assigned"] == true).count()
}

fn own_are_read(status: &Value, next: u64) -> bool {
    partitions(status)
        .filter(|partition| partition["assigned"] == true)
        .all(|partition| partition["next"].as_u64() >= Some(next))
}

/// An order that is made a second time is refused.
pub(super) fn each_counts_once(host: &TestHost, orders: u64) {
    let status = host.status();
    let commands = &status["commands"][0];
    assert_eq!((&commands["accepted"], &commands["rejected"]), (&orders.into(), &0.into()), "{status:#}");
}
