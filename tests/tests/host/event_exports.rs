//! All events of a store as a file, and a new store from it: ids, times, versions and positions stay, and nothing that was done
//! is done again.

use serde_json::{Value, json};
use std::fs;
use std::process::Output;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::{ORDERS, Setting};

const ORDERS_SENT: usize = 300;

fn order(number: usize) -> Value {
    let item =
        json!({ "product_id": "3", "quantity": 1 + number % 3, "amount_cents": 60 + number, "discount_cents": 5 });
    let (household, store) = (number % 7, number % 4);
    json!({ "household_id": household.to_string(), "store_id": store.to_string(), "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
}

fn said(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn lines(setting: &Setting, file: &str) -> Vec<String> {
    let text = fs::read_to_string(setting.path(file)).expect("read an export");
    assert!(text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

fn answers(host: &TestHost) -> Value {
    host.drained();
    let ask = |query: &str, params: &Value| host.query("sales", query, params).body;
    json!([ask("totals", &Value::Null), ask("store-sales", &json!({ "limit": 9 }))])
}

#[test]
fn a_store_made_from_an_export_has_the_same_history_and_does_nothing_again() {
    let setting = Setting::grocery();
    let host = setting.start();
    for number in 0..ORDERS_SENT {
        let headers = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
        let sent = host.send_with("order", &format!("o%20{number}%2F%C3%BC"), "CreateOrder", &order(number), &headers);
        assert_eq!(sent.status, 200, "{sent:?}");
    }
    host.drained();
    let archived = setting.wasmill(&["streams", "archive", "order", "o 5/ü", "--data", "data"]);
    assert!(archived.status.success(), "{archived:?}");
    let (recorded, answered) = (host.events("**"), answers(&host));
    assert!(recorded.len() > 2 * ORDERS_SENT, "{}", recorded.len());

    // Through the host, and from the folder when it has ended.
    let exported = setting.wasmill(&["events", "export", "online.ndjson", "--data", "data", "--json"]);
    let report = said(&exported);
    assert_eq!((&report["events"], &report["archived_streams"]), (&json!(recorded.len()), &json!(1)), "{report}");
    let piped = setting.wasmill(&["events", "export", "-", "--data", "data"]);
    assert_eq!(piped.stdout, fs::read(setting.path("online.ndjson")).expect("read it"));
    let again = setting.wasmill(&["events", "export", "online.ndjson", "--data", "data"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("online.ndjson exists"), "{again:?}");
    host.stop();
    let rest = setting.wasmill(&["events", "export", "rest.ndjson", "--data", "data"]);
    assert!(rest.status.success(), "{rest:?}");
    assert_eq!(lines(&setting, "online.ndjson"), lines(&setting, "rest.ndjson"));

    let other = Setting::grocery();
    fs::copy(setting.path("rest.ndjson"), other.path("events.ndjson")).expect("copy the export");
    let imported = other.wasmill(&["events", "import", "events.ndjson", "wasmill.toml", "--json"]);
    assert_eq!(imported.status.code(), Some(0), "{imported:?}");
    let report = said(&imported);
    assert_eq!(
        (&report["events"], &report["position"]),
        (&json!(recorded.len()), &recorded[recorded.len() - 1]["position"])
    );
    assert_eq!(report["subscriptions"], json!(["notifier", "warehouse"]), "{report}");
    assert_eq!(report["notes"], json!([]), "a development broker keeps no records");
    assert_ne!(report["store"], report["from_store"], "it is a store of its own");
    let verified = said(&other.wasmill(&["store", "verify", "data", "--json"]));
    assert_eq!((&verified["ok"], &verified["events"]), (&json!(true), &json!(recorded.len())), "{verified}");
    assert!(other.wasmill(&["events", "export", "again.ndjson", "--data", "data"]).status.success());
    let (first, second) = (lines(&setting, "rest.ndjson"), lines(&other, "again.ndjson"));
    assert_eq!(first[1..], second[1..], "all but the store is the same");

    let host = other.start();
    assert_eq!(answers(&host), answered);
    assert_eq!(host.events("**"), recorded, "nothing was added");
    let status = host.status();
    assert_eq!(
        (&status["dead_letters"]["total"], &status["sinks"][0]["published"]),
        (&json!(0), &json!(0)),
        "{status}"
    );
    let shown = said(&other.wasmill(&["streams", "show", "order", "o 5/ü", "--data", "data", "--json"]));
    assert_eq!(shown["archived"], true, "{shown}");
    // It goes on from there.
    assert_eq!(host.send("order", "new", "CreateOrder", &order(1)).status, 200);
    host.drained();
    assert!(host.events("**").len() > recorded.len() + 1, "the subscribers handle what is new");
    host.stop();
    assert_eq!(said(&other.wasmill(&["store", "verify", "data", "--json"]))["ok"], true);
}

#[test]
fn subscriptions_begin_at_the_beginning_if_they_are_told_to() {
    let setting = Setting::grocery();
    let host = setting.start();
    assert_eq!(host.send("order", "1", "CreateOrder", &order(1)).status, 200);
    host.stop();
    assert!(setting.wasmill(&["events", "export", "events.ndjson", "--data", "data"]).status.success());
    let import = |data: &str, more: &[&str]| {
        let args = ["events", "import", "events.ndjson", "wasmill.toml", "--json", "--data", data];
        said(&setting.wasmill(&[&args[..], more].concat()))
    };
    assert_eq!(import("told", &["--subscriptions", "beginning"])["subscriptions"], json!([]));
    let manifest = fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    setting.manifest(&format!("{manifest}\n[subscriptions.notifier]\nstart = \"beginning\"\n"));
    let written = import("written", &[]);
    assert_eq!(written["subscriptions"], json!(["warehouse"]));
    let notes = written["notes"].as_array().expect("notes");
    let names = |note: &Value, what: &str| note.as_str().is_some_and(|note| note.contains(what));
    assert!(notes.iter().any(|note| names(note, "notifier") && names(note, "`--subscriptions after`")), "{written}");
    // The command wins over the manifest.
    let after = import("after", &["--subscriptions", "after"]);
    assert_eq!(after["subscriptions"], json!(["notifier", "warehouse"]));
    assert!(!after["notes"].as_array().expect("notes").iter().any(|note| names(note, "notifier")), "{after}");
}

#[test]
fn a_damaged_file_leaves_the_folder_as_it_was() {
    let setting = Setting::new(ORDERS);
    let host = setting.start();
    for number in 0..20 {
        assert_eq!(host.send("order", &number.to_string(), "CreateOrder", &order(number)).status, 200);
    }
    host.stop();
    assert!(setting.wasmill(&["events", "export", "events.ndjson", "--data", "data"]).status.success());
    let text = fs::read_to_string(setting.path("events.ndjson")).expect("read it");
    let lines: Vec<&str> = text.lines().collect();
    let kept = |keep: &dyn Fn(usize) -> bool| -> String {
        lines.iter().enumerate().filter(|(index, _)| keep(*index)).map(|(_, line)| format!("{line}\n")).collect()
    };
    let long = text.replacen("\"payload\":{", &format!("\"payload\":{{\"x\":\"{}\",", "y".repeat(7 << 20)), 1);
    for (damaged, code, cause) in [
        (String::new(), 1, "the file is empty"),
        ("{\"position\":1}\n".to_owned(), 1, "line 1: it must be the first line of an export"),
        (text[..text.len() / 2].to_owned(), 1, "it is cut"),
        (kept(&|index| index != 7), 1, "the file was changed"),
        (kept(&|index| index + 1 < lines.len()), 1, "without the last line"),
        (text.replacen("\"amount_cents\":60", "\"amount_cents\":61", 1), 1, "SHA-256"),
        (text.replacen("\"wasmill_events\":1", "\"wasmill_events\":2", 1), 1, "use a newer wasmill"),
        (text.replacen("OrderCreated", "Order Created", 1), 1, "line 2: `name` must be"),
        (long, 1, "store.event_bytes_max"),
    ] {
        setting.write("damaged.ndjson", &damaged);
        let refused = setting.wasmill(&["events", "import", "damaged.ndjson", "wasmill.toml", "--data", "fresh"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(code), "{cause}: {said}");
        assert!(said.contains(cause) && said.contains("nothing was imported"), "{cause}: {said}");
        let left = fs::read_dir(setting.path("fresh")).expect("the folder was made");
        let left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name().into_string().unwrap()).collect();
        assert!(!left.iter().any(|name| name.contains("sqlite") || name.contains("import")), "{left:?}");
    }
    let absent = setting.wasmill(&["events", "import", "absent.ndjson", "--data", "fresh"]);
    assert!(String::from_utf8_lossy(&absent.stderr).contains("can't read absent.ndjson"), "{absent:?}");

    // A store that has anything stays as it is, and so does one that a host has open.
    let whole = fs::read(setting.path("data/events.sqlite")).expect("read the store");
    let filled = setting.wasmill(&["events", "import", "events.ndjson", "wasmill.toml"]);
    assert!(String::from_utf8_lossy(&filled.stderr).contains("is not empty: it has 20 events"), "{filled:?}");
    assert_eq!(fs::read(setting.path("data/events.sqlite")).expect("read the store"), whole);
    let host = setting.start();
    let open = setting.wasmill(&["events", "import", "events.ndjson", "wasmill.toml"]);
    assert!(String::from_utf8_lossy(&open.stderr).contains("in use by another host"), "{open:?}");
    host.stop();

    // A store that a host has only created is empty.
    let yearly =
        "[schedules.yearly]\naggregate = \"order\"\nid = \"1\"\ncron = \"0 0 1 1 *\"\ncommand = \"ConfirmOrder\"\n";
    let other = Setting::new(&format!("{ORDERS}{yearly}"));
    other.start().crash();
    other.start().stop();
    let ledgers = || said(&other.wasmill(&["store", "stats", "--data", "data", "--json"]))["ledgers"].clone();
    assert_eq!(ledgers(), 1, "the schedule has begun");
    let imported =
        other.wasmill(&["events", "import", &setting.path("events.ndjson").to_string_lossy(), "wasmill.toml"]);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(ledgers(), 1, "the schedule has its place");
    let host = other.start();
    assert_eq!(host.events("**").len(), 20);
    host.stop();
}
