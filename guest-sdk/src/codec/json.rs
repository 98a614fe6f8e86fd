//! JSON encoding. The output is byte for byte that of serde_json, which still does everything that takes more than
//! copying. Two kinds of values are refused here that serde_json accepts, because they do not read back: NaN and
//! infinity, for which it writes `null`, and lists and objects that are nested deeper than it reads.
//!
//! A payload is mostly text without escapes. serde_json scans it byte by byte and copies each piece by a call out of
//! the guest. Here it is scanned and copied a word at a time, which saves a twentieth of the time of a command.

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use serde_json::{Error, Result};

/// A JSON text that is being written.
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    /// The number of lists and objects around the next value.
    depth: u32,
    /// Whether the text has something that decoders do not always accept: numbers beyond 64 bits, which flattened and
    /// tagged content loses, or raw JSON. Only decoding shows if it reads back the same.
    pub(super) is_doubtful: bool,
}

impl Text {
    /// Makes an empty text with room for this many bytes. Its values will be inside `depth` lists and objects.
    pub(super) fn with_capacity(bytes: usize, depth: u32) -> Self {
        Self { bytes: Vec::with_capacity(bytes), depth, is_doubtful: false }
    }

    /// Appends a value.
    pub(super) fn append<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        append(self, value)
    }
}

fn append<T: Serialize + ?Sized>(text: &mut Text, value: &T) -> Result<()> {
    value.serialize(Json(text))
}

/// The deepest nesting of lists and objects in a text. serde_json reads 127 levels, and envelopes take some of them.
pub(super) const DEPTH_MAX: u32 = 120;

/// The prefix of the names of serde_json's own types, such as `RawValue`, which only serde_json can write.
const OF_SERDE_JSON: &str = "$serde_json::";

struct Json<'b>(&'b mut Text);

