//! `wasmill test` runs a compiled plugin through the cases that the tests of its own crate run natively.

use serde_json::Value;
use wasmill_tests::built;
use wasmill_tests::setting::Setting;

fn test(setting: &Setting, args: &[&str]) -> (Option<i32>, String, String) {
    let orders = built::plugin("orders");
    let args = [&["test", orders.to_str().expect("a path of text")], args].concat();
    setting.told(&args)
}

fn cases() -> String {
    let file = built::workspace().join("plugins/orders/cases/orders.toml");
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

#[test]
fn what_cannot_be_tested_is_said_before_anything_is() {
    let setting = Setting::new("");
    setting.write("of-another.toml", cases().replace("aggregate = \"order\"", "aggregate = \"household\""));
    setting.write("damaged.toml", "aggregate = ");
    for (args, said) in [
        (["of-another.toml"], "for aggregate household, but plugin orders 0.1.0 is aggregate order"),
        (["damaged.toml"], "damaged.toml"),
        (["absent.toml"], "can't be read"),
    ] {
        let (code, told, error) = test(&setting, &args);
        assert!(code == Some(2) && told.is_empty() && error.contains(said), "{args:?}: {code:?} {told} {error}");
    }
}
