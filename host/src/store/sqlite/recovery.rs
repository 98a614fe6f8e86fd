//! Recovery from a failed transaction: when the store may report that it can be written again.
//!
//! On a disk that is nearly full, a small transaction may succeed although the failed one would fail again. So a commit
//! is not enough: the folder must also have room for more than the failed transaction. Until then the reason stays in
//! the status, and what fits is written.

use super::owner::LOOK_EVERY;
use super::writer::Writer;
use crate::supervise::Held as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

/// The bytes that must be free besides twice the failed bytes, because a transaction writes whole pages and indexes.
const ROOM_BYTES: usize = 1 << 20;

/// The bytes of one write of the test.
const CHUNK_BYTES: usize = 1 << 16;

/// The state after a transaction failed, while it is not known whether one like it would succeed.
pub(super) struct Doubt {
    /// The bytes of the largest transaction that failed.
    failed_bytes: usize,
    /// The time of the next test for room.
    next_look: Instant,
}

impl Writer {
    /// Notes that a transaction of this many bytes has failed.
    pub(super) fn begin_doubt(&mut self, bytes: usize, reason: String) {
        let failed_bytes = self.doubt.take().map_or(bytes, |doubt| doubt.failed_bytes.max(bytes));
        self.doubt = Some(Doubt { failed_bytes, next_look: Instant::now() });
        *self.meters.trouble.held() = Some(reason);
    }

    /// Notes that a transaction has succeeded. If a large one would succeed as well, the store reports that it can be
    /// written again.
    pub(super) fn end_doubt(&mut self) {
        let Some(doubt) = &mut self.doubt else { return };
        let now = Instant::now();
        if now < doubt.next_look {
            return;
        }
        doubt.next_look = now + LOOK_EVERY;
        let file = Path::new(self.connection.path().unwrap_or_default());
        let folder = file.parent().unwrap_or(Path::new("."));
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

/// Writes this many bytes to a file without a name, which disappears at once, even after a crash.
fn write_and_forget(folder: &Path, bytes: usize) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    // The bytes must not be zeros, for which a compressing file system needs no room.
    let mut chunk = vec![0; CHUNK_BYTES];
    fastrand::fill(&mut chunk);
    for _ in 0..bytes.div_ceil(CHUNK_BYTES) {
        file.write_all(&chunk)?;
    }
    file.sync_data()
}
