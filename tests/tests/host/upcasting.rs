//! New code reads the events that old code recorded, after a hot reload or a restart. Old code refuses events that new
//! code recorded.

use serde_json::{Value, json};
use std::fs;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const MANIFEST: &str = "[plugins.members]\nfile = \"members.wasm\"\n";

/// Puts the code of a test plugin in the file of the manifest's.
fn write(setting: &Setting, plugin: &str) {
    setting.write("members.wasm", fs::read(built::plugin(plugin)).expect("read the plugin"));
}

/// Swaps the code while the host runs.
fn swap(host: &TestHost, setting: &Setting, plugin: &str) {
    let digest = |status: &Value| status["plugins"][0]["digest"].clone();
    let old = digest(&host.status());
    write(setting, plugin);
    host.until("the other code serves", |status| digest(status) != old);
}

fn register(host: &TestHost, id: &str, member: &Value) {
    let answer = host.send("member", id, "Register", member);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// How a member is greeted, from what the code knows of its history.
fn greet(host: &TestHost, id: &str) -> String {
    let answer = host.send("member", id, "Greet", &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    let greeted = host.events("member.Greeted").pop().expect("a greeting is recorded");
    greeted["payload"]["words"].as_str().expect("words").to_owned()
}

#[test]
fn new_code_reads_an_old_history_and_old_code_refuses_a_new_one() {
    let setting = Setting::new(MANIFEST);
    write(&setting, "members");
    let host = setting.start();
    register(&host, "ada", &json!({ "name": "Ada Lovelace" }));
    assert_eq!(greet(&host, "ada"), "Dear Ada Lovelace");

    swap(&host, &setting, "members-2");
    assert_eq!(greet(&host, "ada"), "Dear Ada of the Lovelaces");
    register(&host, "grace", &json!({ "first_name": "Grace", "last_name": "Hopper" }));
    let registered = host.events("member.Registered");
    assert_eq!(registered[0]["payload"], json!({ "name": "Ada Lovelace" }), "what is recorded never changes");
    let expected = json!({ "@schema": 2, "first_name": "Grace", "last_name": "Hopper" });
    assert_eq!(registered[1]["payload"], expected);

    swap(&host, &setting, "members");
    assert_eq!(greet(&host, "ada"), "Dear Ada Lovelace");
    let refused = host.send("member", "grace", "Greet", &Value::Null);
    let reason = refused.body["reason"].as_str().expect("a reason");
    assert!(reason.contains("Registered") && reason.contains("schema version 2"), "{reason}");

    host.stop();
    write(&setting, "members-2");
    let host = setting.start();
    assert_eq!(greet(&host, "grace"), "Dear Grace of the Hoppers");
    assert_eq!(greet(&host, "ada"), "Dear Ada of the Lovelaces");
    host.stop();
}
