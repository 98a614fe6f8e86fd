//! The rules for HTTP requests of plugins, which the host and the SDK's test kit share.

use core::fmt;

/// The header with the id of a request, as the draft of the IETF's HTTPAPI group (draft-ietf-httpapi-idempotency-key-header)
/// and most servers name it.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The header with the number of the attempt, from 1.
pub const ATTEMPT: &str = "wasmill-attempt";

/// The headers that a plugin can't set: those that the host sets, and those that belong to the connection.
const RESERVED: [&str; 14] = [
    ATTEMPT,
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    IDEMPOTENCY_KEY,
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The most bytes of a path with its query.
pub const PATH_BYTES_MAX: usize = 8 << 10;

/// The most headers of a request.
pub const HEADERS_MAX: usize = 100;

/// The most bytes of the names and values of all headers, before secrets are inserted.
pub const HEADER_BYTES_MAX: usize = 32 << 10;

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem<'t> {
    /// This is no method that can be sent.
    Method(&'t str),
    /// The path has this character, which must be percent-encoded.
    Character(char),
    /// The path leads upwards.
    Upwards,
    /// The path has this many bytes, which is too many.
    PathBytes(usize),
    /// There are this many headers, which is too many.
    Headers(usize),
    /// The headers have this many bytes, which is too many.
    HeaderBytes(usize),
    /// This is no name of a header.
    HeaderName(&'t str),
    /// The header of this name is the host's own.
    Reserved(&'t str),
    /// The header of this name has a value with bytes that no header may have.
    HeaderValue(&'t str),
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(text) => write!(f, "{text:?} is no method that can be sent: use one such as POST"),
            Self::Character(character) => write!(f, "its path has {character:?}: percent-encode it"),
            Self::Upwards => f.write_str("its path has `..`, which could leave what is granted: name the place itself"),
            Self::PathBytes(bytes) => {
                write!(f, "its path has {bytes} bytes, and at most {PATH_BYTES_MAX} are sent: use the body")
            }
            Self::Headers(count) => write!(f, "it has {count} headers, and at most {HEADERS_MAX} are sent"),
            Self::HeaderBytes(bytes) => {
                write!(f, "its headers have {bytes} bytes, and at most {HEADER_BYTES_MAX} are sent: use the body")
            }
            Self::HeaderName(text) => write!(f, "{text:?} is no name of a header"),
            Self::Reserved(name) => write!(f, "the header {name} is the host's own: leave it out"),
            Self::HeaderValue(name) => write!(f, "the value of the header {name} has bytes that no header may have"),
        }
    }
}

/// Checks a method: upper-case letters and hyphens, but not `CONNECT`, which asks for a tunnel.
///
/// ```
/// use wasmill_names::request;
///
/// assert!(request::check_method("PATCH").is_ok());
/// assert!(request::check_method("post").is_err());
/// ```
pub fn check_method(method: &str) -> Result<(), Problem<'_>> {
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if is_method && method != "CONNECT" { Ok(()) } else { Err(Problem::Method(method)) }
}

/// Checks a path with its query: visible ASCII without `#`, and no segment `..` before the query, also not percent-encoded, because
/// a server may decode a path before it resolves it.
///
/// ```
/// use wasmill_names::request;
///
/// assert!(request::check_path("charges/7?expand=a..b").is_ok());
/// assert!(request::check_path("charges/%2e%2E/admin").is_err());
/// ```
pub fn check_path(path: &str) -> Result<(), Problem<'static>> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Problem::PathBytes(path.len()));
    }
    if let Some(character) = path.chars().find(|character| !character.is_ascii_graphic() || *character == '#') {
        return Err(Problem::Character(character));
    }
    let path = path.split('?').next().unwrap_or_default();
    // The dots at the beginning of a segment, or none once it has something else.
    let mut dots = Some(0);
    for byte in Decoded(path.bytes()).chain([b'/']) {
        match (byte, dots) {
            // Some servers cut a segment at its parameters before they resolve it.
            (b'/' | b'\\' | b';', Some(2)) => return Err(Problem::Upwards),
            (b'/' | b'\\', _) => dots = Some(0),
            (b'.', Some(count)) => dots = Some(count + 1),
            _ => dots = None,
        }
    }
    Ok(())
}

