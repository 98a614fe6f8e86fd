//! The whole grocery flow as a member of a group on a real broker, through all kinds of faults of the host, the group
//! and the broker, again and again. At the end every total is exact, and no part of the host has stopped.
//!
//! The times of the kills are drawn from a seed, which is printed and can be given by `WASMILL_TEST_SEED`.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::raised::Raised;
use wasmill_tests::setting::Setting;
use wasmill_tests::waiting::until;
use wasmill_tests::{baskets, built, topic};

/// How often the host is killed, and in which of these rounds something happens beside it.
const KILLS: usize = 50;
const POISON: usize = 3;
const BROKER_GOES: [usize; 2] = [10, 35];
const HOST_SLEEPS: [usize; 2] = [18, 42];
const SEED: &str = "WASMILL_TEST_SEED";
const ANOTHER_PRODUCER: usize = 26;

const PARTITIONS: usize = 6;
const GROUP: &str = "grocery";
const TRANSACTIONAL_ID: &str = "grocery-sink";
/// After so long a silent member has lost its partitions.
const SESSION_MS: &str = "2000";
/// A round's kill comes after some of its work, or after so long where others have the partitions.
const ROUND_MAX: Duration = Duration::from_millis(1_500);
/// How many records the host gets at once where it is to be caught publishing, and how many messages a transaction of
/// its sink has at most: a burst is many transactions.
const BURST: usize = 40;
const BATCH_MAX: usize = 2;
/// How long the foreign member holds its partitions.
const HOLD: Duration = Duration::from_millis(1_500);
const WAIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

#[test]
fn totals_are_exact_through_kills_rebalances_sleep_and_a_broker_that_goes_away() {
    let Some(kafka) = Kafka::own() else { return };
    let given = std::env::var(SEED).ok().map(|seed| seed.parse().expect("the seed is a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{SEED}={seed}");
    fastrand::seed(seed);
    let setting = Setting::new(&manifest(&kafka));
    let host = setting.start();
    host.until("the topics are made", |_| !kafka.ends("baskets").is_empty() && !kafka.ends("notifications").is_empty());
    let input = built::grocery().join("data/baskets.jsonl.gz");
    let records: Vec<(String, Value)> = baskets::read(&input).into_iter().map(keyed).collect();
    // To have it publish for long enough to be caught.
    let (spare, records) = records.split_at(records.len() / 2);
    let mut spare = spare.chunks(spare.len().div_ceil(HOST_SLEEPS.len()));

    let (over, held) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| come_and_go(kafka.brokers(), &over, &held));
        // Ends the other thread also where this one panics.
        let _over = Raised(&over);
        let mut other = None;
        for (round, part) in records.chunks(records.len().div_ceil(KILLS)).enumerate() {
            topic::produce_keyed(kafka.brokers(), "baskets", &part[..part.len() / 2]);
            if round == ANOTHER_PRODUCER {
                // The host's is the older one once it has published.
                host.until("it has published", |status| status["sinks"][0]["published"].as_u64() > Some(0));
                other = Some(another_producer(kafka.brokers()));
            }
            let rest = &part[part.len() / 2..];
            if HOST_SLEEPS.contains(&round) {
                let work = [rest, spare.next().expect("a part for each sleep")].concat();
                sleep_in_a_transaction(&kafka, &host, &work, &held);
            } else {
                topic::produce_keyed(kafka.brokers(), "baskets", rest);
            }
            let decided = decided(&host.status());
            let enough = decided + fastrand::u64(1..=part.len() as u64);
            work_until(&host, |status| self::decided(status) >= enough);
            happen(round, &kafka, &host);
            if let Some(other) = other.take() {
                host.until("it has taken its id back and publishes", publishes);
                drop(other);
            }
            host.crash();
        }
    });
    host.until("all partitions are back", |status| {
        let partitions = status["sources"][0]["partitions"].as_array().expect("partitions");
        partitions.iter().filter(|partition| partition["assigned"] == true).count() == PARTITIONS
    });
    host.drained();
    check(&kafka, &host, &baskets::figures(&input));
}

