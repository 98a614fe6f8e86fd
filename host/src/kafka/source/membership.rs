//! What the group gives and takes, on its way from librdkafka's callback to the reader.
//!
//! The callback only notes; the reader answers when it is ready: at once to what is given, after the work in flight to
//! what is taken. Until then librdkafka asks nothing more. Once the reader has ended nobody would answer, so the
//! callback does it itself.

use super::Context;
use super::topics::TopicPartition;
use crate::supervise::Held as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// A change of what this host is to read.
#[derive(Debug)]
pub(in crate::kafka) enum Rebalance {
    /// These come to those that it has.
    Assign(Vec<TopicPartition>),
    /// These go. `lost`: others may read them already, for instance because the host was asleep.
    Revoke { partitions: Vec<TopicPartition>, lost: bool },
}

/// Changes that the reader has not seen. Cheap to clone.
#[derive(Clone, Default)]
pub(in crate::kafka) struct Rebalances(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: VecDeque<Rebalance>,
    ended: bool,
}

impl Rebalances {
    /// For the callback of a client.
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

    /// Whether there is one.
    pub(in crate::kafka) fn is_waiting(&self) -> bool {
        !self.state().waiting.is_empty()
    }

    pub(in crate::kafka) fn next(&self) -> Option<Rebalance> {
        self.state().waiting.pop_front()
    }

    /// From now on the callback answers.
    pub(in crate::kafka) fn end(&self) {
        self.state().ended = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.held()
    }
}

/// While a client closes, everything it answers means that it gives all back.
fn answer_at_the_end(consumer: &BaseConsumer<Context>, assigns: bool, list: &TopicPartitionList) {
    let answered: Result<(), KafkaError> = consumer.unassign().or_else(|_| match assigns {
        true => consumer.incremental_assign(&TopicPartitionList::new()),
        false => consumer.incremental_unassign(list),
    });
    if let Err(error) = answered {
        tracing::debug!("the group's last question was not answered: {error}");
    }
}
