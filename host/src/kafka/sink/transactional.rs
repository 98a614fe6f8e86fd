//! The transactional publisher: exactly once for `read_committed` readers. Each batch is a Kafka transaction with its
//! messages and the new position.
//!
//! The position is a committed offset of the sink's own group, on partition 0 of the topic [`POSITIONS`]. That topic
//! stays empty, and exists only because Kafka keeps offsets only for existing topics. A crash before the commit leaves
//! neither messages nor position, and a crash after it leaves both. So Kafka's position is right, and the store's is
//! moved up to it at the start. Kafka deletes the offsets of an idle group after `offsets.retention.minutes`. Then the
//! store's position counts, which lags behind by one batch at most, and only after a crash.
//!
//! A newer producer with the same transactional id fences this one: see `kafka/transaction.rs`.

use super::publisher::{Interruption, Publisher, Refused, not_published, sort_out};
use super::seat::Seat;
use super::sender::Style;
use super::{RETRY_FIRST, RETRY_MAX};
use crate::kafka::context::{Context, Health};
use crate::kafka::deliveries::Failed;
use crate::kafka::transaction::{Broken, Transactions};
use crate::kafka::{Connection, Error, client_error, error_hints, topics};
use crate::manifest::Topic;
use crate::model::Message;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The topic to which the offsets of sinks belong.
pub(super) const POSITIONS: &str = crate::manifest::POSITIONS_TOPIC;
/// How long reading the position may take. A broker may still have to create its topic for offsets.
const OFFSETS_MAX: Duration = Duration::from_secs(10);

/// The names of a sink's position and transactions.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The section of the manifest that the sink is from.
    pub(super) section: String,
    /// The group whose committed offset is the position. Each store has its own.
    pub(super) group: String,
    /// The transactional id, which only one of several hosts may use at a time.
    pub(super) transactional_id: String,
}

/// A publisher whose batches are Kafka transactions.
pub(super) struct Transactional {
    names: Names,
    connection: Connection,
    transactions: Transactions<Seat>,
    style: Style,
    /// The metadata with which offsets are sent; `None` until [`Publisher::position`].
    group: Option<ConsumerGroupMetadata>,
}

impl Transactional {
    /// Creates the publisher and its producer. This must be called on the thread that will publish, because calls
    /// block.
    pub(super) fn new(seat: Seat, connection: Connection, names: Names, style: Style) -> Result<Self, Error> {
        let config = connection.transactional_producer(&seat.sink, &names.transactional_id);
        let remedy = format!(
            "stop the other host, or give one of them another `transactional_id` in [{}], then restart this host",
            names.section
        );
        let (client, health) = (format!("sink {}", seat.sink), seat.view.health.clone());
        let transactions = Transactions::new(client, config, health, style.cloud_events.clone(), seat, remedy)?;
        Ok(Self { names, connection, transactions, style, group: None })
    }

    fn seat(&self) -> &Seat {
        self.transactions.owner()
    }

    /// Attempts one transaction, with everything in `todo` and the position, or with nothing. Returns the messages that
    /// failed.
    fn attempt(&mut self, batch: &[(u64, Message)], todo: &[usize], to: u64) -> Result<Vec<Failed>, Broken> {
        self.transactions.begin()?;
        for &index in todo {
            self.transactions.send(index, &batch[index].1, self.style.envelope)?;
        }
        let failed = self.transactions.wait_for_all()?;
        if !failed.is_empty() {
            self.abort()?;
            return Ok(failed);
        }
        let group = self.group.as_ref().ok_or_else(|| Broken::Renew("the position is not known".into()))?;
        let mut offsets = TopicPartitionList::new();
        let offset = Offset::Offset(i64::try_from(to).unwrap_or(i64::MAX));
        offsets.add_partition_offset(POSITIONS, 0, offset).map_err(|error| Broken::Abort(error.to_string()))?;
        self.transactions.commit(&offsets, group)?;
        Ok(Vec::new())
    }

    fn abort(&mut self) -> Result<(), Broken> {
        self.transactions.abort()?;
        self.seat().view.aborted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn ensure_topic(&self) -> Result<(), Error> {
        // The cluster's default number of replicas is enough, because nothing is ever written to it.
        let topic = Topic { partitions: 1, replication: topics::REPLICATION_OF_CLUSTER, config: BTreeMap::new() };
        let report = topics::ensure(&self.connection, &BTreeMap::from([(POSITIONS.to_owned(), topic)]))?;
        report.failed.into_iter().next().map_or(Ok(()), Err)
    }

    fn committed(&mut self) -> Result<Option<u64>, Error> {
        let client = format!("position of sink {}", self.seat().sink);
        let context = Context::new(client.as_str(), Health::default());
        let consumer: BaseConsumer<Context> = self
            .connection
            .position_reader(&self.names.group)
            .create_with_context(context)
            .map_err(|error| client_error(&client, error))?;
        // This consumer is not polled, so it can't ask for a token by itself.
        self.connection.log_in(consumer.client())?;
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(POSITIONS, 0);
        let unreachable = |error: KafkaError| Error::Unreachable {
            brokers: self.connection.brokers().to_owned(),
            cause: format!("the position of group {} can't be read: {}", self.names.group, error_hints::call(&error)),
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
        self.group = None;
        self.transactions.take_over()?;
        let start_over = |error: Error| Interruption::StartOver(error.to_string());
        self.ensure_topic().map_err(start_over)?;
        let position = self.committed().map_err(start_over)?;
        self.seat().view.health.answered();
        Ok(position)
    }

    /// Publishes a batch. If Kafka refuses a message, the transaction is aborted and the refused messages are returned.
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
                    // After one failure librdkafka fails the others too, so only the refused messages matter.
                    let (refused, again) = sort_out(batch, failed, &self.style);
                    if !refused.is_empty() {
                        todo.retain(|index| refused.iter().all(|refused| refused.index != *index));
                        return Ok(refused);
                    }
                    if let Some((index, code)) = again.first() {
                        self.seat().note(not_published(&batch[*index].1, *code));
                    }
                }
                Err(Broken::Abort(error)) => {
                    self.seat().note(error);
                    self.abort()?;
                    self.ensure_topic().map_err(|error| Interruption::StartOver(error.to_string()))?;
                }
                Err(broken) => return Err(broken.into()),
            }
            self.seat().rest(pause)?;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn keeps_position(&self) -> bool {
        true
    }

    fn look_after_trouble(&self) {
        self.transactions.look_after_trouble();
    }
}

impl From<Broken> for Interruption {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Stopped => Self::Stopped,
            Broken::Abort(error) | Broken::Renew(error) => Self::StartOver(error),
            Broken::Rival(error) => Self::GiveUp(error),
        }
    }
}
