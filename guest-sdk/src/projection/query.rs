//! The result of a query: an answer, or the reason why there is none.

use crate::bindings::projection::exports::wasmill::plugin::projection as wit;
use crate::{codec, sql};
use serde::Serialize;
use std::fmt;

/// The answer to a query, in JSON.
#[derive(Clone, Debug)]
pub struct Answer(pub(crate) Vec<u8>);

impl Answer {
    /// Makes an answer from a value. It is an error if the value does not encode as JSON.
    pub fn json(value: &(impl Serialize + ?Sized)) -> Result<Self, QueryError> {
        codec::to_json(value).map(Self).map_err(QueryError::failed)
    }
}

/// The reason why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// The projection has no query of this name. The list has the names of its queries.
    Unknown(Vec<String>),
    /// The parameters do not decode or are invalid.
    Malformed(String),
    /// Any other reason.
    Failed(String),
}

impl QueryError {
    /// Makes an error for parameters that are invalid.
    pub fn malformed(reason: impl fmt::Display) -> Self {
        QueryError::Malformed(reason.to_string())
    }

    /// Makes an error for any other reason.
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

/// Turns an error from decoding the query itself into the error that the host reports.
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
