//! Writing to standard output. If nobody reads the output any more, the command ends quietly.

use super::failure::CommandFailure;
use std::io::{self, Write};

/// Writes a line.
pub(super) fn line(text: &str) -> Result<(), CommandFailure> {
    self::text(&format!("{text}\n"))
}

/// Writes text without adding a line end.
pub(super) fn text(text: &str) -> Result<(), CommandFailure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failure)
}

/// Turns a failed write into a failure.
pub(super) fn failure(cause: io::Error) -> CommandFailure {
    match cause.kind() {
        io::ErrorKind::BrokenPipe => CommandFailure::nobody_reads(),
        _ => CommandFailure::failed(format!("cannot write to standard output: {cause}")),
    }
}
