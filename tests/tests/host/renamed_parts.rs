//! Plugins that are renamed in the manifest. The host does not take them for new ones but asks, and `was` renames their
//! places.

use serde_json::json;
use wasmill_tests::built;
use wasmill_tests::setting::Setting;

fn manifest(name: &str, settings: &str) -> String {
    format!(
        "[plugins.{name}]\nfile = {:?}\nshards = 1\n[subscriptions.{name}]\nattempts_max = 1\n{settings}\n",
        built::plugin("misbehaving")
    )
}

#[test]
fn a_renamed_plugin_goes_on_where_it_was_once_a_person_says_so() {
    let setting = Setting::new(&manifest("old", ""));
    let host = setting.start();
    for id in ["a", "b"] {
        assert_eq!(host.send("misbehaving", id, "Count", &json!({ "then": "CannotDecode" })).status, 200);
    }
    host.until("both are dead-lettered", |status| status["dead_letters"]["total"] == 2);
    host.stop();

    setting.manifest(&manifest("new", ""));
    let refused = setting.start_refused();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("subscription/new is new") && said.contains("was = \"old\""), "{said}");
    let checked = setting.wasmill(&["check", "wasmill.toml"]);
    assert!(String::from_utf8_lossy(&checked.stderr).contains("was = \"old\""), "{checked:?}");

    setting.manifest(&manifest("new", "was = \"old\""));
    let checked = setting.wasmill(&["check", "wasmill.toml"]);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(
        said.contains("at the next start: subscription/old will be named new") && !said.contains("only in"),
        "{said}"
    );
    let host = setting.start();
    host.drained();
    let status = host.status();
    assert_eq!(status["dead_letters"]["total"], 2, "nothing was handled a second time");
    assert!(
        status["dead_letters"]["newest"].as_array().is_some_and(|all| all.iter().all(|one| one["consumer"] == "new"))
    );
    assert_eq!(status["subscriptions"][0]["checkpoint"], 2);
    host.stop();

    // Written out, it begins at the beginning, beside what is left behind, which a person then forgets.
    setting.manifest(&manifest("newest", "start = \"beginning\""));
    let host = setting.start();
    host.until("both are dead-lettered again", |status| status["dead_letters"]["total"] == 4);
    host.until_logged("what is left behind", |line| line.contains("subscription/new (at position 2)"));
    host.stop();
    let orphans = |more: &[&str]| {
        let listed = setting.wasmill(&[&["store", "orphans", "wasmill.toml"], more].concat());
        (listed.status.success(), String::from_utf8_lossy(&listed.stdout).into_owned())
    };
    assert!(orphans(&[]).1.contains("only in the store: subscription/new (at position 2)"));
    assert!(!orphans(&["--forget", "subscription/newest"]).0, "it is in the manifest");
    assert!(orphans(&["--forget", "subscription/new"]).1.contains("forgotten: subscription/new"));
    assert_eq!(orphans(&[]), (true, "the manifest has every part that the store knows\n".to_owned()));
    let checked = setting.wasmill(&["check", "wasmill.toml"]);
    assert!(checked.status.success() && !String::from_utf8_lossy(&checked.stdout).contains("only in"), "{checked:?}");
}
