//! The producer of a transform: begin, send, commit with the offsets, or abort.

use super::{ANSWER_MAX, Config, View};
use crate::kafka::context::Context;
use crate::kafka::deliveries::{DeliveryContext, Failed, OnTheirWay, Producer as Client};
use crate::kafka::message::{self, Envelope};
use crate::kafka::{Connection, Error, client_error};
use crate::model::Message;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use std::sync::Arc;
use std::time::Duration;

/// How long one call into librdkafka may block; a call that did not finish is taken up again.
const CALL_MAX: Duration = Duration::from_secs(2);
const TIMEOUT: &str = "transaction.timeout.ms";
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

/// See the module.
pub(super) struct Producer {
    producer: Client,
    deliveries: Arc<OnTheirWay>,
    config: Arc<Config>,
    transactional_id: String,
    view: Arc<View>,
}

impl Producer {
    /// On the thread that will send: it is the one that acknowledgements wake.
    pub(super) fn new(
        config: &Arc<Config>,
        connection: &Connection,
        transactional_id: &str,
        view: &Arc<View>,
    ) -> Result<Self, Error> {
        let client = format!("source {}", config.name);
        let context = Context::new(client.as_str(), view.health.clone());
        let deliveries = Arc::new(OnTheirWay::of_this_thread());
        let context = DeliveryContext { context, deliveries: deliveries.clone() };
        let mut settings = connection.transactional_producer(&config.name, transactional_id);
        // While a transaction of a host that was killed is open, nobody learns where its partitions go on.
        if settings.get(TIMEOUT).is_none() {
            settings.set(TIMEOUT, "10000");
        }
        let producer = settings.create_with_context(context).map_err(|error| client_error(&client, error))?;
        let (config, transactional_id, view) = (config.clone(), transactional_id.to_owned(), view.clone());
        Ok(Self { producer, deliveries, config, transactional_id, view })
    }

    /// Ends what an older producer with this id has begun, and fences it.
    pub(super) fn take_over(&self) -> Result<(), Broken> {
        self.call("start transactions", |producer| producer.init_transactions(CALL_MAX))
    }

    /// A transaction without messages.
    pub(super) fn begin(&self) -> Result<Transaction<'_>, Broken> {
        self.call("begin a transaction", Client::begin_transaction)?;
        Ok(Transaction { producer: self, messages: 0, failed: Vec::new() })
    }

    /// At the end: a transaction that is still open would hold up whoever takes over.
    pub(super) fn end(&self) {
        if let Err(error) = self.producer.abort_transaction(CALL_MAX) {
            tracing::debug!("nothing was aborted at the end: {error}");
        }
    }

    fn abort(&self) -> Result<(), Broken> {
        self.call("abort the transaction", |producer| producer.abort_transaction(CALL_MAX))
    }

    /// Makes a call that blocks, and makes it again for as long as librdkafka says that this may help.
    fn call(&self, what: &str, call: impl Fn(&Client) -> KafkaResult<()>) -> Result<(), Broken> {
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

/// A transaction that has begun. It must be committed or aborted; [`Producer::end`] does the latter too.
pub(super) struct Transaction<'p> {
    producer: &'p Producer,
    messages: usize,
    failed: Vec<Failed>,
}

impl Transaction<'_> {
    /// Sends messages, without waiting until Kafka has them.
    pub(super) fn add<'m>(&mut self, messages: impl Iterator<Item = (&'m Message, Envelope)>) -> Result<(), Broken> {
        for (message, envelope) in messages {
            let Producer { producer, deliveries, .. } = self.producer;
            let record = message::record(self.messages, message, envelope);
            if let Err(code) = deliveries.send(producer, record, || self.producer.check_stop())? {
                self.failed.push((self.messages, code));
            }
            self.messages += 1;
        }
        Ok(())
    }

    /// Makes the transaction final, with the offsets that it reaches. Where Kafka does not take all messages it is
    /// aborted.
    pub(super) fn commit(
        mut self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<Vec<Failed>, Broken> {
        // Offsets that are added before the messages are there cost the coordinator a round of retries.
        let producer = self.producer;
        producer.deliveries.wait_for_all(&producer.producer, || producer.check_stop())?;
        self.failed.append(&mut self.producer.deliveries.take_failed());
        if self.failed.is_empty() {
            self.producer.call("add the offsets to the transaction", |producer| {
                producer.send_offsets_to_transaction(offsets, group, ANSWER_MAX)
            })?;
            self.producer.call("commit the transaction", |producer| producer.commit_transaction(CALL_MAX))?;
        } else {
            self.producer.check_fatal()?;
            self.producer.abort()?;
        }
        Ok(self.failed)
    }

    /// As if nothing had been sent.
    pub(super) fn abort(self) -> Result<(), Broken> {
        self.producer.abort()?;
        self.producer.deliveries.take_failed();
        Ok(())
    }
}
