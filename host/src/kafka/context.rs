//! The callbacks of librdkafka: its log, its errors, its statistics and its rebalances.

use super::error_hints;
use super::source::Rebalances;
use super::statistics::Statistics;
use crate::supervise::Held as _;
use rdkafka::TopicPartitionList;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Whether a client can reach the brokers, with its statistics. It is cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Health(Arc<Mutex<Trouble>>, Arc<Mutex<Option<Statistics>>>, Arc<AtomicU64>);

#[derive(Default)]
struct Trouble {
    /// The newest error of a single connection, which says more than "all brokers are down".
    connection: Option<String>,
    down: Option<Down>,
    /// Partitions that refuse messages now, with the broker's answer. librdkafka resends by itself.
    refusals: BTreeMap<String, String>,
}

enum Down {
    /// No broker can be reached; the text is librdkafka's.
    Away(String),
    /// The brokers refuse this client until a person changes something.
    Refused(String),
}

impl Health {
    /// Returns what is in the way of every request, if anything is.
    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = self.0.held();
        match &trouble.down {
            Some(Down::Refused(reason)) => Some(reason.clone()),
            Some(Down::Away(reason)) => {
                let cause = trouble.connection.as_ref().unwrap_or(reason);
                Some(format!("no broker can be reached: {cause}"))
            }
            None => {
                let (partition, answer) = trouble.refusals.first_key_value()?;
                Some(format!("{partition} takes no messages: {answer}"))
            }
        }
    }

    /// Returns what is in the way until a person changes something, if anything is.
    pub(super) fn final_trouble(&self) -> Option<String> {
        match &self.0.held().down {
            Some(Down::Refused(reason)) => Some(reason.clone()),
            Some(Down::Away(_)) | None => None,
        }
    }

    /// Notes that a request was answered.
    pub(super) fn answered(&self) {
        let mut trouble = self.0.held();
        (trouble.connection, trouble.down) = (None, None);
    }

    /// Notes that every message was accepted, or will not be sent again.
    pub(super) fn settled(&self) {
        self.0.held().refusals.clear();
    }

    /// Keeps what librdkafka logs about the produce requests of a partition, because only this log says why it resends
    /// messages. Returns whether the line was of this kind.
    fn produced(&self, line: &str) -> bool {
        let Some((partition, rest)) = line.split_once("]: MessageSet with ") else { return false };
        let Some((topic, partition)) = partition.rsplit_once(" [") else { return false };
        // The names of the thread and of the broker may precede the topic.
        let topic = topic.rsplit(": ").next().unwrap_or(topic);
        let partition = format!("topic {topic} partition {partition}");
        let mut trouble = self.0.held();
        match rest.split_once(" encountered error: ").and_then(|(_, rest)| rest.split_once(" (actions ")) {
            Some((error, actions)) if actions.contains("Retry") && !error.starts_with("Local: ") => {
                trouble.refusals.insert(partition, error_hints::refusal(error));
            }
            Some(_) => {}
            None => _ = trouble.refusals.remove(&partition),
        }
        true
    }

    /// Returns how many times the client has found a topic recreated. The number grows before the client reads any
    /// record of the new topic, which it does at the old topic's offset. So a record that comes after a change of this
    /// number must not be handled.
    pub(super) fn recreations(&self) -> u64 {
        self.2.load(Ordering::Acquire)
    }

    /// Returns the statistics of the client's last report.
    pub(super) fn statistics(&self) -> Option<Statistics> {
        self.1.held().clone()
    }

    /// Keeps a report of the client.
    pub(super) fn counted(&self, json: &[u8]) {
        if let Some(statistics) = Statistics::read(json) {
            *self.1.held() = Some(statistics);
        }
    }

    fn note(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, Fatal, SSL, SaslAuthenticationFailed};
        let mut trouble = self.0.held();
        match code {
            // A refused login says more than "all brokers are down".
            Some(AllBrokersDown) if matches!(trouble.down, Some(Down::Refused(_))) => {}
            Some(AllBrokersDown) => trouble.down = Some(Down::Away(reason.to_owned())),
            Some(Authentication | SSL | SaslAuthenticationFailed | Fatal) => {
                trouble.down = Some(Down::Refused(error_hints::connection(reason)));
            }
            _ => trouble.connection = Some(error_hints::connection(reason)),
        }
    }
}

