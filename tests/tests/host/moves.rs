//! A host resumes on a store that was moved, and no host starts on the one from which it was moved.

use serde_json::json;
use std::path::PathBuf;
use std::process::Command;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::postgres::Postgres;
use wasmill_tests::setting::Setting;
use xtask::postgres::PASSWORD;

const URL: &str = "WASMILL_TEST_STORE";

struct Place {
    setting: Setting,
    url: String,
}

impl Place {
    /// Runs `wasmill` in the folder to its end. Returns its exit code, its output and its errors.
    fn told(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(built::program("wasmill"));
        command.args(args).current_dir(self.setting.path("")).env(URL, &self.url).env("PGPASSWORD", PASSWORD);
        let output = command.output().expect("run wasmill");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(!(out.clone() + &err).contains(PASSWORD), "{out}{err}");
        (output.status.code(), out, err)
    }

    fn start(&self) -> TestHost {
        self.setting.start_in(vec![(URL, PathBuf::from(&self.url))])
    }
}

fn create(host: &TestHost, orders: std::ops::Range<usize>) {
    let item = json!({ "product_id": "3", "quantity": 2, "amount_cents": 60, "discount_cents": 0 });
    let order = json!({ "household_id": "7", "store_id": "1", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    for id in orders {
        assert_eq!(host.send("order", &id.to_string(), "CreateOrder", &order).status, 200);
    }
    host.drained();
}

/// Each order was recorded and confirmed once, and the read model has all of them.
fn has(host: &TestHost, orders: usize) {
    for filter in ["order.OrderCreated", "order.OrderConfirmed"] {
        assert_eq!(host.events(filter).len(), orders, "{filter}");
    }
    let sales = host.query("sales", "store-sales", &json!({ "limit": 5 }));
    assert_eq!(sales.body, json!([["1", 60 * orders]]));
}

#[test]
fn a_host_goes_on_in_postgresql_where_it_was_in_a_file_and_back() {
    let Some(server) = Postgres::shared() else { return };
    let place = Place { setting: Setting::grocery(), url: server.database() };
    let setting = &place.setting;
    let embedded = std::fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    let in_postgres = format!("{embedded}\n[store]\nurl = {{ env = \"{URL}\" }}\n");
    let url = place.url.replace(&format!(":{PASSWORD}@"), "@");
    let host = place.start();
    create(&host, 0..5);
    let identity = host.get("/v1/status").body["store"]["identity"].clone();
    let running = place.told(&["store", "migrate", "--from", "data", "--to", &url]);
    assert!(running.0 == Some(1) && running.2.contains("in use by another host"), "{running:?}");
    host.stop();

    let seen = place.told(&["store", "migrate", "--from", "data", "--to", &place.url.replace(PASSWORD, "x")]);
    assert!(seen.0 == Some(2) && seen.2.contains("list of processes"), "{seen:?}");
    let moved = place.told(&["store", "migrate", "--from", "data", "--to", &url]);
    assert!(moved.0 == Some(0) && moved.1.contains("both were verified and compared"), "{moved:?}");
    let again = place.told(&["store", "migrate", "--from", "data", "--to", &url, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&again.1).expect("it is JSON");
    assert_eq!((again.0, &report["rows"], &report["to"]), (Some(0), &json!(0), &json!(url)), "{again:?}");
    let refused = place.told(&["run", "wasmill.toml", "--data", "data", "--listen", "127.0.0.1:0"]);
    assert!(refused.0 != Some(0) && refused.2.contains("was moved to") && refused.2.contains(&url), "{refused:?}");
    let checked = place.told(&["check", "wasmill.toml"]);
    assert!((checked.1.clone() + &checked.2).contains("was moved to"), "{checked:?}");
    let orphans = place.told(&["store", "orphans", "wasmill.toml", "--forget", "sink/none"]);
    assert!(orphans.0 == Some(1) && orphans.2.contains("was moved to"), "{orphans:?}");
    let restored = place.told(&["store", "restore", "data/events.sqlite", "--data", "data"]);
    assert!(restored.0 == Some(1) && restored.2.contains("restore that one"), "{restored:?}");
    for store in [&*url, "data"] {
        let verified = place.told(&["store", "verify", store]);
        assert!(verified.0 == Some(0) && verified.1.contains("sound"), "{verified:?}");
    }

    setting.write("wasmill.toml", &in_postgres);
    let host = place.start();
    has(&host, 5);
    assert_eq!(host.get("/v1/status").body["store"]["identity"], identity, "it is the same store");
    create(&host, 5..9);
    has(&host, 9);
    let running = place.told(&["store", "migrate", "--from", "wasmill.toml", "--to", "data"]);
    assert!(running.0 == Some(1) && running.2.contains("in use by another host"), "{running:?}");
    let verified = place.told(&["store", "verify", "wasmill.toml"]);
    assert!(verified.0 == Some(0) && verified.1.contains("sound"), "also while a host is there: {verified:?}");
    host.stop();

    let back = place.told(&["store", "migrate", "--from", "wasmill.toml", "--to", "data"]);
    assert_eq!(back.0, Some(0), "{back:?}");
    let refused = place.told(&["run", "wasmill.toml", "--data", "data", "--listen", "127.0.0.1:0"]);
    assert!(
        refused.0 != Some(0) && refused.2.contains("was moved to") && refused.2.contains("events.sqlite"),
        "{refused:?}"
    );
    setting.write("wasmill.toml", &embedded);
    let host = place.start();
    has(&host, 9);
    create(&host, 9..12);
    has(&host, 12);
    host.stop();

    // Only with a word of confirmation.
    let unsure = place.told(&["store", "reopen", &url]);
    assert!(unsure.0 == Some(1) && unsure.2.contains("add --yes"), "{unsure:?}");
    let reopened = place.told(&["store", "reopen", &url, "--yes"]);
    assert!(reopened.0 == Some(0) && reopened.1.contains("events.sqlite"), "{reopened:?}");
}
