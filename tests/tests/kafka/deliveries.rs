//! Kafka records as deliveries to a subscriber. Each has its effects once, a record that always fails delays no others,
//! and a dead letter can be retried.

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::setting::Setting;
use wasmill_tests::topic;

/// A source `wishes` of a topic of the same name, for the plugin `courier`.
fn setting(source: &str, more: &str) -> Setting {
    manifest("embedded", "wishes", source, more)
}

fn manifest(brokers: &str, topic: &str, source: &str, more: &str) -> Setting {
    Setting::new(&format!(
        "[kafka]\nbrokers = \"{brokers}\"\n[kafka.topics.{topic}]\npartitions = 3\n[kafka.topics.echoes]\n\
         [plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n[plugins.courier]\nfile = \"PLUGINS/courier.wasm\"\n{more}\n\
         [sources.wishes]\ntopic = \"{topic}\"\nsubscriber = \"courier\"\n{source}\n"
    ))
}

fn add(cart: &str, amount_cents: usize) -> Value {
    json!({ "Add": { "cart": cart, "amount_cents": amount_cents } })
}

/// What was added to a cart, in order.
fn added(host: &TestHost) -> BTreeMap<String, Vec<u64>> {
    let mut carts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in host.events("cart.*") {
        let id = event["aggregate_id"].as_str().expect("an id").to_owned();
        carts.entry(id).or_default().push(event["payload"]["amount_cents"].as_u64().expect("an amount"));
    }
    carts
}

/// Records of each cart under the cart's own key, so that they keep their order.
fn wishes(carts: usize, numbers: std::ops::Range<usize>) -> Vec<(String, Value)> {
    numbers.map(|number| (format!("c{}", number % carts), add(&format!("c{}", number % carts), number))).collect()
}

fn expected(carts: usize, count: usize) -> BTreeMap<String, Vec<u64>> {
    let of_cart = |cart: usize| (cart..count).step_by(carts).map(|number| number as u64).collect();
    (0..carts).map(|cart| (format!("c{cart}"), of_cart(cart))).collect()
}

fn handled(host: &TestHost, count: u64) {
    host.until(&format!("{count} records are handled"), |status| status["sources"][0]["handled"] == count);
}

fn each_record_once(setting: &Setting, brokers: impl Fn(&TestHost) -> String, topic: &str) {
    let host = setting.start();
    let brokers = brokers(&host);
    topic::produce_keyed(&brokers, topic, &wishes(7, 0..300));
    host.until("some records are handled", |status| status["sources"][0]["handled"].as_u64() > Some(50));
    host.crash();
    topic::produce_keyed(&brokers, topic, &wishes(7, 300..600));
    host.crash();
    handled(&host, 600);
    host.drained();
    assert_eq!(added(&host), expected(7, 600));
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    host.stop();
}

#[test]
fn each_record_has_its_effects_once_through_crashes() {
    for source in ["batch_max = 1", "batch_max = 64", ""] {
        each_record_once(&setting(source, ""), TestHost::brokers, "wishes");
    }
}

#[test]
fn each_record_has_its_effects_once_on_a_real_broker() {
    let Some(kafka) = Kafka::shared() else { return };
    for membership in ["assigned", "group"] {
        let topic = kafka.topic(&format!("wishes-{membership}"), 3);
        let source = format!("membership = \"{membership}\"\ngroup = \"{topic}\"");
        let setting = manifest(kafka.brokers(), &topic, &source, "");
        each_record_once(&setting, |_| kafka.brokers().to_owned(), &topic);
    }
}

