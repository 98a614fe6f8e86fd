//! The reader of a topic that a host publishes to. It counts the different messages.
//!
//! The id in its header identifies a message, because a crash may repeat messages on a broker without transactions.

use crate::topic;
use anyhow::{Context, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The header with a message's id.
const ID: &str = "ce_id";
/// The longest wait for a message, after which a stop is noticed.
const LOOK: Duration = Duration::from_millis(50);
/// The longest time to read up to the end when everything is published.
const END_WAIT: Duration = Duration::from_secs(30);

/// A reader of the messages of a topic.
pub struct Messages {
    kafka: BaseConsumer,
    brokers: String,
    topic: String,
    /// The next offset of each partition.
    next: BTreeMap<i32, i64>,
    seen: HashSet<Vec<u8>>,
}

impl Messages {
    /// Makes a reader that starts at these offsets. Partitions without an offset are read from the beginning.
    pub fn from(brokers: &str, topic: &str, offsets: &BTreeMap<i32, i64>) -> Result<Self> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("client.id", "wasmill-driver").set("group.id", "wasmill-driver");
        config
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            // The embedded development broker does not wake a waiting fetch when a record arrives.
            .set("fetch.wait.max.ms", "20")
            .set("auto.offset.reset", "earliest");
        let kafka = config.create().context("create the Kafka consumer")?;
        let partitions = topic::partitions_created(brokers, topic)?;
        let next =
            partitions.into_iter().map(|(number, (low, _))| (number, *offsets.get(&number).unwrap_or(&low))).collect();
        Ok(Self { kafka, brokers: brokers.to_owned(), topic: topic.to_owned(), next, seen: HashSet::new() })
    }

    /// Reads until `finish` is set, then up to the end of the topic. `count` is the number of different messages so
    /// far.
    pub fn read(mut self, finish: &AtomicBool, count: &AtomicU64) -> Result<u64> {
        self.assign()?;
        while !finish.load(Ordering::Relaxed) {
            self.look()?;
            count.store(self.seen.len() as u64, Ordering::Relaxed);
        }
        self.read_to_the_end()
    }

    /// Reads up to the end of the topic. A new assignment makes the client report again when a partition's end is
    /// reached.
    fn read_to_the_end(&mut self) -> Result<u64> {
        topic::wait_until_committed(&self.brokers, &self.topic)?;
        self.assign()?;
        let deadline = Instant::now() + END_WAIT;
        let mut ended = BTreeSet::new();
        while ended.len() < self.next.len() {
            ended.extend(self.look()?);
            if Instant::now() > deadline {
                bail!("the end of the topic {} was not reached within {} s", self.topic, END_WAIT.as_secs());
            }
        }
        Ok(self.seen.len() as u64)
    }

    fn assign(&self) -> Result<()> {
        let mut partitions = TopicPartitionList::new();
        for (number, next) in &self.next {
            partitions.add_partition_offset(&self.topic, *number, Offset::Offset(*next))?;
        }
        self.kafka.assign(&partitions).with_context(|| format!("read the topic {}", self.topic))
    }

    /// Reads one message, or returns the number of a partition whose end is reached.
    fn look(&mut self) -> Result<Option<i32>> {
        match self.kafka.poll(LOOK) {
            None => Ok(None),
            Some(Ok(message)) => {
                self.next.insert(message.partition(), message.offset() + 1);
                let id = id(&message).with_context(|| {
                    format!(
                        "topic {} partition {} offset {}: no header {ID}",
                        self.topic,
                        message.partition(),
                        message.offset()
                    )
                })?;
                self.seen.insert(id);
                Ok(None)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Some(partition)),
            // The client reconnects by itself. If the broker stays away, the end is never reached, which is an error.
            Some(Err(_)) => Ok(None),
        }
    }
}

fn id(message: &BorrowedMessage<'_>) -> Option<Vec<u8>> {
    let mut headers = message.headers()?.iter();
    headers.find(|header| header.key == ID).and_then(|header| header.value).map(<[u8]>::to_vec)
}
