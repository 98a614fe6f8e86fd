//! Refused commands. A refusal is an outcome, not an error: it is answered with its reason and counted, and no event is
//! recorded.

use serde_json::json;
use wasmill_tests::setting::{ORDERS, Setting};

#[test]
fn a_refusal_is_answered_and_counted_and_no_line_of_the_log() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [] });
    let answer = host.send("order", "1", "CreateOrder", &order);
    assert_eq!((answer.status, &answer.body["outcome"]), (422, &json!("rejected")));
    assert_eq!(answer.body["detail"], "an order needs at least one item");

    let status = host.status();
    let counted =
        json!([{ "aggregate_type": "order", "command": "CreateOrder", "accepted": 0, "rejected": 1, "malformed": 0 }]);
    assert_eq!(status["commands"], counted);
    assert_eq!(status["store"]["position"], 0);
    assert_eq!(status["dead_letters"]["total"], 0);
    assert!(!host.log().contains("an order needs at least one item"), "it is the sender's news: {}", host.log());
}

#[test]
fn what_nobody_serves_is_told_with_what_is_served() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    let answer = host.send("ordr", "1", "CreateOrder", &json!({}));
    assert_eq!(answer.status, 404);
    assert!(answer.body.to_string().contains("order"), "{answer:?}");
    let answer = host.send("order", "1", "CancelOrder", &json!({}));
    assert_eq!((answer.status, &answer.body["outcome"]), (400, &json!("malformed")));
    let answer = host.send("order", "1", "CreateOrder", &json!({ "items": 7 }));
    assert_eq!((answer.status, &answer.body["outcome"]), (400, &json!("malformed")));
}
