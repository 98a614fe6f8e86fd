//! A batch into Kafka: sent by an idempotent producer, done when every message is acknowledged or refused for good.
//!
//! librdkafka's own `flush` waits in steps of 100 ms; here each acknowledgement counts down and the last one wakes the
//! sender.

use super::{RETRY_FIRST, RETRY_MAX, View};
use crate::kafka::context::Context;
use crate::kafka::{Connection, Error, client_error, message};
use crate::model::Message;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The longest rest between looks at the stop flag; acknowledgements end it early.
const REST_MAX: Duration = Duration::from_millis(100);
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A message that Kafka will never take.
pub(super) struct Refused {
    /// Its place in the batch.
    pub(super) index: usize,
    pub(super) reason: String,
}

/// The sink was stopped before the batch was done.
pub(super) struct Interrupted;

/// See the module.
pub(super) struct Publisher {
    sink: Arc<str>,
    connection: Connection,
    view: Arc<View>,
    /// `None` after a fatal error: a new one is made for the next try.
    producer: Option<ThreadedProducer<PublisherContext>>,
    deliveries: Arc<Deliveries>,
}

impl Publisher {
    /// On the thread that will publish: it is the one that acknowledgements wake.
    pub(super) fn new(sink: &Arc<str>, connection: Connection, view: Arc<View>) -> Result<Self, Error> {
        let deliveries = Arc::new(Deliveries { sender: std::thread::current(), counts: Mutex::default() });
        let mut publisher = Self { sink: sink.clone(), connection, view, producer: None, deliveries };
        publisher.producer()?;
        Ok(publisher)
    }

    /// Publishes all messages of a batch, in order; each is in Kafka or in the answer when it returns. Messages that
    /// could not be delivered are sent again after a pause, those that were are not.
    pub(super) fn publish(&mut self, batch: &[(u64, Message)]) -> Result<Vec<Refused>, Interrupted> {
        let mut refused = Vec::new();
        let mut todo: Vec<usize> = (0..batch.len()).collect();
        let mut pause = RETRY_FIRST;
        loop {
            todo = self.attempt(batch, &todo, &mut refused)?;
            if todo.is_empty() {
                refused.sort_by_key(|refused| refused.index);
                return Ok(refused);
            }
            self.rest_until(Instant::now() + pause)?;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// While nothing is published no acknowledgement tells that the brokers are back: asks them, if they were away.
    pub(super) fn look_after_trouble(&self) {
        if let (Some(producer), Some(_)) = (&self.producer, self.view.health.trouble())
            && producer.client().fetch_metadata(None, ANSWER_MAX).is_ok()
        {
            self.view.health.answered();
        }
    }

    /// Sends messages once and returns those to send again.
    fn attempt(
        &mut self,
        batch: &[(u64, Message)],
        todo: &[usize],
        refused: &mut Vec<Refused>,
    ) -> Result<Vec<usize>, Interrupted> {
        let mut failed = Vec::new();
        for &index in todo {
            if let Err(code) = self.send(index, &batch[index].1)? {
                failed.push((index, code));
            }
        }
        self.wait_until(0)?;
        failed.append(&mut self.deliveries.take_failed());
        failed.sort_by_key(|&(index, _)| index);
        let mut again = Vec::new();
        for (index, code) in failed {
            match refusal(code, &batch[index].1) {
                Some(reason) => refused.push(Refused { index, reason }),
                None => {
                    self.note(code, &batch[index].1);
                    again.push(index);
                }
            }
        }
        Ok(again)
    }

    /// Gives a message to the producer. While its queue is full, acknowledgements are waited for.
    fn send(&mut self, index: usize, message: &Message) -> Result<Result<(), RDKafkaErrorCode>, Interrupted> {
        loop {
            let deliveries = self.deliveries.clone();
            let producer = match self.producer() {
                Ok(producer) => producer,
                Err(error) => {
                    self.view.note(Some(error.to_string()));
                    return Ok(Err(RDKafkaErrorCode::Fatal));
                }
            };
            deliveries.sent();
            let Err((error, _)) = producer.send(record(index, message)) else { return Ok(Ok(())) };
            deliveries.unsent();
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) if deliveries.pending() > 0 => {
                    self.wait_until(deliveries.pending().saturating_sub(1))?;
                }
                Some(code) => return Ok(Err(code)),
                // A topic name with a NUL.
                None => return Ok(Err(RDKafkaErrorCode::InvalidTopic)),
            }
        }
    }

