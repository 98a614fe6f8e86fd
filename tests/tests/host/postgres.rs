//! A host on PostgreSQL: it says why it can't write while the database is away, and is ready again by itself.

use serde_json::json;
use std::path::PathBuf;
use wasmill_tests::host::Answer;
use wasmill_tests::postgres::{Postgres, sql};
use wasmill_tests::setting::Setting;

const URL: &str = "WASMILL_TEST_STORE";

fn setting() -> Setting {
    let setting = Setting::grocery();
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    setting.write("wasmill.toml", format!("{manifest}\n[store]\nurl = {{ env = \"{URL}\" }}\n"));
    setting
}

#[test]
fn a_host_whose_database_is_away_says_so_and_is_ready_again_by_itself() {
    let Some(server) = Postgres::own(&[]) else { return };
    let (setting, url) = (setting(), server.database());
    let host = setting.start_in(vec![(URL, PathBuf::from(&url))]);
    let item = json!({ "product_id": "3", "quantity": 2, "amount_cents": 60, "discount_cents": 0 });
    let order = json!({ "household_id": "7", "store_id": "1", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    let create = |id: usize| host.send("order", &id.to_string(), "CreateOrder", &order);
    assert_eq!(create(0).status, 200);
    host.drained();
    let is_told =
        |answer: &Answer| answer.status == 503 && answer.body.to_string().contains("the store can't be written");
    let mut taken = 1;
    for round in 0..2 {
        server.restart(|| {
            host.until_answered("/v1/ready", is_told);
            let refused = create(taken);
            assert!(refused.status >= 500, "{refused:?}");
            let reason = refused.body["detail"].as_str().unwrap_or_default();
            assert!(reason.contains("PostgreSQL at postgres://wasmill@127.0.0.1"), "{refused:?}");
            assert!(!refused.body.to_string().contains(xtask::postgres::PASSWORD));
        });
        host.until_answered("/v1/ready", |answer| answer.status == 200);
        assert_eq!(create(taken).status, 200, "round {round}");
        taken += 1;
        host.drained();
    }
    for (filter, what) in [("order.OrderCreated", "recorded"), ("order.OrderConfirmed", "confirmed")] {
        assert_eq!(host.events(filter).len(), taken, "each is {what} once");
    }
    let sales = host.query("sales", "store-sales", &json!({ "limit": 5 }));
    assert_eq!(sales.body, json!([["1", 60 * taken]]));
    let status = host.get("/v1/status").body.to_string();
    assert!(!status.contains(xtask::postgres::PASSWORD));
    host.stop();
    assert_eq!(sql(&url, "SELECT count(*) FROM wasmill.hosts"), ["0"], "the lease is given up");
}

#[test]
fn commands_about_a_store_in_postgresql_work_or_say_what_to_use() {
    let Some(server) = Postgres::shared() else { return };
    let (setting, url) = (setting(), server.database());
    let told = |args: &[&str], url: &str| {
        let mut command = std::process::Command::new(wasmill_tests::built::program("wasmill"));
        command.args(args).current_dir(setting.path("")).env(URL, url);
        let output = command.output().expect("run wasmill");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(!(out.clone() + &err).contains(xtask::postgres::PASSWORD), "{out}{err}");
        (output.status.code(), out, err)
    };
    let host = setting.start_in(vec![(URL, PathBuf::from(&url))]);
    let item = json!({ "product_id": "3", "quantity": 2, "amount_cents": 60, "discount_cents": 0 });
    let order = json!({ "household_id": "7", "store_id": "1", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    assert_eq!(host.send("order", "1", "CreateOrder", &order).status, 200);
    host.drained();
    let second = told(&["run", "wasmill.toml", "--data", "other", "--listen", "127.0.0.1:0"], &url);
    assert!(second.0 != Some(0) && second.2.contains("can't each have a development broker"), "{second:?}");
    let backup = host.post("/v1/store/backup", &json!({}), &[]);
    assert!(backup.status >= 400 && backup.body.to_string().contains("pg_dump"), "{backup:?}");
    assert_eq!(host.get("/v1/store/stats?count=true").status, 200);
    let exported = told(&["events", "export", "running.jsonl", "--manifest", "wasmill.toml"], &url);
    assert_eq!(exported.0, Some(0), "{exported:?}");
    host.stop();
    let checked = told(&["check", "wasmill.toml"], &url);
    assert_eq!(checked.0, Some(0), "{checked:?}");
    let exported = told(&["events", "export", "stopped.jsonl", "--manifest", "wasmill.toml"], &url);
    assert_eq!(exported.0, Some(0), "{exported:?}");
    let read = |name: &str| std::fs::read_to_string(setting.path(name)).expect("read the export");
    let events = |text: String| text.lines().filter(|line| line.contains("OrderC")).count();
    assert_eq!(events(read("running.jsonl")), events(read("stopped.jsonl")));
    let refused = told(&["events", "import", "stopped.jsonl", "wasmill.toml"], &url);
    assert!(refused.0 != Some(0) && refused.2.contains("is not empty"), "{refused:?}");
    let other = server.database();
    let imported = told(&["events", "import", "stopped.jsonl", "wasmill.toml"], &other);
    assert_eq!(imported.0, Some(0), "{imported:?}");
    let all = "SELECT string_agg(encode(id, 'hex'), ',' ORDER BY position) FROM wasmill.events";
    assert_eq!(sql(&url, all), sql(&other, all));
    for place in ["wasmill.toml", "data"] {
        let verified = told(&["store", "verify", place], &url);
        let is_there = place == "wasmill.toml";
        assert_eq!(verified.0, Some(if is_there { 0 } else { 1 }), "{place}: {verified:?}");
        assert!(!is_there || verified.1.contains("sound"), "{verified:?}");
    }
    let told_url = told(&["store", "verify", &other.replace(xtask::postgres::PASSWORD, "x")], &url);
    assert!(told_url.0 == Some(2) && told_url.2.contains("PGPASSWORD"), "{told_url:?}");
    let measured = told(&["store", "stats", "--count", "--manifest", "wasmill.toml"], &url);
    assert!(measured.0 == Some(0) && measured.1.contains("order.OrderCreated"), "{measured:?}");
}
