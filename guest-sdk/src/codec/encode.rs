//! Encoding: from a variant of an enum to its name and bytes.

use super::Error;
use super::json::Text;
use serde::ser::{Impossible, Serialize, SerializeStructVariant, SerializeTupleVariant, Serializer};

/// Encodes a variant of an enum as its name and its content in JSON (`null` for a variant without content).
///
/// ```
/// # use serde::Serialize;
/// #[derive(Serialize)]
/// enum Event { Created { items: u32 }, Confirmed }
///
/// let (name, payload) = wasmill_guest::codec::encode(&Event::Created { items: 3 }).unwrap();
/// assert_eq!((name, payload.as_slice()), ("Created", br#"{"items":3}"#.as_slice()));
/// let (name, payload) = wasmill_guest::codec::encode(&Event::Confirmed).unwrap();
/// assert_eq!((name, payload.as_slice()), ("Confirmed", b"null".as_slice()));
/// ```
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<(&'static str, Vec<u8>), Error> {
    encode_variant(value).map(|Encoded { name, payload, .. }| (name, payload))
}

/// A variant of an enum as JSON.
pub(crate) struct Encoded {
    /// The variant's index in its enum.
    pub(crate) variant: u32,
    pub(crate) name: &'static str,
    pub(crate) payload: Vec<u8>,
    /// Whether only decoding shows if the payload reads back the same.
    pub(crate) is_doubtful: bool,
}

/// Encodes a variant of an enum.
pub(crate) fn encode_variant<T: Serialize + ?Sized>(value: &T) -> Result<Encoded, Error> {
    value.serialize(Variant)
}

/// Bytes that are enough for most payloads, so that a buffer rarely grows.
const CAPACITY: usize = 256;

fn append<T: Serialize + ?Sized>(text: &mut Text, value: &T) -> Result<(), Error> {
    text.append(value).map_err(Error::unplaced)
}

fn unsuitable<T>() -> Result<T, Error> {
    Err(Error::Other("only plain enums have names: derive Serialize without `tag` or `untagged`".to_owned()))
}

/// Refuses every value that is not a variant.
macro_rules! no_variant {
    ($($method:ident($value:ty))*) => {
        $(fn $method(self, _: $value) -> Result<Self::Ok, Error> {
            unsuitable()
        })*
    };
}

struct Variant;

impl Serializer for Variant {
    type Ok = Encoded;
    type Error = Error;
    type SerializeSeq = Impossible<Self::Ok, Error>;
    type SerializeTuple = Impossible<Self::Ok, Error>;
    type SerializeTupleStruct = Impossible<Self::Ok, Error>;
    type SerializeTupleVariant = Content;
    type SerializeMap = Impossible<Self::Ok, Error>;
    type SerializeStruct = Impossible<Self::Ok, Error>;
    type SerializeStructVariant = Content;

    fn serialize_unit_variant(self, _: &'static str, variant: u32, name: &'static str) -> Result<Self::Ok, Error> {
        Ok(Encoded { variant, name, payload: b"null".to_vec(), is_doubtful: false })
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        variant: u32,
        name: &'static str,
        value: &T,
    ) -> Result<Self::Ok, Error> {
        let mut text = Text::with_capacity(CAPACITY, 0);
        append(&mut text, value)?;
        Ok(Encoded { variant, name, payload: text.bytes, is_doubtful: text.is_doubtful })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        variant: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Content, Error> {
        Ok(Content { variant, name, text: Text::with_capacity(CAPACITY, 1) })
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        variant: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Content, Error> {
        Ok(Content { variant, name, text: Text::with_capacity(CAPACITY, 1) })
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Self::Ok, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Self::Ok, Error> {
        value.serialize(self)
    }

    no_variant! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_f32(f32)
        serialize_f64(f64) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_unit_struct(&'static str)
    }

    fn serialize_none(self) -> Result<Self::Ok, Error> {
        unsuitable()
    }

    fn serialize_unit(self) -> Result<Self::Ok, Error> {
        unsuitable()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Error> {
        unsuitable()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Error> {
        unsuitable()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Error> {
        unsuitable()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Error> {
        unsuitable()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Error> {
        unsuitable()
    }
}

/// The fields of a variant, which are written one by one.
struct Content {
    variant: u32,
    name: &'static str,
    text: Text,
}

impl Content {
    fn separate(&mut self, open: u8) {
        self.text.bytes.push(if self.text.bytes.is_empty() { open } else { b',' });
    }

    fn close(self, open: u8, close: u8) -> Encoded {
        let Self { variant, name, text: Text { bytes: mut payload, is_doubtful, .. } } = self;
        if payload.is_empty() {
            payload.push(open);
        }
        payload.push(close);
        Encoded { variant, name, payload, is_doubtful }
    }
}

impl SerializeStructVariant for Content {
    type Ok = Encoded;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.separate(b'{');
        append(&mut self.text, key)?;
        self.text.bytes.push(b':');
        append(&mut self.text, value)
    }

    fn end(self) -> Result<Self::Ok, Error> {
        Ok(self.close(b'{', b'}'))
    }
}

impl SerializeTupleVariant for Content {
    type Ok = Encoded;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.separate(b'[');
        append(&mut self.text, value)
    }

    fn end(self) -> Result<Self::Ok, Error> {
        Ok(self.close(b'[', b']'))
    }
}
