//! The rule for texts that name an aggregate or a command. It is the same for every input.
//!
//! An id comes from an HTTP path, from the key of a Kafka record, from a subscriber, or from a dead letter that is
//! retried. All of them pass [`IdRule::check`] before they reach an aggregate, so all of them get the same answer.
//! Nothing here knows where the text came from.

use crate::escape::escape;

/// The default of the longest id, in bytes.
pub const ID_BYTES_MAX: usize = 512;

/// The most characters of a refused id that the error shows.
const SHOWN_MAX: usize = 40;

/// The rule: a text is not empty, not longer than a limit, and has no control characters. Its type ensures that it is
/// UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRule {
    /// The longest id, in bytes.
    pub bytes_max: usize,
}

impl Default for IdRule {
    fn default() -> Self {
        Self { bytes_max: ID_BYTES_MAX }
    }
}

impl IdRule {
    /// Checks a text. `what` names it in the error, such as `aggregate id`.
    pub fn check(self, what: &str, text: &str) -> Result<(), String> {
        // Each command passes through here. Nearly all ids are printable ASCII, for which this check is fast.
        let is_plain = text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'));
        let is_sound = (1..=self.bytes_max).contains(&text.len()) && (is_plain || !text.chars().any(char::is_control));
        if is_sound { Ok(()) } else { Err(self.explain(what, text)) }
    }

    #[cold]
    fn explain(self, what: &str, text: &str) -> String {
        let rule = format!("1 to {} bytes without control characters (store.id_bytes_max)", self.bytes_max);
        let found = match text.char_indices().find(|(_, char)| char.is_control()) {
            _ if text.is_empty() => return format!("the {what} is empty: it must be {rule}"),
            _ if text.len() > self.bytes_max => format!("{} bytes", text.len()),
            Some((place, char)) => format!("the control character {} at byte {place}", char.escape_unicode()),
            None => unreachable!("a text that keeps the rule is not explained"),
        };
        let shown: String = text.chars().take(SHOWN_MAX).collect();
        let cut = if shown.len() < text.len() { "…" } else { "" };
        format!("the {what} \"{}{cut}\" has {found}: it must be {rule}", escape(&shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_keeps_the_rule_or_is_told_what_is_wrong() {
        let rule = IdRule { bytes_max: 8 };
        for id in ["1", "a/b c", "größe", "日本", "12345678"] {
            assert_eq!(rule.check("aggregate id", id), Ok(()), "{id}");
        }
        for (id, expected) in [
            ("", "the aggregate id is empty: it must be 1 to 8 bytes"),
            ("123456789", "the aggregate id \"123456789\" has 9 bytes"),
            ("a\0b", "\"a\\0b\" has the control character \\u{0} at byte 1"),
            ("a\nb", "\"a\\nb\" has the control character \\u{a}"),
            ("\u{1b}[2J", "has the control character \\u{1b} at byte 0"),
            ("ä\u{85}", "has the control character \\u{85} at byte 2"),
            ("\u{7f}", "has the control character \\u{7f}"),
        ] {
            let error = rule.check("aggregate id", id).unwrap_err();
            assert!(error.contains(expected) && error.contains("store.id_bytes_max"), "{error}");
        }
        let error = IdRule::default().check("aggregate id", &"x".repeat(60_000)).unwrap_err();
        assert!(error.len() < 200, "a refusal does not repeat a long id: {error}");
    }

    proptest! {
        /// The fast check of plain ASCII gives the same result as the rule.
        #[test]
        fn the_rule_is_what_it_says(text in "\\PC{0,12}|[\\x00-\\xff]{0,12}") {
            let expected = !text.is_empty() && text.len() <= 16 && !text.chars().any(char::is_control);
            prop_assert_eq!(IdRule { bytes_max: 16 }.check("id", &text).is_ok(), expected);
        }
    }
}