#[test]
fn poison_is_dead_lettered_with_its_place_and_delays_nobody() {
    let setting = setting("attempts_max = 3\nbackoff_ms = 20\non_failure = \"pass\"", "");
    let host = setting.start();
    let poison = [json!("Refuse"), json!("Panic"), json!({ "Add": 1 })];
    for (partition, poison) in (0..).zip(poison) {
        let cart = format!("c{partition}");
        let values = [add(&cart, 1), poison, add(&cart, 2), add(&cart, 3)];
        let values: Vec<_> = values.iter().map(Value::to_string).collect();
        let records: Vec<_> = values.iter().map(|value| (Some(cart.as_bytes()), value.as_bytes())).collect();
        topic::produce(&host.brokers(), "wishes", partition, &records);
    }
    handled(&host, 12);
    host.drained();
    let expected: BTreeMap<_, _> = (0..3).map(|cart| (format!("c{cart}"), vec![1, 2, 3])).collect();
    assert_eq!(added(&host), expected);

    let dead_letters = host.status()["dead_letters"].clone();
    assert_eq!(dead_letters["total"], 3, "{dead_letters:#}");
    for (partition, part) in (0..).zip(["as the record asked", "(tried 3 times)", "Add"]) {
        let place = format!("topic wishes partition {partition} offset 1");
        let items = dead_letters["newest"].as_array().expect("a list");
        let item =
            items.iter().find(|item| item["place"] == place).unwrap_or_else(|| panic!("{place}: {dead_letters:#}"));
        assert_eq!((&item["consumer"], &item["key"]), (&json!("wishes"), &json!(format!("c{partition}"))));
        assert!(item["reason"].as_str().expect("a reason").contains(part), "{item}");
    }
}

/// Returns the dead letters of the source, the oldest first.
fn letters(host: &TestHost) -> Vec<Value> {
    let letters = host.get("/v1/dead-letters").body;
    letters["letters"].as_array().expect("a list").iter().rev().cloned().collect()
}

fn discard(host: &TestHost, letter: &Value) {
    let path = format!("/v1/dead-letters/{}/discard", letter["number"]);
    assert_eq!(host.post(&path, &Value::Null, &[]).status, 200);
}

#[test]
fn later_records_of_a_key_wait_behind_its_dead_letter_and_keep_their_order() {
    let setting = setting("attempts_max = 1", "");
    let host = setting.start();
    let refuse = || json!("Refuse");
    let of_a = [add("a", 1), refuse(), add("a", 2), refuse(), add("a", 3)];
    let of_b = [add("b", 1), add("b", 2)];
    let of_none = [refuse(), add("none", 1)];
    let text = |values: &[Value]| values.iter().map(Value::to_string).collect::<Vec<_>>();
    let (of_a, of_b, of_none) = (text(&of_a), text(&of_b), text(&of_none));
    let keyed = |key: Option<&'static [u8]>, values: &[String]| -> Vec<(Option<&'static [u8]>, String)> {
        values.iter().map(|value| (key, value.clone())).collect()
    };
    // The bytes of this key are no text.
    let records = [keyed(Some(b"\xff"), &of_a), keyed(Some(b"b"), &of_b), keyed(None, &of_none)].concat();
    let records: Vec<_> = records.iter().map(|(key, value)| (*key, value.as_bytes())).collect();
    topic::produce(&host.brokers(), "wishes", 0, &records);
    handled(&host, records.len() as u64);
    host.drained();
    let expected = |of_a: &[u64]| -> BTreeMap<String, Vec<u64>> {
        [("a", of_a.to_vec()), ("b", vec![1, 2]), ("none", vec![1])].map(|(cart, all)| (cart.to_owned(), all)).into()
    };
    assert_eq!(added(&host), expected(&[1]), "what has no key passes");
    let found = letters(&host);
    assert_eq!((found.len(), &found[0]["waiting"], &found[1]["waiting"]), (2, &json!(3), &json!(0)), "{found:#?}");
    let subscriptions = host.get("/v1/subscriptions").body;
    let own = subscriptions.as_array().expect("a list").iter().find(|one| one["name"] == "source/wishes").cloned();
    assert_eq!(own.expect("the source's subscriber")["waiting_keys"], 1);
    let replayed = host.post(&format!("/v1/dead-letters/{}/replay", found[0]["number"]), &Value::Null, &[]);
    assert_eq!(replayed.status, 422, "it is refused again: {replayed:?}");

    host.crash();
    let more = add("a", 4).to_string();
    topic::produce(&host.brokers(), "wishes", 0, &[(Some(b"\xff"), more.as_bytes())]);
    host.until("the record waits too", |_| letters(&host)[0]["waiting"] == 4);
    host.drained();
    assert_eq!(added(&host), expected(&[1]));

    discard(&host, &found[0]);
    host.until("it goes on up to the next", |_| letters(&host).iter().any(|letter| letter["waiting"] == 2));
    host.drained();
    assert_eq!(added(&host), expected(&[1, 2]));
    letters(&host).iter().for_each(|letter| discard(&host, letter));
    host.until("the rest is handled", |_| added(&host)["a"].len() == 4);
    let more = add("a", 5).to_string();
    topic::produce(&host.brokers(), "wishes", 0, &[(Some(b"\xff"), more.as_bytes())]);
    host.until("it goes on as before", |_| added(&host)["a"].len() == 5);
    host.drained();
    assert_eq!(added(&host), expected(&[1, 2, 3, 4, 5]));
    host.stop();
}

