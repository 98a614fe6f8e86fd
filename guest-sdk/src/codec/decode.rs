//! Decoding: from a name and bytes to a variant of an enum.

use super::{Error, place};
use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use std::any::type_name;

/// Decodes the variant `name` of the enum `T` from its payload. `T` must be a plain enum, without `tag` or `untagged`.
///
/// ```
/// # use serde::Deserialize;
/// #[derive(Debug, PartialEq, Deserialize)]
/// enum Command { Create { items: Vec<u32> }, Confirm }
///
/// assert_eq!(wasmill_guest::codec::decode::<Command>("Confirm", b"").unwrap(), Command::Confirm);
/// let error = wasmill_guest::codec::decode::<Command>("Create", br#"{"items":[1,-2]}"#).unwrap_err();
/// assert_eq!(error.to_string(), "Create: items[1]: invalid value: integer `-2`, expected u32 at line 1 column 14");
/// let error = wasmill_guest::codec::decode::<Command>("Cancel", b"").unwrap_err();
/// assert_eq!(error.to_string(), "unknown name `Cancel`: known are Create, Confirm");
/// ```
pub fn decode<'a, T: Deserialize<'a>>(name: &str, payload: &'a [u8]) -> Result<T, Error> {
    T::deserialize(Variant { name, payload }).map_err(|error| located(error, name, payload))
}

/// Decodes a whole payload as JSON.
pub fn json<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Error> {
    exact(payload, |json| T::deserialize(json)).map_err(|error| located(error, short_name::<T>(), payload))
}

/// Decodes a whole payload as JSON, and passes `unknown` the place of each field that the type does not have.
pub(crate) fn json_noting<'a, T: Deserialize<'a>>(
    payload: &'a [u8],
    mut unknown: impl FnMut(String),
) -> Result<T, Error> {
    let mut note = |path: serde_ignored::Path<'_>| unknown(place::of_ignored(&path));
    exact(payload, |json| serde_ignored::deserialize(json, &mut note))
        .map_err(|error| located(error, short_name::<T>(), payload))
}

/// Returns the names of the enum's variants, in the order of their definition. It is an error if `T` is no plain enum. `what`
/// says in the error what `T` is for.
pub(crate) fn variants<T: DeserializeOwned>(what: &str) -> Result<&'static [&'static str], String> {
    match T::deserialize(Variant { name: "", payload: b"" }) {
        Err(Error::Unknown { known, .. }) => Ok(known),
        _ => Err(format!(
            "the type of the {what}, {}, is no plain enum, so its values have no names: make it an enum, without serde's `tag`, \
             `untagged` or `other`",
            short_name::<T>()
        )),
    }
}

/// Adds the place in the payload to an error. The place is computed here, so that only failures pay for it.
#[cold]
fn located(error: Error, name: &str, payload: &[u8]) -> Error {
    match error {
        Error::Json { cause, .. } => {
            Error::Json { name: name.to_owned(), path: place::path(payload, cause.line(), cause.column()), cause }
        }
        other => other,
    }
}

fn short_name<T>() -> &'static str {
    let whole = type_name::<T>();
    let plain = whole.split('<').next().unwrap_or(whole);
    plain.rsplit("::").next().unwrap_or(plain)
}

/// Runs one read over the whole payload and refuses trailing content.
///
/// The payload is checked for UTF-8 once, which is cheaper than a check of each string in it.
fn exact<'a, T>(
    payload: &'a [u8],
    read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::StrRead<'a>>) -> serde_json::Result<T>,
) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_str(text(payload)?);
    read(&mut json).and_then(|value| json.end().map(|()| value)).map_err(Error::unplaced)
}

fn text(payload: &[u8]) -> Result<&str, Error> {
    str::from_utf8(payload).map_err(|error| Error::Other(format!("the payload is not text: {error}")))
}

#[derive(Clone, Copy)]
struct Variant<'n, 'a> {
    name: &'n str,
    payload: &'a [u8],
}

impl<'de> Deserializer<'de> for Variant<'_, 'de> {
    type Error = Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::Other(
            "only plain enums can be decoded by name: derive Deserialize without `tag` or `untagged`".to_owned(),
        ))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'a> EnumAccess<'a> for Variant<'_, 'a> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'a>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name = seed.deserialize(IntoDeserializer::<Error>::into_deserializer(self.name))?;
        Ok((name, self))
    }
}

impl<'a> VariantAccess<'a> for Variant<'_, 'a> {
    type Error = Error;

    /// Decodes a variant without content, whose payload is empty, `null` or `{}`.
    fn unit_variant(self) -> Result<(), Error> {
        match self.payload.trim_ascii() {
            b"" | b"null" | b"{}" => Ok(()),
            other => Err(Error::Other(format!("{}: expected no payload, got {} bytes", self.name, other.len()))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value, Error> {
        exact(self.payload, |json| seed.deserialize(json))
    }

    fn tuple_variant<V: Visitor<'a>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        exact(self.payload, |json| json.deserialize_tuple(length, visitor))
    }

    /// Decodes a variant with named fields. An empty payload counts as `{}`, so fields without a default are missing.
    fn struct_variant<V: Visitor<'a>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        let payload = if matches!(self.payload.trim_ascii(), b"" | b"null") { b"{}" } else { self.payload };
        exact(payload, |json| json.deserialize_struct("", fields, visitor))
    }
}
