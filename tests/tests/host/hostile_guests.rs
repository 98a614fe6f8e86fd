//! A table of hostile guests: what each does, what contains it, and that everybody else keeps working meanwhile.
//!
//! The guests of a role are plugins of one host with short limits, beside healthy ones. After each case a healthy
//! aggregate answers as before. The panic names the case that fails.

use serde_json::{Value, json};
use wasmill_tests::host::{Answer, TestHost};
use wasmill_tests::hostile::{Replaced, aggregate, projection, saga, subscriber, subscriber_of_newest};
use wasmill_tests::module::{EMPTY, exporting, importing};
use wasmill_tests::setting::Setting;

const LIMITS: &str = "event_time_ms = 100\nmemory_mib = 16\noutput_mib = 1\ntable_elements = 1000\neffects_max = 100\n";

const ENDLESS: &str = "(loop (br 0)) (unreachable)";

/// A plugin of the manifest, with short limits.
fn plugin(name: &str) -> String {
    format!("[plugins.{name}]\nfile = \"{name}.wasm\"\nshards = 1\n[plugins.{name}.limits]\n{LIMITS}")
}

fn go(host: &TestHost, name: &str) -> Answer {
    host.send(name, "a", "Go", &Value::Null)
}

fn healthy(host: &TestHost, after: &str) {
    let answer = go(host, "healthy");
    assert_eq!(answer.status, 200, "after `{after}` a healthy aggregate does not answer: {answer:?}\n{}", host.log());
}

