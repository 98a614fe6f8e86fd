//! The input of a subscriber: one envelope for recorded events and Kafka records.

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

    /// The aggregate's id if this is an event; the key of the record, if it has one.
    pub fn key(&self) -> Option<&[u8]> {
        self.0.key.as_deref()
    }

    /// The id, time, causes and headers.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata(&self.0.metadata)
    }

    /// The time when the event, the outcome or the response was recorded, when the record was produced, or when the timer was
    /// due, in milliseconds since 1970-01-01T00:00:00Z. The [metadata](Self::metadata) of an event has the time of the command
    /// that led to it.
    pub fn recorded_ms(&self) -> u64 {
        self.0.recorded_time
    }

    /// The time of the first cause, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn first_ms(&self) -> u64 {
        self.0.first_time
    }

    /// The id of the event's aggregate. If this is a Kafka record, the result is a malformed failure.
    pub fn aggregate_id(&self) -> Result<&str, Failure> {
        self.event().map(|event| event.aggregate_id.as_str())
    }

    /// The type of the event's aggregate. If this is a Kafka record, the result is a malformed failure.
    pub fn aggregate_type(&self) -> Result<&str, Failure> {
        self.event().map(|event| event.aggregate_type.as_str())
    }

    /// The delivery as a Kafka record. If this is a recorded event, the result is a malformed failure.
    pub fn record(&self) -> Result<Record<'_>, Failure> {
        match &self.0.origin {
            types::Origin::Kafka(place) => Ok(Record { delivery: self, place }),
            types::Origin::Event(event) => Err(Failure::malformed(format_args!(
                "event {} of {}/{} is not a Kafka record",
                self.0.name, event.aggregate_type, event.aggregate_id
            ))),
            types::Origin::Outcome(_) | types::Origin::Timer | types::Origin::Response(_) => {
                Err(Failure::malformed(format_args!("{} is not a Kafka record", self.0.name)))
            }
        }
    }

    /// The payload's bytes, or none if it is a tombstone.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.0.payload.as_deref()
    }

    /// Decodes the payload as JSON. Fields that `T` does not have are ignored, so `T` needs only the fields that you
    /// use. A tombstone is an error.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, codec::Error> {
        codec::json(self.bytes().ok_or(codec::Error::Tombstone)?)
    }

    /// Decodes the event as the variant of the enum `T` that has its name. A tombstone, or a name that `T` does not
    /// have, is an error.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, codec::Error> {
        codec::decode(self.name(), self.bytes().ok_or(codec::Error::Tombstone)?)
    }

    /// Decodes the bytes that came back with an outcome or a response.
    pub(super) fn attachment<'a, T: Deserialize<'a>>(&'a self) -> Result<T, codec::Error> {
        self.json().map_err(|error| codec::Error::Other(format!("the attachment: {error}")))
    }

    fn event(&self) -> Result<&types::EventOrigin, Failure> {
        match &self.0.origin {
            types::Origin::Event(event) => Ok(event),
            types::Origin::Kafka(place) => Err(Failure::malformed(format_args!(
                "a record of topic {} is not an event of an aggregate",
                place.topic
            ))),
            types::Origin::Outcome(_) | types::Origin::Timer | types::Origin::Response(_) => {
                Err(Failure::malformed(format_args!("{} is not an event of an aggregate", self.0.name)))
            }
        }
    }
}
