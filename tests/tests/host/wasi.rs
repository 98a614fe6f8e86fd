//! Plugins that use WASI: what they see depends on the item alone, and nothing leaves the sandbox.

use serde_json::{Value, json};
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::module::{importing, importing_function};
use wasmill_tests::setting::Setting;

fn roll(host: &TestHost, count: u32) {
    assert_eq!(host.send("dice", "a", "Roll", &json!(count)).status, 200);
}

/// Returns the state of the live aggregate, byte for byte.
fn shown(host: &TestHost) -> String {
    let refused = host.send("dice", "a", "Show", &Value::Null);
    assert_eq!(refused.status, 422, "{refused:?}");
    refused.body["detail"].as_str().expect("the state").to_owned()
}

/// An aggregate that reads clocks and randomness in `handle` and in `apply` has the same state live, rebuilt and restored.
fn its_state_is_the_same_however_it_was_made(plugin: &str) {
    let setting = Setting::new("");
    std::fs::copy(built::plugins().join(format!("{plugin}.wasm")), setting.path("dice.wasm")).expect("copy the plugin");
    let manifest = |snapshot_every: u32| {
        format!("[plugins.dice]\nfile = 'dice.wasm'\nshards = 1\nsnapshot_every = {snapshot_every}\n")
    };
    setting.manifest(&manifest(0));
    let host = setting.start();
    for count in [1, 3, 1, 40, 2] {
        roll(&host, count);
    }
    host.drained();
    let live = shown(&host);
    let state: Value = serde_json::from_str(&live).expect("JSON");
    let rolls = state["rolls"].as_array().expect("rolls");
    assert_eq!((rolls.len(), state["seen_by_subscriber"].as_array().expect("a list").len()), (47, 47));
    let mut numbers: Vec<&Value> =
        rolls.iter().flat_map(|roll| [&roll[0]["random"][0], &roll[1]["random"][0]]).collect();
    numbers.sort_by_key(|number| number.as_u64());
    numbers.dedup();
    assert_eq!(numbers.len(), 94, "each event has randomness of its own, when it is decided and when it is applied");
    for roll in rolls {
        assert_eq!(roll[0]["wall_ms"], roll[1]["wall_ms"], "the time of an event is that of its command: {roll}");
        assert!(roll[0]["wall_ms"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{roll}");
        assert_eq!(roll[0]["seed"], json!([0, 0]), "a constant");
    }
    // Each delivery was handled with its own time and randomness, also those of one batch, and the effect has the right cause.
    let kept = host.events("dice.Kept");
    for (event, roll) in host.events("dice.Rolled").iter().zip(rolls) {
        let of_it: Vec<_> = kept.iter().filter(|kept| kept["payload"]["wall_ms"] == roll[0]["wall_ms"]).collect();
        assert!(!of_it.is_empty(), "{event}");
    }
    let mut seen: Vec<String> = kept.iter().map(|kept| kept["payload"]["random"].to_string()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 47);

    // Rebuilt from all events, after a kill.
    host.crash();
    assert_eq!(shown(&host), live, "rebuilt");
    host.stop();
    // A snapshot is taken of the rebuilt state, and restored after the next kill, with further events behind it.
    setting.manifest(&manifest(10));
    let host = setting.start();
    assert_eq!(shown(&host), live, "rebuilt, before its first snapshot");
    for count in [4, 5, 6, 2] {
        roll(&host, count);
    }
    host.drained();
    let live = shown(&host);
    host.crash();
    assert_eq!(shown(&host), live, "restored");
    host.stop();
    std::fs::remove_dir_all(setting.path("data/compiled")).expect("compiled code is a cache");
    setting.manifest(&manifest(0));
    let host = setting.start();
    assert_eq!(shown(&host), live, "rebuilt from all events once more");
    let state = host.get("/v1/streams/dice/a/state").body;
    assert_eq!(state["state"], serde_json::from_str::<Value>(&live).expect("JSON"), "and shown");
    host.stop();
}

#[test]
fn the_state_of_an_aggregate_that_uses_wasi_is_the_same_however_it_was_made() {
    its_state_is_the_same_however_it_was_made("dice");
}

/// The state of a saga is the same live and rebuilt: what it had applied before one event is the beginning of what it had applied
/// before the next one, also across kills.
#[test]
fn the_state_of_a_saga_that_uses_wasi_is_the_same_live_and_rebuilt() {
    let plugin = |name: &str| format!("[plugins.{name}]\nfile = 'PLUGINS/{name}.wasm'\n");
    let setting = Setting::new(&(plugin("dice") + &plugin("dealer")));
    let host = setting.start();
    for count in [1, 5, 2] {
        roll(&host, count);
        host.drained();
        host.crash();
        roll(&host, count);
        host.drained();
    }
    let dealt = host.events("deal.Dealt");
    assert_eq!(dealt.len(), 16);
    let states: Vec<Vec<Value>> =
        dealt.iter().map(|event| event["payload"]["state"].as_array().expect("a list").clone()).collect();
    for (number, state) in states.iter().enumerate() {
        assert_eq!(state.len(), number);
        assert!(number == 0 || state.starts_with(&states[number - 1]), "{number}: {states:?}");
    }
    let mut numbers: Vec<String> = dealt.iter().map(|event| event["payload"]["decided"][1].to_string()).collect();
    numbers.extend(states[15].iter().map(|seen| seen[1].to_string()));
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 31, "each event has randomness of its own, when it is decided and when it is applied");
    host.stop();
}

/// The SDK and its standard library on `wasm32-wasip2`. CI has the target; elsewhere it may be missing.
#[test]
fn a_plugin_that_was_built_for_wasi_has_std_time_and_its_sleep_takes_none() {
    if !built::plugins().join("dice-on-wasi.wasm").is_file() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "`cargo xtask build` makes dice-on-wasi.wasm");
        return eprintln!("left out: dice-on-wasi.wasm is not there, because the Rust target wasm32-wasip2 is missing");
    }
    its_state_is_the_same_however_it_was_made("dice-on-wasi");
    let setting = Setting::new("[plugins.dice]\nfile = 'PLUGINS/dice-on-wasi.wasm'\nshards = 1\n");
    let host = setting.start();
    let refused = host.send("dice", "a", "Sleep", &Value::Null);
    assert_eq!((refused.status, &refused.body["detail"]), (422, &json!("awake")));
    host.until_logged("standard output", |line| line.contains("INFO") && line.contains("slept"));
    host.until_logged("standard error", |line| line.contains("WARN") && line.contains("for 3600 s"));
    host.stop();
}