/// What happens in some of the rounds, while the foreign member comes and goes.
fn happen(round: usize, kafka: &Kafka, host: &TestHost) {
    if round == POISON {
        for partition in 0..PARTITIONS as i32 {
            topic::produce(kafka.brokers(), "baskets", partition, &[(None, b"poison")]);
        }
    }
    if BROKER_GOES.contains(&round) {
        kafka.restart(|| {
            host.until("the status tells of the broker", |status| {
                status["sources"][0]["error"].is_string() && status["sources"][0]["state"] != "stopped"
            });
        });
        host.until("it is over", |status| status["sources"][0]["error"].is_null());
    }
}

/// Puts the host to sleep while a transaction of its sink is open, until the broker has aborted it and others have all
/// partitions. Awake again, the host continues by itself.
fn sleep_in_a_transaction(kafka: &Kafka, host: &TestHost, work: &[(String, Value)], held: &AtomicUsize) {
    let mut bursts = work.chunks(BURST);
    let asleep = bursts.by_ref().any(|burst| {
        topic::produce_keyed(kafka.brokers(), "baskets", burst);
        work_until(host, has_pending);
        freeze_in_a_transaction(kafka, host)
    });
    assert!(asleep, "the host was never caught with a transaction open");
    until("others have all partitions", || held.load(Ordering::Relaxed) == PARTITIONS);
    until("the broker has aborted the transaction", || !kafka.has_open_transaction("notifications"));
    host.wake();
    host.until("it publishes again", publishes);
    host.until("it has partitions again", |status| {
        let partitions = status["sources"][0]["partitions"].as_array().expect("partitions");
        partitions.iter().any(|partition| partition["assigned"] == true)
    });
    bursts.for_each(|burst| topic::produce_keyed(kafka.brokers(), "baskets", burst));
}

/// Freezes the host again and again while its sink publishes, which is one transaction after the other, and leaves it
/// frozen where one is open.
fn freeze_in_a_transaction(kafka: &Kafka, host: &TestHost) -> bool {
    let open = || kafka.has_open_transaction("notifications");
    let deadline = Instant::now() + WAIT;
    while has_pending(&host.status()) && Instant::now() < deadline {
        host.freeze();
        // Twice: one that is committing ends in between.
        if open() && open() {
            return true;
        }
        host.wake();
    }
    false
}

fn has_pending(status: &Value) -> bool {
    status["sinks"][0]["pending"].as_u64() > Some(0)
}

/// Whether the sink has nothing left to publish. It must not have stopped.
fn publishes(status: &Value) -> bool {
    let sink = &status["sinks"][0];
    assert_ne!(sink["state"], "stopped", "{sink:#}");
    sink["pending"] == 0 && sink["error"].is_null()
}

fn manifest(kafka: &Kafka) -> String {
    let example = fs::read_to_string(built::grocery().join("wasmill.toml")).expect("read the example's manifest");
    let brokers = format!("brokers = '{}'", kafka.brokers());
    let member = format!(
        "command = \"CreateOrder\"\nmembership = 'group'\ngroup = '{GROUP}'\n\
         properties = {{ session.timeout.ms = {SESSION_MS}, heartbeat.interval.ms = 300 }}"
    );
    let example = example
        .replace("../../target/plugins", "PLUGINS")
        .replace("../../target/grocery", "data")
        .replace("brokers = \"embedded\"", &brokers)
        .replace("command = \"CreateOrder\"", &member);
    let sink = format!(
        "transactional_id = '{TRANSACTIONAL_ID}'\nbatch_max = {BATCH_MAX}\nproperties = {{ transaction.timeout.ms = {SESSION_MS} }}"
    );
    format!("{example}\n[sink]\n{sink}\n")
}

