//! What a query gives: an answer, or why there is none.

use crate::bindings::projection::exports::wasmill::plugin::projection as wit;
use crate::{codec, sql};
use serde::Serialize;
use std::fmt;

/// The answer to a query: JSON.
#[derive(Clone, Debug)]
pub struct Answer(pub(crate) Vec<u8>);

impl Answer {
    /// The value as JSON.
    pub fn json(value: &(impl Serialize + ?Sized)) -> Result<Self, QueryError> {
        codec::to_json(value).map(Self).map_err(QueryError::failed)
    }
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// There is no query of that name; these there are.
    Unknown(Vec<String>),
    /// The parameters do not decode, or make no sense.
    Malformed(String),
    /// Anything else.
    Failed(String),
}

impl QueryError {
    /// The parameters make no sense.
    pub fn malformed(reason: impl fmt::Display) -> Self {
        QueryError::Malformed(reason.to_string())
    }

    /// Something else went wrong.
    pub fn failed(reason: impl fmt::Display) -> Self {
        QueryError::Failed(reason.to_string())
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryError::Unknown(known) => write!(f, "no such query: known are {}", known.join(", ")),
            QueryError::Malformed(reason) => write!(f, "malformed parameters: {reason}"),
            QueryError::Failed(reason) => write!(f, "the query failed: {reason}"),
        }
    }
}

impl std::error::Error for QueryError {}

impl From<sql::Error> for QueryError {
    fn from(error: sql::Error) -> Self {
        QueryError::failed(error)
    }
}

/// For the decoding of the query itself.
impl From<codec::Error> for QueryError {
    fn from(error: codec::Error) -> Self {
        match error {
            codec::Error::Unknown { known, .. } => QueryError::Unknown(known.iter().map(ToString::to_string).collect()),
            other => QueryError::malformed(other),
        }
    }
}

impl From<QueryError> for wit::QueryError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Unknown(known) => wit::QueryError::Unknown(known),
            QueryError::Malformed(reason) => wit::QueryError::Malformed(reason),
            QueryError::Failed(reason) => wit::QueryError::Failed(reason),
        }
    }
}
