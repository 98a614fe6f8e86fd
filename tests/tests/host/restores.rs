//! `wasmill store restore`: a backup takes the place of a store, which is kept, and what does not fit to it is said.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Output;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const SALES: &str =
    "[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n[plugins.sales]\nfile = \"PLUGINS/sales.wasm\"\n";

fn create(host: &TestHost, id: &str) {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    assert_eq!(host.send("order", id, "CreateOrder", &order).status, 200);
}

fn placed(host: &TestHost) -> Value {
    host.drained();
    host.query("sales", "totals", &Value::Null).body["placed"].clone()
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn restore(setting: &Setting, args: &[&str]) -> Output {
    setting.wasmill(&[&["store", "restore"], args, &["--json"]].concat())
}

/// The content of the store's files in a folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let names = ["events.sqlite", "events.sqlite-wal"];
    let read = |name: &&str| Some(((*name).to_owned(), fs::read(folder.join(name)).ok()?));
    names.iter().filter_map(read).collect()
}

#[test]
fn a_backup_takes_the_place_of_the_store_which_is_kept() {
    let setting = Setting::new(SALES);
    let host = setting.start();
    (0..10).for_each(|number| create(&host, &number.to_string()));
    assert_eq!(placed(&host), 10);
    let backup = setting.wasmill(&["store", "backup", "ten.sqlite", "--data", "data", "--json"]);
    let backup = said(&backup)["file"].as_str().expect("a path").to_owned();
    (10..15).for_each(|number| create(&host, &number.to_string()));
    assert_eq!(placed(&host), 15);

    let refused = restore(&setting, &[&backup]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        said(&refused)["error"].as_str().is_some_and(|error| error.contains("in use by another host")),
        "{refused:?}"
    );
    let checked = said(&restore(&setting, &[&backup, "--dry-run"]));
    let findings = checked["findings"].to_string();
    assert!(findings.contains("a host has the store open") && findings.contains("projection sales"), "{checked}");
    // What a kill leaves has a log beside the file.
    host.terminate();
    host.ended();
    let before = files(&setting.path("data"));

    let checked = said(&restore(&setting, &[&backup, "--dry-run"]));
    assert_eq!((&checked["restored"], &checked["position"]), (&json!(false), &json!(10)), "{checked}");
    assert_eq!(files(&setting.path("data")), before, "nothing was changed");
    let restored = said(&restore(&setting, &[&backup]));
    assert_eq!((&restored["restored"], &restored["position"]), (&json!(true), &json!(10)), "{restored}");
    let finding = &restored["findings"][0];
    assert!(finding["finding"].as_str().is_some_and(|text| text.contains("read model of projection sales is rebuilt")));
    assert_eq!(
        (restored["findings"].as_array().map(Vec::len), &finding["command"]),
        (Some(1), &json!("wasmill projections list"))
    );
    assert_eq!(restored["unasked"], Value::Null, "there is no Kafka");
    let aside = setting.path(restored["aside"].as_str().expect("a folder"));
    assert_eq!(files(&aside), before, "the store that was there is kept");

    let host = setting.start();
    assert_eq!(placed(&host), 10, "the read model is rebuilt");
    create(&host, "10");
    assert_eq!(placed(&host), 11);
    host.stop();
    let again = said(&restore(&setting, &[&backup]));
    assert_ne!(again["aside"], restored["aside"], "each store has a folder of its own");
    assert_eq!(again["findings"].as_array().map(Vec::len), Some(1), "{again}");
}

