//! What plugins say about themselves, by the API and the command line.

use serde_json::json;
use wasmill::plugin::API_VERSION;
use wasmill_tests::setting::Setting;

#[test]
fn what_a_plugin_says_of_itself_is_shown_with_its_schemas() {
    let setting = Setting::grocery();
    let host = setting.start();
    let described = host.get("/v1/plugins/orders").body;
    assert_eq!((&described["name"], &described["plugin"]), (&json!("orders"), &json!("orders")));
    assert_eq!((&described["version"], &described["contract"]), (&json!("0.1.0"), &json!(API_VERSION)));
    let order = &described["roles"][0];
    assert_eq!((&order["role"], &order["type"]), (&json!("aggregate"), &json!("order")));
    let names = |messages: &serde_json::Value| {
        let messages = messages.as_array().expect("a list");
        messages.iter().map(|message| message["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&order["commands"]), ["CreateOrder", "ConfirmOrder", "CancelOrder"]);
    assert_eq!(names(&order["events"]), ["OrderCreated", "OrderConfirmed", "OrderCancelled"]);
    let create = &order["commands"][0]["schema"];
    assert_eq!(create["properties"]["items"]["items"]["$ref"], "#/$defs/Item");
    assert_eq!(
        create["$defs"]["Item"]["properties"]["amount_cents"]["description"],
        "The price paid for the whole line."
    );
    assert_eq!(order["commands"][1]["schema"]["type"], "null");
    assert_eq!(order["state"]["properties"]["status"]["$ref"], "#/$defs/Status");

    let sales = host.get("/v1/plugins/sales").body["roles"][0].clone();
    assert_eq!(
        (&sales["role"], &sales["name"], &sales["shape"]),
        (&json!("projection"), &json!("sales"), &json!("recorded"))
    );
    assert!(names(&sales["queries"]).contains(&"store-sales".to_owned()), "{sales}");
    assert_eq!(host.get("/v1/plugins/warehouse").body["roles"][0]["role"], "subscriber");

    let unknown = host.get("/v1/plugins/cart");
    assert!(unknown.status == 404 && unknown.body["detail"].to_string().contains("cart"), "{unknown:?}");
    let (_, text, _) = setting.told(&["plugins", "describe", "orders", "--data", "data"]);
    assert!(text.contains("aggregate order\n  commands: CreateOrder, ConfirmOrder, CancelOrder\n  events: "), "{text}");
    let (_, text, _) = setting.told(&["plugins", "describe", "orders", "--data", "data", "--json"]);
    assert!(text.contains("\"$defs\""), "{text}");
    let status = host.status();
    assert!(
        status["plugins"].as_array().is_some_and(|all| all.iter().all(|one| one["contract"] == API_VERSION)),
        "{status}"
    );
    host.stop();
}
