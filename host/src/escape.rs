//! Escaping of text from outside, before a person reads it on a terminal, in a table or in the log.
//!
//! Ids, keys, reasons and payloads come from senders and plugins. Without escaping, a line break would forge a line,
//! ESC would control the terminal, and a direction mark would show text in another order. [`escape`] is the only
//! function that tables, messages and log fields use. JSON for programs has its own escapes and does not use it.

use std::borrow::Cow;
use std::fmt::Write;

/// Writes out all characters that a terminal would obey or hide: `\n`, `\u{1b}`, `\u{202e}`.
///
/// ```
/// assert_eq!(wasmill::escape::escape("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\nb");
/// assert_eq!(wasmill::escape::escape("größer"), "größer");
/// ```
pub fn escape(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_hostile) else { return Cow::Borrowed(text) };
    let mut escaped = String::with_capacity(text.len() + 16);
    escaped.push_str(&text[..first]);
    for char in text[first..].chars() {
        match char {
            '\0' => escaped.push_str("\\0"),
            char if is_hostile(char) && char.is_ascii() => escaped.extend(char.escape_default()),
            char if is_hostile(char) => {
                // Writing to a text never fails.
                let _ = write!(escaped, "{}", char.escape_unicode());
            }
            char => escaped.push(char),
        }
    }
    Cow::Owned(escaped)
}

/// Escapes the lines of a text one by one, for output that keeps its line breaks.
pub fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// Returns whether a character must be escaped: control characters; marks, embeddings, overrides and isolates of
/// direction; separators of lines and paragraphs; tags; and characters without width, which make two texts look alike.
fn is_hostile(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        for (text, expected) in [
            ("order/1", "order/1"),
            ("größer 日本 👩‍👩‍👧", "größer 日本 👩‍👩‍👧"),
            (r#"{"a":"b\nc"}"#, r#"{"a":"b\nc"}"#),
            ("a\nINFO forged", "a\\nINFO forged"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("a\0b\tc\rd", "a\\0b\\tc\\rd"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("invoice\u{202e}fdp.exe", "invoice\\u{202e}fdp.exe"),
            ("\u{feff}key", "\\u{feff}key"),
            ("a\u{2028}b", "a\\u{2028}b"),
        ] {
            assert_eq!(escape(text), expected, "{text:?}");
        }
        assert_eq!(escape_lines("a\u{1b}\nb\r\nc"), "a\\u{1b}\nb\nc");
    }

    proptest! {
        #[test]
        fn nothing_hostile_is_left_and_nothing_else_is_changed(text in "\\PC{0,20}|(?s:.{0,20})") {
            let escaped = escape(&text);
            prop_assert!(!escaped.chars().any(is_hostile));
            if !text.chars().any(is_hostile) {
                prop_assert_eq!(&*escaped, text.as_str());
            }
            prop_assert_eq!(escape(&escaped), escaped.clone(), "escaping again changes nothing");
        }
    }
}
