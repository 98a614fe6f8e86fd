//! The aggregate that a command is for or an event is of.

use serde::Deserialize;
use std::fmt;

/// An aggregate, as `type/id`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Stream {
    /// The type.
    pub aggregate_type: String,
    /// The id, which may have slashes.
    pub aggregate_id: String,
}

impl Stream {
    /// Makes a stream of a type and an id.
    pub fn new(aggregate_type: impl Into<String>, aggregate_id: impl Into<String>) -> Self {
        Self { aggregate_type: aggregate_type.into(), aggregate_id: aggregate_id.into() }
    }
}

impl TryFrom<String> for Stream {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            Some((aggregate_type, id)) if !aggregate_type.is_empty() && !id.is_empty() => {
                Ok(Self::new(aggregate_type, id))
            }
            _ => Err(format!("an aggregate must be given as \"type/id\", found {text:?}")),
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.aggregate_type, self.aggregate_id)
    }
}
