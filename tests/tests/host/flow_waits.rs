//! `POST /v1/commands/…?wait=flow` answers when everything that followed from a command is at rest.

use serde_json::{Value, json};
use std::thread;
use wasmill_tests::host::{Answer, TestHost};
use wasmill_tests::setting::Setting;

fn send(host: &TestHost, to: &str, command: &str, payload: &Value) -> Answer {
    host.post(&format!("/v1/commands/{to}/{command}?wait=flow&timeout_ms=60000"), payload, &[])
}

fn open(host: &TestHost, account: &str, cents: i64) {
    let name = json!({ "first_name": account, "last_name": "Test" });
    assert_eq!(host.send("account", account, "Open", &name).status, 200);
    if cents > 0 {
        assert_eq!(host.send("account", account, "Deposit", &json!({ "cents": cents })).status, 200);
    }
}

fn request(host: &TestHost, transfer: &str, from: &str, to: &str, cents: i64) -> Value {
    let payload = json!({ "from": from, "to": to, "cents": cents });
    let answer = send(host, &format!("transfer/{transfer}"), "Request", &payload);
    assert_eq!((answer.status, &answer.body["outcome"]), (200, &json!("accepted")), "{answer:?}");
    answer.body["flow"].clone()
}

fn names<'v>(flow: &'v Value, list: &str, field: &str) -> Vec<&'v str> {
    flow[list].as_array().expect("a list").iter().map(|item| item[field].as_str().expect("a text")).collect()
}

#[test]
fn a_flow_is_answered_whole() {
    let setting = Setting::bank();
    let host = setting.start();
    open(&host, "ada", 1_000_000);
    open(&host, "bob", 0);
    let flow = request(&host, "t1", "ada", "bob", 300);
    assert_eq!(flow["at_rest"], true, "{flow:#}");
    let happened = names(&flow, "events", "name");
    assert_eq!(happened.first().copied(), Some("Requested"), "{flow:#}");
    let streams = names(&flow, "events", "stream");
    for event in [("account/ada", "Debited"), ("account/bob", "Credited"), ("transfer/t1", "Completed")] {
        let same = streams.iter().zip(&happened).filter(|(stream, name)| (**stream, **name) == event);
        assert_eq!(same.count(), 1, "{flow:#}");
    }
    assert_eq!(names(&flow, "commands", "outcome"), ["accepted"; 3], "{flow:#}");
    let position = flow["position"].as_u64().expect("a position");
    let asked = host.post(
        &format!("/v1/queries/statements/account?position={position}&timeout_ms=60000"),
        &json!({ "account": "bob" }),
        &[],
    );
    assert_eq!(asked.body["balance_cents"], 300, "{asked:?}");

    // A refusal belongs to the flow, and so does a timer, for which nobody waits.
    let flow = request(&host, "t2", "ada", "nobody", 300);
    let refused: Vec<_> =
        flow["commands"].as_array().expect("a list").iter().filter(|c| c["outcome"] != "accepted").collect();
    assert_eq!(refused.len(), 1, "{flow:#}");
    assert_eq!((&refused[0]["to"], &refused[0]["name"]), (&json!("account/nobody"), &json!("Credit")));
    assert!(refused[0]["reason"].as_str().is_some_and(|reason| reason.contains("no such account")), "{flow:#}");
    assert_eq!(names(&flow, "events", "name").last().copied(), Some("Failed"), "{flow:#}");
    let flow = request(&host, "t3", "ada", "bob", 200_000);
    assert_eq!((&flow["at_rest"], flow["timers"].as_array().map(Vec::len)), (&json!(true), Some(1)), "{flow:#}");

    // What is refused at once has no flow.
    let refused = send(&host, "account/ada", "Debit", &json!({ "transfer_id": "t", "cents": 0 }));
    assert_eq!((refused.status, &refused.body["flow"]["at_rest"]), (422, &json!(true)), "{refused:?}");
    assert_eq!(refused.body["flow"]["events"], json!([]), "{refused:?}");
    host.stop();
}

