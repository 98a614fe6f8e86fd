//! The connection to a cluster: addresses, properties, and the configuration of every client of the host.

use super::dev_broker::DevBroker;
use super::ids::TopicId;
use super::{Error, client_error, oauth, statistics};
use crate::manifest::{CloudEvents, OAuth, Properties, Value};
use crate::model::PartitionName;
use crate::secret;
use rdkafka::ClientConfig;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long a member of a group may be silent before it counts as gone, by default: librdkafka's own default, which leaves a host the time
/// to restart.
const SESSION: Duration = Duration::from_secs(45);

/// The same for a host that shares its store with others, which take its partitions over. It is the length of a lease.
const SHARED_SESSION: Duration = Duration::from_secs(10);

/// Properties that the host must set itself, because its guarantees depend on them, each with the remedy.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "is set from [kafka] brokers: write the addresses there"),
    ("metadata.broker.list", "is set from [kafka] brokers: write the addresses there"),
    ("enable.auto.commit", "is set by wasmill, whose offsets are in its store: leave it out"),
    ("enable.auto.offset.store", "is set by wasmill, whose offsets are in its store: leave it out"),
    ("auto.offset.reset", "is set by wasmill: say `from` in [sources.NAME] instead"),
    ("enable.idempotence", "is set by wasmill, whose sink is always idempotent: leave it out"),
    ("enable.partition.eof", "is set by wasmill: leave it out"),
    ("group.id", "is set from [sources.NAME] group: write it there"),
    ("transactional.id", "is set from [sink] transactional_id: write it there"),
    (oauth::CONFIG, "is set from [kafka.oauth]: say there where tokens come from"),
    (
        "enable.sasl.oauthbearer.unsecure.jwt",
        "is not used: write `token = { unsecured = \"PRINCIPAL\" }` in [kafka.oauth]",
    ),
];

/// A Kafka cluster with the configuration of its clients. It is cheap to clone.
#[derive(Clone, PartialEq)]
pub struct Connection {
    brokers: Arc<str>,
    /// The properties, including secrets.
    properties: Arc<BTreeMap<String, String>>,
    oauth: Option<Arc<OAuth>>,
    cloud_events: Arc<CloudEvents>,
    incarnation: Option<Arc<str>>,
}

impl Connection {
    /// Creates the connection to a cluster at `host:port,…`, with properties of librdkafka for all clients. This does
    /// not connect yet, but it refuses properties that librdkafka does not know or that the host must set itself.
    pub fn new(brokers: &str, properties: &Properties) -> Result<Self, Error> {
        let (properties_of_none, oauth, cloud_events, incarnation) = Default::default();
        let none = Self { brokers: brokers.into(), properties: properties_of_none, oauth, cloud_events, incarnation };
        none.with_properties("kafka.properties", properties)
    }

    /// Returns the same cluster with more properties, which override existing ones. `section` is their section of the
    /// manifest. Values in the environment and in files are read now.
    pub fn with_properties(&self, section: &str, more: &Properties) -> Result<Self, Error> {
        if let Some(problem) = self.problems(section, more).into_iter().next() {
            return Err(problem);
        }
        let mut properties = (*self.properties).clone();
        for (property, value) in more.iter() {
            let value = secret::value(value).map_err(|cause| refused(section, property, cause))?;
            properties.insert(property.to_owned(), value);
        }
        Ok(Self { properties: Arc::new(properties), ..self.clone() })
    }

    /// Returns what is wrong with properties, each checked by itself.
    pub(super) fn problems(&self, section: &str, properties: &Properties) -> Vec<Error> {
        properties.iter().filter_map(|(property, value)| problem(section, property, value)).collect()
    }

    /// Creates the connection to the development broker, which has no address before the broker runs: see
    /// [`Connection::at`].
    pub fn of_dev_broker(properties: &Properties) -> Result<Self, Error> {
        let connection = Self::new("embedded", properties)?;
        Ok(Self { incarnation: Some("".into()), ..connection })
    }

    /// Returns the connection to the development broker with its address. The broker's data ends with it, so each of its
    /// processes has its own ledgers.
    pub fn at(&self, broker: &DevBroker) -> Self {
        let incarnation = Some(broker.incarnation.as_str().into());
        Self { brokers: broker.brokers.as_str().into(), incarnation, ..self.clone() }
    }

