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

#[test]
fn a_refused_record_is_dead_lettered_if_its_source_says_so() {
    const EMPTY: &[u8] =
        br#"{"basket_id":"b","household_id":"1","store_id":"2","placed_at":"2017-01-01T11:53:26Z","items":[]}"#;
    let setting = Setting::grocery();
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("the manifest");
    assert!(manifest.contains("[sources.baskets]"), "{manifest}");
    setting.manifest(&manifest.replace("[sources.baskets]", "[sources.baskets]\nrejected = \"dead_letter\""));
    let host = setting.start();
    topic::produce(&host.brokers(), "baskets", 3, &[(Some(b"empty"), EMPTY), (Some(b"good"), GOOD)]);
    assert_eq!(host.get("/v1/sources/baskets/wait?handled=2&timeout_ms=60000").body["handled"], 2);
    host.drained();
    let letter = host.get("/v1/dead-letters/1").body;
    assert_eq!(letter["reason"], "command CreateOrder to order/empty: rejected: an order needs at least one item");
    assert_eq!((&letter["consumer"], &letter["kind"]), (&json!("baskets"), &json!("command")), "{letter}");
    let again = host.post("/v1/dead-letters/1/replay", &serde_json::Value::Null, &[]);
    assert_eq!(again.status, 422, "{again:?}");
    let status = host.status();
    assert_eq!(status["dead_letters"]["total"], 1, "a retry that is refused again leaves it");
    let commands = status["commands"].as_array().expect("a list");
    let created = commands.iter().find(|command| command["command"] == "CreateOrder").expect("it is counted");
    assert_eq!((&created["accepted"], &created["rejected"]), (&json!(1), &json!(2)), "{created}");
    host.stop();
}
