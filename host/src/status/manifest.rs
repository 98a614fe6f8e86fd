//! The manifest of a running host: how the one on disk differs, and what applying it changes.

use crate::manifest::KeyChange;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The manifest that the host applies, and the one on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManifestStatus {
    /// Its path.
    pub path: String,
    /// Whether the one on disk differs. `wasmill reload` applies it.
    pub differs: bool,
    /// The keys that differ.
    pub keys: Vec<KeyStatus>,
    /// Why the one on disk can't be applied.
    pub error: Option<String>,
}

/// A key, or a whole section, that differs. Values are not shown, because they may be secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyStatus {
    /// The dotted path of the key.
    pub key: String,
    /// `added`, `changed` or `removed`.
    pub change: String,
}

/// What applying the manifest on disk changes: the answer of `POST /v1/manifest/reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManifestChange {
    /// Whether it was applied. It is false if it was only asked for.
    pub applied: bool,
    /// The keys that differ.
    pub keys: Vec<KeyStatus>,
    /// The parts that start, restart, stop or get new code. All others keep running.
    pub parts: Vec<PartChange>,
    /// What stays of removed parts, and what a person may have overlooked, a sentence each.
    pub notes: Vec<String>,
}

/// What happens to a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartChange {
    /// The part, such as `subscription warehouse`.
    pub part: String,
    /// `starts`, `restarts`, `stops`, or the code that it gets.
    pub change: String,
}

impl From<&KeyChange> for KeyStatus {
    fn from(KeyChange { key, change }: &KeyChange) -> Self {
        Self { key: key.clone(), change: change.to_string() }
    }
}
