//! The failures of commands: an exit code, and a message for the person or the program.

use super::output;
use crate::escape::escape;
use crate::manifest;
use std::io::Write as _;
use std::process::ExitCode;

/// The reason why a command failed.
#[derive(Debug)]
pub(super) struct CommandFailure {
    code: u8,
    /// The messages, one for each problem.
    texts: Vec<String>,
    /// Whether it is certain that nothing of the request reached a host.
    is_unsent: bool,
}

impl CommandFailure {
    /// Makes a failure for a request that failed or was refused.
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self { code: 1, texts: vec![text.into()], is_unsent: false }
    }

    /// Notes that nothing of the request reached a host.
    pub(super) fn unsent(self) -> Self {
        Self { is_unsent: true, ..self }
    }

    /// Whether it is certain that nothing of the request reached a host.
    pub(super) fn is_unsent(&self) -> bool {
        self.is_unsent
    }

    /// Makes a failure for several problems.
    pub(super) fn all_failed(texts: Vec<String>) -> Self {
        Self { code: 1, texts, is_unsent: false }
    }

    /// Makes a failure for a wrong command line or manifest.
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, texts: vec![text.into()], is_unsent: false }
    }

    /// Makes a failure for a host that must exit because another host has taken over its store.
    pub(super) fn taken_over(text: impl Into<String>) -> Self {
        Self { code: TAKEN_OVER, texts: vec![text.into()], is_unsent: false }
    }

    /// Makes a failure whose message is already printed.
    pub(super) fn told() -> Self {
        Self { code: 1, texts: Vec::new(), is_unsent: false }
    }

    /// Makes a failure for output that nobody reads any more, as in `wasmill events | head`. The command then ends
    /// without an error message.
    pub(super) fn nobody_reads() -> Self {
        Self { code: 0, texts: Vec::new(), is_unsent: false }
    }

    /// Makes a failure for a request that is under way and was not done in time.
    pub(super) fn under_way(text: impl Into<String>) -> Self {
        Self { code: UNDER_WAY, texts: vec![text.into()], is_unsent: false }
    }

    /// Makes a failure for a request that was not done in time, which is already printed.
    pub(super) fn told_under_way() -> Self {
        Self { code: UNDER_WAY, texts: Vec::new(), is_unsent: false }
    }

    /// Makes a failure for a command that a signal interrupted.
    pub(super) fn interrupted() -> Self {
        Self { code: INTERRUPTED, texts: vec!["interrupted".to_owned()], is_unsent: false }
    }

    /// Returns the messages, one per line.
    pub(super) fn text(&self) -> String {
        self.texts.join("\n")
    }

    /// Prints the messages, as JSON on standard output or as text on standard error, and returns the exit code.
    pub(super) fn report(self, json: bool) -> ExitCode {
        let text = self.text();
        if json && !text.is_empty() {
            // If even this can't be written, only the exit code is left.
            let _ = output::line(&serde_json::json!({ "error": text }).to_string());
        } else {
            // If standard error can't be written, only the exit code is left.
            text.lines().for_each(|line| _ = writeln!(std::io::stderr(), "error: {}", escape(line)));
        }
        ExitCode::from(self.code)
    }
}

/// The exit code of a host whose store another host took over.
pub(super) const TAKEN_OVER: u8 = 4;

/// The exit code if the request is still under way.
const UNDER_WAY: u8 = 3;

/// The exit code of a process that SIGINT ended, as in shells.
pub(super) const INTERRUPTED: u8 = 130;

impl From<manifest::Error> for CommandFailure {
    fn from(error: manifest::Error) -> Self {
        Self::usage(error.to_string())
    }
}

/// Refuses a change that can't be undone unless `--yes` confirms it.
pub(super) fn confirmed(yes: bool, consequence: &str) -> Result<(), CommandFailure> {
    if yes {
        Ok(())
    } else {
        Err(CommandFailure::failed(format!("{consequence}\nnothing was changed; add --yes to do it")))
    }
}
