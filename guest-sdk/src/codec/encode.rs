//! From a variant of an enum to its name and bytes.

use super::{Error, json};
use serde::ser::{Impossible, Serialize, SerializeStructVariant, SerializeTupleVariant, Serializer};

/// Encodes a variant of an enum: its name, and its content as JSON (`null` for a variant without content).
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
    value.serialize(Variant)
}

fn append<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) -> Result<(), Error> {
    json::append(buffer, value).map_err(Error::unplaced)
}

/// Enough for most payloads, so that a buffer grows seldom.
fn buffer() -> Vec<u8> {
    Vec::with_capacity(256)
}

fn unsuitable<T>() -> Result<T, Error> {
    Err(Error::Other("only plain enums have names: derive Serialize without `tag` or `untagged`".to_owned()))
}

/// Everything but a variant is refused.
macro_rules! no_variant {
    ($($method:ident($value:ty))*) => {
        $(fn $method(self, _: $value) -> Result<Self::Ok, Error> {
            unsuitable()
        })*
    };
}

struct Variant;

impl Serializer for Variant {
    type Ok = (&'static str, Vec<u8>);
    type Error = Error;
    type SerializeSeq = Impossible<Self::Ok, Error>;
    type SerializeTuple = Impossible<Self::Ok, Error>;
    type SerializeTupleStruct = Impossible<Self::Ok, Error>;
    type SerializeTupleVariant = Content;
    type SerializeMap = Impossible<Self::Ok, Error>;
    type SerializeStruct = Impossible<Self::Ok, Error>;
    type SerializeStructVariant = Content;

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Self::Ok, Error> {
        Ok((variant, b"null".to_vec()))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Self::Ok, Error> {
        let mut payload = buffer();
        append(&mut payload, value)?;
        Ok((variant, payload))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Content, Error> {
        Ok(Content { variant, payload: buffer() })
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Content, Error> {
        Ok(Content { variant, payload: buffer() })
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

/// The members of a variant, written as they come.
struct Content {
    variant: &'static str,
    payload: Vec<u8>,
}

impl Content {
    fn separate(&mut self, open: u8) {
        self.payload.push(if self.payload.is_empty() { open } else { b',' });
    }

    fn close(mut self, open: u8, close: u8) -> (&'static str, Vec<u8>) {
        if self.payload.is_empty() {
            self.payload.push(open);
        }
        self.payload.push(close);
        (self.variant, self.payload)
    }
}

impl SerializeStructVariant for Content {
    type Ok = (&'static str, Vec<u8>);
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.separate(b'{');
        append(&mut self.payload, key)?;
        self.payload.push(b':');
        append(&mut self.payload, value)
    }

    fn end(self) -> Result<Self::Ok, Error> {
        Ok(self.close(b'{', b'}'))
    }
}

impl SerializeTupleVariant for Content {
    type Ok = (&'static str, Vec<u8>);
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.separate(b'[');
        append(&mut self.payload, value)
    }

    fn end(self) -> Result<Self::Ok, Error> {
        Ok(self.close(b'[', b']'))
    }
}
