//! The rule for ids of aggregates is the same for paths, keys of records and subscribers. A violation gets the same
//! sentence from each, and no terminal or log interprets the id.

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use std::time::Duration;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const MANIFEST: &str = "store = { id_bytes_max = 64 }\n\
    [kafka]\nbrokers = \"embedded\"\n[kafka.topics.items]\n[kafka.topics.wishes]\n[kafka.topics.echoes]\n\
    [plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n[plugins.courier]\nfile = \"PLUGINS/courier.wasm\"\n\
    [sources.items]\ntopic = \"items\"\naggregate = \"cart\"\ncommand = \"AddItems\"\n\
    [sources.wishes]\ntopic = \"wishes\"\nsubscriber = \"courier\"\n";

/// What is wrong, as a path has it, as it is, and what is said of it.
fn broken() -> [(String, String, String); 5] {
    let case = |path: &str, id: &str, said: &str| (path.to_owned(), id.to_owned(), said.to_owned());
    [
        case("a%00b", "a\0b", r#"the aggregate id "a\0b" has the control character \u{0} at byte 1"#),
        case(
            "%0AINFO%20forged",
            "\nINFO forged",
            r#"the aggregate id "\nINFO forged" has the control character \u{a}"#,
        ),
        case("%1B%5B2J", "\u{1b}[2J", r#"the aggregate id "\u{1b}[2J" has the control character \u{1b}"#),
        case("%C2%9B2J", "\u{9b}2J", r#"the aggregate id "\u{9b}2J" has the control character \u{9b}"#),
        case(&"x".repeat(65), &"x".repeat(65), "has 65 bytes: it must be 1 to 64 bytes without control characters"),
    ]
}

fn items() -> Value {
    json!({ "items": [{ "product_id": "1", "quantity": 1, "amount_cents": 5 }] })
}

fn produce(host: &TestHost, topic: &str, records: &[(String, Value)]) {
    let config = ClientConfig::new().set("bootstrap.servers", host.brokers()).clone();
    let producer: BaseProducer = config.create().expect("make a producer");
    for (key, value) in records {
        let payload = value.to_string();
        producer.send(BaseRecord::to(topic).key(key).payload(&payload)).map_err(|(error, _)| error).expect("produce");
    }
    producer.flush(Duration::from_secs(120)).expect("Kafka takes the records");
}

fn reasons(host: &TestHost) -> Vec<String> {
    let letters = host.get("/v1/dead-letters").body["letters"].as_array().expect("a list").clone();
    letters.iter().rev().map(|letter| letter["reason"].as_str().expect("a reason").to_owned()).collect()
}

#[test]
fn every_way_in_says_the_same_of_a_broken_id() {
    let setting = Setting::new(MANIFEST);
    let host = setting.start();
    for (path, _, said) in broken() {
        let refused = host.send("cart", &path, "AddItems", &items());
        assert_eq!(refused.status, 400, "{path}: {refused:?}");
        assert!(refused.body["detail"].as_str().is_some_and(|error| error.contains(&said)), "{refused:?}");
    }
    let nameless = host.send("cart", "", "AddItems", &items());
    assert_eq!(nameless.status, 400, "{nameless:?}");
    assert!(
        nameless.body["detail"].as_str().is_some_and(|text| text.contains("the aggregate id is empty")),
        "{nameless:?}"
    );
    let no_text = host.send("cart", "%FF", "AddItems", &items());
    assert_eq!(no_text.status, 400, "{no_text:?}");
    assert!(no_text.body["detail"].as_str().is_some_and(|text| text.contains("is not UTF-8")), "{no_text:?}");
    let name = host.send("cart", "1", "Add%0AItems", &items());
    assert!(
        name.body["detail"].as_str().is_some_and(|text| text.starts_with("the command name \"Add\\nItems\"")),
        "{name:?}"
    );

    let good = ("größe\u{202e} 1/2".to_owned(), items());
    let records = broken().map(|(_, id, _)| (id, items())).into_iter().chain([good]);
    produce(&host, "items", &records.collect::<Vec<_>>());
    host.until("the keys are handled", |status| status["sources"][0]["handled"] == 6);
    let wish = |id: &str| ("k".to_owned(), json!({ "Add": { "cart": id, "amount_cents": 5 } }));
    let wishes = broken().map(|(_, id, _)| wish(&id)).into_iter().chain([wish(""), wish("good")]);
    produce(&host, "wishes", &wishes.collect::<Vec<_>>());
    host.until("the wishes are handled", |status| status["sources"][1]["handled"] == 7);
    host.drained();

    let said: Vec<String> = broken().into_iter().map(|(_, _, said)| said).collect();
    let expected = said.iter().chain(&said).map(String::as_str).chain(["the aggregate id is empty"]);
    let found = reasons(&host);
    assert_eq!(found.len(), 11, "{found:#?}");
    for expected in expected {
        assert!(found.iter().any(|reason| reason.contains(expected)), "{expected}: {found:#?}");
    }
    let ids: Vec<Value> = host.events("**").iter().map(|event| event["aggregate_id"].clone()).collect();
    assert_eq!(ids, [json!("größe\u{202e} 1/2"), json!("good")], "what keeps the rule goes on");

    let number = host.get("/v1/dead-letters").body["letters"][10]["number"].clone();
    let again = host.post(&format!("/v1/dead-letters/{number}/replay"), &Value::Null, &[]);
    assert_eq!(again.status, 409, "{again:?}");
    assert!(again.body["detail"].as_str().is_some_and(|error| error.contains(&said[0])), "{again:?}");
    nothing_is_obeyed(&setting, &host);
}

/// Neither the command line nor the log prints what a terminal would obey.
fn nothing_is_obeyed(setting: &Setting, host: &TestHost) {
    let mut shown = host.log();
    for command in ["status", "events", "dead-letters list", "dead-letters show 1", "streams show cart \u{1b}[2J"] {
        let args: Vec<&str> = command.split(' ').chain(["--data", "data"]).collect();
        let output = setting.wasmill(&args);
        shown += &String::from_utf8(output.stdout).expect("text");
        shown += &String::from_utf8(output.stderr).expect("text");
    }
    let hostile = shown.chars().find(|char| (char.is_control() && *char != '\n') || *char == '\u{202e}');
    assert_eq!(hostile, None, "{shown}");
    assert!(!shown.lines().any(|line| line.starts_with("INFO forged")), "{shown}");
    assert!(shown.contains("größe\\u{202e} 1/2"), "{shown}");
}
