//! Sagas: their inputs, their ends, what fails in them, and kills.

use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use wasmill::clock::OFFSET_FILE;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const HOUR: u64 = 3_600_000;

fn manifest(subscription: &str) -> String {
    format!(
        "[plugins.steward]\nfile = {:?}\nshards = 1\n[plugins.steward.limits]\nevent_time_ms = 300\n\
         [subscriptions.steward]\n{subscription}",
        built::plugin("steward")
    )
}

/// A manifest under which inputs may take long.
fn patient(subscription: &str) -> String {
    manifest(subscription).replace("event_time_ms = 300", "event_time_ms = 600000")
}

/// Has the desk hand out tasks. `command` is `Ask`, which may start an errand, or `Tell`.
fn tell(host: &TestHost, command: &str, errand: impl Into<Value>, tasks: &Value) {
    let answer = host.send("desk", "desk", command, &json!({ "errand": errand.into(), "tasks": tasks }));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn record(text: &str) -> Value {
    json!({ "Record": text })
}

/// Returns what the errands have recorded, in order.
fn recorded(host: &TestHost) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for event in host.events("errand.Recorded") {
        let text = event["payload"].as_str().unwrap_or_else(|| panic!("{event}")).to_owned();
        all.entry(event["aggregate_id"].as_str().expect("an id").to_owned()).or_default().push(text);
    }
    all
}

fn of<'a>(recorded: &'a BTreeMap<String, Vec<String>>, errand: &str) -> Vec<&'a str> {
    recorded.get(errand).into_iter().flatten().map(String::as_str).collect()
}

fn notes(host: &TestHost) -> Vec<String> {
    let events = host.events("desk.Noted").into_iter().filter(|event| event["aggregate_id"] == "notes");
    events.map(|event| event["payload"]["text"].as_str().expect("a text").to_owned()).collect()
}

fn subscription(host: &TestHost) -> Value {
    host.status()["subscriptions"][0].clone()
}

fn saga(host: &TestHost, counter: &str) -> u64 {
    subscription(host)["saga"][counter].as_u64().expect("a count")
}

/// Returns the dead letters, the oldest first, each as its place and reason.
fn letters(host: &TestHost) -> Vec<String> {
    let letters = host.get("/v1/dead-letters").body;
    let letters = letters["letters"].as_array().expect("a list").iter().rev();
    letters
        .map(|letter| format!("{}: {}", letter["place"].as_str().unwrap(), letter["reason"].as_str().unwrap()))
        .collect()
}

fn archived(host: &TestHost, errand: &str) -> bool {
    host.get(&format!("/v1/streams/errand/{errand}")).body["archived"] == json!(true)
}

#[test]
fn a_saga_lives_from_its_start_to_its_end() {
    let setting = Setting::new(&manifest(""));
    let host = setting.start();
    tell(&host, "Tell", "a", &json!([record("too early")]));
    tell(&host, "Ask", Value::Null, &json!([record("for nobody")]));
    tell(&host, "Ask", "idle", &json!([]));
    tell(&host, "Ask", "a", &json!([record("one"), { "Say": "1" }]));
    tell(&host, "Ask", "b", &json!([record("of b")]));
    tell(&host, "Tell", "a", &json!([record("two"), record("three"), { "Say": "2" }]));
    host.drained();
    assert_eq!(of(&recorded(&host), "a"), ["one", "two", "three"]);
    assert_eq!(notes(&host), ["1: ", "2: one"], "an input sees the state before it");
    assert_eq!((saga(&host, "started"), saga(&host, "ignored"), saga(&host, "live")), (2, 3, 2));
    host.crash();
    tell(&host, "Tell", "a", &json!([{ "Say": "3" }, "Complete"]));
    tell(&host, "Ask", "a", &json!([record("too late")]));
    tell(&host, "Tell", "b", &json!([record("undone"), "Compensated"]));
    host.drained();
    assert_eq!(notes(&host), ["1: ", "2: one", "3: one, two, three"], "it is rebuilt from its own events");
    assert_eq!((saga(&host, "completed"), saga(&host, "compensated"), saga(&host, "ignored")), (1, 1, 1));
    assert!(archived(&host, "a") && archived(&host, "b"));
    assert_eq!(recorded(&host)["a"].len(), 3);
    host.crash();
    tell(&host, "Ask", "a", &json!([record("too late")]));
    host.drained();
    assert_eq!((recorded(&host)["a"].len(), saga(&host, "ignored")), (3, 1));
    let event = host.events("errand.Recorded").pop().expect("an event");
    let cause = host.events("desk.Told").pop().expect("an event");
    assert_eq!((&event["causation_id"], &event["correlation_id"]), (&cause["id"], &cause["correlation_id"]));
    let command = host.send("errand", "a", "Anything", &json!({}));
    assert_eq!(command.status, 404, "a saga takes no commands: {command:?}");
    host.stop();
}