impl<'b> Json<'b> {
    /// Writes a value with serde_json: it is rare, or takes more than copying.
    fn by_serde_json<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        value.serialize(&mut serde_json::Serializer::new(&mut self.0.bytes))
    }

    fn copy(self, bytes: &[u8]) {
        copy(&mut self.0.bytes, bytes);
    }

    #[inline]
    fn text(self, text: &str) -> Result<()> {
        let bytes = &mut self.0.bytes;
        let start = bytes.len();
        bytes.reserve(text.len() + 2);
        bytes.push(b'"');
        if copy(bytes, text.as_bytes()) {
            bytes.push(b'"');
            return Ok(());
        }
        bytes.truncate(start);
        self.by_serde_json(text)
    }

    fn list(self, end: &'static [u8]) -> Result<Members<'b>> {
        self.begin(b'[', end)
    }

    fn object(self, end: &'static [u8]) -> Result<Members<'b>> {
        self.begin(b'{', end)
    }

    #[inline]
    fn begin(self, bracket: u8, end: &'static [u8]) -> Result<Members<'b>> {
        let Json(text) = self;
        text.depth += 1;
        if text.depth > DEPTH_MAX {
            return Err(too_deep());
        }
        text.bytes.push(bracket);
        Ok(Members { text, is_first: true, end, foreign: None })
    }

    /// Begins the object around the content of a variant.
    fn variant(self, name: &str) -> Result<Self> {
        self.0.depth += 1;
        if self.0.depth > DEPTH_MAX {
            return Err(too_deep());
        }
        self.0.bytes.push(b'{');
        Json(self.0).text(name)?;
        self.0.bytes.push(b':');
        Ok(self)
    }
}

#[cold]
fn too_deep() -> Error {
    Error::custom(format_args!("more than {DEPTH_MAX} lists and objects are nested, which would not be read back"))
}

/// Appends bytes, a word at a time, and returns whether none of them needs an escape.
#[inline]
fn copy(bytes: &mut Vec<u8>, more: &[u8]) -> bool {
    let length = more.len();
    bytes.reserve(length);
    let pair = Pair { from: more.as_ptr(), to: bytes.spare_capacity_mut().as_mut_ptr().cast() };
    // SAFETY: there is room for all bytes, and every word lies within them. If the length is not a multiple of a word,
    // the last word or half word reaches back over bytes that are already copied. So all of the room is written.
    unsafe {
        let mut plain = true;
        if let Some(last) = length.checked_sub(8) {
            let mut at = 0;
            while at < last {
                plain &= pair.copy_word(at);
                at += 8;
            }
            plain &= pair.copy_word(last);
        } else if let Some(last) = length.checked_sub(4) {
            plain = pair.copy_half(0) & pair.copy_half(last);
        } else {
            for at in 0..length {
                plain &= pair.copy_byte(at);
            }
        }
        bytes.set_len(bytes.len() + length);
        plain
    }
}

/// The bytes to copy, and the room for them.
struct Pair {
    from: *const u8,
    to: *mut u8,
}

/// Each method copies the word at an offset and returns whether it needs no escape. The word must lie within the bytes.
impl Pair {
    #[inline]
    unsafe fn copy_word(&self, at: usize) -> bool {
        // SAFETY: the caller promises it.
        unsafe {
            let word = self.from.add(at).cast::<u64>().read_unaligned();
            self.to.add(at).cast::<u64>().write_unaligned(word);
            is_plain(word)
        }
    }

    #[inline]
    unsafe fn copy_half(&self, at: usize) -> bool {
        // SAFETY: the caller promises it.
        unsafe {
            let half = self.from.add(at).cast::<u32>().read_unaligned();
            self.to.add(at).cast::<u32>().write_unaligned(half);
            is_plain(u64::from(half) | PLAIN << 32)
        }
    }

    #[inline]
    unsafe fn copy_byte(&self, at: usize) -> bool {
        // SAFETY: the caller promises it.
        unsafe {
            let byte = *self.from.add(at);
            self.to.add(at).write(byte);
            is_plain(u64::from(byte) | PLAIN << 8)
        }
    }
}

/// Returns eight times the same byte.
const fn eight(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Eight spaces. A space needs no escape, and all bytes below it are control characters.
const PLAIN: u64 = eight(b' ');

/// Returns whether eight bytes need no escape: none is a quote, a backslash or a control character. If one needs an
/// escape, the bytes above it may be misjudged through a borrow; the result is false in any case.
#[inline]
fn is_plain(word: u64) -> bool {
    let zero = |word: u64| word.wrapping_sub(eight(1)) & !word;
    let control = word.wrapping_sub(PLAIN) & !word;
    let (quote, backslash) = (zero(word ^ eight(b'"')), zero(word ^ eight(b'\\')));
    (control | quote | backslash) & eight(0x80) == 0
}

/// The members of a list or an object, which are written one by one.
struct Members<'b> {
    text: &'b mut Text,
    is_first: bool,
    end: &'static [u8],
    /// The name of one of serde_json's own types, if it is one. Its only field is the value.
    foreign: Option<&'static str>,
}

impl Members<'_> {
    #[inline]
    fn separate(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.text.bytes.push(b',');
        }
    }

    #[inline]
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.separate();
        append(self.text, value)
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<()> {
        if let Some(name) = self.foreign {
            let mut serializer = serde_json::Serializer::new(&mut self.text.bytes);
            let mut only = serializer.serialize_struct(name, 1)?;
            SerializeStruct::serialize_field(&mut only, key, value)?;
            self.text.is_doubtful = true;
            return SerializeStruct::end(only);
        }
        self.separate();
        Json(self.text).text(key)?;
        self.text.bytes.push(b':');
        append(self.text, value)
    }

    #[inline]
    fn close(self) -> Result<()> {
        self.text.bytes.extend_from_slice(self.end);
        // Each closing bracket ends one list or object.
        self.text.depth -= self.end.len() as u32;
        Ok(())
    }
}

macro_rules! integers {
    ($($method:ident($integer:ty))*) => {
        $(fn $method(self, value: $integer) -> Result<()> {
            self.copy(itoa::Buffer::new().format(value).as_bytes());
            Ok(())
        })*
    };
}

macro_rules! floats {
    ($($method:ident($float:ty))*) => {
        $(fn $method(self, value: $float) -> Result<()> {
            if value.is_finite() {
                serde_json::Serializer::new(&mut self.0.bytes).$method(value)
            } else {
                Err(Error::custom(format_args!("{value} is not a JSON number: use an option or a string")))
            }
        })*
    };
}

macro_rules! by_serde_json {
    ($($method:ident($value:ty))*) => {
        $(fn $method(self, value: $value) -> Result<()> {
            serde_json::Serializer::new(&mut self.0.bytes).$method(value)
        })*
    };
}

