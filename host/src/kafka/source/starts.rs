//! The start offsets of the partitions that existed when a source first started. They are fixed once and kept in the
//! store.
//!
//! "The end", a time or an offset is a place at one moment. If it were looked up whenever a partition is first seen,
//! records of partitions and topics that are created later would be lost. So the start offsets of all existing
//! partitions are kept together, in the fact `kafka/start/SOURCE`, before any of them is read. A partition that is
//! created later is read from its beginning.

use super::topics::Topics;
use crate::ack;
use crate::kafka::context::Context;
use crate::kafka::ids::{self, TopicIds};
use crate::kafka::{Connection, error_hints};
use crate::manifest::From;
use crate::model::FactName;
use crate::store::{self, EventStore};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The start offsets of partitions, by `TOPIC@ID` and number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kafka) struct Starts(BTreeMap<String, BTreeMap<i32, u64>>);

impl Starts {
    /// Finds the start offsets of a source; `None` if they are not fixed yet.
    pub(in crate::kafka) fn find(
        store: &dyn EventStore,
        source: &str,
        from: From,
    ) -> Result<Option<Self>, store::Error> {
        // The beginning is the same place at any moment.
        if from == From::Beginning {
            return Ok(Some(Self::default()));
        }
        let Some(text) = store.reader()?.fact(&fact(source))? else { return Ok(None) };
        let starts = serde_json::from_str(&text);
        starts.map(Some).map_err(|error| store::Error::Failed(format!("{} can't be read: {error}", fact(source))))
    }

    /// Fixes the start offsets: asks the brokers for those of all existing partitions, and keeps them. If another host has done so
    /// meanwhile, its offsets count.
    pub(in crate::kafka) fn fix(ask: &Ask<'_>, source: &str, store: &dyn EventStore) -> Result<Self, String> {
        let asked = ask.starts()?;
        let text = serde_json::to_string(&asked).expect("it has nothing that is not JSON");
        let failed = |error: store::Error| error.to_string();
        ack::wait(|ack| store.keep_first_fact(&fact(source), text, ack)).map_err(failed)?;
        let starts = Self::find(store, source, ask.from).map_err(failed)?.unwrap_or(asked);
        let partitions: usize = starts.0.values().map(BTreeMap::len).sum();
        tracing::info!(source, partitions, "the start offsets are fixed; later partitions start at their beginning");
        Ok(starts)
    }

    /// Returns the start offset of a partition; `None` if the partition was created later.
    pub(in crate::kafka) fn of(&self, topic: &str, mark: Option<&str>, partition: i32) -> Option<u64> {
        self.0.get(&key(topic, mark))?.get(&partition).copied()
    }
}

fn fact(source: &str) -> String {
    FactName::Starts(source).to_string()
}

fn key(topic: &str, mark: Option<&str>) -> String {
    mark.map_or_else(|| topic.to_owned(), |mark| format!("{topic}@{mark}"))
}

/// A request for the start offsets of partitions.
pub(in crate::kafka) struct Ask<'a> {
    pub(in crate::kafka) consumer: &'a BaseConsumer<Context>,
    pub(in crate::kafka) connection: &'a Connection,
    pub(in crate::kafka) topics: &'a Topics,
    pub(in crate::kafka) from: From,
}

