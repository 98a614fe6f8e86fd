//! Exactly once for `read_committed` readers: each batch is a Kafka transaction that holds its messages and the
//! position reached.
//!
//! The position is a committed offset: of the sink's own group, on partition 0 of the topic [`POSITIONS`], which stays
//! empty and is there because Kafka keeps offsets only for topics that exist. A crash before the commit leaves neither
//! messages nor position, a crash after it leaves both; so Kafka knows where the sink is, and the store is moved up to
//! it at the start. Kafka forgets the offsets of an idle group after `offsets.retention.minutes`; then the store, which
//! is behind by one batch at most and only after a crash, is what remains.
//!
//! A newer producer with the same transactional id fences this one, which gives up: two that take turns would publish
//! everything twice.

use super::publisher::{Interruption, Publisher, Refused, not_published, sort_out};
use super::sender::{Sender, Style};
use super::{RETRY_FIRST, RETRY_MAX, View};
use crate::kafka::context::{Context, Health};
use crate::kafka::deliveries::{Failed, Producer};
use crate::kafka::{Connection, Error, client_error, topics, trouble};
use crate::manifest::Topic;
use crate::model::Message;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The topic that offsets of sinks stand on.
pub(super) const POSITIONS: &str = "wasmill-sink-positions";
/// How long one call into librdkafka may block; a call that did not finish is taken up again.
const CALL_MAX: Duration = Duration::from_secs(2);
/// Long enough for a broker that still makes its topic for offsets.
const OFFSETS_MAX: Duration = Duration::from_secs(10);

/// Whose position and whose transactions.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The section of the manifest that the sink is from.
    pub(super) section: String,
    /// The group whose committed offset is the position. One for each store.
    pub(super) group: String,
    /// What tells two hosts that must not publish both.
    pub(super) transactional_id: String,
}

/// See the module.
pub(super) struct Transactional {
    names: Names,
    connection: Connection,
    sender: Sender,
    /// What offsets are sent with; `None` until [`Publisher::position`].
    group: Option<ConsumerGroupMetadata>,
}

/// Why a transaction did not go through.
enum Broken {
    /// It can be aborted and done again.
    Abort(String),
    Interrupted(Interruption),
}

impl From<Interruption> for Broken {
    fn from(interruption: Interruption) -> Self {
        Self::Interrupted(interruption)
    }
}

impl Transactional {
    /// On the thread that will publish. Its calls block.
    pub(super) fn new(
        sink: &Arc<str>,
        connection: Connection,
        names: Names,
        style: Style,
        view: Arc<View>,
    ) -> Result<Self, Error> {
        let config = connection.transactional_producer(sink, &names.transactional_id);
        let sender = Sender::new(sink, config, style, view)?;
        Ok(Self { names, connection, sender, group: None })
    }

    /// One transaction: everything in `todo` and the position, or nothing.
    fn attempt(&mut self, batch: &[(u64, Message)], todo: &[usize], to: u64) -> Result<Vec<Failed>, Broken> {
        self.call("begin a transaction", Producer::begin_transaction)?;
        let failed = self.sender.send(batch, todo)?;
        if !failed.is_empty() {
            self.check_fatal()?;
            self.abort()?;
            return Ok(failed);
        }
        let group = self.group.take().ok_or_else(|| Interruption::StartOver("the position is not known".into()))?;
        let mut offsets = TopicPartitionList::new();
        let offset = Offset::Offset(i64::try_from(to).unwrap_or(i64::MAX));
        offsets.add_partition_offset(POSITIONS, 0, offset).map_err(|error| Broken::Abort(error.to_string()))?;
        let send = |producer: &Producer| producer.send_offsets_to_transaction(&offsets, &group, OFFSETS_MAX);
        let sent = self.call("add the position to the transaction", send);
        self.group = Some(group);
        sent?;
        self.call("commit the transaction", |producer| producer.commit_transaction(CALL_MAX))?;
        self.sender.view.health.answered();
        Ok(Vec::new())
    }

    /// As if nothing had been sent. librdkafka may need the brokers for it.
    fn abort(&mut self) -> Result<(), Interruption> {
        match self.call("abort the transaction", |producer| producer.abort_transaction(CALL_MAX)) {
            Ok(()) => {
                self.sender.view.aborted.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(Broken::Interrupted(interruption)) => Err(interruption),
            Err(Broken::Abort(error)) => Err(self.start_over(error)),
        }
    }

    /// Makes a call that blocks, and makes it again for as long as librdkafka says that this may help.
    fn call(&mut self, what: &str, call: impl Fn(&Producer) -> KafkaResult<()>) -> Result<(), Broken> {
        loop {
            self.sender.check_given_up()?;
            let error = match self.sender.producer().map(&call) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(error) => return Err(Interruption::StartOver(error.to_string()).into()),
            };
            let text = format!("can't {what}: {}", trouble::call(&error));
            match error {
                KafkaError::Transaction(error) if error.is_fatal() => {
                    self.check_fatal()?;
                    return Err(self.start_over(text).into());
                }
                KafkaError::Transaction(error) if error.txn_requires_abort() => return Err(Broken::Abort(text)),
                KafkaError::Transaction(error) if !error.is_retriable() => return Err(self.start_over(text).into()),
                // Also a flush that found something on its way.
                _ => {
                    self.sender.note(text);
                    self.sender.rest(RETRY_FIRST)?;
                }
            }
        }
    }

