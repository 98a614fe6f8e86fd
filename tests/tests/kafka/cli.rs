//! `wasmill kafka` on a real broker: every command, what it prints and what it refuses.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use serde_json::{Value, json};
use std::process::Output;
use std::time::{Duration, Instant};
use wasmill_tests::kafka::Kafka;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

const WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// `wasmill kafka … --brokers … --json` in a folder of its own.
struct Cli {
    setting: Setting,
    brokers: String,
}

impl Cli {
    fn new(kafka: &Kafka) -> Self {
        Self { setting: Setting::new(""), brokers: kafka.brokers().to_owned() }
    }

    fn run(&self, args: &[&str]) -> Output {
        self.setting.wasmill(&[&["kafka", "--json", "--brokers", &self.brokers], args].concat())
    }

    /// It must succeed: its lines.
    fn lines(&self, args: &[&str]) -> Vec<Value> {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        lines(&output)
    }

    /// It must fail: what it says.
    fn error(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        lines(&output)[0]["error"].as_str().unwrap_or_else(|| panic!("{output:?}")).to_owned()
    }
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn topics_are_made_listed_described_and_deleted() {
    let Some(kafka) = Kafka::shared() else { return };
    let cli = Cli::new(&kafka);
    let name = format!("cli-topics-{}", std::process::id());
    let create = ["topics", "create", &name, "--partitions", "3", "--config", "retention.ms=86400000"];
    cli.lines(&create);
    let listed = cli.lines(&["topics", "list"]);
    let expected = json!({ "topic": name, "partitions": 3, "replication": 1, "unhealthy": 0 });
    assert!(listed.contains(&expected), "{listed:?}");
    topic::produce(kafka.brokers(), &name, 1, &[(None, b"a"), (None, b"b")]);
    let described = &cli.lines(&["topics", "describe", &name])[0];
    assert_eq!((&described["partitions"][1]["beginning"], &described["partitions"][1]["end"]), (&json!(0), &json!(2)));
    assert_eq!(described["config"], json!([{ "name": "retention.ms", "value": "86400000" }]));

    assert!(cli.error(&create).contains(&format!("topic {name}: it can't be created")), "a second time");
    assert!(
        cli.error(&["topics", "create", "cli-many", "--replication", "9"]).contains("than the cluster has brokers")
    );
    let refused = cli.error(&["topics", "delete", &name]);
    assert!(refused.contains("up to 2 records") && refused.contains("add --yes"), "{refused}");
    cli.lines(&["topics", "delete", &name, "--yes"]);
    let deadline = Instant::now() + WAIT;
    while cli.lines(&["topics", "list"]).iter().any(|topic| topic["topic"] == name) {
        assert!(Instant::now() < deadline, "waited in vain for the end of {name}");
    }
    assert!(cli.error(&["topics", "describe", &name]).contains("topics create"), "a topic that is not there");
}

#[test]
fn records_go_in_and_out_as_they_are() {
    let Some(kafka) = Kafka::shared() else { return };
    let cli = Cli::new(&kafka);
    let (from, to) = (kafka.topic("cli-in", 2), kafka.topic("cli-out", 2));
    let text: String = (0..1000).map(|n| format!("k{n}|{{\"n\":{n},\"even\":{}}}\n", n % 2 == 0)).collect();
    cli.setting.write("text", text);
    let produced = cli.lines(&["produce", &from, "text", "--separator", "|", "--header", "from=test"]);
    assert_eq!(produced[0], json!({ "ok": true, "topic": from, "produced": 1000 }));
    let records = "{\"key_base64\":\"/w==\",\"value\":\"plain\",\"partition\":1,\"time_ms\":5000,\
                   \"headers\":[{\"name\":\"none\"}]}\n{\"key\":\"gone\",\"value\":null,\"partition\":1}\n";
    cli.setting.write("records", records);
    cli.lines(&["produce", &from, "records", "--format", "json"]);

    let all = |topic: &str, more: &[&str]| cli.lines(&[&["consume", topic, "--to", "end"], more].concat());
    let content = |records: &[Value]| {
        let mut records = records.to_vec();
        for record in &mut records {
            let record = record.as_object_mut().expect("a record is an object");
            record.remove("topic");
            record.remove("offset");
        }
        records.sort_by_key(Value::to_string);
        records
    };
    let read = all(&from, &[]);
    assert_eq!(read.len(), 1002);
    let copy: String = read.iter().map(|record| format!("{record}\n")).collect();
    cli.setting.write("copy", copy);
    assert_eq!(cli.lines(&["produce", &to, "copy", "--format", "json"])[0]["produced"], 1002);
    assert_eq!(content(&all(&to, &[])), content(&read), "what is printed can be produced");

    assert_eq!(all(&from, &["--field", "even=true", "--header", "from=test"]).len(), 500);
    assert_eq!(all(&from, &["--key", "k7"])[0]["value"], json!({ "n": 7, "even": false }));
    assert_eq!(all(&from, &["--from", "end"]).len(), 0);
    let second = all(&from, &["--partition", "1"]);
    let tail = all(&from, &["--partition", "1", "--from", "3", "--limit", "2"]);
    assert_eq!(tail, second[3..5]);
    let head = cli.lines(&["consume", &from, "--partition", "1", "--to", "3"]);
    assert_eq!(head, second[..3]);
    assert_eq!(all(&from, &["--partition", "1", "--from", "1970-01-01T00:00:05Z"]).len(), second.len());

    assert!(cli.error(&["consume", &from, "--partition", "2"]).contains("partition 2: there is none"));
    let beyond = cli.error(&["consume", &from, "--partition", "1", "--from", "99999"]);
    assert!(beyond.contains("offset 99999 is not there: it has 0 to"), "{beyond}");
    assert!(cli.error(&["consume", "cli-absent"]).starts_with("topic cli-absent: "));
    assert!(cli.error(&["produce", "cli-absent", "text"]).starts_with("topic cli-absent: "));
    cli.setting.write("bad", "{\"value\":1}\n{\"vaule\":2}\n{\"value\":3}\n");
    let bad = cli.run(&["produce", &to, "bad", "--format", "json"]);
    assert!(lines(&bad)[0]["error"].as_str().is_some_and(|error| error.starts_with("bad: line 2: unknown field")));
    assert_eq!(lines(&bad)[0]["produced"], 1);
    cli.setting.write("large", "x".repeat(2_000_000));
    let large = cli.error(&["produce", &to, "large"]);
    assert!(large.contains("line 1") && large.contains("max.message.bytes"), "{large}");
}

#[test]
fn groups_of_both_protocols_show_members_and_lag() {
    let Some(kafka) = Kafka::shared() else { return };
    let cli = Cli::new(&kafka);
    let topic = kafka.topic("cli-groups", 2);
    topic::produce(kafka.brokers(), &topic, 0, &[(None, b"a"), (None, b"b"), (None, b"c")]);
    for protocol in ["classic", "consumer"] {
        let group = format!("cli-{protocol}-{}", std::process::id());
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka.brokers()).set("group.id", &group).set("group.protocol", protocol);
        config.set("auto.offset.reset", "earliest").set("enable.auto.commit", "false").set("client.id", "till");
        let consumer: BaseConsumer = config.create().expect("make a consumer");
        consumer.subscribe(&[&topic]).expect("subscribe");
        let deadline = Instant::now() + WAIT;
        let record = loop {
            assert!(Instant::now() < deadline, "waited in vain for a record");
            match consumer.poll(POLL) {
                Some(Ok(record)) => break record,
                Some(Err(error)) => eprintln!("{error}"),
                None => {}
            }
        };
        consumer.commit_message(&record, CommitMode::Sync).expect("commit");
        drop(record);
        let described = &cli.lines(&["groups", "describe", &group])[0];
        assert_eq!(described["protocol"].as_str().map(str::to_lowercase).as_deref(), Some(protocol), "{described}");
        assert_eq!(
            (&described["members"][0]["client"], &described["members"][0]["partitions"]),
            (&json!("till"), &json!(2))
        );
        let id = &described["members"][0]["id"];
        let first = json!({ "topic": topic, "partition": 0, "committed": 1, "end": 3, "lag": 2, "member": id });
        assert_eq!(described["partitions"][0], first);
        assert!(cli.lines(&["groups", "list"]).iter().any(|listed| listed["group"] == group), "{group} is not listed");
    }
    assert!(cli.error(&["groups", "describe", "cli-absent"]).contains("groups list"));
}

