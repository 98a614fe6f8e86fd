//! Texts that come from a plugin: what its guests say, and what libraries say about its bytes.
//!
//! A plugin may say anything of any length. Each of its texts passes through one of these functions where it enters the
//! host, so what the host keeps is bounded, and what becomes part of an error or of the log is one readable line.
//! Nothing here knows where a text is shown.

use crate::escape::escape;
use std::fmt::Display;

/// The maximum size of a text of a guest that becomes part of a line: of the log or of an error. In bytes.
pub(super) const LINE_BYTES_MAX: usize = 8 << 10;

/// The maximum size of the reason that a guest gives for an outcome, in bytes. A program may read it.
const REASON_BYTES_MAX: usize = 64 << 10;

/// The maximum size of what a library says about a plugin's bytes or about a call, in bytes.
const LIBRARY_BYTES_MAX: usize = 2_000;

/// Returns a text of a guest as a part of a line.
pub(super) fn line(text: &str) -> String {
    shortened(text, LINE_BYTES_MAX)
}

/// Returns the reason why a guest refused something, as a part of an error.
pub(super) fn reason_line(text: &str) -> String {
    if text.trim().is_empty() { "it does not say why".to_owned() } else { line(text) }
}

/// Returns a reason that a guest gives for an outcome. It may have several lines, and must be escaped where it is shown.
pub(super) fn reason(mut text: String) -> String {
    if text.len() > REASON_BYTES_MAX {
        let end = text.floor_char_boundary(REASON_BYTES_MAX);
        let cut = text.len() - end;
        text.truncate(end);
        text.shrink_to_fit();
        text.push_str(&cut_note(cut));
    }
    text
}

/// Returns what a library says about a plugin, as a part of an error: about its bytes, a call or its SQL. Such a text may quote
/// anything that the plugin says, and have several lines.
pub(crate) fn of_library(error: &dyn Display) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    shortened(&lines.join(" "), LIBRARY_BYTES_MAX)
}

/// Escapes a text and cuts it, so that the result has about `bytes_max` bytes.
fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        let escaped = escape(text);
        if escaped.len() <= bytes_max {
            return escaped.into_owned();
        }
    }
    // An escape is longer than what it stands for.
    let mut escaped_bytes = 0;
    let end = text.char_indices().find_map(|(at, char)| {
        escaped_bytes += escape(char.encode_utf8(&mut [0; 4])).len();
        (escaped_bytes > bytes_max).then_some(at)
    });
    let end = end.unwrap_or(text.len());
    escape(&text[..end]).into_owned() + &cut_note(text.len() - end)
}

fn cut_note(bytes: usize) -> String {
    format!("… ({bytes} bytes cut)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_of_a_guest_stays_a_line() {
        assert_eq!(line("plain"), "plain");
        assert_eq!(line("a\nb\u{1b}[2Jé\u{202e}"), "a\\nb\\u{1b}[2Jé\\u{202e}");
        assert_eq!(line(&"x".repeat(LINE_BYTES_MAX + 5)), format!("{}… (5 bytes cut)", "x".repeat(LINE_BYTES_MAX)));
        assert_eq!(reason_line(" \n"), "it does not say why");
        assert_eq!(reason_line("no rule\n"), "no rule\\n");
    }

    #[test]
    fn a_reason_keeps_its_lines_and_is_cut() {
        assert_eq!(reason("a\nb".to_owned()), "a\nb");
        let cut = reason("é".repeat(REASON_BYTES_MAX));
        assert_eq!(cut, format!("{}… ({REASON_BYTES_MAX} bytes cut)", "é".repeat(REASON_BYTES_MAX / 2)));
    }

    #[test]
    fn the_lines_of_a_library_are_joined() {
        assert_eq!(of_library(&"failed to parse\n  --> here\r\n\n   | \u{1b}x"), "failed to parse --> here | \\u{1b}x");
        assert!(of_library(&"\u{7}".repeat(10_000)).len() < LIBRARY_BYTES_MAX + 40);
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_bounded_line(text in "(?s:.{0,300})", repeated in 1..100_usize) {
            let text = text.repeat(repeated);
            for (line, bytes_max) in [(line(&text), LINE_BYTES_MAX), (of_library(&text), LIBRARY_BYTES_MAX)] {
                prop_assert!(line.len() < bytes_max + 40 && !line.chars().any(char::is_control));
            }
        }
    }
}