/// What an aggregate does, as a function's new body; and what comes of the commands that are sent to it: the status and a
/// part of the reason.
struct Aggregate(&'static str, &'static [Replaced<'static>], &'static [(u16, &'static str)]);

const TOO_LONG: &str = "it took longer than 100ms: make it faster or raise limits.event_time_ms";
const BACK_TO_WORK: (u16, &str) = (200, "");

/// The first call of `handle` in a guest is answered, the second one traps: the third command finds the aggregate rebuilt.
const ONCE: &str = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (if (i32.gt_u (global.get $calls) (i32.const 1)) (then (unreachable)))
    (i32.const 1104)";

const AGGREGATES: [Aggregate; 26] = [
    Aggregate("handle-loops", &[("handle", ENDLESS)], &[(500, TOO_LONG), (500, TOO_LONG)]),
    Aggregate("constructor-loops", &[("constructor", ENDLESS)], &[(500, TOO_LONG)]),
    Aggregate("realloc-loops", &[("realloc", ENDLESS)], &[(500, TOO_LONG)]),
    Aggregate(
        "apply-loops",
        &[("handle", ONCE), ("apply", ENDLESS)],
        &[BACK_TO_WORK, (500, "unreachable"), (500, "can't rebuild apply-loops/a: event Done at version 1 (it took longer")],
    ),
    Aggregate(
        "apply-fails-beyond-its-list",
        &[
            ("handle", ONCE),
            (
                "apply",
                "(i32.store (i32.const 2000) (i32.const 1)) (i32.store (i32.const 2008) (i32.const -1))
                 (i32.store (i32.const 2016) (i32.const 1)) (i32.store (i32.const 2024) (i32.const 1032))
                 (i32.store (i32.const 2028) (i32.const 4)) (i32.const 2000)",
            ),
        ],
        &[BACK_TO_WORK, (500, "unreachable"), (500, "event Done at version 1 (malformed: Done)")],
    ),
    Aggregate("handle-traps", &[("handle", "(unreachable)")], &[(500, "unreachable"), (500, "unreachable")]),
    Aggregate(
        "recursion",
        &[("module", "(func $deep (call $deep) (call $deep))"), ("handle", "(call $deep) (i32.const 1104)")],
        &[(500, "call stack exhausted")],
    ),
    Aggregate(
        "memory",
        &[("handle", "(drop (memory.grow (i32.const 1000))) (i32.const 1104)")],
        &[(500, "limits.memory_mib")],
    ),
    Aggregate(
        "table",
        &[("handle", "(drop (table.grow $table (ref.null func) (i32.const 100000))) (i32.const 1104)")],
        &[(500, "limits.table_elements")],
    ),
    Aggregate("result-outside-memory", &[("handle", "(i32.const -8)")], &[(500, "plugin result-outside-memory")]),
    Aggregate("result-unaligned", &[("handle", "(i32.const 1105)")], &[(500, "plugin result-unaligned")]),
    Aggregate(
        "list-outside-memory",
        &[("handle", "(i32.store (i32.const 1116) (i32.const 0x7fffffff)) (i32.const 1104)")],
        &[(500, "plugin list-outside-memory")],
    ),
    Aggregate(
        "one-megabyte-a-thousand-times",
        &[(
            "handle",
            "(local $at i32) (local.set $at (i32.const 100000))
             (loop $next
               (i32.store (local.get $at) (i32.const 1032))
               (i32.store offset=4 (local.get $at) (i32.const 4))
               (i32.store offset=8 (local.get $at) (i32.const 0))
               (i32.store offset=12 (local.get $at) (i32.const 1000000))
               (local.set $at (i32.add (local.get $at) (i32.const 16)))
               (br_if $next (i32.lt_u (local.get $at) (i32.const 116000))))
             (i32.store (i32.const 1112) (i32.const 100000)) (i32.store (i32.const 1116) (i32.const 1000))
             (i32.const 1104)",
        )],
        &[(500, "more than 1048576 bytes in one call: hand over less or raise limits.output_mib")],
    ),
    Aggregate(
        "name-not-utf-8",
        &[("handle", "(i32.store8 (i32.const 1032) (i32.const 255)) (i32.const 1104)")],
        &[(500, "that is not UTF-8, from its byte 0 on, in `handle`: write texts in UTF-8")],
    ),
    Aggregate(
        "payload-not-utf-8",
        &[("handle", "(i32.store8 (i32.const 1041) (i32.const 255)) (i32.const 1104)")],
        &[(500, "the payload of the event Done that it decided on is not UTF-8, from its byte 1 on: a payload is JSON"); 2],
    ),
    Aggregate(
        "payload-empty",
        &[("handle", "(i32.store (i32.const 1140) (i32.const 0)) (i32.const 1104)")],
        &[(500, "the payload of the event Done that it decided on is empty")],
    ),
    Aggregate(
        "name-with-a-slash",
        &[("handle", "(i32.store8 (i32.const 1032) (i32.const 47)) (i32.const 1104)")],
        &[(500, "the name of an event that it decided on must be 1 to 128 characters")],
    ),
    Aggregate(
        "name-empty",
        &[("handle", "(i32.store (i32.const 1132) (i32.const 0)) (i32.const 1104)")],
        &[(500, "the name of an event that it decided on must be 1 to 128 characters")],
    ),
    Aggregate(
        "outcome-unknown",
        &[("handle", "(i32.store8 (i32.const 1104) (i32.const 1)) (i32.store8 (i32.const 1112) (i32.const 9)) (i32.const 1104)")],
        &[(500, "plugin outcome-unknown")],
    ),
    Aggregate(
        "retry-in-half-a-billion-years",
        &[(
            "handle",
            "(i32.store8 (i32.const 2000) (i32.const 1)) (i32.store8 (i32.const 2008) (i32.const 2))
             (i64.store (i32.const 2016) (i64.const -1)) (i32.store (i32.const 2024) (i32.const 1032))
             (i32.store (i32.const 2028) (i32.const 4)) (i32.const 2000)",
        )],
        &[(500, "Done")],
    ),
    Aggregate("realloc-outside-memory", &[("realloc", "(i32.const -16)")], &[(500, "plugin realloc-outside-memory")]),
    Aggregate("handle-never-made", &[("constructor", "(i32.const 4711)")], &[(500, "plugin handle-never-made")]),
    // Taking a snapshot costs the guest, and the code gets none any more: commands are decided as before.
    Aggregate("snapshot-loops", &[("snapshot", ENDLESS)], &[BACK_TO_WORK, BACK_TO_WORK, BACK_TO_WORK]),
    Aggregate(
        "snapshot-too-large",
        &[(
            "snapshot",
            "(i32.store (i32.const 2000) (i32.const 1)) (i32.store (i32.const 2004) (i32.const 0))
             (i32.store (i32.const 2008) (i32.const 2000000)) (i32.const 2000)",
        )],
        &[BACK_TO_WORK, BACK_TO_WORK],
    ),
    // It restores nothing of what it gave: after the trap the history is replayed.
    Aggregate(
        "snapshot-lies",
        &[
            ("handle", ONCE),
            ("snapshot", "(i32.store (i32.const 2000) (i32.const 1)) (i32.store (i32.const 2004) (i32.const 1032))
                (i32.store (i32.const 2008) (i32.const 4)) (i32.const 2000)"),
            ("restore", "(unreachable)"),
        ],
        &[BACK_TO_WORK, (500, "unreachable"), BACK_TO_WORK],
    ),
    Aggregate(
        "log-flood",
        &[(
            "handle",
            "(loop (call $log (i32.const 2) (i32.const 1032) (i32.const 4) (i32.const 1032) (i32.const 4) (i32.const 0) (i32.const 0))
               (br 0)) (unreachable)",
        )],
        &[(500, TOO_LONG), (500, TOO_LONG)],
    ),
];

#[test]
fn aggregates() {
    let names = AGGREGATES.iter().map(|Aggregate(name, ..)| *name).chain(["healthy", "drop-loops"]);
    let manifest: String = names.map(|name| plugin(name).replace("shards", "snapshot_every = 1\nshards")).collect();
    // One live aggregate of the last one, `drop-loops`.
    let setting = Setting::new(&(manifest + "instances = 1\n"));
    for Aggregate(name, replaced, _) in &AGGREGATES {
        setting.write(&format!("{name}.wasm"), aggregate(name, replaced));
    }
    setting.write("healthy.wasm", aggregate("healthy", &[]));
    setting.write("drop-loops.wasm", aggregate("drop-loops", &[("drop", ENDLESS)]));
    let host = setting.start();
    for Aggregate(name, _, answers) in &AGGREGATES {
        for (number, (status, reason)) in answers.iter().enumerate() {
            let answer = go(&host, name);
            let said = answer.body["detail"].as_str().unwrap_or_default();
            assert!(
                answer.status == *status && said.contains(reason),
                "`{name}`, command {number}: expected {status} with `{reason}`, got {answer:?}\n{}",
                host.log()
            );
        }
        healthy(&host, name);
    }
    // Each of two aggregates pushes the other out, which costs the guest, and both are rebuilt.
    for id in ["a", "b", "a", "b"] {
        assert_eq!(host.send("drop-loops", id, "Go", &Value::Null).status, 200, "`drop-loops`\n{}", host.log());
    }
    healthy(&host, "drop-loops");
    host.until("`log-flood` has written too much", |_| {
        go(&host, "log-flood");
        host.log().lines().any(|line| line.contains("log-flood") && line.contains("are left out"))
    });
    for name in ["snapshot-loops", "snapshot-too-large", "snapshot-lies"] {
        // What lies is found out once its snapshot is there and the guest is lost: each second command loses it.
        host.until(&format!("`{name}` gets no snapshots"), |_| {
            go(&host, name);
            host.log().lines().any(|line| line.contains(name) && line.contains("this code gets no snapshots any more"))
        });
    }
    assert!(host.log().len() < 20 << 20, "the log has {} bytes", host.log().len());
    host.stop();
}

/// What a subscriber does with an event; and the reason in its dead letter.
struct Subscriber(&'static str, &'static str, &'static str);

const PUBLISH_ALL: &str = "(local $sent i32) (loop $next
    (call $publish (i32.const 0) (i32.const 1032) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const LENGTH))
    (local.set $sent (i32.add (local.get $sent) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $sent) (i32.const 90))))
    (i32.const 1200)";

const SUBSCRIBERS: [Subscriber; 17] = [
    Subscriber("loops", ENDLESS, TOO_LONG),
    Subscriber("traps", "(unreachable)", "unreachable"),
    Subscriber("too-many-bytes", PUBLISH_ALL, "effects of more than 1048576 bytes in one call"),
    Subscriber(
        "too-many-effects",
        "(loop (call $publish (i32.const 0) (i32.const 1032) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (br 0))
         (unreachable)",
        "more than 100 effects in one call",
    ),
    Subscriber(
        "wrong-cause",
        "(call $publish (i32.const 9) (i32.const 1032) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 1200)",
        "names delivery 9 as its cause, of 1 delivered",
    ),
    Subscriber(
        "begins-nothing",
        "(call $begin (i32.const 9)) (i32.const 1200)",
        "bus.begin names delivery 9, of 1 delivered",
    ),
    Subscriber(
        "topic-not-utf-8",
        "(i32.store8 (i32.const 1032) (i32.const 255))
         (call $publish (i32.const 0) (i32.const 1032) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 1200)",
        "that is not UTF-8, from its byte 0 on, in `handle`: write texts in UTF-8",
    ),
    Subscriber(
        "type-no-name",
        "(call $send (i32.const 0) (i32.const 1032) (i32.const 4) (i32.const 1032) (i32.const 4) (i32.const 1032) (i32.const 4)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0)) (i32.const 1200)",
        "the name of an aggregate type in bus.send-command must be 1 to 64 characters",
    ),
    Subscriber(
        "command-no-name",
        "(call $send (i32.const 0) (i32.const 1040) (i32.const 4) (i32.const 1032) (i32.const 4) (i32.const 1032) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0)) (i32.const 1200)",
        "the name of a command in bus.send-command must be 1 to 128 characters",
    ),
    Subscriber(
        "attachment-too-long",
        "(call $send (i32.const 0) (i32.const 1040) (i32.const 4) (i32.const 1032) (i32.const 4) (i32.const 1032) (i32.const 4)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 1)
           (i32.const 1032) (i32.const 1025)) (i32.const 1200)",
        "bus.send-command asks for the outcome of Done with 1025 bytes, and at most 1024 come back with it",
    ),
    Subscriber(
        "timer-no-name",
        "(call $wake (i32.const 0) (i32.const 1032) (i32.const 0) (i32.const 0) (i64.const 1) (i32.const 0) (i32.const 0))
         (i32.const 1200)",
        "bus.wake names a timer with 0 bytes: a name has 1 to 255 bytes",
    ),
    Subscriber(
        "timer-name-too-long",
        "(call $wake (i32.const 0) (i32.const 5000) (i32.const 256) (i32.const 0) (i64.const 1) (i32.const 0) (i32.const 0))
         (i32.const 1200)",
        "bus.wake names a timer with 256 bytes: a name has 1 to 255 bytes",
    ),
    Subscriber(
        "timer-of-nothing",
        "(call $wake (i32.const 9) (i32.const 1032) (i32.const 4) (i32.const 0) (i64.const 1) (i32.const 0) (i32.const 0))
         (i32.const 1200)",
        "bus.wake names delivery 9 as its cause, of 1 delivered",
    ),
    Subscriber(
        "too-many-timers",
        "(loop (call $wake (i32.const 0) (i32.const 1032) (i32.const 4) (i32.const 1) (i64.const -1) (i32.const 0)
           (i32.const 0)) (br 0)) (unreachable)",
        "more than 100 effects in one call",
    ),
    Subscriber(
        "fails-beyond-its-list",
        "(i32.store (i32.const 2000) (i32.const 1)) (i32.store (i32.const 2008) (i32.const -1))
         (i32.store (i32.const 2016) (i32.const 1)) (i32.store (i32.const 2024) (i32.const 1032))
         (i32.store (i32.const 2028) (i32.const 4)) (i32.const 2000)",
        "Done",
    ),
    Subscriber(
        "retry-in-half-a-billion-years",
        "(i32.store (i32.const 2000) (i32.const 1)) (i32.store (i32.const 2016) (i32.const 2))
         (i64.store (i32.const 2024) (i64.const -1)) (i32.store (i32.const 2032) (i32.const 1032))
         (i32.store (i32.const 2036) (i32.const 4)) (i32.const 2000)",
        "Done",
    ),
    Subscriber("memory", "(drop (memory.grow (i32.const 1000))) (i32.const 1200)", "limits.memory_mib"),
];

