//! A store that is restored from a backup, beside a Kafka that has gone on: each part that can't resume by itself is found, and
//! the command that is named with it resolves it.

use super::groups::delete_before;
use super::identity::until_done;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::Range;
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

fn produce(kafka: &Kafka, topic: &str, numbers: Range<usize>) {
    let item = |number| json!({ "product_id": format!("{number}"), "quantity": 1, "amount_cents": 1 });
    let records: Vec<_> = numbers.map(|number| (format!("c{number}"), json!({ "items": [item(number)] }))).collect();
    topic::produce_keyed(kafka.brokers(), topic, &records);
}

fn has_published(host: &TestHost, count: u64) {
    host.until(&format!("{count} events are published"), |status| {
        status["store"]["position"] == count
            && status["sinks"].as_array().is_some_and(|sinks| {
                sinks.iter().any(|sink| sink["name"] == "feed" && sink["pending"] == 0 && sink["error"].is_null())
            })
    });
}

/// Restores the backup, or only checks it. Returns what was found and the commands that resolve it.
fn restore(setting: &Setting, more: &[&str]) -> Vec<(String, String)> {
    let output = setting.wasmill(&[&["store", "restore", "copy.sqlite", "--json"], more].concat());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert!(output.status.success() && said["unasked"].is_null(), "{said}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let findings = said["findings"].as_array().expect("findings").iter();
    findings.map(|found| (text(&found["finding"]), text(&found["command"]))).collect()
}

fn run(setting: &Setting, command: &str) {
    let args: Vec<&str> = command.strip_prefix("wasmill ").expect("a command line").split(' ').collect();
    until_done(setting, &args);
}

#[test]
fn each_finding_of_a_restore_is_resolved_by_its_command() {
    let Some(kafka) = Kafka::shared() else { return };
    let [orders, feed] = ["restore-orders", "restore-feed"].map(|name| kafka.topic(name, 1));
    let setting = Setting::new(&format!(
        "[kafka]\nbrokers = \"{}\"\n[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n\
         [sources.orders]\ntopic = \"{orders}\"\naggregate = \"cart\"\ncommand = \"AddItems\"\n\
         [sinks.feed]\nevents = [\"**\"]\ntopic = \"{feed}\"\n",
        kafka.brokers()
    ));
    let host = setting.start();
    produce(&kafka, &orders, 0..10);
    has_published(&host, 10);
    host.stop();
    until_done(&setting, &["store", "backup", "copy.sqlite", "--data", "data"]);
    assert_eq!(restore(&setting, &["--dry-run"]), [], "everything fits to a backup of this moment");
    let host = setting.start();
    produce(&kafka, &orders, 10..20);
    has_published(&host, 20);
    host.stop();

    // The sink has published what the store does not have any more.
    let findings = restore(&setting, &[]);
    let [(text, command)] = &findings[..] else { panic!("{findings:?}") };
    assert!(text.contains("sink feed has published events up to number 20, and the store ends at 10"), "{text}");
    let shown = until_done(&setting, &["kafka", "sinks", "show", "--manifest", "wasmill.toml"]);
    assert!(shown.contains("would stop"), "{shown}");
    run(&setting, command);
    assert_eq!(restore(&setting, &["--dry-run"]), []);
    let host = setting.start();
    has_published(&host, 20);
    assert_eq!(host.events("cart.*").len(), 20, "what was lost is read again from the topic");
    host.stop();
    let published = kafka.read_committed(&feed);
    let ids: BTreeSet<&str> = published.iter().map(|shown| shown.id.as_str()).collect();
    assert_eq!((published.len(), ids.len()), (30, 30), "the second ten are other events with other ids");

    // Retention has removed records that the backup has not read.
    delete_before(&kafka, &orders, 0, 15);
    let findings = restore(&setting, &[]);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[1].0.contains("at offset 10, and the topic now begins at 15"), "{findings:?}");
    findings.iter().for_each(|(_, command)| run(&setting, command));
    assert_eq!(restore_found_after_commands(&setting), [], "they are resolved");
    let host = setting.start();
    has_published(&host, 15);
    host.stop();

    // The topic was deleted and recreated.
    let brokers = ["kafka", "--brokers", kafka.brokers(), "topics"];
    until_done(&setting, &[&brokers[..], &["delete", &orders, "--yes"]].concat());
    until_done(&setting, &[&brokers[..], &["create", &orders, "--partitions", "1"]].concat());
    produce(&kafka, &orders, 20..23);
    let findings = restore(&setting, &[]);
    assert!(
        findings.iter().any(|(text, _)| text.contains("was deleted and recreated since the backup")),
        "{findings:?}"
    );
    findings.iter().for_each(|(_, command)| run(&setting, command));
    let host = setting.start();
    has_published(&host, 13);
    host.stop();
}

/// Compares the store as it is now, after commands have changed it, with Kafka.
fn restore_found_after_commands(setting: &Setting) -> Vec<(String, String)> {
    std::fs::copy(setting.path("copy.sqlite"), setting.path("first.sqlite")).expect("keep the backup");
    std::fs::remove_file(setting.path("copy.sqlite")).expect("remove it");
    until_done(setting, &["store", "backup", "copy.sqlite", "--data", "data"]);
    let found = restore(setting, &["--dry-run"]);
    std::fs::rename(setting.path("first.sqlite"), setting.path("copy.sqlite")).expect("put it back");
    found
}
