//! Bad manifests. The refusal names the place, what was expected and the nearest valid key, and nothing is started.

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

/// Bytes that are no manifest that anybody wrote, and what is said of them.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut bom = b"\xef\xbb\xbf".to_vec();
    bom.extend(b"[store]\nqueue_mx = 1\n");
    vec![
        ("not UTF-8", b"\ndata = \"\xff\xfe\"".to_vec(), "line 2 is not UTF-8"),
        ("UTF-16", "data = 1".encode_utf16().flat_map(u16::to_le_bytes).collect(), "wasmill.toml:1"),
        ("a byte order mark", bom, "store.queue_mx"),
        ("NUL", text("data = \"a\0b\""), "wasmill.toml:1"),
        ("ESC in a name", text("[plugins.\"\\u001b[2J\"]\nfile = \"x\""), "wasmill.toml:1"),
        ("a line break in a name", text("[sources.\"a\\nb\"]\ntopic = \"x\""), "wasmill.toml:1"),
        ("a path for a name", text("[projections.\"../../etc\"]\nbatch_max = 1"), "wasmill.toml:1"),
        ("a key twice", text("data = \"a\"\ndata = \"b\""), "wasmill.toml:2"),
        ("a number without end", text(&format!("[store]\nqueue_max = {}", "9".repeat(10_000))), "wasmill.toml:2"),
        ("no number", text("[store]\nqueue_max = nan"), "store.queue_max"),
        ("a hundred thousand brackets", text(&format!("data = {}", "[".repeat(100_000))), "wasmill.toml:1"),
        ("a table in a table in a table", text(&format!("[{}a]", "a.".repeat(50_000))), "wasmill.toml:1"),
        ("ten mebibytes of a key", text(&format!("{} = 1", "k".repeat(10 << 20))), "longer than a mebibyte"),
        ("a long key", text(&format!("{} = 1", "k".repeat(500_000))), "wasmill.toml:1"),
        ("no end of a text", text("data = \"\"\"never"), "wasmill.toml:1"),
    ]
}

#[test]
fn hostile_bytes_are_refused_in_a_few_words_and_leave_nothing() {
    for (what, bytes, expected) in hostile() {
        let setting = Setting::new(ORDERS);
        setting.write("wasmill.toml", bytes);
        let refused = setting.start_refused();
        let said = String::from_utf8(refused.stderr).expect("text");
        let start: String = said.chars().take(2_000).collect();
        assert_eq!(refused.status.code(), Some(2), "{what}: {start}");
        assert!(said.contains(expected) && said.len() < 20_000, "{what}: {} bytes, {start}", said.len());
        assert!(!said.chars().any(|char| char.is_control() && char != '\n'), "{what}: {start}");
        assert!(!said.contains("panicked") && !setting.path("data").exists(), "{what}: {start}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let refused = Setting::new("[api]\nlisten = 1\n[store]\nbatch_max = 0\n").start_refused();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("api.listen") && said.contains("store.batch_max"), "{said}");
}

#[test]
fn a_manifest_without_a_plugin_is_refused_by_check_and_by_run() {
    for text in ["", "data = \"data\"\n"] {
        let setting = Setting::new(text);
        for refused in [setting.wasmill(&["check", "wasmill.toml"]), setting.start_refused()] {
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(refused.status.code() == Some(1) && said.contains("add a section [plugins.NAME]"), "{refused:?}");
        }
        assert!(!setting.path("data").exists(), "{text}\nleft a data folder behind");
    }
}

#[test]
fn a_manifest_that_is_not_there_is_named() {
    let refused = Setting::new(ORDERS).wasmill(&["check", "absent.toml"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("absent.toml"), "{said}");
}