fn keyed(basket: Value) -> (String, Value) {
    (basket["basket_id"].as_str().expect("a basket has an id").to_owned(), basket)
}

/// How many records have become something durable.
fn decided(status: &Value) -> u64 {
    let of_orders = |tally: &&Value| tally["command"] == "CreateOrder";
    let tallies = status["commands"].as_array().expect("tallies").iter().filter(of_orders);
    tallies.map(|tally| tally["accepted"].as_u64().unwrap_or(0) + tally["rejected"].as_u64().unwrap_or(0)).sum()
}

fn work_until(host: &TestHost, condition: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + ROUND_MAX;
    while !condition(&host.status()) && Instant::now() < deadline {
        thread::park_timeout(LOOK);
    }
}

/// A member of the group that takes partitions, does nothing with them, commits nothing, and leaves: again and again.
fn come_and_go(brokers: &str, over: &AtomicBool, held: &AtomicUsize) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", GROUP).set("enable.auto.commit", "false");
    config.set("partition.assignment.strategy", "cooperative-sticky").set("session.timeout.ms", SESSION_MS);
    config.set("heartbeat.interval.ms", "300");
    while !over.load(Ordering::Relaxed) {
        let member: BaseConsumer = config.create().expect("make a consumer");
        member.subscribe(&["baskets"]).expect("join the group");
        let mut leaves = None;
        while !over.load(Ordering::Relaxed) && leaves.is_none_or(|at| Instant::now() < at) {
            let _ = member.poll(LOOK);
            let count = member.assignment().expect("its assignment").count();
            held.store(count, Ordering::Relaxed);
            if count > 0 && leaves.is_none() {
                leaves = Some(Instant::now() + HOLD);
            }
        }
        drop(member);
        held.store(0, Ordering::Relaxed);
    }
}

/// Takes the transactional id over, and leaves a transaction open.
fn another_producer(brokers: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("transactional.id", TRANSACTIONAL_ID);
    let producer: BaseProducer = config.create().expect("make a producer");
    producer.init_transactions(WAIT).expect("take the transactional id");
    producer.begin_transaction().expect("begin a transaction");
    let record = BaseRecord::<str, str>::to("notifications").payload("never committed");
    producer.send(record).map_err(|(error, _)| error).expect("produce a record");
    producer
}

fn check(kafka: &Kafka, host: &TestHost, expected: &Value) {
    let status = host.status();
    let count = |what: &str| {
        let tallies = status["commands"].as_array().expect("tallies").iter();
        tallies.filter(|tally| tally["command"] == "CreateOrder").filter_map(|tally| tally[what].as_u64()).sum::<u64>()
    };
    assert_eq!(
        (json!(count("accepted")), json!(count("rejected"))),
        (expected["placed"].clone(), expected["rejected"].clone())
    );
    let totals = host.query("sales", "totals", &json!({})).body;
    for figure in
        ["placed", "confirmed", "units", "sales_cents", "discount_cents", "stores", "households", "loyal_households"]
    {
        assert_eq!(totals[figure], expected[figure], "{figure}: {totals:#}");
    }

    let letters = status["dead_letters"]["newest"].as_array().expect("dead letters");
    assert_eq!(status["dead_letters"]["total"], PARTITIONS, "{letters:#?}");
    for letter in letters {
        assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("has no key")), "{letter}");
    }
    let places: BTreeSet<_> = letters.iter().map(|letter| letter["place"].as_str().unwrap_or_default()).collect();
    let of = |partition: usize| {
        places.iter().any(|place| place.starts_with(&format!("topic baskets partition {partition} ")))
    };
    assert!((0..PARTITIONS).all(of), "{places:?}");

    let read = kafka.read_committed("notifications");
    assert_eq!(json!(read.len()), expected["notifications"], "records, not distinct ids");
    assert_eq!(read.iter().map(|shown| &shown.id).collect::<BTreeSet<_>>().len(), read.len());
}
