//! The partitions and offsets of a Kafka topic, from the cluster.

use anyhow::{Context as _, Result, bail};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The longest wait for an answer of Kafka.
const KAFKA_WAIT: Duration = Duration::from_secs(15);
/// The interval at which a cluster is asked about a new topic.
const LOOK: Duration = Duration::from_millis(50);

/// The first and the next offset of each partition, by its number.
pub type Partitions = BTreeMap<i32, (i64, i64)>;

/// The end of a partition.
#[derive(Clone, Copy)]
enum End {
    /// The end for a reader of committed messages: before the first transaction that is still open.
    Committed,
    /// The end after the last record.
    Written,
}

/// Returns the partitions of a topic, or none if the topic does not exist. They end before the first open transaction.
pub fn partitions(brokers: &str, topic: &str) -> Result<Partitions> {
    partitions_up_to(End::Committed, brokers, topic)
}

/// Waits until no transaction is open in a topic. A broker answers a commit before readers of committed messages see
/// the messages. Until then they find the end of the partition before these messages.
pub fn wait_until_committed(brokers: &str, topic: &str) -> Result<()> {
    let deadline = Instant::now() + KAFKA_WAIT;
    while partitions_up_to(End::Committed, brokers, topic)? != partitions_up_to(End::Written, brokers, topic)? {
        if Instant::now() > deadline {
            bail!("a transaction in the topic {topic} at {brokers} does not end");
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(())
}

fn partitions_up_to(end: End, brokers: &str, topic: &str) -> Result<Partitions> {
    let failed = || format!("ask the Kafka cluster {brokers} about the topic {topic}");
    let isolation = match end {
        End::Committed => "read_committed",
        End::Written => "read_uncommitted",
    };
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("isolation.level", isolation);
    let client: BaseConsumer = config.create().with_context(failed)?;
    // The request is for all topics, because a broker may create a topic that it is asked for by name.
    let metadata = client.fetch_metadata(None, KAFKA_WAIT).with_context(failed)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let numbers = found.into_iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
    numbers
        .map(|number| Ok((number, client.fetch_watermarks(topic, number, KAFKA_WAIT).with_context(failed)?)))
        .collect()
}

/// Returns the partitions of a topic that a host has created. It may take a moment until the cluster reports a new
/// topic and its partitions have leaders.
pub fn partitions_created(brokers: &str, topic: &str) -> Result<Partitions> {
    let deadline = Instant::now() + KAFKA_WAIT;
    loop {
        match partitions(brokers, topic) {
            Ok(found) if !found.is_empty() => return Ok(found),
            Ok(_) if Instant::now() > deadline => bail!("there is no topic {topic} at {brokers}"),
            Err(error) if Instant::now() > deadline => return Err(error),
            Ok(_) | Err(_) => std::thread::park_timeout(LOOK),
        }
    }
}

/// Returns how many offsets the partitions have assigned so far.
pub fn offsets(partitions: &Partitions) -> u64 {
    partitions.values().map(|(_, high)| u64::try_from(*high).unwrap_or(0)).sum()
}
