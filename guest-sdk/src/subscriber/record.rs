//! A Kafka record as a subscriber reads it. What it refuses names the record's place.

use super::Delivery;
use crate::bindings::types;
use crate::{Failure, Metadata, codec};
use serde::Deserialize;
use std::fmt;

/// A Kafka record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'d> {
    pub(super) delivery: &'d Delivery,
    pub(super) place: &'d types::KafkaOrigin,
}

impl<'d> Record<'d> {
    /// The source in the host's manifest that read it.
    pub fn source(&self) -> &'d str {
        self.delivery.name()
    }

    /// The topic it was read from.
    pub fn topic(&self) -> &'d str {
        &self.place.topic
    }

    /// Its partition.
    pub fn partition(&self) -> i32 {
        self.place.partition
    }

    /// Its place in the partition.
    pub fn offset(&self) -> i64 {
        self.place.offset
    }

    /// Its time and its headers. Its id is `topic:partition:offset`.
    pub fn metadata(&self) -> Metadata<'d> {
        self.delivery.metadata()
    }

    /// Its key, if it has one: any bytes.
    pub fn key(&self) -> Option<&'d [u8]> {
        self.delivery.key()
    }

    /// Its key as text. No key, or one that is not UTF-8, is malformed.
    pub fn key_text(&self) -> Result<&'d str, Failure> {
        let key = self.key().ok_or_else(|| self.malformed("there is no key"))?;
        std::str::from_utf8(key).map_err(|_| self.malformed("the key is not text (UTF-8)"))
    }

    /// Its value's bytes; none is a tombstone.
    pub fn bytes(&self) -> Option<&'d [u8]> {
        self.delivery.bytes()
    }

    /// Its value as JSON; none is a tombstone. Fields that `T` does not have are ignored, so it may name only what it
    /// needs. What does not decode is malformed.
    pub fn value<T: Deserialize<'d>>(&self) -> Result<Option<T>, Failure> {
        self.bytes().map(|bytes| codec::json(bytes).map_err(|error| self.malformed(error))).transpose()
    }

    /// Its value as JSON. A tombstone is malformed, and so is what does not decode.
    pub fn json<T: Deserialize<'d>>(&self) -> Result<T, Failure> {
        self.value()?.ok_or_else(|| self.malformed(codec::Error::Tombstone))
    }

    /// A failure that names its place.
    fn malformed(&self, why: impl fmt::Display) -> Failure {
        let types::KafkaOrigin { topic, partition, offset } = self.place;
        Failure::malformed(format_args!("topic {topic} partition {partition} offset {offset}: {why}"))
    }
}
