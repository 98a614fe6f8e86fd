//! What is wrong with a manifest, in words that lead to the line and to the remedy.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why there is no manifest.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("cannot read the manifest {}: {cause}", path.display())]
    Unreadable {
        /// As it was given.
        path: PathBuf,
        /// From the operating system.
        cause: Arc<std::io::Error>,
    },
    /// The text is not a valid manifest. The message has a line for each problem.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
    /// A value from the command line is not valid.
    #[error("{option} {cause}")]
    Override {
        /// The option.
        option: &'static str,
        /// What was expected.
        cause: String,
    },
}

/// One thing that is wrong, and its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The manifest, as it was given.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Names the key and what was expected.
    pub text: String,
}

impl Problem {
    /// A problem at a byte offset of the manifest's text.
    pub(super) fn at(path: &Path, manifest: &str, offset: usize, text: String) -> Self {
        let before = &manifest[..manifest.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            text,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.text)
    }
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "\n" })?;
            problem.fmt(f)?;
        }
        Ok(())
    }
}
