//! Subscriptions that are divided into segments: each key is handled in its order and once, however often the number of segments
//! changes, and whatever waits moves with its key.

use super::held_keys::{count, notes};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use wasmill::clock::OFFSET_FILE;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const HOUR: u64 = 3_600_000;
const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn manifest(plugin: &str, segments: u32) -> String {
    let attempts_max = if plugin == "steward" { 2 } else { 1_000 };
    format!(
        "[plugins.{plugin}]\nfile = {:?}\nshards = 1\n[plugins.{plugin}.limits]\nevent_time_ms = 2000\n\
         [subscriptions.{plugin}]\nattempts_max = {attempts_max}\nbackoff_ms = 1\nsegments = {segments}\n",
        built::plugin(plugin)
    )
}

/// Returns the names of the segments that run, and the sum of their keys that wait.
fn segments(host: &TestHost) -> (Vec<String>, u64) {
    let status = host.status();
    let subscriptions = status["subscriptions"].as_array().expect("subscriptions");
    let names = subscriptions.iter().map(|found| found["name"].as_str().expect("a name").to_owned()).collect();
    (names, subscriptions.iter().filter_map(|found| found["waiting_keys"].as_u64()).sum())
}

fn names(plugin: &str, count: u32) -> Vec<String> {
    match count {
        1 => vec![plugin.to_owned()],
        _ => (1..=count).map(|number| format!("{plugin}:{number}of{count}")).collect(),
    }
}

