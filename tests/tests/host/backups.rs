//! Backups through a running host are in its folder of backups and nowhere else, whatever a client asks for.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use wasmill_tests::host::{TestHost, make_pipe};
use wasmill_tests::setting::{ORDERS, Setting};

fn create(host: &TestHost, id: &str) {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    assert_eq!(host.send("order", id, "CreateOrder", &order).status, 200);
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Everything below a folder, except for what a running host writes by itself.
fn tree(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("list a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.is_symlink() && !path.ends_with("data") {
            found.extend(tree(&path));
        }
        found.insert(path);
    }
    found
}

#[test]
fn a_backup_is_in_the_folder_of_backups_under_the_name_that_was_asked_for() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    create(&host, "1");
    let cli = |args: &[&str]| setting.wasmill(&[args, &["--data", "data", "--json"]].concat());
    let named = cli(&["store", "backup", "before the upgrade.sqlite"]);
    let expected = setting.path("data/backups/before the upgrade.sqlite").canonicalize().expect("it is there");
    assert_eq!(said(&named)["file"], json!(expected), "{named:?}");
    create(&host, "2");
    let made = said(&cli(&["store", "backup"]));
    let file = PathBuf::from(made["file"].as_str().expect("a path"));
    assert!(file.starts_with(expected.parent().expect("a folder")), "{made}");
    assert!(file.to_string_lossy().ends_with("Z-0000000002.sqlite"), "{made}");
    for (file, position) in [(&expected, 1), (&file, 2)] {
        let verified = said(&setting.wasmill(&["store", "verify", &file.to_string_lossy(), "--json"]));
        assert_eq!((&verified["ok"], &verified["position"]), (&json!(true), &json!(position)));
    }
    host.stop();

    // The manifest may name another folder.
    setting.manifest(&format!("{ORDERS}[store]\nbackups = \"copies/of the store\"\n"));
    let host = setting.start();
    let there = host.post("/v1/store/backup", &json!({ "file": "one" }), &[]);
    assert_eq!(there.body["file"], json!(setting.path("copies/of the store/one").canonicalize().expect("it is there")));
    host.stop();
}

#[test]
fn a_folder_with_files_of_the_host_is_no_folder_of_backups() {
    for folder in ["data", "data/read-models", "data/plugins/copies"] {
        let setting = Setting::new(&format!("{ORDERS}[store]\nbackups = \"{folder}\"\n"));
        let host = setting.start();
        let refused = host.post("/v1/store/backup", &json!({ "file": "events-restoring.sqlite" }), &[]);
        assert_eq!(refused.status, 422, "{folder}: {refused:?}");
        assert!(refused.body.to_string().contains("the host keeps its own files there"), "{refused:?}");
        assert!(!setting.path("data/events-restoring.sqlite").exists());
        host.stop();
    }
}

#[test]
fn one_copy_is_made_at_a_time_and_a_host_that_stops_ends_it() {
    let setting = Setting::new(ORDERS);
    setting.start().stop();
    // A copy rests a millisecond after each mebibyte, so that of a store with this filling takes a while.
    let store = rusqlite::Connection::open(setting.path("data/events.sqlite")).expect("open the store");
    store.execute_batch("CREATE TABLE filling (bytes)").expect("make a table");
    for _ in 0..16 {
        store.execute("INSERT INTO filling VALUES (zeroblob(16000000))", []).expect("fill the store");
    }
    store.close().expect("close the store");
    let host = setting.start();
    let names = || -> Vec<String> {
        let Ok(entries) = fs::read_dir(setting.path("data/backups")) else { return Vec::new() };
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| host.post("/v1/store/backup", &json!({ "file": "first" }), &[]));
        while names().is_empty() && !first.is_finished() {
            std::thread::yield_now();
        }
        let second = host.post("/v1/store/backup", &json!({ "file": "second" }), &[]);
        assert_eq!(
            (second.status, &second.body["title"]),
            (503, &json!("There is no room for the request")),
            "{second:?}"
        );
        host.terminate();
        let first = first.join().expect("an answer");
        assert_eq!((first.status, &first.body["title"]), (503, &json!("The host is stopping")), "{first:?}");
    });
    assert_eq!(host.ended(), Some(0));
    assert_eq!(names(), Vec::<String>::new(), "nothing is left of the copy");
}