impl<'b> Serializer for Json<'b> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Members<'b>;
    type SerializeTuple = Members<'b>;
    type SerializeTupleStruct = Members<'b>;
    type SerializeTupleVariant = Members<'b>;
    type SerializeMap = Members<'b>;
    type SerializeStruct = Members<'b>;
    type SerializeStructVariant = Members<'b>;

    integers! {
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
    }

    fn serialize_i128(self, value: i128) -> Result<()> {
        self.0.is_doubtful |= i64::try_from(value).is_err();
        self.copy(itoa::Buffer::new().format(value).as_bytes());
        Ok(())
    }

    fn serialize_u128(self, value: u128) -> Result<()> {
        self.0.is_doubtful |= u64::try_from(value).is_err();
        self.copy(itoa::Buffer::new().format(value).as_bytes());
        Ok(())
    }

    floats! { serialize_f32(f32) serialize_f64(f64) }

    by_serde_json! { serialize_char(char) serialize_bytes(&[u8]) }

    fn serialize_bool(self, value: bool) -> Result<()> {
        self.0.bytes.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<()> {
        self.text(value)
    }

    fn serialize_none(self) -> Result<()> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<()> {
        self.0.bytes.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<()> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<()> {
        self.text(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<()> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<()> {
        let Json(text) = self.variant(variant)?;
        append(text, value)?;
        text.bytes.push(b'}');
        text.depth -= 1;
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Members<'b>> {
        self.list(b"]")
    }

    fn serialize_tuple(self, _: usize) -> Result<Members<'b>> {
        self.list(b"]")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Members<'b>> {
        self.list(b"]")
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Members<'b>> {
        self.variant(variant)?.list(b"]}")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Members<'b>> {
        self.object(b"}")
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Members<'b>> {
        if name.starts_with(OF_SERDE_JSON) {
            return Ok(Members { text: self.0, is_first: true, end: b"", foreign: Some(name) });
        }
        self.object(b"}")
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Members<'b>> {
        self.variant(variant)?.object(b"}}")
    }
}

impl SerializeSeq for Members<'_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.element(value)
    }

    fn end(self) -> Result<()> {
        self.close()
    }
}

impl SerializeTuple for Members<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.element(value)
    }

    fn end(self) -> Result<()> {
        self.close()
    }
}

impl SerializeTupleStruct for Members<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.element(value)
    }

    fn end(self) -> Result<()> {
        self.close()
    }
}

impl SerializeTupleVariant for Members<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.element(value)
    }

    fn end(self) -> Result<()> {
        self.close()
    }
}

impl SerializeMap for Members<'_> {
    type Ok = ();
    type Error = Error;

    /// Writes a key with serde_json, which knows what may be a key and how to write it: it begins an object with it.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.separate();
        let start = self.text.bytes.len();
        let mut serializer = serde_json::Serializer::new(&mut self.text.bytes);
        serializer.serialize_map(None)?.serialize_key(key)?;
        self.text.bytes.remove(start);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.text.bytes.push(b':');
        append(self.text, value)
    }

    fn end(self) -> Result<()> {
        self.close()
    }
}

impl SerializeStruct for Members<'_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<()> {
        self.field(key, value)
    }

    #[inline]
    fn end(self) -> Result<()> {
        self.close()
    }
}