#[test]
fn outcomes_and_timers_come_back_to_their_saga() {
    let setting = Setting::new(&manifest(""));
    let clock = vec![(OFFSET_FILE, setting.path("offset"))];
    setting.write("offset", "0");
    let host = setting.start_in(clock.clone());
    let wake = |tasks: Value| json!({ "Wake": ["t", HOUR, tasks] });
    tell(
        &host,
        "Ask",
        "a",
        &json!([record("start"), { "Ask": "asked" }, { "AskInVain": "in vain" }, wake(json!([record("fired")]))]),
    );
    tell(&host, "Ask", "b", &json!([record("start"), wake(json!([record("fired")]))]));
    tell(
        &host,
        "Ask",
        "c",
        &json!([record("start"), wake(json!([record("fired")])), { "NoteLater": ["n", HOUR, "ended"] }]),
    );
    tell(&host, "Ask", "d", &json!([record("start"), { "NoteLater": ["n", HOUR, "noted"] }]));
    host.drained();
    assert_eq!(of(&recorded(&host), "a"), ["start", "asked: accepted", "in vain: rejected: no"]);
    assert_eq!(host.get("/v1/timers").body["total"], 5);
    tell(&host, "Tell", "b", &json!([{ "Cancel": "t" }]));
    tell(&host, "Tell", "c", &json!(["Complete"]));
    host.drained();
    let timers = host.get("/v1/timers").body;
    let names: Vec<_> =
        timers["timers"].as_array().expect("a list").iter().map(|timer| timer["name"].clone()).collect();
    assert_eq!(names, ["a/t", "d/n"], "the names belong to the saga");
    host.crash();
    setting.write("offset", (HOUR + 1_000).to_string());
    host.until("both timers fired", |_| notes(&host).len() == 1 && recorded(&host)["a"].len() == 4);
    host.drained();
    assert_eq!((of(&recorded(&host), "a")[3], of(&recorded(&host), "b")), ("fired", vec!["start"]));
    assert_eq!((of(&recorded(&host), "c"), notes(&host)), (vec!["start"], vec!["noted".to_owned()]));
    host.stop();
}

