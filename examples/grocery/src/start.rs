//! What the topics held before the first run on a data folder.
//!
//! The embedded broker is made for its data folder and starts empty. A real one may hold the records of other runs,
//! so the place to count from is noted in the data folder.

use crate::producer;
use anyhow::{Context, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Where the notifications are.
pub(crate) const NOTIFICATIONS: &str = "notifications";
/// How long Kafka may take for an answer.
const KAFKA_WAIT: Duration = Duration::from_secs(15);
/// The note in the data folder.
const FILE: &str = "demo.json";

/// The ends of the topics before the first run, by partition.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Start {
    /// Of the topic `baskets`.
    pub(crate) baskets: BTreeMap<i32, i64>,
    /// Of the topic `notifications`.
    pub(crate) notifications: BTreeMap<i32, i64>,
}

impl Start {
    /// Reads the note, or makes it for a new folder. Call it before a host starts its work on the folder.
    pub(crate) fn of(brokers: &str, data: &Path) -> Result<Self> {
        let file = data.join(FILE);
        if let Ok(text) = fs::read(&file) {
            return serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()));
        }
        let baskets = partitions(brokers, producer::TOPIC)?;
        let held: i64 = baskets.values().map(|(low, high)| high - low).sum();
        if held > 0 {
            bail!(
                "the topic {} at {brokers} already holds {held} records, which a new host would take for its own: \
                 delete the topic, or give the data folder of its host with --keep",
                producer::TOPIC
            );
        }
        let start = Self { baskets: ends(baskets), notifications: ends(partitions(brokers, NOTIFICATIONS)?) };
        fs::write(&file, serde_json::to_string(&start)?).with_context(|| format!("write {}", file.display()))?;
        Ok(start)
    }

    /// The sum of the offsets of `baskets`.
    pub(crate) fn baskets_sum(&self) -> u64 {
        self.baskets.values().map(|end| u64::try_from(*end).unwrap_or(0)).sum()
    }
}

/// How many offsets a topic has given out so far, over all partitions.
pub(crate) fn offsets(brokers: &str, topic: &str) -> Result<u64> {
    Ok(partitions(brokers, topic)?.values().map(|(_, high)| u64::try_from(*high).unwrap_or(0)).sum())
}

/// The partitions of a topic with their first and next offset; none where there is no such topic.
pub(crate) fn partitions(brokers: &str, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
    let failed = || format!("ask the Kafka cluster {brokers} about the topic {topic}");
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().with_context(failed)?;
    // Asked about all topics, a broker creates none.
    let metadata = client.fetch_metadata(None, KAFKA_WAIT).with_context(failed)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let numbers = found.into_iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
    numbers
        .map(|number| Ok((number, client.fetch_watermarks(topic, number, KAFKA_WAIT).with_context(failed)?)))
        .collect()
}

fn ends(partitions: BTreeMap<i32, (i64, i64)>) -> BTreeMap<i32, i64> {
    partitions.into_iter().map(|(partition, (_, high))| (partition, high)).collect()
}
