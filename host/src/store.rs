//! The event store: the only truth.
//!
//! Everything durable goes through [`EventStore`], which is split by caller: [`Events`], [`Progress`] and [`DeadLetters`].
//! Writes are queued and acknowledged after their commit; each thread that reads takes a [`Reader`] of its own. Outside
//! of `sqlite`, only the functions of this file that take a [`Location`] know the embedded store.

mod dead_letters;
mod error;
mod events;
mod ledger;
mod maintenance;
mod places;
mod progress;
pub mod sqlite;

use crate::ack::Unanswered;
use crate::meter;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

pub use dead_letters::{DeadLetterReader, DeadLetters, Discard, Letters, letter_origin};
pub use error::{Error, Loss};
pub use events::{
    Append, Appended, Decision, EventReader, Events, Filling, PAGE_BYTES_MAX, Page, Snapshot, Tally, is_full,
};
pub use ledger::Ledger;
pub use maintenance::{Backup, Counted, Maintenance, Statistics, TypeCount};
pub use places::{Part, PartKind, Place};
pub use progress::{Advanced, Progress, ProgressReader, Reached, Step};
pub use sqlite::{LetterLimits, Options};

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The embedded store, in this file.
    Sqlite(PathBuf),
}

impl Location {
    /// The embedded store of a data folder.
    pub fn of_folder(data: &Path) -> Self {
        Self::Sqlite(data.join(sqlite::FILE_NAME))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => file.display().fmt(f),
        }
    }
}

/// Opens a store, or makes it. Fails if another host has it open, if it is damaged, or if it is from a newer wasmill.
pub fn open(location: &Location, options: Options) -> Result<Arc<dyn EventStore>, Error> {
    match location {
        Location::Sqlite(file) => Ok(Arc::new(sqlite::SqliteStore::open(file, options)?)),
    }
}

/// Whether there is a store. Its server is asked only when it is opened.
pub fn exists(location: &Location) -> bool {
    match location {
        Location::Sqlite(file) => file.exists(),
    }
}

/// Whether a host has the store for itself now.
pub fn is_in_use(location: &Location) -> bool {
    match location {
        Location::Sqlite(file) => sqlite::is_in_use(file),
    }
}

/// The parts that have a place in a store that no host has open. Changes nothing and makes no store.
pub fn places(location: &Location) -> Result<Vec<Place>, Error> {
    match location {
        Location::Sqlite(file) => sqlite::places(file),
    }
}

/// The writing side of a store.
pub trait EventStore: Events + Progress + DeadLetters {
    /// What tells this store from every other: made with the store, kept by its copies, and the same for ever.
    fn identity(&self) -> Uuid;

    /// Becomes [`Error::Lost`] when another host has taken the store over, or its file was removed, replaced or cut. Nothing
    /// is written any more and every write fails with that error: the process should end.
    fn loss(&self) -> watch::Receiver<Option<Error>>;

    /// Why a write failed, such as a full disk; `None` if writing works as far as is known. The store tries again by itself.
    /// While a disk is nearly full, what is small may be written although there is a reason here.
    fn trouble(&self) -> Option<String>;

    /// A view for one thread. Every call on it sees all that was committed before the call.
    fn reader(&self) -> Result<Box<dyn Reader>, Error>;

    /// What the writer measured since the store was opened. Costs next to nothing.
    fn measures(&self) -> Measures;

    /// What it can do for its operators; `None` if its database has tools of its own for that.
    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }

    /// Finishes what is queued and closes. Later writes fail with [`Error::Closed`].
    fn close(&self);
}

/// The reading side of a store.
pub trait Reader: EventReader + ProgressReader + DeadLetterReader {}

impl<R: EventReader + ProgressReader + DeadLetterReader> Reader for R {}

/// A write that was never answered: the store ended before.
impl<T> Unanswered for Result<T, Error> {
    fn unanswered() -> Self {
        Err(Error::Closed)
    }
}

/// What the writer of a store measured.
#[derive(Clone, Debug, Default)]
pub struct Measures {
    /// Transactions, by how long their commit took in seconds: mostly the disk's time.
    pub commit_time: meter::Reading,
    /// The same transactions, by how many requests they had.
    pub batch_size: meter::Reading,
    /// Requests that wait for the writer now.
    pub queued: u64,
    /// How often the wall clock jumped, as far as it was noticed.
    pub clock_jumps: u64,
    /// Bytes of the dead letters that there are: contents, reasons and places.
    pub letter_bytes: u64,
    /// Dead letters that were dropped to keep to a limit, since the store was made.
    pub letters_dropped: u64,
}
