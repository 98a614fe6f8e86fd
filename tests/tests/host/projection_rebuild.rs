//! Changed code of a projection builds its read model anew beside the old one, and takes over in one step.

use serde_json::{Value, json};
use std::fs;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;
use wasmill_tests::{built, module};

const ORDERS: usize = 40;

fn place(host: &TestHost, number: usize) {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    assert_eq!(host.send("order", &number.to_string(), "CreateOrder", &order).status, 200);
}

fn placed(host: &TestHost) -> Value {
    host.drained();
    host.query("sales", "totals", &Value::Null).body["placed"].clone()
}

#[test]
fn changed_code_takes_over_with_the_whole_history() {
    let manifest = format!(
        "[plugins.orders]\nfile = {:?}\n[plugins.sales]\nfile = \"sales.wasm\"\n[projections.sales]\nbatch_max = 7\n",
        built::plugin("orders")
    );
    let setting = Setting::new(&manifest);
    let sales = fs::read(built::plugin("sales")).expect("read the plugin");
    setting.write("sales.wasm", &sales);
    let host = setting.start();
    (0..ORDERS).for_each(|number| place(&host, number));
    assert_eq!(placed(&host), ORDERS);

    setting.write("sales.wasm", module::rebuilt(sales));
    host.until_logged("that the new code answers", |line| line.contains("now answers from the code of sales"));
    assert_eq!(placed(&host), ORDERS, "the new read model has all of history");
    place(&host, ORDERS);
    assert_eq!(placed(&host), ORDERS + 1, "and goes on from there");
    let status = host.status();
    assert_eq!((&status["projections"][0]["error"], &status["plugins"][1]["loads"]), (&Value::Null, &json!(2)));
}
