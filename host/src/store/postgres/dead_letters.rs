//! Dead letters: reading them, and the writer's changes when one is kept, retried or discarded.

use super::connection::{Connection, int, optional_text, text, uint};
use super::pending::LetterRow;
use super::writer::Writer;
use crate::model::{DeadLetter, KeptDeadLetter, Origin};
use crate::store::age::Moment;
use crate::store::fault::{self, FaultPoint};
use crate::store::recording::Recording as _;
use crate::store::{DeadLetterQuery, Discard, Error, encoding};
use tokio_postgres::Row;

/// The most letters that one transaction drops because they are too old.
const DROPPED_AT_ONCE: i64 = 1_000;

/// Returns the selected letters, newest first, and the total number of the consumer's letters.
pub(super) fn list(connection: &Connection, wanted: &DeadLetterQuery<'_>) -> Result<(Vec<KeptDeadLetter>, u64), Error> {
    const DOING: &str = "reading the dead letters";
    let DeadLetterQuery { consumer, before, limit } = wanted;
    let (before, limit) = (int(before.unwrap_or(u64::MAX)), int(*limit as u64));
    // These are two statements rather than one with an alternative, so that each uses its own index.
    let (rows, total) = match consumer {
        Some(consumer) => {
            let sql =
                "SELECT number, consumer, place, key, reason, time_ms, dead_lettered_ms, content FROM dead_letters
                       WHERE consumer = $1 AND number < $2 ORDER BY number DESC LIMIT $3";
            let count = "SELECT count(*) FROM dead_letters WHERE consumer = $1";
            (connection.query(DOING, sql, &[consumer, &before, &limit])?, connection.first(DOING, count, &[consumer])?)
        }
        None => {
            let sql =
                "SELECT number, consumer, place, key, reason, time_ms, dead_lettered_ms, content FROM dead_letters
                       WHERE number < $1 ORDER BY number DESC LIMIT $2";
            let count = "SELECT count(*) FROM dead_letters";
            (connection.query(DOING, sql, &[&before, &limit])?, connection.first(DOING, count, &[])?)
        }
    };
    Ok((rows.iter().map(letter).collect::<Result<_, _>>()?, total.map_or(0, |row| uint(&row, 0))))
}

/// Returns the letters after a number, oldest first.
pub(super) fn after(connection: &Connection, number: u64, limit: usize) -> Result<Vec<KeptDeadLetter>, Error> {
    let sql = "SELECT number, consumer, place, key, reason, time_ms, dead_lettered_ms, content FROM dead_letters
               WHERE number > $1 ORDER BY number LIMIT $2";
    let rows = connection.query("reading the dead letters", sql, &[&int(number), &int(limit as u64)])?;
    rows.iter().map(letter).collect()
}

const FIND: &str = "SELECT number, consumer, place, key, reason, time_ms, dead_lettered_ms, content FROM dead_letters
                    WHERE number = $1";

/// Returns the letter with this number.
pub(super) fn find(connection: &Connection, number: u64) -> Result<Option<KeptDeadLetter>, Error> {
    connection.first("reading a dead letter", FIND, &[&int(number)])?.map(|row| letter(&row)).transpose()
}

fn letter(row: &Row) -> Result<KeptDeadLetter, Error> {
    let number = uint(row, 0);
    let letter = DeadLetter {
        consumer: row.get(1),
        place: text(row, 2)?,
        key: optional_text(row, 3)?,
        reason: text(row, 4)?,
        time_ms: row.get::<_, Option<i64>>(5).map(i64::cast_unsigned),
        content: encoding::decode(&format!("the content of dead letter {number}"), row.get(7))?,
    };
    Ok(KeptDeadLetter { number, dead_lettered_ms: uint(row, 6), letter, waiting: 0 })
}

/// Makes the error for a number that has no letter.
pub(super) fn absent(number: u64) -> Error {
    Error::NotFound(format!("there is no dead letter {number}: it was retried or discarded, or never existed"))
}

impl Writer {
    /// Stores a dead letter for which there is room.
    pub(super) fn keep_dead_letter(&mut self, letter: &DeadLetter, origin: Option<&Origin>) -> Result<(), Error> {
        let content = encoding::encode(&letter.content)?;
        let bytes = (content.len() + letter.reason.len() + letter.place.len()) as u64;
        let limits = self.options.dead_letters;
        while limits.drops_oldest
            && self.head.letters > 0
            && (self.head.letters >= limits.count_max || self.head.letter_bytes + bytes > limits.bytes_max)
        {
            self.drop_oldest_letter()?;
        }
        if let Some(origin) = origin {
            self.settle(origin)?;
        }
        let Moment { wall_ms, running_ms } = self.age.now();
        self.head.dead_letter += 1;
        self.head.letters += 1;
        self.head.letter_bytes += bytes;
        let DeadLetter { consumer, place, key, reason, time_ms, .. } = letter;
        self.pending.add_letter(LetterRow {
            number: self.head.dead_letter,
            consumer,
            place,
            key: key.as_deref(),
            reason,
            time_ms: *time_ms,
            dead_lettered_ms: wall_ms,
            running_ms,
            bytes,
            content,
        });
        fault::at(FaultPoint::DeadLetterKept);
        Ok(())
    }

