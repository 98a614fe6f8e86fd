//! New code reads the events that old code recorded, after a hot reload or a restart. Old code refuses events that new
//! code recorded.

use serde_json::{Value, json};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

const MANIFEST: &str = "[plugins.members]\nfile = \"members.wasm\"\n";

/// Puts the code of a test plugin in the file of the manifest's.
fn write(setting: &Setting, plugin: &str) {
    setting.write("members.wasm", fs::read(built::plugin(plugin)).expect("read the plugin"));
}

/// Swaps the code while the host runs.
fn swap(host: &TestHost, setting: &Setting, plugin: &str) {
    let digest = |status: &Value| {
        let plugins = status["plugins"].as_array().expect("a list");
        plugins.iter().find(|plugin| plugin["name"] == "members").expect("it is loaded")["digest"].clone()
    };
    let old = digest(&host.status());
    write(setting, plugin);
    // Somebody insists: older code does not read what newer code has recorded.
    let reloaded = host.post("/v1/plugins/members/reload?force=true", &Value::Null, &[]);
    assert!(matches!(reloaded.status, 200 | 202), "{reloaded:?}");
    host.until("the other code serves", |status| digest(status) != old);
}

fn register(host: &TestHost, id: &str, member: &Value) {
    let answer = host.send("member", id, "Register", member);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Registers a member in each shape. The code of the first must serve, and that of the third serves then.
fn register_in_three_shapes(host: &TestHost, setting: &Setting) {
    register(host, "ada", &json!({ "name": "Ada Lovelace" }));
    swap(host, setting, "members-2");
    register(host, "grace", &json!({ "first_name": "Grace", "last_name": "Hopper" }));
    swap(host, setting, "members-3");
    register(host, "alan", &json!({ "name": { "first": "Alan", "last": "Turing" } }));
}

/// How a member is greeted, from what the code knows of its history.
fn greet(host: &TestHost, id: &str) -> String {
    let answer = host.send("member", id, "Greet", &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    let greeted = host.events("member.Greeted").pop().expect("a greeting is recorded");
    greeted["payload"]["words"].as_str().expect("words").to_owned()
}

#[test]
fn new_code_reads_an_old_history_and_old_code_refuses_a_new_one() {
    let setting = Setting::new(MANIFEST);
    write(&setting, "members");
    let host = setting.start();
    register(&host, "ada", &json!({ "name": "Ada Lovelace" }));
    assert_eq!(greet(&host, "ada"), "Dear Ada Lovelace");

    swap(&host, &setting, "members-2");
    assert_eq!(greet(&host, "ada"), "Dear Ada of the Lovelaces");
    register(&host, "grace", &json!({ "first_name": "Grace", "last_name": "Hopper" }));
    let registered = host.events("member.Registered");
    assert_eq!(registered[0]["payload"], json!({ "name": "Ada Lovelace" }), "what is recorded never changes");
    let expected = json!({ "@schema": 2, "first_name": "Grace", "last_name": "Hopper" });
    assert_eq!(registered[1]["payload"], expected);

    swap(&host, &setting, "members");
    assert_eq!(greet(&host, "ada"), "Dear Ada Lovelace");
    let refused = host.send("member", "grace", "Greet", &Value::Null);
    let reason = refused.body["detail"].as_str().expect("a reason");
    assert!(reason.contains("Registered") && reason.contains("schema version 2"), "{reason}");

    host.stop();
    write(&setting, "members-2");
    let host = setting.start();
    assert_eq!(greet(&host, "grace"), "Dear Grace of the Hoppers");
    assert_eq!(greet(&host, "ada"), "Dear Ada of the Lovelaces");
    host.stop();
}

/// A manifest with readers that know the third shape, and read all events of members.
fn with_readers() -> String {
    let file = |plugin: &str| format!("[plugins.{plugin}]\nfile = {:?}\n", built::plugin(plugin));
    let topics = "[kafka]\nbrokers = \"embedded\"\n[kafka.topics.members]\npartitions = 1\n[kafka.topics.echoes]\npartitions = 1\n";
    format!("{MANIFEST}{}{}{topics}", file("directory"), file("welcome"))
}

/// The sink that publishes members in the newest shape.
const SINK: &str = "[sinks.members]\nevents = [\"member.Registered\"]\ntopic = \"members\"\nshape = \"newest\"\n";

fn published(host: &TestHost, topic: &str, count: usize) -> Vec<String> {
    let records = topic::read(&host.brokers(), topic, count).into_iter();
    records.map(|record| String::from_utf8(record.value.expect("a value")).expect("text")).collect()
}

/// Returns the members' names as every reader has them.
fn read(host: &TestHost, setting: &Setting) -> Vec<(&'static str, Vec<String>)> {
    let texts = |values: &[Value]| values.iter().map(|value| value.as_str().expect("a text").to_owned()).collect();
    let payloads = |events: Vec<Value>, field: &str| -> Vec<Value> {
        events.iter().map(|event| event["payload"][field].clone()).collect()
    };
    let projected = host.query("directory", "Names", &Value::Null).body;
    let newest = |text: String| -> Vec<String> {
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
        events.map(|event| event["payload"]["name"].to_string()).collect()
    };
    let shown = setting.wasmill(&["events", "--type", "member.Registered", "--json", "--data", "data"]);
    vec![
        ("saga", texts(&payloads(host.events("welcome.Begun"), "name"))),
        ("projection", texts(projected.as_array().expect("a list"))),
        ("events", newest(String::from_utf8(shown.stdout).expect("text"))),
    ]
}

#[test]
fn every_reader_sees_three_versions_in_the_newest_shape() {
    let setting = Setting::new(&with_readers());
    write(&setting, "members");
    let host = setting.start();
    register_in_three_shapes(&host, &setting);
    host.drained();
    let echoes = published(&host, "echoes", 3);
    assert_eq!(echoes, ["Lovelace, Ada", "Hopper, Grace", "Turing, Alan"].map(|name| format!("\"{name}\"")));
    // A sink publishes what the code makes of an event at that time.
    host.stop();
    setting.manifest(&(with_readers() + SINK));
    let host = setting.start();
    host.drained();
    let mut found = read(&host, &setting);
    found.push(("sink", published(&host, "members", 3)));
    let full = ["Ada Lovelace", "Grace Hopper", "Alan Turing"];
    let name = |full: &str| full.split_once(' ').map(|(first, last)| json!({ "first": first, "last": last })).unwrap();
    for (reader, found) in &found {
        let expected: Vec<String> = match *reader {
            "events" => full.iter().map(|full| name(full).to_string()).collect(),
            "sink" => full.iter().map(|full| json!({ "name": name(full) }).to_string()).collect(),
            _ => full.map(str::to_owned).to_vec(),
        };
        assert_eq!(*found, expected, "{reader}");
    }
    // What is recorded never changes, and can be shown.
    let recorded = host.events("member.Registered");
    assert_eq!(recorded[0]["payload"], json!({ "name": "Ada Lovelace" }));
    let shown = setting.wasmill(&["events", "--type", "member.Registered", "--recorded", "--data", "data"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(r#"{"name":"Ada Lovelace"}"#), "{shown:?}");
    let state = host.get("/v1/streams/member/ada/state").body;
    assert_eq!(state["state"]["name"], name("Ada Lovelace"));

    // A read model that is rebuilt has the same.
    assert_eq!(host.post("/v1/projections/directory/rebuild", &Value::Null, &[]).status, 200);
    host.drained();
    host.until("the rebuilt one answers", |status| status["projections"][0]["building"].is_null());
    found.pop();
    assert_eq!(read(&host, &setting), found);
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    host.stop();
}

#[test]
fn new_events_beside_readers_that_do_not_know_them_are_skipped_and_counted() {
    let setting = Setting::new(&with_readers());
    write(&setting, "members-2");
    let host = setting.start();
    register(&host, "ada", &json!({ "first_name": "Ada", "last_name": "Lovelace" }));
    let over = AtomicBool::new(false);
    let greeted = thread::scope(|scope| {
        let greeting = scope.spawn(|| {
            let mut greeted = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(host.send("member", "ada", "Greet", &Value::Null).status, 200);
                greeted += 1;
            }
            greeted
        });
        swap(&host, &setting, "members-3");
        for _ in 0..50 {
            assert_eq!(host.send("member", "ada", "Leave", &Value::Null).status, 200);
        }
        over.store(true, Ordering::Relaxed);
        greeting.join().expect("each greeting is accepted")
    });
    host.drained();
    let status = host.status();
    assert_eq!(status["dead_letters"]["total"], 0, "{status:#}");
    for part in ["subscriptions", "projections"] {
        for part in status[part].as_array().expect("a list") {
            assert_eq!((&part["state"], &part["error"]), (&json!("following"), &Value::Null), "{part:#}");
        }
    }
    let unknown = |plugin: &str| {
        let plugins = status["plugins"].as_array().expect("a list");
        plugins.iter().find(|found| found["name"] == plugin).expect("it is loaded")["unknown_events"].clone()
    };
    // The subscriber and the projection both skip what was greeted and who left.
    assert_eq!(unknown("directory"), 2 * (greeted + 50));
    assert_eq!(unknown("welcome"), 0, "it subscribes to what it knows");
    let metrics = host.text_until("/metrics", |text| text.contains("unknown_events"));
    let counted = format!("wasmill_plugin_unknown_events_total{{plugin=\"directory\"}} {}", 2 * (greeted + 50));
    assert!(metrics.contains(&counted), "{metrics}");
    host.stop();
}

/// A manifest with readers that know the third shape alone, and have the host upcast what they get.
fn with_readers_of_the_newest() -> String {
    let file = |plugin: &str| format!("[plugins.{plugin}]\nfile = {:?}\n", built::plugin(plugin));
    let topics = "[kafka]\nbrokers = \"embedded\"\n[kafka.topics.echoes]\npartitions = 1\n";
    format!("{MANIFEST}{}{}{topics}", file("roster"), file("greeter"))
}

#[test]
fn a_reader_that_asks_gets_events_as_the_loaded_code_of_their_aggregate_upcasts_them() {
    let setting = Setting::new(MANIFEST);
    write(&setting, "members");
    let host = setting.start();
    register_in_three_shapes(&host, &setting);
    host.stop();
    setting.manifest(&with_readers_of_the_newest());
    let host = setting.start();
    host.drained();
    assert_eq!(
        published(&host, "echoes", 3),
        ["Lovelace, Ada", "Hopper, Grace", "Turing, Alan"].map(|name| format!("\"{name}\""))
    );
    let full = json!(["Ada Lovelace", "Grace Hopper", "Alan Turing"]);
    let begun = |host: &TestHost| -> Value {
        host.events("greeting.Begun").iter().map(|event| event["payload"]["name"].clone()).collect()
    };
    let names = |host: &TestHost| host.query("roster", "Names", &Value::Null).body;
    assert_eq!((begun(&host), names(&host)), (full.clone(), full.clone()));
    assert_eq!(host.status()["dead_letters"]["total"], 0);

    // What older code makes of the events, or can't, stops a rebuild, and the old read model answers.
    let rebuild = |host: &TestHost| host.post("/v1/projections/roster/rebuild", &Value::Null, &[]).status;
    swap(&host, &setting, "members-2");
    assert_eq!(rebuild(&host), 200);
    let stopped = host.until("the rebuild stops", |status| !status["projections"][0]["error"].is_null());
    let error = stopped["projections"][0]["error"].as_str().expect("a reason");
    assert!(error.contains("Registered") && error.contains("missing field `name`"), "{error}");
    assert_eq!(names(&host), full);
    swap(&host, &setting, "members-3");
    assert_eq!(rebuild(&host), 200);
    let is_up = |status: &Value| {
        let projection = &status["projections"][0];
        projection["building"].is_null() && projection["error"].is_null()
    };
    host.until("the rebuilt one answers", is_up);
    assert_eq!(names(&host), full);

    // A projection that has stopped because of older code goes on once newer code upcasts the event.
    swap(&host, &setting, "members");
    register(&host, "kurt", &json!({ "name": "Kurt Gödel" }));
    host.until("it stops", |status| !status["projections"][0]["error"].is_null());
    swap(&host, &setting, "members-3");
    host.until("it goes on", is_up);
    host.until_answered("/v1/status", |_| names(&host).as_array().is_some_and(|names| names.len() == 4));
    host.stop();
}

/// The code traps at one event. That event alone fails, whatever its neighbours are.
#[test]
fn an_event_at_whose_upcast_code_traps_fails_alone() {
    let setting = Setting::new(MANIFEST);
    write(&setting, "members");
    let host = setting.start();
    for (id, name) in [("ada", "Ada Lovelace"), ("bad", "Panic Now"), ("alan", "Alan Turing")] {
        register(&host, id, &json!({ "name": name }));
    }
    host.stop();
    write(&setting, "members-3");
    // Without the code before, with which it would be compared and refused.
    fs::remove_dir_all(setting.path("data/plugins")).expect("remove the kept code");
    setting.manifest(&(with_readers_of_the_newest() + "[kafka.topics.members]\npartitions = 1\n" + SINK));
    let host = setting.start();
    let stopped = host.until("the projection stops", |status| status["projections"][0]["state"] == "stopped");
    let error = stopped["projections"][0]["error"].as_str().expect("a reason");
    assert!(error.contains("it can't be upcast: ") && error.contains("told to panic"), "{error}");
    // One of the subscriber, one of the saga, one of the sink.
    host.until("what fails is dead-lettered", |status| status["dead_letters"]["total"] == 3);
    let letters = host.get("/v1/dead-letters").body;
    for letter in letters["letters"].as_array().expect("a list") {
        assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains("told to panic")), "{letter:#}");
    }
    assert_eq!(published(&host, "echoes", 2), ["\"Lovelace, Ada\"", "\"Turing, Alan\""]);
    assert_eq!(host.events("greeting.Begun").len(), 2);
    assert_eq!(topic::read(&host.brokers(), "members", 2).len(), 2);
    let skipped = host.post("/v1/projections/roster/skip?position=2", &Value::Null, &[]);
    assert_eq!(skipped.status, 200, "{skipped:?}");
    host.until("it goes on", |status| status["projections"][0]["error"].is_null());
    host.drained();
    assert_eq!(host.query("roster", "Names", &Value::Null).body, json!(["Ada Lovelace", "Alan Turing"]));
    host.stop();
}
