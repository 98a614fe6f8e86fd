//! The rules for names. The host checks names from outside against them, and the guest SDK checks the same rules while
//! a plugin compiles.
//!
//! Every rule is a `const fn`. What patterns of events match is in [`pattern`], and what an HTTP
//! request of a plugin may be in [`request`]. A name that follows a rule of this crate is safe as a part of a path, a URL or a log
//! line: it is not empty, not `.` or `..`, and has neither separators nor control characters. Nothing here allocates,
//! and nothing here knows what a name is used for.
#![no_std]

pub mod pattern;
pub mod request;

/// A kind of name, with the characters and the length that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The name of a plugin, an aggregate type, a projection, a source, a schedule, a sink or a subscription: 1 to 64
    /// characters of `a-z`, `0-9` and `-`.
    Part,
    /// The name of a command, an event or a query: 1 to 128 characters of `A-Z`, `a-z`, `0-9`, `_`, `-` and `.`. The
    /// parts between the dots must not be empty.
    Message,
    /// The name of a plugin's crate: 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_` and `-`.
    Crate,
    /// The version of a plugin: 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `.`, `-` and `+`. The first one is a digit.
    Version,
    /// A pattern over `aggregate-type.EventName`: like the name of a message, but with up to 194 characters, of which
    /// some may be `*`.
    Pattern,
}

impl Rule {
    /// Returns whether a text follows the rule.
    ///
    /// ```
    /// use wasmill_names::Rule;
    ///
    /// assert!(Rule::Part.allows("daily-sales"));
    /// assert!(!Rule::Part.allows(".."));
    /// assert!(Rule::Message.allows("item.Added"));
    /// assert!(!Rule::Message.allows("item..Added"));
    /// ```
    pub const fn allows(self, text: &str) -> bool {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > self.length_max() {
            return false;
        }
        let allowed = self.allowed_bytes();
        let mut previous = b'.';
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            if !allowed[byte as usize] || byte == b'.' && previous == b'.' && self.has_segments() {
                return false;
            }
            previous = byte;
            at += 1;
        }
        if previous == b'.' && self.has_segments() {
            return false;
        }
        !matches!(self, Rule::Version) || bytes[0].is_ascii_digit()
    }

    /// Returns the most characters that the rule allows.
    pub const fn length_max(self) -> usize {
        match self {
            Rule::Part | Rule::Crate | Rule::Version => 64,
            Rule::Message => 128,
            // A type, a dot and an event's name, with a wildcard in place of either.
            Rule::Pattern => 64 + 2 + 128,
        }
    }

    /// Returns the rule in words, for a sentence with "must be".
    pub const fn in_words(self) -> &'static str {
        match self {
            Rule::Part => "1 to 64 characters of a-z, 0-9 and `-`",
            Rule::Message => "1 to 128 characters of a-z, A-Z, 0-9, `_`, `-` and `.`, without empty parts between dots",
            Rule::Crate => "1 to 64 characters of a-z, A-Z, 0-9, `_` and `-`",
            Rule::Version => "1 to 64 characters of a-z, A-Z, 0-9, `.`, `-` and `+`, and begin with a digit",
            Rule::Pattern => {
                "`aggregate-type.EventName`: 1 to 194 characters of a-z, A-Z, 0-9, `_`, `-`, `.` and `*`, without empty \
                 parts between dots"
            }
        }
    }

    const fn has_segments(self) -> bool {
        matches!(self, Rule::Message | Rule::Pattern)
    }

    /// Returns a table of the bytes that the rule allows. Guests' names are checked in each call, and a table is quick.
    const fn allowed_bytes(self) -> &'static [bool; 256] {
        const fn table(rule: Rule) -> [bool; 256] {
            let mut table = [false; 256];
            let mut byte = 0;
            while byte < 128 {
                table[byte] = rule.allows_byte(byte as u8);
                byte += 1;
            }
            table
        }
        const TABLES: [[bool; 256]; 5] =
            [table(Rule::Part), table(Rule::Message), table(Rule::Crate), table(Rule::Version), table(Rule::Pattern)];
        &TABLES[self as usize]
    }

    const fn allows_byte(self, byte: u8) -> bool {
        match self {
            Rule::Part => byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-',
            Rule::Message => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'),
            Rule::Crate => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
            Rule::Version => byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'),
            Rule::Pattern => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'*'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rule;

    const RULES: [Rule; 5] = [Rule::Part, Rule::Message, Rule::Crate, Rule::Version, Rule::Pattern];

    #[test]
    fn what_could_leave_a_folder_or_a_line_is_no_name() {
        for text in ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\0b", "a\nb", "a b", "a\u{1b}[2J", "é", "\u{feff}a"]
        {
            for rule in RULES {
                assert!(!rule.allows(text), "{rule:?} allows {text:?}");
            }
        }
    }

    #[test]
    fn each_rule_allows_what_it_is_for() {
        for (rule, good, bad) in [
            (Rule::Part, ["order", "a", "daily-sales-2"].as_slice(), ["Order", "a_b", "a.b", "*"].as_slice()),
            (Rule::Message, &["OrderCreated", "item.Added", "a_b-c"], &[".a", "a.", "a..b", "a*", "*"]),
            (Rule::Crate, &["orders", "My_crate-2"], &["a.b"]),
            (Rule::Version, &["0.1.0", "1.0.0-rc.1+linux"], &["v1", ".1", "-1"]),
            (Rule::Pattern, &["order.*", "**", "order.OrderCreated"], &["order.", ".*", "a..b"]),
        ] {
            assert!(good.iter().all(|text| rule.allows(text)), "{rule:?}");
            assert!(bad.iter().all(|text| !rule.allows(text)), "{rule:?}");
        }
    }

    #[test]
    fn a_name_has_a_length() {
        const LONG: &str = match core::str::from_utf8(&[b'1'; 200]) {
            Ok(text) => text,
            Err(_) => unreachable!(),
        };
        for rule in RULES {
            let max = rule.length_max();
            assert!(rule.allows(&LONG[..max]) && !rule.allows(&LONG[..max + 1]), "{rule:?}");
        }
    }
}
