//! Parts of a manifest that keep a place in the store under their name, so that a part that is renamed is not taken for a
//! new one.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A kind of part that keeps its place in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// A subscription: its checkpoint, its commands, and whether it is paused.
    Subscription,
    /// A source: the ledgers of its partitions, what its subscriber sends, and its sink of dead letters.
    Source,
    /// A sink of events: its position.
    Sink,
}

/// A part that the store knows.
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
    /// Whose it is.
    #[serde(flatten)]
    pub part: Part,
    /// How far it is, in words.
    pub at: String,
    /// Commands that are durable and were never settled.
    pub pending: u64,
}

impl fmt::Display for PartKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subscription => "subscription",
            Self::Source => "source",
            Self::Sink => "sink",
        })
    }
}

/// `KIND/NAME`, as people name it.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = [PartKind::Subscription, PartKind::Source, PartKind::Sink];
        let found = kinds.into_iter().find_map(|kind| {
            let name = text.strip_prefix(&kind.to_string())?.strip_prefix('/')?;
            Some(Self { kind, name: name.to_owned() })
        });
        found.ok_or_else(|| format!("{text:?} is no part: name it subscription/NAME, source/NAME or sink/NAME"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.part, self.at)?;
        if self.pending > 0 {
            write!(f, ", {} commands never sent", self.pending)?;
        }
        f.write_str(")")
    }
}
