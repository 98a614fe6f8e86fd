//! A store has one host, even if somebody deletes the lock: the first host ends when the second one starts.

use serde_json::{Value, json};
use wasmill_tests::setting::{ORDERS, Setting};

fn order() -> Value {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
}

#[test]
fn a_host_whose_store_was_taken_over_ends_by_itself() {
    let setting = Setting::new(ORDERS);
    let first = setting.start();
    assert_eq!(first.send("order", "1", "CreateOrder", &order()).status, 200);
    std::fs::remove_file(setting.path("data/events.lock")).expect("the lock's file is there");
    let second = setting.start();
    assert_eq!(first.ended(), Some(4), "{}", second.log());
    second.until_logged("of the first host", |line| line.starts_with("error: another host took over the store"));
    assert_eq!(second.send("order", "1", "CreateOrder", &order()).status, 422);
    assert_eq!(second.send("order", "2", "CreateOrder", &order()).status, 200);
    second.stop();
}
