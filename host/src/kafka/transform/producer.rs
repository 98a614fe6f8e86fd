//! The producer of a transform: begin, send, commit with the offsets, or abort.
//!
//! Acknowledgements are waited for before the commit: librdkafka's own wait for them takes 100 ms at least.

use super::{ANSWER_MAX, Config, View};
use crate::kafka::context::Context;
use crate::kafka::deliveries::{Deliveries, DeliveryContext};
use crate::kafka::message::{self, Envelope};
use crate::kafka::{Connection, Error, client_error};
use crate::model::Message;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long one call into librdkafka may block; a call that did not finish is taken up again.
const CALL_MAX: Duration = Duration::from_secs(2);
const TIMEOUT: &str = "transaction.timeout.ms";
/// Between looks at what is not acknowledged. A poll takes all of its time, whatever comes.
const POLL: Duration = Duration::from_millis(1);
/// Before a call is made again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Why the thread does not go on with what it is doing.
#[derive(Debug)]
pub(super) enum Broken {
    /// It is time to end.
    Stopped,
    /// Go on from what is committed, with a new producer.
    Again(String),
    /// The member is none any more: join the group again.
    StartOver(String),
    /// Another try would do harm: a person must act.
    GiveUp(String),
}

/// A message that Kafka did not take: its place among those sent, and why.
pub(super) type Failed = (usize, RDKafkaErrorCode);

/// See the module.
pub(super) struct Producer {
    producer: BaseProducer<DeliveryContext<NotTaken>>,
    config: Arc<Config>,
    transactional_id: String,
    view: Arc<View>,
}

impl Producer {
    pub(super) fn new(
        config: &Arc<Config>,
        connection: &Connection,
        transactional_id: &str,
        view: &Arc<View>,
    ) -> Result<Self, Error> {
        let client = format!("source {}", config.name);
        let context = Context::new(client.as_str(), view.health.clone());
        let context = DeliveryContext { context, deliveries: NotTaken::default() };
        let mut settings = connection.transactional_producer(&config.name, transactional_id);
        // While a transaction of a host that was killed is open, nobody learns where its partitions go on.
        if settings.get(TIMEOUT).is_none() {
            settings.set(TIMEOUT, "10000");
        }
        let producer: BaseProducer<DeliveryContext<NotTaken>> =
            settings.create_with_context(context).map_err(|error| client_error(&client, error))?;
        connection.log_in(producer.client())?;
        Ok(Self { producer, config: config.clone(), transactional_id: transactional_id.to_owned(), view: view.clone() })
    }

    /// Ends what an older producer with this id has begun, and fences it.
    pub(super) fn take_over(&self) -> Result<(), Broken> {
        self.call("start transactions", |producer| producer.init_transactions(CALL_MAX))
    }

    /// From time to time while there is nothing to send: errors, and tokens that end.
    pub(super) fn serve(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Sends messages in a new transaction. Where Kafka does not take all of them the transaction is aborted.
    pub(super) fn send<'m>(
        &self,
        messages: impl Iterator<Item = (&'m Message, Envelope)>,
    ) -> Result<Vec<Failed>, Broken> {
        self.call("begin a transaction", BaseProducer::begin_transaction)?;
        let mut failed = Vec::new();
        for (index, (message, envelope)) in messages.enumerate() {
            if let Err(code) = self.send_one(index, message, envelope)? {
                failed.push((index, code));
            }
        }
        while self.producer.in_flight_count() > 0 {
            self.check_stop()?;
            self.producer.poll(POLL);
        }
        failed.append(&mut self.producer.context().deliveries.0.lock().expect("no holder panics"));
        if !failed.is_empty() {
            self.check_fatal()?;
            self.abort()?;
        }
        Ok(failed)
    }

    /// Makes the transaction final, with the offsets that it reaches.
    pub(super) fn commit(&self, offsets: &TopicPartitionList, group: &ConsumerGroupMetadata) -> Result<(), Broken> {
        self.call("add the offsets to the transaction", |producer| {
            producer.send_offsets_to_transaction(offsets, group, ANSWER_MAX)
        })?;
        self.call("commit the transaction", |producer| producer.commit_transaction(CALL_MAX))
    }

    /// At the end: a transaction that is still open would hold up whoever takes over.
    pub(super) fn end(&self) {
        if let Err(error) = self.producer.abort_transaction(CALL_MAX) {
            tracing::debug!("nothing was aborted at the end: {error}");
        }
    }

    /// As if nothing had been sent.
    fn abort(&self) -> Result<(), Broken> {
        self.call("abort the transaction", |producer| producer.abort_transaction(CALL_MAX))
    }

    fn send_one(
        &self,
        index: usize,
        message: &Message,
        envelope: Envelope,
    ) -> Result<Result<(), RDKafkaErrorCode>, Broken> {
        let mut record = message::record(index, message, envelope);
        loop {
            let (error, unsent) = match self.producer.send(record) {
                Ok(()) => return Ok(Ok(())),
                Err(refused) => refused,
            };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    self.check_stop()?;
                    self.producer.poll(POLL);
                    record = unsent;
                }
                Some(code) => return Ok(Err(code)),
                // A topic name with a NUL.
                None => return Ok(Err(RDKafkaErrorCode::InvalidTopic)),
            }
        }
    }

    /// Makes a call that blocks, and makes it again for as long as librdkafka says that this may help.
    fn call(
        &self,
        what: &str,
        call: impl Fn(&BaseProducer<DeliveryContext<NotTaken>>) -> KafkaResult<()>,
    ) -> Result<(), Broken> {
        loop {
            self.check_stop()?;
            let Err(error) = call(&self.producer) else { return Ok(()) };
            let text = format!("can't {what}: {error}");
            match error {
                KafkaError::Transaction(error) if error.is_fatal() => {
                    self.check_fatal()?;
                    return Err(Broken::Again(text));
                }
                // As a rule the group is about to share partitions out anew, and takes no offsets meanwhile.
                KafkaError::Transaction(error) if error.txn_requires_abort() || !error.is_retriable() => {
                    return Err(Broken::Again(text));
                }
                _ => {
                    self.view.trouble(&self.config.name, text);
                    std::thread::park_timeout(RETRY_AFTER);
                }
            }
        }
    }

    /// After a fatal error: whether another producer has taken over.
    fn check_fatal(&self) -> Result<(), Broken> {
        use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
        let Some((code, cause)) = self.producer.client().fatal_error() else { return Ok(()) };
        if matches!(code, Fenced | InvalidProducerEpoch | ProducerFenced) {
            return Err(Broken::GiveUp(format!(
                "another producer with the transactional id {} has taken over and fenced this one ({cause}): two hosts \
                 run on copies of one data folder; stop one of them, then restart this host",
                self.transactional_id
            )));
        }
        Err(Broken::Again(format!("Kafka refused to go on with this producer: {cause}")))
    }

    /// A transaction that has begun may end: an open one would hold up whoever takes over.
    fn check_stop(&self) -> Result<(), Broken> {
        if self.view.is_overdue() { Err(Broken::Stopped) } else { Ok(()) }
    }
}

/// What Kafka did not take of what is sent.
#[derive(Default)]
struct NotTaken(Mutex<Vec<Failed>>);

impl Deliveries for NotTaken {
    fn ended(&self, _: &Context, index: usize, failure: Option<RDKafkaErrorCode>) {
        if let Some(code) = failure {
            self.0.lock().expect("no holder panics").push((index, code));
        }
    }
}