#[test]
fn offsets_of_a_stopped_host_are_shown_and_reset() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("cli-offsets", 2);
    let order = |n: usize| {
        json!({ "household_id": "7", "store_id": "9", "placed_at": "2017-01-01T11:53:26Z", "items": [
            { "product_id": n.to_string(), "quantity": 1, "amount_cents": 100, "discount_cents": 0 } ] })
        .to_string()
    };
    let orders: Vec<(String, String)> = (0..20).map(|n| (format!("{topic}-{n}"), order(n))).collect();
    for (n, (id, order)) in orders.iter().enumerate() {
        topic::produce(kafka.brokers(), &topic, n as i32 % 2, &[(Some(id.as_bytes()), order.as_bytes())]);
    }
    let setting = Setting::new(&format!(
        "[kafka]\nbrokers = \"{}\"\n[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n[sources.tills]\n\
         topic = \"{topic}\"\naggregate = \"order\"\ncommand = \"CreateOrder\"\n",
        kafka.brokers()
    ));
    let offsets = |args: &[&str]| {
        setting.wasmill(&[&["kafka", "offsets", "--json", "--manifest", "wasmill.toml"], args].concat())
    };
    let host = setting.start();
    host.until("all are handled", |status| status["sources"][0]["handled"] == 20);
    let refused = offsets(&["show"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let error = lines(&refused)[0]["error"].to_string();
    assert!(error.contains("a host runs on") && error.contains("stop it first"), "{error}");
    host.stop();

    let shown = lines(&offsets(&["show", "tills"]));
    let id = shown[0]["topic_id"].as_str().expect("the topic has an id").to_owned();
    let expected = |partition: i32, next: u64| {
        json!({ "source": "tills", "topic": topic, "topic_id": id, "partition": partition, "next": next, "ahead": 0,
                "beginning": 0, "end": 10 })
    };
    assert_eq!(shown, [expected(0, 10), expected(1, 10)]);
    let asked = offsets(&["reset", "tills", "--to", "4", "--partition", "1"]);
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    assert!(lines(&asked)[0]["error"].to_string().contains("up to 6 records are read again"), "{asked:?}");
    assert_eq!(lines(&offsets(&["show"])), shown, "nothing was changed");
    let reset = offsets(&["reset", "tills", "--to", "4", "--partition", "1", "--yes"]);
    assert_eq!(lines(&reset), [json!({ "topic": topic, "topic_id": id, "partition": 1, "from": 10, "to": 4 })]);
    assert_eq!(lines(&offsets(&["show"])), [expected(0, 10), expected(1, 4)]);
    assert_eq!(offsets(&["reset", "till", "--to", "end", "--yes"]).status.code(), Some(2), "no such source");

    // Their orders exist: the commands come again, and are refused by the aggregate.
    let host = setting.start();
    host.until("all are handled again", |status| status["sources"][0]["handled"] == 20);
    let rejected = |status: &Value| {
        let commands = status["commands"].as_array().cloned().unwrap_or_default();
        commands.iter().map(|command| command["rejected"].as_u64().unwrap_or(0)).sum::<u64>()
    };
    assert_eq!(rejected(&host.status()), 6);
    host.stop();
}

#[test]
fn topics_of_the_manifest_are_compared_and_never_changed() {
    let Some(kafka) = Kafka::shared() else { return };
    let there = kafka.topic("cli-there", 2);
    let new = format!("cli-new-{}", std::process::id());
    let setting = Setting::new(&format!(
        "[kafka]\nbrokers = \"{}\"\n[kafka.topics.{there}]\npartitions = 3\n\
         config = {{ \"retention.ms\" = 5000, \"cleanup.policy\" = \"delete\" }}\n\
         [kafka.topics.{new}]\npartitions = 2\nconfig = {{ \"retention.ms\" = 7000 }}\n{}",
        kafka.brokers(),
        wasmill_tests::setting::ORDERS
    ));
    let host = setting.start();
    for expected in [
        format!("topic {there} has 2 partitions, the manifest says 3; nothing was changed"),
        format!("topic {there} has retention.ms = 604800000, the manifest says 5000; nothing was changed"),
    ] {
        host.until_logged("about the difference", |line| line.contains(&expected));
    }
    host.until("both are noted", |status| status["kafka"]["topics"].as_array().is_some_and(|notes| notes.len() == 2));
    host.stop();
    let cli = Cli::new(&kafka);
    let made = &cli.lines(&["topics", "describe", &new])[0];
    assert_eq!(made["partitions"].as_array().map(Vec::len), Some(2));
    assert_eq!(made["config"][0], json!({ "name": "retention.ms", "value": "7000" }));
    assert_eq!(cli.lines(&["topics", "describe", &there])[0]["config"], json!([]), "nothing was changed");
}
