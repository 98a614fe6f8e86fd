//! The metadata of commands, events and records. Guests have no clock and no randomness of their own.

use crate::bindings::types::{self, Cause};

/// The id, time, causes and headers of a command, event or Kafka record.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a>(pub(crate) &'a types::Metadata);

impl<'a> Metadata<'a> {
    /// The id of the command, event or record. A redelivery has the same id.
    pub fn id(&self) -> &'a str {
        &self.0.id
    }

    /// The time, in milliseconds since 1970-01-01T00:00:00Z. For an event it is the time of its command.
    pub fn time_ms(&self) -> u64 {
        self.0.time
    }

    /// The correlation id: the same id for everything that follows from one first cause. It is the id of that cause,
    /// unless its sender chose another one.
    pub fn correlation_id(&self) -> &'a str {
        match &self.0.cause {
            Cause::First => &self.0.id,
            Cause::Correlated(correlation) => correlation,
            Cause::Known(causation) => &causation.correlation_id,
        }
    }

    /// The id of the direct cause, or none if the host knows of no cause.
    pub fn causation_id(&self) -> Option<&'a str> {
        match &self.0.cause {
            Cause::First | Cause::Correlated(_) => None,
            Cause::Known(causation) => Some(&causation.causation_id),
        }
    }

    /// The value of the last header with this name. It is none if there is no such header or if it has no value.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.0.headers.iter().flatten().rev().find(|header| header.name == name)?.value.as_deref()
    }

    /// All headers in their order. Names may repeat, and a header may have no value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        self.0.headers.iter().flatten().map(|header| (header.name.as_str(), header.value.as_deref()))
    }
}
