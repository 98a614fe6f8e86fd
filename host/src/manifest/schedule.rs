//! The schedules, which send commands at due times, and their settings.

use crate::due_times::DueTimes;
use crate::model::StreamId;

/// A schedule: a command, and the times at which it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The times at which the command is sent.
    pub due: DueTimes,
    /// The aggregate that the command is sent to.
    pub stream: StreamId,
    /// The name of the command.
    pub command: String,
    /// The payload of the command, as JSON.
    pub payload: Vec<u8>,
    /// What happens with due times that have passed without a command.
    pub missed: Missed,
}

/// What happens with due times that were missed, for example because no host ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missed {
    /// The command is sent for the latest of them.
    #[default]
    Latest,
    /// The command is sent for each of them, in order.
    All,
    /// The command is sent for none of them.
    Skip,
}
