//! Plugins that panic, loop or take all memory. Such a plugin loses its own guest, and the host lives. The state is
//! rebuilt from its events, and a failing command for which nobody waits is dead-lettered.

use serde_json::{Value, json};
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

fn manifest() -> String {
    format!(
        "[plugins.misbehaving]\nfile = {:?}\nshards = 1\n\
         [plugins.misbehaving.limits]\nevent_time_ms = 200\nmemory_mib = 16\n\
         [subscriptions.misbehaving]\nattempts_max = 2\nbackoff_ms = 1\n",
        built::plugin("misbehaving")
    )
}

fn count(host: &TestHost, id: &str, then: &str) -> Value {
    let answer = host.send("misbehaving", id, "Count", &json!({ "then": then }));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[test]
fn a_failing_command_costs_one_wasm_store_and_no_state() {
    let setting = Setting::new(&manifest());
    let host = setting.start();
    assert_eq!(count(&host, "a", "Nothing")["version"], 1);
    for (command, cause) in
        [("Panic", "told to panic at "), ("Loop", "limits.event_time_ms"), ("TakeAllMemory", "limits.memory_mib")]
    {
        let answer = host.send("misbehaving", "a", command, &Value::Null);
        assert_eq!((answer.status, &answer.body["outcome"]), (500, &json!("failed")), "{command}: {answer:?}");
        let reason = answer.body["detail"].as_str().expect("a reason");
        assert!(reason.contains(cause) && reason.contains("misbehaving 0.1.0"), "{command}: {reason}");
        assert!(!reason.contains("lib.rs"), "the place in the source is not the sender's: {reason}");
    }
    let again = host.send("misbehaving", "a", "Panic", &Value::Null);
    assert!(again.body["detail"].as_str().is_some_and(|reason| reason.contains("told to panic at 1")), "{again:?}");
    assert_eq!(count(&host, "a", "Nothing")["version"], 2, "the state is rebuilt from the events");
    host.until_logged("the panic with its place", |line| {
        line.contains("told to panic") && line.contains("misbehaving/src/lib.rs:")
    });
}

#[test]
fn an_event_that_a_subscriber_cannot_handle_is_dead_lettered_and_the_others_go_on() {
    let setting = Setting::new(&manifest());
    let host = setting.start();
    for (id, then) in [("a", "Nothing"), ("b", "CannotDecode"), ("c", "Panic"), ("d", "Nothing")] {
        count(&host, id, then);
    }
    let status = host.until("both are dead-lettered", |status| status["dead_letters"]["total"] == 2);
    let newest = status["dead_letters"]["newest"].as_array().expect("a list");
    let said = |key: &str, text: &str| {
        newest.iter().any(|item| {
            item["key"] == key
                && item["consumer"] == "misbehaving"
                && item["place"].as_str().is_some_and(|place| place.contains(&format!("misbehaving/{key} version 1")))
                && item["reason"].as_str().is_some_and(|reason| reason.contains(text))
        })
    };
    assert!(said("b", "it makes no sense") && said("c", "told to panic by an event"), "{newest:?}");
    host.until("the others go on", |status| status["subscriptions"][0]["checkpoint"] == 4);
    assert_eq!(host.status()["store"]["position"], 4, "the effects of what failed are not kept");
}
