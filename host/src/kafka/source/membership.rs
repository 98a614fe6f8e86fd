//! The rebalances of a group, on their way from librdkafka's callback to the reader.
//!
//! The callback only queues a rebalance. The reader answers an assignment at once, and a revocation after the records
//! in flight. Until the answer librdkafka reports no further rebalance. Once the reader has ended, the callback answers
//! by itself.

use super::Context;
use super::topics::TopicPartition;
use crate::supervise::Held as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// A change of the partitions that this host is to read.
#[derive(Debug)]
pub(in crate::kafka) enum Rebalance {
    /// These partitions are added.
    Assign(Vec<TopicPartition>),
    /// These partitions are removed. If they are `lost`, other members may already read them, for example because the
    /// host was asleep.
    Revoke { partitions: Vec<TopicPartition>, lost: bool },
}

/// The rebalances that the reader has not seen. It is cheap to clone.
#[derive(Clone, Default)]
pub(in crate::kafka) struct Rebalances(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Rebalance>,
    ended: bool,
}

impl Rebalances {
    /// Queues a rebalance. The callback of a client calls this.
    pub(in crate::kafka) fn note(
        &self,
        consumer: &BaseConsumer<Context>,
        kind: RDKafkaRespErr,
        list: &TopicPartitionList,
    ) {
        let assigns = kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let mut state = self.state();
        if state.ended {
            drop(state);
            return answer_at_the_end(consumer, assigns, list);
        }
        let elements = list.elements();
        let partitions = elements
            .iter()
            .map(|element| TopicPartition { topic: element.topic().into(), partition: element.partition() })
            .collect();
        state.waiting.push_back(match assigns {
            true => Rebalance::Assign(partitions),
            false => Rebalance::Revoke { partitions, lost: consumer.assignment_lost() },
        });
    }

    /// Whether there is a rebalance.
    pub(in crate::kafka) fn is_waiting(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    pub(in crate::kafka) fn next(&self) -> Option<Rebalance> {
        self.state().waiting.pop_front()
    }

    /// Makes the callback answer from now on.
    pub(in crate::kafka) fn end(&self) {
        self.state().ended = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.held()
    }
}

/// Answers a rebalance while a client closes: it gives all partitions back.
fn answer_at_the_end(consumer: &BaseConsumer<Context>, assigns: bool, list: &TopicPartitionList) {
    let answered: Result<(), KafkaError> = consumer.unassign().or_else(|_| match assigns {
        true => consumer.incremental_assign(&TopicPartitionList::new()),
        false => consumer.incremental_unassign(list),
    });
    if let Err(error) = answered {
        tracing::debug!("the group's last rebalance was not answered: {error}");
    }
}
