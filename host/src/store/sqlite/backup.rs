//! Copying a store, also while it is written to.
//!
//! The copy is of one moment. It is made page by page through a connection of its own, which holds that moment's view:
//! the writer waits for nothing, and only its log can't shrink until the copy is done. The file appears under its name
//! when it is whole and on the disk.

use super::{Error, failed, schema};
use crate::store::Backup;
use rusqlite::Connection;
use rusqlite::backup::StepResult;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pages in one step: a mebibyte.
const STEP_PAGES: i32 = 256;

/// Between two steps the disk is the writer's.
const PAUSE: Duration = Duration::from_millis(1);

/// Copies a store that no host has open into a new file.
pub fn backup(store: &Path, to: &Path) -> Result<Backup, Error> {
    let _lock = schema::lock_existing(store)?;
    copy(&schema::open_for_inspection(store)?, to)
}

/// Copies what a connection sees into a new file.
pub(super) fn copy(from: &Connection, to: &Path) -> Result<Backup, Error> {
    let started = Instant::now();
    let doing = format!("copying the store to {}", to.display());
    let io_failed = |error: io::Error| Error::Failed(format!("{doing}: {error}"));
    if is_used_by_the_host(Path::new(from.path().unwrap_or_default()), to) {
        return Err(Error::Invalid(format!(
            "{} is a name that the host or SQLite uses in the data folder: choose another name, such as copy.sqlite",
            to.display()
        )));
    }
    if to.exists() {
        return Err(exists(to));
    }
    let folder = folder_of(to);
    // Whoever may read the store may read the copy.
    let permissions = fs::metadata(from.path().unwrap_or_default()).map_err(io_failed)?.permissions();
    // Of a name that nobody else has, and gone where it does not become the copy.
    let aside = tempfile::Builder::new()
        .prefix(to.file_name().unwrap_or_default())
        .suffix(".part")
        .permissions(permissions)
        .tempfile_in(folder)
        .map_err(io_failed)?;
    let position = pages(from, aside.path(), &doing)?;
    aside.as_file().sync_all().map_err(io_failed)?;
    let file = aside.persist_noclobber(to).map_err(|refused| match refused.error.kind() {
        io::ErrorKind::AlreadyExists => exists(to),
        _ => io_failed(refused.error),
    })?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_failed)?;
    let bytes = file.metadata().map_err(io_failed)?.len();
    Ok(Backup { file: to.display().to_string(), position, bytes, elapsed_ms: started.elapsed().as_millis() as u64 })
}

/// Names beside the store that are, or may become, files of the host: a copy there would be taken for one of them.
fn is_used_by_the_host(store: &Path, to: &Path) -> bool {
    const BEGINNINGS: [&str; 4] = ["events.", "snapshots.", "host.json", "dev-broker"];
    let folder = |file: &Path| folder_of(file).canonicalize().ok();
    let name = to.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    folder(store) == folder(to) && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn exists(to: &Path) -> Error {
    Error::Invalid(format!("{} exists: give the copy a name of its own", to.display()))
}

/// Leaves the disk to the writer for a moment.
#[expect(clippy::disallowed_methods, reason = "a pause is a few milliseconds of a copy that is not interrupted")]
fn give_way() {
    std::thread::sleep(PAUSE);
}

/// Copies all pages of one moment, and says which event is the newest in it.
fn pages(from: &Connection, to: &Path, doing: &str) -> Result<u64, Error> {
    let failed = failed(doing);
    let mut copy = Connection::open(to).map_err(&failed)?;
    // It is written to the disk once, at the end.
    copy.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;").map_err(&failed)?;
    // The view lasts as long as the transaction: without it the copy would begin anew with every commit of the writer.
    let view = from.unchecked_transaction().map_err(&failed)?;
    let newest = "SELECT coalesce(max(position), 0) FROM events";
    let position = view.query_row(newest, [], |row| row.get(0)).map_err(&failed)?;
    let backup = rusqlite::backup::Backup::new(&view, &mut copy).map_err(&failed)?;
    while backup.step(STEP_PAGES).map_err(&failed)? != StepResult::Done {
        give_way();
    }
    drop(backup);
    // A file of its own, without a log beside it; whoever opens it for writing makes one.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(&failed)?;
    view.finish().map_err(&failed)?;
    copy.close().map_err(|(_, error)| failed(error))?;
    Ok(position)
}
