//! Plugins that can't serve. Each is refused in one sentence that names it, and nothing is started.

use wasmill_tests::built;
use wasmill_tests::hostile::{aggregate, subscriber};
use wasmill_tests::module::{EMPTY, described, importing};
use wasmill_tests::setting::Setting;

fn refusal(manifest: &str, modules: &[(&str, &[u8])]) -> String {
    let setting = Setting::new(manifest);
    for (name, content) in modules {
        setting.write(name, content);
    }
    let checked = setting.wasmill(&["check", "wasmill.toml"]);
    assert!(!checked.status.success(), "check accepts it");
    let refused = setting.start_refused();
    assert!(!refused.status.success(), "run accepts it");
    assert!(!setting.path("data/host.json").exists(), "it serves");
    let said = String::from_utf8(refused.stderr).expect("text");
    let sentences: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(sentences.len(), 1, "one sentence: {said}");
    sentences[0].to_owned()
}

const BAD: &str = "[plugins.bad]\nfile = \"bad.wasm\"\n";

#[test]
fn a_missing_plugin() {
    let said = refusal(BAD, &[]);
    assert!(said.contains("bad") && said.contains("bad.wasm"), "{said}");
}

#[test]
fn a_plugin_that_is_not_wasm() {
    let said = refusal(BAD, &[("bad.wasm", b"#!/bin/sh\n")]);
    assert!(said.contains("bad") && said.contains("not WebAssembly"), "{said}");
}

#[test]
fn a_plugin_without_the_section() {
    let said = refusal(BAD, &[("bad.wasm", EMPTY)]);
    assert!(said.contains("no section `wasmill:plugin`"), "{said}");
}

#[test]
fn a_plugin_of_another_api_version() {
    let section = r#"{"api":"9.0.0","plugin":"bad","version":"1.0.0","role":"aggregate","type":"order"}"#;
    let said = refusal(BAD, &[("bad.wasm", &described(section))]);
    assert!(said.contains("9.0.0") && said.contains("0.8.0"), "{said}");
}

#[test]
fn a_plugin_without_a_role() {
    let section = r#"{"api":"0.8.0","plugin":"bad","version":"1.0.0"}"#;
    let said = refusal(BAD, &[("bad.wasm", &described(section))]);
    assert!(said.contains("no role"), "{said}");
}

#[test]
fn a_plugin_that_does_not_have_what_it_claims() {
    let section = r#"{"api":"0.8.0","plugin":"bad","version":"1.0.0","role":"aggregate","type":"order"}"#;
    let said = refusal(BAD, &[("bad.wasm", &described(section))]);
    assert!(said.contains("bad"), "{said}");
}

/// A projection's read models lie in a folder of its name, and those of other code are deleted.
#[test]
fn a_plugin_whose_names_lead_out_of_its_folder() {
    let sales = std::fs::read(built::plugin("sales")).expect("read a plugin");
    let named = |name: &str| {
        // As long as the right one, so that no length in the file changes.
        let (right, wrong) = (br#""name":"sales""#, format!("{:14}", format!("\"name\":\"{name}\"")));
        // The section is the last place that has it: the code has the text as well.
        let at = sales.windows(right.len()).rposition(|part| part == right).expect("the section names it");
        let mut patched = sales.clone();
        patched[at..at + right.len()].copy_from_slice(wrong.as_bytes());
        patched
    };
    let setting = Setting::new(BAD);
    setting.write("bad.wasm", &sales);
    setting.start().stop();
    let kept = ["events.sqlite", "events.lock"].map(|name| setting.path("data").join(name));
    for name in ["..", "/x", "X Y", ""] {
        setting.write("bad.wasm", named(name));
        let refused = setting.start_refused();
        assert!(!refused.status.success(), "{name:?} is accepted");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("wrong `name`: it must be 1 to 64 characters"), "{said}");
        assert!(kept.iter().all(|file| file.exists()), "{name:?} deletes files: {said}");
    }
    setting.write("bad.wasm", &sales);
    setting.start().stop();
}

/// Purity by absence: a clock belongs to nobody, and the bus to subscribers.
#[test]
fn an_import_that_the_role_is_not_granted() {
    let section = r#"{"api":"0.8.0","plugin":"bad","version":"1.0.0","role":"aggregate","type":"order"}"#;
    for import in ["wasi:clocks/wall-clock@0.2.0", "wasmill:plugin/bus@0.8.0", "wasmill:plugin/sql@0.8.0"] {
        let said = refusal(BAD, &[("bad.wasm", &importing(import, section))]);
        assert!(said.contains(import) && said.contains("(aggregate order) are not granted"), "{said}");
    }
}

#[test]
fn an_aggregate_type_that_two_plugins_claim() {
    let manifest =
        "[plugins.first]\nfile = \"PLUGINS/orders.wasm\"\n[plugins.second]\nfile = \"PLUGINS/orders-limited.wasm\"\n";
    let said = refusal(manifest, &[]);
    assert!(said.contains("order") && said.contains("first") && said.contains("second"), "{said}");
}

/// `check` refuses a misspelt event of an aggregate that is there, and warns of one of an aggregate that is not.
#[test]
fn a_subscription_that_no_event_matches_is_found() {
    let plugin = |name: &str| format!("[plugins.{name}]\nfile = \"{name}.wasm\"\n");
    let setting = Setting::new(&(plugin("account") + &plugin("fees")));
    setting.write("account.wasm", aggregate("account", &[]));
    let checked = |events: &str| {
        setting.write("fees.wasm", subscriber(events, &[]));
        let output = setting.wasmill(&["check", "wasmill.toml"]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    for fits in ["account.Done", "account.*", "*.Done", "**"] {
        let (code, said) = checked(fits);
        assert!(code == Some(0) && !said.contains("warning"), "{fits}: {said}");
    }
    let (code, said) = checked("account.Dome");
    let expected = "subscribes to `account.Dome`, and account has no such event (did you mean `account.Done`?); its events are Done";
    assert!(code == Some(1) && said.contains(expected), "{said}");
    let (code, said) = checked("acount.Done");
    let expected = "warning: plugin fees 0.1.0 subscribes to `acount.Done`, and no plugin of this manifest records such events \
                    (did you mean `account.Done`?)";
    assert!(code == Some(0) && said.contains(expected), "{said}");
    // A host starts with either, and says so in its log.
    checked("account.Dome");
    let host = setting.start();
    host.until_logged("the misspelt event", |line| line.contains("WARN") && line.contains("account has no such event"));
    host.stop();
}
