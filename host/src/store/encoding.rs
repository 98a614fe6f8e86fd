//! The encoding of values in columns that only wasmill reads. Both stores have the same one.

use super::Error;
use crate::model::{Header, Position};
use serde::{Serialize, de::DeserializeOwned};

/// Encodes a value for a column that only wasmill reads.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    postcard::to_stdvec(value).map_err(|error| Error::Invalid(format!("can't encode a row: {error}")))
}

/// Decodes a value from such a column. Bytes that do not decode are an error, never a default.
pub(super) fn decode<T: DeserializeOwned>(place: &str, bytes: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(bytes).map_err(|error| {
        Error::Failed(format!("{place} does not decode ({error}): the store is damaged, restore it from a backup"))
    })
}

/// Encodes the headers of an event, followed by its hops and the time of its first cause. The result is `None` if there is
/// none of them, because most events come from outside and have no headers. What is left out at the end takes no byte.
pub(super) fn encode_headers(headers: &[Header], hops: u32, first_ms: Option<u64>) -> Result<Option<Vec<u8>>, Error> {
    match (headers.is_empty(), hops, first_ms) {
        (true, 0, None) => Ok(None),
        (false, 0, None) => encode(&headers).map(Some),
        (_, _, None) => encode(&(headers, hops)).map(Some),
        (_, _, Some(first_ms)) => encode(&(headers, hops, first_ms)).map(Some),
    }
}

/// What an event has besides the columns that each event has.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) headers: Vec<Header>,
    pub(super) hops: u32,
    pub(super) first_ms: Option<u64>,
}

/// Decodes what [`encode_headers`] encoded.
pub(super) fn decode_headers(position: Position, bytes: &[u8]) -> Result<Extras, Error> {
    let damaged = |error: postcard::Error| {
        Error::Failed(format!(
            "headers of the event at position {position} do not decode ({error}): the store is damaged, restore it from a \
             backup"
        ))
    };
    let (headers, rest) = postcard::take_from_bytes(bytes).map_err(damaged)?;
    let (hops, rest) = if rest.is_empty() { (0, rest) } else { postcard::take_from_bytes(rest).map_err(damaged)? };
    let first_ms = if rest.is_empty() { None } else { Some(postcard::from_bytes(rest).map_err(damaged)?) };
    Ok(Extras { headers, hops, first_ms })
}