#[test]
fn an_input_that_fails_holds_its_own_saga() {
    let setting = Setting::new(&manifest("attempts_max = 3\nbackoff_ms = 1\n"));
    let host = setting.start();
    for errand in ["a", "b"] {
        tell(&host, "Ask", errand, &json!([record("1")]));
    }
    for (number, task) in [("2", json!({ "Fail": "twice" })), ("3", json!({ "Fail": "always" })), ("4", json!([]))] {
        let tasks = if task.is_array() { json!([record(number)]) } else { json!([record(number), task]) };
        tell(&host, "Tell", "a", &tasks);
        tell(&host, "Tell", "b", &json!([record(number)]));
    }
    tell(&host, "Tell", "a", &json!([{ "Say": "a" }, { "Fail": "loop" }]));
    host.drained();
    assert_eq!((of(&recorded(&host), "a"), of(&recorded(&host), "b")), (vec!["1", "2"], vec!["1", "2", "3", "4"]));
    let held = subscription(&host);
    assert_eq!(
        (&held["state"], &held["waiting_keys"], &held["retried_keys"]),
        (&json!("following"), &json!(1), &json!(0))
    );
    let letter = host.get("/v1/dead-letters/1").body;
    assert_eq!((&letter["waiting"], &letter["kind"]), (&json!(2), &json!("event")), "{letter}");
    assert!(letters(&host)[0].contains("failure 3 of always (tried 3 times)"), "{:?}", letters(&host));
    assert_eq!(host.post("/v1/dead-letters/1/replay", &Value::Null, &[]).status, 422, "it fails again");
    host.stop();
    let verified = setting.wasmill(&["store", "verify", "data"]);
    assert!(verified.status.success(), "what waits is no damage: {verified:?}");
    let host = setting.start();
    tell(&host, "Tell", "a", &json!([record("6")]));
    host.drained();
    assert_eq!(host.get("/v1/dead-letters/1").body["waiting"], 3, "also what comes after a restart waits");
    assert_eq!(of(&recorded(&host), "a"), ["1", "2"]);
    assert_eq!(host.post("/v1/dead-letters/1/discard", &Value::Null, &[]).status, 200);
    host.until("it goes on up to the next", |status| status["dead_letters"]["newest"][0]["number"] == 2);
    host.drained();
    assert_eq!(of(&recorded(&host), "a"), ["1", "2", "4"]);
    assert!(letters(&host)[0].contains("took longer than 300ms"), "{:?}", letters(&host));
    assert_eq!(host.post("/v1/dead-letters/2/discard", &Value::Null, &[]).status, 200);
    host.until("it goes on", |_| recorded(&host)["a"].len() == 4);
    tell(&host, "Tell", "a", &json!([record("7"), { "Say": "a" }]));
    host.drained();
    assert_eq!(
        (of(&recorded(&host), "a"), notes(&host)),
        (vec!["1", "2", "4", "6", "7"], vec!["a: 1, 2, 4, 6".to_owned()])
    );
    assert_eq!(subscription(&host)["waiting_keys"], 0);
    host.stop();
}

#[test]
fn an_event_whose_saga_finds_no_key_is_retried_until_there_is_one() {
    let setting = Setting::new(&manifest("attempts_max = 1\nbackoff_ms = 1\nbackoff_max_ms = 50\nheld_keys_max = 1\n"));
    let host = setting.start();
    tell(&host, "Ask", "a", &json!([record("1"), { "Fail": "always" }]));
    host.until("a is held", |status| status["dead_letters"]["total"] == 1);
    tell(&host, "Ask", "b", &json!([record("1"), { "Fail": "always" }]));
    tell(&host, "Ask", "c", &json!([record("1")]));
    host.until("c goes on", |_| of(&recorded(&host), "c") == ["1"]);
    let status = host.until("b is retried", |status| status["subscriptions"][0]["state"] == "retrying");
    let error = status["subscriptions"][0]["error"].as_str().expect("a reason");
    assert!(error.contains("saga b: ") && error.contains("raise `held_keys_max`"), "{error}");
    assert_eq!(status["dead_letters"]["total"], 1);
    assert_eq!(host.post("/v1/dead-letters/1/discard", &Value::Null, &[]).status, 200);
    host.until("b has a dead letter", |status| status["dead_letters"]["newest"][0]["number"] == 2);
    host.drained();
    tell(&host, "Ask", "a", &json!([record("2")]));
    host.drained();
    assert_eq!((of(&recorded(&host), "a"), letters(&host).len()), (vec!["2"], 1));
    host.stop();
}

/// An event whose dead letter finds no room holds its own saga only.
#[test]
fn without_room_for_dead_letters_other_sagas_go_on() {
    let setting = Setting::new(&format!(
        "[store]\ndead_letters_max = 1\n{}",
        manifest("attempts_max = 1\nbackoff_ms = 1\nbackoff_max_ms = 50\n")
    ));
    let host = setting.start();
    let wake = |tasks: Value| json!([record("1"), { "Wake": ["t", 1, tasks] }]);
    tell(&host, "Ask", "a", &json!([record("1"), { "Fail": "refuse" }]));
    host.until("the only room is taken", |status| status["dead_letters"]["total"] == 1);
    tell(&host, "Ask", "b", &json!([record("1"), { "Fail": "refuse" }]));
    tell(&host, "Ask", "c", &wake(json!([{ "Fail": "refuse" }])));
    tell(&host, "Ask", "b", &json!([record("2")]));
    tell(&host, "Ask", "d", &wake(json!([record("fired")])));
    host.until("d goes on", |_| of(&recorded(&host), "d") == ["1", "fired"]);
    let found = host.until("the full store shows", |status| status["subscriptions"][0]["state"] == "retrying");
    let reason = found["subscriptions"][0]["error"].as_str().expect("a reason");
    assert!(reason.contains("dead letters"), "{reason}");
    let all = recorded(&host);
    assert_eq!((all.get("b"), of(&all, "c")), (None, vec!["1"]));
    // Those of b and c find room in either order.
    for letter in 1..=3 {
        let path = format!("/v1/dead-letters/{letter}/discard");
        host.until("there is a dead letter", |status| status["dead_letters"]["newest"][0]["number"] == letter);
        assert_eq!(host.post(&path, &Value::Null, &[]).status, 200);
    }
    host.drained();
    assert_eq!(of(&recorded(&host), "b"), ["2"]);
    host.stop();
}

