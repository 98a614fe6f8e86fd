//! The context of a producer, which receives acknowledgements, and the sender's wait for them.
//!
//! librdkafka's own `flush` waits in steps of 100 ms, and a poll always takes its whole time. Here each acknowledgement
//! counts down on the producer's own thread, and the last one wakes the sender.

use super::context::Context;
use super::native;
use crate::supervise::Held as _;
use rdkafka::ClientConfig;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// The interval at which a waiting sender checks whether to wait further. Acknowledgements wake it early.
const REST_MAX: Duration = Duration::from_millis(100);
/// How long acknowledgements may take before the reason is logged: see [`Listening`].
const SLOW: Duration = Duration::from_millis(300);

/// A receiver of acknowledgements, called on the thread that polls the producer.
pub(super) trait Deliveries: Send + Sync {
    /// Receives the acknowledgement or the failure of the record that was sent with this number.
    fn ended(&self, context: &Context, number: usize, failure: Option<RDKafkaErrorCode>);
}

/// The context of a producer: that of every client, with a receiver of acknowledgements.
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

/// A producer whose acknowledgements one thread waits for.
pub(super) type Producer = ThreadedProducer<DeliveryContext<Arc<OnTheirWay>>>;

/// A record that Kafka did not accept: its number and the reason.
pub(super) type Failed = (usize, RDKafkaErrorCode);

/// The records that one thread has sent and that are not acknowledged yet.
pub(super) struct OnTheirWay {
    sender: Thread,
    counts: Mutex<Counts>,
    /// The level at which the producer logs.
    log_level: RDKafkaLogLevel,
}

#[derive(Default)]
struct Counts {
    pending: usize,
    /// The number of pending records at which the sender is woken.
    wake_at: usize,
    failed: Vec<Failed>,
}

impl OnTheirWay {
    /// Creates the bookkeeping of the calling thread, which acknowledgements wake. `config` is that of the producers.
    pub(super) fn of_this_thread(config: &ClientConfig) -> Self {
        Self { sender: std::thread::current(), counts: Mutex::default(), log_level: config.log_level }
    }

    /// Hands a record to its producer. While the producer's queue is full, this waits for acknowledgements, until
    /// `check` fails. The inner error says why the record will not be accepted.
    pub(super) fn send<E>(
        &self,
        producer: &Producer,
        mut record: BaseRecord<'_, [u8], [u8], usize>,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<Result<(), RDKafkaErrorCode>, E> {
        loop {
            self.counts.held().pending += 1;
            let Err((error, unsent)) = producer.send(record) else { return Ok(Ok(())) };
            self.counts.held().pending -= 1;
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if self.pending() > 0 => {
                    self.wait_until(producer, self.pending().saturating_sub(1), &check)?;
                    record = unsent;
                }
                Some(code) => return Ok(Err(code)),
                // The topic name has a NUL.
                None => return Ok(Err(RDKafkaErrorCode::InvalidTopic)),
            }
        }
    }

    /// Waits until all records are acknowledged, or `check` fails.
    pub(super) fn wait_for_all<E>(&self, producer: &Producer, check: impl Fn() -> Result<(), E>) -> Result<(), E> {
        self.wait_until(producer, 0, &check)?;
        // The producer's thread is about to drop the last message. A commit flushes, and if it still finds a message,
        // it takes 100 ms.
        while producer.in_flight_count() > 0 {
            check()?;
            std::thread::yield_now();
        }
        Ok(())
    }

    fn pending(&self) -> usize {
        self.counts.held().pending
    }

    /// Waits until at most `pending` records are not acknowledged, or `check` fails.
    fn wait_until<E>(&self, producer: &Producer, pending: usize, check: impl Fn() -> Result<(), E>) -> Result<(), E> {
        self.counts.held().wake_at = pending;
        let (started, mut listening) = (Instant::now(), None);
        while self.pending() > pending {
            check()?;
            std::thread::park_timeout(REST_MAX);
            if listening.is_none() && started.elapsed() > SLOW {
                listening = Some(Listening::to(producer, self.log_level));
            }
        }
        Ok(())
    }

    pub(super) fn take_failed(&self) -> Vec<Failed> {
        std::mem::take(&mut self.counts.held().failed)
    }

    fn acknowledged(&self, number: usize, failure: Option<RDKafkaErrorCode>) {
        let mut counts = self.counts.held();
        counts.pending -= 1;
        counts.failed.extend(failure.map(|code| (number, code)));
        if counts.pending <= counts.wake_at {
            self.sender.unpark();
        }
    }
}

/// A guard during which the producer logs each answer to a produce request, and [`Context`] keeps the refusals. Only
/// these lines say why librdkafka resends messages. They are off normally, because they would take a tenth of a
/// message's time.
struct Listening<'a> {
    producer: &'a Producer,
    before: RDKafkaLogLevel,
}

impl<'a> Listening<'a> {
    fn to(producer: &'a Producer, before: RDKafkaLogLevel) -> Self {
        native::set_log_level(producer.client(), RDKafkaLogLevel::Debug);
        Self { producer, before }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        native::set_log_level(self.producer.client(), self.before);
    }
}

impl Deliveries for Arc<OnTheirWay> {
    fn ended(&self, context: &Context, number: usize, failure: Option<RDKafkaErrorCode>) {
        if failure.is_none() && context.health().trouble().is_some() {
            context.health().answered();
        }
        self.acknowledged(number, failure);
    }
}
