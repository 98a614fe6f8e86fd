//! What is wrong with a store's files that SQLite would not say, or only when it is too late.
//!
//! SQLite replays a log onto whatever file it lies beside, and reads a page that is missing from a file as zeros. So
//! this is looked at before SQLite opens them.

use super::Error;
use crate::exhaustion;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// What to do where a store can't be used as it is.
pub(super) const RESTORE: &str = "restore it from a backup (put the copy in its place and delete the files beside it \
                                  that end in -wal and -shm), or delete all three to begin with nothing";

/// The header of a database file, as far as it is looked at.
const HEADER: usize = 100;

/// Where the header has the number that ties a log to its file: SQLite's application id.
pub(super) const LOG_MARK_AT: usize = 68;

/// At the head of a log.
const LOG_HEADER: usize = 32;

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
        // SQLite might find a descriptor a moment later, and open what nobody has looked at.
        Err(error) if exhaustion::remedy(&error).is_some() => return Err(io_failed(error)),
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
    let (mark, pages) = (be_u32(&header, LOG_MARK_AT), u64::from(be_u32(&header, 28)));
    let there = length / page_bytes;
    // In a sound log, the first transaction is enough to tell.
    let is_enough = |log: &Log| there >= pages && log.follows_on(mark);
    let in_log = Log::read(&log, page_bytes as usize, is_enough).map_err(io_failed)?;
    if !in_log.follows_on(mark) {
        return Err(not_its_log(path));
    }
    if there < pages {
        // As it may be after a crash while the log was folded: then the log still has what is missing.
        // The page in which other programs' locks are is never written.
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

/// What the committed transactions of a log have changed. The form and the checksums are SQLite's, and documented as fixed
/// (<https://sqlite.org/fileformat2.html#walformat>).
#[derive(Default)]
struct Log {
    /// The numbers of the pages.
    pages: HashSet<u64>,
    /// The marks in the versions of the first page.
    marks: Vec<u32>,
}

impl Log {
    /// Reads a log, as far as `is_enough` does not say after a transaction that it has seen enough.
    fn read(path: &Path, page_bytes: usize, is_enough: impl Fn(&Self) -> bool) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
        let (mut log, mut pending) = (Self::default(), Self::default());
        let (mut header, mut frame, mut page) = ([0; LOG_HEADER], [0; FRAME_HEADER], vec![0; page_bytes]);
        if file.read_exact(&mut header).is_err() {
            return Ok(log);
        }
        let mut sum = Checksum { is_big_endian: header[3] & 1 == 1, sums: (0, 0) };
        sum.add(&header[..24]);
        // Frames of an earlier round of the log have other salts, and what was not written whole has another sum.
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

    /// Whether the log follows on a file with this mark. Each log raises it in its first transaction.
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
