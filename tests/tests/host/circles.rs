//! Circles of events and commands. A circle ends by itself, a person can pause it, and a pause survives a restart.

use serde_json::{Value, json};
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const HOPS_MAX: u64 = 12;

fn manifest() -> String {
    format!(
        "hops_max = {HOPS_MAX}\nretry_after_max_ms = 1\n[plugins.misbehaving]\nfile = {:?}\nshards = 1\n\
         [subscriptions.misbehaving]\nattempts_max = 3\nbackoff_ms = 1\n",
        built::plugin("misbehaving")
    )
}

fn count(host: &TestHost, id: &str, then: &str) {
    let answer = host.send("misbehaving", id, "Count", &json!({ "then": then }));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn newest_dead_letter(host: &TestHost) -> Value {
    host.status()["dead_letters"]["newest"][0].clone()
}

#[test]
fn a_circle_ends_by_itself_and_a_person_can_pause_it() {
    let setting = Setting::new(&manifest());
    let host = setting.start();
    count(&host, "a", "Again");
    host.drained();
    let events = host.events("**");
    assert_eq!(events.len() as u64, 1 + HOPS_MAX, "the first event, and one for each hop");
    let letter = newest_dead_letter(&host);
    let reason = letter["reason"].as_str().expect("a reason");
    let correlation = events[0]["correlation_id"].as_str().expect("an id");
    assert!(reason.contains(correlation) && reason.contains("hops_max"), "{reason}");
    let number = letter["number"].to_string();
    let retried = setting.wasmill(&["dead-letters", "replay", &number, "--data", "data"]);
    assert!(retried.status.success(), "{retried:?}");
    host.drained();
    assert_eq!(host.events("**").len() as u64, 2 * (1 + HOPS_MAX), "a retry starts the count over");

    let subscriptions = |args: &[&str]| {
        let done = setting.wasmill(&[&["subscriptions"], args, &["--data", "data"]].concat());
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).expect("text")
    };
    assert!(subscriptions(&["pause", "misbehaving"]).contains("is paused"));
    let before = host.events("**").len();
    count(&host, "b", "Again");
    host.stop();
    let host = setting.start();
    host.until("it is paused over a restart", |status| status["subscriptions"][0]["state"] == "paused");
    let drained = host.get("/v1/drained?timeout_ms=60000").body;
    assert_eq!(drained["drained"], true, "nothing moves without a person: {drained}");
    assert!(drained["paused"][0].as_str().is_some_and(|text| text.contains("misbehaving")), "{drained}");
    let ready = host.get("/v1/ready");
    assert_eq!((ready.status, ready.body["paused"].as_array().map(Vec::len)), (200, Some(1)), "{ready:?}");
    assert_eq!(host.events("**").len(), before + 1, "only what was sent");
    assert!(subscriptions(&["list"]).contains("paused"));
    assert!(subscriptions(&["resume", "misbehaving"]).contains("is resumed"));
    host.drained();
    assert_eq!(host.events("**").len() as u64, 3 * (1 + HOPS_MAX));
    assert_eq!(host.post("/v1/subscriptions/nobody/pause", &Value::Null, &[]).status, 404);
    host.stop();
}

#[test]
fn an_event_is_tried_as_often_as_its_dead_letter_says_and_a_long_pause_has_a_ceiling() {
    let setting = Setting::new(&manifest());
    let host = setting.start();
    // The subscriber counts its deliveries, and asks for a pause of a day after each. The guest of the retries gets the
    // second and the third.
    count(&host, "a", "Retry");
    host.until("it is dead-lettered", |status| status["dead_letters"]["total"] == 1);
    let reason = newest_dead_letter(&host)["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.contains("delivery 2") && reason.ends_with("(tried 3 times)"), "{reason}");
    host.stop();
}
