//! New code is tried with recent histories before it serves, and watched after it. Code that fails where the code before does not
//! goes again by itself, and older code can come back, also after a restart.

use serde_json::{Value, json};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use wasmill_tests::built;
use wasmill_tests::host::{Answer, TestHost};
use wasmill_tests::hostile::{aggregate, saga, subscriber};
use wasmill_tests::raised::Raised;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

const MANIFEST: &str = "[plugins.orders]\nfile = \"orders.wasm\"\n";

/// A manifest with a source of orders.
const WITH_SOURCE: &str = "[kafka]\nbrokers = \"embedded\"\n[kafka.topics.baskets]\n[plugins.orders]\nfile = \"orders.wasm\"\n\
    [sources.baskets]\ntopic = \"baskets\"\naggregate = \"order\"\ncommand = \"CreateOrder\"\n";

fn order(quantity: usize) -> Value {
    let item = json!({ "product_id": "3", "quantity": quantity, "amount_cents": 50, "discount_cents": 0 });
    json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
}

fn create(host: &TestHost, id: &str, quantity: usize) -> Answer {
    host.send("order", id, "CreateOrder", &order(quantity))
}

fn put(setting: &Setting, plugin: &str) {
    setting.write("orders.wasm", fs::read(built::plugin(plugin)).expect("read the plugin"));
}

fn orders(status: &Value) -> &Value {
    &status["plugins"][0]
}

fn reload(host: &TestHost, query: &str) -> Answer {
    host.post(&format!("/v1/plugins/orders/reload{query}"), &Value::Null, &[])
}

fn history(host: &TestHost) -> Value {
    host.get("/v1/plugins/orders/history").body
}

fn versions(history: &Value) -> Vec<&str> {
    history["codes"].as_array().expect("a list").iter().map(|code| code["version"].as_str().expect("a text")).collect()
}

#[test]
fn code_that_cannot_read_what_is_recorded_is_refused_before_it_serves() {
    let setting = Setting::new(MANIFEST);
    put(&setting, "orders");
    let host = setting.start();
    assert_eq!(create(&host, "1", 1).status, 200);
    put(&setting, "orders-unreadable");
    assert_eq!(reload(&host, "").status, 200, "it reads what there is");
    host.until("it serves", |status| orders(status)["version"] == "0.4.0");
    put(&setting, "orders");
    assert_eq!(reload(&host, "").status, 200);
    assert_eq!(host.send("order", "1", "ConfirmOrder", &Value::Null).status, 200);
    put(&setting, "orders-unreadable");
    let refused = reload(&host, "");
    assert_eq!(refused.status, 422, "{refused:?}");
    let reason = refused.body["detail"].as_str().expect("a reason");
    assert!(reason.contains("can't rebuild order/1, which the code before it can"), "{reason}");
    assert!(reason.contains("event OrderConfirmed at version 2"), "{reason}");
    let status = host.until("the status says it", |status| orders(status)["error"].is_string());
    assert_eq!(orders(&status)["version"], "0.1.0", "{status:#}");
    assert_eq!(create(&host, "2", 1).status, 200);
    assert_eq!(reload(&host, "?force=true").status, 200);
    assert_eq!(orders(&host.status())["version"], "0.4.0", "somebody insists");
    // What the new code has recorded, the old one does not read.
    assert_eq!(create(&host, "3", 1).status, 200);
    assert_eq!(host.send("order", "3", "ConfirmOrder", &Value::Null).status, 200);
    host.stop();
}

#[test]
fn older_code_serves_again_also_after_its_file_was_overwritten_and_after_a_restart() {
    let setting = Setting::new(MANIFEST);
    put(&setting, "orders");
    let host = setting.start();
    put(&setting, "orders-limited");
    assert_eq!(reload(&host, "").status, 200);
    let shown = history(&host);
    assert_eq!(versions(&shown), ["0.2.0", "0.1.0"], "{shown:#}");
    assert_eq!((&shown["codes"][1]["ended"], &shown["codes"][1]["kept"]), (&json!("replaced"), &json!(true)));
    let data = setting.path("data");
    let data = data.to_str().expect("text");
    let (code, text, errors) = setting.told(&["plugins", "revert", "orders", "--data", data]);
    assert!(code == Some(0) && text.contains("held back: the code"), "{text}{errors}");
    let status = host.status();
    assert_eq!((&orders(&status)["version"], orders(&status)["held_back"].is_string()), (&json!("0.1.0"), true));
    let held = reload(&host, "");
    assert!(held.status == 422 && held.body.to_string().contains("is held back"), "{held:?}");
    assert_eq!(orders(&host.status())["version"], "0.1.0", "the code of the file is held back");
    let again = host.post("/v1/plugins/orders/revert", &Value::Null, &[]);
    assert!(again.status == 422 && again.body.to_string().contains("that was not reverted"), "{again:?}");
    host.crash();
    assert_eq!(orders(&host.status())["version"], "0.1.0", "also after a restart");
    let shown = history(&host);
    assert_eq!(versions(&shown), ["0.1.0", "0.2.0", "0.1.0"], "{shown:#}");
    assert_eq!(shown["codes"][1]["ended"], "a person reverted it");
    let refused = host.post("/v1/plugins/orders/revert?digest=ffff", &Value::Null, &[]);
    assert!(
        refused.status == 422 && refused.body.to_string().contains("no code ffff of plugin orders is kept"),
        "{refused:?}"
    );
    // Another file is another code.
    put(&setting, "orders-trapping");
    host.until("the new file serves", |status| {
        orders(status)["version"] == "0.3.0" && orders(status)["held_back"].is_null()
    });
    // The history is written once the code serves.
    host.until_answered("/v1/plugins/orders/history", |answer| answer.body["codes"][0]["version"] == "0.3.0");
    let (code, text, errors) = setting.told(&["plugins", "history", "orders", "--data", data]);
    assert!(code == Some(0) && text.contains("0.3.0") && text.contains("a person reverted it"), "{text}{errors}");
    // Older code that does not know an event of the newer one is refused.
    assert_eq!(create(&host, "noted", 7).status, 200);
    let refused = host.post("/v1/plugins/orders/revert", &Value::Null, &[]);
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.body.to_string().contains("can't rebuild order/noted"), "{refused:?}");
    assert_eq!(orders(&host.status())["version"], "0.3.0");
    assert_eq!(orders(&host.status())["held_back"], Value::Null, "nothing is held back");
    host.stop();
}

