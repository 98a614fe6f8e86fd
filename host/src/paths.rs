//! Checks of the paths where the host expects its own folders and files, because a person may have put anything there.
//!
//! The errors name the path and the remedy. Nothing here knows what the folders and files are for.

use std::fs;
use std::io;
use std::path::Path;

/// Creates a folder if it does not exist.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|error| {
        let remedy = "remove what is there, if it is no folder, and allow writing beside it";
        io::Error::new(error.kind(), format!("no folder {}: {error}; {remedy}", folder.display()))
    })
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
