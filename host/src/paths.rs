//! Paths and the folders that they are in, and checks of those where the host expects its own folders and files, because a person
//! may have put anything there.
//!
//! The errors name the path and the remedy. Nothing here knows what the folders and files are for.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Creates a folder if it does not exist.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|error| {
        let remedy = "remove what is there, if it is no folder, and allow writing beside it";
        io::Error::new(error.kind(), format!("no folder {}: {error}; {remedy}", folder.display()))
    })
}

/// Returns a path that is right in any working folder.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the folder that a file is in, which is `.` for a bare name.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs the folder that a file is in, so that the name of the file outlasts a loss of power.
pub fn sync_folder_of(file: &Path) -> io::Result<()> {
    File::open(folder_of(file))?.sync_all()
}

/// Writes a file completely or not at all, also through a loss of power. What is unfinished has the ending `unfinished`.
pub fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = file.with_extension("unfinished");
    let written = File::create(&unfinished).and_then(|mut to| to.write_all(bytes).and_then(|()| to.sync_all()));
    let written = written.and_then(|()| fs::rename(&unfinished, file));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Fails if there is no regular file at a path. Opening a named pipe would block until another process opens its other
/// end.
pub fn require_file(path: &Path) -> io::Result<()> {
    match fs::metadata(path)?.is_file() {
        true => Ok(()),
        false => {
            let text = format!("{} is no regular file: remove it", path.display());
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}
