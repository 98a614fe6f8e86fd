//! Histories: the events of a stream, searches for events, what followed from a command, and what the code makes of a
//! history.

use serde_json::{Value, json};
use std::process::Output;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const DAY_MS: u64 = 86_400_000;

fn misbehaving() -> Setting {
    let file = built::plugin("misbehaving");
    Setting::new(&format!("clock = \"manual\"\n[plugins.misbehaving]\nfile = {file:?}\nshards = 1\n"))
}

/// Counts once, under a correlation id.
fn count(host: &TestHost, id: &str, then: &str, correlation: &str) -> Value {
    let headers = [("x-correlation-id", correlation)];
    let answer = host.send_with("misbehaving", id, "Count", &json!({ "then": then }), &headers);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn lines(host: &TestHost, path: &str) -> Vec<Value> {
    let text = host.text_until(path, |_| true);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{path}: {line}"))).collect()
}

/// Returns the positions of the events at a path. A line that is not an event stays what it is.
fn positions(host: &TestHost, path: &str) -> Value {
    let shown = |line: Value| line.get("position").cloned().unwrap_or(line);
    lines(host, path).into_iter().map(shown).collect()
}

fn error(host: &TestHost, path: &str) -> (u16, String) {
    let answer = host.get(path);
    (answer.status, answer.body["detail"].as_str().unwrap_or_else(|| panic!("{path}: {answer:?}")).to_owned())
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn a_stream_is_read_from_a_version_in_both_directions() {
    let setting = misbehaving();
    let host = setting.start();
    for number in 0..600 {
        count(&host, if number % 2 == 0 { "a" } else { "b%2F%C3%A4" }, "Nothing", "c");
    }
    let versions = |path: &str| {
        let lines = lines(&host, &format!("/v1/streams/misbehaving/{path}"));
        lines.iter().map(|line| line["version"].as_u64().expect("a version")).collect::<Vec<_>>()
    };
    assert_eq!(versions("a/events"), Vec::from_iter(1..=300));
    assert_eq!(versions("b%2F%C3%A4/events?backwards=true"), Vec::from_iter((1..=300).rev()));
    assert_eq!(versions("a/events?from=299"), [299, 300]);
    assert_eq!(versions("a/events?from=7&limit=2"), [7, 8]);
    assert_eq!(versions("a/events?from=2&backwards=true"), [2, 1]);
    assert_eq!(versions("a/events?from=900&backwards=true&limit=1"), [300]);
    assert_eq!(versions("a/events?from=301"), [0; 0]);
    assert_eq!(versions("a/events?from=18446744073709551615"), [0; 0]);
    assert_eq!(versions("a/events?from=18446744073709551615&backwards=true&limit=1"), [300]);
    assert_eq!(versions("a/events?from=0&limit=1"), [1]);
    assert_eq!(versions("a/events?from=0&backwards=true"), [0; 0]);
    assert_eq!(versions("a/events?limit=0"), [0; 0]);
    // The line of an event is the same however it is read.
    assert_eq!(lines(&host, "/v1/streams/misbehaving/a/events?limit=1"), lines(&host, "/v1/events?limit=1"));

    let unknown = (404, "there is no stream misbehaving/c".to_owned());
    assert_eq!(error(&host, "/v1/streams/misbehaving/c/events"), unknown);
    assert_eq!(error(&host, "/v1/streams/misbehaving/a/events?type=x").0, 400);
    let shown = printed(&setting.wasmill(&["events", "--data", "data", "--stream", "misbehaving/b/ä", "--last", "2"]));
    let shown: Vec<_> = shown.lines().map(|line| line.contains("misbehaving/b/ä")).collect();
    assert_eq!(shown, [true, true]);
    for bad in ["misbehaving", "/a", "misbehaving/"] {
        let refused = setting.wasmill(&["events", "--data", "data", "--stream", bad]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && text.contains("such as order/7"), "{bad}: {text}");
    }
    host.stop();
}

#[test]
fn events_are_searched_by_id_by_time_and_from_the_newest() {
    let setting = misbehaving();
    let host = setting.start();
    let mut days = Vec::new();
    for day in 0..3 {
        days.push(host.get("/v1/clock").body["now_ms"].as_u64().expect("a time"));
        for (id, correlation) in [("a", "red"), ("b", "blue"), ("a", "blue")] {
            count(&host, id, "Nothing", &format!("{correlation}{}", day % 2));
        }
        assert_eq!(host.post("/v1/clock", &json!({ "advance_ms": DAY_MS }), &[]).status, 200);
    }
    let found = |query: &str| positions(&host, &format!("/v1/events?{query}"));
    assert_eq!(found("backwards=true"), json!([9, 8, 7, 6, 5, 4, 3, 2, 1]));
    assert_eq!(found("backwards=true&limit=2"), json!([9, 8]));
    assert_eq!(found("backwards=true&from=3"), json!([3, 2, 1]));
    assert_eq!(found("backwards=true&from=0"), json!([]));
    assert_eq!(found("backwards=true&from=18446744073709551615&limit=1"), json!([9]));
    assert_eq!(found("correlation_id=blue0"), json!([2, 3, 8, 9]));
    assert_eq!(found("correlation_id=blue0&from=3&limit=2"), json!([3, 8]));
    assert_eq!(found("correlation_id=blue0&backwards=true&limit=1"), json!([9]));
    assert_eq!(found("correlation_id=green"), json!([]));
    assert_eq!(found("correlation_id=blue0&type=order.*"), json!([]));
    assert_eq!(found("correlation_id=blue0&type=misbehaving.Counted"), json!([2, 3, 8, 9]));
    assert_eq!(found(&format!("since_ms={}", days[1])), json!([4, 5, 6, 7, 8, 9]));
    assert_eq!(found(&format!("until_ms={}", days[1])), json!([1, 2, 3]));
    assert_eq!(found(&format!("since_ms={}&until_ms={}", days[1], days[2])), json!([4, 5, 6]));
    assert_eq!(found(&format!("since_ms={}&until_ms={}&backwards=true", days[1], days[2])), json!([6, 5, 4]));
    assert_eq!(found(&format!("since_ms={}&until_ms={}", days[2], days[1])), json!([]));
    assert_eq!(found("since_ms=18446744073709551615"), json!([]));
    assert_eq!(found("since_ms=0&until_ms=0"), json!([]));

    // The id of an event, and the id of its command, which its causation id names.
    let ids = lines(&host, "/v1/events?from=5&limit=1");
    for id in [&ids[0]["id"], &ids[0]["causation_id"]] {
        assert_eq!(found(&format!("id={}", id.as_str().expect("an id"))), json!([5]), "{}", ids[0]);
    }
    assert_eq!(found("id=blue0"), json!([2, 3, 8, 9]));

    // A search that may not search everything says how far it came, and another one resumes there.
    let end = |at: u64| json!({ "searched_to": at, "more": true });
    assert_eq!(found("correlation_id=blue0&search_max=4"), json!([2, 3, end(4)]));
    assert_eq!(found("correlation_id=blue0&search_max=5&from=5"), json!([8, 9]));
    assert_eq!(found("correlation_id=blue0&search_max=4&backwards=true"), json!([9, 8, end(6)]));
    assert_eq!(found("correlation_id=blue0&search_max=5&backwards=true&from=5"), json!([3, 2]));
    assert_eq!(found("search_max=0"), json!([end(0)]));
    assert_eq!(found("search_max=0&backwards=true"), json!([end(10)]));
    assert_eq!(found("search_max=2&limit=2"), json!([1, 2]), "it found what was wanted");

    for (bad, said) in [
        ("correlation_id=a&follow=true", "`follow`"),
        ("backwards=true&follow=true", "`follow`"),
        ("correlation_id=a&id=b", "not both"),
        ("correlation_id=a&type=..", "pattern"),
        ("since_ms=noon", "since_ms"),
    ] {
        let (status, text) = error(&host, &format!("/v1/events?{bad}"));
        assert!(status == 400 && text.contains(said), "{bad}: {text}");
    }

    let shown = |args: &[&str]| {
        let text = printed(&setting.wasmill(&[&["events", "--data", "data"], args].concat()));
        text.lines().map(|line| line.split_whitespace().next().expect("a position").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(shown(&["--last", "3"]), ["7", "8", "9"]);
    assert_eq!(shown(&["--correlation", "blue1"]), ["5", "6"]);
    assert_eq!(shown(&["--since", "1971-01-01T00:00:00Z"]).len(), 9);
    assert_eq!(shown(&["--until", "1971-01-01T00:00:00Z"]).len(), 0);
    host.stop();
}

#[test]
fn a_trace_has_what_followed_and_what_still_waits() {
    let setting = Setting::bank();
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    setting.manifest(&format!("clock = \"manual\"\n{manifest}"));
    let host = setting.start();
    for account in ["ada", "bob"] {
        let holder = json!({ "first_name": account, "last_name": "X" });
        assert_eq!(host.send("account", account, "Open", &holder).status, 200);
    }
    assert_eq!(host.send("account", "ada", "Deposit", &json!({ "cents": 1_000_000 })).status, 200);
    let request = json!({ "from": "ada", "to": "bob", "cents": 200_000 });
    let requested = host.send("transfer", "large", "Request", &request).body;
    let id = requested["command_id"].as_str().expect("an id").to_owned();
    assert_eq!(
        host.send("transfer", "other", "Request", &json!({ "from": "ada", "to": "bob", "cents": 5 })).status,
        200
    );
    host.drained();

    let names = |trace: &Value| {
        let events = trace["events"].as_array().expect("a list");
        events.iter().map(|event| format!("{} {}", event["stream"], event["name"]).replace('"', "")).collect::<Vec<_>>()
    };
    let trace = host.get(&format!("/v1/trace/{id}")).body;
    let waiting = [
        "transfer/large Requested",
        "transfer-process/large Started",
        "account/ada Debited",
        "transfer-process/large Debited",
    ];
    assert_eq!(names(&trace), waiting);
    assert_eq!((&trace["correlation_id"], &trace["more"]), (&json!(id), &json!(false)));
    assert_eq!(trace["timers"][0]["name"], "large/approval", "{trace:#}");
    assert_eq!(trace["dead_letters"], json!([]));
    // The trace is the same from the id of any event or command in it.
    for event in trace["events"].as_array().expect("a list") {
        for id in [&event["id"], &event["causation_id"]] {
            assert_eq!(host.get(&format!("/v1/trace/{}", id.as_str().expect("an id"))).body, trace);
        }
    }
    let shown = printed(&setting.wasmill(&["trace", &id, "--data", "data"]));
    assert!(shown.starts_with(&format!("correlation id {id}, from ")), "{shown}");
    assert!(shown.contains("timers that wait:\n") && shown.contains("large/approval"), "{shown}");

    let advance = ["clock", "--advance", "2h", "--data", "data"];
    printed(&setting.wasmill(&advance));
    host.drained();
    let trace = host.get(&format!("/v1/trace/{id}")).body;
    let failed =
        [&waiting[..], &["transfer-process/large RefundStarted", "account/ada Refunded", "transfer/large Failed"]]
            .concat();
    assert_eq!((names(&trace), &trace["timers"]), (failed.iter().map(ToString::to_string).collect(), &json!([])));
    let shown = printed(&setting.wasmill(&["trace", &id, "--data", "data"]));
    assert!(shown.contains("7,200,0") && !shown.contains("timers"), "the time since the first cause: {shown}");

    // A part of it is found if less is searched, and nothing if it lies before what is searched.
    let part = host.get(&format!("/v1/trace/{id}?search_max=2")).body;
    assert_eq!((names(&part), &part["more"]), (failed[5..].iter().map(ToString::to_string).collect(), &json!(true)));
    let (status, text) = error(&host, "/v1/trace/nobody?search_max=2");
    assert!(status == 404 && text.contains("`search_max`"), "{text}");
    let (status, text) = error(&host, "/v1/trace/nobody");
    assert!(status == 404 && text.contains("\"nobody\"") && !text.contains("search_max"), "{text}");
    let refused = setting.wasmill(&["trace", "nobody", "--data", "data"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    host.stop();
}

#[test]
fn an_order_is_traced_through_all_aggregates() {
    let setting = Setting::grocery();
    let host = setting.start();
    let item = json!({ "product_id": "1095275", "quantity": 2, "amount_cents": 60_000, "discount_cents": 0 });
    let order = json!({
        "household_id": "900", "store_id": "330", "placed_at": "2017-01-01T11:53:26Z", "items": [item],
    });
    let placed = host.send_with("order", "1", "CreateOrder", &order, &[("idempotency-key", "place")]);
    assert_eq!(placed.status, 200, "{placed:?}");
    host.drained();
    let shown = printed(&setting.wasmill(&["trace", "place", "--data", "data"]));
    for event in ["OrderCreated", "OrderConfirmed", "PurchaseRecorded", "HouseholdBecameLoyal"] {
        assert_eq!(shown.matches(event).count(), 1, "{event}: {shown}");
    }
    let state = |args: &[&str]| printed(&setting.wasmill(&[&["state", "--data", "data"], args].concat()));
    let pending = "order/1 at version 1\n{\n  \"status\": \"Pending\"\n}\n";
    assert_eq!(state(&["order", "1", "--version", "1"]), pending);
    assert!(state(&["household", "900"]).contains("\"total_cents\": 60000"));
    host.stop();
}

#[test]
fn a_trace_has_the_dead_letters_of_its_chain() {
    let setting = misbehaving();
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    setting.manifest(&format!("{manifest}[subscriptions.misbehaving]\nattempts_max = 1\n"));
    let host = setting.start();
    count(&host, "a", "CannotDecode", "one");
    count(&host, "b", "CannotDecode", "two");
    host.drained();
    let trace = host.get("/v1/trace/two").body;
    assert_eq!(trace["events"][0]["aggregate_id"], "b", "{trace:#}");
    let letters = trace["dead_letters"].as_array().expect("a list");
    assert_eq!((letters.len(), &letters[0]["key"]), (1, &json!("b")), "{trace:#}");
    let shown = printed(&setting.wasmill(&["trace", "two", "--data", "data"]));
    assert!(shown.contains("dead letters:\n"), "{shown}");
    host.stop();
}

#[test]
fn the_state_of_an_aggregate_is_what_the_code_makes_of_its_history() {
    let setting = Setting::bank();
    let host = setting.start();
    assert_eq!(host.send("account", "ada", "Open", &json!({ "first_name": "A", "last_name": "L" })).status, 200);
    for _ in 0..1_200 {
        assert_eq!(host.send("account", "ada", "Deposit", &json!({ "cents": 2 })).status, 200);
    }
    let state = |query: &str| host.get(&format!("/v1/streams/account/ada/state{query}")).body;
    let expected = |version: u64, cents: u64| {
        let state = json!({ "status": "Open", "balance_cents": cents });
        json!({ "stream": "account/ada", "version": version, "state": state })
    };
    assert_eq!(state(""), expected(1_201, 2_400));
    for version in [1, 2, 500, 501, 502, 1_201] {
        assert_eq!(state(&format!("?version={version}")), expected(version, 2 * (version - 1)));
    }
    let shown = printed(&setting.wasmill(&["state", "account", "ada", "--version", "3", "--data", "data"]));
    assert_eq!(shown, "account/ada at version 3\n{\n  \"balance_cents\": 4,\n  \"status\": \"Open\"\n}\n");
    // It changed nothing.
    assert_eq!(host.send("account", "ada", "Deposit", &json!({ "cents": 1 })).body["version"], 1_202);

    let path = |path: &str| error(&host, &format!("/v1/streams/{path}"));
    let unknown = |text: &str| (404, text.to_owned());
    assert_eq!(path("account/nobody/state"), unknown("there is no stream account/nobody"));
    let versions = |version: &str| format!("stream account/ada has the versions 1 to 1202, and not {version}");
    assert_eq!(path("account/ada/state?version=0"), unknown(&versions("0")));
    assert_eq!(path("account/ada/state?version=1203"), unknown(&versions("1203")));
    let (status, text) = path("transfer-process/x/state");
    assert!(
        status == 404 && text.contains("no plugin has an aggregate `transfer-process`; there are: account"),
        "{text}"
    );
    host.stop();
}

#[test]
fn a_state_that_the_code_cannot_make_or_show_says_why() {
    let setting = Setting::new(&format!(
        "[plugins.members]\nfile = \"members.wasm\"\n[plugins.members.limits]\nevent_time_ms = 200\n\
         [plugins.desk]\nfile = {:?}\n",
        built::plugin("steward")
    ));
    let write = |plugin: &str| setting.write("members.wasm", std::fs::read(built::plugin(plugin)).expect("read it"));
    write("members-2");
    let host = setting.start();
    let ada = json!({ "first_name": "Ada", "last_name": "L" });
    assert_eq!(host.send("member", "ada", "Register", &ada).status, 200);
    let (status, text) = error(&host, "/v1/streams/member/ada/state");
    assert!(status == 422 && text.contains("members") && text.contains("`SNAPSHOTS`"), "{text}");
    host.stop();
    write("members");
    // Without the code before, with which it would be compared and refused.
    std::fs::remove_dir_all(setting.path("data/plugins")).expect("remove the kept code");
    let host = setting.start();
    let (status, text) = error(&host, "/v1/streams/member/ada/state");
    let says = ["member/ada can't be rebuilt", "event Registered at version 1", "schema version 2"];
    assert!(status == 422 && says.iter().all(|part| text.contains(part)), "{text}");
    host.stop();
}