impl SerializeStructVariant for Members<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<()> {
        self.field(key, value)
    }

    fn end(self) -> Result<()> {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;
    use serde_json::value::RawValue;
    use std::collections::BTreeMap;

    #[derive(Serialize)]
    struct Unit;

    #[derive(Serialize)]
    struct Wrapped(u8);

    #[derive(Serialize)]
    struct Several(u8, &'static str);

    #[derive(Serialize)]
    struct Named {
        a: i64,
        #[serde(rename = "a \"quoted\" name")]
        b: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        c: Option<u8>,
        #[serde(flatten)]
        more: BTreeMap<&'static str, f64>,
    }

    #[derive(Serialize)]
    enum Any {
        Unit,
        Wrapped(Vec<u8>),
        Several(char, ()),
        Named { x: f32, y: String },
        Empty {},
    }

    fn written(value: &(impl Serialize + ?Sized)) -> Result<String> {
        let mut text = Text::with_capacity(0, 0);
        text.bytes.extend_from_slice(b"before");
        text.append(value)?;
        assert_eq!(text.depth, 0, "what was opened is closed");
        Ok(String::from_utf8(text.bytes.split_off(6)).expect("JSON is text"))
    }

    #[track_caller]
    fn is_the_same(value: &(impl Serialize + ?Sized)) {
        assert_eq!(written(value).unwrap(), serde_json::to_string(value).unwrap());
    }

    #[test]
    fn every_kind_of_value_is_written_as_by_serde_json() {
        is_the_same(&(true, (), Unit, Wrapped(1), Several(2, "three"), None::<u8>, Some("x")));
        is_the_same(&(
            i8::MIN,
            i16::MIN,
            i32::MIN,
            i64::MIN,
            i128::MIN,
            u8::MAX,
            u16::MAX,
            u32::MAX,
            u64::MAX,
            u128::MAX,
        ));
        is_the_same(&[0.0, -0.0, 1.5, 1e300, f64::MIN_POSITIVE, 94.527_069_553_922_23]);
        is_the_same(&[0.1_f32, f32::MAX]);
        is_the_same(&['a', '"', '\u{1}', '\u{1F600}']);
        is_the_same(&([] as [u8; 0], [[1], [2]], Vec::<Any>::new()));
        is_the_same(&[
            Any::Unit,
            Any::Wrapped(vec![1, 2]),
            Any::Several('x', ()),
            Any::Named { x: 0.5, y: "\n".into() },
            Any::Empty {},
        ]);
        is_the_same(&Named { a: 1, b: None, c: None, more: BTreeMap::from([("d", 1.0), ("e", 2.5)]) });
        is_the_same(&Named { a: -1, b: Some(false), c: Some(3), more: BTreeMap::new() });
        is_the_same(&serde_json::json!({"a": [1, 2.5, null, {"b": "c"}], "": {}}));
        is_the_same(&format_args!("{} of {:?}", 1, "\t"));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let said =
                [written(&Some(value)), written(&[value as f32])].map(|written| written.unwrap_err().to_string());
            assert!(said.iter().all(|said| said.contains("is not a JSON number")), "{said:?}");
        }
    }

    /// Nested lists.
    struct Nested(u32);

    impl Serialize for Nested {
        fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            let mut list = serializer.serialize_seq(None)?;
            if self.0 > 1 {
                list.serialize_element(&Nested(self.0 - 1))?;
            }
            list.end()
        }
    }

    #[test]
    fn what_is_nested_too_deeply_to_be_read_is_refused() {
        let deepest = written(&Nested(DEPTH_MAX)).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&deepest).is_ok());
        for value in [Nested(DEPTH_MAX + 1), Nested(128), Nested(1_000)] {
            let said = written(&value).unwrap_err().to_string();
            assert!(said.contains("more than 120 lists and objects"), "{said}");
        }
    }

    #[test]
    fn numbers_beyond_64_bits_and_foreign_json_are_doubtful() {
        let is_doubtful = |value: &dyn Fn(&mut Text)| {
            let mut text = Text::with_capacity(0, 0);
            value(&mut text);
            text.is_doubtful
        };
        assert!(is_doubtful(&|text| text.append(&[u128::MAX]).unwrap()));
        assert!(is_doubtful(&|text| text.append(&[i128::MIN]).unwrap()));
        assert!(is_doubtful(&|text| text.append(&RawValue::from_string("[]".to_owned()).unwrap()).unwrap()));
        assert!(!is_doubtful(&|text| text.append(&(u128::from(u64::MAX), i128::from(i64::MIN), 1.5)).unwrap()));
    }

    #[test]
    fn keys_are_what_serde_json_takes_for_keys() {
        is_the_same(&BTreeMap::from([("a", 1), ("b\n", 2), ("", 3)]));
        is_the_same(&BTreeMap::from([(-1, "a"), (1, "b")]));
        is_the_same(&BTreeMap::from([(true, 'a'), (false, 'b')]));
        is_the_same(&BTreeMap::from([('x', BTreeMap::<u8, u8>::new())]));
        let by_list = BTreeMap::from([(vec![1], 1)]);
        let said = written(&by_list).unwrap_err().to_string();
        assert_eq!(said, serde_json::to_string(&by_list).unwrap_err().to_string());
    }

    #[test]
    fn raw_json_stays_as_it_is() {
        let raw = RawValue::from_string("{ \"a\" :  1.50 }".to_owned()).unwrap();
        is_the_same(&(raw.as_ref(), vec![raw.as_ref()]));
        assert_eq!(written(&raw).unwrap(), "{ \"a\" :  1.50 }");
    }

    #[test]
    fn each_character_is_written_as_by_serde_json_wherever_it_stands() {
        let special = (0..=u32::from(b'\x7f')).chain([0x80, 0xff, 0x2028, 0xfffd, 0x1f600]);
        for character in special.filter_map(char::from_u32) {
            for length in 0..20 {
                for at in 0..=length {
                    let mut text = "x".repeat(length);
                    text.insert(at, character);
                    is_the_same(&*text);
                }
            }
        }
    }

    #[test]
    fn texts_of_all_lengths_are_written_as_by_serde_json() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let text: String = (0..random.usize(..40)).map(|_| random.char(' '..='\u{100}')).collect();
            is_the_same(&*text);
        }
    }

    #[test]
    fn what_a_value_says_when_it_fails_comes_through() {
        struct Failing;
        impl Serialize for Failing {
            fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("not today"))
            }
        }
        assert_eq!(written(&[Failing]).unwrap_err().to_string(), "not today");
    }
}
