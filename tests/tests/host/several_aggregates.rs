//! A plugin with several aggregates: each type has its own commands, state, snapshots and upcasts.

use serde_json::{Value, json};
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const MANIFEST: &str =
    "data = \"data\"\n[plugins.appliances]\nfile = \"PLUGINS/appliances.wasm\"\nsnapshot_every = 3\n";

fn accepted(host: &TestHost, aggregate: &str, command: &str, payload: &Value) {
    let answer = host.send(aggregate, "1", command, payload);
    assert_eq!(answer.status, 200, "{aggregate}: {answer:?}");
}

fn state(host: &TestHost, aggregate: &str) -> Value {
    host.get(&format!("/v1/streams/{aggregate}/1/state")).body["state"].clone()
}

#[test]
fn each_aggregate_of_a_plugin_has_its_own_commands_and_state() {
    let setting = Setting::new(MANIFEST);
    let host = setting.start();
    for round in 1..=4 {
        accepted(&host, "lamp", "Switch", &Value::Null);
        accepted(&host, "fan", "Turn", &json!({ "by": 2 }));
        assert_eq!(state(&host, "lamp"), json!({ "is_on": round % 2 == 1 }));
        assert_eq!(state(&host, "fan"), json!({ "speed": 2 * round }));
        // What is live after a kill comes from the snapshot or the history of its own type.
        host.crash();
    }
    let wrong = host.send("lamp", "1", "Turn", &json!({ "by": 2 }));
    assert_eq!(wrong.status, 400, "{wrong:?}");
    assert!(wrong.body["detail"].as_str().is_some_and(|reason| reason.contains("Switch")), "{wrong:?}");
    // Code that fails in one type loses no command of the other.
    assert_eq!(host.send("fan", "1", "Break", &Value::Null).status, 500);
    accepted(&host, "lamp", "Switch", &Value::Null);
    accepted(&host, "fan", "Turn", &json!({ "by": 1 }));
    assert_eq!((state(&host, "lamp"), state(&host, "fan")), (json!({ "is_on": true }), json!({ "speed": 9 })));
    let types: Vec<Value> = host.events("lamp.*").into_iter().chain(host.events("fan.*")).collect();
    assert_eq!(types.len(), 5 + 5);
    host.stop();
}

#[test]
fn each_aggregate_of_a_plugin_has_its_own_upcasts() {
    let setting = Setting::new(MANIFEST);
    let host = setting.start();
    accepted(&host, "lamp", "Switch", &Value::Null);
    accepted(&host, "fan", "Turn", &json!({ "by": 2 }));
    let shown = host.text_until("/v1/events?shape=newest", |_| true);
    let payloads: Vec<Value> =
        shown.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event")["payload"].clone()).collect();
    assert_eq!(payloads, [json!({ "is_on": true }), json!({ "by": 2 })], "without the mark of the version");
    assert_eq!(host.events("fan.*")[0]["payload"], json!({ "@schema": 2, "by": 2 }));
    host.stop();
}

#[test]
fn a_manifest_that_sends_a_command_to_the_other_aggregate_of_a_plugin_is_refused() {
    let schedule = "[schedules.daily]\ncron = \"0 0 * * *\"\naggregate = \"fan\"\nid = \"1\"\ncommand = \"Switch\"\n";
    let setting = Setting::new(&format!("{MANIFEST}{schedule}"));
    let (code, _, errors) = setting.told(&["check", "wasmill.toml"]);
    assert_eq!(code, Some(1), "{errors}");
    let said = "aggregate fan has no command Switch; it has Turn, Break";
    assert!(errors.contains(said), "{errors}");
}

#[test]
fn a_file_of_cases_names_the_aggregate_that_it_is_for() {
    let setting = Setting::new(MANIFEST);
    let case = |aggregate: &str, command: &str, event: &str, payload: &str| {
        format!(
            "aggregate = \"{aggregate}\"\n[[case]]\nname = \"it moves\"\n[case.when]\n{command}\n[[case.then.events]]\n\
             name = \"{event}\"\npayload = {payload}\n"
        )
    };
    setting.write("lamp.toml", case("lamp", "name = \"Switch\"", "Switched", "{ is_on = true }"));
    setting
        .write("fan.toml", case("fan", "name = \"Turn\"\npayload = { by = 3 }", "Turned", "{ '@schema' = 2, by = 3 }"));
    setting.write("other.toml", case("heater", "name = \"Turn\"", "Turned", "{ by = 3 }"));
    let plugin = built::plugin("appliances");
    let plugin = plugin.to_str().expect("a path of text");
    let (code, told, errors) = setting.told(&["test", plugin, "lamp.toml", "fan.toml"]);
    assert_eq!((code, told.contains("2 held, 0 failed")), (Some(0), true), "{told}{errors}");
    let (code, _, errors) = setting.told(&["test", plugin, "other.toml"]);
    assert!(code == Some(2) && errors.contains("aggregate lamp") && errors.contains("aggregate fan"), "{errors}");
}
