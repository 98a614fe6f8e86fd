//! Orderly stops: a host that is told to stop finishes its work, and the next one has all of it.

use serde_json::{Value, json};
use wasmill_tests::setting::Setting;

fn order(store: &str) -> Value {
    let item = json!({ "product_id": "3", "quantity": 2, "amount_cents": 60_000, "discount_cents": 5 });
    json!({ "household_id": "7", "store_id": store, "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
}

/// Commands that are given the data folder find the host by its file.
#[test]
fn a_host_whose_file_is_removed_or_changed_writes_it_again() {
    let setting = Setting::grocery();
    let host = setting.start();
    let file = setting.path("data/host.json");
    let written = std::fs::read(&file).expect("the host wrote it");
    for change in [None, Some("{"), Some("{}")] {
        match change {
            None => std::fs::remove_file(&file).expect("remove it"),
            Some(content) => std::fs::write(&file, content).expect("write it"),
        }
        host.until("the file is there again", |_| std::fs::read(&file).is_ok_and(|found| found == written));
    }
    host.until_logged("what was done", |line| line.contains("host.json was removed or changed"));
    host.stop();
    assert!(!file.exists());
}

/// Whatever lies in the place of a folder or a file of the host is named, with what to do, and nothing waits for it.
#[test]
fn what_lies_in_the_place_of_a_folder_or_a_lock_is_named() {
    for (name, words) in [("compiled", "remove what is there"), ("events.lock", "is no regular file: remove it")] {
        let setting = Setting::grocery();
        let path = setting.path("data").join(name);
        std::fs::create_dir_all(setting.path("data")).expect("make the data folder");
        match name {
            "compiled" => std::fs::write(&path, "no folder").expect("write it"),
            _ => wasmill_tests::host::make_pipe(&path),
        }
        let refused = setting.start_refused();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(&format!("data/{name}")) && said.contains(words), "{name}: {said}");
    }
}

#[test]
fn a_stopped_host_leaves_nothing_behind_and_the_next_one_goes_on() {
    let setting = Setting::grocery();
    let host = setting.start();
    assert_eq!(host.send("order", "1", "CreateOrder", &order("9")).status, 200);
    // No waiting: whatever has not happened when the host is told to stop, happens before it ends or after it starts.
    host.stop();
    assert!(!setting.path("data/host.json").exists(), "a host that ended serves nowhere");
    assert!(!setting.path("data/dev-broker.json").exists(), "the development broker ends with its host");

    let host = setting.start();
    assert_eq!(host.send("order", "2", "CreateOrder", &order("9")).status, 200);
    host.drained();
    let names: Vec<_> = host.events("**").iter().map(|event| event["name"].clone()).collect();
    let count = |name: &str| names.iter().filter(|found| *found == name).count();
    assert_eq!((count("OrderCreated"), count("OrderConfirmed")), (2, 2));
    assert_eq!((count("PurchaseRecorded"), count("HouseholdBecameLoyal")), (2, 1));
    assert_eq!(host.query("sales", "store-sales", &json!({ "limit": 5 })).body, json!([["9", 120_000]]));
    assert_eq!(host.send("order", "1", "CreateOrder", &order("9")).status, 422, "the order still exists");
    host.stop();
}
