//! What librdkafka tells the host outside of answers: its log, and whether the brokers can be reached.

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use std::sync::{Arc, Mutex};

/// Whether the brokers can be reached, as far as a client knows. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Health(Arc<Mutex<Trouble>>);

#[derive(Default)]
struct Trouble {
    /// The newest error of a single connection: more telling than "all brokers are down".
    connection: Option<String>,
    down: Option<String>,
}

impl Health {
    /// What is in the way of every request, if something is.
    pub(super) fn trouble(&self) -> Option<String> {
        self.0.lock().expect("no holder panics").down.clone()
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        *self.0.lock().expect("no holder panics") = Trouble::default();
    }

    fn note(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, Fatal, SSL, SaslAuthenticationFailed};
        let mut trouble = self.0.lock().expect("no holder panics");
        match code {
            Some(AllBrokersDown) => {
                let cause = trouble.connection.clone().unwrap_or_else(|| reason.to_owned());
                trouble.down = Some(format!("no broker can be reached: {cause}"));
            }
            Some(Authentication | SSL | SaslAuthenticationFailed | Fatal) => trouble.down = Some(reason.to_owned()),
            _ => trouble.connection = Some(reason.to_owned()),
        }
    }
}

/// The context of every client.
pub(super) struct Context {
    client: String,
    health: Health,
}

impl Context {
    /// `client` says whose client it is, as in `source baskets`.
    pub(super) fn new(client: impl Into<String>, health: Health) -> Self {
        Self { client: client.into(), health }
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Debug, Emerg, Error, Info, Notice, Warning};
        let client = &self.client;
        match level {
            Emerg | Alert | Critical => tracing::error!(target: "librdkafka", client, facility, "{message}"),
            // A broker that is away: the host goes on, and its status says so.
            Error | Warning => tracing::warn!(target: "librdkafka", client, facility, "{message}"),
            Notice | Info => tracing::info!(target: "librdkafka", client, facility, "{message}"),
            Debug => tracing::debug!(target: "librdkafka", client, facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", client = self.client, "{error}: {reason}");
        self.health.note(error.rdkafka_error_code(), reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(client = self.client, "offsets for lag tools were not committed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_names_the_newest_cause_and_ends_with_an_answer() {
        let health = Health::default();
        health.note(Some(RDKafkaErrorCode::BrokerTransportFailure), "connect to 127.0.0.1:9 failed: refused");
        assert_eq!(health.trouble(), None);
        health.note(Some(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert!(health.trouble().unwrap().ends_with("127.0.0.1:9 failed: refused"));
        health.answered();
        assert_eq!(health.trouble(), None);
    }
}
