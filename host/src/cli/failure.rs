//! How a command fails: an exit code, and what the person or the program is told.

use super::output;
use crate::escape::escape;
use crate::manifest;
use std::io::Write as _;
use std::process::ExitCode;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    /// One problem each.
    texts: Vec<String>,
}

impl Failure {
    /// What was asked for failed or was refused.
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self { code: 1, texts: vec![text.into()] }
    }

    /// Several things failed.
    pub(super) fn all_failed(texts: Vec<String>) -> Self {
        Self { code: 1, texts }
    }

    /// The command line or the manifest is wrong.
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, texts: vec![text.into()] }
    }

    /// The host must end: another one has its store.
    pub(super) fn taken_over(text: impl Into<String>) -> Self {
        Self { code: TAKEN_OVER, texts: vec![text.into()] }
    }

    /// It failed, and what there is to say has been printed.
    pub(super) fn told() -> Self {
        Self { code: 1, texts: Vec::new() }
    }

    /// Nobody reads the output any more, as in `wasmill events | head`: a reason to end, not an error.
    pub(super) fn nobody_reads() -> Self {
        Self { code: 0, texts: Vec::new() }
    }

    /// It is under way, and was not done when the time was up.
    pub(super) fn under_way(text: impl Into<String>) -> Self {
        Self { code: UNDER_WAY, texts: vec![text.into()] }
    }

    /// A signal ended it before it was done.
    pub(super) fn interrupted() -> Self {
        Self { code: INTERRUPTED, texts: vec!["interrupted".to_owned()] }
    }

    /// What there is to say.
    pub(super) fn text(&self) -> String {
        self.texts.join("\n")
    }

    /// Says it, on the standard output as JSON or on the standard error in words.
    pub(super) fn report(self, json: bool) -> ExitCode {
        let text = self.text();
        if json && !text.is_empty() {
            // Where even this can't be written, the exit code is all that is left.
            let _ = output::line(&serde_json::json!({ "error": text }).to_string());
        } else {
            // Without a standard error that takes it, the exit code has to do.
            text.lines().for_each(|line| _ = writeln!(std::io::stderr(), "error: {}", escape(line)));
        }
        ExitCode::from(self.code)
    }
}

/// The exit code of a host whose store another host took over.
pub(super) const TAKEN_OVER: u8 = 4;

/// The exit code when what was asked for is under way.
const UNDER_WAY: u8 = 3;

/// The exit code of a process that SIGINT ended, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;

impl From<manifest::Error> for Failure {
    fn from(error: manifest::Error) -> Self {
        Self::usage(error.to_string())
    }
}
