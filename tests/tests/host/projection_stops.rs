//! Invariant 10: a projection that can't fold in an event stops there and says so. It skips an event only if a person
//! says so.

use serde_json::{Value, json};
use std::fs;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::{ORDERS, Setting};
use wasmill_tests::{built, module};

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
fn a_projection_stops_at_an_event_that_it_cannot_take_until_a_person_has_it_passed_over() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    (0..GOOD).for_each(|number| place(&host, &number.to_string(), &[1]));
    // An order adds up money, the projection units too: these do not fit into a number.
    place(&host, "too-much", &[i64::MAX, i64::MAX]);
    place(&host, "after", &[1]);
    host.stop();

    let sales = fs::read(built::plugin("sales")).expect("read the plugin");
    setting.write("sales.wasm", &sales);
    let manifest = format!("{ORDERS}[plugins.sales]\nfile = \"sales.wasm\"\n[projections.sales]\nbatch_max = 5\n");
    setting.manifest(&manifest);
    let host = setting.start();
    let totals = || host.query("sales", "totals", &Value::Null);
    let status = host.until("the projection stops", |status| status["projections"][0]["state"] == "stopped");
    let projection = &status["projections"][0];
    let error = projection["error"].as_str().expect("it says why");
    assert!(error.contains("order/too-much version 1") && error.contains("add up to too many units"), "{error}");
    assert_eq!((&projection["answers"], totals().status), (&Value::Null, 503), "it has never caught up");

    // New code that can't take the event either: whoever reloads is told.
    setting.write("sales.wasm", module::rebuilt(sales));
    let refused = host.post("/v1/plugins/sales/reload", &Value::Null, &[]);
    let error = refused.body["detail"].as_str().unwrap_or_default();
    assert!(refused.status == 422 && error.contains("order/too-much version 1"), "{refused:?}");

    let position = GOOD + 1;
    let skip = |position: usize| {
        let data = setting.path("data");
        let data = data.to_str().expect("a path");
        setting.wasmill(&["projections", "skip", "sales", &position.to_string(), "--data", data])
    };
    let elsewhere = skip(position + 1);
    let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(!elsewhere.status.success() && said.contains(&format!("it has stopped at {position}")), "{said}");
    let skipped = skip(position);
    assert!(skipped.status.success(), "{skipped:?}");
    host.drained();
    assert_eq!(totals().body["placed"], GOOD + 1, "all but the one that was passed over");
    let shown = &host.status()["projections"][0]["skipped"][0];
    assert_eq!(shown["position"], position);
    assert!(shown["reason"].as_str().expect("a reason").contains("too many units"), "{shown}");
    host.stop();

    fs::remove_dir_all(setting.path("data/read-models")).expect("remove the read models");
    let host = setting.start();
    host.drained();
    let totals = host.query("sales", "totals", &Value::Null);
    assert_eq!(totals.body["placed"], GOOD + 1, "a read model that is built again passes over it too");
    host.stop();
}
