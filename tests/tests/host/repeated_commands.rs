//! Command ids are durable: the same command gets the stored outcome again, and another one with its id is an error.

use serde_json::{Value, json};
use wasmill_tests::host::{Answer, TestHost};
use wasmill_tests::setting::{ORDERS, Setting};

fn order(quantity: i64) -> Value {
    let item = json!({ "product_id": "3", "quantity": quantity, "amount_cents": 50, "discount_cents": 0 });
    json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
}

fn create(host: &TestHost, id: &str, quantity: i64, key: &str) -> Answer {
    host.send_with("order", id, "CreateOrder", &order(quantity), &[("idempotency-key", key)])
}

#[test]
fn the_same_command_gives_the_same_outcome_also_after_a_crash() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    let accepted = create(&host, "1", 1, "first");
    assert_eq!((accepted.status, &accepted.body["command_id"]), (200, &json!("first")));
    let refused = create(&host, "2", 0, "second");
    assert_eq!(refused.status, 422);
    for _ in 0..2 {
        for (again, first) in [(create(&host, "1", 1, "first"), &accepted), (create(&host, "2", 0, "second"), &refused)]
        {
            let Value::Object(mut body) = again.body else { panic!("no object: {again:?}") };
            let since = body.remove("remembered_from_ms");
            assert!(since.is_some_and(|since| since.as_u64() > Some(1_700_000_000_000)), "{body:?}");
            assert_eq!((again.status, Value::Object(body)), (first.status, first.body.clone()));
        }
        // Byte for byte what the client of the tests sends.
        let pretty = serde_json::to_string_pretty(&order(0)).expect("it is JSON");
        let args = ["send", "order", "2", "CreateOrder", &pretty, "--id", "second", "--data", "data"];
        let said = String::from_utf8(setting.wasmill(&args).stderr).expect("text");
        assert!(said.contains("rejected") && said.contains("remembered from 20"), "{said}");
        host.crash();
    }
    assert_eq!(host.events("order.*").len(), 1);
}

#[test]
fn another_command_under_the_same_id_is_an_error() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    create(&host, "1", 1, "first");
    for (id, quantity) in [("1", 2), ("3", 1)] {
        let answer = create(&host, id, quantity, "first");
        assert_eq!((answer.status, &answer.body["outcome"]), (409, &json!("id_reused")));
    }
    assert_eq!(host.events("**").len(), 1);
}

#[test]
fn an_expected_version_is_checked() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    let expect = |version| host.send_with("order", "1", "CreateOrder", &order(1), &[("x-expected-version", version)]);
    let conflict = expect("1");
    assert_eq!((conflict.status, &conflict.body["actual"]), (409, &json!(0)));
    assert_eq!(expect("no-stream").status, 200);
    assert_eq!(expect("no-stream").status, 409);
}
