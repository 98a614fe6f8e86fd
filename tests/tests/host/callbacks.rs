//! Outcomes and timers come back to the subscriber that asked for them: once, in time, and through kills.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use wasmill::clock::OFFSET_FILE;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const HOUR: u64 = 3_600_000;

fn manifest(subscription: &str) -> String {
    format!(
        "[plugins.clerk]\nfile = {:?}\nshards = 1\n[plugins.clerk.limits]\nevent_time_ms = 300\n\
         [subscriptions.clerk]\n{subscription}",
        built::plugin("clerk")
    )
}

/// A host whose clock the test moves.
struct Timed {
    setting: Setting,
}

impl Timed {
    fn new(subscription: &str) -> Self {
        let timed = Self { setting: Setting::new(&manifest(subscription)) };
        timed.is_at(0);
        timed
    }

    fn start(&self) -> TestHost {
        self.setting.start_in(vec![(OFFSET_FILE, self.setting.path("offset"))])
    }

    /// Sets by how many milliseconds the host's clock is ahead.
    fn is_at(&self, ms: u64) {
        self.setting.write("offset", ms.to_string());
    }
}

fn tell(host: &TestHost, id: &str, tasks: &Value) {
    let answer = host.send("clerk", id, "Do", &json!({ "tasks": tasks }));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn wake(timer: &str, due: &Value, text: &str) -> Value {
    json!({ "Wake": { "timer": timer, "due": due, "text": text } })
}

fn after(ms: u64) -> Value {
    json!({ "After": ms })
}

/// Returns the events that note what came back, in order.
fn noted(host: &TestHost) -> Vec<Value> {
    host.events("clerk.Noted").into_iter().filter(|event| event["aggregate_id"] == "notes").collect()
}

/// Returns what came back, in order.
fn notes(host: &TestHost) -> Vec<String> {
    noted(host).iter().map(|event| event["payload"]["text"].as_str().expect("a text").to_owned()).collect()
}

fn until_noted(host: &TestHost, expected: &[&str]) {
    host.until(&format!("{expected:?} is noted"), |_| notes(host).len() >= expected.len());
    assert_eq!(notes(host), expected);
}

fn timers(host: &TestHost) -> Value {
    host.get("/v1/timers").body
}

#[test]
fn the_outcome_of_a_command_comes_back_once_whatever_it_is() {
    let setting = Setting::new(&manifest(""));
    let host = setting.start();
    assert_eq!(host.send("clerk", "old", "Note", &json!({ "text": "" })).status, 200);
    assert_eq!(host.post("/v1/streams/clerk/old/archive", &json!({}), &[]).status, 200);
    let note = json!({ "Note": { "text": "x" } });
    let ask = |text: &str, to: &str, command: &Value, expected: Option<u64>| json!({ "Ask": { "to": to, "command": command, "expected": expected, "text": text } });
    let too_long = format!("clerk/{}", "x".repeat(600));
    tell(
        &host,
        "boss",
        &json!([
            ask("1", "clerk/a", &note, None),
            ask("2", "clerk/a", &json!({ "Refuse": { "reason": "out of paper" } }), None),
            ask("3", "clerk/a", &json!("Nonsense"), None),
            ask("4", "clerk/a", &note, Some(7)),
            ask("5", "clerk/a", &note, Some(1)),
            ask("6", "clerk/b", &json!("Panic"), None),
            ask("7", "clerk/old", &note, None),
            ask("8", "nobody/x", &note, None),
            ask("9", &too_long, &note, None),
        ]),
    );
    host.drained();
    let mut found = notes(&host);
    found.sort();
    let expected = [
        ("1: Note to a was accepted at version 1", ""),
        ("2: Refuse to a was rejected: out of paper", ""),
        ("3: Nonsense to a was malformed: unknown name `Nonsense`", ""),
        ("4: Note to a was conflict: the stream is at version 1", ""),
        ("5: Note to a was accepted at version 2", ""),
        ("6: Panic to b was plugin clerk", "told to panic after 0 notes"),
        ("7: Note to old was stream clerk/old is archived", ""),
        ("8: Note to x was no plugin serves aggregate type nobody; served are: clerk", ""),
        ("9: Note to xxx", "malformed"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (text, (begin, part)) in found.iter().zip(expected) {
        assert!(text.starts_with(begin) && text.contains(part), "{text} is not {begin} … {part}");
    }
    assert!(found[5].contains("(tried 3 times)"), "{}", found[5]);
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    let causes: BTreeSet<String> = noted(&host).iter().map(|event| event["causation_id"].to_string()).collect();
    assert_eq!(causes.len(), expected.len(), "each follows from its own outcome: {causes:?}");
    host.crash();
    host.drained();
    assert_eq!(notes(&host).len(), expected.len(), "each once");
    host.stop();
}

#[test]
fn a_timer_fires_once_and_never_early_also_after_a_restart() {
    let timed = Timed::new("");
    let host = timed.start();
    let later = json!({ "NoteLater": { "timer": null, "due": after(2 * HOUR), "text": "later" } });
    tell(&host, "a", &json!([wake("soon", &after(HOUR), "hello"), later, wake("past", &json!({ "At": 1 }), "old")]));
    host.drained();
    until_noted(&host, &["timer past: old"]);
    let list = timers(&host);
    assert_eq!((&list["total"], &list["timers"][0]["name"]), (&json!(2), &json!("soon")), "{list}");
    let due_ms = list["timers"][1]["due_ms"].as_u64().expect("a time");
    let drained = host.get("/v1/drained?timeout_ms=1000").body;
    assert_eq!((&drained["drained"], &drained["next_timer_ms"]), (&json!(true), &list["timers"][0]["due_ms"]));
    timed.is_at(HOUR - 30_000);
    host.crash();
    host.drained();
    until_noted(&host, &["timer past: old"]);
    timed.is_at(HOUR + 1_000);
    until_noted(&host, &["timer past: old", "timer soon: hello"]);
    host.stop();
    // It is overdue when the host starts.
    timed.is_at(3 * HOUR);
    let host = timed.start();
    until_noted(&host, &["timer past: old", "timer soon: hello", "later"]);
    let late = noted(&host).pop().expect("an event");
    assert_eq!(late["time_ms"], due_ms, "its time is when it was due: {late}");
    assert_eq!(timers(&host), json!({ "total": 0, "timers": [] }));
    host.crash();
    host.drained();
    assert_eq!(notes(&host).len(), 3, "each once");
    host.stop();
}

#[test]
fn a_cancelled_timer_is_not_delivered() {
    let timed = Timed::new("");
    let host = timed.start();
    let cancel = |timer: &str| json!({ "Cancel": { "timer": timer } });
    tell(&host, "a", &json!([wake("gone", &after(HOUR), "gone"), wake("twice", &after(HOUR), "one")]));
    tell(&host, "b", &json!([cancel("gone"), cancel("never set"), wake("twice", &after(2 * HOUR), "two")]));
    let together = json!({ "At": 1 });
    tell(&host, "c", &json!([wake("killer", &together, "cancel victim"), wake("victim", &together, "alive")]));
    tell(&host, "c", &json!([wake("by hand", &after(HOUR), "by hand")]));
    until_noted(&host, &["timer killer: cancel victim"]);
    host.drained();
    let list = timers(&host);
    assert_eq!(list["total"], 2, "{list}");
    let number = list["timers"].as_array().unwrap().iter().find(|timer| timer["name"] == "by hand").unwrap();
    let cancelled = host.post(&format!("/v1/timers/{}/cancel", number["number"]), &json!({}), &[]);
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    let again = host.post(&format!("/v1/timers/{}/cancel", number["number"]), &json!({}), &[]);
    assert_eq!(again.status, 404, "{again:?}");
    timed.is_at(HOUR + 1_000);
    tell(&host, "d", &json!([wake("now", &json!({ "At": 1 }), "an hour later")]));
    until_noted(&host, &["timer killer: cancel victim", "timer now: an hour later"]);
    timed.is_at(2 * HOUR + 1_000);
    until_noted(&host, &["timer killer: cancel victim", "timer now: an hour later", "timer twice: two"]);
    host.drained();
    assert_eq!(timers(&host)["total"], 0);
    host.stop();
}

#[test]
fn a_callback_that_fails_holds_its_key_and_is_dead_lettered_at_last() {
    let at_once = json!({ "At": 1 });
    let wakes = |texts: &[&str]| -> Value { texts.iter().map(|text| wake(text, &at_once, text)).collect() };
    let setting = Setting::new(&manifest("attempts_max = 4\nbackoff_ms = 60000\nbackoff_max_ms = 60000\n"));
    let host = setting.start();
    tell(&host, "a", &wakes(&["twice a", "after a"]));
    tell(&host, "b", &wakes(&["fine b"]));
    until_noted(&host, &["timer fine b: fine b"]);
    let status = host.until("it is retried", |status| status["subscriptions"][0]["state"] == "retrying");
    assert_eq!(status["subscriptions"][0]["error"], "timer twice a: failure 1 of twice a");
    let drained = host.get("/v1/drained?timeout_ms=100").body;
    assert!(drained["waiting_for"].as_str().is_some_and(|text| text.contains("twice a")), "{drained}");
    host.stop();
    setting.manifest(&manifest("attempts_max = 4\nbackoff_ms = 1\n"));
    let host = setting.start();
    until_noted(&host, &["timer fine b: fine b", "timer twice a: twice a", "timer after a: after a"]);
    let note = json!({ "Note": { "text": "x" } });
    let ask = json!([{ "Ask": { "to": "clerk/x", "command": note, "text": "always e" } }]);
    tell(&host, "c", &wakes(&["always c", "after c", "loop c", "refuse c", "last c"]));
    tell(&host, "d", &wakes(&["fine d"]));
    tell(&host, "e", &ask);
    host.drained();
    let found: Vec<String> = notes(&host).split_off(3);
    let of_c: Vec<&String> = found.iter().filter(|text| text.ends_with('c')).collect();
    assert_eq!(of_c, ["timer after c: after c", "timer last c: last c"]);
    assert_eq!(found.len(), 3, "{found:?}");
    let letters = host.get("/v1/dead-letters").body;
    let mut reasons: Vec<String> = letters["letters"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|letter| format!("{}: {}", letter["place"].as_str().unwrap(), letter["reason"].as_str().unwrap()))
        .collect();
    reasons.sort();
    assert_eq!(reasons.len(), 4, "{reasons:#?}");
    assert!(reasons[0].starts_with("outcome of command clerk:") && reasons[0].contains("tried 4 times"), "{reasons:?}");
    assert!(reasons[1].starts_with("timer always c: to be tried again: failure 4") || reasons[1].contains("failure 4"));
    assert!(reasons[2].contains("timer loop c") && reasons[2].contains("tried 4 times"), "{}", reasons[2]);
    assert_eq!(reasons[3], "timer refuse c: rejected: as the text says");
    let newest = &letters["letters"][0];
    let whole = host.get(&format!("/v1/dead-letters/{}", newest["number"])).body;
    assert!(["timer", "outcome"].contains(&whole["kind"].as_str().expect("a kind")), "{whole}");
    let replayed = host.post(&format!("/v1/dead-letters/{}/replay", newest["number"]), &json!({}), &[]);
    assert_eq!(replayed.status, 422, "it fails again: {replayed:?}");
    assert_eq!(host.status()["subscriptions"][0]["state"], "following");
    host.stop();
}

#[test]
fn a_dead_lettered_callback_is_handled_when_it_is_replayed() {
    let setting = Setting::new(&manifest("attempts_max = 1\n"));
    let host = setting.start();
    tell(&host, "a", &json!([wake("t", &json!({ "At": 1 }), "twice t")]));
    host.drained();
    let letter = host.get("/v1/dead-letters").body["letters"][0]["number"].clone();
    let replay = || host.post(&format!("/v1/dead-letters/{letter}/replay"), &json!({}), &[]).status;
    // Each replay has a guest of its own, which counts from the first failure.
    assert_eq!((replay(), replay()), (422, 422));
    assert_eq!(host.status()["dead_letters"]["total"], 1);
    assert_eq!(host.post(&format!("/v1/dead-letters/{letter}/discard"), &json!({}), &[]).status, 200);
    assert!(notes(&host).is_empty());
    host.stop();
}

#[test]
fn many_timers_fire_once_each_through_kills() {
    const TIMERS: usize = 4_000;
    let setting = Setting::new(&manifest("batch_max = 20\n"));
    let host = setting.start();
    let at = json!({ "At": 1 });
    for part in 0..8 {
        let many = json!({ "WakeMany": { "timer": format!("{part}-"), "due": at, "count": TIMERS / 8 } });
        tell(&host, &format!("{part}"), &json!([many]));
    }
    for kill in 1..=8 {
        let wanted = kill * TIMERS / 10;
        host.until(&format!("{wanted} have fired"), |status| {
            status["commands"].as_array().into_iter().flatten().any(|tally| {
                tally["command"] == "Note" && tally["accepted"].as_u64().is_some_and(|count| count >= wanted as u64)
            })
        });
        host.crash();
    }
    host.drained();
    let found = notes(&host);
    let distinct: BTreeSet<&String> = found.iter().collect();
    assert_eq!((found.len(), distinct.len()), (TIMERS, TIMERS));
    assert_eq!(timers(&host)["total"], 0);
    host.stop();
}

/// Each timer notes into an aggregate of its own, so a timer that fires twice shows as a stream with two events.
#[test]
fn a_million_timers_fire_once_each_and_never_early() {
    const TIMERS: u64 = 1_000_000;
    const PARTS: u64 = 200;
    let timed = Timed::new("batch_max = 1\n");
    let host = timed.start();
    let at = json!({ "After": 24 * HOUR });
    for part in 0..PARTS {
        let many = json!({ "WakeMany": { "timer": format!("into-{part}-"), "due": at, "count": TIMERS / PARTS } });
        tell(&host, &format!("part-{}", part % 10), &json!([many]));
    }
    host.until("all timers are set", |_| timers(&host)["total"] == TIMERS);
    host.stop();
    timed.setting.manifest(&manifest(""));
    let host = timed.start();
    host.drained();
    let noted = |host: &TestHost| {
        let commands = host.status()["commands"].clone();
        let note = commands.as_array().into_iter().flatten().find(|tally| tally["command"] == "Note").cloned();
        note.and_then(|note| note["accepted"].as_u64()).unwrap_or(0)
    };
    timed.is_at(23 * HOUR);
    host.crash();
    host.drained();
    assert_eq!(noted(&host), 0, "none is early");
    let waiting_kib = host.memory_peak_kib();
    assert!(waiting_kib.is_none_or(|kib| kib < 150 << 10), "timers that wait take no memory: {waiting_kib:?} KiB");
    timed.is_at(25 * HOUR);
    for kill in 1..=4 {
        let wanted = kill * TIMERS / 5;
        host.until(&format!("{wanted} have fired"), |_| noted(&host) >= wanted);
        host.crash();
    }
    host.until("all have fired", |_| noted(&host) >= TIMERS);
    host.drained();
    let peak_kib = host.memory_peak_kib();
    assert!(peak_kib.is_none_or(|kib| kib < 600 << 10), "the memory is bounded: {peak_kib:?} KiB");
    let stats = host.get("/v1/store/stats?count=true").body;
    let (streams, events) = (&stats["counted"]["streams"], &stats["counted"]["events"]);
    assert_eq!((streams, events), (&json!(TIMERS + 10), &json!(TIMERS + PARTS)), "each once: {stats}");
    assert_eq!((timers(&host)["total"].clone(), host.status()["dead_letters"]["total"].clone()), (json!(0), json!(0)));
    host.stop();
}

#[test]
fn a_clock_that_jumps_fires_what_is_due_and_loses_nothing() {
    let timed = Timed::new("backoff_ms = 1\n");
    timed.is_at(24 * HOUR);
    let host = timed.start();
    tell(&host, "a", &json!([wake("t", &after(1_000_000), "t")]));
    host.drained();
    timed.is_at(0);
    // What does not depend on the clock goes on: an outcome, its retries, and a timer that is past in any case.
    let note = json!({ "Note": { "text": "x" } });
    let ask = json!({ "Ask": { "to": "clerk/x", "command": note, "text": "twice" } });
    tell(&host, "b", &json!([ask, wake("past", &json!({ "At": 1 }), "past")]));
    host.until("both are noted", |_| notes(&host).len() == 2);
    host.drained();
    timed.is_at(24 * HOUR + 500_000);
    tell(&host, "c", &json!([wake("now", &json!({ "At": 1 }), "not yet")]));
    host.until("another is noted", |_| notes(&host).len() == 3);
    host.drained();
    assert_eq!(timers(&host)["total"], 1, "it is not due");
    timed.is_at(48 * HOUR);
    host.until("it is noted", |_| notes(&host).len() == 4);
    assert_eq!(notes(&host)[3], "timer t: t");
    host.drained();
    assert_eq!(notes(&host).len(), 4);
    host.stop();
}

#[test]
fn a_manual_clock_stands_still_until_it_is_moved() {
    let setting = Setting::new(&format!("clock = \"manual\"\n{}", manifest("")));
    let host = setting.start();
    let now = || host.get("/v1/clock").body["now_ms"].as_u64().expect("a time");
    let begin = now();
    tell(&host, "a", &json!([wake("t", &after(10 * HOUR), "t")]));
    let told = host.events("clerk.Told").pop().expect("an event");
    assert_eq!((&told["time_ms"], &told["recorded_ms"]), (&json!(begin), &json!(begin)));
    // The timer is set before the clock moves.
    host.drained();
    let moved = host.post("/v1/clock", &json!({ "advance_ms": 9 * HOUR }), &[]);
    assert_eq!((moved.status, moved.body), (200, json!({ "now_ms": begin + 9 * HOUR, "manual": true })));
    host.drained();
    assert!(notes(&host).is_empty(), "it is not due");
    host.crash();
    let now = || host.get("/v1/clock").body["now_ms"].as_u64().expect("a time");
    assert_eq!(now(), begin + 9 * HOUR, "the store keeps the time");
    assert_eq!(host.post("/v1/clock", &json!({ "to_ms": begin + 10 * HOUR }), &[]).status, 200);
    until_noted(&host, &["timer t: t"]);
    let note = noted(&host).pop().expect("an event");
    assert_eq!((&note["time_ms"], &note["first_ms"]), (&json!(begin + 10 * HOUR), &json!(begin)), "{note}");
    assert_eq!(host.post("/v1/clock", &json!({ "by": 1 }), &[]).status, 400);
    host.stop();
    let other = Setting::new(&manifest(""));
    let host = other.start();
    let refused = host.post("/v1/clock", &json!({ "advance_ms": 1 }), &[]);
    assert!(refused.status == 409 && refused.body["detail"].as_str().is_some_and(|text| text.contains("clock = ")));
    host.stop();
}
