//! The reading of a topic's records for a person. It commits no offsets and joins no group.

use super::{Admin, Place};
use crate::kafka::context::Context;
use crate::kafka::headers::Dropped;
use crate::kafka::record::Incoming;
use crate::kafka::{Error, client_error, error_hints};
use crate::manifest::From;
use crate::model::Record;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long the broker may delay an answer while there is no record, which is also the delay of a new record at most.
const FETCH_WAIT_MS: &str = "100";

/// The records to read.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The topic.
    pub topic: String,
    /// The partitions; an empty list stands for all.
    pub partitions: Vec<i32>,
    /// Where reading begins.
    pub from: From,
    /// Where reading ends; `None` means that it continues as records come.
    pub to: Option<From>,
    /// Whether only records of committed transactions are read.
    pub committed: bool,
}

/// A running read of a topic.
pub struct TopicReader {
    topic: Arc<str>,
    consumer: BaseConsumer<Context>,
    /// The partitions that are still being read, with the end of each.
    open: BTreeMap<i32, Option<End>>,
}

/// The end of a partition.
#[derive(Clone, Copy)]
struct End {
    /// The first offset that is not wanted.
    offset: u64,
    /// Whether the end existed when reading began. It is then reached when no more records come. Readers of committed
    /// records may stop earlier, because records after the start of an open transaction are not delivered to them.
    is_there: bool,
}

impl TopicReader {
    /// Starts to read.
    pub fn new(admin: &Admin, wanted: &Wanted) -> Result<Self, Error> {
        let topic = wanted.topic.as_str();
        let starts = admin.places(topic, &wanted.partitions, wanted.from)?;
        let ends = wanted.to.map(|to| ends(admin, &wanted.topic, &wanted.partitions, to)).transpose()?;
        let mut config = admin.connection.client("consume");
        config.set("group.id", "wasmill-consume").set("enable.auto.commit", "false").set("auto.offset.reset", "error");
        config.set("fetch.wait.max.ms", FETCH_WAIT_MS).set("enable.partition.eof", "true");
        config.set("isolation.level", if wanted.committed { "read_committed" } else { "read_uncommitted" });
        let context = Context::new("consume", admin.client.context().health().clone());
        let consumer: BaseConsumer<Context> =
            config.create_with_context(context).map_err(|error| client_error("consume", error))?;
        let mut assigned = TopicPartitionList::new();
        let mut open = BTreeMap::new();
        for Place { partition, offset, .. } in starts {
            let end = ends.as_ref().and_then(|ends| ends.get(&partition).copied());
            // A partition that is already at its end is not read at all.
            if end.is_none_or(|end| offset < end.offset) {
                let start = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
                assigned.add_partition_offset(topic, partition, start).map_err(|error| admin.unanswered(&error))?;
                open.insert(partition, end);
            }
        }
        if !open.is_empty() {
            consumer.assign(&assigned).map_err(|error| admin.unanswered(&error))?;
        }
        Ok(Self { topic: topic.into(), consumer, open })
    }

    /// Whether everything up to the ends has been read.
    pub fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Returns the next record, or `None` if there is none within `wait`.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Record>, Error> {
        match self.consumer.poll(wait) {
            None => Ok(None),
            Some(Ok(message)) => {
                let (partition, offset) = (message.partition(), message.offset());
                // The name of a header that is not UTF-8 is shown escaped.
                let (record, _) = Incoming::new(&self.topic, &message, &Dropped::default()).into_owned();
                Ok(self.reach(partition, offset).then_some(record))
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let is_past = |end: &End| self.position(partition).is_some_and(|position| position >= end.offset);
                if self.open.get(&partition).copied().flatten().is_some_and(|end| end.is_there || is_past(&end)) {
                    self.open.remove(&partition);
                }
                Ok(None)
            }
            Some(Err(error)) => self.fail(&error).map_or(Ok(None), Err),
        }
    }

    /// Notes the progress of a partition. Returns false if the offset is past its end.
    fn reach(&mut self, partition: i32, offset: i64) -> bool {
        let Some(end) = self.open.get(&partition) else { return false };
        let offset = u64::try_from(offset).unwrap_or(0);
        let inside = end.is_none_or(|end| offset < end.offset);
        if end.is_some_and(|end| offset + 1 >= end.offset) {
            self.open.remove(&partition);
        }
        inside
    }

    /// Returns the consumer's position, which also moves past offsets without a record, such as transaction markers.
    fn position(&self, partition: i32) -> Option<u64> {
        match self.consumer.position().ok()?.find_partition(&self.topic, partition)?.offset() {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        }
    }

    fn fail(&self, error: &KafkaError) -> Option<Error> {
        use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, GroupAuthorizationFailed, Resolve};
        match error.rdkafka_error_code()? {
            // There is no group, but librdkafka looks for its coordinator all the same.
            GroupAuthorizationFailed => None,
            // librdkafka retries.
            AllBrokersDown | BrokerTransportFailure | Resolve => None,
            code => {
                let cause =
                    self.consumer.context().health().final_trouble().unwrap_or_else(|| error_hints::answer(code));
                Some(Error::Topic { topic: self.topic.to_string(), cause })
            }
        }
    }
}

fn ends(admin: &Admin, topic: &str, partitions: &[i32], to: From) -> Result<BTreeMap<i32, End>, Error> {
    // An offset may not exist yet, and then reading waits for it.
    let at = if let From::Offset(_) = to { From::End } else { to };
    let end = |place: Place| {
        let offset = if let From::Offset(offset) = to { offset } else { place.offset };
        (place.partition, End { offset, is_there: offset <= place.end })
    };
    Ok(admin.places(topic, partitions, at)?.into_iter().map(end).collect())
}
