//! What is wrong with a store's files that SQLite would not say, or only when it is too late.
//!
//! SQLite replays a log onto whatever file it lies beside, and reads a page that is missing from a file as zeros. So
//! this is looked at before SQLite opens them.

use super::{Error, failed};
use rusqlite::Connection;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// What to do where a store can't be used as it is.
pub(super) const RESTORE: &str = "restore it from a backup (put the copy in its place and delete the files beside it \
                                  that end in -wal and -shm), or delete all three to begin with nothing";

/// The header of a database file, as far as it is looked at.
const HEADER: usize = 100;

/// Before each page in a log: its number, and six more numbers.
const FRAME_HEADER: usize = 24;

/// The log of a store.
pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Refuses files that must not be opened as a store.
pub(super) fn refuse_unfit(path: &Path) -> Result<(), Error> {
    let io_failed = |error: io::Error| Error::Failed(format!("can't read the store {}: {error}", path.display()));
    let log = log_of(path);
    let has_log = log.metadata().is_ok_and(|file| file.len() > 0);
    let mut file = match File::open(path) {
        Ok(file) if file.metadata().map_err(io_failed)?.is_file() => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_log => {
            return Err(Error::Failed(format!(
                "the store {} is gone, and its log {} is still there: put the file back, or delete the log as well to \
                 begin with nothing",
                path.display(),
                log.display()
            )));
        }
        // SQLite says what is wrong with it.
        _ => return Ok(()),
    };
    let length = file.metadata().map_err(io_failed)?.len();
    let damaged = |how: &str| Err(Error::Failed(format!("the store {} is damaged, {how}: {RESTORE}", path.display())));
    // SQLite takes a single byte for nothing, too.
    if length <= 1 {
        return damaged("it is empty");
    }
    let mut header = [0; HEADER];
    if !has_log || file.read_exact(&mut header).is_err() {
        return Ok(());
    }
    // A store has a log from its first moment, and its header says so. A copy's does not.
    if header[18] == 1 {
        return Err(not_its_log(path));
    }
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        bytes => u64::from(bytes.max(512)),
    };
    let pages = u64::from(u32::from_be_bytes([header[28], header[29], header[30], header[31]]));
    let there = length / page_bytes;
    if there < pages {
        // As it may be after a crash while the log was folded: then the log still has what is missing.
        let in_log = pages_of_log(&log, page_bytes).map_err(io_failed)?;
        // The page in which other programs' locks are is never written.
        let locks = (1 << 30) / page_bytes + 1;
        if let Some(missing) = (there + 1..=pages).find(|page| *page != locks && !in_log.contains(page)) {
            return damaged(&format!("its page {missing} of {pages} is missing"));
        }
    }
    Ok(())
}

/// Refuses a store that ends before an event that it had once. Such is an old copy of the file beside a newer log: the log
/// changes some of its pages, and what came between the two is not there.
pub(super) fn refuse_loss(path: &Path, connection: &Connection) -> Result<(), Error> {
    let select = "SELECT newest, (SELECT coalesce(max(position), 0) FROM events) FROM store";
    let found = connection.query_row(select, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    match found.map_err(failed("looking where the store ends"))? {
        (had, newest) if had <= newest => Ok(()),
        _ if log_of(path).metadata().is_ok_and(|file| file.len() > 0) => Err(not_its_log(path)),
        (had, newest) => Err(Error::Failed(format!(
            "the store {} is damaged, it had event {had} and ends at {newest} now: {RESTORE}",
            path.display()
        ))),
    }
}

fn not_its_log(path: &Path) -> Error {
    Error::Failed(format!(
        "the store {} was put in the place of another, and the log of that one, {}, is still there: delete the log and the \
         file beside it that ends in -shm",
        path.display(),
        log_of(path).display()
    ))
}

/// The numbers of the pages in a log that is valid as far as it goes. The form is SQLite's, and documented as fixed.
fn pages_of_log(log: &Path, page_bytes: u64) -> io::Result<HashSet<u64>> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(log)?);
    let mut pages = HashSet::new();
    let (mut header, mut frame) = ([0; 32], [0; FRAME_HEADER]);
    if file.read_exact(&mut header).is_err() {
        return Ok(pages);
    }
    // Frames of an earlier round of the log have other salts.
    while file.read_exact(&mut frame).is_ok() && frame[8..16] == header[16..24] {
        pages.insert(u64::from(u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]])));
        file.seek_relative(page_bytes as i64)?;
    }
    Ok(pages)
}