    pub(super) fn has_dead_letter(&mut self, number: u64) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM dead_letters WHERE number = $1";
        Ok(self.first("looking for a dead letter", sql, &[&int(number)])?.is_some())
    }

    pub(super) fn find_dead_letter(&mut self, number: u64) -> Result<KeptDeadLetter, Error> {
        let row = self.first("reading a dead letter", FIND, &[&int(number)])?;
        row.map_or_else(|| Err(absent(number)), |row| letter(&row))
    }

    /// Removes a letter.
    pub(super) fn remove_dead_letter(&mut self, number: u64) -> Result<(), Error> {
        let sql = "DELETE FROM dead_letters WHERE number = $1 RETURNING bytes";
        let removed = self.first("removing a dead letter", sql, &[&int(number)])?;
        self.release_behind(number)?;
        fault::at(FaultPoint::DeadLetterRemoved);
        let removed = removed.ok_or_else(|| absent(number))?;
        self.give_room(1, uint(&removed, 0));
        Ok(())
    }

    /// Removes the oldest of these letters, and returns their number.
    pub(super) fn discard_many(&mut self, which: &Discard) -> Result<u64, Error> {
        let sql = "DELETE FROM dead_letters WHERE number IN
                   (SELECT number FROM dead_letters WHERE ($1::text IS NULL OR consumer = $1) AND number <= $2
                    ORDER BY number LIMIT $3) RETURNING number, bytes";
        let bounds = (int(which.last), int(which.limit));
        let rows = self.query("removing dead letters", sql, &[&which.consumer, &bounds.0, &bounds.1])?;
        for row in &rows {
            self.release_behind(uint(row, 0))?;
            self.give_room(1, uint(row, 1));
        }
        fault::at(FaultPoint::DeadLetterRemoved);
        Ok(rows.len() as u64)
    }

    /// Replaces the reason of a letter after a retry failed.
    pub(super) fn explain_dead_letter(&mut self, number: u64, reason: &str) -> Result<(), Error> {
        let sql = "UPDATE dead_letters SET reason = $2 WHERE number = $1";
        let doing = "keeping why a dead letter failed again";
        let changed = self.execute(doing, sql, &[&int(number), &reason.as_bytes()])?;
        fault::at(FaultPoint::DeadLetterExplained);
        if changed > 0 { Ok(()) } else { Err(absent(number)) }
    }

    /// Drops letters that are too old by the wall clock and by the running time.
    pub(super) fn drop_older_letters(&mut self, than: Moment) -> Result<(), Error> {
        // The oldest come first, and the first that is young enough ends it.
        let sql = "SELECT dead_lettered_ms, running_ms FROM dead_letters ORDER BY number LIMIT $1";
        let rows = self.query("looking for old dead letters", sql, &[&DROPPED_AT_ONCE])?;
        let is_too_old = |row: &&Row| uint(row, 0) < than.wall_ms && uint(row, 1) < than.running_ms;
        for _ in 0..rows.iter().take_while(is_too_old).count() {
            self.drop_oldest_letter()?;
        }
        Ok(())
    }

    fn drop_oldest_letter(&mut self) -> Result<(), Error> {
        let sql =
            "DELETE FROM dead_letters WHERE number = (SELECT min(number) FROM dead_letters) RETURNING number, bytes";
        match self.first("dropping the oldest dead letter", sql, &[])? {
            Some(row) => {
                self.release_behind(uint(&row, 0))?;
                if self.head.letters_dropped == 0 {
                    tracing::warn!(
                        "the oldest dead letter is dropped, as the manifest's store.dead_letters_… ask for; further ones are \
                         only counted, in the metric wasmill_dead_letters_dropped_total"
                    );
                }
                self.head.letters_dropped += 1;
                self.give_room(1, uint(&row, 1));
            }
            // There are no letters, whatever the head says.
            None => (self.head.letters, self.head.letter_bytes) = (0, 0),
        }
        Ok(())
    }

    fn give_room(&mut self, count: u64, bytes: u64) {
        self.head.letters = self.head.letters.saturating_sub(count);
        self.head.letter_bytes = self.head.letter_bytes.saturating_sub(bytes);
    }
}