/// Checks the headers of a plugin: each one, their number and their bytes.
pub fn check_headers<'t>(headers: impl Iterator<Item = (&'t str, &'t [u8])>) -> Result<(), Problem<'t>> {
    let (mut count, mut bytes) = (0, 0);
    for (name, value) in headers {
        check_header(name, value)?;
        count += 1;
        bytes += name.len() + value.len();
    }
    match (count, bytes) {
        (0..=HEADERS_MAX, 0..=HEADER_BYTES_MAX) => Ok(()),
        (0..=HEADERS_MAX, _) => Err(Problem::HeaderBytes(bytes)),
        _ => Err(Problem::Headers(count)),
    }
}

/// Checks a header of a plugin: a token as its name (RFC 9110, section 5.6.2) that is not the host's own, and a value without
/// control characters other than tabs.
///
/// ```
/// use wasmill_names::request;
///
/// assert!(request::check_header("x-kind", b"new").is_ok());
/// assert!(request::check_header("Host", b"elsewhere").is_err());
/// assert!(request::check_header("x-kind", b"new\r\nx-other: 1").is_err());
/// ```
pub fn check_header<'t>(name: &'t str, value: &[u8]) -> Result<(), Problem<'t>> {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_of_token) {
        return Err(Problem::HeaderName(name));
    }
    if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err(Problem::Reserved(name));
    }
    let is_allowed = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if value.iter().all(is_allowed) { Ok(()) } else { Err(Problem::HeaderValue(name)) }
}

/// The bytes of a percent-encoded text, decoded once.
struct Decoded<'t>(core::str::Bytes<'t>);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let byte = self.0.next()?;
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let mut ahead = self.0.clone();
        let (high, low) = (digit(ahead.next()), digit(ahead.next()));
        match (byte, high, low) {
            (b'%', Some(high), Some(low)) => {
                self.0 = ahead;
                u8::try_from(high * 16 + low).ok()
            }
            _ => Some(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate alloc;

    use super::*;

    #[test]
    fn a_path_stays_below_where_it_begins() {
        for path in
            ["", "a", "/a//b/", "a/...", "..a/b..", "a?b=../..", "@evil.com/", "%2525", "a%", "%zz", ".", "a/./b"]
        {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        for path in [
            "..",
            "../a",
            "a/..",
            "a/../b",
            "%2e%2e/a",
            ".%2E",
            "a%2f..",
            "a/..%5cb",
            "..;/a",
            "%2e%2e%3ba=b/c",
            "..\\a",
            "..?a",
        ] {
            assert_eq!(check_path(path), Err(Problem::Upwards), "{path}");
        }
        for (path, character) in [("a b", ' '), ("a\nb", '\n'), ("ä", 'ä'), ("a#b", '#')] {
            assert_eq!(check_path(path), Err(Problem::Character(character)), "{path}");
        }
    }

    #[test]
    fn a_request_has_limits() {
        let (long, many) = (["a"; PATH_BYTES_MAX + 1].concat(), [("a", &b"b"[..]); HEADERS_MAX + 1]);
        assert_eq!(check_path(&long), Err(Problem::PathBytes(PATH_BYTES_MAX + 1)));
        assert_eq!(check_path(&long[1..]), Ok(()));
        assert_eq!(check_headers(many.into_iter()), Err(Problem::Headers(HEADERS_MAX + 1)));
        assert_eq!(check_headers(many.into_iter().skip(1)), Ok(()));
        let large = [b'x'; HEADER_BYTES_MAX];
        assert_eq!(check_headers([("a", &large[..])].into_iter()), Err(Problem::HeaderBytes(HEADER_BYTES_MAX + 1)));
        assert_eq!(check_headers([("a", &large[1..])].into_iter()), Ok(()));
    }

    #[test]
    fn a_method_is_one_word_in_upper_case() {
        for method in ["GET", "POST", "VERSION-CONTROL"] {
            assert_eq!(check_method(method), Ok(()));
        }
        for method in ["", "get", "GET /", "CONNECT", "G\r\n"] {
            assert_eq!(check_method(method), Err(Problem::Method(method)));
        }
    }

    #[test]
    fn a_header_is_the_plugins_own_and_a_line() {
        assert_eq!(check_header("X_a.b", b"\x80 \t"), Ok(()));
        for name in ["", "a b", "a:", "\u{e4}"] {
            assert_eq!(check_header(name, b""), Err(Problem::HeaderName(name)));
        }
        for name in RESERVED.into_iter().chain(["Host", "Idempotency-KEY"]) {
            assert_eq!(check_header(name, b""), Err(Problem::Reserved(name)));
        }
        for value in ["a\r", "a\nb", "\0", "\x7f"] {
            assert_eq!(check_header("a", value.as_bytes()), Err(Problem::HeaderValue("a")), "{value:?}");
        }
    }
}