/// Some records are refused, and their dead letters are discarded while further records arrive and the host is killed.
#[test]
fn keys_of_records_keep_their_order_behind_dead_letters_through_kills() {
    const KEYS: usize = 9;
    const ROUNDS: usize = 12;
    let setting = setting("attempts_max = 1\nbatch_max = 5", "");
    let host = setting.start();
    let refused = |number: usize| number % 7 == 3;
    for round in 0..ROUNDS {
        let numbers = round * KEYS * 4..(round + 1) * KEYS * 4;
        let records: Vec<_> = numbers
            .map(|number| {
                let key = format!("c{}", number % KEYS);
                let value = if refused(number) { json!("Refuse") } else { add(&key, number) };
                (key, value)
            })
            .collect();
        topic::produce_keyed(&host.brokers(), "wishes", &records);
        letters(&host).iter().for_each(|letter| discard(&host, letter));
        host.crash();
    }
    let all = KEYS * 4 * ROUNDS;
    let expected = |key: usize| (key..all).step_by(KEYS).filter(|number| !refused(*number)).map(|number| number as u64);
    let expected: BTreeMap<_, Vec<u64>> = (0..KEYS).map(|key| (format!("c{key}"), expected(key).collect())).collect();
    host.until("all is handled", |_| {
        letters(&host).iter().for_each(|letter| discard(&host, letter));
        added(&host).values().map(Vec::len).sum::<usize>() == expected.values().map(Vec::len).sum::<usize>()
    });
    host.drained();
    assert_eq!(added(&host), expected);
    host.stop();
}

#[test]
fn a_subscription_to_records_stops_behind_a_dead_letter_if_the_manifest_says_so() {
    let setting = setting("attempts_max = 1\non_failure = \"stop\"", "");
    let host = setting.start();
    let records = [("a".to_owned(), json!("Refuse")), ("a".to_owned(), add("a", 1))];
    topic::produce_keyed(&host.brokers(), "wishes", &records);
    let is_stopped = |status: &Value| status["sources"][0]["state"] == "paused";
    let status = host.until("it is stopped", is_stopped);
    let error = status["sources"][0]["error"].as_str().expect("a reason");
    assert!(
        error.contains("stopped because topic wishes partition") && error.contains("resume source/wishes"),
        "{error}"
    );
    host.crash();
    host.until("it is stopped still", is_stopped);
    discard(&host, &letters(&host)[0]);
    assert_eq!(host.post("/v1/subscriptions/source%2Fwishes/resume", &Value::Null, &[]).status, 200);
    host.until("it goes on", |_| added(&host).get("a") == Some(&vec![1]));
    host.stop();
}

#[test]
fn a_record_that_is_tried_again_holds_its_own_key_and_no_other() {
    let setting = setting("attempts_max = 1000\nbackoff_ms = 200", "");
    let host = setting.start();
    let flaky = json!({ "AddAfterFailures": { "failures": 4, "cart": "slow", "amount_cents": 1 } });
    let values = [flaky.to_string(), add("slow", 2).to_string(), add("fast", 1).to_string()];
    let keys: [&[u8]; 3] = [b"slow", b"slow", b"fast"];
    let records: Vec<_> = keys.into_iter().zip(&values).map(|(key, value)| (Some(key), value.as_bytes())).collect();
    topic::produce(&host.brokers(), "wishes", 0, &records);
    handled(&host, 3);
    host.drained();
    let order: Vec<_> = host.events("cart.*").iter().map(|event| event["aggregate_id"].clone()).collect();
    assert_eq!(order, ["fast", "slow", "slow"]);
    assert_eq!(added(&host)["slow"], [1, 2]);
    assert_eq!(host.status()["dead_letters"]["total"], 0);
}

