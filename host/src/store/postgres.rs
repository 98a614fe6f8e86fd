//! The store in PostgreSQL: one schema of a database, which several hosts may share.
//!
//! The writer drains a bounded queue into one transaction at a time (group commit) and answers after the commit. All that
//! somebody follows is numbered under the lock of one row, the head, which is held until the commit. So the order of numbers is
//! the order of commits, and no reader ever skips one. What the writer keeps in memory is a hint that the head row confirms.
//!
//! `ARCHITECTURE.md` has the proof, and what this costs.

mod address;
mod administration;
mod appends;
mod callbacks;
mod connection;
mod content;
mod dead_letters;
mod division;
mod failures;
mod held_keys;
mod hints;
mod http_requests;
mod import;
mod listening;
mod membership;
mod moving;
mod outbox;
mod pending;
mod places;
mod pool;
mod progress;
mod reader;
mod schema;
mod snapshots;
mod statistics;
mod tls;
mod writer;

use super::front::{Front, Fronted};
use super::tail::Tail;
use super::write_request::AdminRequest;
use super::{
    Backup, CopyName, Error, EventStore, Hosts, Inspection, Maintenance, Measures, Newest, Options, Place, Reader,
    Sharing, SharingChange, Snapshot, Statistics, move_mark,
};
use crate::ack::Ack;
use crate::supervise;
use connection::{Connection, Network, uint};
use listening::Listening;
use membership::Company;
use pool::Pool;
use reader::{PostgresReader, Source};
use schema::Found;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use uuid::Uuid;

pub use address::Address;
pub use import::Importer;
pub(super) use moving::{End, look, statistics, verify};

/// The [`EventStore`] in PostgreSQL.
pub struct PostgresStore {
    front: Front,
    writer: supervise::Thread,
    tail: Arc<Tail>,
    pool: Arc<Pool>,
    snapshots: snapshots::Snapshots,
    /// How this host learns what other hosts write. `None` if it has the store alone.
    listening: Option<Listening>,
    /// The id of this host.
    host: i64,
    identity: Uuid,
    address: Address,
}

impl PostgresStore {
    /// Opens the store of an address, and makes its tables if there are none. Fails if another host has it open, or if it is from a
    /// newer wasmill. No other host can open it meanwhile.
    pub fn open(address: &Address, options: Options) -> Result<Self, Error> {
        Self::join(address, options, Company::Alone)
    }

    /// Opens the store as [`open`](Self::open) does, together with other hosts that do so.
    pub fn open_shared(address: &Address, options: Options) -> Result<Self, Error> {
        Self::join(address, options, Company::Hosts)
    }

    fn join(address: &Address, options: Options, company: Company) -> Result<Self, Error> {
        let network = Network::start(address)?;
        let connection = network.connect()?;
        schema::check_server(&connection)?;
        schema::check_writable(&connection)?;
        schema::migrate(&connection, address)?;
        let identity = schema::identity(&connection)?;
        let host = membership::join(&connection, options.lease_ms, company)?;
        // From here on nobody can mark it.
        if let Err(refused) = move_mark::refuse(address.url(), content::mark(&connection)?.as_deref()) {
            membership::leave(&connection, host)?;
            return Err(refused);
        }
        let (queue, requests, room) = Front::queue(options.queue_max, options.queue_bytes_max);
        let tail = Arc::new(Tail::new(options.tail_bytes_max));
        let writer = writer::Writer::new(network.clone(), connection, host, options, tail.clone(), room.clone())?;
        let front = Front::new(queue, room, writer.announcer.watches(), writer.meters.clone());
        let listening = (company == Company::Hosts).then(|| Listening::start(&network, host, writer.announcer.clone()));
        let writer = supervise::vital("store-writer", move || writer.run(requests))
            .map_err(|error| Error::Failed(format!("can't start the writer's thread: {error}")))?;
        let snapshots = snapshots::Snapshots::new(network.clone());
        let (pool, address) = (Pool::new(network), address.clone());
        Ok(Self { front, writer, tail, pool, snapshots, listening, host, identity, address })
    }
}

impl Fronted for PostgresStore {
    fn front(&self) -> &Front {
        &self.front
    }

    fn keep(&self, snapshot: Snapshot) {
        self.snapshots.keep(snapshot);
    }
}

