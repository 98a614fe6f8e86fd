//! The event store: the source of truth.
//!
//! Everything durable goes through [`EventStore`], which is split by caller: [`Events`], [`Progress`],
//! [`HttpRequests`] and [`DeadLetters`]. Writes are queued and acknowledged after their commit. Each thread that reads has its own
//! [`Reader`]. Outside of `sqlite` and
//! `postgres`, only the functions of this file that take a [`Location`] know which stores there are.

mod age;
mod content;
mod dead_letters;
mod division;
mod encoding;
mod error;
mod events;
mod fault;
mod front;
mod hosts;
mod http_requests;
mod ids;
mod ledger;
mod maintenance;
mod move_mark;
mod moving;
mod options;
mod parts;
mod places;
pub mod postgres;
mod progress;
mod recording;
mod room;
mod snapshot_limits;
pub mod sqlite;
mod tail;
mod verify;
mod watches;
mod write_request;

use crate::ack::Unanswered;
use crate::meter;
use crate::paths;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

pub use dead_letters::{DeadLetterQuery, DeadLetterReader, DeadLetters, Discard, dead_letter_origin};
pub use division::{Divisions, segments_of};
pub use error::{Error, Loss};
pub use events::{
    Append, Appended, ArchivedStream, Chain, Decision, EventReader, EventSearch, Events, Filling, PAGE_BYTES_MAX, Page,
    SearchedId, Snapshot, Tally, check_sizes, event_at, event_bytes, is_full, shared_bytes,
};
pub use hosts::{HostEntry, Hosts, Lease, Sharing, SharingChange, lease_of_subscription};
pub use http_requests::{
    AttemptEnd, HttpRequestReader, HttpRequests, InterruptedOf, ListedRequest, RequestQuery, RequestQueue, RequestWait,
};
pub use ledger::Ledger;
pub use maintenance::{Backup, CopyName, Counted, Maintenance, Statistics, TypeCount};
pub use moving::{MoveStep, Moved, migrate, moved_to, reopen};
pub use options::{DeadLetterLimits, Options};
pub(crate) use parts::of_ledger as part_of_ledger;
pub use places::{Part, PartKind, Place};
pub use progress::{
    Advanced, CallbackChange, FlowQuery, HeldKey, KeptTimer, KeyChange, KeyState, NextCallback, Progress,
    ProgressReader, Reached, SagaAppend, Step, TimerQuery, UnderWay,
};
pub use verify::Report;

/// The location of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The embedded store, in this file.
    Sqlite(PathBuf),
    /// The store in a schema of a PostgreSQL database.
    Postgres(Box<postgres::Address>),
}

impl Location {
    /// Returns the location of a data folder's embedded store.
    pub fn of_folder(data: &Path) -> Self {
        Self::Sqlite(data.join(sqlite::FILE_NAME))
    }

