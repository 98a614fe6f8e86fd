//! The headers of a record, read by pointer and length.
//!
//! The names of Kafka's headers may have any bytes. rdkafka treats them as text that ends with NUL: its iterator panics
//! on a name that is not UTF-8, and truncates a name that has a NUL. So only this module reads headers. A name that is
//! not UTF-8 is escaped, and the record is marked as wrong, so that it is not handled by mistake.

use crate::model::Header;
use rdkafka::bindings::*;
use rdkafka::message::BorrowedMessage;
use std::ffi::{CStr, c_char, c_void};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

/// The names of headers that are dropped, in lower case. It is cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped(Arc<[String]>);

impl Dropped {
    /// Takes names in any case.
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|dropped| dropped.eq_ignore_ascii_case(name))
    }
}

/// The headers of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Headers {
    /// The headers in their order, without those that are dropped.
    pub(super) list: Vec<Header>,
    /// Why the record can't be handled, if a name is not UTF-8. The list has that name escaped.
    pub(super) wrong: Option<String>,
}

/// Reads the headers of a record that a consumer holds.
pub(super) fn of(record: &BorrowedMessage<'_>, dropped: &Dropped) -> Headers {
    let mut native = std::ptr::null_mut();
    // SAFETY: the record lives, and its headers live as long as it does. Without headers the call fails.
    let code = unsafe { rd_kafka_message_headers(record.ptr(), &mut native) };
    if code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || native.is_null() {
        return Headers::default();
    }
    // SAFETY: the headers belong to the record, which outlives this call.
    unsafe { read(native, dropped) }
}

/// # Safety
/// The headers live.
unsafe fn read(native: *const rd_kafka_headers_t, dropped: &Dropped) -> Headers {
    // SAFETY: the caller's promise, also below.
    let count = unsafe { rd_kafka_header_cnt(native) };
    let mut headers = Headers { list: Vec::with_capacity(count), wrong: None };
    for index in 0..count {
        let Some((name, value)) = (unsafe { header(native, index) }) else { break };
        let name = match std::str::from_utf8(name) {
            Ok(name) => name.to_owned(),
            Err(_) => {
                let name = escaped(name);
                headers.wrong.get_or_insert_with(|| reason(index, &name));
                name
            }
        };
        if !dropped.has(&name) {
            headers.list.push(Header { name, value: value.map(<[u8]>::to_vec) });
        }
    }
    headers
}

fn reason(index: usize, name: &str) -> String {
    format!(
        "the name of header {} is not UTF-8: `{name}`, where `\\xNN` stands for a byte; produce the record with names that \
         are text, or retry the dead letter, which uses the name as it is written here",
        index + 1
    )
}

/// Converts bytes to text: UTF-8 stays as it is, and every other byte becomes `\xNN`.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("text has room");
        }
    }
    text
}

/// Returns the name and value at an index.
///
/// # Safety
/// The headers live for `'a`.
unsafe fn header<'a>(native: *const rd_kafka_headers_t, index: usize) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let (mut name, mut value, mut size) = (std::ptr::null::<c_char>(), std::ptr::null::<c_void>(), 0);
    // SAFETY: the caller's promise; the three are written if the call succeeds. A name ends with NUL, after the
    // length that `name_length` says, and a value has as many bytes as its size says.
    unsafe {
        let code = rd_kafka_header_get_all(native, index, &mut name, &mut value, &mut size);
        if code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return None;
        }
        let length = if *IS_LENGTH_KNOWN { name_length(name) } else { CStr::from_ptr(name).count_bytes() };
        let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
        Some((std::slice::from_raw_parts(name.cast::<u8>(), length), value))
    }
}

/// Returns the length of a name. librdkafka's interface does not return it, but stores it two words before the name.
///
/// # Safety
/// The name is one of librdkafka's headers, and they are laid out as [`IS_LENGTH_KNOWN`] has found.
unsafe fn name_length(name: *const c_char) -> usize {
    // SAFETY: the caller's promise. The name follows two aligned words in one allocation.
    unsafe { name.cast::<usize>().sub(2).read_unaligned() }
}