impl Maintenance for PostgresStore {
    fn backup_in(&self, _folder: &Path, _name: &CopyName, _is_over: &dyn Fn() -> bool) -> Result<Backup, Error> {
        Err(Error::Invalid(no_backup(&self.address)))
    }

    fn statistics(&self, count: bool) -> Result<Statistics, Error> {
        self.pool.with(|connection| statistics::of(connection, count))
    }
}

/// Returns why wasmill makes no backup of a store in PostgreSQL.
pub fn no_backup(address: &Address) -> String {
    format!(
        "the store is in PostgreSQL at {address}, which has its own tools for backups: use `pg_dump --schema {}`, or \
         pg_basebackup with the archive of its log",
        address.schema()
    )
}

impl EventStore for PostgresStore {
    fn identity(&self) -> Uuid {
        self.identity
    }

    fn loss(&self) -> watch::Receiver<Option<Error>> {
        self.front.loss()
    }

    fn trouble(&self) -> Option<String> {
        self.front.trouble()
    }

    fn reader(&self) -> Result<Box<dyn Reader>, Error> {
        Ok(Box::new(PostgresReader::new(Source::Pool(self.pool.clone()), self.tail.clone())))
    }

    fn measures(&self) -> Measures {
        self.front.measures()
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        Some(self)
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        self.listening.is_some().then_some(self as _)
    }

    fn close(&self) {
        self.snapshots.close();
        self.front.close();
        self.writer.join();
    }
}

impl Sharing for PostgresStore {
    fn hosts(&self) -> Result<Hosts, Error> {
        self.pool.with(|connection| membership::hosts(connection, self.host))
    }

    fn change(&self, change: SharingChange, ack: Ack<Result<(), Error>>) {
        self.front.administer(AdminRequest::Share(change), ack);
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Returns whether there is a store. If nobody can tell, there may be one, and opening it says why.
pub fn exists(address: &Address) -> bool {
    connect(address).and_then(|connection| schema::find(&connection)).ok() != Some(Found::Nothing)
}

/// Returns whether a host has the store open now. If nobody can tell, none has.
pub fn is_in_use(address: &Address) -> bool {
    existing(address).and_then(|connection| membership::is_open(&connection)).unwrap_or(false)
}

/// Returns the places in a store.
pub fn places(address: &Address) -> Result<Vec<Place>, Error> {
    places::of(&existing(address)?)
}

/// Returns a fact of a store, or `None` if there is no store.
pub fn fact(address: &Address, name: &str) -> Result<Option<String>, Error> {
    let connection = connect(address)?;
    match schema::find(&connection)? {
        Found::Nothing => Ok(None),
        _ => reader::fact(&connection, name),
    }
}

/// Opens a store for reading what it has at this moment. A host may go on writing to it.
pub fn inspect(address: &Address) -> Result<Inspection, Error> {
    let connection = existing(address)?;
    let identity = schema::identity(&connection)?;
    move_mark::refuse_unfinished(address.url(), content::mark(&connection)?.as_deref())?;
    connection.batch("reading the store", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    let sql = "SELECT position, message, dead_letter FROM head";
    let row = connection.first("reading the newest numbers", sql, &[])?;
    let newest = row.map_or(Newest::default(), |row| Newest {
        event: uint(&row, 0),
        message: uint(&row, 1),
        dead_letter: uint(&row, 2),
    });
    let reader = PostgresReader::new(Source::Moment(Box::new(connection)), Arc::new(Tail::new(0)));
    Ok(Inspection { identity, reader: Box::new(reader), newest, _lock: Box::new(()) })
}

fn connect(address: &Address) -> Result<Connection, Error> {
    let connection = Network::start(address)?.connect()?;
    schema::check_server(&connection)?;
    Ok(connection)
}

/// Connects to a store that must exist, and must have the schema of this wasmill.
fn existing(address: &Address) -> Result<Connection, Error> {
    let connection = connect(address)?;
    require_current(address, schema::find(&connection)?)?;
    Ok(connection)
}

/// Fails unless there is a store with the schema of this wasmill.
fn require_current(address: &Address, found: Found) -> Result<(), Error> {
    match found {
        Found::Current => Ok(()),
        Found::Nothing => Err(Error::Failed(format!("there is no store {address}"))),
        Found::Older(version) => Err(Error::Failed(format!(
            "the store {address} has schema version {version}: a host of this wasmill migrates it when it starts"
        ))),
    }
}
