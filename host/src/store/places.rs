//! The places that parts of a manifest have in the store, under their names. With them a renamed part is not mistaken
//! for a new one.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A kind of part that has a place in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// A subscription. Its place has its checkpoint, its commands, its outcomes and timers, and whether it is paused.
    Subscription,
    /// A source. Its place has the ledgers of its partitions, the commands, messages, outcomes and timers of its
    /// subscriber, and the position of its sink of dead letters.
    Source,
    /// A sink of events. Its place has its position.
    Sink,
    /// A schedule. Its place has the due times that are settled.
    Schedule,
}

/// A part that has a place in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Part {
    /// Its kind.
    pub kind: PartKind,
    /// Its name in the manifest.
    pub name: String,
}

/// A part's place in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The part.
    #[serde(flatten)]
    pub part: Part,
    /// The progress of the part, as text.
    pub at: String,
    /// The number of commands that are durable and not settled.
    pub pending: u64,
    /// The number of outcomes, timers and responses that are not handled.
    pub callbacks: u64,
    /// The number of HTTP requests that have not ended.
    pub requests: u64,
}

impl fmt::Display for PartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subscription => "subscription",
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Schedule => "schedule",
        })
    }
}

/// The form `KIND/NAME`, as people write it.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = [PartKind::Subscription, PartKind::Source, PartKind::Sink, PartKind::Schedule];
        let found = kinds.into_iter().find_map(|kind| {
            let name = text.strip_prefix(&kind.to_string())?.strip_prefix('/')?;
            Some(Self { kind, name: name.to_owned() })
        });
        found.ok_or_else(|| {
            format!("{text:?} is no part: name it subscription/NAME, source/NAME, sink/NAME or schedule/NAME")
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.part, self.at)?;
        if self.pending > 0 {
            write!(f, ", {} commands never sent", self.pending)?;
        }
        if self.callbacks > 0 {
            let noun =
                if self.callbacks == 1 { "outcome, timer or response" } else { "outcomes, timers and responses" };
            write!(f, ", {} {noun} never handled", self.callbacks)?;
        }
        if self.requests > 0 {
            write!(f, ", {} HTTP requests never sent", self.requests)?;
        }
        f.write_str(")")
    }
}
