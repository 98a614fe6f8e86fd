//! Bytes before the actual content of a payload: a schema id, or a byte order mark.
//!
//! The host passes payloads on unchanged, because only the guest knows their encoding. If a guest can't read a payload,
//! its error ("expected value at line 1 column 1") does not say that the first bytes are not content. This does.

/// UTF-8's byte order mark.
pub const BOM: &[u8] = "\u{feff}".as_bytes();

/// Returns the framing that bytes begin with, and the remedy, as the end of a sentence about `what`.
pub fn hint(what: &str, bytes: &[u8]) -> Option<String> {
    if bytes.starts_with(BOM) {
        return Some(format!("the {what} begins with a byte order mark: produce it without one"));
    }
    match bytes {
        // Serializers of registries write a zero byte and the number of the schema, in network order, before the
        // content.
        [0, a, b, c, d, _, ..] => Some(format!(
            "the {what} begins with a zero byte and {}, as serializers of a schema registry write the number of a \
             schema (Confluent's wire format): produce it without",
            u32::from_be_bytes([*a, *b, *c, *d])
        )),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(format!("the {what} begins as UTF-16 does: produce it in UTF-8")),
        _ => None,
    }
}

/// Adds a hint to a reason if the bytes that it is about begin with framing.
pub fn explained(reason: String, what: &str, bytes: &[u8]) -> String {
    match hint(what, bytes) {
        Some(hint) => format!("{reason}; {hint}"),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_content_is_named() {
        for (bytes, expected) in [
            (&b"\xef\xbb\xbf{}"[..], Some("byte order mark")),
            (b"\0\0\0\x01\x02{}", Some("zero byte and 258")),
            (b"\xff\xfe{\0", Some("UTF-16")),
            (b"\0\0\0\x01", None),
            (b"{}", None),
            (b"", None),
            (b"\xef\xbb", None),
        ] {
            let reason = explained("it is no JSON".into(), "value", bytes);
            match expected {
                Some(expected) => assert!(reason.starts_with("it is no JSON; the value") && reason.contains(expected)),
                None => assert_eq!(reason, "it is no JSON"),
            }
        }
    }
}
