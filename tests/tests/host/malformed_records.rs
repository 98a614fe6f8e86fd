//! Kafka records that can't become commands are dead-lettered with reason and place, and reading continues.

use serde_json::json;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

const GOOD: &[u8] = br#"{"basket_id":"b","household_id":"1","store_id":"2","placed_at":"2017-01-01T11:53:26Z",
    "items":[{"product_id":"3","quantity":1,"amount_cents":50,"discount_cents":0}]}"#;

#[test]
fn malformed_records_are_dead_lettered_and_the_partition_goes_on() {
    let setting = Setting::grocery();
    let host = setting.start();
    let records: [(Option<&[u8]>, &[u8]); 6] = [
        (Some(b"not-json"), b"{\"household_id\""),
        (None, GOOD),
        (Some(b"wrong-fields"), br#"{"basket_id":"x","items":"none"}"#),
        (Some(b"\xff\xfe"), GOOD),
        (Some(b"empty"), b""),
        (Some(b"good"), GOOD),
    ];
    topic::produce(&host.brokers(), "baskets", 3, &records);
    assert_eq!(host.get("/v1/sources/baskets/wait?handled=6&timeout_ms=60000").body["handled"], 6);
    host.drained();

    let status = host.status();
    assert_eq!(status["dead_letters"]["total"], 5, "{status:#}");
    for offset in 0..5 {
        let place = format!("topic baskets partition 3 offset {offset}");
        let items = status["dead_letters"]["newest"].as_array().expect("a list");
        let item = items.iter().find(|item| item["place"] == place).unwrap_or_else(|| panic!("{place}: {status:#}"));
        assert_eq!(item["consumer"], "baskets");
        assert!(item["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{item}");
    }
    let order = host.query("sales", "get-order", &json!({ "order_id": "good" })).body;
    assert_eq!(order["status"], "confirmed", "the record after them is handled");

    // What is dead-lettered stays dead_letters, and none of it is read again.
    host.crash();
    host.drained();
    assert_eq!(host.status()["dead_letters"]["total"], 5);
    let shown = String::from_utf8(setting.wasmill(&["status", "--data", "data"]).stdout).expect("text");
    assert!(shown.contains("topic baskets partition 3 offset 4"), "{shown}");
}
