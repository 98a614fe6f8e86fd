//! A subscriber that fails at an event holds the key of that event, and no other. Nothing of the key passes the event.

use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Instant;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::hostile::{aggregate, subscriber};
use wasmill_tests::setting::Setting;

fn manifest(subscription: &str) -> String {
    format!(
        "[plugins.misbehaving]\nfile = {:?}\nshards = 1\n[plugins.misbehaving.limits]\nevent_time_ms = 300\n\
         [subscriptions.misbehaving]\n{subscription}",
        built::plugin("misbehaving")
    )
}

pub(super) fn count(host: &TestHost, id: &str, then: &str) {
    let answer = host.send("misbehaving", id, "Count", &json!({ "then": then }));
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Returns which events of each aggregate the subscriber has noted, in the order of its commands.
pub(super) fn notes(host: &TestHost) -> BTreeMap<String, Vec<u64>> {
    let mut notes = BTreeMap::<String, Vec<u64>>::new();
    for event in host.events("misbehaving.Noted") {
        let id = event["aggregate_id"].as_str().expect("an id").trim_start_matches("notes-").to_owned();
        notes.entry(id).or_default().push(event["payload"]["count"].as_u64().unwrap_or_else(|| panic!("{event}")));
    }
    notes
}

fn subscription(status: &Value) -> &Value {
    &status["subscriptions"][0]
}

fn until_held(host: &TestHost, retried: u64, waiting: u64) -> Value {
    host.until(&format!("{retried} keys are retried and {waiting} wait"), |status| {
        let subscription = subscription(status);
        subscription["retried_keys"] == retried && subscription["waiting_keys"] == waiting
    })
}

#[test]
fn an_event_that_is_retried_holds_its_own_key_alone() {
    let setting = Setting::new(&manifest("attempts_max = 1000\nbackoff_ms = 60000\nbackoff_max_ms = 60000\n"));
    let host = setting.start();
    for (id, then) in [("a", "Note"), ("a", "NoteAtThird"), ("b", "Note"), ("a", "Note"), ("b", "Note")] {
        count(&host, id, then);
    }
    let status = host.until("b is noted", |_| notes(&host).get("b") == Some(&vec![1, 2]));
    assert_eq!(notes(&host)["a"], [1]);
    let held = until_held(&host, 1, 0);
    assert_eq!((&subscription(&held)["state"], &subscription(&held)["error"]), (&json!("retrying"), &json!("not yet")));
    assert_eq!(status["dead_letters"]["total"], 0);
    // The pause of a minute ends with a restart.
    for restarts in 0..2 {
        host.crash();
        until_held(&host, 1, 0);
        assert_eq!(notes(&host)["a"], [1], "after {restarts} restarts");
    }
    host.stop();
    setting.manifest(&manifest("attempts_max = 1000\nbackoff_ms = 1\n"));
    let host = setting.start();
    host.drained();
    assert_eq!(notes(&host)["a"], [1, 2, 3], "each once and in order");
    assert_eq!(subscription(&host.status())["state"], "following");
    until_held(&host, 0, 0);
    count(&host, "a", "Note");
    host.drained();
    assert_eq!(notes(&host)["a"], [1, 2, 3, 4]);
    host.stop();
}

/// An event that takes long, and succeeds in the end, delays its own key alone, and is no failure.
#[test]
fn an_event_that_takes_long_delays_its_own_key_alone() {
    let patient = manifest("attempts_max = 1\n").replace("event_time_ms = 300", "event_time_ms = 600000");
    let setting = Setting::new(&patient);
    let host = setting.start();
    for (id, then) in [("a", "Note"), ("a", "NoteSlowly"), ("b", "Note"), ("a", "Note"), ("b", "Note")] {
        count(&host, id, then);
    }
    host.until("b is noted", |_| notes(&host).get("b") == Some(&vec![1, 2]));
    // The order in the store, because on a busy machine both may be noted by now.
    let noted = host.events("misbehaving.Noted");
    let position = |id: &str, count: u64| {
        let is_it =
            |event: &&Value| event["aggregate_id"] == format!("notes-{id}") && event["payload"]["count"] == count;
        noted.iter().position(|event| is_it(&event))
    };
    assert!(position("a", 2).is_none_or(|a| position("b", 2).is_some_and(|b| b < a)), "b waited for it: {noted:?}");
    let state = subscription(&host.status())["state"].clone();
    assert_ne!(state, "retrying", "nothing failed");
    host.crash();
    host.drained();
    assert_eq!(notes(&host)["a"], [1, 2, 3], "each once and in order");
    until_held(&host, 0, 0);
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    host.stop();
    // With no key left to hold it with, it is handled in place.
    setting.manifest(&patient.replace("attempts_max = 1\n", "attempts_max = 1\nheld_keys_max = 1\n"));
    let host = setting.start();
    for (id, then) in [("c", "CannotDecode"), ("a", "NoteSlowly"), ("b", "Note")] {
        count(&host, id, then);
    }
    host.drained();
    assert_eq!((&notes(&host)["a"], &notes(&host)["b"]), (&vec![1, 2, 3, 4], &vec![1, 2, 3]));
    until_held(&host, 0, 1);
    host.stop();
}

#[test]
fn later_events_of_a_key_wait_behind_its_dead_letter_and_keep_their_order() {
    let setting = Setting::new(&manifest(""));
    let host = setting.start();
    let all = ["Note", "CannotDecode", "Note", "CannotDecode", "Note", "NoteAtThird", "Note"];
    for then in all {
        count(&host, "a", then);
        count(&host, "b", "Note");
    }
    host.until("b is noted", |_| notes(&host).get("b").is_some_and(|noted| noted.len() == all.len()));
    let status = until_held(&host, 0, 1);
    assert_eq!(subscription(&status)["state"], "following", "{status:#}");
    assert_eq!(notes(&host)["a"], [1]);
    // What waits for a person does not move.
    host.drained();
    let letter = host.get("/v1/dead-letters/1").body;
    assert_eq!((&letter["waiting"], &letter["kind"]), (&json!(5), &json!("event")), "{letter}");
    assert!(letter["place"].as_str().is_some_and(|place| place.contains("misbehaving/a version 2")), "{letter}");
    let again = host.post("/v1/dead-letters/1/replay", &Value::Null, &[]);
    assert_eq!(again.status, 422, "it can't be handled still: {again:?}");
    host.crash();
    until_held(&host, 0, 1);
    count(&host, "a", "Note");
    host.drained();
    assert_eq!(notes(&host)["a"], [1], "also what comes after a restart waits");
    assert_eq!(host.get("/v1/dead-letters/1").body["waiting"], 6);

    assert_eq!(host.post("/v1/dead-letters/1/discard", &Value::Null, &[]).status, 200);
    host.until("it goes on up to the next", |status| status["dead_letters"]["newest"][0]["number"] == 2);
    until_held(&host, 0, 1);
    host.drained();
    assert_eq!(notes(&host)["a"], [1, 3]);
    assert_eq!(discard_all(&host), 1);
    until_held(&host, 0, 0);
    host.drained();
    assert_eq!(notes(&host)["a"], [1, 3, 5, 6, 7, 8]);
    assert_eq!(notes(&host)["b"], (1..=all.len() as u64).collect::<Vec<_>>());
    host.stop();
}

#[test]
fn a_replay_with_new_code_releases_the_key() {
    let setting = Setting::new(
        "[plugins.busy]\nfile = \"busy.wasm\"\n[plugins.follower]\nfile = \"follower.wasm\"\n[subscriptions.follower]\n\
         attempts_max = 1\n",
    );
    setting.write("busy.wasm", aggregate("busy", &[]));
    setting.write("follower.wasm", subscriber("busy.*", &[("handle", "(unreachable)")]));
    let host = setting.start();
    for _ in 0..4 {
        assert_eq!(host.send("busy", "a", "Go", &Value::Null).status, 200);
    }
    until_held(&host, 0, 1);
    host.drained();
    assert_eq!(host.get("/v1/dead-letters/1").body["waiting"], 3);
    assert_eq!(host.post("/v1/dead-letters/1/replay", &Value::Null, &[]).status, 422);
    setting.write("follower.wasm", subscriber("busy.*", &[]));
    host.until("the new code is loaded", |_| host.post("/v1/dead-letters/1/replay", &Value::Null, &[]).status != 422);
    until_held(&host, 0, 0);
    host.drained();
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    host.stop();
}

#[test]
fn later_events_pass_a_dead_letter_if_the_manifest_says_so() {
    let setting = Setting::new(&manifest("attempts_max = 2\nbackoff_ms = 1\non_failure = 'pass'\n"));
    let host = setting.start();
    for then in ["CannotDecode", "Note", "Panic", "Note"] {
        count(&host, "a", then);
    }
    host.drained();
    let status = until_held(&host, 0, 0);
    assert_eq!(status["dead_letters"]["total"], 2);
    assert_eq!(notes(&host)["a"], [2, 4]);
    assert_eq!(host.get("/v1/dead-letters/1").body["waiting"], 0);
    host.stop();
}

#[test]
fn a_subscription_stops_behind_a_dead_letter_if_the_manifest_says_so() {
    let setting = Setting::new(&manifest("attempts_max = 2\nbackoff_ms = 1\non_failure = 'stop'\n"));
    for (then, letters) in [("CannotDecode", 1), ("Panic", 2)] {
        let host = setting.start();
        count(&host, then, then);
        let stopped = host.until("it has stopped", |status| subscription(status)["state"] == "paused");
        let reason = subscription(&stopped)["error"].as_str().expect("a reason").to_owned();
        assert!(reason.contains("was dead-lettered") && reason.contains("resume misbehaving"), "{reason}");
        host.until("it is dead-lettered", |status| status["dead_letters"]["total"] == letters);
        count(&host, then, "Note");
        count(&host, "b", "Note");
        host.crash();
        let after = host.until("it is still stopped", |status| subscription(status)["state"] == "paused");
        assert_eq!(subscription(&after)["error"], reason.as_str());
        host.drained();
        assert_eq!(notes(&host).get("b").map_or(0, Vec::len) as u64, letters - 1);
        assert_eq!(host.post("/v1/subscriptions/misbehaving/resume", &Value::Null, &[]).status, 200);
        host.drained();
        assert_eq!(notes(&host)["b"].len() as u64, letters, "other keys go on");
        assert!(!notes(&host).contains_key(then), "this one waits");
        until_held(&host, 0, letters);
        host.stop();
    }
}

#[test]
fn an_event_without_end_holds_up_no_other_key() {
    let setting = Setting::new(&manifest("attempts_max = 1000\nbackoff_ms = 1\nbackoff_max_ms = 1\n"));
    let host = setting.start();
    count(&host, "a", "Loop");
    until_held(&host, 1, 0);
    let began = Instant::now();
    for _ in 0..20 {
        count(&host, "b", "Note");
    }
    host.until("all are noted", |_| notes(&host).get("b").is_some_and(|noted| noted.len() == 20));
    // Each try takes 300 ms. If the events waited for it, each would wait for up to one try.
    assert!(host.status()["subscriptions"][0]["retried_keys"] == 1, "after {:?}", began.elapsed());
    host.stop();
}

#[test]
fn keys_keep_their_order_and_each_event_its_effects_through_kills() {
    const KEYS: u64 = 7;
    const EVENTS: u64 = 60;
    let setting = Setting::new(&manifest("attempts_max = 1000\nbackoff_ms = 1\nbackoff_max_ms = 20\nbatch_max = 16\n"));
    let host = setting.start();
    let mut seed = 7_u64;
    let mut letters = 0;
    for number in 0..EVENTS {
        for key in 0..KEYS {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let then = match (seed >> 33) % 12 {
                0..2 => "NoteAtThird",
                2 if key < 2 => "CannotDecode",
                _ => "Note",
            };
            count_through_crashes(&host, key, number, then);
        }
        if number % 6 == 5 {
            host.crash();
        }
        if number % 10 == 9 {
            letters += discard_all(&host);
        }
    }
    let letters = Cell::new(letters);
    host.until("nothing waits", |status| {
        letters.set(letters.get() + discard_all(&host));
        let subscription = subscription(status);
        subscription["waiting_keys"] == 0 && subscription["retried_keys"] == 0 && status["dead_letters"]["total"] == 0
    });
    host.drained();
    let expected = expected(&host);
    assert_eq!(notes(&host), expected);
    let dead_lettered = KEYS * EVENTS - expected.values().map(|noted| noted.len() as u64).sum::<u64>();
    assert!(dead_lettered > 5 && letters.get() == dead_lettered, "{letters:?} letters for {dead_lettered} events");
    host.stop();
}

fn count_through_crashes(host: &TestHost, key: u64, number: u64, then: &str) {
    let id = format!("{key}-{number}");
    let path = format!("/v1/commands/misbehaving/k{key}/Count");
    let answer = host.post_through_crashes(&path, &json!({ "then": then }), &[("idempotency-key", &id)]);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Discards all dead letters, and returns their number.
fn discard_all(host: &TestHost) -> u64 {
    let found = host.get("/v1/dead-letters?limit=1000").body;
    let letters = found["letters"].as_array().unwrap_or_else(|| panic!("{found}"));
    for letter in letters {
        let discarded = host.post(&format!("/v1/dead-letters/{}/discard", letter["number"]), &Value::Null, &[]);
        assert_eq!(discarded.status, 200, "{discarded:?}");
    }
    letters.len() as u64
}

/// Returns which events are to be noted: all that decode, in their order.
fn expected(host: &TestHost) -> BTreeMap<String, Vec<u64>> {
    let mut expected = BTreeMap::<String, Vec<u64>>::new();
    for event in host.events("misbehaving.Counted") {
        let payload = &event["payload"];
        if payload["then"] != "CannotDecode" {
            let id = event["aggregate_id"].as_str().expect("an id").to_owned();
            expected.entry(id).or_default().push(payload["count"].as_u64().expect("a count"));
        }
    }
    expected
}

#[test]
fn a_reset_lets_a_subscription_resume_from_another_place_with_all_keys_free() {
    let setting = Setting::new(&manifest("attempts_max = 1000\nbackoff_ms = 60000\nbackoff_max_ms = 60000\n"));
    let host = setting.start();
    for then in ["Note", "CannotDecode", "Note", "Note"] {
        count(&host, "a", then);
    }
    count(&host, "b", "Retry");
    let status = until_held(&host, 1, 1);
    host.until("the notes are recorded", |_| notes(&host).contains_key("a"));
    let position = status["store"]["position"].as_u64().expect("a position");

    let reset = |to: Value| host.post("/v1/subscriptions/misbehaving/reset", &json!({ "to": to }), &[]);
    for (wrong, status) in [(json!("yesterday"), 400), (json!(0), 400), (json!(position + 100), 409)] {
        assert_eq!(reset(wrong.clone()).status, status, "{wrong}");
    }
    assert_eq!(host.post("/v1/subscriptions/nobody/reset", &json!({ "to": "now" }), &[]).status, 404);
    until_held(&host, 1, 1);

    // Past the event that does not decode.
    let third = host.events("misbehaving.Counted").into_iter().find(|event| event["payload"]["count"] == 3);
    let third = third.expect("it is recorded")["position"].as_u64().expect("a position");
    let moved = reset(json!(third));
    assert_eq!((moved.status, &moved.body["to"]), (200, &json!(third - 1)), "{moved:?}");
    host.until("a is noted on", |_| notes(&host)["a"] == [1, 3, 4]);
    until_held(&host, 1, 0);
    let newest = reset(json!("now"));
    assert_eq!(newest.body["to"], host.status()["store"]["position"], "{newest:?}");
    host.drained();
    until_held(&host, 0, 0);
    assert_eq!(host.status()["dead_letters"]["total"], 1, "its dead letter stays");

    // A paused subscription is reset as well, and stays paused.
    assert_eq!(host.post("/v1/subscriptions/misbehaving/pause", &Value::Null, &[]).status, 200);
    host.until("it is paused", |status| subscription(status)["state"] == "paused");
    assert_eq!(reset(json!("beginning")).body["to"], 0);
    host.crash();
    let paused = host.until("it is paused still", |status| subscription(status)["state"] == "paused");
    assert_eq!(subscription(&paused)["checkpoint"], 0);
    assert_eq!(host.post("/v1/subscriptions/misbehaving/resume", &Value::Null, &[]).status, 200);
    host.until("what follows from all events is there again", |_| notes(&host)["a"] == [1, 3, 4, 1]);
    until_held(&host, 1, 1);
    host.stop();
}

#[test]
fn keys_go_on_after_a_panic_of_the_thread_that_retries_their_events() {
    let setting = Setting::new(&manifest("attempts_max = 1000\nbackoff_ms = 1\nbackoff_max_ms = 5\n"));
    // The rounds differ in what the thread has just done: taken a key, tried an event, or answered for a key.
    let panics = [2, 5, 9, 14, 20, 33, 51, 67].map(|round| format!("keys-misbehaving:{round}")).join(",");
    let host = setting.start_with(&[], vec![("WASMILL_PANIC_AT", panics.into())]);
    count(&host, "waits", "CannotDecode");
    count(&host, "waits", "Note");
    for key in 0..12 {
        for then in ["Note", "NoteAtThird", "Note", "NoteAtThird"] {
            count(&host, &key.to_string(), then);
        }
    }
    host.until("all others are noted", |_| notes(&host).values().map(Vec::len).sum::<usize>() == 12 * 4);
    assert_eq!(discard_all(&host), 1);
    host.until("nothing is held", |status| {
        let subscription = subscription(status);
        subscription["retried_keys"] == 0 && subscription["waiting_keys"] == 0
    });
    let noted = notes(&host);
    assert_eq!(noted["waits"], [2]);
    assert!((0..12).all(|key| noted[&key.to_string()] == [1, 2, 3, 4]), "{noted:?}");
    host.until_logged("of a panic", |line| line.contains("WASMILL_PANIC_AT asked for it"));
    host.stop();
}

#[test]
fn a_guest_that_names_an_event_beyond_its_list_fails_at_each_event_alone() {
    // It refuses the event with the index 4,294,967,295.
    const BEYOND: &str = "(i32.store (i32.const 2000) (i32.const 1)) (i32.store (i32.const 2008) (i32.const -1))
         (i32.store (i32.const 2016) (i32.const 1)) (i32.store (i32.const 2024) (i32.const 1032))
         (i32.store (i32.const 2028) (i32.const 4)) (i32.const 2000)";
    let setting = Setting::new("[plugins.busy]\nfile = \"busy.wasm\"\n[plugins.follower]\nfile = \"follower.wasm\"\n");
    setting.write("busy.wasm", aggregate("busy", &[]));
    setting.write("follower.wasm", subscriber("busy.*", &[("handle", BEYOND)]));
    let host = setting.start();
    assert_eq!(host.post("/v1/subscriptions/follower/pause", &Value::Null, &[]).status, 200);
    for id in 0..5 {
        assert_eq!(host.send("busy", &id.to_string(), "Go", &Value::Null).status, 200);
    }
    assert_eq!(host.post("/v1/subscriptions/follower/resume", &Value::Null, &[]).status, 200);
    until_held(&host, 0, 5);
    assert_eq!(host.status()["dead_letters"]["total"], 5);
    host.stop();
}

#[test]
fn an_event_that_finds_no_key_waits_in_place_until_there_is_one() {
    let setting = Setting::new(&manifest("attempts_max = 1\nheld_keys_max = 2\n"));
    let host = setting.start();
    for id in ["a", "b", "c"] {
        count(&host, id, "CannotDecode");
    }
    count(&host, "d", "Note");
    let full = "an event failed, and 2 keys are held, the most that the subscription may hold";
    let status = host.until("no key is left", |status| {
        subscription(status)["error"].as_str().is_some_and(|error| error.starts_with(full))
    });
    assert_eq!(
        (&subscription(&status)["state"], &subscription(&status)["waiting_keys"]),
        (&json!("retrying"), &json!(2))
    );
    assert_eq!(status["dead_letters"]["total"], 2, "the third is not dead-lettered: its later events could pass it");
    assert!(!notes(&host).contains_key("d"), "later events wait");
    host.crash();
    host.until("no key is left again", |status| {
        subscription(status)["error"].as_str().is_some_and(|error| error.starts_with(full))
    });
    let number = host.status()["dead_letters"]["newest"][0]["number"].clone();
    assert_eq!(host.post(&format!("/v1/dead-letters/{number}/discard"), &json!({}), &[]).status, 200);
    host.until("d is noted", |_| notes(&host).get("d") == Some(&vec![1]));
    until_held(&host, 0, 2);
    host.drained();
    host.stop();
}

/// Later events of a held key that are read together with an event that can't be held do not keep the key held.
#[test]
fn a_key_is_freed_while_an_event_waits_for_room_to_hold_its_own() {
    let setting = Setting::new(&manifest("attempts_max = 20\nbackoff_ms = 1\nbackoff_max_ms = 5\nheld_keys_max = 1\n"));
    let host = setting.start();
    assert_eq!(host.post("/v1/subscriptions/misbehaving/pause", &Value::Null, &[]).status, 200);
    for (id, then) in [("a", "NoteAtThird"), ("b", "CannotDecode"), ("a", "Note")] {
        count(&host, id, then);
    }
    assert_eq!(host.post("/v1/subscriptions/misbehaving/resume", &Value::Null, &[]).status, 200);
    until_held(&host, 0, 1);
    host.drained();
    assert_eq!(notes(&host)["a"], [1, 2]);
    assert_eq!(host.status()["dead_letters"]["total"], 1, "b");
    host.stop();
}
