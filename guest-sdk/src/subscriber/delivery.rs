//! What a subscriber gets: one envelope for a recorded event and for a Kafka record alike.

use super::Record;
use crate::bindings::types;
use crate::{Failure, Metadata, codec};
use serde::Deserialize;

/// A recorded event or a Kafka record.
#[derive(Clone, Debug)]
pub struct Delivery(pub(crate) types::Delivery);

impl Delivery {
    /// The event's name, or the name of the Kafka source.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The aggregate's id, or the raw key of a record.
    pub fn key(&self) -> Option<&[u8]> {
        self.0.key.as_deref()
    }

    /// Ids, time and headers.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata(&self.0.metadata)
    }

    /// The id of the aggregate that the event is of. A Kafka record has none: that is malformed here.
    pub fn aggregate_id(&self) -> Result<&str, Failure> {
        self.event().map(|event| event.aggregate_id.as_str())
    }

    /// The type of the aggregate that the event is of. A Kafka record has none: that is malformed here.
    pub fn aggregate_type(&self) -> Result<&str, Failure> {
        self.event().map(|event| event.aggregate_type.as_str())
    }

    /// The Kafka record that this is. A recorded event is none: that is malformed here.
    pub fn record(&self) -> Result<Record<'_>, Failure> {
        match &self.0.origin {
            types::Origin::Kafka(place) => Ok(Record { delivery: self, place }),
            types::Origin::Event(event) => Err(Failure::malformed(format_args!(
                "event {} of {}/{} is no Kafka record",
                self.0.name, event.aggregate_type, event.aggregate_id
            ))),
        }
    }

    /// The payload's bytes; none is a tombstone.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.0.payload.as_deref()
    }

    /// The payload as JSON. Fields that `T` does not have are ignored, so it may name only what it needs.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, codec::Error> {
        codec::json(self.bytes().ok_or(codec::Error::Tombstone)?)
    }

    /// The variant of the enum `T` that has this event's name.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, codec::Error> {
        codec::decode(self.name(), self.bytes().ok_or(codec::Error::Tombstone)?)
    }

    fn event(&self) -> Result<&types::EventOrigin, Failure> {
        match &self.0.origin {
            types::Origin::Event(event) => Ok(event),
            types::Origin::Kafka(place) => {
                Err(Failure::malformed(format_args!("a record of topic {} is no event of an aggregate", place.topic)))
            }
        }
    }
}