    /// Returns the same connection with login by token, if the manifest has it.
    pub fn with_oauth(&self, oauth: Option<&OAuth>) -> Result<Self, Error> {
        let Some(oauth) = oauth else { return Ok(self.clone()) };
        let other = ["sasl.mechanism", "sasl.mechanisms"].iter().find_map(|name| {
            let mechanism = self.properties.get(*name)?;
            (mechanism != "OAUTHBEARER").then(|| ((*name).to_owned(), mechanism))
        });
        if let Some((property, mechanism)) = other {
            let cause = format!("is {mechanism}, which needs no token: remove it or [kafka.oauth]");
            return Err(Error::Property { section: "kafka.properties".into(), property, cause });
        }
        Ok(Self { oauth: Some(oauth.clone().into()), ..self.clone() })
    }

    /// Returns the same connection with the manifest's settings for published CloudEvents.
    pub fn with_cloud_events(&self, settings: &CloudEvents) -> Self {
        Self { cloud_events: settings.clone().into(), ..self.clone() }
    }

    /// Returns the manifest's settings for published CloudEvents.
    pub(super) fn cloud_events(&self) -> &CloudEvents {
        &self.cloud_events
    }

    /// Gives a client its token, if the connection has login by token. Clients whose events are not polled need this
    /// call.
    pub(super) fn log_in<C: ClientContext>(&self, client: &Client<C>) -> Result<(), Error> {
        self.oauth.as_ref().map_or(Ok(()), |oauth| oauth::log_in(client, oauth))
    }

    /// Returns the addresses, as given.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Whether it is the development broker, which has no admin calls and no transactions.
    pub fn is_embedded(&self) -> bool {
        self.incarnation.is_some()
    }

    /// Returns the name of the ledger of a source's partition. The name has the topic's id, so a recreated topic has
    /// other ledgers, and records of the old topic that are still in flight settle nothing of the new one.
    pub(super) fn ledger(&self, source: &str, topic: &str, partition: i32, id: Option<&TopicId>) -> Arc<str> {
        let topic_id = self.topic_mark(id);
        PartitionName { source, topic, partition, topic_id }.to_string().into()
    }

    /// Returns the mark that tells a topic from another of the same name: its id, or the development broker's id,
    /// because its topics end with it.
    pub(super) fn topic_mark<'a>(&'a self, id: Option<&'a TopicId>) -> Option<&'a str> {
        self.incarnation.as_deref().or_else(|| id.map(TopicId::as_str))
    }

