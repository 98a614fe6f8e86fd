//! How a cluster is reached: addresses, properties, and what every client of the host is configured with.

use super::dev_broker::DevBroker;
use super::{Error, client_error};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Properties that the host's promises rest on, with what to do instead of setting them.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "is set from [kafka] brokers: write the addresses there"),
    ("metadata.broker.list", "is set from [kafka] brokers: write the addresses there"),
    ("enable.auto.commit", "is set by wasmill, whose offsets are in its store: leave it out"),
    ("enable.auto.offset.store", "is set by wasmill, whose offsets are in its store: leave it out"),
    ("auto.offset.reset", "is set by wasmill: say `from` in [sources.NAME] instead"),
    ("enable.idempotence", "is set by wasmill, whose sink is always idempotent: leave it out"),
    ("enable.partition.eof", "is set by wasmill: leave it out"),
    ("transactional.id", "is set from [sink] transactional_id: write it there"),
];

/// A Kafka cluster and how to talk to it. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    brokers: Arc<str>,
    properties: Arc<BTreeMap<String, String>>,
    incarnation: Option<Arc<str>>,
}

impl Connection {
    /// A cluster at `host:port,…` with properties of librdkafka for all clients. Nothing is connected yet, but
    /// properties that librdkafka does not know or the host must set itself are refused.
    pub fn new(brokers: &str, properties: &BTreeMap<String, String>) -> Result<Self, Error> {
        let reserved = RESERVED.iter().find(|(property, _)| properties.contains_key(*property));
        if let Some((property, cause)) = reserved {
            return Err(Error::Property { property: (*property).into(), cause: (*cause).into() });
        }
        let connection = Self { brokers: brokers.into(), properties: Arc::new(properties.clone()), incarnation: None };
        connection.client("check").create_native_config().map_err(|error| client_error("check", error))?;
        Ok(connection)
    }

    /// The development broker. Its data does not outlive it, so ledgers are kept apart for each of its lives.
    pub fn embedded(broker: &DevBroker, properties: &BTreeMap<String, String>) -> Result<Self, Error> {
        let connection = Self::new(&broker.brokers, properties)?;
        Ok(Self { incarnation: Some(broker.incarnation.as_str().into()), ..connection })
    }

    /// The addresses, as given.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Whether it is the development broker: no admin calls and no transactions there.
    pub fn is_embedded(&self) -> bool {
        self.incarnation.is_some()
    }

    /// The name of the ledger of a partition of a source.
    pub fn ledger(&self, source: &str, topic: &str, partition: i32) -> Arc<str> {
        match &self.incarnation {
            Some(incarnation) => format!("kafka/{source}/{topic}/{partition}@{incarnation}").into(),
            None => format!("kafka/{source}/{topic}/{partition}").into(),
        }
    }

    /// What every client starts from; `purpose` is seen in the logs and metrics of the brokers.
    pub(super) fn client(&self, purpose: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", format!("wasmill-{purpose}"));
        // Small packets must not wait for each other, and a broker that is back must be found soon.
        config.set("socket.nagle.disable", "true").set("reconnect.backoff.max.ms", "1000");
        for (property, value) in self.properties.iter() {
            config.set(property, value);
        }
        config.set("bootstrap.servers", &*self.brokers);
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// The consumer of a source. Reading is by manual assignment; the group holds offsets for lag tools only.
    pub(super) fn consumer(&self, source: &str) -> ClientConfig {
        let mut config = self.client(&format!("source-{source}"));
        let defaults = [
            ("group.id", &*format!("wasmill-{source}")),
            // Each partition has a queue of its own, and this counts for each.
            ("queued.max.messages.kbytes", "16384"),
            // How long a partition whose queue was full is not fetched from; 1,000 by default.
            ("fetch.queue.backoff.ms", "20"),
            ("fetch.error.backoff.ms", "100"),
            // The development broker does not wake a waiting fetch when a record comes: it must ask often.
            ("fetch.wait.max.ms", if self.is_embedded() { "5" } else { "100" }),
            // The development broker makes topics when they are asked for.
            ("allow.auto.create.topics", if self.is_embedded() { "true" } else { "false" }),
        ];
        self.set_defaults(&mut config, &defaults);
        config
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            // An offset that is not there must be reported, not stepped over.
            .set("auto.offset.reset", "error");
        config
    }

    /// The producer of an idempotent sink.
    pub(super) fn producer(&self, sink: &str) -> ClientConfig {
        // An outbox message is tried until it is delivered or refused for good.
        self.any_producer(sink, &[("retry.backoff.ms", "20"), ("message.timeout.ms", "0")])
    }

    /// The producer of a transactional sink.
    pub(super) fn transactional_producer(&self, sink: &str, transactional_id: &str) -> ClientConfig {
        // A broker that still ends the last transaction refuses the next one for a moment, which is waited out in
        // steps of this length: the default of 100 ms would be most of a transaction's time.
        let mut config = self.any_producer(sink, &[("retry.backoff.ms", "1")]);
        config.set("transactional.id", transactional_id);
        config
    }

    fn any_producer(&self, sink: &str, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = self.client(&format!("sink-{sink}"));
        self.set_defaults(&mut config, defaults);
        let defaults = [
            // Agrees with Java and most other clients, so that equal keys meet in one partition.
            ("partitioner", "murmur2_random"),
            // Whole batches are handed over at once: waiting for more only adds latency.
            ("linger.ms", "1"),
            ("topic.metadata.propagation.max.ms", "10000"),
        ];
        self.set_defaults(&mut config, &defaults);
        config.set("enable.idempotence", "true");
        config
    }

    /// Reads the position of a transactional sink; waits while a transaction that may change it is open.
    pub(super) fn position_reader(&self, group: &str) -> ClientConfig {
        let mut config = self.client("sink-position");
        config.set("group.id", group).set("isolation.level", "read_committed").set("enable.auto.commit", "false");
        config
    }

    fn set_defaults(&self, config: &mut ClientConfig, defaults: &[(&str, &str)]) {
        for (property, value) in defaults {
            if !self.properties.contains_key(*property) {
                config.set(*property, *value);
            }
        }
    }
}

/// Without the properties' values, which may be secrets.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("Connection").field("brokers", &self.brokers).field("properties", &properties).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(property: &str, value: &str) -> Result<Connection, Error> {
        Connection::new("127.0.0.1:9", &BTreeMap::from([(property.to_owned(), value.to_owned())]))
    }

    #[test]
    fn properties_pass_through_and_overrule_defaults() {
        let connection = connection("fetch.wait.max.ms", "7").unwrap();
        assert_eq!(connection.consumer("baskets").get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(connection.consumer("baskets").get("group.id"), Some("wasmill-baskets"));
        assert_eq!(connection.producer("outbox").get("enable.idempotence"), Some("true"));
    }

    #[test]
    fn a_bad_property_is_named_without_its_value() {
        for (property, value, expected) in [
            ("no.such.property", "hush", "[kafka.properties] `no.such.property` was refused by librdkafka"),
            ("linger.ms", "hush", "[kafka.properties] `linger.ms` was refused by librdkafka"),
            ("auto.offset.reset", "hush", "say `from` in [sources.NAME] instead"),
        ] {
            let error = connection(property, value).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.replace(property, "").contains("hush"), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", connection("sasl.password", "hush").unwrap()).contains("hush"));
    }
}