/// The context of every client, which receives its callbacks.
pub(super) struct Context {
    client: String,
    health: Health,
    rebalances: Rebalances,
}

impl Context {
    /// Creates a context. `client` names the owner, such as `source baskets`.
    pub(super) fn new(client: impl Into<String>, health: Health) -> Self {
        Self { client: client.into(), health, rebalances: Rebalances::default() }
    }

    /// Returns the rebalances of the client's group; none if the client is not a member of one.
    pub(super) fn rebalances(&self) -> &Rebalances {
        &self.rebalances
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
        let client = &self.client;
        if facility == "MSGSET" && self.health.produced(message) {
            return;
        }
        if matches!(level, Debug) {
            if is_recreation(message) {
                self.health.2.fetch_add(1, Ordering::Release);
            }
            return tracing::trace!(target: "librdkafka", client, facility, "{message}");
        }
        // Connections that are closed at once are reported only in the log, with the possible cause.
        if facility == "FAIL" {
            self.health.note(None, error_hints::without_thread(message));
        }
        match level {
            Emerg | Alert | Critical => tracing::error!(target: "librdkafka", client, facility, "{message}"),
            // For example, a broker can't be reached: the host keeps working, and its status shows it.
            Error | Warning => tracing::warn!(target: "librdkafka", client, facility, "{message}"),
            Notice | Info => tracing::info!(target: "librdkafka", client, facility, "{message}"),
            Debug => unreachable!("handled above"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", client = self.client, "{error}: {reason}");
        self.health.note(error.rdkafka_error_code(), reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.health.counted(json);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let token = super::oauth::token(config);
        if let Err(cause) = &token {
            tracing::warn!(client = self.client, "{cause}");
        }
        Ok(token?)
    }
}

impl ConsumerContext for Context {
    /// Replaces rdkafka's own handling, because the store's ledgers decide from where partitions are read.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        self.rebalances.note(consumer, kind, partitions);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(client = self.client, "offsets for lag tools were not committed: {error}");
        }
    }
}

/// Whether a line of librdkafka's log (of its context `metadata`) says that the id of a topic has changed. librdkafka
/// does not report it in any other way. Before its first look, the id is all zeros.
fn is_recreation(message: &str) -> bool {
    const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";
    let changed = message.split_once(" changed id from ").and_then(|(_, ids)| ids.split_once(" to "));
    changed.is_some_and(|(old, new)| !old.starts_with(NONE) && !new.starts_with(NONE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_was_recreated_is_told_from_one_that_is_seen_first() {
        for (message, expected) in [
            ("[thrd:main]: Topic a changed id from AAAAAAAAAAAAAAAAAAAAAA to xq3YbPMTQ3y4ZGcI1mMpsA", false),
            ("[thrd:main]: Topic a changed id from xq3YbPMTQ3y4ZGcI1mMpsA to 0q3YbPMTQ3y4ZGcI1mMpsA", true),
            ("[thrd:main]: Topic a changed id from xq3YbPMTQ3y4ZGcI1mMpsA to AAAAAAAAAAAAAAAAAAAAAA", false),
            ("[thrd:main]: Topic a [0] Leader 1 Epoch 0", false),
        ] {
            assert_eq!(is_recreation(message), expected, "{message}");
        }
    }

    #[test]
    fn trouble_names_the_newest_cause_and_ends_with_an_answer() {
        let health = Health::default();
        health.note(Some(RDKafkaErrorCode::BrokerTransportFailure), "connect to 127.0.0.1:9 failed: refused");
        assert_eq!(health.trouble(), None);
        health.note(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert!(health.trouble().unwrap().ends_with("127.0.0.1:9 failed: refused"));
        assert_eq!(health.final_trouble(), None);
        health.note(Some(RDKafkaErrorCode::Authentication), "SASL authentication error: no such user");
        health.note(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert!(health.final_trouble().unwrap().contains("no such user; check sasl.username"));
        health.answered();
        assert_eq!(health.trouble(), None);
    }
}
