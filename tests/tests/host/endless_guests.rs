//! Guests that never return. An event that never ends costs about the time limit of one event, however long its list
//! is. A stop interrupts whatever runs.

use serde_json::Value;
use wasmill_tests::hostile::{aggregate, subscriber};
use wasmill_tests::setting::Setting;

/// Does not come back if one of the deliveries is of an event whose name is not as long as `Done`.
const LOOPS_AT_ODD: &str = "(local $end i32)
    (local.set $end (i32.add (local.get $at) (i32.mul (local.get $count) (i32.const SIZE))))
    (loop $next
      (if (i32.lt_u (local.get $at) (local.get $end)) (then
        (if (i32.ne (i32.load offset=4 (local.get $at)) (i32.const 4)) (then (loop (br 0))))
        (local.set $at (i32.add (local.get $at) (i32.const SIZE)))
        (br $next))))
    (i32.const 1200)";

/// Decides on `Done`, and for the command `Odd` on an event of that name.
const DONE_OR_ODD: &str = "(if (i32.eq (local.get 2) (i32.const 3))
      (then (i32.store (i32.const 1128) (i32.const 2000)) (i32.store (i32.const 1132) (i32.const 3)))
      (else (i32.store (i32.const 1128) (i32.const 1032)) (i32.store (i32.const 1132) (i32.const 4))))
    (i32.const 1104)";

const EVENTS: u64 = 300;

#[test]
fn an_event_without_end_holds_its_subscription_for_about_one_limit() {
    let limits =
        "[plugins.quiet.limits]\nevent_time_ms = 1000\n[subscriptions.quiet]\nattempts_max = 1\nbatch_max = 512\n";
    let setting = Setting::new("[plugins.healthy]\nfile = \"healthy.wasm\"\nshards = 1\n");
    let module = ("module", "(data (i32.const 2000) \"Odd\")");
    setting.write("healthy.wasm", aggregate("healthy", &[("handle", DONE_OR_ODD), module]));
    let host = setting.start();
    for number in 0..EVENTS {
        let command = if number == EVENTS / 2 { "Odd" } else { "Go" };
        assert_eq!(host.send("healthy", &number.to_string(), command, &Value::Null).status, 200);
    }
    host.stop();
    // All events are there when the subscription begins: they come in one list.
    setting.manifest(&format!(
        "[plugins.healthy]\nfile = \"healthy.wasm\"\nshards = 1\n[plugins.quiet]\nfile = \"quiet.wasm\"\n{limits}"
    ));
    let handle = LOOPS_AT_ODD.replace("SIZE", DELIVERY_BYTES);
    setting.write("quiet.wasm", subscriber("healthy.*", &[("handle", &handle)]));
    let host = setting.start();
    // With a limit for each event of the list this would take longer than the harness waits.
    // The event without end takes its limit beside the others, so the checkpoint may pass it before.
    host.until("all events are handled and one is dead-lettered", |status| {
        status["subscriptions"][0]["checkpoint"] == EVENTS && status["dead_letters"]["total"] == 1
    });
    host.drained();
    assert_eq!(host.status()["dead_letters"]["total"], 1);
    host.stop();
}

/// Bytes of a delivery in a list, as the component model lays them out: name, key and payload take 32, the metadata 48, and
/// the origin 40.
const DELIVERY_BYTES: &str = "120";

#[test]
fn a_stop_interrupts_a_guest_that_runs() {
    let setting = Setting::new(
        "[plugins.endless]\nfile = \"endless.wasm\"\nshards = 1\n[plugins.endless.limits]\nevent_time_ms = 3600000\n",
    );
    let logs_and_loops =
        "(call $log (i32.const 2) (i32.const 1032) (i32.const 4) (i32.const 1032) (i32.const 4) (i32.const 0)
        (i32.const 0)) (loop (br 0)) (unreachable)";
    setting.write("endless.wasm", aggregate("endless", &[("handle", logs_and_loops)]));
    let host = setting.start();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| host.send("endless", "a", "Go", &Value::Null));
        host.until_logged("that the guest runs", |line| line.contains("Done") && line.contains("endless"));
        host.terminate();
        // The limit is an hour: only the stop ends it.
        let answer = sending.join().expect("it is answered");
        assert!(answer.status >= 500 && answer.body.to_string().contains("stopping"), "{answer:?}");
    });
    assert_eq!(host.ended(), Some(0), "it ends well");
}
