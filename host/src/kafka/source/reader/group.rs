//! Answers to the group's rebalances: taking partitions, and giving them back so that nothing takes effect twice.
//!
//! A partition that the group gives is opened like any other, from its ledger. A partition that the group takes is not
//! read any more; records in flight get some time to complete, then its state is dropped. Later completions are
//! ignored, and the ledger keeps their records from taking effect again. Lost partitions are dropped at once.

use super::{PartitionReading, Reader};
use crate::kafka::source::discovery::Request;
use crate::kafka::source::membership::Rebalance;
use crate::kafka::source::topics::TopicPartition;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::time::Instant;

/// Partitions on their way back to the group.
pub(super) struct Leaving {
    partitions: Vec<TopicPartition>,
    /// When they are given back even if records are in flight.
    deadline: Instant,
    lost: bool,
}

impl Reader {
    /// Answers the group and returns whether anything changed.
    pub(super) fn rebalance(&mut self) -> bool {
        if let Some(leaving) = self.leaving.take() {
            return self.leave(leaving, Instant::now());
        }
        match self.work.rebalances.next() {
            None => false,
            Some(Rebalance::Assign(partitions)) => {
                self.join(partitions);
                true
            }
            Some(Rebalance::Revoke { partitions, lost }) => {
                let leaving = self.begin_to_leave(partitions, lost);
                self.leave(leaving, Instant::now());
                true
            }
        }
    }

    /// Accepts partitions from the group, with an empty assignment. Each is added when partition discovery opens it, so
    /// a partition in trouble holds up neither the group nor the others.
    fn join(&mut self, partitions: Vec<TopicPartition>) {
        tracing::info!(source = &*self.work.config.name, partitions = list_of(&partitions), "got from the group");
        self.work.view.rebalanced();
        let wanted = |found: &TopicPartition| !self.work.config.topics.are_without(&found.topic);
        self.work.view.assign(partitions.into_iter().filter(wanted));
        if let Err(error) = self.work.consumer.incremental_assign(&TopicPartitionList::new()) {
            tracing::warn!(source = &*self.work.config.name, "the group was not answered: {error}");
        }
        let _ = self.ends.discovery.send(Request::Open);
    }

    fn begin_to_leave(&mut self, partitions: Vec<TopicPartition>, lost: bool) -> Leaving {
        tracing::info!(
            source = &*self.work.config.name,
            lost,
            partitions = list_of(&partitions),
            "gives back to the group"
        );
        self.work.view.rebalanced();
        self.work.view.revoke(&partitions, lost);
        for reading in self.readings.iter_mut().flatten().filter(|reading| partitions.contains(&reading.partition)) {
            reading.leave();
        }
        Leaving { partitions, deadline: Instant::now() + self.work.config.give_back_max, lost }
    }

    /// Gives partitions back if none of their records is in flight or the deadline is over. Otherwise they stay
    /// `leaving`.
    fn leave(&mut self, leaving: Leaving, now: Instant) -> bool {
        let in_flight: usize = self.of(&leaving.partitions).map(|reading| reading.state.in_flight()).sum();
        if in_flight > 0 && !leaving.lost && now < leaving.deadline {
            self.leaving = Some(leaving);
            return false;
        }
        if in_flight > 0 {
            let source = &*self.work.config.name;
            tracing::warn!(source, in_flight, lost = leaving.lost, "partitions go with work in flight");
        }
        self.give_back(&leaving);
        true
    }

    fn give_back(&mut self, Leaving { partitions, lost, .. }: &Leaving) {
        self.show_progress();
        let (mut assigned, mut offsets) = (TopicPartitionList::new(), TopicPartitionList::new());
        for reading in self.of(partitions).filter(|reading| reading.is_assigned) {
            reading.partition.add_to(&mut assigned, None);
            reading.partition.add_to(&mut offsets, Some(reading.state.next()));
        }
        if !lost && offsets.count() > 0 {
            // This is for lag tools. It is sent before the group learns that the partitions are free.
            let _ = self.work.consumer.commit(&offsets, CommitMode::Async);
        }
        for slot in &mut self.readings {
            slot.take_if(|reading| partitions.contains(&reading.partition));
        }
        self.work.view.gone(partitions);
        if let Err(error) = self.work.consumer.incremental_unassign(&assigned) {
            tracing::warn!(source = &*self.work.config.name, "the group was not answered: {error}");
        }
    }

    /// Answers everything that the group waits for when the reader ends. The callback answers later rebalances.
    pub(super) fn end_membership(&mut self) {
        while let Some(leaving) = self.leaving.take() {
            self.give_back(&leaving);
        }
        while let Some(rebalance) = self.work.rebalances.next() {
            match rebalance {
                Rebalance::Assign(_) => _ = self.work.consumer.incremental_assign(&TopicPartitionList::new()),
                Rebalance::Revoke { partitions, lost } => {
                    let leaving = self.begin_to_leave(partitions, lost);
                    self.give_back(&leaving);
                }
            }
        }
        self.work.rebalances.end();
    }

    fn of<'a>(&'a self, partitions: &'a [TopicPartition]) -> impl Iterator<Item = &'a PartitionReading> {
        self.readings.iter().flatten().filter(|reading| partitions.contains(&reading.partition))
    }
}

fn list_of(partitions: &[TopicPartition]) -> String {
    let names: Vec<_> = partitions.iter().map(|found| format!("{}/{}", found.topic, found.partition)).collect();
    names.join(" ")
}