    fn producer(&mut self) -> Result<&ThreadedProducer<PublisherContext>, Error> {
        if self.producer.is_none() {
            let client = format!("sink {}", self.sink);
            let context = PublisherContext {
                context: Context::new(client.as_str(), self.view.health.clone()),
                deliveries: self.deliveries.clone(),
            };
            let producer = self.connection.producer(&self.sink).create_with_context(context);
            self.producer = Some(producer.map_err(|error| client_error(&client, error))?);
        }
        Ok(self.producer.as_ref().expect("it was just made"))
    }

    fn note(&mut self, code: RDKafkaErrorCode, message: &Message) {
        let error = format!("message {} to topic {} is not published yet: {code}", message.id, message.topic);
        tracing::warn!(sink = &*self.sink, "{error}");
        self.view.note(Some(error));
        if code == RDKafkaErrorCode::Fatal {
            // This producer refuses everything from now on.
            self.producer = None;
        }
    }

    /// Until no more than `pending` messages wait for their acknowledgement.
    fn wait_until(&self, pending: usize) -> Result<(), Interrupted> {
        self.deliveries.wake_at(pending);
        while self.deliveries.pending() > pending {
            self.rest(REST_MAX)?;
        }
        Ok(())
    }

    fn rest_until(&self, end: Instant) -> Result<(), Interrupted> {
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.view.stopping.load(Ordering::Acquire) {
                return Err(Interrupted);
            }
            self.rest(left.min(REST_MAX))?;
        }
        Ok(())
    }

    fn rest(&self, max: Duration) -> Result<(), Interrupted> {
        if self.view.given_up.load(Ordering::Acquire) {
            return Err(Interrupted);
        }
        std::thread::park_timeout(max);
        Ok(())
    }
}

fn record(index: usize, message: &Message) -> BaseRecord<'_, [u8], [u8], usize> {
    let mut record = BaseRecord::with_opaque_to(&message.topic, index);
    record.partition = message.partition;
    record.key = message.key.as_deref();
    record.payload = message.payload.as_deref();
    record.headers = Some(message::headers(message));
    record
}

/// Why a message will never be taken, and the remedy; `None` where another try may work.
fn refusal(code: RDKafkaErrorCode, message: &Message) -> Option<String> {
    use RDKafkaErrorCode as Code;
    let topic = &message.topic;
    let reason = match code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => format!(
            "the message is too large for Kafka ({} bytes): raise max.message.bytes of topic {topic} and \
             `message.max.bytes` in [kafka.properties], or publish less",
            message.payload.as_ref().map_or(0, Vec::len)
        ),
        Code::UnknownTopic | Code::UnknownTopicOrPartition => {
            format!("topic {topic} does not exist: list it as [kafka.topics.{topic}] in the manifest")
        }
        Code::UnknownPartition => {
            format!("topic {topic} has no partition {}: leave it to the partitioner", message.partition.unwrap_or(-1))
        }
        Code::InvalidTopic => format!("`{topic}` can't be the name of a topic: use letters, digits, `.`, `_` and `-`"),
        Code::InvalidRecord | Code::PolicyViolation => {
            format!(
                "the broker refused the message ({code}): check the rules of topic {topic}, such as compaction's keys"
            )
        }
        _ => return None,
    };
    Some(reason)
}

/// What is sent and not acknowledged.
struct Deliveries {
    sender: std::thread::Thread,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    pending: usize,
    /// The sender is woken when no more than these are pending.
    wake_at: usize,
    failed: Vec<(usize, RDKafkaErrorCode)>,
}

impl Deliveries {
    fn sent(&self) {
        self.counts.lock().expect("no holder panics").pending += 1;
    }

    fn unsent(&self) {
        self.counts.lock().expect("no holder panics").pending -= 1;
    }

    fn pending(&self) -> usize {
        self.counts.lock().expect("no holder panics").pending
    }

    fn wake_at(&self, pending: usize) {
        self.counts.lock().expect("no holder panics").wake_at = pending;
    }

    fn take_failed(&self) -> Vec<(usize, RDKafkaErrorCode)> {
        std::mem::take(&mut self.counts.lock().expect("no holder panics").failed)
    }

    fn acknowledged(&self, index: usize, failure: Option<RDKafkaErrorCode>) {
        let mut counts = self.counts.lock().expect("no holder panics");
        counts.pending -= 1;
        counts.failed.extend(failure.map(|code| (index, code)));
        if counts.pending <= counts.wake_at {
            self.sender.unpark();
        }
    }
}

struct PublisherContext {
    context: Context,
    deliveries: Arc<Deliveries>,
}

impl ClientContext for PublisherContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for PublisherContext {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let failure = match result {
            Ok(_) => None,
            Err((error, _)) => Some(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        if failure.is_none() && self.context.health().trouble().is_some() {
            self.context.health().answered();
        }
        self.deliveries.acknowledged(index, failure);
    }
}