#[test]
fn each_of_many_flows_is_complete_when_it_is_answered() {
    const SENDERS: usize = 8;
    const EACH: usize = 25;
    let setting = Setting::bank();
    let host = setting.start();
    (0..SENDERS).for_each(|sender| open(&host, &format!("a{sender}"), 100_000));
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let host = &host;
            scope.spawn(move || {
                for number in 0..EACH {
                    let (from, to) = (format!("a{sender}"), format!("a{}", (sender + 1) % SENDERS));
                    let flow = request(host, &format!("t{sender}-{number}"), &from, &to, 1);
                    assert_eq!(flow["at_rest"], true, "{flow:#}");
                    let happened = names(&flow, "events", "name");
                    let ends = happened.iter().filter(|name| **name == "Completed").count();
                    assert_eq!((ends, flow["commands"].as_array().map(Vec::len)), (1, Some(3)), "{flow:#}");
                }
            });
        }
    });
    host.stop();
}

#[test]
fn nobody_waits_for_a_paused_subscription_and_a_repetition_shows_the_first_flow() {
    let setting = Setting::bank();
    let host = setting.start();
    open(&host, "ada", 100);
    open(&host, "bob", 0);
    let paused = host.post("/v1/subscriptions/transfer-process/pause", &Value::Null, &[]);
    assert_eq!(paused.status, 200, "{paused:?}");
    let flow = request(&host, "t1", "ada", "bob", 1);
    assert_eq!(flow["at_rest"], true, "{flow:#}");
    assert!(flow["paused"][0].as_str().is_some_and(|text| text.contains("transfer-process")), "{flow:#}");
    assert_eq!(host.post("/v1/subscriptions/transfer-process/resume", &Value::Null, &[]).status, 200);
    host.drained();

    let bad = host.post("/v1/commands/account/ada/Deposit?wait=all", &json!({ "cents": 1 }), &[]);
    assert!(bad.status == 400 && bad.body.to_string().contains("flow"), "{bad:?}");
    let bad = host.post("/v1/commands/account/ada/Deposit?timeout_ms=5", &json!({ "cents": 1 }), &[]);
    assert!(bad.status == 400 && bad.body.to_string().contains("wait=flow"), "{bad:?}");

    // A repeated command shows the flow of the first one.
    let payload = json!({ "from": "ada", "to": "bob", "cents": 1 });
    let path = "/v1/commands/transfer/t2/Request?wait=flow&timeout_ms=60000";
    let [first, again] = [0, 1].map(|_| host.post(path, &payload, &[("idempotency-key", "t2")]));
    assert_eq!((first.status, again.status), (200, 200), "{again:?}");
    assert!(again.body["remembered_from_ms"].is_u64(), "{again:?}");
    assert_eq!(first.body["flow"]["events"], again.body["flow"]["events"]);
    host.stop();
}

#[test]
fn a_flow_ends_at_a_dead_letter_and_goes_on_while_an_event_is_retried() {
    let manifest = "[plugins.misbehaving]\nfile = \"PLUGINS/misbehaving.wasm\"\n[subscriptions.misbehaving]\n\
        attempts_max = 1000\nbackoff_ms = 60000\nbackoff_max_ms = 60000\n";
    let setting = Setting::new(manifest);
    let host = setting.start();
    let count = |id: &str, then: &str, timeout_ms: u64| {
        let path = format!("/v1/commands/misbehaving/{id}/Count?wait=flow&timeout_ms={timeout_ms}");
        let answer = host.post(&path, &json!({ "then": then }), &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["flow"].clone()
    };
    let flow = count("a", "CannotDecode", 60_000);
    assert_eq!((&flow["at_rest"], flow["dead_letters"].as_array().map(Vec::len)), (&json!(true), Some(1)), "{flow:#}");
    let flow = count("a", "Note", 60_000);
    let held = json!(["misbehaving/a of subscription misbehaving"]);
    assert_eq!((&flow["at_rest"], &flow["held_keys"]), (&json!(true), &held), "{flow:#}");
    let flow = count("b", "NoteAtThird", 500);
    assert_eq!(flow["at_rest"], false, "{flow:#}");
    let waiting_for = flow["waiting_for"].as_str().unwrap_or_default();
    assert!(waiting_for == "keys whose events are retried: 1", "{flow:#}");
    let flow = count("c", "Note", 60_000);
    assert_eq!(
        (&flow["at_rest"], names(&flow, "events", "name")),
        (&json!(true), vec!["Counted", "Noted"]),
        "{flow:#}"
    );
    host.stop();
}