/// Whether the linked library lays headers out as `name_length` reads them. If not, a name that has a NUL is truncated
/// there.
static IS_LENGTH_KNOWN: LazyLock<bool> = LazyLock::new(|| {
    const NAME: &[u8] = b"a\0bc";
    // SAFETY: the headers are created, read and freed here. Every layout has more than two words before a name: at
    // least the sizes of the name and of the value, and a pointer to the value.
    unsafe {
        let native = rd_kafka_headers_new(1);
        let (name, none) = (NAME.as_ptr().cast::<c_char>(), std::ptr::null());
        rd_kafka_header_add(native, name, NAME.len() as isize, none, 0);
        let (mut name, mut value, mut size) = (std::ptr::null::<c_char>(), std::ptr::null::<c_void>(), 0);
        let code = rd_kafka_header_get_all(native, 0, &mut name, &mut value, &mut size);
        let is_read = code == rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && !name.is_null();
        let is_known = is_read && name_length(name) == NAME.len();
        rd_kafka_headers_destroy(native);
        is_known
    }
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_back(pairs: &[(&[u8], Option<&[u8]>)], dropped: &[&str]) -> Headers {
        let dropped: Vec<String> = dropped.iter().map(|name| name.to_string()).collect();
        // SAFETY: made, read and freed here; names and values are copied.
        unsafe {
            let native = rd_kafka_headers_new(pairs.len());
            for (name, value) in pairs {
                let (pointer, size) = value.map_or((std::ptr::null(), 0), |value| (value.as_ptr(), value.len()));
                rd_kafka_header_add(native, name.as_ptr().cast(), name.len() as isize, pointer.cast(), size as isize);
            }
            let headers = read(native, &Dropped::new(&dropped));
            rd_kafka_headers_destroy(native);
            headers
        }
    }

    /// The name of a header, its value, the name as it is kept, and whether the record can be handled.
    type Hostile = (&'static [u8], Option<&'static [u8]>, &'static str, bool);

    const HOSTILE: &[Hostile] = &[
        (b"plain", Some(b"1"), "plain", true),
        (b"", Some(b""), "", true),
        (b"", None, "", true),
        (b"a\0b", Some(b"x\0y"), "a\0b", true),
        (b"a\0b", None, "a\0b", true),
        (b"\0", Some(b"\xff\xfe"), "\0", true),
        (b"caf\xe9", Some(b"1"), "caf\\xe9", false),
        (b"\xff\xfe\0", None, "\\xff\\xfe\0", false),
        (b"\xed\xa0\x80", Some(b"surrogate"), "\\xed\\xa0\\x80", false),
        (b"\xc0\xaf", Some(b"overlong"), "\\xc0\\xaf", false),
        (b"\x1b[2J\n", Some(b"control"), "\x1b[2J\n", true),
        ("\u{202e}\u{feff}".as_bytes(), None, "\u{202e}\u{feff}", true),
    ];

    #[test]
    fn names_of_any_bytes_are_read_whole_and_never_panic() {
        for (name, value, kept, is_right) in HOSTILE {
            let headers = read_back(&[(name, *value)], &[]);
            assert_eq!((headers.list[0].name.as_str(), headers.list[0].value.as_deref()), (*kept, *value));
            assert_eq!(headers.wrong.is_none(), *is_right, "{headers:?}");
            assert!(headers.wrong.is_none_or(|reason| reason.contains(kept) && reason.contains("header 1")));
        }
        let long = vec![b'n'; 100_000];
        assert_eq!(read_back(&[(&long, None)], &[]).list[0].name.len(), 100_000);
    }

    proptest! {
        #[test]
        fn names_and_values_of_any_bytes_come_back(
            pairs in prop::collection::vec((any::<Vec<u8>>(), any::<Option<Vec<u8>>>()), 0..6),
        ) {
            let borrowed: Vec<_> = pairs.iter().map(|(name, value)| (name.as_slice(), value.as_deref())).collect();
            let headers = read_back(&borrowed, &[]);
            prop_assert_eq!(headers.list.len(), pairs.len());
            for (header, (name, value)) in headers.list.iter().zip(&pairs) {
                prop_assert_eq!((&header.name, &header.value), (&escaped(name), value));
            }
            let is_wrong = pairs.iter().any(|(name, _)| std::str::from_utf8(name).is_err());
            prop_assert_eq!(headers.wrong.is_some(), is_wrong);
        }
    }

    #[test]
    fn dropped_names_are_dropped_in_any_case() {
        let pairs: [(&[u8], Option<&[u8]>); 3] = [(b"Cookie", Some(b"s")), (b"cookies", Some(b"c")), (b"COOKIE", None)];
        let names: Vec<_> = read_back(&pairs, &["cookie"]).list.into_iter().map(|header| header.name).collect();
        assert_eq!(names, ["cookies"]);
    }
}
