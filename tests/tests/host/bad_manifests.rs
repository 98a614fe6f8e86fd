//! A bad manifest is refused with its place, what was expected and the nearest valid key; nothing is started.

use wasmill_tests::setting::{ORDERS, Setting};

/// A manifest after the plugin `orders`, and what the refusal must say.
const CASES: [(&str, &[&str]); 8] = [
    ("[store]\nqueue_mx = 1", &["wasmill.toml:4", "store.queue_mx", "queue_max"]),
    ("[sorce.baskets]\ntopic = \"baskets\"", &["wasmill.toml:3", "sorce", "sources"]),
    ("[store]\nqueue_max = \"many\"", &["wasmill.toml:4", "store.queue_max", "whole number", "many"]),
    ("[api]\nlisten = \"0.0.0.0:80\"", &["wasmill.toml:4", "api.listen", "loopback"]),
    ("[plugins.orders.limits]\nmemory_mib = 0", &["wasmill.toml:4", "plugins.orders.limits.memory_mib", "from 1"]),
    ("[plugins.sales]\nshards = 2", &["wasmill.toml:3", "plugins.sales.file"]),
    (
        "[kafka]\nbrokers = \"embedded\"\n[sources.baskets]\ntopic = \"baskets\"",
        &["wasmill.toml:5", "sources.baskets.aggregate"],
    ),
    ("[kafka", &["wasmill.toml:3"]),
];

#[test]
fn every_problem_names_its_place_and_the_remedy() {
    for (text, expected) in CASES {
        let setting = Setting::new(&format!("{ORDERS}{text}\n"));
        let refused = setting.start_refused();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{text}\n{said}");
        for part in expected {
            assert!(said.contains(part), "{text}\nshould name `{part}`: {said}");
        }
        assert!(!setting.path("data").exists(), "{text}\nleft a data folder behind");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let refused = Setting::new("[api]\nlisten = 1\n[store]\nbatch_max = 0\n").start_refused();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("api.listen") && said.contains("store.batch_max"), "{said}");
}

#[test]
fn a_manifest_that_is_not_there_is_named() {
    let refused = Setting::new(ORDERS).wasmill(&["check", "absent.toml"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("absent.toml"), "{said}");
}
