//! An embedded store that takes part in a move.
//!
//! Its lock keeps hosts away, and each transaction checks the owner epoch, so a host that got in nevertheless is noticed.

use super::content::{self, MARKS, SEQUENCES, View};
use super::dictionary::Dictionary;
use super::owner::{self, Ownership};
use super::stream_index::{Filler, StreamIndex};
use super::{Error, Options, failed, files, rows, schema, verify};
use crate::paths;
use crate::store::content::{Content, Head, Row, Table, Value};
use crate::store::move_mark::{self, Mark};
use crate::store::verify::Report;
use crate::store::{Location, moving};
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

/// The bytes of rows after which the log is folded into the file.
const UNFOLDED_BYTES_MAX: usize = 32 << 20;

/// A store that this process owns.
pub(in crate::store) struct End {
    file: PathBuf,
    connection: Connection,
    ownership: Ownership,
    dictionary: Dictionary,
    /// It is there once events are added.
    filler: Option<Filler>,
    /// Whether the next transaction is the first one of a log, and must mark it.
    is_log_new: bool,
    unfolded_bytes: usize,
    /// What keeps hosts away. It is released last.
    _lock: schema::Lock,
}

impl End {
    /// Takes over the store in a file, if there is one.
    pub(in crate::store) fn own(file: &Path) -> Result<Option<Self>, Error> {
        if !schema::exists(file) && !files::files_of(file).iter().any(|file| file.exists()) {
            return Ok(None);
        }
        let lock = schema::lock(file)?;
        Self::open(file, lock).map(Some)
    }

    /// Makes a store without events.
    pub(in crate::store) fn make(file: &Path, identity: Uuid, mark: &Mark) -> Result<Self, Error> {
        let folder = paths::folder_of(file);
        paths::make_folder(folder).map_err(|error| Error::Failed(error.to_string()))?;
        let lock = schema::lock(file)?;
        if schema::exists(file) {
            return Err(Error::Invalid(format!("{} was made meanwhile by another program", file.display())));
        }
        files::refuse_unfit(file)?;
        let text = mark.text()?;
        schema::make(file, |connection| {
            let failed = failed("making the store");
            let transaction = connection.unchecked_transaction().map_err(&failed)?;
            transaction.execute("UPDATE store SET identity = ?1", params![identity.as_bytes()]).map_err(&failed)?;
            put_mark(&transaction, Some(&text))?;
            transaction.commit().map_err(&failed)
        })?;
        Self::open(file, lock)
    }

    fn open(file: &Path, lock: schema::Lock) -> Result<Self, Error> {
        files::refuse_unfit(file)?;
        let connection = schema::open_existing(file)?;
        connection.set_prepared_statement_cache_capacity(64);
        let ownership = Ownership::take(&connection, file)?;
        Ok(Self {
            file: file.to_owned(),
            connection,
            ownership,
            dictionary: Dictionary::default(),
            filler: None,
            is_log_new: false,
            unfolded_bytes: 0,
            _lock: lock,
        })
    }

    fn view(&self) -> View<'_> {
        View { connection: &self.connection, file: &self.file }
    }

    /// Runs a transaction, which fails if another process has taken the store over.
    fn transaction(&mut self, change: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let doing = format!("writing to {}", self.file.display());
        let failed = failed(&doing);
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(&failed)?;
        let done = self
            .ownership
            .check(&self.connection)
            .and_then(|()| if self.is_log_new { owner::mark_log(&self.connection) } else { Ok(()) })
            .and_then(|()| change(self))
            .and_then(|()| self.connection.execute_batch("COMMIT").map_err(&failed));
        match done {
            Ok(()) => self.is_log_new = false,
            // After some errors SQLite has rolled back by itself.
            Err(_) => _ = self.connection.execute_batch("ROLLBACK"),
        }
        done
    }

    /// Folds the log into the file, so that it does not grow with the store.
    fn fold(&mut self) -> Result<(), Error> {
        self.ownership.check(&self.connection)?;
        self.ownership.check_files()?;
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(failed("folding the log into the store"))?;
        self.ownership.log_cut();
        (self.is_log_new, self.unfolded_bytes) = (true, 0);
        Ok(())
    }

    fn filler(&mut self) -> Result<Filler, Error> {
        match self.filler.take() {
            Some(filler) => Ok(filler),
            None => {
                // A run of the stream index is a part of the transaction that completes it.
                let options = Options { index_slice: usize::MAX >> 1, ..Options::default() };
                Filler::open(&self.connection, Arc::new(StreamIndex::default()), &options)
            }
        }
    }

    fn add(&mut self, table: Table, rows: &[Row]) -> Result<(), Error> {
        let doing = format!("adding {} to {}", table.layout().name, self.file.display());
        for row in rows {
            content::insert(&self.connection, &mut self.dictionary, table, row).map_err(failed(&doing))?;
        }
        if table != Table::Events {
            return Ok(());
        }
        let mut filler = self.filler()?;
        let mut entries = Vec::new();
        for row in rows {
            let number =
                self.dictionary.find_aggregate_type(&self.connection, &row[1].text()).map_err(failed(&doing))?;
            let key = (number.unwrap_or(0), row[3].text().into());
            entries.push((key, (row[4].count(), row[0].count())));
        }
        filler.publish(entries);
        while filler.has_work() {
            filler.insert_slice(&self.connection, 0)?;
            filler.committed();
        }
        self.filler = Some(filler);
        Ok(())
    }
}

