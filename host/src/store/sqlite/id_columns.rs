//! The columns of ids that their senders choose: most of them are UUIDs, and a row is shorter with their bytes.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use std::sync::Arc;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// An id to write or to look for: a UUID in lower case with hyphens as its 16 bytes, any other id as text. So each id has one form.
pub(super) enum IdColumn<'i> {
    Uuid([u8; 16]),
    Text(&'i str),
}

impl<'i> IdColumn<'i> {
    pub(super) fn of(id: &'i str) -> Self {
        if id.len() == Hyphenated::LENGTH
            && let Ok(uuid) = Uuid::try_parse(id)
            && *uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == *id
        {
            return Self::Uuid(uuid.into_bytes());
        }
        Self::Text(id)
    }

    /// Makes the column of a causation, which is NULL if the id is the correlation's.
    pub(super) fn of_causation(id: &'i str, correlation_id: &str) -> Option<Self> {
        (id != correlation_id).then(|| Self::of(id))
    }
}

impl ToSql for IdColumn<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Uuid(bytes) => ValueRef::Blob(bytes),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// An id that was read.
pub(super) struct ReadId(pub(super) Arc<str>);

impl FromSql for ReadId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let ValueRef::Blob(bytes) = value else { return value.as_str().map(|text| Self(text.into())) };
        let wrong = FromSqlError::InvalidBlobSize { expected_size: size_of::<Uuid>(), blob_size: bytes.len() };
        text_of(bytes).map(Self).ok_or(wrong)
    }
}

/// Returns the id that is written as these bytes, if they are the bytes of one.
pub(super) fn text_of(bytes: &[u8]) -> Option<Arc<str>> {
    let uuid = Uuid::from_slice(bytes).ok()?;
    Some((&*uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rusqlite::Connection;

    /// Returns the type of the column that an id is written as, and the id that is read back.
    fn written(id: &str) -> (String, String) {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE ids (id BLOB NOT NULL)").unwrap();
        connection.execute("INSERT INTO ids VALUES (?1)", [IdColumn::of(id)]).unwrap();
        let found = "SELECT typeof(id), id FROM ids WHERE id = ?1";
        connection
            .query_row(found, [IdColumn::of(id)], |row| Ok((row.get(0)?, row.get::<_, ReadId>(1)?.0.to_string())))
            .unwrap()
    }

    #[test]
    fn only_the_usual_form_of_a_uuid_is_written_as_bytes() {
        let id = "01a228f8-9200-74d4-ac3e-f5c99571d2dd";
        assert_eq!(written(id), ("blob".into(), id.into()));
        let others = [
            id.to_uppercase(),
            id.replace('-', ""),
            format!("urn:uuid:{id}"),
            format!("{{{id}}}"),
            format!("{id} "),
            id.replacen("01a228f8-", "01a228f", 1) + "88",
            "sales/0/17".to_owned(),
            String::new(),
            "a\0b".to_owned(),
        ];
        for other in others {
            assert_eq!(written(&other), ("text".into(), other));
        }
    }

    #[test]
    fn bytes_that_are_no_uuid_are_an_error() {
        let connection = Connection::open_in_memory().unwrap();
        let read = connection.query_row("SELECT x'0102'", [], |row| row.get::<_, ReadId>(0).map(|id| id.0));
        assert!(matches!(read, Err(rusqlite::Error::FromSqlConversionFailure(0, ..))), "{read:?}");
    }

    proptest! {
        #[test]
        fn every_id_is_read_as_it_was_written(id in "\\PC{0,40}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-fA-F]{4}-[0-9a-f]{4}-[0-9a-f]{12}") {
            prop_assert_eq!(written(&id).1, id);
        }
    }
}
