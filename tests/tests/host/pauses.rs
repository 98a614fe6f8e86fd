//! A paused subscription keeps its position over a restart, even if the last events did not pass its filter.

use serde_json::Value;
use wasmill_tests::hostile::{aggregate, subscriber};
use wasmill_tests::setting::Setting;

const EVENTS: u64 = 5;

#[test]
fn a_paused_subscription_keeps_the_checkpoint_that_it_had() {
    let plugin = |name: &str| format!("[plugins.{name}]\nfile = \"{name}.wasm\"\n");
    let setting = Setting::new(&["busy", "follower"].map(plugin).concat());
    setting.write("busy.wasm", aggregate("busy", &[]));
    setting.write("follower.wasm", subscriber("other.*", &[]));
    let host = setting.start();
    for id in 0..EVENTS {
        assert_eq!(host.send("busy", &id.to_string(), "Go", &Value::Null).status, 200);
    }
    let follower = |status: &Value| status["subscriptions"][0].clone();
    host.until("it has passed by all events", |status| follower(status)["checkpoint"] == EVENTS);
    assert_eq!(host.post("/v1/subscriptions/follower/pause", &Value::Null, &[]).status, 200);
    let paused = host.until("it is paused", |status| follower(status)["state"] == "paused");
    assert_eq!((&follower(&paused)["checkpoint"], &follower(&paused)["behind"]), (&EVENTS.into(), &0.into()));
    host.stop();
    let host = setting.start();
    let paused = host.until("it is paused over a restart", |status| follower(status)["state"] == "paused");
    assert_eq!(follower(&paused)["checkpoint"], EVENTS, "it stands where it was paused");
    host.stop();
}
