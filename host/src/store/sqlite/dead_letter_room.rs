//! The room of the dead letters, and what happens when there is none.
//!
//! Their number and bytes are kept in the marks `dead_letters`, `dead_letter_bytes` and `dead_letters_dropped`, which a
//! transaction writes at its end if it changed them. So neither a new letter nor a start has to count all letters.

use super::age::Moment;
use super::dead_letters::Removed;
use super::{DeadLetterLimits, Error, failed, held_keys};
use rusqlite::{Connection, OptionalExtension, params};

/// The most letters that one transaction drops because they are too old.
const DROPPED_AT_ONCE: usize = 1_000;

/// The number and bytes of the dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct DeadLetterRoom {
    count: u64,
    pub(super) bytes: u64,
    /// The number of letters that were dropped since the store was created.
    pub(super) dropped: u64,
    is_changed: bool,
}

impl DeadLetterRoom {
    /// Reads the room from the file.
    pub(super) fn read(connection: &Connection) -> Result<Self, Error> {
        let mark = |name: &str| -> Result<u64, Error> {
            let found = connection
                .prepare_cached("SELECT value FROM marks WHERE name = ?1")
                .and_then(|mut select| select.query_row([name], |row| row.get(0)).optional())
                .map_err(failed("reading how many dead letters there are"))?;
            Ok(found.unwrap_or(0))
        };
        let (count, bytes) = (mark("dead_letters")?, mark("dead_letter_bytes")?);
        Ok(Self { count, bytes, dropped: mark("dead_letters_dropped")?, is_changed: false })
    }

    /// Writes the room if it changed.
    pub(super) fn write(&mut self, connection: &Connection) -> Result<(), Error> {
        if !std::mem::take(&mut self.is_changed) {
            return Ok(());
        }
        for (name, value) in
            [("dead_letters", self.count), ("dead_letter_bytes", self.bytes), ("dead_letters_dropped", self.dropped)]
        {
            connection
                .prepare_cached("INSERT OR REPLACE INTO marks (name, value) VALUES (?1, ?2)")
                .and_then(|mut insert| insert.execute(params![name, value]))
                .map_err(failed("writing how many dead letters there are"))?;
        }
        Ok(())
    }

    /// Fails if there is no room for more letters. Call it before anything is written.
    pub(super) fn refuse_if_full(&self, coming: usize, limits: &DeadLetterLimits) -> Result<(), Error> {
        limits.refuse_if_full(self.count, self.bytes, coming)
    }

    /// Takes room for a letter. If the limits say so, the oldest letters are dropped to make room.
    pub(super) fn take(&mut self, connection: &Connection, bytes: u64, limits: &DeadLetterLimits) -> Result<(), Error> {
        let is_beyond = |room: &Self| room.count >= limits.count_max || room.bytes + bytes > limits.bytes_max;
        while limits.drops_oldest && self.count > 0 && is_beyond(self) {
            self.drop_oldest(connection)?;
        }
        (self.count, self.bytes, self.is_changed) = (self.count + 1, self.bytes + bytes, true);
        Ok(())
    }

    /// Gives back the room of removed letters.
    pub(super) fn give(&mut self, removed: Removed) {
        self.count = self.count.saturating_sub(removed.count);
        self.bytes = self.bytes.saturating_sub(removed.bytes);
        self.is_changed |= removed.count > 0;
    }

    /// Drops letters that are too old by the wall clock and by the running time.
    pub(super) fn drop_older(&mut self, connection: &Connection, than: Moment) -> Result<(), Error> {
        for _ in 0..DROPPED_AT_ONCE {
            let oldest = connection
                .prepare_cached("SELECT dead_lettered_ms, running_ms FROM dead_letters ORDER BY number LIMIT 1")
                .and_then(|mut select| {
                    select.query_row([], |row| Ok(Moment { wall_ms: row.get(0)?, running_ms: row.get(1)? })).optional()
                })
                .map_err(failed("looking for old dead letters"))?;
            let is_too_old = |at: Moment| at.wall_ms < than.wall_ms && at.running_ms < than.running_ms;
            if !oldest.is_some_and(is_too_old) {
                break;
            }
            self.drop_oldest(connection)?;
        }
        Ok(())
    }

    fn drop_oldest(&mut self, connection: &Connection) -> Result<(), Error> {
        let sql = "DELETE FROM dead_letters WHERE number = (SELECT min(number) FROM dead_letters)
             RETURNING number, bytes";
        let dropped = connection
            .prepare_cached(sql)
            .and_then(|mut delete| delete.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .map_err(failed("dropping the oldest dead letter"))?;
        match dropped {
            Some((number, bytes)) => {
                held_keys::release_behind(connection, number)?;
                if self.dropped == 0 {
                    tracing::warn!(
                        "the oldest dead letter is dropped, as the manifest's store.dead_letters_… ask for; further ones are \
                         only counted, in the metric wasmill_dead_letters_dropped_total"
                    );
                }
                (self.dropped, self.is_changed) = (self.dropped + 1, true);
                self.give(Removed { count: 1, bytes });
            }
            // There are no letters, whatever the marks say.
            None => (self.count, self.bytes, self.is_changed) = (0, 0, true),
        }
        Ok(())
    }
}
