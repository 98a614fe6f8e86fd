//! What the host tells about a command or an event: guests have no clock and no randomness of their own.

use crate::bindings::types::{self, Cause};

/// Where a command or an event comes from.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a>(pub(crate) &'a types::Metadata);

impl<'a> Metadata<'a> {
    /// The id of the command or event. Redelivery repeats it.
    pub fn id(&self) -> &'a str {
        &self.0.id
    }

    /// Milliseconds since 1970-01-01T00:00:00Z. For an event: when the command that made it was accepted.
    pub fn time_ms(&self) -> u64 {
        self.0.time
    }

    /// The same for everything that follows from one first cause; of that cause itself it is the id.
    pub fn correlation_id(&self) -> &'a str {
        match &self.0.cause {
            Cause::First => &self.0.id,
            Cause::Correlated(correlation) => correlation,
            Cause::Known(causation) => &causation.correlation_id,
        }
    }

    /// The id of the direct cause. None: nothing caused it that the host knows of.
    pub fn causation_id(&self) -> Option<&'a str> {
        match &self.0.cause {
            Cause::First | Cause::Correlated(_) => None,
            Cause::Known(causation) => Some(&causation.causation_id),
        }
    }

    /// The value of the last header of this name, if there is one with a value.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.0.headers.iter().flatten().rev().find(|header| header.name == name)?.value.as_deref()
    }

    /// All headers in their order. Names may repeat; a value may be absent.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        self.0.headers.iter().flatten().map(|header| (header.name.as_str(), header.value.as_deref()))
    }
}
