//! Whose store it is: its identity, and which of its openers may write.
//!
//! The lock on `events.lock` keeps a second host away, as long as nobody deletes that file. This is the fence behind it,
//! in the store itself: whoever opens the store for writing raises its owner epoch, and each transaction of a writer
//! begins with a look at the epoch. SQLite lets one connection write at a time, so a writer either commits before the
//! next owner has read anything, or finds the new epoch and writes nothing more.
//!
//! An owner also loses a store whose file another program has removed, replaced or cut. SQLite would only find that some
//! page is wrong, and the next fold of the log would hide what was done.

use super::{Error, failed};
use rusqlite::{Connection, params};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How often a writer that has nothing to do looks whether the store is still its own.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Gives a new store its identity.
pub(super) fn name(connection: &Connection) -> rusqlite::Result<()> {
    let insert =
        "INSERT INTO store (number, identity, owner_epoch, running_ms, wall_ms, newest) VALUES (1, ?1, 0, 0, 0, 0)";
    connection.execute(insert, params![Uuid::now_v7().as_bytes()]).map(drop)
}

/// The identity of a store.
pub(super) fn identity(connection: &Connection) -> Result<Uuid, Error> {
    let select = "SELECT identity FROM store";
    let bytes = connection.query_row(select, [], |row| row.get(0)).map_err(failed("reading the store's identity"))?;
    Ok(Uuid::from_bytes(bytes))
}

/// The ownership that an opener took.
pub(super) struct Ownership {
    epoch: i64,
    file: PathBuf,
    /// The file as it was last seen.
    seen: Seen,
    next_look: Instant,
}

/// What is looked at of a store's file.
#[derive(Clone, Copy)]
struct Seen {
    /// Device and inode.
    place: (u64, u64),
    bytes: u64,
}

impl Ownership {
    /// Takes the store over from every earlier opener.
    pub(super) fn take(connection: &Connection, file: &Path) -> Result<Self, Error> {
        let update = "UPDATE store SET owner_epoch = owner_epoch + 1,
                      newest = (SELECT coalesce(max(position), 0) FROM events) RETURNING owner_epoch";
        let epoch = connection.query_row(update, [], |row| row.get(0)).map_err(failed("taking the store over"))?;
        let seen = look(file)
            .ok_or_else(|| Error::Failed(format!("the store {} was removed while it was opened", file.display())))?;
        Ok(Self { epoch, file: file.to_owned(), seen, next_look: Instant::now() + LOOK_EVERY })
    }

    /// Fails if another opener has taken the store since. Exact within a write transaction.
    pub(super) fn check(&mut self, connection: &Connection) -> Result<(), Error> {
        let epoch: i64 = connection
            .prepare_cached("SELECT owner_epoch FROM store WHERE number = 1")
            .and_then(|mut select| select.query_row([], |row| row.get(0)))
            .map_err(failed("looking whose the store is"))?;
        let now = Instant::now();
        if now >= self.next_look {
            self.next_look = now + LOOK_EVERY;
            // What is written into a file that has lost its name is lost when the process ends. The file of an open store
            // grows only.
            match look(&self.file) {
                Some(there) if there.place == self.seen.place && there.bytes >= self.seen.bytes => self.seen = there,
                _ => return Err(self.lost()),
            }
        }
        if epoch == self.epoch { Ok(()) } else { Err(self.lost()) }
    }

    fn lost(&self) -> Error {
        Error::TakenOver { file: self.file.display().to_string() }
    }
}

/// Looks at a store's file, without opening it: a process that closes a file gives up SQLite's locks on it.
fn look(file: &Path) -> Option<Seen> {
    let found = std::fs::metadata(file).ok()?;
    Some(Seen { place: (found.dev(), found.ino()), bytes: found.len() })
}
