//! Consume, transform, produce on a real broker: `read_committed` readers see each record's messages once, whatever
//! happens to the host.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic::{self, Read};

const PARTITIONS: i32 = 4;

/// Topics of one test: in, out, and what failed.
struct Topics {
    wishes: String,
    echoes: String,
    dead: String,
}

impl Topics {
    fn new(kafka: &Kafka, name: &str) -> Self {
        let topic = |what: &str, partitions| kafka.topic(&format!("{name}-{what}"), partitions);
        Self { wishes: topic("wishes", PARTITIONS), echoes: topic("echoes", 2), dead: topic("dead", PARTITIONS) }
    }

    fn setting(&self, kafka: &Kafka, source: &str) -> Setting {
        let Self { wishes, dead, .. } = self;
        Setting::new(&format!(
            "[kafka]\nbrokers = \"{}\"\n[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n\
             [plugins.courier]\nfile = \"PLUGINS/courier.wasm\"\n[sources.wishes]\ntopic = \"{wishes}\"\n\
             subscriber = \"courier\"\ntransaction = \"kafka\"\ndead_letter_topic = \"{dead}\"\ngroup = \"{wishes}\"\n\
             attempts_max = 2\nbackoff_ms = 10\n{source}\n",
            kafka.brokers()
        ))
    }

    /// Records that ask for one message each, with their number in it.
    fn produce(&self, kafka: &Kafka, numbers: std::ops::Range<usize>) {
        let text = |number| json!({ "Tell": { "topic": self.echoes, "text": format!("m{number}") } });
        let records: Vec<_> = numbers.map(|number| (format!("k{}", number % 97), text(number))).collect();
        topic::produce_keyed(kafka.brokers(), &self.wishes, &records);
    }

    /// What a reader of committed messages has, by text, with how often.
    fn told(&self, kafka: &Kafka) -> BTreeMap<String, usize> {
        let mut told = BTreeMap::new();
        for shown in kafka.read_committed(&self.echoes) {
            *told.entry(shown.value.trim_matches('"').to_owned()).or_default() += 1;
        }
        told
    }
}

fn once_each(count: usize) -> BTreeMap<String, usize> {
    (0..count).map(|number| (format!("m{number}"), 1)).collect()
}

fn handled(host: &TestHost, count: u64) -> Value {
    let committed = |status: &Value| {
        let source = &status["sources"][0];
        source["partitions"]
            .as_array()
            .is_some_and(|all| all.iter().map(|one| one["next"].as_u64().unwrap()).sum::<u64>() >= count)
    };
    host.until(&format!("{count} records are committed"), committed)
}

#[test]
fn a_reader_of_committed_messages_has_each_once_through_kills() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = Topics::new(&kafka, "kills");
    let setting = topics.setting(&kafka, "batch_max = 20");
    let host = setting.start();
    let mut produced = 0;
    for round in 1..=6 {
        topics.produce(&kafka, produced..produced + 500);
        produced += 500;
        // In the middle of its work.
        handled(&host, produced as u64 - 500 + 50 * round);
        host.crash();
    }
    let progress = host.get(&format!("/v1/sources/wishes/wait?handled={produced}&timeout_ms=60000"));
    assert_eq!((progress.status, &progress.body["handled"]), (200, &json!(produced)), "{:#}", progress.body);
    host.drained();
    assert_eq!(topics.told(&kafka), once_each(produced));
    let status = host.status();
    assert_eq!((&status["store"]["position"], &status["dead_letters"]["total"]), (&json!(0), &json!(0)), "{status:#}");
    host.stop();
    // In the next life there is nothing left to do.
    let host = setting.start();
    host.drained();
    assert_eq!(topics.told(&kafka).len(), produced);
}

#[test]
fn markers_and_aborted_records_at_the_end_leave_no_lag() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = Topics::new(&kafka, "markers");
    let setting = topics.setting(&kafka, "");
    let host = setting.start();
    topics.produce(&kafka, 0..5);
    handled(&host, 5);
    topic::abort(kafka.brokers(), &topics.wishes, 0, 6);
    let ends = kafka.ends(&topics.wishes);
    host.drained();
    let no_lag = |_: &Value| kafka.committed(&topics.wishes, &topics.wishes) == ends;
    host.until("the group is at the end of each partition that has one", no_lag);
    assert_eq!(topics.told(&kafka), once_each(5));
}

