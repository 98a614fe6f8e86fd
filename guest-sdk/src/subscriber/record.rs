//! A Kafka record as a subscriber reads it. Its failures name the record's topic, partition and offset.

use super::Delivery;
use crate::bindings::types;
use crate::{Failure, Metadata, codec};
use serde::Deserialize;
use std::fmt;

/// A Kafka record, as [`Delivery::record`] returns it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'d> {
    pub(super) delivery: &'d Delivery,
    pub(super) place: &'d types::KafkaOrigin,
}

impl<'d> Record<'d> {
    /// The name of the source in the host's manifest that read the record.
    pub fn source(&self) -> &'d str {
        self.delivery.name()
    }

    /// The topic that the record was read from.
    pub fn topic(&self) -> &'d str {
        &self.place.topic
    }

    /// The partition of the topic.
    pub fn partition(&self) -> i32 {
        self.place.partition
    }

    /// The offset in the partition.
    pub fn offset(&self) -> i64 {
        self.place.offset
    }

    /// The id, which is `topic:partition:offset`, and the time and headers.
    pub fn metadata(&self) -> Metadata<'d> {
        self.delivery.metadata()
    }

    /// The key, if there is one. It may be any bytes.
    pub fn key(&self) -> Option<&'d [u8]> {
        self.delivery.key()
    }

    /// The key as text. If there is no key, or it is not UTF-8, the result is a malformed failure.
    pub fn key_text(&self) -> Result<&'d str, Failure> {
        let key = self.key().ok_or_else(|| self.malformed("there is no key"))?;
        std::str::from_utf8(key).map_err(|_| self.malformed("the key is not text (UTF-8)"))
    }

    /// The value's bytes, or none if the record is a tombstone.
    pub fn bytes(&self) -> Option<&'d [u8]> {
        self.delivery.bytes()
    }

    /// Decodes the value as JSON. The result is none if the record is a tombstone, and a malformed failure if the value
    /// does not decode. Fields that `T` does not have are ignored, so `T` needs only the fields that you use.
    pub fn value<T: Deserialize<'d>>(&self) -> Result<Option<T>, Failure> {
        self.bytes().map(|bytes| codec::json(bytes).map_err(|error| self.malformed(error))).transpose()
    }

    /// Decodes the value as JSON. If the record is a tombstone, or the value does not decode, the result is a malformed
    /// failure.
    pub fn json<T: Deserialize<'d>>(&self) -> Result<T, Failure> {
        self.value()?.ok_or_else(|| self.malformed(codec::Error::Tombstone))
    }

    /// Makes a failure that names the record's place.
    fn malformed(&self, why: impl fmt::Display) -> Failure {
        let types::KafkaOrigin { topic, partition, offset } = self.place;
        Failure::malformed(format_args!("topic {topic} partition {partition} offset {offset}: {why}"))
    }
}