#[test]
fn a_record_that_takes_long_delays_its_own_key_alone() {
    let setting = setting("attempts_max = 1", "[plugins.courier.limits]\nevent_time_ms = 600000");
    let host = setting.start();
    let slowly = |cart: &str| json!({ "AddSlowly": { "cart": cart, "amount_cents": 1 } }).to_string();
    let values = [slowly("slow"), add("slow", 2).to_string(), add("fast", 1).to_string()];
    let keys: [&[u8]; 3] = [b"slow", b"slow", b"fast"];
    let records: Vec<_> = keys.into_iter().zip(&values).map(|(key, value)| (Some(key), value.as_bytes())).collect();
    topic::produce(&host.brokers(), "wishes", 0, &records);
    host.until("fast is added", |_| added(&host).contains_key("fast"));
    assert!(!added(&host).contains_key("slow"), "fast did not wait for it");
    host.crash();
    host.until("slow is added", |_| added(&host).get("slow") == Some(&vec![1, 2]));
    // Without a key nothing can be kept in order, so it is handled in place.
    topic::produce(&host.brokers(), "wishes", 1, &[(None, slowly("none").as_bytes())]);
    host.until("none is added", |_| added(&host).contains_key("none"));
    host.drained();
    assert_eq!(added(&host).values().map(Vec::len).sum::<usize>(), 4);
    assert_eq!(host.status()["dead_letters"]["total"], 0);
    host.stop();
}

/// A record that takes long is left to another thread, which must not send its commands before those of an earlier record of
/// its key, whose step is still in flight.
#[test]
fn a_record_that_takes_long_does_not_pass_an_earlier_one_of_its_key() {
    let setting = setting("", "[plugins.courier.limits]\nevent_time_ms = 600000");
    let host = setting.start();
    let slowly = |cart: &str, amount: u32| json!({ "AddSlowly": { "cart": cart, "amount_cents": amount } }).to_string();
    for round in 0..3 {
        let cart = format!("k{round}");
        let pause = |what: &str| {
            assert_eq!(host.post(&format!("/v1/subscriptions/source%2Fwishes/{what}"), &Value::Null, &[]).status, 200);
        };
        pause("pause");
        let values = [
            add(&cart, 1).to_string(),
            slowly(&cart, 2),
            // Without a key they are handled in place, so the thread of records is busy meanwhile.
            slowly("none", 1),
            slowly("none", 1),
            add(&cart, 3).to_string(),
        ];
        let keyed = |index: usize| (!(2..4).contains(&index)).then_some(cart.as_bytes());
        let records: Vec<_> =
            values.iter().enumerate().map(|(index, value)| (keyed(index), value.as_bytes())).collect();
        topic::produce(&host.brokers(), "wishes", 0, &records);
        pause("resume");
        host.until("all are added", |_| added(&host).get(&cart).is_some_and(|added| added.len() == 3));
        assert_eq!(added(&host)[&cart], [1, 2, 3]);
    }
    host.drained();
    host.stop();
}

#[test]
fn a_host_does_not_wait_for_a_record_that_is_tried_again() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic("wishes-held", 1);
    let source = format!("attempts_max = 1000\nbackoff_ms = 30000\ngroup = \"{topic}\"");
    let setting = manifest(kafka.brokers(), &topic, &source, "");
    let host = setting.start();
    let values = [json!("Retry").to_string(), add("c", 1).to_string()];
    let records: Vec<_> = values.iter().map(|value| (Some(b"k".as_slice()), value.as_bytes())).collect();
    topic::produce(kafka.brokers(), &topic, 0, &records);
    let waits = |status: &Value| {
        let source = &status["sources"][0];
        source["state"] == "retrying" && source["error"].as_str().is_some_and(|error| error.contains("offset 0"))
    };
    host.until("it waits", waits);
    let stopped = Instant::now();
    host.stop();
    assert!(stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
    // The record behind it in its key has not passed it.
    let host = setting.start();
    host.until("it waits again", waits);
    assert_eq!((added(&host).len(), host.status()["sources"][0]["handled"].clone()), (0, json!(0)));
}