    /// Returns how a command names the store, in any working folder. There is no password in it.
    pub fn in_command(&self) -> String {
        match self {
            Self::Sqlite(file) => paths::absolute(file).display().to_string(),
            Self::Postgres(address) => address.url().to_owned(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => file.display().fmt(f),
            Self::Postgres(address) => address.fmt(f),
        }
    }
}

/// Opens a store, and creates it if it does not exist. Fails if another host has it open, if it is damaged, or if it is
/// from a newer wasmill.
pub fn open(location: &Location, options: Options) -> Result<Arc<dyn EventStore>, Error> {
    match location {
        Location::Sqlite(file) => Ok(Arc::new(sqlite::SqliteStore::open(file, options)?)),
        Location::Postgres(address) => Ok(Arc::new(postgres::PostgresStore::open(address, options)?)),
    }
}

/// Opens a store as [`open`] does, together with other hosts if its database allows several.
pub fn open_shared(location: &Location, options: Options) -> Result<Arc<dyn EventStore>, Error> {
    match location {
        Location::Sqlite(_) => open(location, options),
        Location::Postgres(address) => Ok(Arc::new(postgres::PostgresStore::open_shared(address, options)?)),
    }
}

/// Returns whether a store exists. If its database can't be asked, it may exist.
pub fn exists(location: &Location) -> bool {
    match location {
        Location::Sqlite(file) => sqlite::exists(file),
        Location::Postgres(address) => postgres::exists(address),
    }
}

/// Returns whether a host has the store open now.
pub fn is_in_use(location: &Location) -> bool {
    match location {
        Location::Sqlite(file) => sqlite::is_in_use(file),
        Location::Postgres(address) => postgres::is_in_use(address),
    }
}

/// Opens a store for reading. This changes nothing. An embedded store must not be open in a host, and hosts are kept out until the
/// result is dropped. A store in PostgreSQL is read as it is, and a host may use it meanwhile.
pub fn inspect(location: &Location) -> Result<Inspection, Error> {
    match location {
        Location::Sqlite(file) => sqlite::inspect(file),
        Location::Postgres(address) => postgres::inspect(address),
    }
}

/// Verifies a store. An embedded store must not be open in a host. A store in PostgreSQL is verified as it is at one moment, and a host
/// may use it meanwhile. An error means that the verification was not possible; problems of the store are in the report.
pub fn verify(location: &Location) -> Result<Report, Error> {
    match location {
        Location::Sqlite(file) => sqlite::verify(file),
        Location::Postgres(address) => postgres::verify(address),
    }
}

/// Returns the statistics of a store. An embedded store must not be open in a host.
pub fn statistics_of(location: &Location, count: bool) -> Result<Statistics, Error> {
    match location {
        Location::Sqlite(file) => sqlite::statistics(file, count),
        Location::Postgres(address) => postgres::statistics(address, count),
    }
}

/// Returns the parts that have a place in a store that no host has open. This changes nothing and creates no store. Fails if the store
/// was moved, or is the target of a move that has not ended.
pub fn places(location: &Location) -> Result<Vec<Place>, Error> {
    let places = match location {
        Location::Sqlite(file) => sqlite::places(file),
        Location::Postgres(address) => postgres::places(address),
    }?;
    moving::refuse_marked(location)?;
    Ok(places)
}

/// Returns a fact of a store that no host has open, or `None` if there is no such store. This changes nothing and creates
/// no store.
pub fn fact(location: &Location, name: &str) -> Result<Option<String>, Error> {
    match location {
        Location::Sqlite(file) if sqlite::exists(file) => sqlite::fact(file, name),
        Location::Sqlite(_) => Ok(None),
        Location::Postgres(address) => postgres::fact(address, name),
    }
}

/// A store that is opened for reading.
pub struct Inspection {
    /// The identity of the store.
    pub identity: Uuid,
    /// The reader.
    pub reader: Box<dyn Reader>,
    /// The ends of what sinks publish.
    pub newest: Newest,
    /// What keeps hosts out.
    _lock: Box<dyn std::any::Any>,
}

/// The newest number of each kind of things that sinks publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// The position of the newest event.
    pub event: u64,
    /// The number of the newest message of the outbox.
    pub message: u64,
    /// The number of the newest dead letter.
    pub dead_letter: u64,
}

/// The writing side of a store.
pub trait EventStore: Events + Progress + HttpRequests + DeadLetters {
    /// The unique id of the store. It is made when the store is created and never changes. Copies of the store keep it.
    fn identity(&self) -> Uuid;

    /// Becomes [`Error::Lost`] when another host has taken over the store, or when its file was removed, replaced or
    /// cut. From then on nothing is written and every write fails with that error, so the process should exit.
    fn loss(&self) -> watch::Receiver<Option<Error>>;

    /// The reason why the last writes failed, such as a full disk, or `None` if writing works as far as is known. The
    /// store retries by itself. While a disk is nearly full, small writes may succeed although there is a reason here.
    fn trouble(&self) -> Option<String>;

    /// Makes a reader for one thread. Each of its calls sees everything that was committed before the call.
    fn reader(&self) -> Result<Box<dyn Reader>, Error>;

    /// Returns what the writer has measured since the store was opened. The call is cheap.
    fn measures(&self) -> Measures;

    /// Returns the maintenance functions, or `None` if the store's database has its own tools for that.
    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }

    /// Returns the functions of a store that several hosts share, or `None` if this host has the store alone.
    fn sharing(&self) -> Option<&dyn Sharing> {
        None
    }

    /// Finishes the queued writes and closes the store. Later writes fail with [`Error::Closed`].
    fn close(&self);
}

/// The reading side of a store.
pub trait Reader: EventReader + ProgressReader + HttpRequestReader + DeadLetterReader {}

impl<R: EventReader + ProgressReader + HttpRequestReader + DeadLetterReader> Reader for R {}

/// The result of a write that was never answered, because the store has stopped.
impl<T> Unanswered for Result<T, Error> {
    fn unanswered() -> Self {
        Err(Error::Closed)
    }
}

/// The measurements of a store's writer.
#[derive(Clone, Debug, Default)]
pub struct Measures {
    /// The transactions by the duration of their commit in seconds, which is mostly the time of the disk.
    pub commit_time: meter::HistogramReading,
    /// The same transactions by their number of requests.
    pub batch_size: meter::HistogramReading,
    /// The number of requests that now wait for the writer.
    pub queued: u64,
    /// The number of jumps of the wall clock that were noticed.
    pub clock_jumps: u64,
    /// The bytes of the current dead letters: contents, reasons and places.
    pub dead_letter_bytes: u64,
    /// The number of dead letters that were dropped because of a limit, since the store was created.
    pub dead_letters_dropped: u64,
}
