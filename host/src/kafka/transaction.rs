//! Kafka transactions of one producer, for sinks and transforms: take over, begin, send, then commit or abort. For each
//! error of librdkafka this module decides what follows.
//!
//! There are four kinds of errors.
//!
//! - *Retry*: the same call is made again.
//! - *Abort*: the transaction is aborted and its work is done again.
//! - *Renew*: the producer is of no more use. A new one with the same transactional id ends what is open, and the owner
//!   resumes from its position in Kafka.
//! - *Fenced*: the same as *renew*, unless there really is another producer.
//!
//! A coordinator that timed a transaction out answers exactly as if another producer had taken over: the epoch is not
//! the newest. The time tells them apart, because a coordinator never times a transaction out before
//! `transaction.timeout.ms` has passed. A producer that is fenced sooner has a rival, and takes the id back until that
//! has happened too often (`rivalry`).
//!
//! The owner aborts a transaction that has been open for three quarters of its time, so slow acknowledgements lead to a
//! retry and not to a fence.

use super::context::{Context, Health};
use super::deliveries::{DeliveryContext, Failed, OnTheirWay, Producer};
use super::message::{self, CloudEvents, Envelope};
use super::rivalry::Rivalry;
use super::{Error, client_error, error_hints};
use crate::clock::machine_time;
use crate::model::Message;
use rdkafka::ClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The property that limits how long a coordinator keeps a transaction open.
pub(super) const TIMEOUT: &str = "transaction.timeout.ms";
/// librdkafka's default for it.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Longest time for which one call into librdkafka blocks. A call that did not finish is made again.
const CALL_MAX: Duration = Duration::from_secs(2);
/// Longest time for the coordinator of a group to accept offsets. It is long enough for a broker that still creates its
/// offsets topic.
const OFFSETS_MAX: Duration = Duration::from_secs(10);
/// The pause before a call is made again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The part of the host that owns the transactions.
pub(super) trait Owner: Send {
    /// Fails if the owner is to stop and does not want to wait any longer.
    fn check(&self) -> Result<(), Broken>;

    /// Shows what is in the way of a call that is made again.
    fn trouble(&self, text: String);
}

/// Reason for which a transaction was not committed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The owner is to stop.
    Stopped,
    /// The transaction must be aborted. Then its work can be done again.
    Abort(String),
    /// The producer was discarded. After [`Transactions::take_over`] the owner resumes from its position in Kafka.
    Renew(String),
    /// Another producer uses the same transactional id, so a person must act.
    Rival(String),
}

/// The transactions of one producer. All calls come from one thread, and block.
pub(super) struct Transactions<O> {
    /// The name of the client, such as `sink orders`.
    client: String,
    config: ClientConfig,
    health: Health,
    cloud_events: CloudEvents,
    owner: O,
    /// The remedy for a rival, for the text of the error.
    remedy: String,
    timeout: Duration,
    live: Option<Live>,
    /// When the open transaction began.
    open: Option<Since>,
    /// Messages of the open transaction that librdkafka refused.
    failed: Vec<Failed>,
    rivalry: Rivalry,
}

/// A producer and its messages in flight.
struct Live {
    producer: Producer,
    deliveries: Arc<OnTheirWay>,
}

impl<O: Owner> Transactions<O> {
    /// Makes the first producer. The thread that will send must call it, because acknowledgements wake the calling
    /// thread.
    pub(super) fn new(
        client: String,
        config: ClientConfig,
        health: Health,
        cloud_events: CloudEvents,
        owner: O,
        remedy: String,
    ) -> Result<Self, Error> {
        let configured = config.get(TIMEOUT).and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let timeout = configured.unwrap_or(TIMEOUT_DEFAULT);
        let (open, failed, rivalry) = Default::default();
        let live = None;
        let mut made =
            Self { client, config, health, cloud_events, owner, remedy, timeout, live, open, failed, rivalry };
        made.live = Some(made.make()?);
        Ok(made)
    }

    pub(super) fn owner(&self) -> &O {
        &self.owner
    }

    /// Returns how long the coordinator keeps a transaction open.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns for how long the transaction has been open, or `None` if none is open.
    pub(super) fn open_for(&self) -> Option<Duration> {
        self.open.map(Since::elapsed)
    }

