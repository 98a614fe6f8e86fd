//! A host whose disk is full says so, still answers, and resumes its work when there is room again.

use serde_json::json;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use wasmill_tests::host::Answer;
use wasmill_tests::setting::{ORDERS, Setting};
use wasmill_tests::{built, topic};

#[test]
fn a_host_without_room_refuses_what_it_cannot_keep_and_goes_on_when_there_is_some() {
    let setting = Setting::grocery();
    let host = setting.start();
    let order = |product_id: String| {
        let item = json!({ "product_id": product_id, "quantity": 2, "amount_cents": 60, "discount_cents": 0 });
        json!({ "household_id": "7", "store_id": "1", "placed_at": "2017-01-01T11:53:26Z", "items": [item] })
    };
    let small = order("3".repeat(1_000));
    let create = |id: usize| host.send("order", &id.to_string(), "CreateOrder", &small);
    assert_eq!(create(0).status, 200);
    host.drained();
    host.file_size_max(Some(1 << 20));
    let (full, refused) = (1..5_000)
        .map(|id| (id, create(id)))
        .find(|(_, answer)| answer.status != 200)
        .expect("a mebibyte is not enough for all");
    let reason = refused.body["detail"].as_str().unwrap_or_default();
    assert!(refused.status >= 500 && reason.contains("disk"), "{refused:?}");
    assert_eq!(host.get("/v1/status").status, 200);
    assert_eq!(
        host.events("order.OrderCreated").len(),
        full,
        "what is there is read, and what was refused is not there"
    );
    // A record as small as the refused command may still find room. Together, these are larger than both of the store's files
    // may become.
    let large = order("3".repeat(100_000));
    let records: Vec<_> = (0..30).map(|number| (format!("from-kafka-{number}"), large.clone())).collect();
    topic::produce_keyed(&host.brokers(), "baskets", &records);
    host.until("the source says why its records wait", |status| {
        let source = &status["sources"][0];
        source["state"] == "retrying" && source["error"].as_str().is_some_and(|error| error.contains("disk"))
    });
    let is_told =
        |answer: &Answer| answer.status == 503 && answer.body.to_string().contains("the store can't be written");
    host.until_answered("/v1/ready", is_told);
    let logged = format!("the store {}", setting.path("data/events.sqlite").display());
    host.until_logged("where there is no room", |line| line.contains(&logged));
    host.file_size_max(None);
    // Also while nobody sends anything.
    host.until("the store finds out that there is room", |status| status["store"]["error"].is_null());
    assert_eq!(create(full).status, 200);
    host.drained();
    let all = full + 1 + records.len();
    for (filter, what) in [("order.OrderCreated", "recorded"), ("order.OrderConfirmed", "confirmed")] {
        assert_eq!(host.events(filter).len(), all, "each is {what} once");
    }
    let sales = host.query("sales", "store-sales", &json!({ "limit": 5 }));
    assert_eq!(sales.body, json!([["1", 60 * all]]));
    host.stop();
    let data = setting.path("data");
    let report = setting.wasmill(&["store", "verify", data.to_str().expect("a path")]);
    assert!(report.status.success(), "{report:?}");
}

#[test]
fn a_host_whose_log_has_no_room_does_its_work() {
    let setting = Setting::new(&format!("data = 'data'\n{ORDERS}"));
    let full = File::options().write(true).open("/dev/full").expect("a device that is always full");
    let mut host = Command::new(built::program("wasmill"));
    host.args(["run", "wasmill.toml", "--listen", "127.0.0.1:0"]).current_dir(setting.path(""));
    let mut host = Killed(host.stdin(Stdio::null()).stderr(full).spawn().expect("start a host"));
    let deadline = Instant::now() + Duration::from_secs(60);
    // Each refusal is a line in the log of the host.
    let refused = loop {
        let sent = setting.wasmill(&["send", "--data", "data", "order", "1", "ConfirmOrder", "null"]);
        let said = String::from_utf8_lossy(&sent.stderr).into_owned();
        if said.contains("rejected") {
            break said;
        }
        assert_eq!(host.0.try_wait().expect("look at the host"), None, "it ended: {said}");
        assert!(Instant::now() < deadline, "it does not answer: {said}");
    };
    assert!(refused.contains("order"), "{refused}");
    assert_eq!(host.0.try_wait().expect("look at the host"), None);
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
