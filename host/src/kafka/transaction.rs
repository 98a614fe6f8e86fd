//! Kafka transactions of one producer, for sinks and transforms alike: take over, begin, send, then commit or abort; and
//! for each error of librdkafka what follows from it.
//!
//! An error is one of four kinds. *Retriable*: the same call is made again. *Abort*: the transaction is aborted and its
//! work is done again. *Renew*: this producer is of no more use; a new one with the same transactional id ends what is
//! open, and the owner resumes where Kafka says that it is. *Fenced*: the same, except when another producer really is
//! there.
//!
//! A coordinator that timed a transaction out answers exactly as it does when another producer has taken over: the epoch
//! is not the newest. The time tells them apart, because a coordinator never times a transaction out before
//! `transaction.timeout.ms` has passed. A producer that is fenced sooner has a rival. It takes the id back, because the
//! rival may be gone; after [`RIVALRY_MAX`] such fencings within [`RIVALRY_WINDOW`] it gives up.
//!
//! A transaction that has been open for three quarters of its time is aborted by its owner, so that slow acknowledgements
//! end in another try and not in a fence.

use super::context::{Context, Health};
use super::deliveries::{DeliveryContext, Failed, OnTheirWay, Producer};
use super::message::{self, CloudEvents, Envelope};
use super::{Error, client_error, error_hints};
use crate::clock::machine_time;
use crate::model::Message;
use rdkafka::ClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The property with the time that a coordinator gives a transaction.
pub(super) const TIMEOUT: &str = "transaction.timeout.ms";
/// librdkafka's default for it.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// How long one call into librdkafka may block; a call that did not finish is taken up again.
const CALL_MAX: Duration = Duration::from_secs(2);
/// The time that the coordinator of a group has to take offsets: long enough for a broker that still makes its topic.
const OFFSETS_MAX: Duration = Duration::from_secs(10);
/// The pause before a call is made again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How many fencings by a rival, within how long, make an owner give up.
const RIVALRY_MAX: usize = 3;
const RIVALRY_WINDOW: Duration = Duration::from_secs(300);

/// The part of the host whose transactions they are.
pub(super) trait Owner: Send {
    /// Fails if the owner is to stop and does not want to wait any longer.
    fn check(&self) -> Result<(), Broken>;

    /// Shows what is in the way of a call that is made again.
    fn trouble(&self, text: String);
}

/// Why a transaction did not go through.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The owner is to stop.
    Stopped,
    /// The transaction must be aborted; then its work can be done again.
    Abort(String),
    /// The producer was discarded. After [`Transactions::take_over`] the owner resumes where Kafka says that it is.
    Renew(String),
    /// Another producer uses the same transactional id: a person must act.
    Rival(String),
}

/// The transactions of one producer. All calls come from one thread, and block.
pub(super) struct Transactions<O> {
    /// What the client is called, as in `sink orders`.
    client: String,
    config: ClientConfig,
    health: Health,
    cloud_events: CloudEvents,
    owner: O,
    /// What a person can do about a rival.
    remedy: String,
    timeout: Duration,
    live: Option<Live>,
    /// When the open transaction began.
    open: Option<Since>,
    /// Messages of the open transaction that were not taken.
    failed: Vec<Failed>,
    rivalry: Rivalry,
}

/// A producer, and what it has not been acknowledged.
struct Live {
    producer: Producer,
    deliveries: Arc<OnTheirWay>,
}

impl<O: Owner> Transactions<O> {
    /// Makes the first producer, on the thread that will send: acknowledgements wake that thread.
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

    /// The time that a coordinator gives a transaction.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long a transaction is open; `None` if none is.
    pub(super) fn open_for(&self) -> Option<Duration> {
        self.open.map(Since::elapsed)
    }

    /// Fences older producers with the same id and waits until their last transaction has ended.
    pub(super) fn take_over(&mut self) -> Result<(), Broken> {
        // Only a new producer ends what an older one has begun, this one's own included.
        self.discard();
        let made = self.make().map_err(|error| Broken::Renew(error.to_string()))?;
        self.live = Some(made);
        match self.call("start transactions", |producer| producer.init_transactions(CALL_MAX)) {
            Err(Broken::Abort(text)) => Err(self.renew(text)),
            other => other,
        }
    }

    /// Begins a transaction without messages.
    pub(super) fn begin(&mut self) -> Result<(), Broken> {
        self.failed.clear();
        self.call("begin a transaction", Producer::begin_transaction)?;
        self.open = Some(Since::now());
        Ok(())
    }

