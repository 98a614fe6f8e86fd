//! One version of a projection: code, read model, and the guests that answer queries.

use super::Error;
use super::read_model::Database;
use crate::model::{Position, RecordedEvent};
use crate::plugin::{self, Failure, Plugin, ProjectionGuest, QueryError};
use crate::supervise::Held as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Characters of the digest in a file's name.
const DIGEST_CHARACTERS: usize = 16;

/// A version of a projection.
pub(super) struct Generation {
    pub(super) plugin: Arc<Plugin>,
    file: PathBuf,
    writing: Database,
    /// Guests with connections of their own, at rest between queries.
    resting: Mutex<Vec<(ProjectionGuest, Database)>>,
}

/// What became of a list of events.
pub(super) struct Projected {
    pub(super) outcome: Result<Result<(), Failure>, plugin::Error>,
    /// The transaction is still there.
    pub(super) is_open: bool,
}

impl Generation {
    /// The read model of this code: the one that is there, or a new and empty one.
    pub(super) fn open(plugin: &Arc<Plugin>, folder: &Path) -> Result<Self, Error> {
        let file = folder.join(format!("{}.sqlite", &plugin.digest[..DIGEST_CHARACTERS]));
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        let schema = ProjectionGuest::new(plugin)?.schema()?;
        let writing = Database::open(&file, &schema).map_err(|error| failed(&file, &error))?;
        Ok(Self { plugin: plugin.clone(), file, writing, resting: Mutex::default() })
    }

    /// The position that the rows are of.
    pub(super) fn checkpoint(&self) -> Position {
        // A read model without a readable checkpoint fails its first commit, loudly.
        self.writing.checkpoint().unwrap_or_default()
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> Result<(), Error> {
        self.writing.begin().map_err(|error| failed(&self.file, &error))
    }

    /// Folds a list of events in, whole or not at all, in the transaction that was begun. An error leaves it unfit for
    /// more.
    pub(super) fn project(&self, guest: &mut ProjectionGuest, events: &[RecordedEvent]) -> Result<Projected, Error> {
        let sql = |error: rusqlite::Error| failed(&self.file, &error);
        let time = self.plugin.limits.event_time;
        self.writing.mark().map_err(sql)?;
        let outcome = guest.project(events, self.writing.for_guest(time));
        let is_open = self.writing.unmark(!matches!(outcome, Ok(Ok(())))).map_err(sql)?;
        Ok(Projected { outcome, is_open })
    }

    /// Ends the transaction with the checkpoint moved from `from` to `to`.
    pub(super) fn commit(&self, from: Position, to: Position) -> Result<(), Error> {
        match self.writing.commit(from, to) {
            Ok(true) => Ok(()),
            Ok(false) => Err(failed(&self.file, &"its checkpoint was moved by another host")),
            Err(error) => Err(failed(&self.file, &error)),
        }
    }

    /// Ends the transaction with nothing changed.
    pub(super) fn roll_back(&self) -> Result<(), Error> {
        self.writing.roll_back().map_err(|error| failed(&self.file, &error))
    }

    /// Answers a query. A guest that traps is thrown away; the others are kept for the next query.
    pub(super) fn query(&self, query: &str, params: &[u8]) -> Result<Vec<u8>, QueryError> {
        let internal = |error: &dyn std::fmt::Display| QueryError::Failed(error.to_string());
        let rested = self.resting.held().pop();
        let (mut guest, database) = match rested {
            Some(rested) => rested,
            None => (
                ProjectionGuest::new(&self.plugin).map_err(|error| internal(&error))?,
                Database::open_read_only(&self.file).map_err(|error| internal(&failed(&self.file, &error)))?,
            ),
        };
        let answer = guest
            .query(query, params, database.for_guest(self.plugin.limits.event_time))
            .map_err(|error: plugin::Error| internal(&error))?;
        self.resting.held().push((guest, database));
        answer
    }

    /// Deletes the read models of other code. Queries that still run on one keep their open file.
    pub(super) fn delete_others(&self) {
        let Some(folder) = self.file.parent() else { return };
        let own = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(&own)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!("an old read model stays, {}: {error}", entry.path().display());
            }
        }
    }
}

fn failed(file: &Path, cause: &dyn std::fmt::Display) -> Error {
    Error::ReadModel { file: file.display().to_string(), cause: cause.to_string() }
}