    /// What became of the transaction is Kafka's to say: a new producer waits for it and the position tells.
    fn start_over(&mut self, error: String) -> Interruption {
        self.sender.discard_producer();
        self.group = None;
        Interruption::StartOver(error)
    }

    /// After a fatal error: whether another producer has taken over.
    fn check_fatal(&mut self) -> Result<(), Interruption> {
        let fatal = self.sender.producer().ok().and_then(|producer| producer.client().fatal_error());
        let Some((code, cause)) = fatal else { return Ok(()) };
        if is_fenced(code) {
            return Err(Interruption::GiveUp(format!(
                "another producer with the transactional id {} has taken over and fenced this one ({cause}): stop the \
                 other host, or give one of them another `transactional_id` in [{}], then restart this host",
                self.names.transactional_id, self.names.section
            )));
        }
        Err(self.start_over(format!("Kafka refused to go on with this producer: {cause}")))
    }

    /// Fences older producers with the same id and waits until their last transaction has ended.
    fn take_over(&mut self) -> Result<(), Interruption> {
        match self.call("start transactions", |producer| producer.init_transactions(CALL_MAX)) {
            Ok(()) => Ok(()),
            Err(Broken::Interrupted(interruption)) => Err(interruption),
            Err(Broken::Abort(error)) => Err(self.start_over(error)),
        }
    }

    fn ensure_topic(&self) -> Result<(), Error> {
        // As many replicas as the cluster gives a topic by default; nothing is ever written there.
        let topic = Topic { partitions: 1, replication: topics::REPLICATION_OF_CLUSTER, config: BTreeMap::new() };
        let report = topics::ensure(&self.connection, &BTreeMap::from([(POSITIONS.to_owned(), topic)]))?;
        report.failed.into_iter().next().map_or(Ok(()), Err)
    }

    fn committed(&mut self) -> Result<Option<u64>, Error> {
        let client = format!("position of sink {}", self.sender.sink);
        let context = Context::new(client.as_str(), Health::default());
        let consumer: BaseConsumer<Context> = self
            .connection
            .position_reader(&self.names.group)
            .create_with_context(context)
            .map_err(|error| client_error(&client, error))?;
        // Nobody polls this consumer, which is how it would ask for a token.
        self.connection.log_in(consumer.client())?;
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(POSITIONS, 0);
        let unreachable = |error: KafkaError| Error::Unreachable {
            brokers: self.connection.brokers().to_owned(),
            cause: format!("the position of group {} can't be read: {}", self.names.group, trouble::call(&error)),
        };
        let committed = consumer.committed_offsets(wanted, OFFSETS_MAX).map_err(unreachable)?;
        let committed = committed.elements().first().map(|partition| partition.error().map(|()| partition.offset()));
        self.group = consumer.group_metadata();
        match committed.transpose().map_err(unreachable)? {
            Some(Offset::Offset(offset)) => Ok(u64::try_from(offset).ok()),
            _ => Ok(None),
        }
    }
}

impl Publisher for Transactional {
    fn position(&mut self) -> Result<Option<u64>, Interruption> {
        // Only a new producer ends what an older one has begun.
        self.sender.discard_producer();
        self.take_over()?;
        let start_over = |error: Error| Interruption::StartOver(error.to_string());
        self.ensure_topic().map_err(start_over)?;
        let position = self.committed().map_err(start_over)?;
        self.sender.view.health.answered();
        Ok(position)
    }

    /// A batch with a message that is refused is aborted and begun again without it.
    fn publish(
        &mut self,
        batch: &[(u64, Message)],
        todo: &mut Vec<usize>,
        to: u64,
    ) -> Result<Vec<Refused>, Interruption> {
        let mut pause = RETRY_FIRST;
        loop {
            match self.attempt(batch, todo, to) {
                Ok(failed) if failed.is_empty() => {
                    todo.clear();
                    return Ok(Vec::new());
                }
                Ok(failed) => {
                    // After one failure librdkafka fails the others too: only what is refused itself tells something.
                    let (refused, again) = sort_out(batch, failed, self.sender.style());
                    if !refused.is_empty() {
                        todo.retain(|index| refused.iter().all(|refused| refused.index != *index));
                        return Ok(refused);
                    }
                    if let Some((index, code)) = again.first() {
                        self.sender.note(not_published(&batch[*index].1, *code));
                    }
                }
                Err(Broken::Abort(error)) => {
                    self.sender.note(error);
                    self.abort()?;
                    self.ensure_topic().map_err(|error| Interruption::StartOver(error.to_string()))?;
                }
                Err(Broken::Interrupted(interruption)) => return Err(interruption),
            }
            self.sender.rest(pause)?;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn keeps_position(&self) -> bool {
        true
    }

    fn look_after_trouble(&self) {
        self.sender.look_after_trouble();
    }
}

fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    matches!(code, Fenced | InvalidProducerEpoch | ProducerFenced)
}
