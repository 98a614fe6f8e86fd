//! Invariant 10: a projection that can't fold an event in stops there, loudly, with everything before it, and skips nothing.

use serde_json::{Value, json};
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::{ORDERS, Setting};

/// Before the event that the projection can't take: some pages, so that they share a transaction.
const GOOD: usize = 23;

fn place(host: &TestHost, id: &str, quantities: &[i64]) {
    let item =
        |quantity: &i64| json!({ "product_id": "3", "quantity": quantity, "amount_cents": 5, "discount_cents": 0 });
    let items: Vec<Value> = quantities.iter().map(item).collect();
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": items });
    assert_eq!(host.send("order", id, "CreateOrder", &order).status, 200);
}

#[test]
fn a_projection_stops_at_an_event_that_it_cannot_take_and_has_all_before_it() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    (0..GOOD).for_each(|number| place(&host, &number.to_string(), &[1]));
    // An order adds up money, the projection units too: these do not fit into a number.
    place(&host, "too-much", &[i64::MAX, i64::MAX]);
    place(&host, "after", &[1]);
    host.stop();

    setting.manifest(&format!(
        "{ORDERS}[plugins.sales]\nfile = \"PLUGINS/sales.wasm\"\n[projections.sales]\nbatch_max = 5\n"
    ));
    let host = setting.start();
    let status = host.until("the projection stops", |status| status["projections"][0]["state"] == "stopped");
    let projection = &status["projections"][0];
    let error = projection["error"].as_str().expect("it says why");
    assert!(error.contains("order/too-much version 1") && error.contains("add up to too much"), "{error}");
    assert_eq!(projection["checkpoint"], GOOD, "everything before it is in the read model");
    assert_eq!(host.query("sales", "totals", &Value::Null).body["placed"], GOOD);
    place(&host, "later", &[1]);
    assert_eq!(host.query("sales", "totals", &Value::Null).body["placed"], GOOD, "nothing is skipped");
    host.stop();
}