#[test]
fn two_hosts_share_a_topic_and_each_record_counts_once() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = Topics::new(&kafka, "shared");
    // A static member that ended is missed until its session is over.
    let source = "batch_max = 10\nproperties = { session.timeout.ms = 6000, heartbeat.interval.ms = 500 }";
    let (one, other) = (topics.setting(&kafka, source), topics.setting(&kafka, source));
    let one = one.start();
    topics.produce(&kafka, 0..1_000);
    handled(&one, 100);
    let other = other.start();
    let is_shared = |status: &Value| {
        let partitions = status["sources"][0]["partitions"].as_array().expect("partitions");
        partitions.iter().filter(|partition| partition["assigned"] == true).count() == PARTITIONS as usize / 2
    };
    other.until("the partitions are shared", is_shared);
    topics.produce(&kafka, 1_000..2_000);
    // The one that stays takes over what the other had.
    one.stop();
    other.until("it has all partitions", |status| {
        let partitions = status["sources"][0]["partitions"].as_array().expect("partitions");
        partitions.iter().filter(|partition| partition["assigned"] == true).count() == PARTITIONS as usize
    });
    other.drained();
    assert_eq!(topics.told(&kafka), once_each(2_000));
}

#[test]
fn a_record_that_fails_goes_to_the_dead_letter_topic_in_the_same_transaction() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = Topics::new(&kafka, "poison");
    let setting = topics.setting(&kafka, "");
    let host = setting.start();
    let tell = |text: &str| json!({ "Tell": { "topic": topics.echoes, "text": text } }).to_string();
    let nowhere = json!({ "Tell": { "topic": "no such topic!", "text": "x" } }).to_string();
    let values = [tell("m0"), json!("Refuse").to_string(), tell("m1"), json!("Panic").to_string(), nowhere, tell("m2")];
    let records: Vec<_> = values.iter().map(|value| (Some(b"k\xff".as_slice()), value.as_bytes())).collect();
    topic::produce(kafka.brokers(), &topics.wishes, 3, &records);
    handled(&host, 6);
    assert_eq!(topics.told(&kafka), once_each(3));

    let dead = topic::read(kafka.brokers(), &topics.dead, 3);
    let offsets: Vec<_> = dead.iter().map(|read| read.header("dead-letter-offset").unwrap_or_default()).collect();
    assert_eq!(offsets, ["1", "3", "4"]);
    let reason = |read: &Read| read.header("dead-letter-error").unwrap_or_default().to_owned();
    for (read, part) in dead.iter().zip(["as the record asked", "(tried 2 times)", "can't be the name of a topic"]) {
        assert!(reason(read).contains(part), "{}", reason(read));
        assert_eq!(read.header("dead-letter-topic"), Some(topics.wishes.as_str()));
        assert_eq!(read.header("dead-letter-partition"), Some("3"));
        assert_eq!(read.key.as_deref(), Some(b"k\xff".as_slice()));
    }
    assert_eq!(dead[0].value.as_deref(), Some(b"\"Refuse\"".as_slice()));
    host.drained();
}

#[test]
fn a_command_is_refused_and_nothing_is_lost() {
    let Some(kafka) = Kafka::shared() else { return };
    let topics = Topics::new(&kafka, "command");
    let setting = topics.setting(&kafka, "");
    let host = setting.start();
    topics.produce(&kafka, 0..3);
    handled(&host, 3);
    let add = json!({ "Add": { "cart": "c", "amount_cents": 1 } });
    topic::produce_keyed(kafka.brokers(), &topics.wishes, &[("k".to_owned(), add)]);
    let status = host.until("it says what is wrong", |status| {
        status["sources"][0]["error"].as_str().is_some_and(|error| error.contains("sends the command AddItems"))
    });
    let source = &status["sources"][0];
    assert!(source["error"].as_str().expect("an error").contains("set `transaction = \"store\"`"), "{source:#}");
    assert_eq!((&source["state"], &status["store"]["position"]), (&json!("retrying"), &json!(0)));
    // Delivered by way of the store the record has its effect.
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).unwrap();
    host.stop();
    setting.write("wasmill.toml", manifest.replace("transaction = \"kafka\"", "from = \"beginning\""));
    let host = setting.start();
    host.until("the command is handled", |status| status["store"]["position"] == 1);
}
