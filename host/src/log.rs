//! The log of a running host: its destination, the format of a line, and the summary of similar lines.
//!
//! A line for people is always one line, because text from outside is [escaped](crate::escape). A line for programs is
//! JSON. The first lines of a kind are written, and the rest are counted ([`limit`]). Lines of level `debug` and
//! `trace` are never summarised, because somebody has requested them.

pub mod limit;

use crate::escape::escape;
use limit::{Limit, Limiter};
use std::fmt::Debug;
use std::io::IsTerminal;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable with the filter of log lines, such as `info` or `wasmill=debug`.
const LOG_VARIABLE: &str = "WASMILL_LOG";

/// The environment variable that turns colours off if it is not empty: <https://no-color.org>.
const NO_COLOR: &str = "NO_COLOR";

/// Sends the log of this process to standard error, as text, or as JSON for programs. Returns the handle that must
/// report the summaries. Fails if the filter in the environment is invalid.
pub fn start(json: bool) -> Result<Limit, String> {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&wanted)
        .map_err(|cause| format!("{LOG_VARIABLE} is not a log filter such as `info`: {cause}"))?;
    let limit = Limit::default();
    // A line that can't be written, as on a full disk, is lost. A report to standard error would panic there.
    let lines = tracing_subscriber::fmt::layer().log_internal_errors(false).with_writer(std::io::stderr);
    let log = tracing_subscriber::registry().with(filter).with(Limiter::new(limit.clone()));
    if json {
        log.with(lines.json()).init();
    } else {
        let colours = std::io::stderr().is_terminal() && std::env::var_os(NO_COLOR).is_none_or(|set| set.is_empty());
        log.with(lines.with_ansi(colours).with_target(false).fmt_fields(debug_fn(field).delimited(" "))).init();
    }
    Ok(limit)
}

/// Writes a field of a line: the message without its name, and other fields with their names.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let value = format!("{value:?}");
    let value = escape(&value);
    match (field.name(), writer.has_ansi_escapes()) {
        ("message", _) => writer.write_str(&value),
        (name, true) => write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{value}"),
        (name, false) => write!(writer, "{name}={value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{self, Read as _};
    use std::os::fd::FromRawFd as _;
    use std::process::{Command, Stdio};
    use std::ptr;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_stays_a_line_whatever_is_in_it() {
        let kept = Kept::default();
        let lines = tracing_subscriber::fmt::layer().with_writer(kept.clone()).with_ansi(false).without_time();
        let lines = lines.with_target(false).fmt_fields(debug_fn(field).delimited(" "));
        let hostile = "a\u{1b}[2J\nERROR forged\u{202e}";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::warn!(place = %hostile, key = hostile, "dead-lettered: {hostile}");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let shown = "a\\u{1b}[2J\\nERROR forged\\u{202e}";
        assert_eq!(text, format!(" WARN dead-lettered: {shown} place={shown} key=\"{shown}\"\n"));
    }

    /// The environment variable of the process that writes a line.
    const WRITES: &str = "WASMILL_TEST_WRITES_A_LINE";

    /// Returns what a process writes to standard error, which is a terminal or a file, with this value of `NO_COLOR`.
    fn written(no_color: Option<&str>, on_terminal: bool) -> String {
        let mut writer = Command::new(std::env::current_exe().unwrap());
        writer.args(["--exact", "log::tests::colours_are_for_terminals_whose_user_wants_them", "--nocapture"]);
        writer.env(WRITES, "1").env_remove(LOG_VARIABLE).env_remove(NO_COLOR).stdout(Stdio::null());
        if let Some(value) = no_color {
            writer.env(NO_COLOR, value);
        }
        let (mut reading, writing) = if on_terminal { terminal() } else { file() };
        assert!(writer.stderr(writing).status().unwrap().success());
        // Otherwise reading from the terminal would never end.
        drop(writer);
        let mut text = Vec::new();
        // Reading from a terminal that nobody else has open ends with an error, after everything that was written to
        // it.
        let _ = reading.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    /// Opens both sides of a terminal.
    fn terminal() -> (File, File) {
        let (mut ours, mut theirs) = (-1, -1);
        let (name, settings, size) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: the call writes two descriptors, which nobody else owns, and reads nothing.
        unsafe {
            assert_eq!(libc::openpty(&raw mut ours, &raw mut theirs, name, settings, size), 0);
            (File::from_raw_fd(ours), File::from_raw_fd(theirs))
        }
    }

    /// Opens a file for reading and for writing.
    fn file() -> (File, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        (file.reopen().unwrap(), file.reopen().unwrap())
    }

    #[test]
    fn colours_are_for_terminals_whose_user_wants_them() {
        if std::env::var_os(WRITES).is_some() {
            start(false).unwrap();
            tracing::warn!(place = 7, "a line");
            return;
        }
        for (no_color, on_terminal, has_colours) in [
            (None, true, true),
            (Some(""), true, true),
            (Some("1"), true, false),
            (Some("0"), true, false),
            (None, false, false),
            (Some("1"), false, false),
        ] {
            let text = written(no_color, on_terminal);
            assert!(text.contains("a line"), "{text:?}");
            assert_eq!(
                text.contains("\u{1b}["),
                has_colours,
                "NO_COLOR {no_color:?}, terminal {on_terminal}: {text:?}"
            );
        }
    }
}
