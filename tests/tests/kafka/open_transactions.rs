//! Records behind an open transaction, which is neither committed nor aborted. The host reports that they wait for it.

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::json;
use std::time::Duration;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::setting::Setting;

/// Two sources of one topic: one whose records' effects are in the store, one whose batches are Kafka transactions.
fn setting(brokers: &str, topic: &str, dead: &str) -> Setting {
    Setting::new(&format!(
        "[kafka]\nbrokers = \"{brokers}\"\n[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n\
         [plugins.courier]\nfile = \"PLUGINS/courier.wasm\"\n\
         [sources.stored]\ntopic = \"{topic}\"\nsubscriber = \"courier\"\n\
         [sources.echoed]\ntopic = \"{topic}\"\nsubscriber = \"courier\"\ntransaction = \"kafka\"\n\
         group = \"{topic}-echoed\"\ndead_letter_topic = \"{dead}\"\n"
    ))
}

#[test]
fn a_host_is_not_drained_while_records_wait_behind_an_open_transaction() {
    let Some(kafka) = Kafka::shared() else { return };
    let [topic, echoes, dead] = ["open-in", "open-out", "open-dead"].map(|name| kafka.topic(name, 1));
    let setting = setting(kafka.brokers(), &topic, &dead);
    let host = setting.start();
    host.drained();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.brokers()).set("transactional.id", &topic);
    let producer: BaseProducer = config.create().expect("make a producer");
    let wait = Duration::from_secs(30);
    producer.init_transactions(wait).expect("a transactional id of its own");
    producer.begin_transaction().expect("a transaction");
    let wish = json!({ "Tell": { "topic": echoes, "text": "told" } }).to_string();
    producer.send(BaseRecord::to(&topic).key("k").payload(&wish)).map_err(|(error, _)| error).expect("room");
    producer.flush(wait).expect("Kafka has the record");

    for source in ["stored", "echoed"] {
        host.until(&format!("source {source} has seen the record"), |status| {
            let found = status["sources"].as_array().expect("a list").iter().find(|found| found["name"] == source);
            let partition = &found.expect("it is there")["partitions"][0];
            partition["next"] == 0 && partition["end"] == 1
        });
    }
    let answer = host.get("/v1/drained?timeout_ms=300").body;
    assert_eq!(answer["drained"], false, "{answer}");
    let reason = answer["waiting_for"].as_str().expect("a reason");
    assert!(reason.contains("wait behind an open transaction of another producer"), "{reason}");
    assert_eq!(host.get("/v1/ready").status, 200, "it may be committed at any moment");
    let ready = host.get("/v1/ready?stalled_ms=0");
    for source in ["stored", "echoed"] {
        let stalled = format!("source {source} is stalled: no progress");
        assert!(ready.body["reasons"].to_string().contains(&stalled), "{ready:?}");
    }
    producer.commit_transaction(wait).expect("nobody else has its transactional id");
    host.drained();
    assert_eq!(kafka.read_committed(&echoes).len(), 2, "both sources have told it");
    host.stop();
}
