//! The hosts that share a store, as the status shows them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A host of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedHostStatus {
    /// Its id, which no other host of the store has or had.
    pub id: u64,
    /// Its process and its machine.
    pub name: String,
    /// The URL of its API, once it has told the others.
    pub url: Option<String>,
    /// Whether it is the host that answers.
    pub this: bool,
    /// The keys of its manifest, and the plugins, that differ from those of the longest running host. Such a host runs no part that needs
    /// a lease.
    pub differs: Vec<String>,
    /// The parts that run on it and on no other host.
    pub parts: Vec<String>,
}
