//! The sinks, which publish to Kafka, and their settings.

use super::{Properties, Start};
use crate::filter::Filter;
use crate::upcasts::Shape;

/// The settings of a sink. `[sink]` has those of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// The most messages that are sent before their acknowledgements are recorded. In the transactional mode it is the
    /// most messages of one transaction.
    pub batch_max: usize,
    /// The time that a batch waits for more messages if it is not full. 0 sends it at once.
    pub batch_wait_ms: u64,
    /// The guarantee that readers have if the host crashes.
    pub mode: SinkMode,
    /// The transactional id. Of several hosts with the same id, the newest one publishes and the others are fenced.
    /// `None` is an id of the store, which a copy of the data folder shares.
    pub transactional_id: Option<String>,
    /// The properties of librdkafka for this sink's producer.
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

/// The guarantee that readers of a sink's topics have if the host crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SinkMode {
    /// Readers with `isolation.level=read_committed` see each message exactly once. The development broker has no
    /// transactions, so there the mode is [`SinkMode::Idempotent`].
    #[default]
    Transactional,
    /// A crash may repeat the messages of a batch. A repeated message has the same `ce_id`.
    Idempotent,
}

/// Recorded events that are published to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSink {
    /// The filter of the events.
    pub filter: Filter,
    /// The topic that they are published to.
    pub topic: String,
    /// The key of their records.
    pub key: SinkKey,
    /// The shape of their payloads.
    pub shape: Shape,
    /// The place where the sink starts if it has no position.
    pub start: Start,
    /// Whether the manifest has the key `start`.
    pub is_start_written: bool,
    /// The name that it had before. It takes over the position that is stored under that name.
    pub was: Option<String>,
    /// The settings of the sink.
    pub settings: Sink,
}

/// The key of an event's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SinkKey {
    /// The id of its aggregate: the events of one aggregate keep their order.
    #[default]
    AggregateId,
    /// The text or number in this field of its payload, which is JSON. Dots in the name lead into objects.
    Field(String),
    /// No key.
    None,
}