#[test]
fn keys_tombstones_and_headers_reach_the_subscriber_as_they_are() {
    let setting = setting("", "");
    let host = setting.start();
    let brokers = host.brokers();
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let header = |key, value| Header { key, value };
    let headers = OwnedHeaders::new()
        .insert(header("echo-to", Some(b"echoes".as_slice())))
        .insert(header("twice", Some(b"\xff".as_slice())))
        .insert(header("empty", None::<&[u8]>))
        .insert(header("twice", Some(b"".as_slice())))
        .insert(header("correlation-id", Some(b"visit-7".as_slice())));
    let record = BaseRecord::<[u8], [u8]>::to("wishes").partition(2).key(b"\x00\xff").headers(headers).timestamp(1234);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(120)).unwrap();

    let [echo] = &topic::read(&brokers, "echoes", 1)[..] else { panic!("one echo") };
    let value: Value = serde_json::from_slice(echo.value.as_deref().unwrap()).unwrap();
    let expected = json!({
        "source": "wishes", "place": ["wishes", 2, 0], "key": [0, 255], "value": null, "time_ms": 1234,
        "headers": [["twice", [255]], ["empty", null], ["twice", []], ["correlation-id", b"visit-7"]],
    });
    assert_eq!(value, expected);
    assert_eq!(echo.key.as_deref(), Some(b"\x00\xff".as_slice()));
    assert_eq!(echo.header("ce_id"), Some("wishes:wishes:2:0:0"));
    let source = echo.header("ce_source").unwrap_or_default();
    assert!(source.starts_with("urn:uuid:") && source.ends_with("#wishes"), "{source}");
    assert_eq!(echo.header("content-type"), Some("application/json"));
    assert_eq!(echo.header("correlation-id"), Some("visit-7"));
    assert_eq!(echo.header("causation-id"), Some("wishes:2:0"));
}

#[test]
fn what_was_dead_lettered_is_delivered_again_once() {
    let setting = setting("attempts_max = 1", "[plugins.courier.limits]\neffects_max = 3");
    let host = setting.start();
    let many = json!({ "AddMany": { "cart": "c", "count": 5 } });
    topic::produce_keyed(&host.brokers(), "wishes", &[("c".to_owned(), many)]);
    handled(&host, 1);
    let letter =
        |host: &TestHost| host.status()["dead_letters"]["newest"][0]["number"].as_u64().expect("a dead letter");
    let replay =
        |host: &TestHost, number: u64| host.post(&format!("/v1/dead-letters/{number}/replay"), &json!({}), &[]);
    let number = letter(&host);
    let refused = replay(&host, number);
    assert!(refused.status >= 400 && refused.body.to_string().contains("more than 3 effects"), "{refused:?}");
    assert_eq!(letter(&host), number);

    let manifest = std::fs::read_to_string(setting.path("wasmill.toml")).unwrap();
    host.stop();
    setting.write("wasmill.toml", manifest.replace("effects_max = 3", "effects_max = 5"));
    let host = setting.start();
    let handled = replay(&host, number);
    assert_eq!(handled.status, 200, "{handled:?}");
    assert_eq!(replay(&host, number).status, 404);
    host.drained();
    assert_eq!(added(&host)["c"], [0, 1, 2, 3, 4]);
    assert_eq!(host.status()["dead_letters"]["total"], 0);
}

#[test]
fn a_source_of_deliveries_that_can_not_be_is_refused() {
    let cases = [
        (
            "subscriber = \"postman\"",
            "`sources.wishes.subscriber`: no plugin postman that is a subscriber; there are courier",
        ),
        (
            "subscriber = \"cart\"",
            "`sources.wishes.subscriber`: no plugin cart that is a subscriber; there are courier",
        ),
        (
            "subscriber = \"courier\"\naggregate = \"cart\"",
            "`sources.wishes.aggregate` is for records that become commands, and stands beside `subscriber`",
        ),
        ("subscriber = \"courier\"\nbatch_max = 0", "`sources.wishes.batch_max` must be a whole number from 1"),
        (
            "subscriber = \"courier\"\ntransaction = \"kafka\"",
            "`sources.wishes.dead_letter_topic` is missing: with `transaction = \"kafka\"`",
        ),
        (
            "subscriber = \"courier\"\ntransaction = \"kafka\"\ndead_letter_topic = \"dead\"",
            "`sources.wishes.transaction` is \"kafka\", and the development broker has no transactions",
        ),
    ];
    for (keys, expected) in cases {
        let setting = Setting::new(&format!(
            "[kafka]\nbrokers = \"embedded\"\n[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n[plugins.courier]\n\
             file = \"PLUGINS/courier.wasm\"\n[sources.wishes]\ntopic = \"wishes\"\n{keys}\n"
        ));
        let refused = setting.start_refused();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(expected), "{keys}\nshould say {expected}\n{said}");
    }
}
