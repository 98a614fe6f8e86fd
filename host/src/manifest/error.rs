//! The errors of a manifest, with the line, the cause and the remedy.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The reason why a manifest can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("cannot read the manifest {}: {cause}", path.display())]
    Unreadable {
        /// The path, as it was given.
        path: PathBuf,
        /// The error of the operating system.
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
        /// The rest of the sentence, which says what was expected.
        cause: String,
    },
}

/// One problem and its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The manifest, as it was given.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The message, with the key and what was expected.
    pub text: String,
}

impl Problem {
    /// Makes a problem at a byte offset of the manifest's text.
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
