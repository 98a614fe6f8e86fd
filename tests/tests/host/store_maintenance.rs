//! Maintenance of a store: archiving a stream, a backup while a host writes, statistics, and restoring a backup.

use serde_json::{Value, json};
use std::fs;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use wasmill_tests::host::TestHost;
use wasmill_tests::raised::Raised;
use wasmill_tests::setting::{ORDERS, Setting};

fn create(host: &TestHost, id: &str) -> u16 {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order = json!({ "household_id": "1", "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    host.send("order", id, "CreateOrder", &order).status
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn an_archived_stream_takes_no_command_until_it_is_restored() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    let cli = |args: &[&str]| setting.wasmill(&[args, &["--data", "data", "--json"]].concat());
    assert_eq!(create(&host, "a%20b%2F1"), 200);
    let archived = cli(&["streams", "archive", "order", "a b/1"]);
    assert_eq!((said(&archived)["archived"].clone(), said(&archived)["version"].clone()), (json!(true), json!(1)));
    let refused = host.send("order", "a%20b%2F1", "ConfirmOrder", &Value::Null);
    assert_eq!((refused.status, &refused.body["outcome"]), (409, &json!("archived")), "{refused:?}");
    assert!(refused.body["detail"].as_str().is_some_and(|reason| reason.contains("streams restore")), "{refused:?}");
    assert_eq!(host.events("order.*").len(), 1, "its events are read as before");
    host.crash();
    assert_eq!(said(&cli(&["streams", "show", "order", "a b/1"]))["archived"], true);
    assert_eq!(said(&cli(&["streams", "restore", "order", "a b/1"]))["archived"], false);
    assert_eq!(host.send("order", "a%20b%2F1", "ConfirmOrder", &Value::Null).status, 200);
    for verb in ["show", "archive", "restore"] {
        let absent = cli(&["streams", verb, "order", "absent"]);
        assert_eq!(absent.status.code(), Some(1), "{absent:?}");
        assert!(said(&absent)["error"].as_str().is_some_and(|error| error.contains("order/absent")), "{absent:?}");
    }
    host.stop();
}

#[test]
fn a_copy_made_under_load_is_a_store_to_go_on_from() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    let cli = |args: &[&str]| setting.wasmill(&[args, &["--data", "data", "--json"]].concat());
    let over = AtomicBool::new(false);
    let copy = thread::scope(|scope| {
        let ended = Raised(&over);
        scope.spawn(|| {
            let sent = (0..).map(|n: u64| create(&host, &n.to_string())).take_while(|_| !over.load(Ordering::Relaxed));
            sent.for_each(|status| assert_eq!(status, 200));
        });
        host.until("the load has begun", |status| status["store"]["position"].as_u64() >= Some(50));
        let copy = cli(&["store", "backup", "copy.sqlite"]);
        drop(ended);
        copy
    });
    assert_eq!(copy.status.code(), Some(0), "{copy:?}");
    let position = said(&copy)["position"].as_u64().expect("a position");
    assert!(position >= 50, "{copy:?}");
    fs::copy(setting.path("data/backups/copy.sqlite"), setting.path("copy.sqlite")).expect("copy the backup");
    let verified = said(&setting.wasmill(&["store", "verify", "copy.sqlite", "--json"]));
    assert_eq!((&verified["ok"], &verified["position"]), (&json!(true), &json!(position)), "{verified}");
    let again = cli(&["store", "backup", "copy.sqlite"]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(said(&again)["error"].as_str().is_some_and(|error| error.contains("copy.sqlite exists")), "{again:?}");

    let whole = host.events("**");
    let stats = said(&cli(&["store", "stats", "--count"]));
    assert_eq!(stats["counted"]["events"], whole.len());
    assert_eq!(stats["counted"]["streams"], whole.len());
    assert_eq!(stats["counted"]["types"][0]["name"], "OrderCreated");
    assert_eq!(said(&cli(&["store", "stats"]))["counted"], Value::Null);
    host.stop();

    // The same without a host.
    assert_eq!(said(&cli(&["store", "stats", "--count"]))["counted"], stats["counted"]);
    assert_eq!(said(&cli(&["store", "backup", "at-rest.sqlite"]))["position"], whole.len());
    assert_eq!(said(&setting.wasmill(&["store", "verify", "at-rest.sqlite", "--json"]))["ok"], true);

    fs::rename(setting.path("copy.sqlite"), setting.path("data/events.sqlite")).expect("put the copy in place");
    let host = setting.start();
    assert_eq!(host.events("**"), whole[..position as usize]);
    assert_eq!(create(&host, "0"), 422, "what is in the copy is known");
    assert_eq!(create(&host, &position.to_string()), 200, "what came after it is not");
    host.stop();
}

#[test]
fn a_host_on_a_store_that_it_can_not_use_says_why_and_leaves_it() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    assert_eq!(create(&host, "1"), 200);
    let second = setting.start_refused();
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another host"), "{second:?}");
    assert_eq!(create(&host, "2"), 200, "the first goes on");
    host.stop();

    let file = setting.path("data/events.sqlite");
    let whole = fs::read(&file).expect("read the store");
    let newer = || {
        let connection = rusqlite::Connection::open(&file).expect("open the store");
        connection.execute_batch("PRAGMA user_version = 99").expect("change the format");
    };
    let damages: [(&dyn Fn(), &str); 4] = [
        (&|| fs::write(&file, &whole[..whole.len() / 2]).expect("write"), "restore it from a backup"),
        (&|| fs::write(&file, "not a database, but text. ".repeat(999)).expect("write"), "restore it from a backup"),
        (&|| fs::write(&file, "").expect("write"), "it is empty"),
        (&newer, "run a newer wasmill"),
    ];
    for (damage, remedy) in damages {
        fs::write(&file, &whole).expect("write the store");
        damage();
        let damaged = fs::read(&file).expect("read the store");
        let refused = setting.start_refused();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("events.sqlite") && said.contains(remedy), "{said}");
        assert_eq!(fs::read(&file).expect("read the store"), damaged, "it is left as it is");
    }
    fs::write(&file, &whole).expect("write the store");
    let host = setting.start();
    assert_eq!(host.events("order.OrderCreated").len(), 2);
    host.stop();
}
