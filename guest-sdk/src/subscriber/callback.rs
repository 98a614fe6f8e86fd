//! What comes back to a subscriber because it asked for it: the outcomes of its commands, and its timers. The answers to its
//! HTTP requests are in [`http`](super::http).

use super::Delivery;
use crate::bindings::types;
use crate::{Metadata, codec};
use serde::Deserialize;

/// The outcome of a command that the subscriber sent with
/// [`OutgoingCommand::asking_outcome`](super::OutgoingCommand::asking_outcome).
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'d> {
    pub(crate) delivery: &'d Delivery,
    pub(crate) origin: &'d types::OutcomeOrigin,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending<'d> {
    /// The aggregate accepted the command, with or without events.
    Accepted {
        /// The version of the stream after the command.
        version: u64,
        /// The position of its last event, or of the store's newest event if it has none.
        position: u64,
    },
    /// A business rule refused the command, for this reason.
    Rejected(&'d str),
    /// The command does not decode, or can't be recorded.
    Malformed(&'d str),
    /// The stream does not have the version that the command expected.
    Conflict {
        /// The version of the stream.
        actual: u64,
    },
    /// The stream is archived and accepts no events.
    Archived(&'d str),
    /// No plugin serves the aggregate type.
    Unserved(&'d str),
    /// The aggregate failed in all attempts. The text has the last failure.
    Exhausted(&'d str),
}

impl Ending<'_> {
    /// Whether the command was accepted.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Ending::Accepted { .. })
    }
}

impl std::fmt::Display for Ending<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Accepted { version, .. } => write!(f, "accepted at version {version}"),
            Ending::Rejected(reason) => write!(f, "rejected: {reason}"),
            Ending::Malformed(reason) => write!(f, "malformed: {reason}"),
            Ending::Conflict { actual } => write!(f, "conflict: the stream is at version {actual}"),
            Ending::Archived(reason) | Ending::Unserved(reason) | Ending::Exhausted(reason) => f.write_str(reason),
        }
    }
}

impl<'d> Outcome<'d> {
    /// The id of the command.
    pub fn command_id(&self) -> &'d str {
        &self.origin.command_id
    }

    /// The name of the command.
    pub fn command(&self) -> &'d str {
        self.delivery.name()
    }

    /// The type of the aggregate that the command was sent to.
    pub fn aggregate_type(&self) -> &'d str {
        &self.origin.aggregate_type
    }

    /// The id of the aggregate that the command was sent to.
    pub fn aggregate_id(&self) -> &'d str {
        &self.origin.aggregate_id
    }

    /// How the command ended.
    pub fn ending(&self) -> Ending<'d> {
        match &self.origin.ending {
            types::Ending::Accepted(accepted) => {
                Ending::Accepted { version: accepted.version, position: accepted.position }
            }
            types::Ending::Rejected(reason) => Ending::Rejected(reason),
            types::Ending::Malformed(reason) => Ending::Malformed(reason),
            types::Ending::Conflict(actual) => Ending::Conflict { actual: *actual },
            types::Ending::Archived(reason) => Ending::Archived(reason),
            types::Ending::Unserved(reason) => Ending::Unserved(reason),
            types::Ending::Exhausted(reason) => Ending::Exhausted(reason),
        }
    }

    /// Decodes what was sent with the request for the outcome, as JSON.
    pub fn attachment<T: Deserialize<'d>>(&self) -> Result<T, codec::Error> {
        self.delivery.attachment()
    }

    /// The time of the first cause, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn first_ms(&self) -> u64 {
        self.delivery.first_ms()
    }

    /// The key of the delivery that sent the command.
    pub fn key(&self) -> Option<&'d [u8]> {
        self.delivery.key()
    }

    /// The id, the time when the outcome was recorded, and the causes: the direct one is the command.
    pub fn metadata(&self) -> Metadata<'d> {
        self.delivery.metadata()
    }
}

/// A timer that is due, which the subscriber set with [`Outbox::wake`](super::Outbox::wake).
#[derive(Clone, Copy, Debug)]
pub struct Timer<'d> {
    pub(crate) delivery: &'d Delivery,
}

impl<'d> Timer<'d> {
    /// The name of the timer.
    pub fn name(&self) -> &'d str {
        self.delivery.name()
    }

    /// Decodes the payload as JSON.
    pub fn json<T: Deserialize<'d>>(&self) -> Result<T, codec::Error> {
        self.delivery.json()
    }

    /// The time of the first cause, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn first_ms(&self) -> u64 {
        self.delivery.first_ms()
    }

    /// The key of the delivery that set the timer.
    pub fn key(&self) -> Option<&'d [u8]> {
        self.delivery.key()
    }

    /// The id, the time when the timer was due, and the causes: the direct one is the delivery that set the timer.
    pub fn metadata(&self) -> Metadata<'d> {
        self.delivery.metadata()
    }
}
