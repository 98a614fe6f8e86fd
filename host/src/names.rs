//! Names from outside, which are parsed once. A [`Name`] or a [`MessageName`] always follows its rule. The guest SDK
//! has the same rules (`wasmill_names`).
//!
//! A name is safe as a part of a path, a URL or a log line. Nothing here knows what is named.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
pub use wasmill_names::{Rule, request};

/// The most characters of a refused text that an error shows.
const SHOWN_CHARACTERS: usize = 80;

/// The name of a part: a plugin, an aggregate type, a projection, a source, a schedule, a sink or a
/// subscription.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The name of a command, an event or a query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageName(Arc<str>);

/// The error for a text that is not a name. Its message completes a sentence about what should be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {}, found {}", .rule.in_words(), shown(.found))]
pub struct NameError {
    rule: Rule,
    found: String,
}

/// Returns the text if it follows the rule.
pub fn checked(text: &str, rule: Rule) -> Result<&str, NameError> {
    if rule.allows(text) { Ok(text) } else { Err(NameError { rule, found: text.to_owned() }) }
}

impl Name {
    /// The name in a text.
    ///
    /// ```
    /// use wasmill::names::Name;
    ///
    /// assert_eq!(&*Name::parse("daily-sales").unwrap(), "daily-sales");
    /// assert!(Name::parse("../events").unwrap_err().to_string().contains("a-z, 0-9"));
    /// ```
    pub fn parse(text: &str) -> Result<Self, NameError> {
        checked(text, Rule::Part).map(|text| Self(text.into()))
    }

    /// Returns the path of this name in a folder. It is never outside of the folder, because a name has no separators
    /// and is not `..`.
    pub fn within(&self, folder: &Path) -> PathBuf {
        folder.join(&*self.0)
    }
}

impl MessageName {
    /// The name in a text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        checked(text, Rule::Message).map(|text| Self(text.into()))
    }
}

macro_rules! is_text {
    ($($name:ident)*) => {
        $(
            impl Deref for $name {
                type Target = str;

                fn deref(&self) -> &str {
                    &self.0
                }
            }

            impl Borrow<str> for $name {
                fn borrow(&self) -> &str {
                    &self.0
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.fmt(f)
                }
            }

            impl From<$name> for Arc<str> {
                fn from(name: $name) -> Self {
                    name.0
                }
            }
        )*
    };
}

is_text! { Name MessageName }

/// Formats a text for an error: escaped, and cut if it is long.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_is_shown_escaped_and_cut() {
        for (text, shown) in [("", "found \"\""), ("a\0b", r#"found "a\0b""#), ("a\u{1b}[2J", r"\u{1b}[2J")] {
            let error = Name::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("must be 1 to 64") && error.contains(shown), "{error}");
            assert!(!error.chars().any(char::is_control), "{error:?}");
        }
        let long = MessageName::parse(&"x".repeat(100_000)).unwrap_err().to_string();
        assert!(long.len() < 300 && long.contains("(100000 bytes)"), "{long}");
    }

    #[test]
    fn a_name_stays_in_its_folder() {
        let folder = Path::new("read-models");
        assert_eq!(Name::parse("sales").unwrap().within(folder), folder.join("sales"));
    }
}
