//! Hot reload: a plugin is swapped while it works. No command fails, and the next one meets the new rule. A file that
//! can't serve changes only the log and the status.

use serde_json::{Value, json};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use wasmill_tests::built;
use wasmill_tests::host::{Answer, TestHost};
use wasmill_tests::raised::Raised;
use wasmill_tests::setting::Setting;

const MANIFEST: &str = "[plugins.orders]\nfile = \"orders.wasm\"\n";
/// The changed rule refuses a fourth item.
const TOO_MANY: usize = 4;

fn create(host: &TestHost, id: &str, items: usize) -> Answer {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": vec![item; items] });
    host.send("order", id, "CreateOrder", &order)
}

fn orders(status: &Value) -> &Value {
    &status["plugins"][0]
}

/// Creates and confirms orders until it is over; each must be accepted.
fn load(host: &TestHost, sender: usize, over: &AtomicBool, sent: &AtomicU64) {
    for number in 0.. {
        let id = format!("{sender}-{number}");
        let answers = [create(host, &id, 1), host.send("order", &id, "ConfirmOrder", &Value::Null)];
        assert!(answers.iter().all(|answer| answer.status == 200), "order {id}: {answers:?}");
        sent.fetch_add(1, Ordering::Relaxed);
        if over.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Returns once the load has gone on for a while after now.
fn let_it_work(host: &TestHost, sent: &AtomicU64) {
    let enough = sent.load(Ordering::Relaxed) + 50;
    host.until("the load goes on", |_| sent.load(Ordering::Relaxed) >= enough);
}

#[test]
fn a_changed_plugin_serves_and_a_corrupt_one_does_not() {
    let setting = Setting::new(MANIFEST);
    setting.write("orders.wasm", fs::read(built::plugin("orders")).expect("read the plugin"));
    let host = setting.start();
    assert_eq!(create(&host, "old", TOO_MANY).status, 200, "the old rule");
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let ended = Raised(&over);
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                scope.spawn({
                    let (host, over, sent) = (&host, &over, &sent);
                    move || load(host, sender, over, sent)
                })
            })
            .collect();
        let_it_work(&host, &sent);

        setting.write("orders.wasm", fs::read(built::plugin("orders-limited")).expect("read the plugin"));
        let status = host.until("the changed plugin serves", |status| orders(status)["loads"] == 2);
        assert_eq!((&orders(&status)["version"], &orders(&status)["error"]), (&json!("0.2.0"), &Value::Null));
        let refused = create(&host, "new", TOO_MANY);
        assert_eq!((refused.status, &refused.body["detail"]), (422, &json!("an order has at most 3 items")));
        assert_eq!(host.send("order", "old", "ConfirmOrder", &Value::Null).status, 200, "what was recorded stays");
        let_it_work(&host, &sent);

        setting.write("orders.wasm", &fs::read(built::plugin("orders")).expect("read the plugin")[..5_000]);
        let broken = host.until("the corrupt file is noticed", |status| orders(status)["error"].is_string());
        assert_eq!(orders(&broken)["digest"], orders(&status)["digest"]);
        assert_eq!(orders(&broken)["loads"], 2);
        host.until_logged("about the corrupt file", |line| line.contains("ERROR") && line.contains("orders"));
        assert_eq!(create(&host, "newer", TOO_MANY).status, 422, "the changed rule still serves");
        assert_eq!(host.post("/v1/plugins/orders/reload", &Value::Null, &[]).status, 422);
        let_it_work(&host, &sent);

        drop(ended);
        senders.into_iter().for_each(|sender| sender.join().expect("no command fails"));
    });

    // The changed plugin has recorded what the old one can't read, so somebody has to insist.
    setting.write("orders.wasm", fs::read(built::plugin("orders")).expect("read the plugin"));
    host.until("the old plugin is refused", |status| {
        orders(status)["error"].as_str().is_some_and(|error| error.contains("can't rebuild"))
    });
    let forced = host.post("/v1/plugins/orders/reload?force=true", &Value::Null, &[]);
    assert_eq!(forced.status, 200, "{forced:?}");
    let status = host.status();
    assert_eq!((&orders(&status)["loads"], &orders(&status)["error"]), (&json!(3), &Value::Null));
    assert_eq!(create(&host, "newest", TOO_MANY).status, 200);
}

#[test]
fn of_many_that_ask_for_a_reload_one_switches_and_says_so() {
    let setting = Setting::new(MANIFEST);
    setting.write("orders.wasm", fs::read(built::plugin("orders")).expect("read the plugin"));
    let host = setting.start();
    setting.write("orders.wasm", fs::read(built::plugin("orders-limited")).expect("read the plugin"));
    thread::scope(|scope| {
        let ask = || assert_eq!(host.post("/v1/plugins/orders/reload", &Value::Null, &[]).status, 200);
        (0..8).for_each(|_| _ = scope.spawn(ask));
    });
    let log = host.log();
    assert_eq!(log.matches("plugin orders 0.2.0 now serves").count(), 1, "{log}");
    assert_eq!(orders(&host.get("/v1/status").body)["loads"], 2);
}
