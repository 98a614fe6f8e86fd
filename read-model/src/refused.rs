//! Why a statement did not run, in words that name the limit or the remedy.

use crate::Limits;
use crate::rules::NOT_ALLOWED;
use rusqlite::ErrorCode;
use std::fmt;
use std::path::Path;

/// Bytes that tell a full disk from a full read model.
const PROBE_BYTES: usize = 256 << 10;

/// Why a statement did not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason, and the remedy where one is known.
    pub text: String,
    /// Set if neither the statement nor its values are at fault.
    pub trouble: Option<Trouble>,
}

/// What is wrong with the read model, or with the machine below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The file is damaged. It does not get better.
    Damaged,
    /// The disk is full or fails, memory is short, or another process holds the file: it may be over soon.
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
    /// What an error of SQLite says of the file and the machine.
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

/// Whether there is room on the disk beside a file. SQLite says the same of a full disk and of a full read model.
pub(crate) fn has_room(file: &Path) -> bool {
    let probe = file.with_extension("probe");
    let written = std::fs::write(&probe, [1; PROBE_BYTES]);
    let removed = std::fs::remove_file(&probe);
    written.is_ok() && removed.is_ok()
}
