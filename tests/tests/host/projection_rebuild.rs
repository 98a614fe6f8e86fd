//! Changed code of a projection builds its read model beside the old one and takes over in one step, also over a
//! restart. A read model that can't be used is rebuilt.

use serde_json::{Value, json};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use wasmill::ack::Ack;
use wasmill::model::{ExpectedVersion, NewEvent, StreamId};
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore};
use wasmill::store::{Append, Appended, Decision, Error, EventStore as _, Events as _};
use wasmill_tests::command_path::command;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;
use wasmill_tests::{built, module};

const ORDERS: usize = 40;

fn place(host: &TestHost, number: usize) {
    place_for(host, &number.to_string(), "1");
}

fn place_for(host: &TestHost, id: &str, household: &str) {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    let order =
        json!({ "household_id": household, "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    assert_eq!(host.send("order", id, "CreateOrder", &order).status, 200);
}

fn placed(host: &TestHost) -> Value {
    host.drained();
    host.query("sales", "totals", &Value::Null).body["placed"].clone()
}

fn manifest() -> String {
    format!(
        "[plugins.orders]\nfile = {:?}\n[plugins.sales]\nfile = \"sales.wasm\"\n[projections.sales]\nbatch_max = 7\n",
        built::plugin("orders")
    )
}

fn answers(host: &TestHost) -> Value {
    host.status()["projections"][0]["answers"].clone()
}

fn reload(host: &TestHost) -> Value {
    let reloaded = host.post("/v1/plugins/sales/reload?timeout_ms=60000", &Value::Null, &[]);
    assert_eq!(reloaded.status, 200, "{reloaded:?}");
    assert_eq!(answers(host), reloaded.body["digest"], "what was reloaded answers");
    reloaded.body["digest"].clone()
}

/// A host whose read model has some orders, and the code that made it.
fn with_orders(setting: &Setting) -> (Vec<u8>, TestHost) {
    let sales = fs::read(built::plugin("sales")).expect("read the plugin");
    setting.write("sales.wasm", &sales);
    let host = setting.start();
    (0..ORDERS).for_each(|number| place(&host, number));
    assert_eq!(placed(&host), ORDERS);
    (sales, host)
}

#[test]
fn changed_code_takes_over_with_the_whole_history() {
    let setting = Setting::new(&manifest());
    let (sales, host) = with_orders(&setting);
    let first = answers(&host);

    setting.write("sales.wasm", module::rebuilt(sales.clone()));
    let second = reload(&host);
    assert_ne!(first, second);
    assert_eq!(placed(&host), ORDERS, "the new read model has all of history");
    place(&host, ORDERS);
    assert_eq!(placed(&host), ORDERS + 1, "and goes on from there");
    let status = host.status();
    assert_eq!((&status["projections"][0]["error"], &status["plugins"][1]["loads"]), (&Value::Null, &json!(2)));

    // There and back again: each read model has files of its own, and those of the last one go.
    setting.write("sales.wasm", &sales);
    assert_eq!(reload(&host), first);
    assert_eq!(placed(&host), ORDERS + 1);
    let names = fs::read_dir(setting.path("data/read-models/sales")).expect("list the read models");
    let names = names.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
    let models: Vec<String> = names.filter(|name| name.ends_with(".sqlite")).collect();
    assert!(models.len() == 1 && models[0].starts_with("000003-"), "{models:?}");
    host.stop();
}

#[test]
fn new_code_by_a_restart_leaves_the_answers_whole() {
    let setting = Setting::new(&manifest());
    let (sales, host) = with_orders(&setting);
    let first = answers(&host);
    host.stop();

    setting.write("sales.wasm", module::rebuilt(sales));
    let host = setting.start();
    let status = host.until("the new code answers", |status| {
        // Whatever answers meanwhile answers with all that there is.
        let asked = host.query("sales", "totals", &Value::Null);
        assert!(asked.status == 503 || asked.body["placed"] == ORDERS, "{asked:?}");
        let answers = &status["projections"][0]["answers"];
        !answers.is_null() && *answers != first
    });
    assert_eq!(status["projections"][0]["building"], Value::Null);
    assert!(host.log().contains("until that of sales"), "the code before it answered meanwhile");
    assert_eq!(placed(&host), ORDERS);
    host.stop();
}

/// Appends orders with this payload to the store of a host that does not run.
fn fill(setting: &Setting, payload: &Value, orders: usize) {
    const IN_FLIGHT: usize = 1_000;
    let file = setting.path("data").join(FILE_NAME);
    let store = SqliteStore::open(&file, Options::default()).expect("open the store");
    let payload = payload.to_string().into_bytes();
    let (done, finished) = crossbeam_channel::bounded(IN_FLIGHT);
    for number in 0..orders {
        if number >= IN_FLIGHT {
            finished.recv().expect("this thread holds the other end");
        }
        let done = done.clone();
        let event = NewEvent { name: "OrderCreated".to_owned(), payload: payload.clone() };
        let command = command(StreamId::new("order", format!("many-{number}")), "CreateOrder".into());
        let append =
            Append { command, expected: ExpectedVersion::Any, decision: Decision::Events(vec![event]), chain: None };
        let appended = move |result: Result<Appended, Error>| {
            result.expect("nothing is in the way");
            let _ = done.send(());
        };
        store.append(append, Ack::new(appended));
    }
    finished.iter().take(IN_FLIGHT).for_each(drop);
    store.close();
}

/// A read model of this size takes a while to build. No query sees it before it is whole.
#[test]
fn new_code_by_a_restart_on_many_events_answers_with_all_of_them() {
    const MANY: usize = 200_000;
    let setting = Setting::new(&manifest().replace("batch_max = 7", "batch_max = 1000"));
    let (sales, host) = with_orders(&setting);
    let payload = host.events("order.OrderCreated")[0]["payload"].clone();
    host.stop();
    fill(&setting, &payload, MANY - ORDERS);
    let host = setting.start();
    assert_eq!(placed(&host), MANY);
    let first = answers(&host);
    host.stop();

    setting.write("sales.wasm", module::rebuilt(sales));
    let host = setting.start();
    let answered = Cell::new(0);
    host.until("the new code answers", |status| {
        let asked = host.query("sales", "totals", &Value::Null);
        assert!(asked.status == 503 || asked.body["placed"] == MANY, "{asked:?}");
        let answers = &status["projections"][0]["answers"];
        answered.set(answered.get() + usize::from(*answers == first && asked.status == 200));
        !answers.is_null() && *answers != first
    });
    assert!(answered.get() > 0, "the code before it answered meanwhile");
    assert_eq!(placed(&host), MANY);
    host.stop();
}

#[test]
fn new_code_that_finds_no_room_for_its_read_model_is_tried_again_while_the_old_one_answers() {
    // Enough for a guest, and not for a read model with all of the households.
    const FILE_BYTES_MAX: u64 = 1 << 20;
    let setting = Setting::new(&manifest());
    let (sales, host) = with_orders(&setting);
    for number in 0..ORDERS {
        let household = format!("{number}-{}", "long".repeat(10_000));
        place_for(&host, &format!("long-{number}"), &household);
    }
    assert_eq!(placed(&host), 2 * ORDERS);
    let first = answers(&host);
    host.file_size_max(Some(FILE_BYTES_MAX));
    setting.write("sales.wasm", module::rebuilt(sales));
    host.until("the new code says why it waits", |status| {
        status["projections"][0]["error"].as_str().is_some_and(|error| error.contains("disk"))
    });
    let asked = host.query("sales", "totals", &Value::Null).body["placed"].clone();
    assert_eq!((answers(&host), asked), (first.clone(), json!(2 * ORDERS)));
    host.file_size_max(None);
    host.until("the new code answers", |status| {
        let answers = &status["projections"][0]["answers"];
        !answers.is_null() && *answers != first
    });
    assert_eq!(placed(&host), 2 * ORDERS);
    host.stop();
}

#[test]
fn a_read_model_that_cannot_be_used_is_built_again() {
    let setting = Setting::new(&manifest());
    setting.write("sales.wasm", fs::read(built::plugin("sales")).expect("read the plugin"));
    let host = setting.start();
    (0..ORDERS).for_each(|number| place(&host, number));
    assert_eq!(placed(&host), ORDERS);
    host.stop();
    let backup = fs::read(setting.path("data/events.sqlite")).expect("read the store");
    type Damage<'a> = &'a dyn Fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("cut", &|file| fs::write(file, &fs::read(file).unwrap()[..5000]).unwrap()),
        ("no database", &|file| fs::write(file, "no database".repeat(1000)).unwrap()),
        ("empty", &|file| fs::write(file, "").unwrap()),
        ("a folder", &|file| {
            fs::remove_file(file).unwrap();
            fs::create_dir_all(file.join("in it")).unwrap();
        }),
    ];
    for (number, (what, damage)) in damages.into_iter().enumerate() {
        let file = read_model(&setting);
        damage(&file);
        for of_the_other in ["sqlite-wal", "sqlite-shm"] {
            let _ = fs::remove_file(file.with_extension(of_the_other));
        }
        let host = setting.start();
        assert_eq!(placed(&host), ORDERS + number, "{what}");
        let status = host.status();
        let reason = status["projections"][0]["set_aside"].as_str().unwrap_or_default();
        assert!(reason.contains("damaged"), "{what}: {status:#}");
        place(&host, ORDERS + number);
        assert_eq!(placed(&host), ORDERS + number + 1, "{what}");
        host.stop();
    }
    let aside = fs::read_dir(setting.path("data/read-models/sales")).expect("list the read models").flatten();
    let aside = aside.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let aside = aside.filter(|name| name.starts_with("unusable-") && name.ends_with(".sqlite")).count();
    assert_eq!(aside, 2, "the newest stay");

    // The store is that of an earlier day: what the read model has beyond it never happened.
    setting.write("data/events.sqlite", backup);
    for of_the_other in ["data/events.sqlite-wal", "data/events.sqlite-shm"] {
        let _ = fs::remove_file(setting.path(of_the_other));
    }
    let host = setting.start();
    place(&host, 100);
    let asked = host.post("/v1/queries/sales/totals?position=41&timeout_ms=60000", &Value::Null, &[]);
    assert_eq!(asked.body["placed"], ORDERS + 1, "{asked:?}");
    let ghost = host.query("sales", "get-order", &json!({ "order_id": ORDERS.to_string() }));
    assert_eq!((ghost.status, ghost.body), (200, Value::Null), "an order of the other history");
    let status = host.status();
    let reason = status["projections"][0]["set_aside"].as_str().unwrap_or_default();
    assert!(reason.contains("another history"), "{status:#}");
    host.stop();
}

/// Somebody has changed the rows, which no check can notice.
#[test]
fn a_person_can_have_a_read_model_built_again() {
    let setting = Setting::new(&manifest());
    let (_, host) = with_orders(&setting);
    let digest = answers(&host);
    host.stop();
    let before = read_model(&setting);
    rusqlite::Connection::open(&before)
        .and_then(|model| model.execute("UPDATE store_sales SET orders = 7", []))
        .expect("change the read model");
    let host = setting.start();
    assert_eq!(placed(&host), 7);
    let rebuilt = setting.wasmill(&["projections", "rebuild", "sales", "--data", "data"]);
    let said = String::from_utf8_lossy(&rebuilt.stdout).into_owned();
    assert!(rebuilt.status.success() && said.contains("is being rebuilt"), "{rebuilt:?}");
    host.until("the new read model answers", |_| {
        let asked = host.query("sales", "totals", &Value::Null);
        assert_eq!(asked.status, 200, "one of both answers: {asked:?}");
        asked.body["placed"] == ORDERS
    });
    // The status follows the answers.
    host.until("nothing is being built, and the old files are gone", |status| {
        status["projections"][0]["building"].is_null() && !before.exists()
    });
    assert_eq!(answers(&host), digest);
    place(&host, ORDERS);
    assert_eq!(placed(&host), ORDERS + 1);
    // A crash in the middle leaves the one that answers.
    for _ in 0..3 {
        assert_eq!(host.post("/v1/projections/sales/rebuild", &Value::Null, &[]).status, 200);
        host.crash();
        assert_eq!(host.query("sales", "totals", &Value::Null).body["placed"], ORDERS + 1);
    }
    let unknown = host.post("/v1/projections/nothing/rebuild", &Value::Null, &[]);
    assert_eq!(unknown.status, 404, "{unknown:?}");
    host.stop();
}

fn read_model(setting: &Setting) -> PathBuf {
    let files = fs::read_dir(setting.path("data/read-models/sales")).expect("list the read models").flatten();
    let mut files = files.map(|entry| entry.path()).filter(|file| {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        name.ends_with(".sqlite") && !name.starts_with("unusable-")
    });
    files.next().expect("there is a read model")
}
