//! After a transaction failed: when the store may say that it can be written again.
//!
//! On a disk that is nearly full a small transaction succeeds where the one that failed would fail again. So a commit alone is
//! not believed: the folder must also have room for more than what failed. Until then the reason stays in the status, while
//! what fits is written.

use super::owner::LOOK_EVERY;
use super::writer::Writer;
use crate::supervise::Held as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

/// Bytes that there must be room for beside twice what failed: a transaction writes whole pages, and indices.
const ROOM_BYTES: usize = 1 << 20;

/// Bytes that are written at once to find out.
const CHUNK_BYTES: usize = 1 << 16;

/// A transaction failed, and it is not known whether one like it would succeed.
pub(super) struct Doubt {
    /// The bytes of the largest transaction that failed.
    failed_bytes: usize,
    /// When to look for room.
    next_look: Instant,
}

impl Writer {
    /// A transaction of so many bytes has failed.
    pub(super) fn begin_doubt(&mut self, bytes: usize, reason: String) {
        let failed_bytes = self.doubt.take().map_or(bytes, |doubt| doubt.failed_bytes.max(bytes));
        self.doubt = Some(Doubt { failed_bytes, next_look: Instant::now() });
        *self.meters.trouble.held() = Some(reason);
    }

    /// A transaction has succeeded: says that the store can be written again, if a large one would succeed as well.
    pub(super) fn end_doubt(&mut self) {
        let Some(doubt) = &mut self.doubt else { return };
        let now = Instant::now();
        if now < doubt.next_look {
            return;
        }
        doubt.next_look = now + LOOK_EVERY;
        let folder = self.log.parent().unwrap_or(Path::new("."));
        match write_and_forget(folder, ROOM_BYTES + 2 * doubt.failed_bytes) {
            Ok(()) => {
                self.doubt = None;
                *self.meters.trouble.held() = None;
                tracing::info!("the store {} can be written again", self.connection.path().unwrap_or_default());
            }
            Err(error) => tracing::debug!("there is no room yet in {}: {error}", folder.display()),
        }
    }
}

/// Writes so many bytes to a file without a name, which is gone at once, also after a crash.
fn write_and_forget(folder: &Path, bytes: usize) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    // A file system that compresses needs no room for zeros.
    let mut chunk = vec![0; CHUNK_BYTES];
    fastrand::fill(&mut chunk);
    for _ in 0..bytes.div_ceil(CHUNK_BYTES) {
        file.write_all(&chunk)?;
    }
    file.sync_data()
}
