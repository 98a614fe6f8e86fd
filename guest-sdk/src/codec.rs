//! The codec. An event or a command is a variant of a serde enum: its name is the variant's name, and its payload is
//! the variant's content as JSON.
//!
//! Every command passes through here, so a name and its payload are decoded directly into the enum, without an
//! intermediate document. A payload that does not decode is an error that says where, never a default.

mod decode;
mod encode;
mod json;
mod place;

pub use decode::{decode, json};
pub use encode::encode;

pub(crate) use decode::{json_noting, variants};
pub(crate) use encode::{Encoded, encode_variant};

use serde::de;
use serde::ser;
use std::fmt;

/// The reason why a payload does not decode or a value does not encode.
#[derive(Debug)]
pub enum Error {
    /// The enum has no variant of this name.
    Unknown {
        /// The unknown name.
        name: String,
        /// The names of the enum's variants.
        known: &'static [&'static str],
    },
    /// The payload is not valid JSON, or does not fit the type.
    Json {
        /// The name of the variant or type to decode. It is empty if a value does not encode.
        name: String,
        /// The place in the document, such as `items[0].quantity`. It is empty at the top.
        path: String,
        /// The error of serde_json, with line and column.
        cause: serde_json::Error,
    },
    /// There is no payload: the record is a tombstone.
    Tombstone,
    /// Any other reason, as text.
    Other(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unknown { name, known: [] } => write!(f, "unknown name `{name}`: nothing is known here"),
            Error::Unknown { name, known } => write!(f, "unknown name `{name}`: known are {}", known.join(", ")),
            Error::Json { name, path, cause } => {
                [name, path].iter().filter(|part| !part.is_empty()).try_for_each(|part| write!(f, "{part}: "))?;
                write!(f, "{cause}")
            }
            Error::Tombstone => write!(f, "there is no payload (a tombstone)"),
            Error::Other(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Json { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl Error {
    /// Wraps an error of serde_json, before its place is known.
    fn unplaced(cause: serde_json::Error) -> Self {
        Error::Json { name: String::new(), path: String::new(), cause }
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::Other(message.to_string())
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Error::Unknown { name: variant.to_owned(), known: expected }
    }
}

impl ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::Other(message.to_string())
    }
}

/// Encodes any value as JSON.
pub fn to_json(value: &(impl serde::Serialize + ?Sized)) -> Result<Vec<u8>, Error> {
    to_json_doubted(value).map(|(bytes, _)| bytes)
}

/// Encodes any value as JSON. Also says whether the value is doubtful: only decoding shows if it reads back the same.
pub(crate) fn to_json_doubted(value: &(impl serde::Serialize + ?Sized)) -> Result<(Vec<u8>, bool), Error> {
    let mut text = json::Text::with_capacity(128, 0);
    text.append(value).map_err(Error::unplaced)?;
    Ok((text.bytes, text.is_doubtful))
}
