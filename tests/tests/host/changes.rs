//! The manifest changes while the host runs: parts are added, changed and removed under load, and what has nothing to do with a
//! change keeps running. A change that can't be applied changes nothing.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use wasmill_tests::host::{Answer, TestHost};
use wasmill_tests::raised::Raised;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

fn order() -> Value {
    order_of(1)
}

fn order_of(household: usize) -> Value {
    let item = json!({ "product_id": "3", "quantity": 1, "amount_cents": 50, "discount_cents": 0 });
    json!({ "household_id": household.to_string(), "store_id": "2", "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
}

fn apply(host: &TestHost) -> Answer {
    host.post("/v1/manifest/reload", &Value::Null, &[])
}

fn applied(host: &TestHost) -> Value {
    let answer = apply(host);
    assert!(answer.status == 200 && answer.body["applied"] == true, "{answer:?}\n{}", host.log());
    answer.body
}

/// Returns the parts of an answer with what happens to them.
fn parts(change: &Value) -> BTreeMap<&str, &str> {
    let parts = change["parts"].as_array().expect("a list");
    parts.iter().map(|one| (one["part"].as_str().unwrap(), one["change"].as_str().unwrap())).collect()
}

fn refusal(host: &TestHost) -> String {
    let answer = apply(host);
    assert_eq!(answer.status, 422, "{answer:?}");
    answer.body["detail"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// The parts that come and go, by turns.
const SALES: &str = "[plugins.sales]\nfile = \"PLUGINS/sales.wasm\"\n";
const NOTIFIER: &str =
    "[plugins.notifier]\nfile = \"PLUGINS/notifier.wasm\"\n[subscriptions.notifier]\nstart = \"beginning\"\n";
const DEADLINES: &str = "[plugins.order-deadline]\nfile = \"PLUGINS/order-deadline.wasm\"\n[subscriptions.order-deadline]\n\
    start = \"now\"\n";
const HOUSEHOLDS: &str =
    "[plugins.households]\nfile = \"PLUGINS/households.wasm\"\nsettings = { loyal_from_cents = 50_000 }\n";
const SINK: &str = "[sinks.feed]\nevents = [\"order.OrderConfirmed\"]\ntopic = \"feed\"\nstart = \"beginning\"\n";
const SOURCE: &str = "[sources.baskets]\ntopic = \"baskets\"\naggregate = \"order\"\ncommand = \"CreateOrder\"\n";

/// The part of the manifest that stays. The development broker keeps 5 MiB of a partition, which is 12,000 records of `feed`.
fn base(more: &str) -> String {
    format!(
        "[kafka]\nbrokers = \"embedded\"\n[kafka.topics.baskets]\npartitions = 2\n[kafka.topics.feed]\npartitions = 8\n\
         [kafka.topics.notifications]\n[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n{more}"
    )
}

const ROUNDS: usize = 50;

/// The change does not concern the projection, so it answers all the time.
#[test]
fn a_query_that_waits_for_a_position_waits_on_when_other_parts_change() {
    let plugins = format!("[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n{SALES}");
    let setting = Setting::new(&plugins);
    let host = setting.start();
    assert_eq!(host.send("order", "1", "CreateOrder", &order()).status, 200);
    thread::scope(|scope| {
        let path = "/v1/queries/sales/store-sales?position=2&timeout_ms=60000";
        let query = scope.spawn(|| host.post(path, &json!({ "limit": 5 }), &[]));
        host.until("the query waits", |status| status["api"]["connections"].as_u64() >= Some(2));
        setting.manifest(&format!("{plugins}{DEADLINES}"));
        applied(&host);
        assert_eq!(host.send("order", "2", "CreateOrder", &order()).status, 200);
        let answer = query.join().expect("it is answered");
        assert_eq!(answer.body, json!([["2", 100]]), "{answer:?}");
    });
    host.stop();
}

/// What the process has: threads, open files, and resident memory in KiB.
fn usage(pid: &Value) -> (usize, usize, u64) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).expect("read what the process has").count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the status of the process");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let resident = resident.trim().trim_end_matches(" kB").parse().expect("a number");
    (count("task"), count("fd"), resident)
}

/// A command to a plugin that is present never fails, whatever else comes and goes. Totals are exact at the end, and nothing is left
/// behind of what has gone.
#[test]
fn fifty_changes_under_load_fail_no_command_and_leave_nothing_behind() {
    let warehouse = |attempts: usize| {
        format!(
            "[plugins.warehouse]\nfile = \"PLUGINS/warehouse.wasm\"\n[subscriptions.warehouse]\nattempts_max = {attempts}\n"
        )
    };
    let with = |round: usize| {
        // Each part is there in some rounds and not in others, and the settings of others change.
        let mut text = base("");
        text = text.replace("orders.wasm\"\n", &format!("orders.wasm\"\nqueue_max = {}\n", 4_000 + round % 3));
        text.push_str(&warehouse(5 + round % 2));
        text.push_str(HOUSEHOLDS);
        let optional = [SALES, NOTIFIER, DEADLINES, SINK, SOURCE];
        optional
            .iter()
            .enumerate()
            .filter(|(index, _)| round >> index & 1 == 0)
            .for_each(|(_, part)| text.push_str(part));
        text
    };
    let setting = Setting::new(&with(0));
    let host = setting.start();
    let brokers = host.brokers();
    let pid = host.status()["host"]["pid"].clone();
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut first, mut records) = (None, 0);
    thread::scope(|scope| {
        let ended = Raised(&over);
        for sender in 0..2 {
            let (host, over, sent) = (&host, &over, &sent);
            scope.spawn(move || {
                for number in 0.. {
                    let order = order_of(number % 100);
                    let answer = host.send("order", &format!("http-{sender}-{number}"), "CreateOrder", &order);
                    assert_eq!(answer.status, 200, "order {number}: {answer:?}");
                    sent.fetch_add(1, Ordering::Relaxed);
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        for round in 1..=ROUNDS {
            let batch: Vec<_> = (0..20).map(|number| (format!("kafka-{round}-{number}"), order_of(number))).collect();
            topic::produce_keyed(&brokers, "baskets", &batch);
            records += batch.len();
            setting.manifest(&with(round));
            let change = applied(&host);
            let changed = parts(&change);
            assert_eq!(changed.get("aggregate order"), Some(&"restarts"), "{change:#}");
            assert!(!changed.contains_key("aggregate household"), "nothing unrelated restarts: {change:#}");
            let enough = sent.load(Ordering::Relaxed) + 5;
            host.until("the load goes on", |_| sent.load(Ordering::Relaxed) >= enough);
            if round == 8 {
                first = Some(usage(&pid));
            }
        }
        drop(ended);
    });
    setting.manifest(&with(0));
    applied(&host);
    host.drained();
    let status = host.status();
    let orders = sent.load(Ordering::Relaxed) + records as u64;
    let accepted = |command: &str| {
        let commands = status["commands"].as_array().expect("a list");
        commands.iter().find(|found| found["command"] == command).expect("it was sent")["accepted"].clone()
    };
    assert_eq!(accepted("CreateOrder"), orders, "{status:#}");
    assert_eq!(accepted("ConfirmOrder"), orders, "each exactly once: {status:#}");
    assert_eq!(status["dead_letters"]["total"], 0, "{status:#}");
    let totals = host.query("sales", "totals", &Value::Null);
    assert_eq!((&totals.body["placed"], &totals.body["confirmed"]), (&json!(orders), &json!(orders)), "{totals:?}");
    assert_eq!(topic::read(&brokers, "feed", orders as usize).len() as u64, orders);
    let (first, last) = (first.expect("it was measured"), usage(&pid));
    assert!(last.0 <= first.0 + 12 && last.1 <= first.1 + 24, "threads and files: {first:?}, {last:?}");
    assert!(last.2 <= first.2 + 200 * 1024, "memory: {first:?}, {last:?}");
    host.until_ready();
    host.stop();
}

#[test]
fn a_changed_manifest_is_shown_first_and_applied_when_asked() {
    let setting = Setting::new(&base(SALES));
    let host = setting.start();
    let dry = || host.post("/v1/manifest/reload?dry_run=true", &Value::Null, &[]).body;
    assert_eq!(dry(), json!({ "applied": false, "keys": [], "parts": [], "notes": [] }));
    assert_eq!(applied(&host)["parts"], json!([]), "an unchanged manifest changes nothing");
    let more =
        format!("{NOTIFIER}{SINK}[plugins.sales]\nfile = \"PLUGINS/sales.wasm\"\nlimits = {{ event_time_ms = 900 }}\n");
    setting.manifest(&base(&more));
    let status = host.until("the difference is noticed", |status| status["manifest"]["differs"] == true);
    let keys = json!([
        { "key": "plugins.notifier", "change": "added" },
        { "key": "plugins.sales.limits", "change": "added" },
        { "key": "sinks.feed", "change": "added" },
        { "key": "subscriptions.notifier", "change": "added" },
    ]);
    assert_eq!(status["manifest"]["keys"], keys, "{status:#}");
    assert_eq!(status["subscriptions"], json!([]), "nothing is applied");
    host.until_logged("about the difference", |line| line.contains("`wasmill reload` applies it"));
    let data = setting.path("data");
    let data = data.to_str().expect("text");
    let (code, shown, _) = setting.told(&["status", "--data", data]);
    assert!(
        code == Some(0) && shown.contains("differs (`wasmill reload` applies it):\n  plugins.notifier added"),
        "{shown}"
    );
    let (code, shown, errors) = setting.told(&["reload", "--dry-run", "--data", data]);
    assert!(code == Some(0) && shown.starts_with("not applied:\n"), "{shown}{errors}");
    assert_eq!(parts(&dry()), parts(&dry()), "asking changes nothing");
    let change = applied(&host);
    let expected = BTreeMap::from([("sink feed", "starts"), ("subscription notifier", "starts")]);
    let mut changed = parts(&change);
    assert_eq!(changed.remove("HTTP requests of plugin notifier"), Some("starts"), "{change:#}");
    assert!(changed.remove("plugin sales").is_some_and(|code| code.starts_with("gets the code of")), "{change:#}");
    assert_eq!(changed, expected);
    let status = host.status();
    assert_eq!((&status["manifest"]["differs"], &status["manifest"]["keys"]), (&json!(false), &json!([])));
    assert_eq!(status["subscriptions"][0]["name"], "notifier");
    setting.manifest(&base(""));
    let change = applied(&host);
    let notes = change["notes"].to_string();
    assert!(notes.contains("subscription/notifier") && notes.contains("--forget subscription/notifier"), "{change:#}");
    assert!(notes.contains("the read model of projection sales stays in"), "{change:#}");
    let gone = host.query("sales", "totals", &Value::Null);
    assert_eq!(gone.status, 404, "{gone:?}");
    host.stop();
}

#[test]
fn a_change_that_does_not_fit_changes_nothing_and_says_why() {
    let setting = Setting::new(&base(SALES));
    let host = setting.start();
    let before = host.status()["plugins"].clone();
    let wrong = [
        ("[plugins.orders]\nfile = \"PLUGINS/orders".to_owned(), "wasmill.toml:2:"),
        (base(&format!("{SALES}[plugins.again]\nfile = \"PLUGINS/orders.wasm\"\n")), "serves it too"),
        (base(&format!("{SALES}[plugins.none]\nfile = \"none.wasm\"\n")), "or correct `plugins.none.file`"),
        (base(&format!("{SALES}[store]\nqueue_max = 7\n")), "`store` can't change while the host runs"),
        (format!("clock = \"manual\"\n{}", base(SALES)), "`clock` can't change"),
        (base(&SALES.replace("sales.wasm\"", &format!("sales.wasm\"\nsha256 = \"{}\"", "0".repeat(64)))), "pins 0000"),
        (base(&format!("{SALES}{SOURCE}dead_letter_topic = \"baskets\"\n")), "baskets"),
        (
            base(&format!("{SALES}[sources.b]\ntopic = \"b\"\nsubscriber = \"sales\"\n")),
            "no plugin sales that is a subscriber",
        ),
        (
            base(&format!("{SALES}[sources.b]\ntopic = \"b\"\naggregate = \"none\"\ncommand = \"C\"\n")),
            "no plugin serves",
        ),
        (
            base(&format!("{SALES}[kafka.properties]\n\"no.such.property\" = \"1\"\n")).replace(SALES, ""),
            "no.such.property",
        ),
    ];
    for (number, (text, part)) in wrong.into_iter().enumerate() {
        setting.manifest(&text);
        let refused = refusal(&host);
        assert!(refused.contains(part), "{refused}");
        let status = host.status();
        assert_eq!(status["plugins"][0]["digest"], before[0]["digest"]);
        assert_eq!(status["plugins"].as_array().map(Vec::len), before.as_array().map(Vec::len), "{status:#}");
        assert!(status["manifest"]["differs"] == true && status["manifest"]["error"].is_string(), "{status:#}");
        assert_eq!(host.send("order", &number.to_string(), "CreateOrder", &order()).status, 200);
    }
    setting.manifest(&base(SALES));
    applied(&host);
    let status = host.until("all is well again", |status| status["plugins"][1]["error"].is_null());
    assert_eq!(status["manifest"]["error"], Value::Null);
    host.until_ready();
    host.stop();
}

/// A source that is removed and added again resumes where it was, and what it missed is read.
#[test]
fn a_source_that_comes_back_resumes_and_a_renamed_one_asks() {
    let setting = Setting::new(&base(SOURCE));
    let host = setting.start();
    let brokers = host.brokers();
    let produce = |key: &str| topic::produce_keyed(&brokers, "baskets", &[(key.to_owned(), order())]);
    produce("one");
    host.until("it is read", |_| host.events("order.*").len() == 1);
    setting.manifest(&base(""));
    let change = applied(&host);
    assert!(change["notes"].to_string().contains("source/baskets"), "{change:#}");
    produce("two");
    setting.manifest(&base(SOURCE));
    applied(&host);
    host.until("it reads on", |_| host.events("order.*").len() == 2);
    let renamed = SOURCE.replace("sources.baskets", "sources.tills");
    setting.manifest(&base(&renamed));
    let refused = refusal(&host);
    assert!(refused.contains("source/tills is new") && refused.contains("`was = \"baskets\"`"), "{refused}");
    produce("three");
    host.until("the old one still reads", |_| host.events("order.*").len() == 3);
    setting.manifest(&base(&format!("{renamed}was = \"baskets\"\n")));
    applied(&host);
    produce("four");
    host.until("the renamed one resumes", |_| host.events("order.*").len() == 4);
    host.drained();
    assert_eq!(host.events("order.*").len(), 4, "nothing is read twice");
    host.stop();
}

/// Commands that wait for a plugin that is removed are kept, and it gets them when it is back.
#[test]
fn what_waits_for_a_removed_plugin_is_kept_and_told() {
    let warehouse = "[plugins.warehouse]\nfile = \"PLUGINS/warehouse.wasm\"\n";
    let setting = Setting::new(&base(&format!("{warehouse}{HOUSEHOLDS}")));
    let host = setting.start();
    // The households go, and the warehouse still tells them of orders.
    setting.manifest(&base(warehouse));
    applied(&host);
    assert_eq!(host.send("order", "1", "CreateOrder", &order()).status, 200);
    let status = host.until("it is dead-lettered", |status| status["dead_letters"]["total"] == 1);
    let letter = &status["dead_letters"]["newest"][0];
    assert!(letter["reason"].to_string().contains("no plugin serves aggregate type household"), "{letter:#}");
    let refused = host.send("household", "1", "RecordPurchase", &Value::Null);
    assert_eq!(refused.status, 404, "{refused:?}");
    setting.manifest(&base(&format!("{warehouse}{HOUSEHOLDS}")));
    applied(&host);
    let replayed = host.post(&format!("/v1/dead-letters/{}/replay", letter["number"]), &Value::Null, &[]);
    assert_eq!(replayed.body["outcome"], "accepted", "{replayed:?}");
    host.drained();
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    host.stop();
}

#[test]
fn plugins_are_loaded_and_unloaded_by_commands_that_keep_the_manifest_as_people_wrote_it() {
    let text = "# Orders come first.\n[plugins.orders] # the core\nfile = \"PLUGINS/orders.wasm\"\n";
    let setting = Setting::new(text);
    fs::copy(wasmill_tests::built::plugin("sales"), setting.path("sales.wasm")).expect("copy a plugin");
    let host = setting.start();
    let manifest = || fs::read_to_string(setting.path("wasmill.toml")).expect("read the manifest");
    let before = manifest();
    let told = |args: &[&str]| {
        let data = setting.path("data");
        setting.told(&[args, &["--data", data.to_str().expect("text")]].concat())
    };
    let (code, shown, errors) = told(&["plugins", "load", "sales.wasm"]);
    assert!(code == Some(0) && shown.contains("projection sales"), "{shown}{errors}");
    assert_eq!(manifest(), format!("{before}\n[plugins.sales]\nfile = \"sales.wasm\"\n"));
    assert_eq!(host.query("sales", "totals", &Value::Null).status, 200);
    let (code, _, errors) = told(&["plugins", "load", "sales.wasm"]);
    assert!(code == Some(1) && errors.contains("already has a plugin sales"), "{errors}");
    let (code, _, errors) = told(&["plugins", "load", "sales.wasm", "--name", "again"]);
    assert!(code == Some(1) && errors.contains("both have a projection sales"), "{errors}");
    assert_eq!(manifest(), format!("{before}\n[plugins.sales]\nfile = \"sales.wasm\"\n"), "it stays as it was");
    let (code, _, errors) = told(&["plugins", "unload", "sales"]);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(manifest().trim_end(), before.trim_end());
    assert_eq!(host.query("sales", "totals", &Value::Null).status, 404);
    let (code, _, errors) = told(&["plugins", "unload", "sales"]);
    assert!(code == Some(1) && errors.contains("no plugin is named sales; this host has orders"), "{errors}");
    setting.write(
        "wasmill.toml",
        format!("{before}# Not applied.\nhops_max = 3\n[plugins]\n")
            .replace("hops_max", "[host]\nstop_max_ms = 9000 #"),
    );
    host.until("the difference is noticed", |status| status["manifest"]["differs"] == true);
    let (code, _, errors) = told(&["plugins", "load", "sales.wasm"]);
    assert!(code == Some(1) && errors.contains("run `wasmill reload` first"), "{errors}");
    host.stop();
}

#[test]
fn a_manifest_says_whether_it_is_applied_at_once() {
    let auto = |more: &str| format!("reload = \"auto\"\n{}", base(more));
    let setting = Setting::new(&auto(""));
    let host = setting.start();
    setting.manifest(&auto(SALES));
    host.until("it is applied", |status| status["projections"][0]["name"] == "sales");
    setting.manifest(&auto("[plugins.sales"));
    host.until("it is refused", |status| status["manifest"]["error"].is_string());
    assert_eq!(host.query("sales", "totals", &Value::Null).status, 200);
    setting.manifest(&base(""));
    host.until("it is applied, and the last one that is", |status| status["projections"] == json!([]));
    setting.manifest(&base(SALES));
    host.until("it is shown", |status| status["manifest"]["differs"] == true);
    assert_eq!(host.status()["projections"], json!([]));
    host.hang_up();
    host.until("a signal applies it", |status| status["projections"][0]["name"] == "sales");
    host.stop();
}

/// Two people who reload at the same time, and a stop in the middle, do not disturb each other.
#[test]
fn reloads_take_turns() {
    let setting = Setting::new(&base(""));
    let host = setting.start();
    for round in 0..4 {
        setting.manifest(&base(if round % 2 == 0 { SALES } else { "" }));
        thread::scope(|scope| {
            (0..4).for_each(|_| _ = scope.spawn(|| applied(&host)));
        });
        assert_eq!(host.query("sales", "totals", &Value::Null).status, if round % 2 == 0 { 200 } else { 404 });
    }
    assert_eq!(host.log().matches("the changed manifest is applied").count(), 4, "{}", host.log());
    setting.manifest(&base(&format!("{SALES}{NOTIFIER}{DEADLINES}")));
    // A change and a stop at once.
    host.hang_up();
    host.terminate();
    assert_eq!(host.ended(), Some(0));
    let host = setting.start();
    host.drained();
    host.stop();
}
