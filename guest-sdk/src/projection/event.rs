//! The input of a projection: an event in the store.

use crate::bindings::types;
use crate::{Metadata, codec};
use serde::Deserialize;

/// An event in the store. It never changes.
#[derive(Clone, Debug)]
pub struct Event(pub(crate) types::RecordedEvent);

impl Event {
    /// The event's name, such as `OrderCreated`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The place in the whole store. Positions increase in commit order and may have gaps.
    pub fn position(&self) -> u64 {
        self.0.position
    }

    /// The type of the event's aggregate.
    pub fn aggregate_type(&self) -> &str {
        &self.0.aggregate_type
    }

    /// The id of the event's aggregate.
    pub fn aggregate_id(&self) -> &str {
        &self.0.aggregate_id
    }

    /// The place in the event's stream. Versions start at 1 and have no gaps.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// The id, time, causes and headers.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata(&self.0.metadata)
    }

    /// The time when it was recorded, in milliseconds since 1970-01-01T00:00:00Z. The [metadata](Self::metadata) has
    /// the time of the command that led to it.
    pub fn recorded_ms(&self) -> u64 {
        self.0.recorded_time
    }

    /// The time of the first cause, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn first_ms(&self) -> u64 {
        self.0.first_time
    }

    /// The payload's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0.payload
    }

    /// Decodes the payload as JSON. Fields that `T` does not have are ignored, so `T` needs only the fields that you
    /// use.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, codec::Error> {
        codec::json(self.bytes())
    }

    /// Decodes the event as the variant of the enum `T` that has its name. It is an error if `T` has no such variant.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, codec::Error> {
        codec::decode(self.name(), self.bytes())
    }
}