#[test]
fn no_name_leads_out_of_the_folder() {
    let setting = Setting::new(&format!("{ORDERS}[store]\nbackups = \"copies\"\n"));
    let host = setting.start();
    create(&host, "1");
    fs::create_dir(setting.path("copies")).expect("make the folder");
    fs::write(setting.path("precious"), "precious").expect("write a file");
    fs::write(setting.path("copies/taken"), "taken").expect("write a file");
    symlink(setting.path("precious"), setting.path("copies/link")).expect("make a link");
    symlink(setting.path("absent"), setting.path("copies/dangling")).expect("make a link");
    make_pipe(&setting.path("copies/pipe"));
    let before = tree(&setting.path(""));
    let absolute = setting.path("out.sqlite").display().to_string();
    let long = "x".repeat(10_000);
    for name in [
        "",
        ".",
        "..",
        "../out",
        "../../out",
        "a/b",
        "./a",
        "/etc/passwd",
        &absolute,
        "a\\..\\b",
        "a\0b",
        "a\nb",
        ".hidden",
        "copy.sqlite-wal",
        "copy-journal",
        &long,
    ] {
        let refused = host.post("/v1/store/backup", &json!({ "file": name }), &[]);
        assert_eq!(refused.status, 400, "{name:?}: {refused:?}");
        let text = refused.body.to_string();
        assert!(text.contains("`file` must") && text.len() < 600, "{name:?}: {text}");
    }
    for name in ["taken", "link", "dangling", "pipe"] {
        let refused = host.post("/v1/store/backup", &json!({ "file": name }), &[]);
        assert_eq!(refused.status, 422, "{name}: {refused:?}");
        assert!(refused.body.to_string().contains("exists: choose another name"), "{refused:?}");
    }
    for body in [json!({ "file": 7 }), json!({ "path": "a" }), json!([]), json!("a")] {
        assert_eq!(host.post("/v1/store/backup", &body, &[]).status, 400, "{body}");
    }
    for name in ["../out", &absolute] {
        let refused = setting.wasmill(&["store", "backup", name, "--data", "data"]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && text.contains("its own folder of backups"), "{refused:?}");
    }
    assert_eq!(tree(&setting.path("")), before, "nothing was written");
    assert_eq!(fs::read_to_string(setting.path("precious")).expect("it is there"), "precious");

    // Somebody puts a link in the place of the folder.
    fs::rename(setting.path("copies"), setting.path("moved")).expect("move the folder");
    fs::create_dir(setting.path("elsewhere")).expect("make a folder");
    symlink(setting.path("elsewhere"), setting.path("copies")).expect("make a link");
    let refused = host.post("/v1/store/backup", &json!({ "file": "copy" }), &[]);
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.body.to_string().contains("symbolic link"), "{refused:?}");
    assert_eq!(fs::read_dir(setting.path("elsewhere")).expect("list it").count(), 0);
    fs::remove_file(setting.path("copies")).expect("remove the link");
    assert_eq!(host.post("/v1/store/backup", &json!({ "file": "copy" }), &[]).status, 200);
    assert_eq!(host.get("/v1/live").status, 200);
    host.stop();
}

#[test]
fn without_a_host_the_caller_names_the_file() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    create(&host, "1");
    host.stop();
    fs::create_dir(setting.path("out")).expect("make a folder");
    let copy = setting.wasmill(&["store", "backup", "out/copy.sqlite", "--data", "data", "--json"]);
    assert_eq!(said(&copy)["file"], json!(setting.path("out/copy.sqlite")), "{copy:?}");
    let unnamed = setting.wasmill(&["store", "backup", "--data", "data"]);
    assert_eq!(unnamed.status.code(), Some(2), "{unnamed:?}");
    assert!(String::from_utf8_lossy(&unnamed.stderr).contains("name the file of the copy"), "{unnamed:?}");
}
