//! The context of a producer: that of every client, and somebody who hears of acknowledgements.

use super::context::Context;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};

/// Hears of acknowledgements, on the thread that polls the producer.
pub(super) trait Deliveries: Send + Sync {
    /// The record that was sent with this number was acknowledged, or Kafka did not take it.
    fn ended(&self, context: &Context, number: usize, failure: Option<RDKafkaErrorCode>);
}

/// See the module.
pub(super) struct DeliveryContext<D> {
    pub(super) context: Context,
    pub(super) deliveries: D,
}

impl<D: Deliveries> ClientContext for DeliveryContext<D> {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = Context::ENABLE_REFRESH_OAUTH_TOKEN;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        self.context.stats_raw(json);
    }

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.context.generate_oauth_token(config)
    }
}

impl<D: Deliveries> ProducerContext for DeliveryContext<D> {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let failure = match result {
            Ok(_) => None,
            Err((error, _)) => Some(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        self.deliveries.ended(&self.context, number, failure);
    }
}