/// Code that traps at one command in fifty is gone by itself. Senders are told, and what came from Kafka is decided by the code before.
#[test]
fn new_code_that_fails_goes_again_and_what_it_failed_at_is_decided_by_the_code_before() {
    let setting = Setting::new(WITH_SOURCE);
    put(&setting, "orders");
    let host = setting.start();
    let brokers = host.brokers();
    let (over, sent, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut produced = 0;
    thread::scope(|scope| {
        let ended = Raised(&over);
        for sender in 0..2 {
            let (host, over, sent, failed) = (&host, &over, &sent, &failed);
            scope.spawn(move || {
                for number in 1.. {
                    let answer = create(host, &format!("{sender}-{number}"), if number % 50 == 0 { 13 } else { 1 });
                    match answer.status {
                        200 => _ = sent.fetch_add(1, Ordering::Relaxed),
                        _ => {
                            assert!(answer.body.to_string().contains("thirteen is an unlucky number"), "{answer:?}");
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let mut produce = |round: usize| {
            let records: Vec<_> = (1..=50)
                .map(|number| (format!("k-{round}-{number}"), order(if number == 50 { 13 } else { 1 })))
                .collect();
            topic::produce_keyed(&brokers, "baskets", &records);
            produced += records.len() as u64;
        };
        produce(0);
        put(&setting, "orders-trapping");
        host.until("the new code serves", |status| orders(status)["version"] == "0.3.0");
        (1..=10).for_each(&mut produce);
        host.until("the code before is back", |status| {
            orders(status)["version"] == "0.1.0" && orders(status)["held_back"].is_string()
        });
        drop(ended);
    });
    host.drained();
    let status = host.status();
    assert_eq!(status["dead_letters"]["total"], 0, "{status:#}");
    let expected = sent.load(Ordering::Relaxed) + produced;
    assert_eq!(host.events("order.OrderCreated").len() as u64, expected, "each command is decided once");
    assert!(failed.load(Ordering::Relaxed) > 0, "senders were told of failures");
    let shown = history(&host);
    let ended = shown["codes"][1]["ended"].as_str().expect("a reason");
    assert!(ended.starts_with("reverted: orders 0.3.0 failed at") && ended.contains("unlucky"), "{shown:#}");
    host.until_logged("about the revert", |line| line.contains("the code before returns"));
    assert_eq!(reload(&host, "").status, 422, "it is held back");
    assert_eq!(orders(&host.status())["version"], "0.1.0", "it is not tried again");
    assert_eq!(create(&host, "thirteen", 13).status, 200);
    host.stop();
}

/// If the code before can't read what the new code has recorded, the new code stays, and `ready` says so.
#[test]
fn new_code_that_fails_stays_if_the_code_before_cannot_read_its_events() {
    let setting = Setting::new(&format!("{MANIFEST}watch_percent = 10\n"));
    put(&setting, "orders");
    let host = setting.start();
    put(&setting, "orders-trapping");
    assert_eq!(reload(&host, "").status, 200);
    assert_eq!(create(&host, "noted", 7).status, 200);
    for number in 0..5 {
        assert_eq!(create(&host, &format!("bad-{number}"), 13).status, 500);
    }
    let answer = host.until_answered("/v1/ready", |answer| answer.status == 503);
    let reasons = answer.body["reasons"].to_string();
    assert!(reasons.contains("the code before can't return") && reasons.contains("order/noted"), "{reasons}");
    let status = host.status();
    assert_eq!((&orders(&status)["version"], &orders(&status)["held_back"]), (&json!("0.3.0"), &Value::Null));
    assert_eq!(create(&host, "good", 1).status, 200);
    host.stop();
}

/// A restart is as safe as a swap: code that was never served is tried first.
#[test]
fn code_that_a_host_is_started_with_is_tried_first() {
    let setting = Setting::new(MANIFEST);
    put(&setting, "orders");
    let host = setting.start();
    assert_eq!(create(&host, "1", 1).status, 200);
    assert_eq!(host.send("order", "1", "ConfirmOrder", &Value::Null).status, 200);
    host.stop();
    put(&setting, "orders-unreadable");
    for round in 0..2 {
        let host = setting.start();
        let status = host.status();
        assert_eq!(orders(&status)["version"], "0.1.0", "{status:#}");
        let reason = orders(&status)["held_back"].as_str().expect("a reason");
        assert!(reason.contains("can't rebuild order/1, which the code before it can"), "{reason}");
        assert_eq!(create(&host, &format!("again-{round}"), 1).status, 200);
        host.stop();
    }
    // Nor does code that has lost a role.
    setting.write("orders.wasm", fs::read(built::plugin("sales")).expect("read the plugin"));
    let host = setting.start();
    let status = host.status();
    assert_eq!(orders(&status)["version"], "0.1.0", "{status:#}");
    assert!(orders(&status)["held_back"].to_string().contains("does not have the role aggregate order"), "{status:#}");
    host.stop();
    // Code that reads what there is serves, and is watched, also after another start.
    put(&setting, "orders-trapping");
    setting.start().stop();
    let host = setting.start();
    assert_eq!(orders(&host.status())["version"], "0.3.0");
    let failed: Vec<u16> = (0..4).map(|number| create(&host, &format!("bad-{number}"), 13).status).collect();
    let status = host.until("the code before returns", |status| orders(status)["version"] == "0.1.0");
    assert!(failed.contains(&500) && orders(&status)["held_back"].is_string(), "{failed:?} {status:#}");
    assert_eq!(create(&host, "good", 13).status, 200);
    host.stop();
}

/// A source is renamed while commands of it are held. They are decided once.
#[test]
fn what_is_held_of_a_source_that_is_renamed_is_decided_once() {
    let setting = Setting::new(WITH_SOURCE);
    put(&setting, "orders");
    let host = setting.start();
    put(&setting, "orders-trapping");
    assert_eq!(reload(&host, "").status, 200);
    let records = [("a", 13), ("b", 13), ("c", 1)].map(|(key, quantity)| (key.to_owned(), order(quantity)));
    topic::produce_keyed(&host.brokers(), "baskets", &records);
    host.until("the good one is recorded", |_| host.events("order.*").len() == 1);
    host.until("the others are held", |status| status["aggregates"][0]["queued"] == 2);
    let renamed = WITH_SOURCE.replace("sources.baskets", "sources.tills") + "was = \"baskets\"\n";
    setting.manifest(&renamed);
    let changed = host.post("/v1/manifest/reload", &Value::Null, &[]);
    assert_eq!(changed.status, 200, "{changed:?}");
    let reverted = host.post("/v1/plugins/orders/revert", &Value::Null, &[]);
    assert_eq!(reverted.status, 200, "{reverted:?}");
    host.until("the older code decides them", |_| host.events("order.*").len() == 3);
    host.drained();
    let status = host.status();
    assert_eq!((&status["commands"][0]["accepted"], &status["commands"][0]["rejected"]), (&json!(3), &json!(0)));
    assert_eq!(status["dead_letters"]["total"], 0, "{status:#}");
    host.stop();
}

#[test]
fn a_subscriber_and_sagas_that_fail_go_again() {
    let plugin = |name: &str| format!("[plugins.{name}]\nfile = \"{name}.wasm\"\n");
    let setting = Setting::new(&(plugin("victim") + &plugin("reader") + &plugin("process")));
    setting.write("victim.wasm", aggregate("victim", &[]));
    setting.write("reader.wasm", subscriber("victim.*", &[]));
    setting.write("process.wasm", saga("process", "victim.*", &[]));
    let host = setting.start();
    let traps = [("handle", "(unreachable)")];
    for (name, code) in [("reader", subscriber("victim.*", &traps)), ("process", saga("process", "victim.*", &traps))] {
        setting.write(&format!("{name}.wasm"), code);
        let forced = host.post(&format!("/v1/plugins/{name}/reload?force=true"), &Value::Null, &[]);
        assert_eq!(forced.status, 200, "{forced:?}");
        for id in 0..4 {
            assert_eq!(host.send("victim", &format!("{name}-{id}"), "Go", &Value::Null).status, 200);
        }
        let is_back = |status: &Value| {
            let plugins = status["plugins"].as_array().expect("a list");
            plugins.iter().any(|plugin| plugin["name"] == name && plugin["held_back"].is_string())
        };
        host.until(&format!("the code of {name} before returns"), is_back);
    }
    host.drained();
    assert_eq!(host.status()["dead_letters"]["total"], 0, "what failed was handled by the code before");
    let shown = host.get("/v1/plugins/reader/history").body;
    let why = shown["codes"][1]["ended"].as_str().expect("a reason");
    assert!(why.contains("inputs at which the code before did not") && why.contains("unreachable"), "{why}");
    host.stop();
}
