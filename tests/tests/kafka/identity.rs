//! A recreated topic, and another cluster behind the address. Nothing is read at offsets of the former one, the host
//! says so, and one command resolves it.

use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

const POLL: Duration = Duration::from_millis(50);

/// Topics of one test: what becomes commands, what becomes messages, and these.
struct Topics {
    orders: String,
    wishes: String,
    echoes: String,
    dead: String,
}

impl Topics {
    fn manifest(&self, brokers: &str, more: &str) -> String {
        let Self { orders, wishes, dead, .. } = self;
        format!(
            "[kafka]\nbrokers = \"{brokers}\"\n[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n\
             [plugins.courier]\nfile = \"PLUGINS/courier.wasm\"\n\
             [sources.orders]\ntopic = \"{orders}\"\naggregate = \"cart\"\ncommand = \"AddItems\"\n{more}\n\
             [sources.wishes]\ntopic = \"{wishes}\"\nsubscriber = \"courier\"\ntransaction = \"kafka\"\n\
             dead_letter_topic = \"{dead}\"\ngroup = \"{wishes}\"\nproperties = {{ session.timeout.ms = 6000 }}\n{more}\n"
        )
    }

    /// Records that each lead to one event, and to one message with their number in it.
    fn produce(&self, kafka: &Kafka, numbers: std::ops::Range<usize>) {
        let item = |number| json!({ "product_id": format!("{number}"), "quantity": 1, "amount_cents": 1 });
        let order = |number: usize| (format!("c{number}"), json!({ "items": [item(number)] }));
        let wish = |number: usize| {
            (format!("c{number}"), json!({ "Tell": { "topic": self.echoes, "text": format!("m{number}") } }))
        };
        topic::produce_keyed(kafka.brokers(), &self.orders, &numbers.clone().map(order).collect::<Vec<_>>());
        topic::produce_keyed(kafka.brokers(), &self.wishes, &numbers.map(wish).collect::<Vec<_>>());
    }

    fn make_again(&self, setting: &Setting, kafka: &Kafka) {
        for topic in [&self.orders, &self.wishes] {
            let kafka = ["kafka", "--brokers", kafka.brokers(), "topics"];
            until_done(setting, &[&kafka[..], &["delete", topic, "--yes"]].concat());
            until_done(setting, &[&kafka[..], &["create", topic, "--partitions", "1"]].concat());
        }
    }
}

/// Runs a command until it succeeds: its output.
pub(super) fn until_done(setting: &Setting, args: &[&str]) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let output = setting.wasmill(args);
        if output.status.success() {
            return String::from_utf8_lossy(&output.stdout).into_owned();
        }
        assert!(Instant::now() < deadline, "{args:?}: {output:?}");
        std::thread::park_timeout(POLL);
    }
}

fn both_are_done(host: &TestHost, count: u64) {
    host.until(&format!("both sources are at {count}"), |status| {
        let sources = status["sources"].as_array().expect("sources");
        sources.len() == 2 && sources.iter().all(|source| source["handled"] == count && source["error"].is_null())
    });
}

fn errors(status: &Value) -> Vec<&str> {
    let sources = status["sources"].as_array().expect("sources");
    sources.iter().filter_map(|source| source["error"].as_str()).collect()
}

fn events(host: &TestHost) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for event in host.events("cart.*") {
        *count.entry(event["aggregate_id"].as_str().expect("an id").to_owned()).or_default() += 1;
    }
    count
}

fn once_each(prefix: &str, count: usize) -> BTreeMap<String, usize> {
    (0..count).map(|number| (format!("{prefix}{number}"), 1)).collect()
}