#[test]
fn each_key_is_handled_in_order_and_once_however_often_the_number_of_segments_changes() {
    let setting = Setting::new(&manifest("misbehaving", 1));
    let mut host = setting.start();
    for then in ["Note", "CannotDecode", "Note"] {
        count(&host, "x", then);
    }
    let mut sent = 0;
    for (round, segments) in [3, 2, 4, 1, 3].into_iter().enumerate() {
        // Commands come while the number changes.
        let has_changed = AtomicBool::new(false);
        setting.manifest(&manifest("misbehaving", segments));
        let rounds = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let mut rounds = 0;
                while rounds < 3 || (!has_changed.load(Ordering::Acquire) && rounds < 500) {
                    KEYS.iter().for_each(|key| count(&host, key, if rounds == 1 { "NoteAtThird" } else { "Note" }));
                    rounds += 1;
                }
                rounds
            });
            let reloaded = host.post("/v1/manifest/reload", &json!({}), &[]);
            has_changed.store(true, Ordering::Release);
            assert_eq!(reloaded.status, 200, "{reloaded:?}");
            sending.join().expect("every command is accepted")
        });
        sent += rounds;
        count(&host, "x", "Note");
        if round % 2 == 1 {
            host.crash();
        }
        host.drained();
        let all = notes(&host);
        for key in KEYS {
            assert_eq!(all[key], (1..=sent).collect::<Vec<u64>>(), "{key} with {segments} segments");
        }
        assert_eq!(all["x"], [1], "it waits behind its dead letter");
        assert_eq!(self::segments(&host), (names("misbehaving", segments), 1));
    }
    // The dead letter has the name of the whole subscription, and the segment that has its key takes it.
    let letter = host.get("/v1/dead-letters/1").body;
    assert_eq!((&letter["consumer"], &letter["key"]), (&json!("misbehaving"), &json!("x")), "{letter}");
    assert_eq!(host.post("/v1/dead-letters/1/replay", &Value::Null, &[]).status, 422, "it fails again");
    assert_eq!(host.post("/v1/dead-letters/1/discard", &Value::Null, &[]).status, 200);
    host.until("the key goes on", |_| notes(&host)["x"].len() == 7);
    assert_eq!(notes(&host)["x"], [1, 3, 4, 5, 6, 7, 8]);
    // People name a segment as it is shown.
    let states = || {
        let status = host.status();
        let subscriptions = status["subscriptions"].as_array().expect("subscriptions").clone();
        subscriptions.iter().filter(|found| found["state"] == "paused").count()
    };
    for (change, paused) in [("pause", 3), ("resume", 0)] {
        assert_eq!(host.post(&format!("/v1/subscriptions/misbehaving/{change}"), &Value::Null, &[]).status, 200);
        host.until("all segments are", |_| states() == paused);
    }
    let unknown = host.post("/v1/subscriptions/misbehaving:2of4/pause", &Value::Null, &[]);
    assert!(unknown.status == 404 && unknown.body.to_string().contains("misbehaving:2of3"), "{unknown:?}");
    let refused = host.get("/v1/dead-letters?consumer=misbehaving:2of3");
    assert!(refused.status == 400 && refused.body.to_string().contains("`misbehaving`"), "{refused:?}");
    let (code, out, error) = setting.told(&["subscriptions", "pause", "misbehaving:2of3", "--data", "data"]);
    assert_eq!(code, Some(0), "{out}{error}");
    // A paused one keeps all paused that come after it, because some of their keys were paused.
    host.stop();
    setting.manifest(&manifest("misbehaving", 1));
    host = setting.start();
    host.until("it is paused", |status| status["subscriptions"][0]["state"] == "paused");
    assert_eq!(host.post("/v1/subscriptions/misbehaving/resume", &Value::Null, &[]).status, 200);
    count(&host, "a", "Note");
    host.drained();
    assert_eq!(notes(&host)["a"].len() as u64, sent + 1);
    host.stop();
    let verified = setting.wasmill(&["store", "verify", "data"]);
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn sagas_move_with_their_timers_and_what_waits_for_them() {
    let setting = Setting::new(&manifest("steward", 1));
    let clock = vec![(OFFSET_FILE, setting.path("offset"))];
    setting.write("offset", "0");
    let host = setting.start_in(clock);
    let tell = |command: &str, errand: &str, tasks: Value| {
        let answer = host.send("desk", "desk", command, &json!({ "errand": errand, "tasks": tasks }));
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let recorded = || {
        let mut all = BTreeMap::<String, Vec<String>>::new();
        for event in host.events("errand.Recorded") {
            let text = event["payload"].as_str().expect("a text").to_owned();
            all.entry(event["aggregate_id"].as_str().expect("an id").to_owned()).or_default().push(text);
        }
        all
    };
    for key in KEYS {
        let fired = json!([{ "Record": "fired" }]);
        tell("Ask", key, json!([{ "Record": "start" }, { "Ask": "asked" }, { "Wake": ["t", HOUR, fired] }]));
    }
    tell("Tell", "c", json!([{ "Record": "failing" }, { "Fail": "always" }]));
    tell("Tell", "c", json!([{ "Record": "behind" }]));
    let mut expected: BTreeMap<&str, Vec<String>> =
        KEYS.map(|key| (key, vec!["start".to_owned(), "asked: accepted".to_owned()])).into();
    for segments in [3, 2, 4] {
        setting.manifest(&manifest("steward", segments));
        let reloaded = host.post("/v1/manifest/reload", &json!({}), &[]);
        assert_eq!(reloaded.status, 200, "{reloaded:?}");
        for key in KEYS {
            tell("Tell", key, json!([{ "Record": segments.to_string() }]));
            expected.get_mut(key).into_iter().filter(|_| key != "c").for_each(|all| all.push(segments.to_string()));
        }
        host.drained();
        for key in KEYS {
            assert_eq!(recorded()[key], expected[key], "{key} with {segments} segments");
        }
        assert_eq!(self::segments(&host), (names("steward", segments), 1), "c waits");
    }
    assert_eq!(host.get("/v1/timers").body["total"], KEYS.len());
    // The event of the dead letter is of another aggregate than its saga. The segment of the saga takes it.
    assert_eq!(host.post("/v1/dead-letters/1/replay", &Value::Null, &[]).status, 422, "it fails again");
    assert_eq!(host.post("/v1/dead-letters/1/discard", &Value::Null, &[]).status, 200);
    host.until("the saga goes on", |_| recorded()["c"].len() == 6);
    assert_eq!(recorded()["c"], ["start", "asked: accepted", "behind", "3", "2", "4"]);
    setting.write("offset", (HOUR + 1_000).to_string());
    host.until("all timers fired", |_| recorded().values().all(|all| all.last().is_some_and(|last| last == "fired")));
    host.drained();
    assert!(recorded().values().all(|all| all.iter().filter(|text| *text == "fired").count() == 1), "{:?}", recorded());
    host.stop();
    let verified = setting.wasmill(&["store", "verify", "data"]);
    assert!(verified.status.success(), "{verified:?}");
}