    /// Sends a message, without waiting until Kafka has it. `number` names it if it fails.
    pub(super) fn send(&mut self, number: usize, message: &Message, envelope: Envelope) -> Result<(), Broken> {
        let Some(Live { producer, deliveries }) = &self.live else { return Err(self.no_producer()) };
        let record = message::record(number, message, envelope, &self.cloud_events);
        if let Err(code) = deliveries.send(producer, record, || self.check_open())? {
            self.failed.push((number, code));
        }
        Ok(())
    }

    /// Waits until each message is acknowledged or has failed, and returns those that failed, by their number.
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

    /// Makes the transaction final, with the offsets that it reaches. All messages must have been acknowledged: offsets
    /// that are added before cost the coordinator a round of retries.
    pub(super) fn commit(&mut self, offsets: &TopicPartitionList, group: &ConsumerGroupMetadata) -> Result<(), Broken> {
        let send = |producer: &Producer| producer.send_offsets_to_transaction(offsets, group, OFFSETS_MAX);
        self.call("add the offsets to the transaction", send)?;
        self.call("commit the transaction", |producer| producer.commit_transaction(CALL_MAX))?;
        self.open = None;
        self.health.answered();
        self.health.settled();
        Ok(())
    }

    /// Ends the transaction as if nothing had been sent. librdkafka may need the brokers for it.
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

    /// Tries once to abort what is open, at the end of the owner: an open transaction holds up those who take over.
    pub(super) fn end(&mut self) {
        if let (Some(live), Some(_)) = (&self.live, self.open.take())
            && let Err(error) = live.producer.abort_transaction(CALL_MAX)
        {
            tracing::debug!(client = self.client, "nothing was aborted at the end: {error}");
        }
    }

    /// Asks the brokers whether they are back, if they were away: while nothing is sent, no acknowledgement tells.
    pub(super) fn look_after_trouble(&self) {
        if let (Some(live), Some(_)) = (&self.live, self.health.trouble())
            && live.producer.client().fetch_metadata(None, ANSWER_MAX).is_ok()
        {
            self.health.answered();
        }
    }

    /// Makes a call that blocks, and makes it again for as long as librdkafka says that this may help.
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

    /// Fails if the producer can't go on, which the failure of a message alone does not tell.
    fn check_fatal(&mut self) -> Result<(), Broken> {
        let fatal = self.live.as_ref().and_then(|live| live.producer.client().fatal_error());
        match fatal {
            None => Ok(()),
            Some((code, cause)) if is_fenced(code) => Err(self.fenced(cause)),
            Some((_, cause)) => Err(self.renew(format!("Kafka refused to go on with this producer: {cause}"))),
        }
    }

    /// Fails if the owner is to stop, or the transaction is open for so long that its coordinator will soon end it.
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
        let gives_up = self.rivalry.fenced(Instant::now());
        self.discard();
        if gives_up {
            let minutes = RIVALRY_WINDOW.as_secs() / 60;
            return Broken::Rival(format!("{text}; this happened {RIVALRY_MAX} times within {minutes} minutes"));
        }
        Broken::Renew(text)
    }

    /// What became of the transaction is Kafka's to say: a new producer waits for it, and the position tells.
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

/// What an error of a call means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Retry,
    Abort,
    Renew,
    Fenced,
}

impl Verdict {
    /// The verdict on an error, and on the fatal error that its producer has.
    fn on(error: &KafkaError, fatal: Option<Code>) -> Self {
        let is_final = matches!(error, KafkaError::Transaction(error) if error.is_fatal());
        match (error, fatal) {
            (_, Some(code)) if is_fenced(code) => Self::Fenced,
            (KafkaError::Transaction(error), None) if is_final && is_fenced(error.code()) => Self::Fenced,
            (_, Some(_)) => Self::Renew,
            _ if is_final => Self::Renew,
            (KafkaError::Transaction(error), None) if error.txn_requires_abort() => Self::Abort,
            (KafkaError::Transaction(error), None) if !error.is_retriable() => Self::Renew,
            // Also a flush that found something in flight.
            _ => Self::Retry,
        }
    }
}

fn is_fenced(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced)
}

/// A moment, by the clock that runs while the machine is suspended too, and by the one that nobody sets.
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

/// The times at which a rival fenced this producer.
#[derive(Default)]
struct Rivalry(VecDeque<Instant>);

impl Rivalry {
    /// Counts a fencing; true if there were too many of late.
    fn fenced(&mut self, now: Instant) -> bool {
        self.0.push_back(now);
        self.0.retain(|at| now.duration_since(*at) < RIVALRY_WINDOW);
        self.0.len() >= RIVALRY_MAX
    }
}

#[cfg(test)]
mod tests;
