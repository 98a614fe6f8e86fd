//! What a projection gets: an event in the store.

use crate::bindings::types;
use crate::{Metadata, codec};
use serde::Deserialize;

/// An event in the store. It never changes.
#[derive(Clone, Debug)]
pub struct Event(pub(crate) types::RecordedEvent);

impl Event {
    /// What happened, such as `OrderCreated`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Place in the whole store: strictly increasing, with possible gaps.
    pub fn position(&self) -> u64 {
        self.0.position
    }

    /// The type of the aggregate that it is of.
    pub fn aggregate_type(&self) -> &str {
        &self.0.aggregate_type
    }

    /// The id of the aggregate that it is of.
    pub fn aggregate_id(&self) -> &str {
        &self.0.aggregate_id
    }

    /// Place in its stream: from 1, without gaps.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// Ids, time and headers.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata(&self.0.metadata)
    }

    /// The payload's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0.payload
    }

    /// The payload as JSON. Fields that `T` does not have are ignored, so it may name only what it needs.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, codec::Error> {
        codec::json(self.bytes())
    }

    /// The variant of the enum `T` that has this event's name.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, codec::Error> {
        codec::decode(self.name(), self.bytes())
    }
}
