//! The assignment of partitions by the group. A partition is read from the group's committed offset, or from where the
//! manifest says.

use super::guard::{Guard, Known};
use super::{ANSWER_MAX, Broken, Config, TransformView};
use crate::kafka::context::Context;
use crate::kafka::source::TopicPartition;
use crate::manifest::Lost;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use std::collections::BTreeMap;

/// The partitions of a member, with the next offset of each.
#[derive(Default)]
pub(super) struct Owned {
    next: BTreeMap<TopicPartition, u64>,
    /// Whether reading is suspended.
    is_held: bool,
}

impl Owned {
    /// Whether a partition is assigned and its committed offset is lower.
    pub(super) fn is_behind(&self, partition: &TopicPartition, offset: u64) -> bool {
        self.next.get(partition).is_some_and(|next| *next < offset)
    }

    /// Notes that everything before this offset is committed.
    pub(super) fn reached(&mut self, partition: &TopicPartition, offset: u64) {
        if let Some(next) = self.next.get_mut(partition) {
            *next = offset;
        }
    }
}

/// The member of the group to which a rebalance applies.
pub(super) struct Assignment<'a> {
    pub(super) config: &'a Config,
    pub(super) consumer: &'a BaseConsumer<Context>,
    pub(super) view: &'a TransformView,
    pub(super) guard: &'a Guard,
    pub(super) owned: &'a mut Owned,
}

/// The start of a partition.
struct Start {
    next: u64,
    end: u64,
    /// Whether the group has not committed this offset.
    is_new: bool,
    lost: Option<String>,
}

