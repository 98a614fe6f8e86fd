//! `wasmill test` runs a compiled plugin through the cases that the tests of its own crate run natively.

use serde_json::Value;
use wasmill_tests::built;
use wasmill_tests::setting::Setting;

fn test(setting: &Setting, args: &[&str]) -> (Option<i32>, String, String) {
    test_of("orders", setting, args)
}

fn test_of(plugin: &str, setting: &Setting, args: &[&str]) -> (Option<i32>, String, String) {
    let plugin = built::plugin(plugin);
    let args = [&["test", plugin.to_str().expect("a path of text")], args].concat();
    setting.told(&args)
}

fn cases() -> String {
    cases_of("orders")
}

fn cases_of(plugin: &str) -> String {
    let file = built::workspace().join(format!("plugins/{plugin}/cases/{plugin}.toml"));
    std::fs::read_to_string(file).expect("the example's cases")
}

#[test]
fn the_example_holds_in_the_runtime_as_it_does_natively() {
    let setting = Setting::new("");
    setting.write("orders.toml", cases());
    let (code, told, _) = test(&setting, &["orders.toml"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.starts_with("orders 0.1.0, orders.toml\n  held    a basket makes an order"), "{told}");
    assert!(told.ends_with("5 held, 0 failed\n"), "{told}");
}

#[test]
fn a_case_that_does_not_hold_is_shown_with_the_difference() {
    let setting = Setting::new("");
    let wrong = cases().replace("amount_cents = 150", "amount_cents = 151").replace("at least one item", "no item");
    setting.write("wrong.toml", wrong);
    let (code, told, _) = test(&setting, &["wrong.toml"]);
    assert_eq!(code, Some(1), "{told}");
    let marked: Vec<&str> = told.lines().map(str::trim_start).filter(|line| line.starts_with(['-', '+'])).collect();
    let expected = [
        r#"-   "amount_cents": 151,"#,
        r#"+   "amount_cents": 150,"#,
        "- no item",
        "+ an order needs at least one item",
    ];
    assert_eq!(marked, expected, "{told}");
    assert!(told.ends_with("3 held, 2 failed\n"), "{told}");
    let (code, told, _) = test(&setting, &["wrong.toml", "--json"]);
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let failed = lines.iter().filter(|line| line["held"] == false && line["difference"].is_string()).count();
    assert_eq!((code, lines.len(), failed), (Some(1), 5, 2), "{told}");
}

/// Changes one thing of the cases of a role, and expects the case that has it to fail with these lines.
#[test]
fn the_cases_of_each_role_hold_in_the_runtime_and_a_wrong_one_is_shown() {
    let setting = Setting::new("");
    for (plugin, held, from, to, shown) in [
        (
            "warehouse",
            2,
            "amount_cents = 150 } },\n]",
            "amount_cents = 151 } },\n]",
            vec![r#"-   "amount_cents": 151,"#, r#"+   "amount_cents": 150,"#],
        ),
        (
            "notifier",
            2,
            "type = \"order_confirmed\" }\n",
            "type = \"order\" }\n",
            vec!["- } header type order", "+ } header type order_confirmed"],
        ),
        (
            "transfer-process",
            7,
            "\"5m\"",
            "\"6m\"",
            vec!["- wake approval due after 6m", "+ wake approval due after 5m"],
        ),
        (
            "statements",
            4,
            "balance_cents = 300",
            "balance_cents = 301",
            vec![r#"-   "balance_cents": 301,"#, r#"+   "balance_cents": 300,"#],
        ),
    ] {
        let cases = cases_of(plugin);
        setting.write("cases.toml", &cases);
        let (code, told, error) = test_of(plugin, &setting, &["cases.toml"]);
        assert_eq!(code, Some(0), "{plugin}: {told}{error}");
        assert!(told.ends_with(&format!("{held} held, 0 failed\n")), "{told}");
        assert!(cases.contains(from), "{plugin}: {from}");
        setting.write("cases.toml", cases.replacen(from, to, 1));
        let (code, told, _) = test_of(plugin, &setting, &["cases.toml"]);
        let marked: Vec<&str> = told.lines().map(str::trim_start).filter(|line| line.starts_with(['-', '+'])).collect();
        assert_eq!((code, marked), (Some(1), shown), "{plugin}: {told}");
        assert!(told.ends_with(&format!("{} held, 1 failed\n", held - 1)), "{told}");
    }
}

#[test]
fn an_event_that_a_compiled_plugin_does_not_take_is_said() {
    let setting = Setting::new("");
    let of_event = |head: &str, event: &str, then: &str| {
        format!("{head}\n[[case]]\nname = \"a\"\nwhen = {{ {event} }}\nthen = {{ {then} }}\n")
    };
    let of_statements = |event: &str| {
        let given = format!("given = [{{ {event} }}]\nwhen.query = \"totals\"");
        format!("projection = \"statements\"\n[[case]]\nname = \"a\"\n{given}\nthen.answer = 0\n")
    };
    let saga = "saga = \"transfer-process\"";
    for (plugin, cases, said) in [
        (
            "warehouse",
            of_event("subscriber = \"warehouse\"", "on = \"order/7\", name = \"OrderLost\"", "effects = []"),
            "no subscription selects order.OrderLost",
        ),
        ("warehouse", of_event("subscriber = \"warehouse\"", "timer = \"t\"", "effects = []"), "got a malformed input"),
        (
            "transfer-process",
            of_event(saga, "on = \"transfer/t1\", name = \"Approved\"", "events = []"),
            "transfer.Approved does not start one",
        ),
        (
            "transfer-process",
            of_event(&format!("{saga}\n"), "on = \"transfer/t1\", name = \"Requested\"", "events = []"),
            "got a malformed input: Requested",
        ),
        (
            "statements",
            of_statements("on = \"account/ada\", name = \"Audited\""),
            "event 1 in `given`, Audited of account/ada, is not folded: the code does not know it",
        ),
        (
            "statements",
            of_statements("on = \"account/ada\", name = \"Deposited\", payload = {}"),
            "event 1 in `given`, Deposited of account/ada, is not folded: a malformed input: Deposited: missing field",
        ),
    ] {
        setting.write("cases.toml", &cases);
        let (code, told, error) = test_of(plugin, &setting, &["cases.toml"]);
        assert!(code == Some(1) && told.contains(said), "{plugin}: {code:?} {told}{error}");
    }
}

#[test]
fn what_cannot_be_tested_is_said_before_anything_is() {
    let setting = Setting::new("");
    setting.write("of-another.toml", cases().replace("aggregate = \"order\"", "aggregate = \"household\""));
    setting.write("damaged.toml", "aggregate = ");
    setting.write("of-subscriber.toml", cases_of("warehouse"));
    for (args, said) in [
        (["of-subscriber.toml"], "for subscriber warehouse, but plugin orders 0.1.0 is aggregate order"),
        (["of-another.toml"], "for aggregate household, but plugin orders 0.1.0 is aggregate order"),
        (["damaged.toml"], "damaged.toml"),
        (["absent.toml"], "can't be read"),
    ] {
        let (code, told, error) = test(&setting, &args);
        assert!(code == Some(2) && told.is_empty() && error.contains(said), "{args:?}: {code:?} {told} {error}");
    }
}