/// A saga whose timer is tried again takes its other inputs when a person cancels the timer.
#[test]
fn a_saga_goes_on_when_the_timer_that_fails_is_cancelled() {
    let setting = Setting::new(&manifest("attempts_max = 1000\nbackoff_ms = 50\nbackoff_max_ms = 50\n"));
    let host = setting.start();
    tell(&host, "Ask", "a", &json!([record("1"), { "Wake": ["t", 1, [{ "Fail": "always" }]] }]));
    host.until("the timer fails", |status| {
        status["subscriptions"][0]["error"].as_str().is_some_and(|error| error.contains("of always"))
    });
    tell(&host, "Tell", "a", &json!([record("2")]));
    let timers = host.get("/v1/timers").body;
    let number = timers["timers"][0]["number"].as_u64().expect("a number");
    assert_eq!(host.post(&format!("/v1/timers/{number}/cancel"), &Value::Null, &[]).status, 200);
    host.drained();
    assert_eq!((of(&recorded(&host), "a"), letters(&host).len()), (vec!["1", "2"], 0));
    host.until("its key is free", |status| status["subscriptions"][0]["retried_keys"] == 0);
    host.stop();
}

/// The attempts at one input of a saga do not count for another.
#[test]
fn each_input_of_a_saga_has_its_own_attempts() {
    let setting = Setting::new(&manifest("attempts_max = 3\nbackoff_ms = 200\nbackoff_max_ms = 200\n"));
    let host = setting.start();
    let wake = json!({ "Wake": ["t", 1, [{ "Fail": "always" }]] });
    tell(&host, "Ask", "a", &json!([record("1"), wake]));
    host.until("the timer has one attempt left", |status| {
        status["subscriptions"][0]["error"].as_str().is_some_and(|error| error.contains("failure 2 of always"))
    });
    tell(&host, "Tell", "a", &json!([record("2"), { "Fail": "twice" }]));
    host.drained();
    let found = letters(&host);
    assert!(found.len() == 1 && found[0].contains("of always (tried 3 times)"), "{found:?}");
    assert_eq!(of(&recorded(&host), "a"), ["1", "2"]);
    host.stop();
}

/// An input that takes long, and succeeds in the end, delays its own saga alone, and is no failure.
#[test]
fn an_input_that_takes_long_delays_its_own_saga_alone() {
    let setting = Setting::new(&patient("attempts_max = 1\n"));
    let host = setting.start();
    let work = json!({ "Work": 1000 });
    tell(&host, "Ask", "a", &json!([record("1"), { "Wake": ["t", 1, [record("fired"), work]] }]));
    tell(&host, "Ask", "b", &json!([record("1")]));
    host.until("the timer is worked at", |status| status["subscriptions"][0]["retried_keys"] == 1);
    tell(&host, "Tell", "a", &json!([record("2"), work]));
    tell(&host, "Tell", "a", &json!([record("3"), { "Say": "a" }]));
    tell(&host, "Tell", "b", &json!([record("2"), { "Wake": ["t", 1, [record("fired")]] }]));
    host.until("b goes on", |_| of(&recorded(&host), "b") == ["1", "2", "fired"]);
    assert_eq!(of(&recorded(&host), "a"), ["1"], "b did not wait for it");
    let status = subscription(&host);
    assert!(status["error"].is_null() && status["state"] != "retrying", "nothing failed: {status}");
    host.crash();
    host.drained();
    let all = recorded(&host);
    let of_a: Vec<_> = of(&all, "a").into_iter().filter(|text| *text != "fired").collect();
    assert_eq!((of_a, all["a"].len()), (vec!["1", "2", "3"], 4), "each once, and events in order");
    assert_eq!(notes(&host).len(), 1);
    tell(&host, "Ask", "c", &json!([record("1"), work, "Complete"]));
    tell(&host, "Ask", "c", &json!([record("too late")]));
    host.drained();
    assert_eq!((of(&recorded(&host), "c"), letters(&host).len()), (vec!["1"], 0));
    assert!(archived(&host, "c") && saga(&host, "completed") == 1 && saga(&host, "ignored") == 1);
    host.stop();
}

