//! The reasons why statements fail, with the limit or the remedy.

use crate::Limits;
use crate::rules::NOT_ALLOWED;
use rusqlite::ErrorCode;
use std::fmt;
use std::path::Path;

/// Bytes that must be free on the disk. With less, the disk is full rather than the read model.
const PROBE_BYTES: usize = 256 << 10;

/// The reason why a statement failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason, and the remedy if one is known.
    pub text: String,
    /// The problem of the file or machine. It is none if the statement or its values are at fault.
    pub trouble: Option<Trouble>,
}

/// A problem of the read model's file or of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The file is damaged. Retrying does not help.
    Damaged,
    /// The disk is full or fails, memory is short, or another process has locked the file. Retrying may help.
    Passing,
}

impl Refused {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), trouble: None }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

impl Trouble {
    /// Returns the problem of the file or machine that an error of SQLite shows, if it shows one.
    pub fn of(error: &rusqlite::Error) -> Option<Self> {
        match error.sqlite_error_code()? {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Some(Self::Damaged),
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::OperationInterrupted
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::CannotOpen
            | ErrorCode::FileLockingProtocolFailed => Some(Self::Passing),
            _ => None,
        }
    }
}

pub(crate) fn explained(
    error: &rusqlite::Error,
    limits: &Limits,
    by_memory: bool,
    has_room: impl FnOnce() -> bool,
) -> Refused {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match error.sqlite_error_code() {
        Some(ErrorCode::AuthorizationForStatementDenied) => Refused::new(NOT_ALLOWED),
        Some(ErrorCode::ReadOnly) => {
            Refused::new("the read model is read-only inside a query: write to it in `project`")
        }
        Some(ErrorCode::OperationInterrupted) if by_memory => Refused::new(format!(
            "the statement needs more memory than limits.sql_memory_mib allows ({} MiB): sort and group less at once, or \
             raise the limit",
            mib(limits.memory_bytes_max as u64)
        )),
        Some(ErrorCode::OperationInterrupted) => Refused::new(
            "the statement took longer than limits.event_time_ms allows: add an index or a LIMIT, or raise the limit",
        ),
        Some(ErrorCode::TooBig) => Refused::new(format!(
            "{error}: a text, a blob or a row has more than limits.sql_value_mib allows ({} MiB), or the statement itself \
             is too long: store less in one, or raise the limit",
            mib(limits.value_bytes_max as u64)
        )),
        Some(ErrorCode::DiskFull) if has_room() => Refused::new(format!(
            "the read model has no room left: it reaches limits.read_model_mib ({} MiB): delete rows, or raise the limit",
            mib(limits.file_bytes_max)
        )),
        _ => Refused { text: error.to_string(), trouble: Trouble::of(error) },
    }
}

/// Returns whether a file's disk has free space. SQLite reports a full disk and a full read model with the same error.
pub(crate) fn has_room(file: &Path) -> bool {
    let probe = file.with_extension("probe");
    let written = std::fs::write(&probe, [1; PROBE_BYTES]);
    let removed = std::fs::remove_file(&probe);
    written.is_ok() && removed.is_ok()
}
