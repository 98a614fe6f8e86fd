//! Dead letters are shown, and retried or discarded by a person. Each takes effect once.

use serde_json::{Value, json};
use std::fs;
use std::process::Output;
use wasmill::store::sqlite::verify;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

const MANIFEST: &str = r#"
[kafka]
brokers = "embedded"
[kafka.topics.baskets]
partitions = 1
[plugins.orders]
file = "orders.wasm"
[sources.baskets]
topic = "baskets"
aggregate = "order"
command = "CreateOrder"
"#;

const GOOD: &[u8] = br#"{"household_id":"1","store_id":"2","placed_at":"2017-01-01T11:53:26Z",
    "items":[{"product_id":"3","quantity":1,"amount_cents":50,"discount_cents":0}]}"#;

/// Malformed to the first code; to the changed one in turn an order, an order with too many items, and malformed.
const RECORDS: [(Option<&[u8]>, &[u8]); 5] = [
    (Some(b"half"), br#"{"items":[]}"#),
    (None, GOOD),
    (Some(b"many"), br#"{"items":[{},{},{},{}]}"#),
    (Some(b"good"), GOOD),
    (Some(b"broken"), br#"{"items":"#),
];

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text}"))).collect()
}

fn created(host: &TestHost) -> Vec<Value> {
    host.events("order.OrderCreated").iter().map(|event| event["aggregate_id"].clone()).collect()
}

/// The numbers and places of what is there, oldest first.
fn letters(host: &TestHost) -> Vec<(u64, String)> {
    let listed = host.get("/v1/dead-letters").body;
    let letters = listed["letters"].as_array().expect("a list").iter().rev();
    let letters = letters.map(|letter| (letter["number"].as_u64().expect("a number"), letter["place"].to_string()));
    letters.collect()
}

#[test]
fn records_that_were_dead_lettered_are_tried_again_by_changed_code_or_discarded() {
    let setting = Setting::new(MANIFEST);
    setting.write("orders.wasm", fs::read(built::plugin("orders")).expect("read the plugin"));
    let host = setting.start();
    let cli = |args: &[&str]| setting.wasmill(&[args, &["--data", "data", "--json"]].concat());
    topic::produce(&host.brokers(), "baskets", 0, &RECORDS);
    assert_eq!(host.get("/v1/sources/baskets/wait?handled=5&timeout_ms=60000").body["handled"], 5);
    host.drained();
    let dead_letters = letters(&host);
    let offsets = [0, 1, 2, 4].map(|offset| format!("\"topic baskets partition 0 offset {offset}\""));
    assert!(dead_letters.iter().map(|(_, place)| place).all(|place| offsets.contains(place)), "{dead_letters:?}");
    let number = |offset: usize| {
        let found = dead_letters.iter().find(|(_, place)| place.ends_with(&format!("offset {offset}\"")));
        found.unwrap_or_else(|| panic!("no letter of offset {offset}: {dead_letters:?}")).0
    };
    let [half, keyless, many, broken] = [0, 1, 2, 4].map(number);

    let listed = lines(&cli(&["dead-letters", "list", "--consumer", "baskets"]));
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert!(cli(&["dead-letters", "list", "--consumer", "nobody"]).stdout.is_empty());
    let shown = &lines(&cli(&["dead-letters", "show", &half.to_string()]))[0];
    assert_eq!((&shown["kind"], &shown["key"]), (&json!("command"), &json!("half")), "{shown}");
    assert_eq!(
        (&shown["content"]["payload"], &shown["content"]["id"]),
        (&json!(r#"{"items":[]}"#), &json!("baskets:0:0"))
    );
    let shown = &lines(&cli(&["dead-letters", "show", &keyless.to_string()]))[0];
    assert_eq!((&shown["kind"], &shown["content"]["offset"]), (&json!("record"), &json!(1)), "{shown}");

    // The code is as it was: nothing changes but nothing is lost either.
    let again = cli(&["dead-letters", "replay", &half.to_string()]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(lines(&again)[0]["error"].as_str().is_some_and(|error| error.contains("household_id")), "{again:?}");
    assert_eq!(letters(&host).len(), 4);

    setting.write("orders.wasm", fs::read(built::plugin("orders-limited")).expect("read the plugin"));
    host.until("the changed plugin serves", |status| status["plugins"][0]["loads"] == 2);
    let all = cli(&["dead-letters", "replay", "--all", "--consumer", "baskets"]);
    assert_eq!(all.status.code(), Some(1), "{all:?}");
    let of = |number: u64| lines(&all).into_iter().find(|line| line["number"] == number).expect("a line for each");
    assert_eq!(of(half)["outcome"], "accepted");
    assert_eq!(
        (of(many)["outcome"].clone(), of(many)["reason"].clone()),
        (json!("rejected"), json!("an order has at most 3 items"))
    );
    assert!(of(keyless)["error"].as_str().is_some_and(|error| error.contains("has no key")), "{all:?}");
    assert!(of(broken)["error"].is_string());
    assert_eq!(created(&host), ["good", "half"]);
    let event = &host.events("order.OrderCreated")[1];
    assert_eq!(event["causation_id"], "baskets:0:0", "it says which record it is from");

    // What is gone is gone, also for a host that crashed.
    host.crash();
    host.drained();
    assert_eq!(host.post(&format!("/v1/dead-letters/{half}/replay"), &Value::Null, &[]).status, 404);
    assert_eq!(created(&host), ["good", "half"]);
    assert_eq!(host.status()["dead_letters"]["total"], 2);
    let listed = &host.get("/v1/dead-letters").body["letters"][0];
    assert!(listed["dead_lettered_ms"].as_u64() >= listed["time_ms"].as_u64(), "{listed}");
    let none = cli(&["dead-letters", "discard", "--all", "--consumer", "nobody"]);
    assert_eq!(lines(&none), [json!({ "discarded": 0, "of": 0, "done": true })]);
    let discarded = cli(&["dead-letters", "discard", "--all", "--consumer", "baskets"]);
    assert_eq!(
        (discarded.status.code(), lines(&discarded)),
        (Some(0), vec![json!({ "discarded": 2, "of": 2, "done": true })])
    );
    let logged = host.log().lines().filter(|line| line.contains("discarded 2 of 2 dead letters")).count();
    assert_eq!(logged, 1, "{}", host.log());
    assert_eq!(cli(&["dead-letters", "show", &broken.to_string()]).status.code(), Some(1));
    assert_eq!((host.status()["dead_letters"]["total"].clone(), letters(&host).len()), (json!(0), 0));
    host.stop();
    let report = verify(&setting.path("data/events.sqlite")).expect("look the store over");
    assert!(report.is_sound() && report.dead_letters == 0, "{report:#?}");
}

/// Three that can't be handled and room for one: the others wait, say why, and take the room when there is some.
#[test]
fn what_has_no_room_among_the_dead_letters_waits_for_it() {
    let setting = Setting::new(&format!(
        "[store]\ndead_letters_max = 1\n{MANIFEST}[plugins.misbehaving]\nfile = {:?}\n[subscriptions.misbehaving]\n\
         attempts_max = 1\n",
        built::plugin("misbehaving")
    ));
    setting.write("orders.wasm", fs::read(built::plugin("orders")).expect("read the plugin"));
    let host = setting.start();
    topic::produce(&host.brokers(), "baskets", 0, &RECORDS[..1]);
    host.until("there is one", |status| status["dead_letters"]["total"] == 1);
    topic::produce(&host.brokers(), "baskets", 0, &RECORDS[4..]);
    let says_why = |part: &Value| {
        let said = part["error"].as_str().unwrap_or_default();
        part["state"] == "retrying" && said.contains("store.dead_letters_max") && said.contains("wasmill dead-letters")
    };
    host.until("the source says why it waits", |status| says_why(&status["sources"][0]));
    host.send("misbehaving", "a", "Count", &json!({ "then": "CannotDecode" }));
    host.until("the subscription says why it waits", |status| {
        status["subscriptions"].as_array().expect("subscriptions").iter().any(says_why)
    });
    let dead_letters = host.status()["dead_letters"].clone();
    assert_eq!(
        (&dead_letters["total_max"], &dead_letters["bytes_max"], &dead_letters["dropped"]),
        (&1.into(), &(4u64 << 30).into(), &0.into())
    );
    assert!(dead_letters["bytes"].as_u64() > Some(0), "{dead_letters}");
    // It is tried again all the while, and says the same each time.
    for status in (0..100).map(|_| host.status()) {
        let mut subscriptions = status["subscriptions"].as_array().expect("subscriptions").iter();
        assert!(says_why(&status["sources"][0]) && subscriptions.any(says_why), "{status}");
    }
    let mut places = Vec::new();
    for _ in 0..3 {
        host.until("there is one", |status| status["dead_letters"]["total"] == 1);
        let (number, place) = letters(&host).remove(0);
        places.push(place);
        assert_eq!(host.post(&format!("/v1/dead-letters/{number}/discard"), &Value::Null, &[]).status, 200);
    }
    places.sort();
    places.dedup();
    assert_eq!(places.len(), 3, "{places:?}");
    host.drained();
    assert_eq!(letters(&host), []);
    host.stop();
}

#[test]
fn an_event_that_was_dead_lettered_stays_until_its_subscriber_takes_it() {
    let setting = Setting::new(&format!(
        "[plugins.misbehaving]\nfile = {:?}\nshards = 1\n[subscriptions.misbehaving]\nattempts_max = 1\n",
        built::plugin("misbehaving")
    ));
    let host = setting.start();
    let counted = host.send("misbehaving", "a", "Count", &json!({ "then": "CannotDecode" }));
    assert_eq!(counted.status, 200, "{counted:?}");
    host.until("the event is dead-lettered", |status| status["dead_letters"]["total"] == 1);
    let letter = host.get("/v1/dead-letters/1").body;
    assert_eq!((&letter["kind"], &letter["content"]["position"]), (&json!("event"), &json!(1)), "{letter}");
    let again = host.post("/v1/dead-letters/1/replay", &Value::Null, &[]);
    assert_eq!(again.status, 422, "{again:?}");
    assert!(again.body["detail"].as_str().is_some_and(|error| error.contains("it makes no sense")), "{again:?}");
    assert_eq!(host.status()["dead_letters"]["total"], 1);
    assert_eq!(host.events("**").len(), 1, "what a failing delivery asked for is not done");
    assert_eq!(host.post("/v1/dead-letters/1/discard", &Value::Null, &[]).status, 200);
    assert_eq!(host.post("/v1/dead-letters/1/discard", &Value::Null, &[]).status, 404);
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    host.stop();
}
