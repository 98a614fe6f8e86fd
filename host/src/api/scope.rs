//! What a client may do.

use std::fmt;

/// Something that a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// To read everything that shows the host, its events and its state.
    Read,
    /// To send commands.
    Commands,
    /// To ask projections.
    Queries,
    /// To do what helps work that makes no progress: dead letters, timers, subscriptions, projections.
    Operate,
    /// To change the host itself: its manifest, code, clock and store.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Commands => "commands",
            Self::Queries => "queries",
            Self::Operate => "operate",
            Self::Admin => "admin",
        })
    }
}