/// An input that had no effect is not handled again in a later state.
#[test]
fn a_saga_gets_no_input_twice_after_a_restart() {
    let setting = Setting::new(&manifest(""));
    let clock = vec![(OFFSET_FILE, setting.path("offset"))];
    setting.write("offset", "0");
    let host = setting.start_in(clock);
    tell(&host, "Ask", "a", &json!([record("1"), { "Wake": ["t", HOUR, [record("fired")]] }]));
    tell(&host, "Tell", "a", &json!([{ "SayIf": ["fired", "handled after the timer"] }]));
    host.drained();
    setting.write("offset", (HOUR + 1_000).to_string());
    host.until("the timer fired", |_| recorded(&host)["a"].len() == 2);
    for _ in 0..2 {
        host.crash();
        host.drained();
        assert_eq!(notes(&host), Vec::<String>::new());
    }
    tell(&host, "Tell", "a", &json!([{ "SayIf": ["fired", "once"] }]));
    host.drained();
    assert_eq!(notes(&host), ["once"]);
    host.stop();
}

#[test]
fn what_no_saga_can_take_is_dead_lettered_with_a_reason() {
    let setting = Setting::new(&manifest("attempts_max = 2\nbackoff_ms = 1\n"));
    let host = setting.start();
    let long = "k".repeat(600);
    let tasks = json!([record("x")]);
    for errand in ["nobody knows", "panic", "", "a\u{7}b", &*long] {
        tell(&host, "Ask", errand, &tasks);
    }
    let wake = |name: &str| json!([record("x"), { "Wake": [name, 1, []] }]);
    tell(&host, "Ask", "slash", &wake("a/b"));
    tell(&host, "Ask", "empty", &wake(""));
    tell(&host, "Ask", "silent", &json!([{ "Say": "without an event" }]));
    tell(&host, "Ask", "silent end", &json!(["Complete"]));
    tell(&host, "Ask", "large", &json!([{ "RecordLarge": 2_000_000 }]));
    tell(&host, "Ask", "refused", &json!([record("x"), { "Fail": "refuse" }]));
    tell(&host, "Ask", "panics", &json!([record("x"), { "Fail": "panic" }]));
    tell(&host, "Ask", "fine", &tasks);
    host.drained();
    let found = letters(&host);
    let expected = [
        "its saga can't be determined: malformed: nobody knows the errand",
        "told to panic",
        "the key of the saga is empty",
        "the control character",
        "600 bytes",
        "no `/`",
        "names a timer with 0 bytes",
        "the first decision of a saga has no event",
        "the first decision of a saga has no event",
        "store.event_bytes_max",
        "as the text says",
        "told to panic (tried 2 times)",
    ];
    for part in expected {
        assert!(found.iter().any(|letter| letter.contains(part)), "{part} is not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert_eq!(of(&recorded(&host), "fine"), ["x"]);
    assert_eq!((recorded(&host).len(), notes(&host).len()), (1, 0));
    host.stop();
}

#[test]
fn a_callback_that_fails_is_dead_lettered_and_its_saga_goes_on() {
    let setting = Setting::new(&manifest("attempts_max = 2\nbackoff_ms = 1\n"));
    let host = setting.start();
    tell(&host, "Ask", "a", &json!([record("1"), { "Ask": "refuse" }, { "Wake": ["t", 1, [{ "Fail": "always" }]] }]));
    tell(&host, "Ask", "a", &json!([record("2")]));
    host.drained();
    tell(&host, "Ask", "a", &json!([record("3")]));
    host.drained();
    assert_eq!(of(&recorded(&host), "a"), ["1", "2", "3"]);
    let found = letters(&host);
    assert_eq!(found.len(), 2, "{found:?}");
    let replayed = host.post("/v1/dead-letters/1/replay", &Value::Null, &[]);
    assert_eq!(replayed.status, 422, "{replayed:?}");
    host.stop();
}

#[test]
fn a_reset_is_refused_while_a_saga_has_not_ended() {
    let setting = Setting::new(&manifest(""));
    let host = setting.start();
    tell(&host, "Ask", "a", &json!([record("1"), "Complete"]));
    tell(&host, "Ask", "b", &json!([record("1")]));
    host.drained();
    let reset = || host.post("/v1/subscriptions/steward/reset", &json!({ "to": "beginning" }), &[]);
    let refused = reset();
    let said = refused.body["detail"].as_str().unwrap_or_default();
    assert!(refused.status >= 400 && said.contains("wasmill streams archive errand b"), "{refused:?}");
    assert_eq!(host.post("/v1/streams/errand/b/archive", &Value::Null, &[]).status, 200);
    assert_eq!(reset().status, 200);
    host.drained();
    assert_eq!(
        (recorded(&host)["a"].len(), recorded(&host)["b"].len()),
        (1, 1),
        "ended sagas ignore what they get again"
    );
    assert_eq!(saga(&host, "ignored"), 2);
    tell(&host, "Ask", "b", &json!([record("2")]));
    tell(&host, "Ask", "c", &json!([record("1")]));
    host.drained();
    assert_eq!((recorded(&host)["b"].len(), of(&recorded(&host), "c")), (1, vec!["1"]));
    host.stop();
}

/// Every errand records its numbers in order, whatever kills the host, and each command is sent once.
#[test]
fn sagas_are_exact_through_kills() {
    const ERRANDS: u64 = 40;
    const ROUNDS: u64 = 12;
    let setting = Setting::new(&patient("attempts_max = 50\nbackoff_ms = 1\nbackoff_max_ms = 5\nbatch_max = 7\n"));
    let host = setting.start();
    for round in 0..ROUNDS {
        for errand in 0..ERRANDS {
            let text = round.to_string();
            let mut tasks = vec![record(&text)];
            match (errand + round) % 5 {
                0 => tasks.push(json!({ "Say": format!("{errand}.{round}") })),
                1 => tasks.push(json!({ "Ask": text })),
                2 => tasks.push(json!({ "Wake": [format!("t{round}"), round % 3, [record(&format!("t{round}"))]] })),
                3 => tasks.push(json!({ "Fail": format!("twice {errand}.{round}") })),
                4 if errand % 17 == 3 => tasks.push(json!({ "Work": 200 })),
                _ => {}
            }
            let body = json!({ "errand": errand.to_string(), "tasks": tasks });
            let id = [("idempotency-key", format!("{errand}.{round}"))];
            let headers: Vec<_> = id.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let answer = host.post_through_crashes("/v1/commands/desk/desk/Ask", &body, &headers);
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        host.crash();
    }
    host.drained();
    let (all, mut noted) = (recorded(&host), notes(&host));
    noted.sort();
    noted.dedup();
    let said =
        (0..ERRANDS).flat_map(|errand| (0..ROUNDS).map(move |round| (errand + round) % 5)).filter(|kind| *kind == 0);
    assert_eq!((noted.len(), notes(&host).len()), (said.count(), noted.len()), "each command once");
    for errand in 0..ERRANDS {
        let of_errand = of(&all, &errand.to_string());
        let numbers: Vec<u64> = of_errand.iter().filter_map(|text| text.parse().ok()).collect();
        assert_eq!(numbers, (0..ROUNDS).collect::<Vec<_>>(), "of errand {errand}: {of_errand:?}");
        for round in 0..ROUNDS {
            let expected = match (errand + round) % 5 {
                1 => Some(format!("{round}: accepted")),
                2 => Some(format!("t{round}")),
                _ => None,
            };
            let count = expected.map(|text| of_errand.iter().filter(|found| **found == text).count());
            assert!(count.is_none_or(|count| count == 1), "errand {errand} round {round}: {of_errand:?}");
        }
    }
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    host.stop();
}

/// The grocery example's orders, without a warehouse that confirms them.
#[test]
fn an_order_that_is_not_confirmed_in_time_is_cancelled_also_across_a_restart() {
    let setting = Setting::new(
        "[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n[plugins.sales]\nfile = \"PLUGINS/sales.wasm\"\n\
         [plugins.order-deadline]\nfile = \"PLUGINS/order-deadline.wasm\"\n",
    );
    setting.write("offset", "0");
    let clock = vec![(OFFSET_FILE, setting.path("offset"))];
    let host = setting.start_in(clock.clone());
    let order = json!({ "household_id": "h", "store_id": "s", "placed_at": "today", "items": [
        { "product_id": "p", "quantity": 1, "amount_cents": 100, "discount_cents": 0 }] });
    for id in ["1", "2", "3"] {
        assert_eq!(host.send("order", id, "CreateOrder", &order).status, 200);
    }
    assert_eq!(host.send("order", "2", "ConfirmOrder", &Value::Null).status, 200);
    host.drained();
    assert_eq!(host.get("/v1/timers").body["total"], 2);
    setting.write("offset", (23 * HOUR).to_string());
    host.crash();
    host.drained();
    assert_eq!(host.events("order.OrderCancelled").len(), 0, "it is never early");
    host.stop();
    setting.write("offset", (25 * HOUR).to_string());
    let host = setting.start_in(clock);
    host.until("both are cancelled", |_| host.events("order.OrderCancelled").len() == 2);
    host.drained();
    assert_eq!(host.send("order", "1", "ConfirmOrder", &Value::Null).status, 422);
    let summary = |id: &str| host.query("sales", "get-order", &json!({ "order_id": id })).body["status"].clone();
    assert_eq!([summary("1"), summary("2"), summary("3")], ["cancelled", "confirmed", "cancelled"]);
    assert_eq!(host.query("sales", "totals", &Value::Null).body["sales_cents"], 100);
    assert_eq!((saga(&host, "compensated"), saga(&host, "live")), (2, 0));
    host.stop();
}

#[test]
fn a_saga_whose_stream_a_person_archives_ends_and_goes_on_when_it_is_restored() {
    let setting = Setting::new(&manifest(""));
    let host = setting.start();
    tell(&host, "Ask", "a", &json!([record("1"), { "Wake": ["t", 1, [record("fired")]] }]));
    host.until("its timer has fired", |_| of(&recorded(&host), "a") == ["1", "fired"]);
    host.drained();
    assert_eq!(host.post("/v1/streams/errand/a/archive", &Value::Null, &[]).status, 200);
    tell(&host, "Ask", "a", &json!([record("2")]));
    tell(&host, "Ask", "b", &json!([record("1")]));
    host.drained();
    assert_eq!((of(&recorded(&host), "a"), of(&recorded(&host), "b")), (vec!["1", "fired"], vec!["1"]));
    assert_eq!(host.post("/v1/streams/errand/a/restore", &Value::Null, &[]).status, 200);
    tell(&host, "Ask", "a", &json!([record("3")]));
    host.drained();
    assert_eq!(of(&recorded(&host), "a"), ["1", "fired", "3"]);
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    host.stop();
}

/// With room for one live saga, each input of another one finds it dropped.
#[test]
fn sagas_that_find_no_room_in_memory_are_rebuilt_and_lose_nothing() {
    let few = format!(
        "{}[plugins.steward.limits]\nevent_time_ms = 300\ninstances = 1\n",
        manifest("").split("[plugins.steward.limits]").next().unwrap()
    );
    let setting = Setting::new(&few);
    let host = setting.start();
    for round in 0..20 {
        for errand in ["a", "b", "c"] {
            tell(&host, "Ask", errand, &json!([record(&round.to_string()), { "Ask": format!("q{round}") }]));
        }
    }
    host.drained();
    let all = recorded(&host);
    for errand in ["a", "b", "c"] {
        let numbers: Vec<u64> = of(&all, errand).iter().filter_map(|text| text.parse().ok()).collect();
        assert_eq!((numbers, all[errand].len()), ((0..20).collect(), 40), "{errand}");
    }
    assert_eq!(saga(&host, "live"), 1);
    host.stop();
}

/// A saga that gets what follows from its own notes, again and again.
#[test]
fn a_circle_through_a_saga_ends_by_itself() {
    let setting = Setting::new(&format!("hops_max = 5\n{}", manifest("attempts_max = 1\n")));
    setting.write("echo.wasm", wasmill_tests::hostile::saga("echo", "*.*", &[]));
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("the manifest");
    setting.manifest(&(manifest + "[plugins.echo]\nfile = \"echo.wasm\"\n[subscriptions.echo]\nattempts_max = 1\n"));
    let host = setting.start();
    tell(&host, "Ask", "a", &json!([record("1")]));
    host.until("it is dead-lettered", |status| status["dead_letters"]["total"].as_u64() >= Some(1));
    host.drained();
    let letters = letters(&host);
    assert!(letters.iter().all(|letter| letter.contains("has passed 5 subscribers")), "{letters:?}");
    let echoes = host.events("echo.Done").len();
    assert!((5..=20).contains(&echoes), "{echoes} echoes");
    host.stop();
}

/// Events of a saga that arrive all the time do not keep its timer from being handled, although that takes long.
#[test]
fn a_timer_that_takes_long_is_handled_among_other_inputs_of_its_saga() {
    let setting = Setting::new(&patient(""));
    let host = setting.start();
    tell(&host, "Ask", "a", &json!([record("1"), { "Wake": ["t", 1, [record("fired"), { "Work": 1000 }]] }]));
    let told = Cell::new(0);
    host.until("the timer is handled", |_| {
        tell(&host, "Tell", "a", &json!([record("told")]));
        told.set(told.get() + 1);
        assert!(told.get() < 2_000, "only the end of the events lets it be handled");
        of(&recorded(&host), "a").contains(&"fired")
    });
    host.drained();
    let all = recorded(&host);
    assert_eq!(of(&all, "a").iter().filter(|text| **text == "told").count(), told.get());
    host.stop();
}

#[test]
fn a_dead_letter_of_an_input_that_takes_long_is_replayed_in_the_time_of_its_limit() {
    let setting = Setting::new(&patient("attempts_max = 1\n"));
    let host = setting.start();
    tell(&host, "Ask", "a", &json!([record("1")]));
    tell(&host, "Tell", "a", &json!([{ "Work": 1000 }, { "Fail": "refuse" }]));
    host.until("it is dead-lettered", |status| status["dead_letters"]["total"] == 1);
    let number = host.get("/v1/dead-letters").body["letters"][0]["number"].clone();
    let replayed = host.post(&format!("/v1/dead-letters/{number}/replay"), &Value::Null, &[]);
    let reason = replayed.body["reason"].as_str().or(replayed.body["detail"].as_str()).unwrap_or_default();
    assert!(replayed.status == 422 && reason.contains("as the text says"), "{replayed:?}");
    host.stop();
}

#[test]
fn a_reset_that_is_refused_changes_nothing() {
    let setting = Setting::new(&manifest("attempts_max = 1000\nbackoff_ms = 60000\nbackoff_max_ms = 60000\n"));
    let host = setting.start();
    tell(&host, "Ask", "a", &json!([record("1")]));
    tell(&host, "Tell", "a", &json!([{ "Fail": "always" }]));
    tell(&host, "Ask", "b", &json!([record("1")]));
    let before = host.until("b is begun and a is retried", |status| {
        let subscription = &status["subscriptions"][0];
        subscription["retried_keys"] == 1 && subscription["saga"]["live"] == 2 && subscription["behind"] == 0
    });
    let before = before["subscriptions"][0].clone();
    for _ in 0..3 {
        let refused = host.post("/v1/subscriptions/steward/reset", &json!({ "to": "beginning" }), &[]);
        assert_eq!(refused.status, 409, "{refused:?}");
    }
    assert_eq!(subscription(&host), before, "also the sagas in memory");
    host.stop();
}
