//! WAL checkpoints: folding the write-ahead log into the file.
//!
//! SQLite would do this inside some commit. Another thread would never catch up with a writer that does not pause. So
//! the writer does it: a part whenever nobody waits for it, and all of it when the log has grown to its limit, even if
//! somebody waits. Transactions in the log are as durable as those in the file.

use super::fault::{self, FaultPoint};
use super::writer::Writer;
use super::{Error, failed};
use std::time::{Duration, Instant};

/// The bytes of events after which the log is folded when nobody waits. This takes some milliseconds.
const AT_REST_BYTES: usize = 2 << 20;

/// The longest time that folding the log may wait for readers.
const FOLD_WAIT_MAX: Duration = Duration::from_millis(50);

/// What becomes of a log that is folded as a whole.
#[derive(Clone, Copy)]
pub(super) enum Fold {
    /// It keeps its length, and is written from its beginning again.
    Reuse,
    /// It is cut to nothing.
    Cut,
}

impl Writer {
    /// Returns whether there is enough to fold when nobody waits.
    pub(super) fn has_much_to_fold(&self) -> bool {
        self.unfolded_bytes >= AT_REST_BYTES
    }

    /// Folds the part of the log that no reader still needs, without waiting for readers. When all of the log is
    /// folded, it is written from its beginning again.
    pub(super) fn fold_at_rest(&mut self) {
        self.unfolded_bytes = 0;
        let folded = self.before_fold().and_then(|()| {
            let fold = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            fold.map_err(failed("folding the log into the store"))
        });
        if let Err(error) = folded {
            tracing::warn!("the store's log is not folded for now: {error}");
        }
    }

    /// Folds the log if it has grown to its limit.
    pub(super) fn limit_log(&mut self) {
        let log_bytes = self.log.bytes();
        if log_bytes < self.fold_at {
            return;
        }
        let how = if self.log.is_far_too_long() { Fold::Cut } else { Fold::Reuse };
        if let Err(error) = self.fold_log(how) {
            tracing::warn!("the store's log stays at {log_bytes} bytes for now: {error}");
        }
    }

    /// Folds the whole log.
    pub(super) fn fold_log(&mut self, how: Fold) -> Result<(), Error> {
        fault::at(FaultPoint::BeforeFold);
        let started = Instant::now();
        self.before_fold()?;
        let failed = failed("folding the log into the store");
        // A long read, such as a backup, must not delay writes.
        self.connection.busy_timeout(FOLD_WAIT_MAX).map_err(&failed)?;
        let checkpoint = match how {
            Fold::Reuse => "PRAGMA wal_checkpoint(RESTART)",
            Fold::Cut => "PRAGMA wal_checkpoint(TRUNCATE)",
        };
        let folded = self.connection.query_row(checkpoint, [], |row| row.get(0));
        self.connection.busy_timeout(super::schema::BUSY_TIME_MAX).map_err(&failed)?;
        let busy: i64 = folded.map_err(&failed)?;
        fault::at(FaultPoint::Folded);
        self.unfolded_bytes = 0;
        if matches!(how, Fold::Cut) {
            self.ownership.log_cut();
            self.log.cut();
        }
        // If a reader prevented it, retry when the log has grown by half, not at every commit.
        let log_bytes = self.log.bytes();
        self.fold_at = if busy == 0 { self.options.log_bytes_max } else { log_bytes + self.options.log_bytes_max / 2 };
        tracing::debug!(busy, elapsed_ms = started.elapsed().as_millis() as u64, "folded the log into the store");
        Ok(())
    }

    /// Fails if this host no longer owns the store. It must not fold a log that another program has cut or replaced,
    /// and must not truncate the log of another host.
    fn before_fold(&mut self) -> Result<(), Error> {
        self.ownership.check(&self.connection)?;
        self.ownership.check_files()?;
        self.is_log_new = true;
        Ok(())
    }
}