#[test]
fn subscribers() {
    let settings = |name: &str| format!("{}[subscriptions.{name}]\nattempts_max = 1\nbackoff_ms = 1\n", plugin(name));
    let manifest: String = SUBSCRIBERS.iter().map(|Subscriber(name, ..)| settings(name)).collect();
    let setting = Setting::new(&(plugin("healthy") + &settings("quiet") + &manifest));
    setting.write("healthy.wasm", aggregate("healthy", &[]));
    setting.write("quiet.wasm", subscriber("healthy.*", &[]));
    for Subscriber(name, body, _) in &SUBSCRIBERS {
        // 90 times 20,000 bytes are more than a call may hand over.
        let body = body.replace("LENGTH", "20000");
        setting.write(&format!("{name}.wasm"), subscriber("healthy.*", &[("handle", &body)]));
    }
    let host = setting.start();
    healthy(&host, "the start");
    let all = SUBSCRIBERS.len() as u64;
    host.until("each hostile subscriber has a dead letter", |status| status["dead_letters"]["total"] == all);
    let letters = host.get("/v1/dead-letters?limit=100").body;
    let letters = letters["letters"].as_array().or(letters.as_array()).unwrap_or_else(|| panic!("a list: {letters:#}"));
    for Subscriber(name, _, reason) in &SUBSCRIBERS {
        let letter = letters.iter().find(|letter| letter["consumer"] == *name);
        let letter = letter.unwrap_or_else(|| panic!("`{name}` has no dead letter: {letters:#?}"));
        let said = letter["reason"].as_str().expect("a reason");
        assert!(said.contains(reason), "`{name}`: expected `{reason}`, got `{said}`");
    }
    healthy(&host, "all subscribers");
    host.until("the quiet one is at the end", |status| {
        let quiet =
            status["subscriptions"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "quiet").cloned());
        quiet.is_some_and(|quiet| quiet["checkpoint"] == 2)
    });
    host.stop();
}