    /// Fences older producers with the same id and waits until their last transaction has ended.
    pub(super) fn take_over(&mut self) -> Result<(), Broken> {
        // Only a new producer ends the open transaction of an older one, even of this one.
        self.discard();
        let made = self.make().map_err(|error| Broken::Renew(error.to_string()))?;
        self.live = Some(made);
        match self.call("start transactions", |producer| producer.init_transactions(CALL_MAX)) {
            Err(Broken::Abort(text)) => Err(self.renew(text)),
            other => other,
        }
    }

    /// Begins an empty transaction.
    pub(super) fn begin(&mut self) -> Result<(), Broken> {
        self.failed.clear();
        self.call("begin a transaction", Producer::begin_transaction)?;
        self.open = Some(Since::now());
        Ok(())
    }

    /// Sends a message without waiting for its acknowledgement. `number` identifies it if it fails.
    pub(super) fn send(&mut self, number: usize, message: &Message, envelope: Envelope) -> Result<(), Broken> {
        let Some(Live { producer, deliveries }) = &self.live else { return Err(self.no_producer()) };
        let record = message::record(number, message, envelope, &self.cloud_events);
        if let Err(code) = deliveries.send(producer, record, || self.check_open())? {
            self.failed.push((number, code));
        }
        Ok(())
    }

    /// Waits until each message is acknowledged or has failed, and returns those that failed, in the order of their
    /// numbers.
    pub(super) fn wait_for_all(&mut self) -> Result<Vec<Failed>, Broken> {
        let Some(Live { producer, deliveries }) = &self.live else { return Err(self.no_producer()) };
        deliveries.wait_for_all(producer, || self.check_open())?;
        let mut failed = std::mem::take(&mut self.failed);
        failed.append(&mut deliveries.take_failed());
        failed.sort_by_key(|&(number, _)| number);
        if !failed.is_empty() {
            self.check_fatal()?;
        }
        Ok(failed)
    }

    /// Commits the transaction with the offsets that it reaches. All messages must have been acknowledged: if offsets
    /// are added before, the coordinator needs a round of retries.
    pub(super) fn commit(&mut self, offsets: &TopicPartitionList, group: &ConsumerGroupMetadata) -> Result<(), Broken> {
        let send = |producer: &Producer| producer.send_offsets_to_transaction(offsets, group, OFFSETS_MAX);
        self.call("add the offsets to the transaction", send)?;
        self.call("commit the transaction", |producer| producer.commit_transaction(CALL_MAX))?;
        self.open = None;
        self.health.answered();
        self.health.settled();
        Ok(())
    }

    /// Ends the transaction as if nothing had been sent. librdkafka may need the brokers for that.
    pub(super) fn abort(&mut self) -> Result<(), Broken> {
        match self.call("abort the transaction", |producer| producer.abort_transaction(CALL_MAX)) {
            Err(Broken::Abort(text)) => return Err(self.renew(text)),
            other => other?,
        }
        self.open = None;
        self.failed.clear();
        if let Some(Live { producer, deliveries }) = &self.live {
            deliveries.wait_for_all(producer, || self.owner.check())?;
            deliveries.take_failed();
        }
        Ok(())
    }

    /// Tries once to abort the open transaction when the owner ends, because it would hold up the next producer.
    pub(super) fn end(&mut self) {
        if let (Some(live), Some(_)) = (&self.live, self.open.take())
            && let Err(error) = live.producer.abort_transaction(CALL_MAX)
        {
            tracing::debug!(client = self.client, "nothing was aborted at the end: {error}");
        }
    }

    /// Asks the brokers whether they are back, if they were away. Without messages no acknowledgement would tell.
    pub(super) fn look_after_trouble(&self) {
        if let (Some(live), Some(_)) = (&self.live, self.health.trouble())
            && live.producer.client().fetch_metadata(None, ANSWER_MAX).is_ok()
        {
            self.health.answered();
        }
    }

    /// Makes a blocking call, and repeats it as long as librdkafka says that this may help.
    fn call(&mut self, what: &str, call: impl Fn(&Producer) -> KafkaResult<()>) -> Result<(), Broken> {
        loop {
            self.owner.check()?;
            let Some(live) = &self.live else { return Err(self.no_producer()) };
            let Err(error) = call(&live.producer) else { return Ok(()) };
            let fatal = live.producer.client().fatal_error();
            let text = format!("can't {what}: {}", error_hints::call(&error));
            match Verdict::on(&error, fatal.as_ref().map(|(code, _)| *code)) {
                Verdict::Retry => {
                    self.owner.trouble(text);
                    std::thread::park_timeout(RETRY_AFTER);
                }
                Verdict::Abort => return Err(Broken::Abort(text)),
                Verdict::Renew => return Err(self.renew(text)),
                Verdict::Fenced => return Err(self.fenced(fatal.map_or(text, |(_, cause)| cause))),
            }
        }
    }

