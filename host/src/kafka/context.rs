//! What librdkafka tells the host outside of answers: its log, and whether the brokers can be reached.

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

/// Whether the brokers can be reached, as far as a client knows, and what it counts. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Health(Arc<Mutex<Trouble>>, Arc<Mutex<Option<Statistics>>>, Arc<AtomicU64>);

#[derive(Default)]
struct Trouble {
    /// The newest error of a single connection: more telling than "all brokers are down".
    connection: Option<String>,
    down: Option<Down>,
    /// Partitions that take no messages now, with the broker's own answer. librdkafka sends again by itself.
    refusals: BTreeMap<String, String>,
}

enum Down {
    /// All brokers are away, in the words of librdkafka.
    Away(String),
    /// Waiting does not help: a person must change something.
    Refused(String),
}

impl Health {
    /// What is in the way of every request, if something is.
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

    /// What is in the way and stays there until a person has changed something.
    pub(super) fn final_trouble(&self) -> Option<String> {
        match &self.0.held().down {
            Some(Down::Refused(reason)) => Some(reason.clone()),
            Some(Down::Away(_)) | None => None,
        }
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        let mut trouble = self.0.held();
        (trouble.connection, trouble.down) = (None, None);
    }

    /// Every message was taken, or will not be sent again.
    pub(super) fn settled(&self) {
        self.0.held().refusals.clear();
    }

    /// Keeps what librdkafka logs about the produce requests of a partition, which is the only place where it tells why
    /// it sends messages again. True if the line was of this kind.
    fn produced(&self, line: &str) -> bool {
        let Some((partition, rest)) = line.split_once("]: MessageSet with ") else { return false };
        let Some((topic, partition)) = partition.rsplit_once(" [") else { return false };
        // In front of the topic there may be the name of the thread and of the broker.
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

    /// How many times the client has found a topic recreated. It goes up before the client reads any record of the new
    /// topic, and it reads on at the old one's offset: whoever gets a record and sees another number than at the start must
    /// not take it.
    pub(super) fn recreations(&self) -> u64 {
        self.2.load(Ordering::Acquire)
    }

    /// What the client counted, as of its last report.
    pub(super) fn statistics(&self) -> Option<Statistics> {
        self.1.held().clone()
    }

    /// A report of the client.
    pub(super) fn counted(&self, json: &[u8]) {
        if let Some(statistics) = Statistics::read(json) {
            *self.1.held() = Some(statistics);
        }
    }

    fn note(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, Fatal, SSL, SaslAuthenticationFailed};
        let mut trouble = self.0.held();
        match code {
            // A refused login says more than that all brokers are down.
            Some(AllBrokersDown) if matches!(trouble.down, Some(Down::Refused(_))) => {}
            Some(AllBrokersDown) => trouble.down = Some(Down::Away(reason.to_owned())),
            Some(Authentication | SSL | SaslAuthenticationFailed | Fatal) => {
                trouble.down = Some(Down::Refused(error_hints::connection(reason)));
            }
            _ => trouble.connection = Some(error_hints::connection(reason)),
        }
    }
}

/// The context of every client.
pub(super) struct Context {
    client: String,
    health: Health,
    rebalances: Rebalances,
}

impl Context {
    /// `client` says whose client it is, as in `source baskets`.
    pub(super) fn new(client: impl Into<String>, health: Health) -> Self {
        Self { client: client.into(), health, rebalances: Rebalances::default() }
    }

    /// What the group gives and takes; empty for clients that are no members.
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
        // Connections that are closed at once are in the log alone, with what may be wrong.
        if facility == "FAIL" {
            self.health.note(None, error_hints::without_thread(message));
        }
        match level {
            Emerg | Alert | Critical => tracing::error!(target: "librdkafka", client, facility, "{message}"),
            // A broker that is away: the host goes on, and its status says so.
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
    /// The whole of it: what is to be read, and from where, is for the store's ledgers to say.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        self.rebalances.note(consumer, kind, partitions);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(client = self.client, "offsets for lag tools were not committed: {error}");
        }
    }
}

/// Whether a line of librdkafka's log (of its context `metadata`) says that a topic has another id than before. It is the
/// only way in which librdkafka tells. At its first look the topic had none, which are as many zeros.
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
