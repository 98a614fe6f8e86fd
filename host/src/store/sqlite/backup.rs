//! Backups: copying a store, even while a host writes to it.
//!
//! The copy shows the store at one moment. It is made page by page through its own connection, which holds a snapshot
//! of that moment. The writer does not wait; only its write-ahead log can't shrink until the copy is done. The file
//! gets its name when it is complete and on the disk.

use super::{Error, failed, schema};
use crate::paths;
use crate::store::Backup;
use rusqlite::backup::StepResult;
use rusqlite::{Connection, OpenFlags};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path};
use std::time::{Duration, Instant};

/// Pages in one step: a mebibyte.
const STEP_PAGES: i32 = 256;

/// The bytes of the header of a database file that say for writing and for reading whether the database has a write-ahead log: 2,
/// or 1 if it is a single file. SQLite documents them (<https://sqlite.org/fileformat2.html#file_format_version_numbers>).
const HAS_LOG_AT: u64 = 18;

/// The pause between two steps, which leaves the disk to the writer.
const PAUSE: Duration = Duration::from_millis(1);

/// The folders that the host keeps its own files in, in the data folder.
const FOLDERS: [&str; 3] = ["read-models", "compiled", "plugins"];

/// The beginning of the names of the folders with the files of replaced stores.
pub(super) const REPLACED: &str = "replaced-";

/// Copies a store that no host has open into a new file.
pub fn backup(store: &Path, to: &Path) -> Result<Backup, Error> {
    let _lock = schema::lock_existing(store)?;
    copy(&schema::open_for_inspection(store)?, to)
}

/// Copies the store that a connection sees into a new file.
fn copy(from: &Connection, to: &Path) -> Result<Backup, Error> {
    let started = Instant::now();
    let doing = format!("copying the store to {}", to.display());
    let io_failed = |error: io::Error| Error::Failed(format!("{doing}: {error}"));
    if is_used_by_the_host(Path::new(from.path().unwrap_or_default()), to) {
        return Err(used_by_the_host(to));
    }
    if to.exists() {
        return Err(exists(to));
    }
    // The copy gets the permissions of the store.
    let permissions = fs::metadata(from.path().unwrap_or_default()).map_err(io_failed)?.permissions();
    // The temporary file has a unique name, and is deleted if it does not become the copy.
    let aside = tempfile::Builder::new()
        .prefix(to.file_name().unwrap_or_default())
        .suffix(".part")
        .permissions(permissions)
        .tempfile_in(paths::folder_of(to))
        .map_err(io_failed)?;
    let into = Target { path: aside.path(), file: aside.as_file(), flags: OpenFlags::empty() };
    let position = pages(from, &into, &doing, &|| false)?;
    aside.as_file().sync_all().map_err(io_failed)?;
    let file = aside.persist_noclobber(to).map_err(|refused| match refused.error.kind() {
        io::ErrorKind::AlreadyExists => exists(to),
        _ => io_failed(refused.error),
    })?;
    paths::sync_folder_of(to).map_err(io_failed)?;
    let bytes = file.metadata().map_err(io_failed)?.len();
    Ok(Backup { file: to.display().to_string(), position, bytes, elapsed_ms: started.elapsed().as_millis() as u64 })
}

/// Returns whether the host uses a name beside the store, now or later. A copy with that name would be mistaken for its
/// own file.
fn is_used_by_the_host(store: &Path, to: &Path) -> bool {
    const BEGINNINGS: [&str; 7] =
        ["events.", "events-restoring.", "snapshots.", "host.", "dev-broker", "audit.", REPLACED];
    let folder = |file: &Path| paths::folder_of(file).canonicalize().ok();
    let name = to.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let is_used = BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || FOLDERS.contains(&&*name)
        || name == "backups";
    is_used && folder(store) == folder(to)
}

/// Returns whether a folder is the data folder, or is in one of the host's own folders there. Both paths are absolute.
pub(super) fn is_folder_of_the_host(data: &Path, folder: &Path) -> bool {
    let Ok(within) = folder.strip_prefix(data) else { return false };
    match within.components().find(|component| *component != Component::CurDir) {
        Some(first) => {
            let name = first.as_os_str().to_string_lossy().to_lowercase();
            FOLDERS.contains(&&*name) || name.starts_with(REPLACED)
        }
        None => true,
    }
}

fn used_by_the_host(to: &Path) -> Error {
    Error::Invalid(format!(
        "{} is a name that the host or SQLite uses in the data folder: choose another name, such as copy.sqlite",
        to.display()
    ))
}

pub(super) fn exists(to: &Path) -> Error {
    Error::Invalid(format!("{} exists: choose another name for the copy", to.display()))
}

/// Pauses to leave the disk to the writer.
#[expect(clippy::disallowed_methods, reason = "a pause is a few milliseconds of a copy that is not interrupted")]
fn give_way() {
    std::thread::sleep(PAUSE);
}

/// An empty file that becomes a copy.
pub(super) struct Target<'t> {
    /// The path by which SQLite opens it.
    pub(super) path: &'t Path,
    /// The same file, open for writing.
    pub(super) file: &'t File,
    /// How SQLite opens it, beside for writing.
    pub(super) flags: OpenFlags,
}

/// Copies all pages as they are at one moment into an empty file, and returns the position of the newest event. No other file
/// is created, not even for a moment. It fails with [`Error::Closed`] as soon as `is_over` returns true. The caller syncs the file.
pub(super) fn pages(
    from: &Connection,
    into: &Target<'_>,
    doing: &str,
    is_over: &dyn Fn() -> bool,
) -> Result<u64, Error> {
    let failed = failed(doing);
    let flags = into.flags | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(into.path, flags).map_err(&failed)?;
    // The copy is synced to the disk once, at the end.
    copy.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;").map_err(&failed)?;
    // The transaction keeps the snapshot. Without it, the copy would restart with every commit of the writer.
    let view = from.unchecked_transaction().map_err(&failed)?;
    let newest = "SELECT coalesce(max(position), 0) FROM events";
    let position = view.query_row(newest, [], |row| row.get(0)).map_err(&failed)?;
    let backup = rusqlite::backup::Backup::new(&view, &mut copy).map_err(&failed)?;
    while backup.step(STEP_PAGES).map_err(&failed)? != StepResult::Done {
        if is_over() {
            return Err(Error::Closed);
        }
        give_way();
    }
    drop(backup);
    view.finish().map_err(&failed)?;
    // Whatever SQLite does with the pages that it has copied, it does by the path, and with a log beside it. So it closes the file.
    copy.close().map_err(|(_, error)| failed(error))?;
    make_single(into.file, doing)?;
    Ok(position)
}

/// Has a database say that it is a single file without a write-ahead log. Whoever opens it for writing creates a log.
fn make_single(file: &File, doing: &str) -> Result<(), Error> {
    let io_failed = |error: io::Error| Error::Failed(format!("{doing}: {error}"));
    if file.metadata().map_err(io_failed)?.len() == 0 {
        return Err(Error::Failed(format!(
            "{doing}: another process has replaced the file or its folder meanwhile, and nothing was copied; copy again"
        )));
    }
    file.write_all_at(&[1, 1], HAS_LOG_AT).map_err(io_failed)
}
