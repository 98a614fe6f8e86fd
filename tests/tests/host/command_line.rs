//! The command line with a running host: what it prints and how it exits.

use serde_json::{Value, json};
use std::process::Output;
use wasmill_tests::setting::{ORDERS, Setting};

const ORDER: &str = r#"{"household_id":"7","store_id":"9","placed_at":"2017-01-01T11:53:26Z",
    "items":[{"product_id":"3","quantity":2,"amount_cents":60000,"discount_cents":5}]}"#;

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn commands_queries_events_and_status() {
    let setting = Setting::grocery();
    let host = setting.start();
    let cli = |args: &[&str]| setting.wasmill(&[args, &["--data", "data", "--json"]].concat());

    let sent = cli(&["send", "order", "1", "CreateOrder", ORDER, "--id", "mine"]);
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    assert_eq!((&lines(&sent)[0]["outcome"], &lines(&sent)[0]["command_id"]), (&json!("accepted"), &json!("mine")));
    let refused = cli(&["send", "order", "1", "CreateOrder", ORDER]);
    assert_eq!((refused.status.code(), &lines(&refused)[0]["detail"]), (Some(1), &json!("the order exists")));
    assert_eq!(cli(&["send", "order", "1", "CreateOrder", "{"]).status.code(), Some(2));
    host.drained();

    let position = host.status()["store"]["position"].to_string();
    let totals = cli(&["query", "sales", "totals", "{}", "--position", &position]);
    assert_eq!((&lines(&totals)[0]["confirmed"], &lines(&totals)[0]["loyal_households"]), (&json!(1), &json!(1)));
    assert_eq!(cli(&["query", "sales", "total", "{}"]).status.code(), Some(1));

    let events = lines(&cli(&["events", "--type", "order.*"]));
    let names: Vec<_> =
        events.iter().map(|event| (event["stream"].clone(), event["version"].clone(), event["name"].clone())).collect();
    assert_eq!(
        names,
        [(json!("order/1"), json!(1), json!("OrderCreated")), (json!("order/1"), json!(2), json!("OrderConfirmed"))]
    );
    assert_eq!(events[0]["payload"]["amount_cents"], 60_000);
    assert_eq!(events[0]["correlation_id"], events[1]["correlation_id"], "the confirmation follows from the order");
    let from = events[1]["position"].to_string();
    assert_eq!(lines(&cli(&["events", "--type", "order.*", "--from", &from])), events[1..]);
    assert_eq!(lines(&cli(&["events", "--limit", "1"])), events[..1]);

    let status = lines(&cli(&["status"]));
    assert_eq!(status[0]["store"]["position"], host.status()["store"]["position"]);
    let plugins = lines(&cli(&["plugins", "list"]));
    assert!(format!("{plugins:?}").contains("households"), "{plugins:?}");
    assert_eq!(cli(&["plugins", "reload", "orders"]).status.code(), Some(0));
    assert_eq!(cli(&["plugins", "reload", "absent"]).status.code(), Some(1));
}

/// A host that was killed leaves its address behind, and another host may have its port since.
#[test]
fn a_data_folder_whose_address_another_host_has_is_refused() {
    let (setting, other) = (Setting::new(ORDERS), Setting::new(ORDERS));
    let host = setting.start();
    let file = |setting: &Setting| -> Value {
        serde_json::from_slice(&std::fs::read(setting.path("data/host.json")).expect("the host wrote it"))
            .expect("JSON")
    };
    let mut killed = file(&setting);
    assert_eq!(killed["store"], host.status()["store"]["identity"]);
    assert_eq!(setting.wasmill(&["status", "--data", "data"]).status.code(), Some(0));
    let copied = file(&setting);
    // A process before this one had the address.
    killed["instance"] = "another".into();
    let folder = std::fs::metadata(other.path(".")).expect("a folder");
    killed["folder"] = std::os::unix::fs::MetadataExt::ino(&folder).into();
    for (content, words) in [(killed, "is not running"), (copied, "copied here")] {
        std::fs::write(other.path("host.json"), content.to_string()).expect("write a file");
        for command in [&["dead-letters", "discard", "--all"][..], &["send", "order", "1", "CreateOrder", ORDER]] {
            let refused = other.wasmill(&[command, &["--data", "."]].concat());
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            let is_said = said.contains(words) && said.contains("wasmill run MANIFEST") && said.lines().count() == 1;
            assert!(refused.status.code() == Some(1) && is_said, "{said}");
        }
    }
    let meant = [("wasmill-instance", "another")];
    assert_eq!(host.post("/v1/dead-letters/discard", &Value::Null, &meant).status, 421);
    assert!(host.events("**").is_empty());
    host.stop();
}

#[test]
fn a_host_that_is_not_there_is_a_sentence() {
    let setting = Setting::grocery();
    let output = setting.wasmill(&["status", "--data", "data"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("wasmill run") && said.lines().count() == 1, "{said}");
}
