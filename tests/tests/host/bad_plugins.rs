//! Plugins that can't serve. Each is refused in one sentence that names it, and nothing is started.

use wasmill::plugin::API_VERSION;
use wasmill_tests::hostile::{aggregate, projection, subscriber};
use wasmill_tests::module::{EMPTY, exporting, importing, parsed};
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
fn a_plugin_without_a_role() {
    let said = refusal(BAD, &[("bad.wasm", EMPTY)]);
    assert!(said.contains("exports no role: it exports nothing"), "{said}");
    let said = refusal(BAD, &[("bad.wasm", &exporting("wasi:http/incoming-handler@0.2.6"))]);
    assert!(said.contains(r#"exports no role: it exports "wasi:http/incoming-handler@0.2.6""#), "{said}");
}

#[test]
fn a_plugin_of_a_version_that_this_host_does_not_serve() {
    for (version, remedy) in [("1.7.0", "use a host of a later version"), ("0.3.0", "build it again for this contract")]
    {
        let said = refusal(BAD, &[("bad.wasm", &exporting(&format!("wasmill:plugin/aggregate@{version}")))]);
        let served =
            format!("was built for version {version} of the contract, and this host serves 1.0.0 to {API_VERSION}");
        assert!(said.contains(&served) && said.contains(remedy), "{said}");
    }
}

#[test]
fn a_plugin_without_the_functions_of_its_role() {
    let said = refusal(BAD, &[("bad.wasm", &exporting(&format!("wasmill:plugin/aggregate@{API_VERSION}")))]);
    let expected = format!("exports the role aggregate, but not as version {API_VERSION} of the contract has it");
    assert!(said.contains(&expected) && said.contains("docs/languages.md"), "{said}");
    // What is missing is named in the plugin's own version.
    let said = refusal(BAD, &[("bad.wasm", &exporting("wasmill:plugin/aggregate@1.0.0"))]);
    let expected = "as version 1.0.0 of the contract has it: instance export `wasmill:plugin/aggregate@1.0.0`";
    assert!(said.contains(expected) && !said.contains(API_VERSION), "{said}");
}

/// The names in a file may be anything. An error that shows one is one short line all the same.
#[test]
fn a_plugin_with_hostile_names() {
    let export =
        format!("(func (export \"wasmill:plugin/aggregate@{API_VERSION}#describe\") (result i32) (i32.const 0))");
    for name in [r"evil\0a\1b[2Jerror: forged\e2\80\ae".to_owned(), "x".repeat(100_000)] {
        for kind in [format!("(import \"{name}\" \"f\" (func))"), format!("(import \"a\" \"{name}\" (func))")] {
            let said = refusal(BAD, &[("bad.wasm", &parsed(&format!("(module {kind} {export})")))]);
            assert!(said.contains("plugin bad can't be turned into a component: "), "{said}");
            assert!(said.len() < 3_000 && said.contains("export macros"), "{} bytes: {said}", said.len());
            assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
        }
    }
    let import = format!("acme:gpu/{}@0.1.0", "x".repeat(10_000));
    let said = refusal(BAD, &[("bad.wasm", &importing(&import))]);
    assert!(said.len() < 1_000 && said.contains("are not granted"), "{said}");
}

/// The instance of a plugin may call the host while it starts. What it does wrong then is its own fault, and not the system's.
#[test]
fn a_plugin_that_breaks_a_rule_while_it_starts() {
    let start = ("module", "(func $start (call $begin (i32.const 0))) (start $start)");
    let said = refusal(BAD, &[("bad.wasm", &subscriber("order.*", &[start]))]);
    assert!(said.contains("plugin bad failed: bus.begin belongs to subscribers"), "{said}");
}

/// A projection's read models lie in a folder of its name, and those of other code are deleted.
#[test]
fn a_plugin_whose_names_lead_out_of_its_folder() {
    let setting = Setting::new(BAD);
    setting.write("bad.wasm", projection("sales", "order.*", &[]));
    setting.start().stop();
    let kept = ["events.sqlite", "events.lock"].map(|name| setting.path("data").join(name));
    for name in ["..", "/x", "X Y", ""] {
        setting.write("bad.wasm", projection(name, "order.*", &[]));
        let refused = setting.start_refused();
        assert!(!refused.status.success(), "{name:?} is accepted");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("the name of the projection must be 1 to 64 characters"), "{said}");
        assert!(kept.iter().all(|file| file.exists()), "{name:?} deletes files: {said}");
    }
    setting.write("bad.wasm", projection("sales", "order.*", &[]));
    setting.start().stop();
}

/// The bus belongs to subscribers and sagas, the read model to projections, and what is not in the contract to nobody.
#[test]
fn an_import_that_the_role_is_not_granted() {
    let of_contract = ["bus", "sql"].map(|interface| format!("wasmill:plugin/{interface}@{API_VERSION}"));
    for import in of_contract.iter().map(String::as_str).chain(["acme:gpu/compute@0.1.0"]) {
        let said = refusal(BAD, &[("bad.wasm", &importing(import))]);
        assert!(said.contains(import) && said.contains("(aggregate) are not granted"), "{said}");
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
