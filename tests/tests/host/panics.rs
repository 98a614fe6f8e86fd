//! Panics of any thread. A panic delays a part for a moment and loses no record, event or answer.

use serde_json::{Value, json};
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

/// A thread of each kind, and the round of its loop in which it panics: all of them in the middle of their work.
const PANICS: [(&str, u32); 10] = [
    ("source-baskets", 40),
    ("discovery-baskets", 2),
    ("order-0", 150),
    ("household-0", 20),
    ("warehouse", 4),
    ("notifier", 5),
    ("sales", 4),
    ("sink-outbox", 3),
    ("snapshots", 1),
    ("epoch-clock", 50),
];

const BASKETS: usize = 400;

fn basket(number: usize) -> (Vec<u8>, Vec<u8>) {
    let item = json!({ "product_id": "3", "quantity": 2, "amount_cents": 60, "discount_cents": 5 });
    let basket = json!({ "household_id": (number % 7).to_string(), "store_id": "9", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    (number.to_string().into_bytes(), basket.to_string().into_bytes())
}

#[test]
fn parts_that_panic_begin_again_say_so_and_lose_nothing() {
    let setting = Setting::grocery();
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    let snapshots = "households.wasm\"\nsnapshot_every = 2";
    setting.manifest(&manifest.replace("households.wasm\"", snapshots));
    let panics: Vec<String> = PANICS.iter().map(|(thread, round)| format!("{thread}:{round}")).collect();
    let host = setting.start_with(&["--json"], vec![("WASMILL_PANIC_AT", panics.join(",").into())]);
    let brokers = host.brokers();
    for partition in 0..6 {
        let baskets: Vec<_> = (0..BASKETS).filter(|number| number % 6 == partition).map(basket).collect();
        let records: Vec<_> = baskets.iter().map(|(key, value)| (Some(&key[..]), &value[..])).collect();
        topic::produce(&brokers, "baskets", partition as i32, &records);
    }
    // What is sent while the shard panics is answered, one way or the other.
    for number in 0..40 {
        let (_, basket) = basket(number);
        let basket: Value = serde_json::from_slice(&basket).expect("it is JSON");
        let path = format!("/v1/commands/order/sent-{number}/CreateOrder");
        let id = format!("sent-{number}");
        let sent = || host.post(&path, &basket, &[("idempotency-key", &id)]).status;
        while sent() != 200 {}
    }
    host.drained();
    for (thread, _) in PANICS {
        let said = format!("\"thread\":\"{thread}\"");
        host.until_logged("of a panic", |line| {
            let line: Value = serde_json::from_str(line).expect("each line of a JSON log is JSON");
            let line = line.to_string();
            line.contains(&said) && line.contains("panicked: WASMILL_PANIC_AT asked for it")
        });
    }
    for (filter, what) in [("order.OrderCreated", "created"), ("order.OrderConfirmed", "confirmed")] {
        assert_eq!(host.events(filter).len(), BASKETS + 40, "each order is {what} once");
    }
    let sales = host.query("sales", "store-sales", &json!({ "limit": 5 }));
    assert_eq!(sales.body, json!([["9", 60 * (BASKETS + 40)]]));
    host.until_ready();
    host.stop();
}
