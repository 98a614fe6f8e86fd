//! Snapshots shorten the rebuilding of a live aggregate and never change its result.
//!
//! The events of the plugin `misbehaving` carry its count, so a test that changes a snapshot sees whether it was used.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs;
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::module::rebuilt;
use wasmill_tests::setting::Setting;

const MANIFEST: &str = "[plugins.counter]\nfile = \"counter.wasm\"\nshards = 1\nsnapshot_every = 100\n";
/// Events of the aggregate before each test: ten snapshots, and some events after the last.
const HISTORY: u64 = 1_005;

fn with_history() -> (Setting, TestHost) {
    let setting = Setting::new(MANIFEST);
    setting.write("counter.wasm", fs::read(built::plugin("misbehaving")).expect("read the plugin"));
    let host = setting.start();
    for expected in 1..=HISTORY {
        assert_eq!(send(&host)["version"], expected);
    }
    (setting, host)
}

fn send(host: &TestHost) -> Value {
    let answer = host.send("misbehaving", "a", "Count", &json!({ "then": "Nothing" }));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Has it count once more, and returns where it is by its own account.
fn count(host: &TestHost) -> u64 {
    send(host);
    let newest = host.events("misbehaving.Counted").pop().expect("it has counted");
    newest["payload"]["count"].as_u64().unwrap_or_else(|| panic!("{newest}"))
}

fn snapshots(setting: &Setting) -> rusqlite::Connection {
    rusqlite::Connection::open(setting.path("data/snapshots.sqlite")).expect("there are snapshots")
}

/// Between two runs of the host, with the digest that a host would have written.
fn falsify(setting: &Setting, state: &str) {
    let snapshots = snapshots(setting);
    let whole = "SELECT aggregate_type, aggregate_id, event, code, version FROM snapshots";
    let digest = snapshots.query_row(whole, [], |row| {
        let [aggregate_type, aggregate_id, code] = [row.get(0)?, row.get(1)?, row.get(3)?].map(String::into_bytes);
        let (event, version): (Vec<u8>, u64) = (row.get(2)?, row.get(4)?);
        let mut digest = Sha256::new();
        for part in [aggregate_type, aggregate_id, event, code, state.into()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.update(version.to_le_bytes());
        Ok(digest.finalize().to_vec())
    });
    let values = rusqlite::params![state.as_bytes(), digest.expect("there is a snapshot")];
    let changed = snapshots.execute("UPDATE snapshots SET state = ?1, digest = ?2", values);
    assert_eq!(changed.expect("it is changed"), 1);
}

#[test]
fn a_snapshot_is_taken_in_time_restored_and_the_rest_replayed() {
    let (setting, host) = with_history();
    host.stop();
    let kept = snapshots(&setting)
        .query_row("SELECT version, state FROM snapshots", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map(|(version, state): (u64, Vec<u8>)| (version, serde_json::from_slice::<Value>(&state).expect("JSON")));
    assert_eq!(kept.expect("one snapshot"), (1_000, json!({ "count": 1_000 })));
    falsify(&setting, r#"{"count":70000}"#);
    let host = setting.start();
    assert_eq!(count(&host), 70_000 + 5 + 1, "what the snapshot says, and the events after it");
    host.stop();
}

#[test]
fn a_snapshot_that_does_not_decode_is_replayed() {
    let (setting, host) = with_history();
    host.stop();
    falsify(&setting, "{\"count\":");
    let host = setting.start();
    assert_eq!(count(&host), HISTORY + 1);
    host.until_logged("why it is replayed", |line| line.contains("does not restore its snapshot"));
    host.stop();
}

#[test]
fn new_code_does_not_use_the_old_ones_snapshots() {
    let (setting, host) = with_history();
    host.stop();
    falsify(&setting, r#"{"count":70000}"#);
    setting.write("counter.wasm", rebuilt(fs::read(built::plugin("misbehaving")).expect("read the plugin")));
    let host = setting.start();
    assert_eq!(count(&host), HISTORY + 1);
    host.stop();
}

#[test]
fn a_damaged_file_of_snapshots_is_made_anew() {
    let (setting, host) = with_history();
    host.stop();
    fs::write(setting.path("data/snapshots.sqlite"), "no database").expect("damage it");
    let host = setting.start();
    assert_eq!(count(&host), HISTORY + 1);
    host.stop();
    let kept = snapshots(&setting).query_row("SELECT version FROM snapshots", [], |row| row.get::<_, u64>(0));
    assert_eq!(kept.expect("a new snapshot"), HISTORY, "what took so long to rebuild is kept at once");
}

/// Rebuilt anew each time, by a guest of its own, without a snapshot to begin with.
#[test]
fn the_same_history_makes_the_same_state_however_often() {
    const PURCHASES: u64 = 200;
    let setting = Setting::new("[plugins.households]\nfile = \"households.wasm\"\nsnapshot_every = 50\n");
    setting.write("households.wasm", fs::read(built::plugin("households")).expect("read the plugin"));
    let host = setting.start();
    let record = |host: &TestHost, order: u64, amount_cents: i64| {
        let purchase = json!({ "order_id": order.to_string(), "amount_cents": amount_cents });
        host.send("household", "7", "RecordPurchase", &purchase).status
    };
    // Some are reported twice.
    for order in (0..PURCHASES).chain((0..PURCHASES).step_by(7)) {
        assert_eq!(record(&host, order * 37 % PURCHASES, 1_000 + order as i64), 200);
    }
    host.stop();
    let states: Vec<(u64, Vec<u8>)> = (0..5)
        .map(|_| {
            for beside in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(setting.path(&format!("data/snapshots.sqlite{beside}")));
            }
            let host = setting.start();
            assert_eq!(record(&host, PURCHASES, i64::MAX), 422, "it has to be there to refuse this");
            host.stop();
            let sql = "SELECT version, state FROM snapshots";
            snapshots(&setting).query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("one snapshot")
        })
        .collect();
    let mut orders: Vec<String> = (0..PURCHASES).map(|order| order.to_string()).collect();
    orders.sort();
    let total_cents: u64 = (0..PURCHASES).map(|order| 1_000 + order).sum();
    let expected = json!({ "orders": orders, "total_cents": total_cents, "loyal": true });
    assert_eq!((states[0].0, serde_json::from_slice::<Value>(&states[0].1).expect("JSON")), (PURCHASES + 1, expected));
    assert!(states.iter().all(|state| *state == states[0]), "byte for byte");
}
