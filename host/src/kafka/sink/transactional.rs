//! Exactly once for `read_committed` readers: each batch is a Kafka transaction that holds its messages and the
//! position reached.
//!
//! The position is a committed offset: of the sink's own group, on partition 0 of the topic [`POSITIONS`], which stays
//! empty and is there because Kafka keeps offsets only for topics that exist. A crash before the commit leaves neither
//! messages nor position, a crash after it leaves both; so Kafka knows where the sink is, and the store is moved up to
//! it at the start. Kafka forgets the offsets of an idle group after `offsets.retention.minutes`; then the store, which
//! is behind by one batch at most and only after a crash, is what remains.
//!
//! A newer producer with the same transactional id fences this one; `kafka/transaction.rs` says what follows.

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

/// The topic that offsets of sinks stand on.
pub(super) const POSITIONS: &str = crate::manifest::POSITIONS_TOPIC;
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

/// A publisher whose batches are Kafka transactions.
pub(super) struct Transactional {
    names: Names,
    connection: Connection,
    transactions: Transactions<Seat>,
    style: Style,
    /// What offsets are sent with; `None` until [`Publisher::position`].
    group: Option<ConsumerGroupMetadata>,
}

impl Transactional {
    /// Makes its producer, on the thread that will publish. Its calls block.
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

    /// One transaction: everything in `todo` and the position, or nothing. Returns what was not taken.
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
        // As many replicas as the cluster gives a topic by default; nothing is ever written there.
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
        // Nobody polls this consumer, which is how it would ask for a token.
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
