//! What is published to Kafka, and how.

use super::{Properties, Start};
use crate::filter::Filter;

/// How a sink publishes; `[sink]` is that of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// How many messages are sent before their acknowledgements are recorded; in the transactional mode, how many
    /// share a transaction.
    pub batch_max: usize,
    /// How long a batch that is not full waits for more; 0 sends what is there.
    pub batch_wait_ms: u64,
    /// What a crash may do to readers.
    pub mode: SinkMode,
    /// A name for the transactional mode: of hosts with the same one, the newest publishes and the others are fenced.
    /// `None` is a name of the store's own, which a copy of the data folder shares.
    pub transactional_id: Option<String>,
    /// Properties of librdkafka for this sink's producer.
    pub properties: Properties,
}

impl Default for Sink {
    fn default() -> Self {
        Self {
            batch_max: 1000,
            batch_wait_ms: 0,
            mode: SinkMode::default(),
            transactional_id: None,
            properties: Properties::default(),
        }
    }
}

/// What a crash of the host may do to those who read what the sink publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SinkMode {
    /// Nothing, where they read with `isolation.level=read_committed`: each message is there exactly once. The
    /// development broker has no transactions; there it is [`SinkMode::Idempotent`].
    #[default]
    Transactional,
    /// It may repeat the messages of a batch; `ce_id` tells a repetition.
    Idempotent,
}

/// Recorded events that are published to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSink {
    /// Which events.
    pub filter: Filter,
    /// Where to.
    pub topic: String,
    /// What their records have as key.
    pub key: SinkKey,
    /// Where it starts when it has no position.
    pub start: Start,
    /// Whether the manifest says so.
    pub is_start_written: bool,
    /// The name that it had before: where it was under that name is where it goes on.
    pub was: Option<String>,
    /// How it publishes.
    pub settings: Sink,
}

/// The key of an event's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SinkKey {
    /// The id of its aggregate: the events of one aggregate keep their order.
    #[default]
    AggregateId,
    /// The text or number in this field of its payload, which is JSON; dots go into objects.
    Field(String),
    /// None.
    None,
}
