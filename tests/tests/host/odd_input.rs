//! Odd input: strange ids, commands beyond every limit, numbers from the future. Each is accepted or refused with a
//! reason, the host lives, and nothing is lost.

use serde_json::{Value, json};
use wasmill::store::sqlite::verify;
use wasmill_tests::host::{Answer, TestHost};
use wasmill_tests::setting::{ORDERS, Setting};

fn order(store: &str) -> Value {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    json!({ "household_id": "1", "store_id": store, "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
}

fn create(host: &TestHost, id: &str) -> Answer {
    host.send("order", id, "CreateOrder", &order("2"))
}

fn reason(answer: &Answer) -> String {
    answer.body["detail"].as_str().unwrap_or_else(|| panic!("a refusal has a reason: {answer:?}")).to_owned()
}

#[test]
fn an_id_may_be_any_text_that_can_be_read() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    let long = "x".repeat(512);
    let ids = [
        ("%20", " "),
        ("a%2Fb", "a/b"),
        ("%F0%9F%A6%80", "\u{1f980}"),
        ("e%CC%81", "e\u{301}"),
        ("%C3%A9", "é"),
        ("%27%3B%20DROP%20TABLE%20events%3B%20--", "'; DROP TABLE events; --"),
        (&long, &long),
    ];
    for (escaped, _) in ids {
        assert_eq!(create(&host, escaped).status, 200, "{escaped}");
        assert_eq!(create(&host, escaped).status, 422, "{escaped} is the same order");
    }
    let refused = create(&host, "%FF");
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(reason(&refused).contains("UTF-8"), "{refused:?}");
    let found: Vec<_> = host.events("**").iter().map(|event| event["aggregate_id"].clone()).collect();
    assert_eq!(found, ids.map(|(_, id)| json!(id)));
    host.crash();
    for (escaped, _) in ids {
        assert_eq!(host.get(&format!("/v1/streams/order/{escaped}")).body["version"], 1, "{escaped}");
    }
    host.stop();
    let report = verify(&setting.path("data/events.sqlite")).expect("look the store over");
    assert!(report.is_sound() && report.streams == ids.len() as u64, "{report:#?}");
}

#[test]
fn a_command_of_ten_megabytes_is_refused_where_its_limit_is_met() {
    let huge = order(&"x".repeat(10_000_000));
    // It is about bytes: a busy machine must not make it one about time.
    let orders = format!("{ORDERS}limits = {{ event_time_ms = 60000 }}\n");
    let setting = Setting::new(&orders);
    let host = setting.start();
    let refused = host.send("order", "1", "CreateOrder", &huge);
    assert_eq!(refused.status, 413, "{:?}", refused.status);
    assert!(reason(&refused).contains("api.body_mib"));
    assert_eq!(create(&host, "1").status, 200);
    host.stop();

    let setting = Setting::new(&format!("[api]\nbody_mib = 16\n{orders}"));
    let host = setting.start();
    let refused = host.send("order", "1", "CreateOrder", &huge);
    assert_eq!((refused.status, &refused.body["outcome"]), (400, &json!("malformed")));
    let said = reason(&refused);
    assert!(said.contains("OrderCreated of order/1") && said.contains("store.event_bytes_max"), "{said}");
    assert_eq!(create(&host, "1").status, 200);
    assert_eq!(host.status()["store"]["position"], 1);
    host.stop();

    let roomy = format!("[api]\nbody_mib = 16\n[store]\nevent_bytes_max = 16777216\n{orders}");
    let setting = Setting::new(&roomy);
    let host = setting.start();
    assert_eq!(host.send("order", "1", "CreateOrder", &huge).status, 200);
    host.crash();
    assert_eq!(host.events("**")[0]["payload"]["store_id"], huge["store_id"]);
    host.stop();
}

#[test]
fn a_number_from_the_future_is_no_place_to_be() {
    const LAST: u64 = u64::MAX;
    let setting = Setting::grocery();
    let host = setting.start();
    assert_eq!(create(&host, "1").status, 200);
    host.drained();
    let expecting =
        |version: &str| host.send_with("order", "1", "ConfirmOrder", &Value::Null, &[("x-expected-version", version)]);
    for version in [LAST, i64::MAX as u64, i64::MAX as u64 + 1, 99] {
        let conflict = expecting(&version.to_string());
        assert_eq!((conflict.status, &conflict.body["actual"]), (409, &json!(2)), "{version}: {conflict:?}");
    }
    assert_eq!(expecting("18446744073709551616").status, 400);
    assert_eq!(expecting("-1").status, 400);
    for from in [LAST, i64::MAX as u64 + 1, 99] {
        let page = host.get(&format!("/v1/events?from={from}"));
        assert_eq!((page.status, page.body), (200, Value::Null), "{from}");
        let query = format!("/v1/queries/sales/totals?position={from}&timeout_ms=1");
        assert_eq!(host.post(&query, &json!({}), &[]).status, 504, "{from}");
        assert_eq!(host.get(&format!("/v1/dead-letters/{from}")).status, 404);
        assert_eq!(host.get(&format!("/v1/dead-letters?before={from}&limit={from}")).body["total"], 0);
        assert_eq!(host.post(&format!("/v1/dead-letters/{from}/replay"), &Value::Null, &[]).status, 404);
    }
    assert_eq!(host.get("/v1/dead-letters/18446744073709551616").status, 400);
    host.stop();
}
