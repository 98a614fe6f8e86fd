//! The conversion between values and columns.

use super::dictionary::Dictionary;
use super::encoding::{Extras, decode_headers};
use super::id_columns::{IdColumn, ReadId};
use super::{Error, failed};
use crate::model::{DeadLetter, KeptDeadLetter, Position, RecordedEvent, StreamId, Version};
use crate::store::Ledger;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Statement, params};

pub(super) use super::encoding::{decode, encode, encode_headers};

/// The columns that [`event`] reads, in its order.
pub(super) const EVENT_COLUMNS: &str =
    "position, type, aggregate_id, version, id, time_ms, correlation_id, causation_id, headers, payload";

const INSERTING: &str = "appending events";

/// Inserts a row of [`EVENT_COLUMNS`].
pub(super) const INSERT_EVENT: &str = "INSERT INTO events (position, type, aggregate_id, version, id, time_ms, correlation_id, causation_id, headers, payload) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// Prepares a statement for [`insert_event`].
pub(super) fn inserting_events(connection: &Connection) -> Result<CachedStatement<'_>, Error> {
    connection.prepare_cached(INSERT_EVENT).map_err(failed(INSERTING))
}

/// Inserts an event with the number of its type.
pub(super) fn insert_event(insert: &mut Statement<'_>, event_type: i64, event: &RecordedEvent) -> Result<(), Error> {
    let headers = encode_headers(&event.headers, event.hops, event.first_ms)?;
    let row = params![
        event.position.0,
        event_type,
        event.stream.aggregate_id,
        event.version.0,
        event.id.as_bytes(),
        event.time_ms,
        IdColumn::of(&event.correlation_id),
        IdColumn::of_causation(&event.causation_id, &event.correlation_id),
        headers,
        event.payload
    ];
    insert.execute(row).map(drop).map_err(failed(INSERTING))
}

/// Returns the value of a fact, if it has one.
pub(super) fn fact(connection: &Connection, name: &str) -> Result<Option<String>, Error> {
    connection
        .prepare_cached("SELECT value FROM facts WHERE name = ?1")
        .and_then(|mut select| select.query_row([name], |row| row.get(0)).optional())
        .map_err(failed("reading a fact"))
}

/// The columns that [`letter`] reads, in its order.
pub(super) const LETTER_COLUMNS: &str = "number, consumer, place, key, reason, time_ms, dead_lettered_ms, content";

/// A row of [`LETTER_COLUMNS`].
pub(super) fn letter(row: &Row<'_>) -> Result<KeptDeadLetter, Error> {
    let failed = failed("reading a dead letter");
    let number = row.get(0).map_err(&failed)?;
    let content = row.get_ref(7).and_then(|content| Ok(content.as_blob()?)).map_err(&failed)?;
    let content = decode(&format!("the content of dead letter {number}"), content)?;
    let read = || -> rusqlite::Result<DeadLetter> {
        Ok(DeadLetter {
            consumer: row.get(1)?,
            place: row.get(2)?,
            key: row.get(3)?,
            reason: row.get(4)?,
            time_ms: row.get(5)?,
            content,
        })
    };
    let (dead_lettered_ms, letter) = (row.get(6).map_err(&failed)?, read().map_err(&failed)?);
    Ok(KeptDeadLetter { number, dead_lettered_ms, letter, waiting: 0 })
}

/// Reads a row of [`EVENT_COLUMNS`].
pub(super) fn event(
    connection: &Connection,
    dictionary: &mut Dictionary,
    row: &Row<'_>,
) -> Result<RecordedEvent, Error> {
    let failed = failed("reading an event");
    let names = dictionary.names(connection, row.get(1).map_err(&failed)?).map_err(&failed)?;
    let position = Position(row.get(0).map_err(&failed)?);
    let Extras { headers, hops, first_ms } = match row.get_ref(8).map_err(&failed)?.as_blob_or_null() {
        Ok(Some(bytes)) => decode_headers(position, bytes)?,
        _ => Extras::default(),
    };
    let ReadId(correlation_id) = row.get(6).map_err(&failed)?;
    let causation_id = row.get::<_, Option<ReadId>>(7).map_err(&failed)?;
    Ok(RecordedEvent {
        position,
        stream: StreamId { aggregate_type: names.aggregate_type.clone(), aggregate_id: row.get(2).map_err(&failed)? },
        name: names.name.clone(),
        version: Version(row.get(3).map_err(&failed)?),
        id: uuid::Uuid::from_bytes(row.get(4).map_err(&failed)?),
        time_ms: row.get(5).map_err(&failed)?,
        first_ms,
        causation_id: causation_id.map_or_else(|| correlation_id.clone(), |id| id.0),
        correlation_id,
        hops,
        headers,
        payload: row.get(9).map_err(&failed)?,
    })
}

/// Reads the state of a ledger. A new one starts at 0.
pub(super) fn ledger(connection: &Connection, name: &str) -> Result<Ledger, Error> {
    let row = connection
        .prepare_cached("SELECT next, ahead FROM ledgers WHERE name = ?1")
        .and_then(|mut select| {
            select.query_row([name], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, Vec<u8>>(1)?))).optional()
        })
        .map_err(failed("reading a ledger"))?;
    match row {
        None => Ok(Ledger::default()),
        Some((next, ahead)) => Ok(Ledger { next, ahead: decode(&format!("ledger {name}"), &ahead)? }),
    }
}
