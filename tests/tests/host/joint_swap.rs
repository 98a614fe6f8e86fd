//! Plugins that are swapped together: readers switch before the plugin that records, so no old reader meets an event of the new
//! writer. If one of them can't be loaded, none is swapped.

use serde_json::{Value, json};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use wasmill_tests::built;
use wasmill_tests::host::{Answer, TestHost};
use wasmill_tests::setting::Setting;

const MANIFEST: &str = "[plugins.directory]\nfile = \"directory.wasm\"\n[plugins.members]\nfile = \"members.wasm\"\n\
    [subscriptions.directory]\nbatch_max = 3\n";

const SENDERS: usize = 4;

fn put(setting: &Setting, file: &str, plugin: &str) {
    setting.write(file, fs::read(built::plugin(plugin)).expect("read a plugin"));
}

/// A host with the first version of both plugins.
fn first() -> (Setting, TestHost) {
    let setting = Setting::new(MANIFEST);
    put(&setting, "members.wasm", "members");
    put(&setting, "directory.wasm", "directory-1");
    let host = setting.start();
    (setting, host)
}

fn together(host: &TestHost) -> Answer {
    host.post("/v1/plugins/reload?timeout_ms=60000", &json!({ "plugins": ["members", "directory"] }), &[])
}

/// Registers a member with whichever version of the plugin serves.
fn register(host: &TestHost, id: &str) {
    let old = host.send("member", id, "Register", &json!({ "name": "Ada Lovelace" }));
    if old.status == 400 {
        let name = json!({ "name": { "first": "Ada", "last": "Lovelace" } });
        let new = host.send("member", id, "Register", &name);
        assert_eq!(new.status, 200, "{old:?}, {new:?}");
    } else {
        assert_eq!(old.status, 200, "{old:?}");
    }
}

fn loads(status: &Value) -> [&Value; 2] {
    [0, 1].map(|plugin| &status["plugins"][plugin]["loads"])
}

#[test]
fn a_new_shape_of_events_and_its_readers_are_swapped_under_load_without_a_failure() {
    let (setting, host) = first();
    let (is_over, registered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (host, is_over, registered) = (&host, &is_over, &registered);
            scope.spawn(move || {
                for number in 0.. {
                    register(host, &format!("{sender}-{number}"));
                    registered.fetch_add(1, Ordering::Relaxed);
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let go_on = |more: usize| {
            let enough = registered.load(Ordering::Relaxed) + more;
            host.until("the load goes on", |_| registered.load(Ordering::Relaxed) >= enough);
        };
        go_on(200);
        put(&setting, "members.wasm", "members-3");
        put(&setting, "directory.wasm", "directory");
        let swapped = together(&host);
        let is_swapped = matches!(swapped.status, 200 | 202);
        if is_swapped {
            go_on(200);
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(is_swapped, "{swapped:?}");
        let plugins: Vec<&Value> = swapped.body["plugins"].as_array().expect("a list").iter().collect();
        assert_eq!(plugins.iter().map(|one| &one["plugin"]).collect::<Vec<_>>(), ["directory", "members"]);
    });
    host.until("the new code of the projection answers", |status| {
        let projection = &status["projections"][0];
        projection["answers"] == status["plugins"][0]["digest"] && projection["building"].is_null()
    });
    host.drained();
    let status = host.status();
    assert_eq!(status["dead_letters"]["total"], 0, "{status:#}");
    assert_eq!(loads(&status), [2, 2]);
    for part in [&status["subscriptions"][0], &status["projections"][0]] {
        assert_eq!((&part["state"], &part["error"]), (&json!("following"), &Value::Null), "{status:#}");
    }
    let names = host.query("directory", "Names", &Value::Null);
    let names = names.body.as_array().expect("a list");
    assert_eq!(names.len(), registered.load(Ordering::Relaxed));
    assert!(names.iter().all(|name| name == "Ada Lovelace"), "each in the newest shape");
    let shapes: Vec<bool> =
        host.events("member.Registered").iter().map(|event| event["payload"]["name"].is_object()).collect();
    assert!(shapes.contains(&true) && shapes.contains(&false), "both writers were at work");
    assert!(!host.log().contains("dead-lettered"), "no event had to be dead-lettered");
    host.stop();
}

#[test]
fn if_one_plugin_cannot_be_loaded_none_is_swapped_until_it_can() {
    let (setting, host) = first();
    register(&host, "a");
    put(&setting, "members.wasm", "members-3");
    setting.write("directory.wasm", "no plugin");
    let refused = together(&host);
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.body.to_string().contains("plugin directory is not WebAssembly"), "{refused:?}");
    let error =
        |status: &Value, plugin: usize| status["plugins"][plugin]["error"].as_str().unwrap_or_default().to_owned();
    let status = host.status();
    assert_eq!(loads(&status), [1, 1]);
    assert!(error(&status, 0).contains("is not WebAssembly"), "{status:#}");
    assert!(error(&status, 1).contains("waits for plugin directory"), "{status:#}");
    register(&host, "b");
    // Once the file that was at fault is replaced, both are swapped, although only one has changed since.
    put(&setting, "directory.wasm", "directory");
    host.until("both are swapped", |status| {
        loads(status) == [2, 2]
            && status["plugins"].as_array().expect("a list").iter().all(|one| one["error"].is_null())
    });
    register(&host, "c");
    host.drained();
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    let unknown = host.post("/v1/plugins/reload", &json!({ "plugins": ["members", "nobody"] }), &[]);
    assert!(unknown.status == 404 && unknown.body.to_string().contains("nobody"), "{unknown:?}");
    let no_body = host.post("/v1/plugins/reload", &Value::Null, &[]);
    assert!(no_body.status == 400 && no_body.body.to_string().contains("the body must be"), "{no_body:?}");
    host.stop();
}
