//! `wasmill test MANIFEST FLOWS…` runs flows through the compiled plugins of a manifest.

use serde_json::Value;
use wasmill_tests::built;
use wasmill_tests::setting::Setting;

fn test(setting: &Setting, args: &[&str]) -> (Option<i32>, String, String) {
    setting.told(&[&["test", "wasmill.toml"], args].concat())
}

fn flows_of_the_bank() -> String {
    std::fs::read_to_string(built::bank().join("flows.toml")).expect("the example's flows")
}

fn bank(change: impl Fn(String) -> String) -> Setting {
    let setting = Setting::bank();
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).expect("the manifest");
    setting.write("wasmill.toml", change(manifest));
    setting.write("flows.toml", flows_of_the_bank());
    setting
}

#[test]
fn the_bank_does_what_its_flows_say() {
    let setting = bank(|manifest| manifest);
    let (code, told, error) = test(&setting, &["flows.toml"]);
    assert_eq!(code, Some(0), "{told}{error}");
    assert!(
        told.starts_with("wasmill.toml, flows.toml\n  held    money moves from one account to another\n"),
        "{told}"
    );
    assert!(told.ends_with("4 held, 0 failed\n"), "{told}");
    assert!(!setting.path("data").exists(), "the data of the manifest is not touched");
}

#[test]
fn a_changed_rule_fails_the_flow_that_shows_it() {
    let setting = bank(|manifest| manifest.replace("approval_minutes = 60", "approval_minutes = 30"));
    let (code, told, _) = test(&setting, &["flows.toml"]);
    assert_eq!(code, Some(1), "{told}");
    for part in [
        "  FAILED  a large transfer that nobody approves in time is refunded\n",
        "step 5, the clock moves by 59m 59s: the events are not the expected ones",
        "+ account/ada Refunded {",
        "2 held, 2 failed\n",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let (code, told, _) = test(&setting, &["flows.toml", "--json"]);
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let failed = lines.iter().filter(|line| line["held"] == false && line["difference"].is_string()).count();
    assert_eq!((code, lines.len(), failed), (Some(1), 4, 2), "{told}");
}

#[test]
fn messages_and_dead_letters_are_seen_without_kafka() {
    let manifest = "[kafka]\nbrokers = \"nobody:1\"\n[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n\
        [plugins.households]\nfile = \"PLUGINS/households.wasm\"\nsettings = { loyal_from_cents = 60 }\n\
        [plugins.warehouse]\nfile = \"PLUGINS/warehouse.wasm\"\n[plugins.notifier]\nfile = \"PLUGINS/notifier.wasm\"\n\
        [sources.baskets]\ntopic = \"baskets\"\naggregate = \"order\"\ncommand = \"CreateOrder\"\n";
    let setting = Setting::new(manifest);
    let item = "{ product_id = \"3\", quantity = 1, amount_cents = 50, discount_cents = 0 }";
    let order = |id: &str, then: &str| {
        format!(
            "{{ send = \"CreateOrder\", to = \"order/{id}\", payload = {{ household_id = \"h\", store_id = \"2\", \
             placed_at = \"2017-01-01T11:53:26Z\", items = [{item}] }}, {then} }},\n"
        )
    };
    let news = |key: &str| format!("{{ topic = \"notifications\", key = \"{key}\" }}");
    let first = order("1", &format!("then.messages = [{}]", news("1")));
    let second = order("2", &format!("then.messages = [{}, {}]", news("2"), news("h")));
    setting.write("flows.toml", format!("[[flow]]\nname = \"news\"\nsteps = [\n{first}{second}]\n"));
    let (code, told, error) = test(&setting, &["flows.toml"]);
    // Which of both messages of the second order comes first is not known, and does not count.
    assert_eq!(code, Some(0), "{told}{error}");
    setting.write(
        "flows.toml",
        format!("[[flow]]\nname = \"no news\"\nsteps = [\n{}]\n", order("1", "then.messages = []")),
    );
    let (code, told, _) = test(&setting, &["flows.toml"]);
    assert!(code == Some(1) && told.contains("+ notifications message key 1 value {"), "{told}");
}

#[test]
fn what_a_flow_names_must_exist() {
    let setting = bank(|manifest| manifest);
    let refused = |steps: &str, part: &str| {
        setting.write("flows.toml", format!("[[flow]]\nname = \"a\"\nsteps = [{steps}]\n"));
        let (code, told, error) = test(&setting, &["flows.toml"]);
        assert!(matches!(code, Some(1 | 2)) && format!("{told}{error}").contains(part), "{part}: {told}{error}");
    };
    refused("{ send = \"Open\", to = \"acount/a\" }", "there is no aggregate type acount; did you mean account?");
    refused("{ send = \"Opn\", to = \"account/a\" }", "it is malformed: unknown name `Opn`: known are Open,");
    let event = "{ advance = \"1s\", then.events = [{ on = \"account/a\", name = \"Debitted\" }] }";
    refused(event, "there is no event of aggregate type account Debitted; did you mean Debited?");
    refused("{ query = \"statement/totals\" }", "there is no projection statement; did you mean statements?");
    refused("{ query = \"statements/total\" }", "it answers account, statement, totals");
    refused("{ send = \"Open\" }", "step 1: `to` is missing");
    let setting = bank(|manifest| manifest.replace("transfers.wasm", "no-such.wasm"));
    let (code, _, error) = test(&setting, &["flows.toml"]);
    assert!(code == Some(1) && error.contains("plugin transfers can't be read from"), "{error}");
    let (code, _, error) = test(&setting, &["absent.toml"]);
    assert!(code == Some(2) && error.contains("the flows in absent.toml: they can't be read"), "{error}");
}

#[test]
fn schedules_are_due_each_at_its_time() {
    let manifest = "[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n[schedules.each-minute]\ncron = \"* * * * *\"\n\
        aggregate = \"cart\"\nid = \"c\"\ncommand = \"AddItems\"\n\
        payload = { items = [{ product_id = \"p\", quantity = 1, amount_cents = 1 }] }\n";
    let setting = Setting::new(manifest);
    let added = "{ on = \"cart/c\", name = \"ItemsAdded\" }";
    let sixty = vec![added; 60].join(", ");
    let steps = format!("{{ advance = \"29s\", then.events = [] }}, {{ advance = \"1h\", then.events = [{sixty}] }}");
    setting.write(
        "flows.toml",
        format!("[[flow]]\nname = \"an hour\"\nstart = \"2026-01-01T00:00:30Z\"\nsteps = [{steps}]\n"),
    );
    let (code, told, error) = test(&setting, &["flows.toml"]);
    assert_eq!(code, Some(0), "{told}{error}");
}