impl Ask<'_> {
    fn starts(&self) -> Result<Starts, String> {
        let partitions = self.partitions()?;
        let topics: Vec<Arc<str>> = partitions.keys().cloned().collect();
        let ids = self.ids(&topics)?;
        let mut starts = Starts::default();
        for (topic, numbers) in partitions {
            let mark = self.connection.topic_mark(ids.get(&topic).and_then(Option::as_ref)).map(str::to_owned);
            let places = self.places(&topic, &numbers)?;
            starts.0.insert(key(&topic, mark.as_deref()), places);
        }
        Ok(starts)
    }

    fn ids(&self, topics: &[Arc<str>]) -> Result<TopicIds, String> {
        if self.connection.is_embedded() {
            return Ok(TopicIds::new());
        }
        // SAFETY: the client outlives the call.
        let ids = unsafe { ids::topic_ids(self.consumer.client().native_ptr(), topics, ANSWER_MAX) };
        ids.map_err(|code| format!("the ids of topics are not known: {}", error_hints::answer(code)))
    }

    /// Lists all existing partitions. A topic that does not exist may be created later; any other problem is an error.
    fn partitions(&self) -> Result<BTreeMap<Arc<str>, Vec<i32>>, String> {
        use RDKafkaErrorCode::{UnknownTopic, UnknownTopicOrPartition};
        let metadata = self.consumer.fetch_metadata(None, ANSWER_MAX).map_err(|error| self.unanswered(&error))?;
        let mut found = BTreeMap::new();
        for topic in metadata.topics() {
            let name: Arc<str> = topic.name().into();
            if !self.topics.named().contains(&name) && !self.topics.are_found_in(&name) {
                continue;
            }
            match topic.error().map(RDKafkaErrorCode::from) {
                None => {
                    found.insert(name, topic.partitions().iter().map(|partition| partition.id()).collect());
                }
                Some(UnknownTopic | UnknownTopicOrPartition) => {}
                Some(code) => return Err(format!("topic {name}: {}", error_hints::answer(code))),
            }
        }
        Ok(found)
    }

    fn places(&self, topic: &str, partitions: &[i32]) -> Result<BTreeMap<i32, u64>, String> {
        let mut places = BTreeMap::new();
        for &partition in partitions {
            let found = self.consumer.fetch_watermarks(topic, partition, ANSWER_MAX);
            let (low, high) = found.map_err(|error| format!("topic {topic} partition {partition}: {error}"))?;
            let (low, high) = (u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0));
            let place = match self.from {
                From::Beginning => low,
                From::End => high,
                From::Offset(wanted) => wanted.clamp(low, high),
                From::Time(ms) => self.at_time(topic, partition, ms)?.map_or(high, |offset| offset.clamp(low, high)),
            };
            places.insert(partition, place);
        }
        Ok(places)
    }

    /// Returns the offset of the first record that is not older than a time.
    fn at_time(&self, topic: &str, partition: i32, time_ms: u64) -> Result<Option<u64>, String> {
        let failed = |error: KafkaError| format!("topic {topic} partition {partition}: finding a time: {error}");
        let mut asked = TopicPartitionList::new();
        let time = Offset::Offset(i64::try_from(time_ms).unwrap_or(i64::MAX));
        asked.add_partition_offset(topic, partition, time).map_err(failed)?;
        let found = self.consumer.offsets_for_times(asked, ANSWER_MAX).map_err(failed)?;
        let found = found.find_partition(topic, partition);
        found.as_ref().map_or(Ok(()), |found| found.error()).map_err(failed)?;
        match found.map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => Ok(u64::try_from(offset).ok()),
            _ => Ok(None),
        }
    }

    fn unanswered(&self, error: &KafkaError) -> String {
        let cause = self.consumer.context().health().trouble().unwrap_or_else(|| error.to_string());
        format!("Kafka at {} does not answer: {cause}", self.connection.brokers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_kept_for_one_topic_of_a_name() {
        let mut starts = Starts::default();
        starts.0.insert(key("a", Some("x")), [(0, 7), (2, 0)].into());
        let starts: Starts = serde_json::from_str(&serde_json::to_string(&starts).unwrap()).unwrap();
        assert_eq!((starts.of("a", Some("x"), 0), starts.of("a", Some("x"), 2)), (Some(7), Some(0)));
        assert_eq!(
            (starts.of("a", Some("x"), 1), starts.of("a", Some("y"), 0), starts.of("a", None, 0)),
            (None, None, None)
        );
    }
}
