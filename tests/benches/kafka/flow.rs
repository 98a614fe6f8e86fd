//! The grocery example on a real broker: a host, and a `read_committed` reader of `notifications`.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::BorrowedMessage;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::fs;
use std::time::{Duration, Instant};
use wasmill_tests::host::TestHost;
use wasmill_tests::kafka::Kafka;
use wasmill_tests::setting::{PLUGINS, Setting};

/// Topic to which the example publishes.
const NOTIFICATIONS: &str = "notifications";
const PARTITIONS: i32 = 6;
/// The longest time without a notification.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// The example's host, on topics of a real broker.
pub(crate) struct Flow {
    setting: Setting,
    /// The topic for the baskets.
    pub(crate) topic: String,
}

impl Flow {
    /// Makes the topic. The host is not started yet. The manifest gets these lines too.
    pub(crate) fn new(kafka: &Kafka, name: &str, more: &str) -> Self {
        let topic = kafka.topic(name, PARTITIONS);
        let manifest = wasmill_tests::built::grocery().join("wasmill.toml");
        let manifest = fs::read_to_string(manifest).expect("read the example's manifest");
        let manifest = manifest
            .replace("../../target/plugins", PLUGINS)
            .replace("../../target/grocery", "data")
            .replace("\"embedded\"", &format!("\"{}\"", kafka.brokers()))
            .replace("topic = \"baskets\"", &format!("topic = \"{topic}\""))
            .replace("[kafka.topics.baskets]", &format!("[kafka.topics.{topic}]"));
        Self { setting: Setting::new(&(manifest + more)), topic }
    }

    pub(crate) fn start(&self) -> TestHost {
        self.setting.start()
    }
}

/// Returns the process id of a host.
pub(crate) fn pid(host: &TestHost) -> u32 {
    host.status()["host"]["pid"].as_u64().expect("a host has a process") as u32
}

/// A consumer of committed messages that were published after it was made.
pub(crate) struct Notifications {
    kafka: BaseConsumer,
}

impl Notifications {
    pub(crate) fn new(kafka: &Kafka) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", kafka.brokers()).set("group.id", "wasmill-bench");
        config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
        config.set("socket.nagle.disable", "true").set("fetch.queue.backoff.ms", "5");
        // The host creates the topic later.
        config.set("topic.metadata.refresh.interval.ms", "500").set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = config.create().expect("make a consumer");
        let ends = kafka.ends(NOTIFICATIONS);
        let mut partitions = TopicPartitionList::new();
        for partition in 0..ends.len().max(2) {
            let end = Offset::Offset(ends.get(partition).copied().unwrap_or(0));
            partitions.add_partition_offset(NOTIFICATIONS, partition as i32, end).expect("a partition");
        }
        consumer.assign(&partitions).expect("assign the partitions");
        Self { kafka: consumer }
    }

    /// Hands this many messages to `see`.
    pub(crate) fn read(&self, count: u64, mut see: impl FnMut(&BorrowedMessage<'_>)) {
        let mut heard = Instant::now();
        let mut seen = 0;
        while seen < count {
            match self.kafka.poll(POLL) {
                Some(Ok(message)) => {
                    see(&message);
                    (seen, heard) = (seen + 1, Instant::now());
                }
                // The topic may not exist yet, among other errors.
                Some(Err(_)) | None => {
                    assert!(heard.elapsed() < SILENCE_MAX, "{seen} notifications of {count}, then silence");
                }
            }
        }
    }
}
