//! Hosts that share a store in PostgreSQL and are members of one group. Kafka divides the partitions among them, and each record counts
//! once, also if several hosts read it.

use super::groups::{assigned, each_counts_once, manifest, order, partitions};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::postgres::{Postgres, sql};
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;
use wasmill_tests::waiting::until;

const URL: &str = "WASMILL_TEST_STORE";
const PARTITIONS: usize = 6;
/// The shortest session that a broker allows by default, in milliseconds.
const SESSION_MS: u64 = 6_000;

fn until_settled(hosts: &[&TestHost], records: u64) {
    until(&format!("{records} records are settled"), || {
        topic::settled(hosts.iter().map(|host| host.status()["sources"][0].clone())) >= records
    });
}

/// Waits until all partitions are assigned, each to one host, and as evenly as possible.
fn until_divided(hosts: &[&TestHost]) {
    until("the partitions are divided", || {
        let counts: Vec<usize> = hosts.iter().map(|host| of_source(host)).collect();
        counts.iter().sum::<usize>() == PARTITIONS && counts.iter().all(|count| *count == PARTITIONS / hosts.len())
    });
}

/// Returns how many partitions a host has, none if its source does not run.
fn of_source(host: &TestHost) -> usize {
    let status = host.status();
    if status["sources"][0].is_null() { 0 } else { assigned(&status) }
}

#[test]
fn hosts_of_one_store_divide_the_partitions_of_a_source_and_each_record_counts_once() {
    let (Some(kafka), Some(server)) = (Kafka::shared(), Postgres::shared()) else { return };
    let (topic, url) = (kafka.topic("divided", PARTITIONS as i32), server.database());
    let properties = format!("properties = {{ heartbeat.interval.ms = 500, session.timeout.ms = {SESSION_MS} }}");
    let source = format!("topic = '{topic}'\ngroup = '{topic}'\nmembership = 'group'\n{properties}");
    let text = format!("[store]\nurl = {{ env = '{URL}' }}\n{}", manifest(&kafka, &source));
    let [one, two] = [(); 2].map(|()| Setting::new(&text));
    let start = |setting: &Setting| setting.start_in(vec![(URL, PathBuf::from(&url))]);
    let produce = |records: std::ops::Range<usize>| order(&kafka, &topic, PARTITIONS, records);

    let first = start(&one);
    produce(0..600);
    until_divided(&[&first]);
    let second = start(&two);
    until_divided(&[&first, &second]);
    produce(600..1_200);
    until_settled(&[&first, &second], 1_200);
    each_counts_once(&first, 1_200);

    // One is frozen in the middle of its work for longer than its session and shorter than its lease. When it goes on, it works on
    // records that the other one has read meanwhile.
    produce(1_200..6_000);
    second.freeze();
    until_divided(&[&first]);
    until_settled(&[&first], 6_000);
    second.wake();
    until_divided(&[&first, &second]);
    each_counts_once(&second, 6_000);

    // One is killed. The other one has everything as soon as the session has ended.
    produce(6_000..9_000);
    second.kill();
    until_divided(&[&first]);
    until_settled(&[&first], 9_000);

    // One that stops gives its partitions to the other at once.
    second.revive();
    until_divided(&[&first, &second]);
    produce(9_000..9_600);
    let stopped = Instant::now();
    first.stop();
    until_divided(&[&second]);
    assert!(stopped.elapsed() < Duration::from_millis(SESSION_MS), "{:?}", stopped.elapsed());
    until_settled(&[&second], 9_600);
    each_counts_once(&second, 9_600);
    let status = second.status();
    assert_eq!((partitions(&status).count(), &status["dead_letters"]["total"]), (PARTITIONS, &0.into()), "{status:#}");
    second.stop();
    let doubled = "SELECT count(*) FROM (SELECT 1 FROM wasmill.events WHERE version = 1 GROUP BY aggregate_id
                   HAVING count(*) > 1) AS doubled";
    assert_eq!(sql(&url, doubled), ["0"]);
}

#[test]
fn a_host_with_another_manifest_reads_no_partition() {
    let (Some(kafka), Some(server)) = (Kafka::shared(), Postgres::shared()) else { return };
    let (topic, url) = (kafka.topic("differing", PARTITIONS as i32), server.database());
    let text = |more: &str| {
        let source = format!("topic = '{topic}'\ngroup = '{topic}'\nmembership = 'group'\n{more}");
        format!("[store]\nurl = {{ env = '{URL}' }}\n{}", manifest(&kafka, &source))
    };
    let (one, two) = (Setting::new(&text("")), Setting::new(&text("in_flight_max = 7")));
    let start = |setting: &Setting| setting.start_in(vec![(URL, PathBuf::from(&url))]);
    let first = start(&one);
    until_divided(&[&first]);
    let second = start(&two);
    second.until("it knows that it differs", |status| {
        let hosts = status["hosts"].as_array().cloned().unwrap_or_default();
        hosts.iter().any(|host| host["this"] == true && host["differs"][0].is_string())
    });
    order(&kafka, &topic, PARTITIONS, 0..600);
    until_settled(&[&first], 600);
    assert_eq!((of_source(&first), of_source(&second)), (PARTITIONS, 0));
    let answer = second.get("/v1/sources/orders/wait?handled=1&timeout_ms=0");
    let said = answer.body["detail"].as_str().unwrap_or_default();
    assert_eq!(answer.status, 409, "{answer:?}");
    assert!(said.contains("source orders does not run here") && said.contains("sources.orders"), "{said}");
    // It is the longest running one now, so it reads them all.
    first.stop();
    until_divided(&[&second]);
    order(&kafka, &topic, PARTITIONS, 600..1_200);
    until_settled(&[&second], 1_200);
    each_counts_once(&second, 1_200);
}