    /// Returns the configuration that all clients share. `purpose` appears in the logs and metrics of the brokers.
    pub(super) fn client(&self, purpose: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", format!("wasmill-{purpose}"));
        // Small packets must not be delayed, and a broker that is back must be found soon.
        config.set("socket.nagle.disable", "true").set("reconnect.backoff.max.ms", "1000");
        for (property, value) in self.properties.iter() {
            config.set(property, value);
        }
        if let Some(oauth) = &self.oauth {
            config.set("sasl.mechanisms", "OAUTHBEARER").set(oauth::CONFIG, oauth::config(oauth));
        }
        config.set("bootstrap.servers", &*self.brokers);
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// Returns the configuration of a consumer with manual assignment. Its group's offsets are for lag tools only.
    pub(super) fn consumer(&self, source: &str, group: &str) -> ClientConfig {
        let mut config = self.client(&format!("source-{source}"));
        let defaults = [
            // Each partition has its own queue, and this limit holds for each.
            ("queued.max.messages.kbytes", "2048"),
            // How long a partition with a full queue is not fetched from; the default is 1,000.
            ("fetch.queue.backoff.ms", "20"),
            ("fetch.error.backoff.ms", "100"),
            ("statistics.interval.ms", statistics::INTERVAL_MS),
            // A partition with a full queue is left out of a fetch, and waits until that fetch returns, which takes up
            // to this time if the other partitions are at their end. The development broker does not end a waiting
            // fetch when a record arrives, so its fetches must be short.
            ("fetch.wait.max.ms", if self.is_embedded() { "5" } else { "20" }),
            // The development broker creates topics on demand.
            ("allow.auto.create.topics", if self.is_embedded() { "true" } else { "false" }),
        ];
        self.set_defaults(&mut config, &defaults);
        // If a topic is recreated, the client reports it only in these log lines, and reads on at the old offset: see
        // `Health::recreations`.
        let debug = self.properties.get("debug").map_or(String::new(), |contexts| format!("{contexts},"));
        config.set("debug", format!("{debug}metadata")).set_log_level(RDKafkaLogLevel::Debug);
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            // A missing offset must be reported, not skipped.
            .set("auto.offset.reset", "error");
        config
    }

    /// Returns the configuration of a consumer that is a member of a group. `instance` is its static id, which stays
    /// the same as long as its store exists. A member without one is one of several hosts of a store. Patterns do not match the topics in
    /// `written`.
    pub(super) fn member(
        &self,
        source: &str,
        group: &str,
        instance: Option<&str>,
        written: &[String],
    ) -> Result<ClientConfig, Error> {
        const STRATEGY: &str = "partition.assignment.strategy";
        const COOPERATIVE: &str = "cooperative-sticky";
        let mut config = self.consumer(source, group);
        // New topics that match a pattern are looked for at this interval.
        self.set_defaults(&mut config, &[("topic.metadata.refresh.interval.ms", "5000")]);
        let own = self.properties.get("topic.blacklist").map_or("^__.*", String::as_str);
        let unread = written.iter().map(|topic| format!("^{}$", regex::escape(topic)));
        config.set("topic.blacklist", std::iter::once(own.to_owned()).chain(unread).collect::<Vec<_>>().join(","));
        // With the new group protocol, the broker assigns the partitions.
        if self.properties.get("group.protocol").is_some_and(|protocol| protocol == "consumer") {
            return Ok(config);
        }
        if self.properties.get(STRATEGY).is_some_and(|strategy| strategy != COOPERATIVE) {
            return Err(Error::Property {
                section: format!("sources.{source}.properties"),
                property: STRATEGY.into(),
                cause: format!(
                    "must be {COOPERATIVE}: with others a member loses all its partitions whenever another one joins; \
                     leave it out"
                ),
            });
        }
        self.set_defaults(&mut config, &[(STRATEGY, COOPERATIVE)]);
        match instance {
            // A static member that is killed gets its partitions back as soon as it is restarted.
            Some(instance) => self.set_defaults(&mut config, &[("group.instance.id", instance)]),
            None => {
                if self.properties.contains_key("group.instance.id") {
                    return Err(Error::Property {
                        section: format!("sources.{source}.properties"),
                        property: "group.instance.id".into(),
                        cause: "is the id of one member, and this manifest is for all hosts that share the store: leave it out".into(),
                    });
                }
                let session = SHARED_SESSION.as_millis().to_string();
                self.set_defaults(&mut config, &[("session.timeout.ms", &session)]);
            }
        }
        Ok(config)
    }

    /// Returns how long a member of a group may be silent before it counts as gone.
    pub(super) fn session_timeout(&self, is_shared: bool) -> Duration {
        let configured = self.properties.get("session.timeout.ms").and_then(|ms| ms.parse().ok());
        let by_default = if is_shared { SHARED_SESSION } else { SESSION };
        configured.map_or(by_default, Duration::from_millis)
    }

    /// Returns the configuration of an idempotent sink's producer.
    pub(super) fn producer(&self, sink: &str) -> ClientConfig {
        // A message is retried until it is delivered or refused for good.
        self.any_producer(sink, &[("retry.backoff.ms", "20"), ("message.timeout.ms", "0")])
    }

    /// Returns the configuration of a transactional sink's producer.
    pub(super) fn transactional_producer(&self, sink: &str, transactional_id: &str) -> ClientConfig {
        // A broker that still completes the last transaction refuses the next one for a moment, and the producer
        // retries at this interval. With the default of 100 ms, the wait would be most of a transaction's time.
        let mut config = self.any_producer(sink, &[("retry.backoff.ms", "1")]);
        config.set("transactional.id", transactional_id);
        config
    }

    fn any_producer(&self, sink: &str, defaults: &[(&str, &str)]) -> ClientConfig {
        let mut config = self.client(&format!("sink-{sink}"));
        self.set_defaults(&mut config, defaults);
        let defaults = [
            // The same partitioner as in Java and most other clients, so that equal keys go to one partition.
            ("partitioner", "murmur2_random"),
            // Whole batches are handed over at once, so waiting for more only adds latency.
            ("linger.ms", "1"),
            ("topic.metadata.propagation.max.ms", "10000"),
            ("statistics.interval.ms", statistics::INTERVAL_MS),
        ];
        self.set_defaults(&mut config, &defaults);
        config.set("enable.idempotence", "true");
        // librdkafka resends a refused message by itself, and reports the reason only in debug lines of this context.
        // `deliveries` turns them on when acknowledgements are slow.
        let debug = self.properties.get("debug").filter(|contexts| !contexts.is_empty());
        config.set("debug", debug.map_or("msg".to_owned(), |contexts| format!("{contexts},msg")));
        config.set_log_level(if debug.is_some() { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        config
    }

    /// Returns the configuration of a consumer that reads the position of a transactional sink. It waits while a
    /// transaction that may change the position is open.
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

/// Returns why a property can't be used: the host must set it, its value is missing in the environment or file, or
/// librdkafka does not accept it.
fn problem(section: &str, property: &str, value: &Value) -> Option<Error> {
    if let Some((_, cause)) = RESERVED.iter().find(|(reserved, _)| *reserved == property) {
        return Some(refused(section, property, (*cause).to_owned()));
    }
    let value = match secret::value(value) {
        Ok(value) => value,
        Err(cause) => return Some(refused(section, property, cause)),
    };
    let error = ClientConfig::new().set(property, value).create_native_config().err()?;
    match client_error("check", error) {
        Error::Property { property, cause, .. } => Some(refused(section, &property, cause)),
        error => Some(error),
    }
}

fn refused(section: &str, property: &str, cause: String) -> Error {
    Error::Property { section: section.to_owned(), property: property.to_owned(), cause }
}

/// The output has no values of properties, because they may be secrets.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let properties: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("Connection").field("brokers", &self.brokers).field("properties", &properties).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(property: &str, value: &str) -> Properties {
        BTreeMap::from([(property.to_owned(), value.to_owned())]).into()
    }

    fn connection(property: &str, value: &str) -> Result<Connection, Error> {
        Connection::new("127.0.0.1:9", &properties(property, value))
    }

    #[test]
    fn properties_pass_through_and_overrule_defaults() {
        let connection = connection("fetch.wait.max.ms", "7").unwrap();
        assert_eq!(connection.consumer("baskets", "shop").get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(connection.consumer("baskets", "shop").get("group.id"), Some("shop"));
        assert_eq!(connection.producer("outbox").get("enable.idempotence"), Some("true"));
    }

    #[test]
    fn a_bad_property_is_named_without_its_value() {
        let good = connection("linger.ms", "5").unwrap();
        let more = properties("compression.type", "squeeze");
        let error = good.with_properties("sinks.orders.properties", &more).unwrap_err().to_string();
        assert!(error.starts_with("[sinks.orders.properties] `compression.type` was refused"), "{error}");
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

    #[test]
    fn a_secret_that_is_not_there_is_named_by_its_place() {
        let mut more = Properties::default();
        more.set("sasl.password", crate::manifest::Value::Env("WASMILL_NO_SUCH_VARIABLE".to_owned()));
        let error = connection("linger.ms", "5").unwrap().with_properties("sources.b.properties", &more).unwrap_err();
        let expected = "[sources.b.properties] `sasl.password` is in the environment variable WASMILL_NO_SUCH_VARIABLE";
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    #[test]
    fn login_by_token_sets_its_mechanism() {
        let oauth = OAuth { token: crate::manifest::Token::Env("TOKEN".to_owned()), lifetime_ms: 1_000 };
        let login = connection("linger.ms", "5").unwrap().with_oauth(Some(&oauth)).unwrap();
        assert_eq!(login.producer("outbox").get("sasl.mechanisms"), Some("OAUTHBEARER"));
        let error = connection("sasl.mechanism", "PLAIN").unwrap().with_oauth(Some(&oauth)).unwrap_err().to_string();
        assert!(error.starts_with("[kafka.properties] `sasl.mechanism` is PLAIN, which needs no token"), "{error}");
    }
}