#[test]
fn what_is_no_sound_backup_changes_nothing() {
    let setting = Setting::new(SALES);
    let host = setting.start();
    (0..10).for_each(|number| create(&host, &number.to_string()));
    let made = setting.wasmill(&["store", "backup", "copy.sqlite", "--data", "data", "--json"]);
    let sound = fs::read(said(&made)["file"].as_str().expect("a path")).expect("read the backup");
    host.stop();
    let before = files(&setting.path("data"));
    let inconsistent = || {
        setting.write("damaged.sqlite", &sound);
        let connection = rusqlite::Connection::open(setting.path("damaged.sqlite")).expect("open it");
        connection.execute_batch("UPDATE events SET version = 7 WHERE position = 4").expect("damage it");
    };
    let damages: [(&dyn Fn(), &str); 5] = [
        (&|| setting.write("damaged.sqlite", &sound[..sound.len() / 2]), "damaged"),
        (&|| setting.write("damaged.sqlite", ""), "damaged"),
        (&|| setting.write("damaged.sqlite", "text ".repeat(9_999)), "damaged"),
        (&|| fs::remove_file(setting.path("damaged.sqlite")).expect("remove it"), "there is no store"),
        (&inconsistent, "take another backup"),
    ];
    for (damage, cause) in damages {
        damage();
        for more in [&[][..], &["--dry-run"]] {
            let refused = restore(&setting, &[&["damaged.sqlite"], more].concat());
            assert_eq!(refused.status.code(), Some(1), "{cause}: {refused:?}");
            assert!(
                said(&refused)["error"].as_str().is_some_and(|error| error.contains(cause)),
                "{cause}: {refused:?}"
            );
        }
        assert_eq!(files(&setting.path("data")), before, "{cause}");
    }
    let itself = restore(&setting, &["data/events.sqlite"]);
    assert!(said(&itself)["error"].as_str().is_some_and(|error| error.contains("is the store itself")), "{itself:?}");
    let names = fs::read_dir(setting.path("data")).expect("list it");
    let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains("restor") || name.contains("replaced")), "{names:?}");
}

#[test]
fn a_damaged_store_and_an_empty_folder_are_restored_too() {
    let setting = Setting::new(SALES);
    let host = setting.start();
    (0..10).for_each(|number| create(&host, &number.to_string()));
    let made = setting.wasmill(&["store", "backup", "copy.sqlite", "--data", "data", "--json"]);
    fs::copy(said(&made)["file"].as_str().expect("a path"), setting.path("copy.sqlite")).expect("copy it");
    host.crash();
    host.stop();
    // Without a file, and with a log, a host refuses to start.
    for damage in ["cut", "gone"] {
        let file = setting.path("data/events.sqlite");
        match damage {
            "cut" => fs::write(&file, &fs::read(&file).expect("read it")[..5_000]).expect("cut it"),
            _ => {
                fs::write(setting.path("data/events.sqlite-wal"), "a log").expect("write a log");
                fs::remove_file(&file).expect("remove it");
            }
        }
        assert!(!setting.start_refused().status.success(), "{damage}");
        let restored = said(&restore(&setting, &["copy.sqlite"]));
        assert!(restored["restored"] == true && restored["aside"].is_string(), "{damage}: {restored}");
        let host = setting.start();
        assert_eq!(placed(&host), 10, "{damage}");
        host.stop();
    }
    let fresh = said(&restore(&setting, &["copy.sqlite", "--data", "fresh"]));
    assert_eq!((&fresh["restored"], &fresh["aside"]), (&json!(true), &Value::Null), "{fresh}");
    assert_eq!(said(&setting.wasmill(&["store", "verify", "fresh", "--json"]))["position"], 10);
}

#[test]
fn a_kafka_that_does_not_answer_keeps_nobody_from_restoring() {
    let setting = Setting::new(SALES);
    let host = setting.start();
    create(&host, "1");
    let made = setting.wasmill(&["store", "backup", "copy.sqlite", "--data", "data", "--json"]);
    let backup = said(&made)["file"].as_str().expect("a path").to_owned();
    host.stop();
    setting.manifest(&format!(
        "{SALES}[kafka]\nbrokers = \"127.0.0.1:1\"\n[sinks.feed]\nevents = [\"**\"]\ntopic = \"feed\"\n"
    ));
    let restored = said(&restore(&setting, &[&backup]));
    assert_eq!(restored["restored"], true, "{restored}");
    assert!(restored["unasked"].as_str().is_some_and(|text| text.contains("were not checked: ")), "{restored}");
    fs::remove_file(setting.path("wasmill.toml")).expect("remove the manifest");
    let without = said(&restore(&setting, &[&backup, "--data", "data"]));
    assert!(without["unasked"].as_str().is_some_and(|text| text.contains("no manifest was named")), "{without}");
    let nowhere = restore(&setting, &[&backup]);
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
}