/// What a saga does, and the reason of its dead letter.
struct Saga(&'static str, Replaced<'static>, &'static str);

const SAGAS: [Saga; 15] = [
    Saga("keys-loop", ("keys", ENDLESS), TOO_LONG),
    Saga("keys-trap", ("keys", "(unreachable)"), "unreachable"),
    Saga("keys-too-few", ("keys", "(i32.const 1200)"), "it returned 0 keys of 1 events"),
    Saga(
        "keys-too-many",
        (
            "keys",
            "(i32.store (i32.const 1512) (i32.const 8192)) (i32.store (i32.const 1516) (i32.const 1000)) (i32.const 1504)",
        ),
        "it returned 1000 keys of 1 events",
    ),
    Saga(
        "key-not-utf-8",
        (
            "keys",
            "(i32.store8 (i32.const 1024) (i32.const 255)) (i32.store8 (i32.const 8192) (i32.const 1))
             (i32.store (i32.const 8196) (i32.const 1024)) (i32.store (i32.const 8200) (i32.const 2))
             (i32.store (i32.const 1512) (i32.const 8192)) (i32.store (i32.const 1516) (i32.const 1)) (i32.const 1504)",
        ),
        "that is not UTF-8, from its byte 0 on, in `keys`: write texts in UTF-8",
    ),
    Saga(
        "effects-in-keys",
        (
            "keys",
            "(call $wake (i32.const 0) (i32.const 1032) (i32.const 4) (i32.const 0) (i64.const 1) (i32.const 0) (i32.const 0))
             (unreachable)",
        ),
        "there are no effects here",
    ),
    Saga("constructor-traps", ("constructor", "(unreachable)"), "unreachable"),
    Saga("constructor-loops", ("constructor", ENDLESS), TOO_LONG),
    Saga("handle-loops", ("handle", ENDLESS), TOO_LONG),
    Saga("handle-traps", ("handle", "(unreachable)"), "unreachable"),
    Saga(
        "event-no-name",
        ("handle", "(i32.store (i32.const 1132) (i32.const 0)) (i32.const 1104)"),
        "the name of an event that it decided on",
    ),
    Saga(
        "event-not-json",
        ("handle", "(i32.store8 (i32.const 1040) (i32.const 123)) (i32.const 1104)"),
        r#"the payload of the event Done that it decided on is not JSON: it begins with "{ull""#,
    ),
    Saga(
        "timer-with-slash",
        (
            "handle",
            "(i32.store8 (i32.const 60000) (i32.const 47))
             (call $wake (i32.const 0) (i32.const 60000) (i32.const 1) (i32.const 0) (i64.const 1) (i32.const 0) (i32.const 0))
             (i32.const 1104)",
        ),
        "no `/`",
    ),
    Saga(
        "cause-of-nothing",
        (
            "handle",
            "(call $wake (i32.const 1) (i32.const 1032) (i32.const 4) (i32.const 0) (i64.const 1) (i32.const 0) (i32.const 0))
             (i32.const 1104)",
        ),
        "names delivery 1 as its cause, of 1 delivered",
    ),
    Saga("no-first-event", ("handle", "(i32.store8 (i32.const 1216) (i32.const 1)) (i32.const 1200)"), "has no event"),
];

#[test]
fn sagas() {
    let settings = |name: &str| format!("{}[subscriptions.{name}]\nattempts_max = 1\nbackoff_ms = 1\n", plugin(name));
    let manifest: String = SAGAS.iter().map(|Saga(name, ..)| settings(name)).collect();
    let setting = Setting::new(&(plugin("healthy") + &settings("quiet") + &manifest));
    setting.write("healthy.wasm", aggregate("healthy", &[]));
    setting.write("quiet.wasm", saga("quiet", "healthy.*", &[]));
    for Saga(name, replaced, _) in &SAGAS {
        setting.write(&format!("{name}.wasm"), saga(name, "healthy.*", &[*replaced]));
    }
    let host = setting.start();
    healthy(&host, "the start");
    let all = SAGAS.len() as u64;
    host.until("each hostile saga has a dead letter", |status| status["dead_letters"]["total"] == all);
    let letters = host.get("/v1/dead-letters?limit=100").body;
    let letters = letters["letters"].as_array().unwrap_or_else(|| panic!("a list: {letters:#}"));
    for Saga(name, _, reason) in &SAGAS {
        let letter = letters.iter().find(|letter| letter["consumer"] == *name);
        let letter = letter.unwrap_or_else(|| panic!("`{name}` has no dead letter: {letters:#?}"));
        let said = letter["reason"].as_str().expect("a reason");
        assert!(said.contains(reason), "`{name}`: expected `{reason}`, got `{said}`");
    }
    healthy(&host, "all sagas");
    host.until("the quiet one has handled both", |_| host.events("quiet.Done").len() == 2);
    host.stop();
}

/// What a projection does; whether it stops over an event, or its query fails; and the reason.
struct Projection(&'static str, Replaced<'static>, Fails, &'static str);

#[derive(Clone, Copy, PartialEq)]
enum Fails {
    AtAnEvent,
    AtAQuery,
}

const PROJECTIONS: [Projection; 7] = [
    Projection("project-loops", ("project", ENDLESS), Fails::AtAnEvent, TOO_LONG),
    Projection("project-traps", ("project", "(unreachable)"), Fails::AtAnEvent, "unreachable"),
    Projection(
        "project-fails-beyond-its-list",
        (
            "project",
            "(i32.store (i32.const 2000) (i32.const 1)) (i32.store (i32.const 2008) (i32.const -1))
             (i32.store (i32.const 2016) (i32.const 1)) (i32.store (i32.const 2024) (i32.const 1032))
             (i32.store (i32.const 2028) (i32.const 4)) (i32.const 2000)",
        ),
        Fails::AtAnEvent,
        "malformed: Done",
    ),
    Projection("query-loops", ("query", ENDLESS), Fails::AtAQuery, TOO_LONG),
    Projection("query-traps", ("query", "(unreachable)"), Fails::AtAQuery, "unreachable"),
    Projection(
        "answer-too-large",
        ("query", "(i32.store (i32.const 1408) (i32.const 2000000)) (i32.const 1400)"),
        Fails::AtAQuery,
        "more than 1048576 bytes in one call: hand over less or raise limits.output_mib",
    ),
    Projection(
        "error-not-utf-8",
        (
            "query",
            "(i32.store8 (i32.const 1032) (i32.const 255)) (i32.store (i32.const 1400) (i32.const 1))
             (i32.store (i32.const 1404) (i32.const 2)) (i32.store (i32.const 1408) (i32.const 1032))
             (i32.store (i32.const 1412) (i32.const 4)) (i32.const 1400)",
        ),
        Fails::AtAQuery,
        "that is not UTF-8, from its byte 0 on, in `query`: write texts in UTF-8",
    ),
];

#[test]
fn projections() {
    let names = PROJECTIONS.iter().map(|Projection(name, ..)| *name).chain(["healthy", "answers"]);
    let setting = Setting::new(&names.map(plugin).collect::<String>());
    setting.write("healthy.wasm", aggregate("healthy", &[]));
    setting.write("answers.wasm", projection("answers", "healthy.*", &[]));
    for Projection(name, replaced, ..) in &PROJECTIONS {
        setting.write(&format!("{name}.wasm"), projection(name, "healthy.*", &[*replaced]));
    }
    let host = setting.start();
    healthy(&host, "the start");
    let found = |status: &Value, name: &str| {
        let all = status["projections"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["name"] == name).unwrap_or_default()
    };
    for Projection(name, _, fails, reason) in &PROJECTIONS {
        let said = if *fails == Fails::AtAnEvent {
            let status =
                host.until(&format!("`{name}` has stopped"), |status| found(status, name)["state"] == "stopped");
            found(&status, name)["error"].clone()
        } else {
            let answer = host.query(name, "Go", &Value::Null);
            assert_eq!(answer.status, 500, "`{name}`: {answer:?}");
            answer.body["detail"].clone()
        };
        let said = said.as_str().map_or_else(|| said.to_string(), str::to_owned);
        assert!(said.contains(reason), "`{name}`: expected `{reason}`, got `{said}`");
        healthy(&host, name);
        assert_eq!(host.query("answers", "Go", &Value::Null).body, Value::Null, "after `{name}`");
        assert_eq!(found(&host.status(), "answers")["error"], Value::Null, "after `{name}`");
    }
    host.stop();
}

/// An `upcast` that is hostile: the events are shown as they were recorded, with the reason, and nobody waits for it. For a reader
/// that asks for the newest shape they are malformed.
#[test]
fn upcasts() {
    let cases: [(&str, &str, &str); 4] = [
        ("loops", ENDLESS, TOO_LONG),
        ("traps", "(unreachable)", "unreachable"),
        ("forgets events", "(i32.const 1200)", "it returned 0 payloads of 1 events"),
        (
            "returns memory that it does not have",
            "(i32.store (i32.const 1204) (i32.const 1)) (i32.store (i32.const 1200) (i32.const 4194300)) (i32.const 1200)",
            "plugin victim",
        ),
    ];
    for (name, body, reason) in cases {
        let setting = Setting::new(&(plugin("victim") + &plugin("healthy") + &plugin("reader")));
        setting.write("healthy.wasm", aggregate("healthy", &[]));
        setting.write("reader.wasm", subscriber_of_newest("victim.Done"));
        setting.write("victim.wasm", aggregate("victim", &[("upcast", body)]));
        let host = setting.start();
        for _ in 0..3 {
            assert_eq!(go(&host, "victim").status, 200, "`{name}`");
        }
        let shown = host.text_until("/v1/events?shape=newest&type=victim.Done", |_| true);
        let events: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
        assert_eq!(events.len(), 3, "`{name}`: {shown}");
        for event in events {
            let error = event["upcast_error"].as_str().unwrap_or_else(|| panic!("`{name}`: {event}"));
            assert!(error.contains(reason) && event["payload"].is_null(), "`{name}`: {event}");
        }
        // The later events of the aggregate wait behind the first.
        host.until("the reader has settled the first", |status| {
            status["dead_letters"]["total"] == 1 && status["subscriptions"][0]["error"].is_null()
        });
        let letters = host.get("/v1/dead-letters").body.to_string();
        assert!(letters.contains("it can't be upcast: ") && letters.contains(reason), "`{name}`: {letters}");
        healthy(&host, name);
        assert_eq!(go(&host, "victim").status, 200, "after `{name}`");
        host.stop();
    }
}

/// Files in the place of a plugin that serves: each is refused with a reason, and the old code goes on serving.
#[test]
fn files_in_the_place_of_a_plugin() {
    let setting = Setting::new(&(plugin("victim") + &plugin("healthy")));
    setting.write("healthy.wasm", aggregate("healthy", &[]));
    let whole = aggregate("victim", &[]);
    setting.write("victim.wasm", &whole);
    let host = setting.start();
    assert_eq!(go(&host, "victim").status, 200);
    let in_module = |more: &str| aggregate("victim", &[("module", more)]);
    let mut flipped = whole.clone();
    flipped[9] ^= 0x40;
    let describes = |body: &str| aggregate("victim", &[("describe", &format!("{body} (i32.const 3072)"))]);
    let many = |at: u32| describes(&format!("(i32.store (i32.const {at}) (i32.const 4000000))"));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "is not WebAssembly"),
        ("text", b"#!/bin/sh\n".to_vec(), "is not WebAssembly"),
        ("cut", whole[..whole.len() - 40].to_vec(), "plugin victim"),
        ("a bit flipped", flipped, "plugin victim"),
        ("nothing in it", EMPTY.to_vec(), "exports no role"),
        ("another version", exporting("wasmill:plugin/aggregate@0.6.0"), "was built for version 0.6.0 of the contract"),
        ("a role that leads out", projection("..", "victim.*", &[]), "the name of the projection must be"),
        (
            "no functions",
            exporting("wasmill:plugin/aggregate@1.0.0"),
            "exports the role aggregate, but not as version 1.0.0",
        ),
        ("another type", aggregate("other", &[]), "victim"),
        ("a start that loops", in_module("(func $begin (loop (br 0))) (start $begin)"), "it took longer than 100ms"),
        ("a start that traps", in_module("(func $begin (unreachable)) (start $begin)"), "unreachable"),
        ("a large memory", in_module("(memory $more 1000)"), "limits.memory_mib"),
        ("a large table", in_module("(table 5000 funcref)"), "limits.table_elements"),
        (
            "many memories",
            in_module(&"(memory 1)".repeat(20)),
            "it has more memories, tables or core instances than a guest may have",
        ),
        ("describe loops", aggregate("victim", &[("describe", ENDLESS)]), "it took longer than 100ms"),
        (
            "names that it does not have",
            describes(
                "(i32.store8 (i32.const 3072) (i32.const 1)) (i32.store (i32.const 3076) (i32.const 1032)) (i32.store (i32.const 3080) (i32.const 4))",
            ),
            "plugin victim: Done",
        ),
        (
            "an error without a reason",
            describes(
                "(i32.store8 (i32.const 3072) (i32.const 1)) (i32.store (i32.const 3076) (i32.const 1032)) (i32.store (i32.const 3080) (i32.const 0))",
            ),
            "its `describe` of the role aggregate fails without a reason",
        ),
        (
            "an error with many lines",
            describes(
                "(memory.fill (i32.const 70000) (i32.const 10) (i32.const 100000)) (i32.store8 (i32.const 3072) (i32.const 1))
                 (i32.store8 (i32.const 70000) (i32.const 65)) (i32.store8 (i32.const 169999) (i32.const 65))
                 (i32.store (i32.const 3076) (i32.const 70000)) (i32.store (i32.const 3080) (i32.const 100000))",
            ),
            r"plugin victim: A\n\n",
        ),
        ("many aggregates", many(3096), "plugin victim"),
        ("many names", many(3112), "plugin victim"),
        ("no aggregate", describes("(i32.store (i32.const 3096) (i32.const 0))"), "there is no aggregate type"),
        (
            "another aggregate",
            describes("(i32.store (i32.const 3104) (i32.const 3))"),
            "now has the roles aggregate vic instead of aggregate victim",
        ),
        (
            "a command with a line end",
            describes("(i32.store8 (i32.const 1024) (i32.const 10))"),
            "the name of a command must be 1 to 128 characters",
        ),
        (
            "a state that is no schema",
            describes(
                "(i32.store8 (i32.const 3124) (i32.const 1)) (i32.store (i32.const 3128) (i32.const 1040)) (i32.store (i32.const 3132) (i32.const 4))",
            ),
            "the schema of the state is no JSON Schema of draft 2020-12",
        ),
        ("a name that is not text", describes("(i32.store8 (i32.const 1024) (i32.const 255))"), "that is not UTF-8, from its byte 0 on, in `describe`: write texts in UTF-8"),
        ("an import of nobody", importing("acme:gpu/compute@0.1.0"), "are not granted"),
    ];
    for (name, file, reason) in &cases {
        setting.write("victim.wasm", file);
        is_refused(&host, name, reason);
    }
    std::fs::remove_file(setting.path("victim.wasm")).expect("remove the file");
    is_refused(&host, "no file", "can't be read");
    std::fs::create_dir(setting.path("victim.wasm")).expect("make a folder");
    is_refused(&host, "a folder", "it is no file");
    std::fs::remove_dir(setting.path("victim.wasm")).expect("remove the folder");
    std::os::unix::fs::symlink("/dev/zero", setting.path("victim.wasm")).expect("make a link");
    is_refused(&host, "a file without end", "it is no file");
    std::fs::remove_file(setting.path("victim.wasm")).expect("remove the link");
    setting.write("victim.wasm", &whole);
    assert_eq!(host.post("/v1/plugins/victim/reload", &Value::Null, &[]).status, 200, "a good file is taken");
    host.stop();
}

fn is_refused(host: &TestHost, name: &str, reason: &str) {
    let answer = host.post("/v1/plugins/victim/reload", &Value::Null, &[]);
    let said = answer.body.to_string();
    assert!(
        answer.status == 422 && said.contains(json!(reason).to_string().trim_matches('"')),
        "`{name}`: expected 422 with `{reason}`, got {answer:?}"
    );
    let is_a_line =
        |text: &Value| text.as_str().is_none_or(|text| text.len() < 9_000 && !text.chars().any(char::is_control));
    let is_one = answer.body.as_object().is_some_and(|fields| fields.values().all(is_a_line));
    assert!(is_one, "`{name}`: the reason is no short line: {said}");
    assert_eq!(go(host, "victim").status, 200, "after `{name}` the old code does not serve\n{}", host.log());
    healthy(host, name);
}
