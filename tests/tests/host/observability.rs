//! Observability of a host: metrics, readiness, and a trace through the whole flow.

use serde_json::json;
use std::collections::BTreeSet;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Events go to a topic of their own, dead letters too, there are sagas, and there is a schedule that is hardly ever due.
const SINKS: &str = "[kafka.topics.audit]\n[kafka.topics.dead]\n[sinks.audit]\nevents = [\"order.OrderCreated\"]\n\
                     topic = \"audit\"\nkey = { field = \"household_id\" }\n[sinks.audit.properties]\ncompression.type = \"zstd\"\n\
                     [schedules.yearly]\ncron = \"0 0 1 1 *\"\naggregate = \"order\"\nid = \"yearly\"\n\
                     command = \"ConfirmOrder\"\n[plugins.order-deadline]\nfile = \"PLUGINS/order-deadline.wasm\"\n";

/// An endpoint that no plugin uses. It is measured too.
const ENDPOINT: &str = "[plugins.notifier.http.unused]\nurl = \"http://server.invalid\"\n";

fn setting() -> Setting {
    let setting = Setting::grocery();
    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).unwrap();
    let manifest = manifest.replace("topic = \"baskets\"\n", "topic = \"baskets\"\ndead_letter_topic = \"dead\"\n");
    setting.manifest(&format!("{manifest}\n{SINKS}\n{ENDPOINT}"));
    setting
}

fn create_order(host: &TestHost) {
    let item = json!({ "product_id": "p", "quantity": 1, "amount_cents": 100, "discount_cents": 0 });
    let order = json!({ "household_id": "h", "store_id": "s", "placed_at": "2017-01-01T11:53:26Z", "items": [item] });
    let answer = host.send_with("order", "b1", "CreateOrder", &order, &[("traceparent", PARENT)]);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_trace_goes_from_a_request_through_events_and_subscribers_into_topics() {
    let setting = setting();
    let host = setting.start();
    create_order(&host);
    host.drained();
    // The order, its confirmation by a subscriber's command, and what another subscriber says of that.
    for (topic, count) in [("audit", 1), ("notifications", 1)] {
        for record in topic::read(&host.brokers(), topic, count) {
            assert_eq!(record.header("traceparent"), Some(PARENT), "{topic}: {record:?}");
        }
    }
    let created = topic::read(&host.brokers(), "audit", 1).remove(0);
    assert_eq!(created.key.as_deref(), Some(b"h".as_slice()));
    assert_eq!((created.header("ce_type"), created.header("ce_subject")), (Some("order.OrderCreated"), Some("b1")));
    host.stop();
}

#[test]
fn dead_letters_go_to_their_topic_with_their_origin() {
    let setting = setting();
    let host = setting.start();
    let brokers = host.brokers();
    topic::produce(&brokers, "baskets", 3, &[(Some(b"b1"), b"not JSON"), (Some(b"\xff"), b"{}")]);
    host.until("both are dead-lettered", |status| status["dead_letters"]["total"] == 2);
    host.drained();
    let mut found = topic::read(&brokers, "dead", 2);
    found.sort_by_key(|record| record.key.clone());
    assert_eq!(
        (found[0].key.as_deref(), found[0].value.as_deref()),
        (Some(b"b1".as_slice()), Some(b"not JSON".as_slice()))
    );
    assert_eq!(
        (found[1].key.as_deref(), found[1].value.as_deref()),
        (Some(b"\xff".as_slice()), Some(b"{}".as_slice()))
    );
    for (offset, record) in ["0", "1"].into_iter().zip(&found) {
        let place = ["topic", "partition", "offset"].map(|name| record.header(&format!("dead-letter-{name}")));
        assert_eq!(place, [Some("baskets"), Some("3"), Some(offset)]);
        assert!(record.header("dead-letter-error").is_some_and(|error| !error.is_empty()), "{record:?}");
    }
    host.stop();
}

#[test]
fn every_metric_is_documented_and_the_documented_ones_are_there() {
    let setting = setting();
    let host = setting.start();
    create_order(&host);
    topic::produce(&host.brokers(), "baskets", 0, &[(None, b"{}")]);
    host.until("it is dead-lettered", |status| status["dead_letters"]["total"] == 1);
    host.drained();
    // The clients report every few seconds.
    let text = host.text_until("/metrics", |text| {
        text.contains("client=\"source baskets\"") && text.contains("client=\"sink audit\"")
    });
    for line in [
        "wasmill_commands_total{type=\"order\",command=\"CreateOrder\",outcome=\"accepted\"} 1.0",
        "wasmill_api_commands_total{outcome=\"accepted\"} 1.0",
        "wasmill_aggregates_live{type=\"order\"} 1.0",
        "wasmill_source_lag{source=\"baskets\",topic=\"baskets\",partition=\"0\"} 0.0",
        "wasmill_source_handled_total{source=\"baskets\"} 1.0",
        "wasmill_dead_letters{consumer=\"baskets\"} 1.0",
        "wasmill_schedule_runs_total{schedule=\"yearly\"} 0.0",
        "wasmill_subscription_behind{subscription=\"notifier\"} 0.0",
        "wasmill_saga_started_total{subscription=\"order-deadline\"} 1.0",
        "wasmill_sink_pending{sink=\"outbox\"} 0.0",
        "wasmill_sink_published_total{sink=\"dead-letters-baskets\"} 1.0",
        "wasmill_part_working{part=\"sink\",name=\"audit\"} 1.0",
        "wasmill_http_pending{endpoint=\"notifier/unused\"} 0.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    // Only a consumer that is in a group counts these, and only an API over TLS has a certificate.
    let sometimes =
        |name: &str| ["wasmill_kafka_client_rebalances_total", "wasmill_api_certificate_end_timestamp"].contains(&name);
    let shown: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        .filter(|name| !sometimes(name))
        .collect();
    let rows = include_str!("../../../docs/operations.md").lines().filter(|line| line.starts_with("| `wasmill_"));
    let documented: BTreeSet<String> = rows
        .flat_map(|row| row.split(" | ").next().unwrap_or_default().split('`'))
        .filter(|name| name.starts_with("wasmill_") && !name.contains(' ') && !sometimes(name))
        .map(str::to_owned)
        .collect();
    assert_eq!(shown.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new(), "not in docs/operations.md");
    assert_eq!(documented.difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new(), "not in /metrics");
    host.stop();
}

#[test]
fn a_host_is_ready_when_nothing_is_in_its_way() {
    let setting = setting();
    let host = setting.start();
    host.until("all works", |_| host.get("/v1/ready").status == 200);
    assert_eq!(host.get("/v1/live").status, 200);
    host.stop();
    let unreachable = Setting::grocery_on("brokers = \"127.0.0.1:1\"\n");
    let host = unreachable.start();
    host.until("the sink is in trouble", |status| status["sinks"][0]["error"].is_string());
    let answer = host.get("/v1/ready");
    assert_eq!((answer.status, &answer.body["ready"]), (503, &json!(false)));
    let reasons = answer.body["reasons"].to_string();
    assert!(reasons.contains("source baskets is ") && reasons.contains("sink outbox is retrying: "), "{reasons}");
    assert_eq!(host.get("/v1/live").status, 200);
    host.stop();
}