    /// Fails if the producer has a fatal error, which the failure of a message does not tell.
    fn check_fatal(&mut self) -> Result<(), Broken> {
        let fatal = self.live.as_ref().and_then(|live| live.producer.client().fatal_error());
        match fatal {
            None => Ok(()),
            Some((code, cause)) if is_fenced(code) => Err(self.fenced(cause)),
            Some((_, cause)) => Err(self.renew(format!("Kafka refused to go on with this producer: {cause}"))),
        }
    }

    /// Fails if the owner is to stop, or if the transaction has been open for so long that its coordinator will soon
    /// end it.
    fn check_open(&self) -> Result<(), Broken> {
        self.owner.check()?;
        match self.open_for() {
            Some(open_for) if open_for > self.timeout / 4 * 3 => {
                let why = self.health.trouble().unwrap_or_else(|| "Kafka has not acknowledged its messages".to_owned());
                Err(Broken::Abort(format!(
                    "the transaction was open for {} s and is tried again: {why}",
                    open_for.as_secs()
                )))
            }
            _ => Ok(()),
        }
    }

    fn fenced(&mut self, cause: String) -> Broken {
        let open_for = self.open_for();
        if open_for.is_some_and(|open_for| open_for >= self.timeout) {
            return self.renew(format!(
                "the transaction was open for longer than its {TIMEOUT} of {} ms and was ended by Kafka ({cause}); its \
                 messages are sent again",
                self.timeout.as_millis()
            ));
        }
        let id = self.config.get("transactional.id").unwrap_or_default();
        let text = format!(
            "another producer with the transactional id {id} has taken over and fenced this one ({cause}): {}",
            self.remedy
        );
        self.discard();
        match self.rivalry.fenced(Instant::now()) {
            None => Broken::Renew(text),
            Some(often) => Broken::Rival(format!("{text}; {often}")),
        }
    }

    /// Discards the producer. Only Kafka knows whether the transaction was committed: a new producer waits for its end,
    /// and then the position in Kafka tells.
    fn renew(&mut self, text: String) -> Broken {
        self.discard();
        Broken::Renew(text)
    }

    fn discard(&mut self) {
        (self.live, self.open) = (None, None);
        self.failed.clear();
    }

    fn no_producer(&self) -> Broken {
        Broken::Renew(format!("{} has no producer", self.client))
    }

    fn make(&self) -> Result<Live, Error> {
        let deliveries = Arc::new(OnTheirWay::of_this_thread(&self.config));
        let context = Context::new(self.client.as_str(), self.health.clone());
        let context = DeliveryContext { context, deliveries: deliveries.clone() };
        let producer = self.config.create_with_context(context);
        Ok(Live { producer: producer.map_err(|error| client_error(&self.client, error))?, deliveries })
    }
}

/// The consequence of an error of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Retry,
    Abort,
    Renew,
    Fenced,
}

impl Verdict {
    /// Returns the consequence of an error, given the fatal error of its producer.
    fn on(error: &KafkaError, fatal: Option<Code>) -> Self {
        let is_final = matches!(error, KafkaError::Transaction(error) if error.is_fatal());
        match (error, fatal) {
            (_, Some(code)) if is_fenced(code) => Self::Fenced,
            (KafkaError::Transaction(error), None) if is_final && is_fenced(error.code()) => Self::Fenced,
            (_, Some(_)) => Self::Renew,
            _ if is_final => Self::Renew,
            (KafkaError::Transaction(error), None) if error.txn_requires_abort() => Self::Abort,
            (KafkaError::Transaction(error), None) if !error.is_retriable() => Self::Renew,
            // This includes a flush that found something in flight.
            _ => Self::Retry,
        }
    }
}

fn is_fenced(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced)
}

/// A moment by two clocks: one that nobody can set, and one that also runs while the machine is suspended.
#[derive(Clone, Copy)]
struct Since(Instant, SystemTime);

impl Since {
    fn now() -> Self {
        Self(Instant::now(), machine_time())
    }

    fn elapsed(self) -> Duration {
        self.0.elapsed().max(machine_time().duration_since(self.1).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