impl Content for End {
    fn may_be_damaged(&self) -> bool {
        self.view().may_be_damaged()
    }

    fn head(&mut self) -> Result<Head, Error> {
        self.view().head()
    }

    fn page(&mut self, table: Table, after: Option<&[Value]>) -> Result<Vec<Row>, Error> {
        self.view().page(table, after)
    }
}

impl moving::End for End {
    fn mark(&mut self) -> Result<Option<Mark>, Error> {
        mark(&self.connection, &self.file)
    }

    fn set_mark(&mut self, mark: Option<&Mark>) -> Result<(), Error> {
        let text = mark.map(Mark::text).transpose()?;
        self.transaction(|end| put_mark(&end.connection, text.as_deref()))
    }

    fn begin(&mut self, mark: &Mark) -> Result<(), Error> {
        let text = mark.text()?;
        self.transaction(|end| {
            for table in Table::but_events() {
                let name = table.layout().name;
                let deleted = end.connection.execute(&format!("DELETE FROM {name}"), []);
                deleted.map_err(failed("beginning a move"))?;
            }
            put_mark(&end.connection, Some(&text))
        })
    }

    fn write(&mut self, table: Table, rows: &[Row]) -> Result<(), Error> {
        self.transaction(|end| end.add(table, rows))?;
        self.unfolded_bytes += rows.iter().flatten().map(Value::size).sum::<usize>();
        if self.unfolded_bytes >= UNFOLDED_BYTES_MAX { self.fold() } else { Ok(()) }
    }

    fn set_head(&mut self, head: &Head) -> Result<(), Error> {
        let Head { message, dead_letters, dead_letter_bytes, dead_letters_dropped, .. } = head;
        let marks = MARKS.into_iter().zip([message, dead_letters, dead_letter_bytes, dead_letters_dropped]);
        let sequences = SEQUENCES.into_iter().zip([head.dead_letter, head.callback, head.http_request]);
        self.transaction(|end| {
            let failed = failed("ending a copy");
            for (name, value) in marks {
                let sql = "INSERT OR REPLACE INTO marks (name, value) VALUES (?1, ?2)";
                end.connection.execute(sql, params![name, value]).map_err(&failed)?;
            }
            for (name, value) in sequences {
                end.connection.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [name]).map_err(&failed)?;
                let sql = "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)";
                end.connection.execute(sql, params![name, value]).map_err(&failed)?;
            }
            let sql = "UPDATE store SET running_ms = ?1, wall_ms = ?2";
            end.connection.execute(sql, params![head.running_ms, head.wall_ms]).map(drop).map_err(&failed)
        })?;
        self.fold()
    }

    fn verify(&mut self, watch: &mut dyn FnMut(u64, u64)) -> Result<Report, Error> {
        verify::of(&self.connection, &self.file, watch)
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        // This folds the log into the file.
        self.connection.close().map_err(|(_, error)| failed("closing the store")(error))
    }
}

/// Fails if a store takes part in a move.
pub(super) fn refuse_marked(connection: &Connection, file: &Path) -> Result<(), Error> {
    move_mark::refuse(&name(file), rows::fact(connection, Mark::name())?.as_deref())
}

/// Fails if a store is not complete, by the value of its mark.
pub(super) fn refuse_unfinished(file: &Path, mark: Option<&str>) -> Result<(), Error> {
    move_mark::refuse_unfinished(&name(file), mark)
}

/// Returns how a command names a store.
fn name(file: &Path) -> String {
    Location::Sqlite(file.to_owned()).in_command()
}

/// Returns the identity and the mark of a store. Another process may have it open.
pub(in crate::store) fn look(file: &Path) -> Result<Option<(Uuid, Option<Mark>)>, Error> {
    if !schema::exists(file) {
        return Ok(None);
    }
    let connection = schema::open_for_reading(file)?;
    Ok(Some((owner::identity(&connection)?, mark(&connection, file)?)))
}

fn mark(connection: &Connection, file: &Path) -> Result<Option<Mark>, Error> {
    Mark::read(&file.display().to_string(), rows::fact(connection, Mark::name())?.as_deref())
}

/// Writes the mark in a transaction.
fn put_mark(connection: &Connection, text: Option<&str>) -> Result<(), Error> {
    let done = match text {
        Some(text) => connection
            .execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?1, ?2)", params![Mark::name(), text]),
        None => connection.execute("DELETE FROM facts WHERE name = ?1", [Mark::name()]),
    };
    done.map(drop).map_err(failed("marking a store that is moved"))
}