impl Assignment<'_> {
    /// Adds partitions that are read from now on.
    pub(super) fn take(&mut self, partitions: &[TopicPartition]) -> Result<(), Broken> {
        let wanted = partitions.iter().filter(|partition| !self.guard.is_without(&partition.topic));
        self.read_from(wanted.map(|partition| (partition.clone(), None)).collect())
    }

    /// Removes partitions that are no longer read.
    pub(super) fn give_back(&mut self, partitions: &[TopicPartition]) -> Result<(), Broken> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            self.view.revoked(partition);
            let is_owned = self.owned.next.remove(partition).is_some();
            if is_owned && !self.owned.is_held {
                list.add_partition(&partition.topic, partition.partition);
            }
        }
        tracing::info!(source = &*self.config.name, partitions = partitions.len(), "gives back to the group");
        self.consumer.incremental_unassign(&list).map_err(|error| Broken::StartOver(error.to_string()))
    }

    /// Suspends reading. It stays a member of the group.
    pub(super) fn hold(&mut self) -> Result<(), Broken> {
        if std::mem::replace(&mut self.owned.is_held, true) {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for partition in self.owned.next.keys() {
            list.add_partition(&partition.topic, partition.partition);
        }
        if list.count() == 0 {
            return Ok(());
        }
        self.consumer.incremental_unassign(&list).map_err(|error| Broken::StartOver(error.to_string()))
    }

    /// Resumes reading at the committed offsets. Only the group knows for sure whether the last transaction was
    /// committed.
    pub(super) fn resume(&mut self) -> Result<(), Broken> {
        let owned = self.owned.next.iter().map(|(partition, next)| (partition.clone(), Some(*next))).collect();
        self.owned.is_held = false;
        self.read_from(owned)
    }

    /// Reads partitions from the group's committed offset, but never from before an offset that is known to be
    /// committed.
    fn read_from(&mut self, partitions: Vec<(TopicPartition, Option<u64>)>) -> Result<(), Broken> {
        let committed = self.committed(partitions.iter().map(|(partition, _)| partition))?;
        let of = |partition: &TopicPartition| match committed
            .find_partition(&partition.topic, partition.partition)?
            .offset()
        {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        };
        let known = |(partition, known): (TopicPartition, Option<u64>)| {
            let next = of(&partition).max(known);
            (partition, next)
        };
        self.read(partitions.into_iter().map(known).collect())
    }

    /// Reads partitions from their committed offsets, if there are any.
    fn read(&mut self, partitions: Vec<(TopicPartition, Option<u64>)>) -> Result<(), Broken> {
        let (mut offsets, mut new) = (TopicPartitionList::new(), TopicPartitionList::new());
        let topics = partitions.iter().map(|(partition, _)| partition.topic.clone()).collect();
        let topics = self.guard.look(self.consumer, topics)?;
        for (partition, committed) in partitions {
            let start = self.start(&partition, committed, &topics)?;
            if !self.owned.is_held {
                add(&mut offsets, &partition, start.next);
            }
            if start.is_new {
                add(&mut new, &partition, start.next);
            }
            tracing::info!(source = &*self.config.name, from = start.next, "reads {partition}");
            self.view.assigned(partition.clone(), start.next, start.end, start.lost);
            self.owned.next.insert(partition, start.next);
        }
        // This is also called without partitions, because the group waits for the answer.
        self.consumer.incremental_assign(&offsets).map_err(|error| Broken::StartOver(error.to_string()))?;
        // The start must be committed before the first batch is, because by then "the end" is another offset.
        if new.count() > 0
            && let Err(error) = self.consumer.commit(&new, CommitMode::Sync)
        {
            let text = format!("the start offsets are not committed to group {} yet: {error}", self.config.group);
            if topics.are_any_recreated() {
                return Err(Broken::StartOver(text));
            }
            tracing::warn!(source = &*self.config.name, "{text}");
        }
        self.guard.accept(&topics)
    }

    /// Returns the group's committed offsets. The group does not answer while a transaction is open that may change
    /// them. After a host was killed, that takes up to `transaction.timeout.ms`.
    fn committed<'p>(
        &self,
        partitions: impl Iterator<Item = &'p TopicPartition>,
    ) -> Result<TopicPartitionList, Broken> {
        let mut wanted = TopicPartitionList::new();
        for TopicPartition { topic, partition } in partitions {
            wanted.add_partition(topic, *partition);
        }
        while wanted.count() > 0 {
            let error = match self.consumer.committed_offsets(wanted.clone(), ANSWER_MAX) {
                Ok(committed) => return Ok(committed),
                Err(error) => error,
            };
            if self.view.is_stopping() {
                return Err(Broken::Stopped);
            }
            let is_late = error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut);
            if !is_late || self.consumer.assignment_lost() {
                return Err(self.unread(&error));
            }
            let group = &self.config.group;
            let text = format!("group {group} does not return its committed offsets yet: {error}");
            self.view.trouble(&self.config.name, text);
        }
        Ok(wanted)
    }

    fn start(&self, partition: &TopicPartition, committed: Option<u64>, topics: &Known) -> Result<Start, Broken> {
        let TopicPartition { topic, partition: number } = partition;
        let found = self.consumer.fetch_watermarks(topic, *number, ANSWER_MAX);
        let (low, end) = found.map_err(|error| Broken::StartOver(format!("{partition}: {error}")))?;
        let (low, end) = (u64::try_from(low).unwrap_or(0), u64::try_from(end).unwrap_or(0));
        if topics.is_recreated(topic) {
            let lost = Some(format!("{partition}: the topic was deleted and recreated; it is read from its beginning"));
            return Ok(Start { next: low, end, is_new: true, lost });
        }
        match committed {
            None => {
                let first = self.guard.start(topics, topic, *number).map_or(low, |first| first.clamp(low, end));
                Ok(Start { next: first, end, is_new: true, lost: None })
            }
            Some(next) if next > end => Err(Broken::GiveUp(format!(
                "{partition}: group {} is at offset {next} and the partition ends at {end}: its newest records were lost, as \
                 after an unclean election of a leader; say where to go on: stop the host, run `wasmill kafka offsets reset \
                 {} --topic {topic} --partition {number} --to end --yes` (or `--to` an offset), and start it again",
                self.config.group, self.config.name
            ))),
            Some(next) if next < low => self.skip_lost(partition, next, low, end),
            Some(next) => Ok(Start { next, end, is_new: false, lost: None }),
        }
    }

    fn skip_lost(&self, partition: &TopicPartition, next: u64, low: u64, end: u64) -> Result<Start, Broken> {
        let lost = format!(
            "{partition} offsets {next} to {}: up to {} records were removed by the topic's retention before they were \
             read; keep records longer, or let the host run more often",
            low - 1,
            low - next
        );
        if self.config.lost == Lost::Stop {
            let name = &self.config.name;
            return Err(Broken::GiveUp(format!(
                "{lost}; to go on without them set `lost = \"continue\"` of [sources.{name}] and restart this host"
            )));
        }
        tracing::error!(source = &*self.config.name, "{lost}");
        Ok(Start { next: low, end, is_new: true, lost: Some(lost) })
    }

    fn unread(&self, error: &KafkaError) -> Broken {
        Broken::StartOver(format!("the offsets of group {} can't be read: {error}", self.config.group))
    }
}

/// Adds a partition with an offset, or with a time in its place.
pub(super) fn add(list: &mut TopicPartitionList, partition: &TopicPartition, offset: u64) {
    let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
    // This only fails for invalid offsets.
    let _ = list.add_partition_offset(&partition.topic, partition.partition, offset);
}