/// A guest that drops nothing is recreated before there is no room for another handle, in each role.
#[test]
fn a_guest_that_leaks_handles_loses_no_command_event_or_query() {
    let setting = Setting::new("[plugins.dice]\nfile = 'PLUGINS/dice.wasm'\nshards = 1\n");
    let host = setting.start();
    for number in 0..15 {
        let sent = host.send("dice", "a", "Leak", &json!(1_500));
        assert_eq!(sent.status, 200, "{number}: {sent:?}");
        let asked = host.query("table", "Leak", &json!(1_500));
        assert_eq!((asked.status, &asked.body), (200, &json!(1_500)), "{number}: {asked:?}");
    }
    host.drained();
    let status = host.status();
    assert_eq!(status["dead_letters"]["total"], 0, "{status:#}");
    assert_eq!(status["projections"][0]["error"], Value::Null, "{status:#}");
    assert!(!host.log().contains("handles of WASI"), "{}", host.log());
    host.stop();
}

#[test]
fn what_a_guest_does_wrong_is_said_with_its_place_and_remedy() {
    let setting = Setting::new("[plugins.dice]\nfile = 'PLUGINS/dice.wasm'\nshards = 1\n");
    let host = setting.start();
    let js = ["Error: no such setting", "  at main", "Redirecting call to abort() to mozalloc_abort"];
    for (command, payload, said) in [
        ("Random", json!(2_000_000), "more than 1048576 bytes of randomness at once in `handle`: ask for fewer"),
        ("Wait", Value::Null, "it waits for an empty list of pollables of WASI in `handle`"),
        (
            "Leak",
            json!(20_000),
            "it holds 10000 handles of WASI (streams, pollables and other resources) and needs another one in `handle`: drop",
        ),
        (
            "Die",
            json!(js),
            "plugin dice 0.1.0 failed: Error: no such setting … Redirecting call to abort() to mozalloc_abort",
        ),
        ("Die", json!(["one line"]), "plugin dice 0.1.0 failed: one line"),
        ("Die", json!([]), "unreachable"),
    ] {
        let answer = host.send("dice", "a", command, &payload);
        let reason = answer.body["detail"].as_str().unwrap_or_default();
        assert!(answer.status == 500 && reason.contains(said), "{command}: {answer:?}");
        assert!(!reason.contains("at main"), "{reason}");
    }
    host.stop();
}

/// A query is asked at a time, which is that of the host's clock.
#[test]
fn a_query_sees_the_clock_of_the_host() {
    let setting = Setting::new("clock = 'manual'\n[plugins.dice]\nfile = 'PLUGINS/dice.wasm'\nshards = 1\n");
    let host = setting.start();
    let begin = host.get("/v1/clock").body["now_ms"].as_u64().expect("a time");
    let now = || host.query("table", "Now", &Value::Null).body;
    assert_eq!(now(), begin);
    assert_eq!(host.post("/v1/clock", &json!({ "advance_ms": 86_400_000 }), &[]).status, 200);
    assert_eq!(now(), begin + 86_400_000);
    host.stop();
}

#[test]
fn what_is_not_granted_of_wasi_is_refused_by_name() {
    for import in ["wasi:http/outgoing-handler@0.2.0", "wasi:keyvalue/store@0.2.0", "wasi:clocks/wall-clock@0.3.0"] {
        let setting = Setting::new("[plugins.bad]\nfile = 'bad.wasm'\n");
        setting.write("bad.wasm", importing(import));
        let (code, _, said) = setting.told(&["check", "wasmill.toml"]);
        assert!(code == Some(1) && said.contains(import), "{import}: {said}");
    }
}

/// The contract is not to blame for what is missing in WASI.
#[test]
fn a_version_of_wasi_that_the_host_does_not_have_is_named() {
    let early = "and this host has WASI 0.2: build the plugin for WASI 0.2";
    let late = "imports what the WASI of this host does not have: ";
    for (file, said) in [
        (importing("wasi:clocks/wall-clock@0.3.0"), early),
        (importing_function("wasi:clocks/wall-clock@0.2.999", "moon-phase"), late),
        (importing_function("wasi:cli/weather@0.2.0", "forecast"), late),
    ] {
        let setting = Setting::new("[plugins.bad]\nfile = 'bad.wasm'\n");
        setting.write("bad.wasm", file);
        let (code, _, told) = setting.told(&["check", "wasmill.toml"]);
        assert!(code == Some(1) && told.contains(said) && !told.contains("of the contract"), "{said}: {told}");
    }
}
