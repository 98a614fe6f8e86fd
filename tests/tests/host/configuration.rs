//! Settings and secrets of plugins: they are checked when a plugin is loaded and change without a restart. A changed
//! setting is new code, and a changed secret is not.

use serde_json::{Value, json};
use std::fs;
use wasmill_tests::built;
use wasmill_tests::host::{Answer, TestHost, make_pipe};
use wasmill_tests::setting::Setting;

const SECRET: &str = "hush-hush";

/// The manifest with a price, a zone's factor and more lines.
fn manifest(cents: &str, more: &str) -> String {
    format!(
        "reload = \"auto\"\n[plugins.tariffs]\nfile = \"PLUGINS/tariffs.wasm\"\nsecrets = {{ signing_key = {{ file = \"key\" }} }}\n\
         [plugins.tariffs.settings]\ncents_per_unit = {cents}\nzones = [{{ name = \"far\", factor = 10 }}]\n{more}"
    )
}

fn setting(cents: &str) -> Setting {
    let setting = Setting::new(&manifest(cents, ""));
    setting.write("key", SECRET);
    setting
}

fn add(host: &TestHost, units: i64, zone: &str) -> Answer {
    let answer = host.send("bill", "1", "Add", &json!({ "units": units, "zone": zone }));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// Returns a field of the newest event of a name.
fn newest(host: &TestHost, name: &str, field: &str) -> Value {
    host.drained();
    host.events(&format!("bill.{name}")).last().unwrap_or_else(|| panic!("there is no {name}"))["payload"][field]
        .clone()
}

fn sum(host: &TestHost) -> Value {
    host.drained();
    host.query("today", "Sum", &Value::Null).body
}

fn plugin(status: &Value) -> &Value {
    &status["plugins"][0]
}

#[test]
fn settings_and_secrets_reach_the_roles_that_get_them() {
    let setting = setting("3");
    let host = setting.start();
    add(&host, 5, "near");
    assert_eq!(newest(&host, "Added", "cents"), 15);
    add(&host, 5, "far");
    assert_eq!(newest(&host, "Added", "cents"), 150);
    assert_eq!(newest(&host, "Signed", "length"), SECRET.len());
    let leak = host.send("bill", "1", "Leak", &Value::Null);
    assert_eq!(leak.status, 500, "{leak:?}");
    assert!(leak.body.to_string().contains("only subscribers and sagas get secrets"), "{leak:?}");
    let status = host.status();
    let settings = json!({ "cents_per_unit": 3, "zones": [{ "name": "far", "factor": 10 }] });
    assert_eq!((&plugin(&status)["settings"], &plugin(&status)["secrets"]), (&settings, &json!(["signing_key"])));
    assert!(!format!("{status}{}", host.log()).contains(SECRET), "nobody shows a secret");
    host.stop();
}

#[test]
fn a_changed_setting_is_new_code_and_a_changed_secret_is_not() {
    let setting = setting("3");
    let host = setting.start();
    add(&host, 5, "near");
    assert_eq!(sum(&host), 15);
    let first = plugin(&host.status())["digest"].clone();

    setting.manifest(&manifest("4", ""));
    host.until("the new price is in force, also for what was counted", |status| {
        plugin(status)["settings"]["cents_per_unit"] == 4 && sum(&host) == 20
    });
    add(&host, 5, "near");
    assert_eq!(newest(&host, "Added", "cents"), 20);
    assert_eq!(sum(&host), 40);
    let second = plugin(&host.status())["digest"].clone();
    assert_ne!(first, second);

    // The manifest has not changed, so a person asks.
    setting.write("key", "hush");
    let reloaded = host.post("/v1/plugins/tariffs/reload", &Value::Null, &[]);
    assert_eq!(reloaded.status, 200, "{reloaded:?}");
    add(&host, 1, "near");
    assert_eq!(newest(&host, "Signed", "length"), 4);
    let status = host.status();
    assert_eq!((&plugin(&status)["digest"], &plugin(&status)["loads"]), (&second, &json!(3)));
    assert_eq!(status["projections"][0]["building"], Value::Null);

    // After a restart with other settings, the read model of the old ones answers until the new one is complete.
    host.crash();
    host.stop();
    setting.manifest(&manifest("5", ""));
    let host = setting.start();
    host.until("the newest price is in force", |_| {
        let asked = host.query("today", "Sum", &Value::Null);
        assert!(asked.status == 503 || asked.body == 44 || asked.body == 55, "{asked:?}");
        asked.body == 55
    });
    host.stop();
}

#[test]
fn what_a_plugin_does_not_take_changes_nothing_and_is_named() {
    let setting = setting("3");
    let host = setting.start();
    let refused = |part: &str| {
        let status = host.until("the status names the problem", |status| {
            status["manifest"]["error"].as_str().is_some_and(|error| error.contains(part))
        });
        assert_eq!(plugin(&status)["settings"]["cents_per_unit"], 3, "{status:#}");
        assert_eq!(plugin(&status)["loads"], 1);
    };
    setting.manifest(&manifest("\"3\"", ""));
    refused("settings: `cents_per_unit`: invalid type: string \"3\", expected i64");
    setting.manifest(&manifest("3", "cents_per_unti = 4\n"));
    refused("settings: unknown: `cents_per_unti`");
    setting.manifest(&manifest("3", "no toml"));
    refused("wasmill.toml:8:");
    setting.manifest(&manifest("3", "[plugins.tariffs.secrets.api]\nenv = \"WASMILL_NO_SUCH_VARIABLE\"\n"));
    refused("wasmill.toml:");
    setting.manifest(&manifest("3", "").replace("{ file = \"key\" }", "{ env = \"WASMILL_NO_SUCH_VARIABLE\" }"));
    refused("`plugins.tariffs.secrets.signing_key` is in the environment variable WASMILL_NO_SUCH_VARIABLE");
    add(&host, 5, "near");
    assert_eq!(newest(&host, "Added", "cents"), 15, "the old settings serve");
    // Whoever reads a pipe waits for a writer.
    setting.manifest(&manifest("3", ""));
    for (name, part) in [("key", "which is no regular file"), ("wasmill.toml", "is no regular file")] {
        let before = fs::read(setting.path(name)).expect("read it");
        let pipe = setting.path("pipe");
        make_pipe(&pipe);
        fs::rename(pipe, setting.path(name)).expect("put a pipe there");
        let path = if name == "key" { "/v1/plugins/tariffs/reload" } else { "/v1/manifest/reload" };
        let reloaded = host.post(path, &Value::Null, &[]);
        assert!(reloaded.status == 422 && reloaded.body.to_string().contains(part), "{reloaded:?}");
        setting.write(name, before);
    }
    setting.manifest(&manifest("3", "# corrected\n"));
    host.until("all is well again", |status| {
        status["manifest"]["error"].is_null() && status["manifest"]["differs"] == false && plugin(status)["loads"] == 1
    });
    host.stop();
}

#[test]
fn a_host_does_not_start_with_a_configuration_that_is_not_taken() {
    let refused = |manifest: &str, part: &str| {
        let setting = Setting::new(manifest);
        setting.write("key", SECRET);
        for output in [setting.start_refused(), setting.wasmill(&["check", "wasmill.toml"])] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(part) && !said.contains(SECRET), "{said}");
        }
    };
    refused(&manifest("true", ""), "settings: `cents_per_unit`: invalid type: boolean");
    refused(&manifest("nan", ""), "`plugins.tariffs.settings.cents_per_unit` must be a string, a number");
    refused(&manifest("3", "zone = 1\n"), "settings: unknown: `zone`; correct `plugins.tariffs.settings`");
    let whole = manifest("3", "");
    refused(&whole.replace("\"key\"", "\"no-key\""), "the secret `plugins.tariffs.secrets.signing_key` is in the file");
    refused(&whole.replace("signing_key", "key"), "secrets: missing field `signing_key`, and unknown: `key`");
    refused(
        &whole.replace("{ file = \"key\" }", "\"hush-hush\""),
        "`plugins.tariffs.secrets.signing_key` must be { env",
    );
    let orders = "[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n";
    refused(&format!("{orders}settings = {{ cents = 1 }}\n"), "takes no settings: remove `plugins.orders.settings`");
    let secrets = format!("{orders}secrets = {{ key = {{ file = \"key\" }} }}\n");
    refused(&secrets, "takes no secrets: remove `plugins.orders.secrets`");
}

#[test]
fn a_plugin_that_can_not_be_loaded_does_not_hold_up_the_settings_of_another() {
    let relay = "[plugins.relay]\nfile = \"relay.wasm\"\n";
    let with_relay = |cents: &str| manifest(cents, relay);
    let setting = Setting::new(&with_relay("3"));
    setting.write("key", SECRET);
    setting.write("relay.wasm", fs::read(built::plugin("relay")).expect("read a plugin"));
    let host = setting.start();
    setting.write("relay.wasm", "no plugin");
    let of_tariffs = |status: &Value| status["plugins"][1]["settings"]["cents_per_unit"].clone();
    host.until("the file is refused", |status| status["plugins"][0]["error"].is_string());
    setting.manifest(&with_relay("4"));
    host.until("the new price is in force", |status| of_tariffs(status) == 4);
    host.drained();
    add(&host, 5, "near");
    assert_eq!(newest(&host, "Added", "cents"), 20);
    let status = host.status();
    assert!(
        status["plugins"][0]["error"].as_str().is_some_and(|error| error.contains("is not WebAssembly")),
        "{status:#}"
    );
    assert_eq!(status["plugins"][1]["error"], Value::Null);
    host.stop();
}
