//! Writing to the standard output without falling over where nobody reads it.

use super::failure::Failure;
use std::io::{self, Write};

/// Writes a line.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    self::text(&format!("{text}\n"))
}

/// Writes text as it is.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failure)
}

/// What a failed write means.
pub(super) fn failure(cause: io::Error) -> Failure {
    match cause.kind() {
        io::ErrorKind::BrokenPipe => Failure::nobody_reads(),
        _ => Failure::failed(format!("cannot write to the standard output: {cause}")),
    }
}