#[test]
fn a_topic_that_was_made_again_is_not_read_at_the_offsets_of_the_old_one() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = |what: &str| kafka.topic(&format!("again-{what}"), 1);
    let topics =
        Topics { orders: topic("orders"), wishes: topic("wishes"), echoes: topic("echoes"), dead: topic("dead") };
    let setting = Setting::new(&topics.manifest(kafka.brokers(), ""));
    let host = setting.start();
    topics.produce(&kafka, 0..20);
    both_are_done(&host, 20);

    // While the host runs: more records than the old topic had, before it can look.
    topics.make_again(&setting, &kafka);
    topics.produce(&kafka, 20..60);
    let status = host.until("both sources say so", |status| {
        errors(status).iter().filter(|error| error.contains("was deleted and recreated: its id is")).count() == 2
    });
    assert!(errors(&status).iter().all(|error| error.contains("offsets reset")), "{status}");
    assert_eq!(events(&host), once_each("c", 20), "nothing is read of the new topic");
    host.stop();
    let reset =
        |source| ["kafka", "--manifest", "wasmill.toml", "offsets", "reset", source, "--to", "beginning", "--yes"];
    let done = until_done(&setting, &reset("orders"));
    assert!(done.contains("never read to 0"), "{done}");
    // The group has no offsets of a topic that is gone, and a member until its session ends.
    until_done(&setting, &reset("wishes"));
    let shown = until_done(&setting, &["kafka", "--json", "--manifest", "wasmill.toml", "offsets", "show", "wishes"]);
    let shown: Value = serde_json::from_str(shown.trim()).expect("one line");
    assert_eq!((&shown["next"], &shown["end"]), (&json!(0), &json!(40)));

    // While the host is stopped, past the old offset, with a manifest that says what is to be done.
    let host = setting.start();
    both_are_done(&host, 40);
    assert_eq!(events(&host), once_each("c", 60));
    host.stop();
    topics.make_again(&setting, &kafka);
    topics.produce(&kafka, 60..140);
    setting.manifest(&topics.manifest(kafka.brokers(), "recreated = \"beginning\""));
    let host = setting.start();
    host.until("both are read from their beginning", |status| {
        status["sources"].as_array().expect("sources").iter().all(|source| source["partitions"][0]["next"] == 80)
    });
    assert_eq!(events(&host), once_each("c", 140));
    host.stop();
    let told = kafka.read_committed(&topics.echoes).into_iter().map(|shown| shown.value.trim_matches('"').to_owned());
    let told = told.fold(BTreeMap::new(), |mut count: BTreeMap<String, usize>, text| {
        *count.entry(text).or_default() += 1;
        count
    });
    assert_eq!(told, once_each("m", 140));
}

#[test]
fn another_cluster_behind_the_address_is_refused_until_it_is_accepted() {
    let Some(kafka) = Kafka::shared() else { return };
    let orders = kafka.topic("cluster-orders", 1);
    let manifest = |brokers: &str| {
        format!(
            "[kafka]\nbrokers = \"{brokers}\"\n[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n\
             [sources.orders]\ntopic = \"{orders}\"\naggregate = \"cart\"\ncommand = \"AddItems\"\n"
        )
    };
    let order = |number: usize| {
        let item = json!({ "product_id": format!("{number}"), "quantity": 1, "amount_cents": 1 });
        (format!("c{number}"), json!({ "items": [item] }))
    };
    let first = MockCluster::new(1).expect("make a cluster");
    first.create_topic(&orders, 1, 1).expect("make a topic");
    let setting = Setting::new(&manifest(&first.bootstrap_servers()));
    let host = setting.start();
    topic::produce_keyed(&first.bootstrap_servers(), &orders, &(0..5).map(order).collect::<Vec<_>>());
    host.until("they are handled", |status| status["sources"][0]["handled"] == 5);
    host.stop();

    topic::produce_keyed(kafka.brokers(), &orders, &(5..25).map(order).collect::<Vec<_>>());
    setting.manifest(&manifest(kafka.brokers()));
    let host = setting.start();
    let status = host.until("it says so", |status| errors(status).iter().any(|error| error.contains("is the cluster")));
    assert!(errors(&status)[0].contains("wasmill kafka accept-cluster"), "{status}");
    assert_eq!(events(&host), once_each("c", 5));
    host.stop();

    let accept = ["kafka", "--manifest", "wasmill.toml", "accept-cluster", "--to", "beginning"];
    let asked = setting.wasmill(&accept);
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    until_done(&setting, &[&accept[..], &["--yes"]].concat());
    let host = setting.start();
    host.until("they are handled", |status| status["sources"][0]["partitions"][0]["next"] == 20);
    assert_eq!(events(&host), once_each("c", 25));
    host.stop();
}
