//! The files of a store, and checks of them for problems that SQLite would not report, or would report too late.
//!
//! SQLite replays a write-ahead log onto any file with the matching name, and reads a page that is missing from a file
//! as zeros. So the files are checked before SQLite opens them.

use super::Error;
use crate::exhaustion;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// The remedy if a store can't be used as it is.
pub(super) const RESTORE: &str = "restore it from a backup (`wasmill store restore`), or move it away with the files beside it \
                                  that end in -wal and -shm to begin with nothing";

/// The bytes of the header of a database file.
const HEADER: usize = 100;

/// The offset in the header of the number that ties a log to its file: SQLite's application id.
pub(super) const LOG_MARK_AT: usize = 68;

/// The bytes of the header of a log.
const LOG_HEADER: usize = 32;

/// The number at the beginning of a log. Its last bit tells the byte order of checksums.
const LOG_MAGIC: u32 = 0x377f_0682;

/// The bytes before each page in a log: the number of the page, and five more numbers.
pub(super) const FRAME_HEADER: usize = 24;

/// Returns the path of a store's write-ahead log.
pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Returns the path of the file with which SQLite finds pages in the log.
pub(super) fn index_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-shm");
    name.into()
}

/// Returns the file of a store, its log, and the index of the log.
pub(super) fn files_of(path: &Path) -> [PathBuf; 3] {
    [path.to_owned(), log_of(path), index_of(path)]
}

/// Removes the files of a store that are there.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    for file in files_of(path) {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Failed(format!("can't remove {}: {error}; remove it", file.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses files that must not be opened as a store.
pub(super) fn refuse_unfit(path: &Path) -> Result<(), Error> {
    let io_failed = |error: io::Error| {
        Error::Failed(format!("can't read the store {}: {}", path.display(), exhaustion::told(&error)))
    };
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
        // SQLite might get a descriptor a moment later, and open a file that is not checked.
        Err(error) if exhaustion::remedy(&error).is_some() => return Err(io_failed(error)),
        // SQLite reports what is wrong with the file.
        _ => return Ok(()),
    };
    let length = file.metadata().map_err(io_failed)?.len();
    let damaged = |how: &str| Err(Error::Failed(format!("the store {} is damaged, {how}: {RESTORE}", path.display())));
    // SQLite also treats a single byte as an empty file.
    if length <= 1 {
        return damaged("it is empty");
    }
    let mut header = [0; HEADER];
    if !has_log || file.read_exact(&mut header).is_err() {
        return Ok(());
    }
    // The header of a store says from the beginning that it has a log. The header of a copy does not.
    if header[18] == 1 {
        return Err(not_its_log(path));
    }
    let page_bytes = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        bytes => u64::from(bytes.max(512)),
    };
    let (mark, pages) = (be_u32(&header, LOG_MARK_AT), u64::from(be_u32(&header, 28)));
    let there = length / page_bytes;
    // If the log is sound, its first transaction is enough.
    let is_enough = |log: &Log| there >= pages && log.follows_on(mark);
    let in_log = Log::read(&log, page_bytes as usize, is_enough).map_err(io_failed)?;
    if !in_log.follows_on(mark) {
        return Err(not_its_log(path));
    }
    if there < pages {
        // A crash during a WAL checkpoint may leave the file like this. Then the log still has the missing pages.
        // The page with SQLite's locks is never written.
        let locks = (1 << 30) / page_bytes + 1;
        if let Some(missing) = (there + 1..=pages).find(|page| *page != locks && !in_log.pages.contains(page)) {
            return damaged(&format!("its page {missing} of {pages} is missing"));
        }
    }
    Ok(())
}

fn not_its_log(path: &Path) -> Error {
    Error::Failed(format!(
        "the store {} was put in the place of another, and the log of that one, {}, is still there: delete the log and the \
         file beside it that ends in -shm",
        path.display(),
        log_of(path).display()
    ))
}

/// The changes of the committed transactions in a log. SQLite documents its format and checksums, which do not change
/// (<https://sqlite.org/fileformat2.html#walformat>).
#[derive(Default)]
struct Log {
    /// The numbers of the changed pages.
    pages: HashSet<u64>,
    /// The marks in the versions of the first page.
    marks: Vec<u32>,
}

impl Log {
    /// Reads a log until `is_enough` returns true after a transaction.
    fn read(path: &Path, page_bytes: usize, is_enough: impl Fn(&Self) -> bool) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
        let (mut log, mut pending) = (Self::default(), Self::default());
        let (mut header, mut frame, mut page) = ([0; LOG_HEADER], [0; FRAME_HEADER], vec![0; page_bytes]);
        if file.read_exact(&mut header).is_err() || be_u32(&header, 0) & !1 != LOG_MAGIC {
            return Ok(log);
        }
        let mut sum = Checksum { is_big_endian: header[3] & 1 == 1, sums: (0, 0) };
        sum.add(&header[..24]);
        // Frames of an earlier round of the log have other salts, and an incomplete frame has a wrong checksum.
        let mut is_whole = sum.is(&header[24..]);
        while is_whole && file.read_exact(&mut frame).is_ok() && file.read_exact(&mut page).is_ok() {
            sum.add(&frame[..8]);
            sum.add(&page);
            is_whole = frame[8..16] == header[16..24] && sum.is(&frame[16..]);
            if !is_whole {
                break;
            }
            let number = be_u32(&frame, 0);
            pending.pages.insert(u64::from(number));
            pending.marks.extend((number == 1).then(|| be_u32(&page, LOG_MARK_AT)));
            // The last frame of a transaction has the size of the file after it.
            if be_u32(&frame, 4) != 0 {
                log.pages.extend(pending.pages.drain());
                log.marks.append(&mut pending.marks);
                if is_enough(&log) {
                    break;
                }
            }
        }
        Ok(log)
    }

    /// Returns whether the log belongs to a file with this mark. Each log raises the mark in its first transaction.
    fn follows_on(&self, mark: u32) -> bool {
        let Some(first) = self.marks.first() else { return true };
        first.wrapping_sub(1) == mark || self.marks.contains(&mark)
    }
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The checksum of a log up to a place.
struct Checksum {
    is_big_endian: bool,
    sums: (u32, u32),
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks_exact(8) {
            let [first, second] = [0, 4].map(|at| {
                let word = be_u32(pair, at);
                if self.is_big_endian { word } else { word.swap_bytes() }
            });
            self.sums.0 = self.sums.0.wrapping_add(first).wrapping_add(self.sums.1);
            self.sums.1 = self.sums.1.wrapping_add(second).wrapping_add(self.sums.0);
        }
    }

    fn is(&self, written: &[u8]) -> bool {
        self.sums == (be_u32(written, 0), be_u32(written, 4))
    }
}
