//! Hosts with little address space. Such a host still serves, and if it runs out of address space, that does not count
//! as a try of an event or a command.

use serde_json::Value;
use wasmill_tests::hostile::{aggregate, subscriber};
use wasmill_tests::setting::Setting;

/// Its guest answers once, and is lost with the second command.
const ONCE: &str = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (if (i32.gt_u (global.get $calls) (i32.const 1)) (then (unreachable)))
    (i32.const 1104)";

fn setting() -> Setting {
    let plugin = |name: &str| {
        format!("[plugins.{name}]\nfile = \"{name}.wasm\"\nshards = 1\n[plugins.{name}.limits]\nmemory_mib = 16\n")
    };
    let retries = "[subscriptions.quiet]\nattempts_max = 1\nbackoff_ms = 10\n";
    let setting = Setting::new(&(["healthy", "once", "quiet"].map(plugin).concat() + retries));
    setting.write("healthy.wasm", aggregate("healthy", &[]));
    setting.write("once.wasm", aggregate("once", &[("handle", ONCE)]));
    setting.write("quiet.wasm", subscriber("healthy.*", &[]));
    setting
}

#[test]
fn a_host_with_little_address_space_reserves_less_and_says_so() {
    let setting = setting();
    let host = setting.start_under("ulimit -v 8000000");
    host.until_logged("that there is little address space", |line| {
        line.contains("the address space is too small for") && line.contains("ulimit -v")
    });
    assert_eq!(host.send("healthy", "a", "Go", &Value::Null).status, 200);
    host.until("the subscriber has it", |status| status["subscriptions"][0]["checkpoint"] == 1);
    host.stop();
    let checked = setting.wasmill(&["check", "wasmill.toml"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("GiB of address space for"), "{said}");
}

#[test]
fn what_the_system_gives_no_memory_for_is_tried_again_and_charged_to_nobody() {
    let setting = setting();
    let host = setting.start();
    let once = || host.send("once", "a", "Go", &Value::Null);
    assert_eq!(once().status, 200);
    let trapped = once();
    assert!(trapped.body["detail"].as_str().is_some_and(|reason| reason.contains("unreachable")), "{trapped:?}");
    // Enough for everything but the memory of one more guest.
    host.address_space_max(Some(256 << 20));
    let refused = once();
    assert!(
        refused.body["detail"].as_str().is_some_and(|reason| reason.contains("the system gives no memory")),
        "{refused:?}"
    );
    let aggregate = |status: &Value| {
        let all = status["aggregates"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["type"] == "once").unwrap_or_default()
    };
    let shown = aggregate(&host.status());
    assert_eq!((shown["state"].as_str(), host.get("/v1/ready").status), (Some("retrying"), 503), "{shown}");

    assert_eq!(host.send("healthy", "a", "Go", &Value::Null).status, 200, "who has a guest keeps working");
    let status = host.until("the subscription retries", |status| status["subscriptions"][0]["state"] == "retrying");
    let error = status["subscriptions"][0]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("the system gives no memory"), "{error}");
    assert_eq!(status["dead_letters"]["total"], 0, "the event is not at fault");

    host.address_space_max(None);
    let status = host.until("the subscriber has it", |status| {
        let subscription = &status["subscriptions"][0];
        subscription["checkpoint"].as_u64() > Some(0) && subscription["behind"] == 0
    });
    assert_eq!(status["dead_letters"]["total"], 0);
    assert_eq!(once().status, 200);
    assert_eq!(aggregate(&host.status())["state"], "running");
    host.stop();
}
