//! The options and limits of a store.
//!
//! Both stores take the same ones. Those of the stream index and the write-ahead log are of the embedded store alone.

use super::Error;
use crate::clock::Clock;

/// The limits of a store's dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterLimits {
    /// The most letters.
    pub count_max: u64,
    /// The most bytes of their contents, reasons and places.
    pub bytes_max: u64,
    /// The age in milliseconds at which a dead letter is dropped. `None` keeps dead letters forever.
    pub age_max_ms: Option<u64>,
    /// Whether the oldest dead letters are dropped to make room. Otherwise new ones are refused with [`Error::Full`].
    pub drops_oldest: bool,
}

impl Default for DeadLetterLimits {
    fn default() -> Self {
        Self { count_max: 1_000_000, bytes_max: 4 << 30, age_max_ms: None, drops_oldest: false }
    }
}

impl DeadLetterLimits {
    /// Fails if there is no room for more letters, when there are `count` letters of `bytes` bytes. Call it before anything
    /// is written.
    pub(super) fn refuse_if_full(&self, count: u64, bytes: u64, coming: usize) -> Result<(), Error> {
        // If there are no letters, everything fits. Otherwise a step with more letters than the limit could never
        // commit.
        let has_room = count + coming as u64 <= self.count_max && bytes < self.bytes_max;
        if coming == 0 || count == 0 || has_room || self.drops_oldest {
            return Ok(());
        }
        Err(Error::Full(format!(
            "there are {count} dead letters of {bytes} bytes, and there is no room for more: replay or discard some with \
             `wasmill dead-letters`, raise store.dead_letters_max or store.dead_letters_mib, or set store.dead_letters_full \
             to \"drop-oldest\", and restart"
        )))
    }
}

/// The options of a store, each with a default. The ones that a person may want to change are in the manifest.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most writes that may wait for the writer. More writes block their senders.
    pub queue_max: usize,
    /// The most bytes of events, commands and messages that may wait for the writer. More block their senders.
    pub queue_bytes_max: usize,
    /// The most writes in one transaction.
    pub batch_max: usize,
    /// The bytes of payload at which a transaction is committed.
    pub batch_bytes_max: usize,
    /// The number of events that make a run of the stream index.
    pub index_run: usize,
    /// The number of streams whose new events make a run, if it is reached first.
    pub index_run_streams: usize,
    /// The number of a run's rows that one transaction adds to the stream index.
    pub index_slice: usize,
    /// The number of streams whose version the writer keeps in memory, which is at least `batch_max`.
    pub heads_max: usize,
    /// The bytes of the write-ahead log at which the writer runs a WAL checkpoint.
    pub log_bytes_max: u64,
    /// The most bytes of one event.
    pub event_bytes_max: usize,
    /// The bytes of the newest events that are kept in memory for followers.
    pub tail_bytes_max: usize,
    /// The time in milliseconds for which the outcome of a command is remembered if its sender chose the id.
    pub outcomes_window_ms: u64,
    /// Whether refusals are remembered like successes. Otherwise a repeated command that was refused is decided again.
    pub remember_refusals: bool,
    /// The limits of the dead letters.
    pub dead_letters: DeadLetterLimits,
    /// The time in milliseconds for which a host owns a store in PostgreSQL after it was last heard of there.
    pub lease_ms: u64,
    /// The source of time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue_max: 8_192,
            queue_bytes_max: 64 << 20,
            batch_max: 2_000,
            batch_bytes_max: 8 << 20,
            // The more events of a stream are in a run, the fewer pages are written for each of them.
            index_run: 100_000,
            index_run_streams: 20_000,
            // This takes a few milliseconds.
            index_slice: 1_000,
            heads_max: 200_000,
            log_bytes_max: 32 << 20,
            event_bytes_max: 1 << 20,
            tail_bytes_max: 16 << 20,
            outcomes_window_ms: 24 * 60 * 60 * 1_000,
            remember_refusals: true,
            dead_letters: DeadLetterLimits::default(),
            lease_ms: 10_000,
            clock: Clock::system(),
        }
    }
}
