//! The conversion between values and columns.

use super::{Error, failed};
use crate::model::{DeadLetter, Header, KeptDeadLetter, Position, RecordedEvent, StreamId, Version};
use crate::store::Ledger;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Serialize, de::DeserializeOwned};

use super::dictionary::Dictionary;

/// The columns that [`event`] reads, in its order.
pub(super) const EVENT_COLUMNS: &str =
    "position, type, aggregate_id, version, id, time_ms, correlation_id, causation_id, headers, payload";

/// Inserts a row of [`EVENT_COLUMNS`].
pub(super) const INSERT_EVENT: &str = "INSERT INTO events (position, type, aggregate_id, version, id, time_ms, correlation_id, causation_id, headers, payload) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// Encodes a value for a column that only wasmill reads.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    postcard::to_stdvec(value).map_err(|error| Error::Invalid(format!("can't encode a row: {error}")))
}

/// Decodes a value from such a column. Bytes that do not decode are an error, never a default.
pub(super) fn decode<T: DeserializeOwned>(place: &str, bytes: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(bytes).map_err(|error| {
        Error::Failed(format!("{place} does not decode ({error}): the store is damaged, restore it from a backup"))
    })
}

/// Returns the value of a fact, if it has one.
pub(super) fn fact(connection: &Connection, name: &str) -> Result<Option<String>, Error> {
    connection
        .prepare_cached("SELECT value FROM facts WHERE name = ?1")
        .and_then(|mut select| select.query_row([name], |row| row.get(0)).optional())
        .map_err(failed("reading a fact"))
}

/// Encodes the headers of an event, followed by its hops and the time of its first cause. The result is `None` if there is
/// none of them, because most events come from outside and have no headers. What is left out at the end takes no byte.
pub(super) fn encode_headers(headers: &[Header], hops: u32, first_ms: Option<u64>) -> Result<Option<Vec<u8>>, Error> {
    match (headers.is_empty(), hops, first_ms) {
        (true, 0, None) => Ok(None),
        (false, 0, None) => encode(&headers).map(Some),
        (_, _, None) => encode(&(headers, hops)).map(Some),
        (_, _, Some(first_ms)) => encode(&(headers, hops, first_ms)).map(Some),
    }
}

/// What an event has besides the columns that each event has.
#[derive(Default)]
struct Extras {
    headers: Vec<Header>,
    hops: u32,
    first_ms: Option<u64>,
}

fn decode_headers(position: Position, bytes: &[u8]) -> Result<Extras, Error> {
    let damaged = |error: postcard::Error| {
        Error::Failed(format!(
            "headers of the event at position {position} do not decode ({error}): the store is damaged, restore it from a \
             backup"
        ))
    };
    let (headers, rest) = postcard::take_from_bytes(bytes).map_err(damaged)?;
    let (hops, rest) = if rest.is_empty() { (0, rest) } else { postcard::take_from_bytes(rest).map_err(damaged)? };
    let first_ms = if rest.is_empty() { None } else { Some(postcard::from_bytes(rest).map_err(damaged)?) };
    Ok(Extras { headers, hops, first_ms })
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
    Ok(RecordedEvent {
        position,
        stream: StreamId { aggregate_type: names.aggregate_type.clone(), aggregate_id: row.get(2).map_err(&failed)? },
        name: names.name.clone(),
        version: Version(row.get(3).map_err(&failed)?),
        id: uuid::Uuid::from_bytes(row.get(4).map_err(&failed)?),
        time_ms: row.get(5).map_err(&failed)?,
        first_ms,
        correlation_id: row.get(6).map_err(&failed)?,
        causation_id: row.get(7).map_err(&failed)?,
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
