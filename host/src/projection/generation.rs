//! A generation of a projection: code, read model, and the guests that answer queries.

use super::read_model::{About, Database, Fault, Mark, Origin};
use super::shelf::{Files, Shelf, Title};
use super::{Error, QueryError};
use crate::model::Failure;
use crate::model::{Position, RecordedEvent};
use crate::plugin::{self, Plugin, ProjectionGuest};
use crate::supervise::Held as _;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

/// A read model of a projection with the code that built it.
pub(super) struct Generation {
    pub(super) plugin: Arc<Plugin>,
    /// Idle guests for queries, each with its own connection.
    resting: Mutex<Vec<(ProjectionGuest, Database)>>,
    /// The connection that writes. It stands after the connections that only read, because the last one to close copies
    /// the write-ahead log into the file.
    writing: Database,
    /// The checkpoint when it was opened.
    pub(super) opened_at: Mark,
    /// The damage that a query has found.
    damage: OnceLock<String>,
    /// The files. This is the last field, so that all connections are closed before the files are deleted.
    files: Files,
}

/// The result of folding a batch of events.
pub(super) struct Projected {
    pub(super) outcome: Result<Result<(), Failure>, plugin::Error>,
    /// Whether the transaction is still open.
    pub(super) is_open: bool,
}

impl Generation {
    /// Creates an empty read model for this code.
    pub(super) fn create(plugin: &Arc<Plugin>, shelf: &Arc<Shelf>, origin: &Origin) -> Result<Self, Error> {
        let schema = ProjectionGuest::new(plugin)?.schema()?;
        let files = shelf.files(shelf.next_title(&plugin.digest));
        let writing = Database::create(&files.path(), &schema, origin, &plugin.limits).map_err(|fault| {
            files.retire();
            match fault {
                Fault::Statement(cause) => Error::Schema(format!(
                    "plugin {} has a schema that can't be used: {}; correct it and reload the plugin",
                    plugin.label(),
                    plugin::of_library(&cause)
                )),
                fault => failed(&files.path(), fault),
            }
        })?;
        Ok(Self::of(plugin, writing, Mark::default(), files))
    }

    /// Opens the read model of a title, and returns what it belongs to. A damaged one is set aside.
    pub(super) fn open(plugin: &Arc<Plugin>, shelf: &Arc<Shelf>, title: &Title) -> Result<(Self, About), Error> {
        let files = shelf.files(title.clone());
        match Database::open(&files.path(), &plugin.limits) {
            Ok((writing, about)) => Ok((Self::of(plugin, writing, about.mark, files), about)),
            Err(fault) => {
                let error = failed(&files.path(), fault);
                if error.is_damage() {
                    files.set_aside();
                }
                Err(error)
            }
        }
    }

    fn of(plugin: &Arc<Plugin>, writing: Database, opened_at: Mark, files: Files) -> Self {
        let (plugin, resting, damage) = (plugin.clone(), Mutex::default(), OnceLock::new());
        Self { plugin, writing, opened_at, resting, damage, files }
    }

    /// Begins a transaction.
    pub(super) fn begin(&self) -> Result<(), Error> {
        self.sql(self.writing.begin())
    }

    /// Folds a batch of events, completely or not at all, in the open transaction. After an error the transaction must
    /// be rolled back.
    pub(super) fn project(&self, guest: &mut ProjectionGuest, events: &[RecordedEvent]) -> Result<Projected, Error> {
        self.sql(self.writing.mark())?;
        let outcome = guest.project(events, self.writing.for_guest(self.plugin.limits.event_time));
        if let Some(fault) = self.writing.take_trouble() {
            // The guest got this error too, but neither it nor the event is at fault.
            return Err(failed(&self.files.path(), fault));
        }
        let is_open = self.sql(self.writing.unmark(!matches!(outcome, Ok(Ok(())))))?;
        Ok(Projected { outcome, is_open })
    }

    /// Commits the transaction, with the checkpoint moved from `from` to `to`.
    pub(super) fn commit(&self, from: Position, to: Mark) -> Result<(), Error> {
        if self.sql(self.writing.commit(from, to))? {
            return Ok(());
        }
        let moved = format!("its checkpoint is not at {from} any more: something else has written to it");
        Err(failed(&self.files.path(), Fault::Damaged(moved)))
    }

    /// Rolls the transaction back.
    pub(super) fn roll_back(&self) -> Result<(), Error> {
        self.sql(self.writing.roll_back())
    }

    /// Records in the file that it has caught up and answers queries.
    pub(super) fn answers(&self) -> Result<(), Error> {
        self.sql(self.writing.answers())
    }

    /// Answers a query. A guest that traps or is worn is dropped, and others are kept for later queries.
    pub(super) fn query(&self, query: &str, params: &[u8]) -> Result<Vec<u8>, QueryError> {
        let internal = |error: &dyn std::fmt::Display| plugin::QueryError::Failed(error.to_string());
        let rested = self.resting.held().pop();
        let (mut guest, database) = match rested {
            Some(rested) => rested,
            None => (
                ProjectionGuest::new(&self.plugin).map_err(|error| internal(&error))?,
                Database::open_read_only(&self.files.path(), &self.plugin.limits)
                    .map_err(|fault| self.unusable(fault))?,
            ),
        };
        let answer = guest
            .query(query, params, database.for_guest(self.plugin.limits.event_time))
            .map_err(|error: plugin::Error| internal(&error))?;
        if let Some(fault) = database.take_trouble() {
            return Err(self.unusable(fault));
        }
        if !guest.is_worn() {
            self.resting.held().push((guest, database));
        }
        Ok(answer?)
    }

    fn unusable(&self, fault: Fault) -> QueryError {
        let error = failed(&self.files.path(), fault);
        if error.is_damage() {
            let _ = self.damage.set(error.to_string());
        }
        QueryError::Unavailable(error.to_string())
    }

    /// Returns the damage that a query has found.
    pub(super) fn damage(&self) -> Option<&String> {
        self.damage.get()
    }

    /// Has its files deleted once the last query has ended, because another generation answers.
    pub(super) fn retire(&self) {
        self.files.retire();
    }

    /// Sets its files aside, so that they are not opened again.
    pub(super) fn set_aside(&self) {
        self.files.set_aside();
    }

    fn sql<T>(&self, result: rusqlite::Result<T>) -> Result<T, Error> {
        let path = self.files.path();
        result.map_err(|error| failed(&path, super::read_model::fault(&path, &error)))
    }
}

fn failed(file: &Path, fault: Fault) -> Error {
    let file = file.display().to_string();
    match fault {
        Fault::Passing(cause) => Error::ReadModel { file, cause },
        // The host's own statements are correct, so the file must be damaged.
        Fault::Damaged(cause) | Fault::Statement(cause) => Error::Damaged { file, cause },
    }
}
