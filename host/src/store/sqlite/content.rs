//! The content of an embedded store, read and written as rows that both stores have.

use super::dictionary::Dictionary;
use super::id_columns::{self, IdColumn};
use super::{Error, failed, owner};
use crate::store::content::{Content, Head, Layout, MARK, PAGE_ROWS_MAX, PageRoom, Row, Table, Value};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, ToSql, params_from_iter};
use std::path::Path;

/// The content that a connection sees.
pub(super) struct View<'c> {
    pub(super) connection: &'c Connection,
    pub(super) file: &'c Path,
}

/// The columns of the ids in the row of an event, in `Table::Events`.
const CORRELATION: usize = 7;
const CAUSATION: usize = 8;

/// The numbers that a store assigns never twice, by the table that has them.
pub(super) const SEQUENCES: [&str; 3] = ["dead_letters", "callbacks", "http_requests"];

/// The single numbers that are content. The mark up to which the stream index is filled is not.
pub(super) const MARKS: [&str; 4] = ["messages", "dead_letters", "dead_letter_bytes", "dead_letters_dropped"];

impl Content for View<'_> {
    fn may_be_damaged(&self) -> bool {
        true
    }

    fn head(&mut self) -> Result<Head, Error> {
        let number = |sql: &str, name: &str| -> Result<u64, Error> {
            let found = self.connection.query_row(sql, [name], |row| row.get(0)).optional();
            Ok(found.map_err(failed(&format!("reading where the {name} end")))?.unwrap_or(0))
        };
        let [message, dead_letters, dead_letter_bytes, dead_letters_dropped] =
            MARKS.map(|name| number("SELECT value FROM marks WHERE name = ?1", name));
        let [dead_letter, callback, http_request] =
            SEQUENCES.map(|name| number("SELECT seq FROM sqlite_sequence WHERE name = ?1", name));
        let newest = "SELECT position, id FROM events ORDER BY position DESC LIMIT 1";
        let newest = self.connection.query_row(newest, [], |row| Ok((row.get::<_, u64>(0)?, value(row.get_ref(1)?))));
        let newest = newest.optional().map_err(failed("reading the newest event"))?;
        let moment = owner::noted_moment(self.connection)?;
        Ok(Head {
            identity: owner::identity(self.connection)?,
            position: newest.as_ref().map_or(0, |(position, _)| *position),
            newest_id: newest.map(|(_, id)| id.bytes().to_vec()),
            message: message?,
            dead_letter: dead_letter?,
            callback: callback?,
            http_request: http_request?,
            dead_letters: dead_letters?,
            dead_letter_bytes: dead_letter_bytes?,
            dead_letters_dropped: dead_letters_dropped?,
            running_ms: moment.running_ms,
            wall_ms: moment.wall_ms,
        })
    }

    fn page(&mut self, table: Table, after: Option<&[Value]>) -> Result<Vec<Row>, Error> {
        match table {
            Table::ArchivedStreams => self.archived_streams(after),
            Table::OutcomesByAge => self.read(table, &select(table, after), after.map_or(&[][..], |row| &row[..1])),
            _ => self.read(table, &select(table, after), after.map_or(&[][..], |row| &row[..table.layout().key])),
        }
    }
}

impl View<'_> {
    fn read(&self, table: Table, sql: &str, values: &[Value]) -> Result<Vec<Row>, Error> {
        let doing = format!("reading the {} of {}", table.layout().name, self.file.display());
        let failed = failed(&doing);
        let mut select = self.connection.prepare_cached(sql).map_err(&failed)?;
        let mut found = select.query(params_from_iter(values)).map_err(&failed)?;
        let (mut page, mut room) = (Vec::new(), PageRoom::default());
        while let Some(row) = found.next().map_err(&failed)? {
            let columns = 0..table.layout().columns.len();
            let row: rusqlite::Result<Row> = columns.map(|column| Ok(value(row.get_ref(column)?))).collect();
            let mut row = row.map_err(&failed)?;
            if table == Table::Events {
                with_text_ids(&mut row);
            }
            let is_full = room.is_full_with(&row);
            page.push(row);
            if is_full {
                break;
            }
        }
        Ok(page)
    }

    /// Reads the archived streams of one type after another, because the index has their types as numbers.
    fn archived_streams(&self, after: Option<&[Value]>) -> Result<Vec<Row>, Error> {
        let mut place = after.map(|row| (row[0].text().into_owned(), Some(row[1].clone())));
        loop {
            if let Some((name, id)) = &place {
                let is_after = if id.is_some() { ">" } else { ">=" };
                let sql = format!(
                    "SELECT t.name, s.aggregate_id, s.time_ms FROM aggregate_types t CROSS JOIN archived_streams s
                     ON s.aggregate_type = t.id WHERE t.name = ?1 AND s.aggregate_id {is_after} ?2 ORDER BY s.aggregate_id
                     LIMIT {PAGE_ROWS_MAX}"
                );
                let id = id.clone().unwrap_or(Value::Text(Vec::new()));
                let page = self.read(Table::ArchivedStreams, &sql, &[Value::Text(name.clone().into_bytes()), id])?;
                if !page.is_empty() {
                    return Ok(page);
                }
            }
            let next = "SELECT min(name) FROM aggregate_types WHERE ?1 IS NULL OR name > ?1";
            let last = place.map(|(name, _)| name);
            let name: Option<String> = self
                .connection
                .query_row(next, [last], |row| row.get(0))
                .map_err(failed("reading the types of aggregates"))?;
            let Some(name) = name else { return Ok(Vec::new()) };
            place = Some((name, None));
        }
    }
}

/// Turns the ids in the row of an event into text, as every store has them. What is no id is left for [`Table::misfit`].
fn with_text_ids(row: &mut Row) {
    for column in [CORRELATION, CAUSATION] {
        if let Value::Bytes(bytes) = &row[column]
            && let Some(id) = id_columns::text_of(bytes)
        {
            row[column] = Value::Text(id.as_bytes().to_vec());
        }
    }
    if matches!(row[CAUSATION], Value::Null) {
        row[CAUSATION] = row[CORRELATION].clone();
    }
}

/// Makes the statement that reads a page.
fn select(table: Table, after: Option<&[Value]>) -> String {
    let Layout { name, columns, key } = table.layout();
    let listed = columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
    let keys = columns[..*key].iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
    let parameters = (1..=*key).map(|number| format!("?{number}")).collect::<Vec<_>>().join(", ");
    let bound = if after.is_some() { format!("({keys}) > ({parameters})") } else { "TRUE".to_owned() };
    match table {
        Table::Events => format!(
            "SELECT e.position, a.name, t.name, e.aggregate_id, e.version, e.id, e.time_ms, e.correlation_id, e.causation_id,
             e.headers, e.payload FROM events e LEFT JOIN event_types t ON t.id = e.type
             LEFT JOIN aggregate_types a ON a.id = t.aggregate_type WHERE {} ORDER BY e.position LIMIT {PAGE_ROWS_MAX}",
            if after.is_some() { "e.position > ?1" } else { "TRUE" }
        ),
        Table::OutcomesByAge => {
            let bound = if after.is_some() { "number > (SELECT number FROM outcomes WHERE id = ?1)" } else { "TRUE" };
            format!("SELECT {listed} FROM {name} WHERE {bound} ORDER BY number LIMIT {PAGE_ROWS_MAX}")
        }
        Table::Facts => format!(
            "SELECT {listed} FROM {name} WHERE name <> '{MARK}' AND {bound} ORDER BY {keys} LIMIT {PAGE_ROWS_MAX}"
        ),
        _ => format!("SELECT {listed} FROM {name} WHERE {bound} ORDER BY {keys} LIMIT {PAGE_ROWS_MAX}"),
    }
}

/// Adds a row, in a transaction.
pub(super) fn insert(
    connection: &Connection,
    dictionary: &mut Dictionary,
    table: Table,
    row: &[Value],
) -> rusqlite::Result<()> {
    let Layout { name, columns, .. } = table.layout();
    if table == Table::Events {
        let aggregate_type = dictionary.aggregate_type(connection, &(*row[1].text()).into())?;
        let event_type = Value::Int(dictionary.event_type(connection, aggregate_type, &row[2].text())?);
        let (correlation_id, causation_id) = (row[CORRELATION].text(), row[CAUSATION].text());
        let ids = (IdColumn::of(&correlation_id), IdColumn::of_causation(&causation_id, &correlation_id));
        let values = [&row[0], &event_type].into_iter().chain(&row[3..CORRELATION]).map(|value| value as &dyn ToSql);
        let values =
            values.chain([&ids.0 as &dyn ToSql, &ids.1]).chain(row[CAUSATION + 1..].iter().map(|value| value as _));
        return connection.prepare_cached(super::rows::INSERT_EVENT)?.execute(params_from_iter(values)).map(drop);
    }
    let listed = columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
    let parameters = (1..=columns.len()).map(|number| match (table, number) {
        (Table::ArchivedStreams, 1) => "(SELECT id FROM aggregate_types WHERE name = ?1)".to_owned(),
        (_, number) => format!("?{number}"),
    });
    let sql = format!("INSERT INTO {name} ({listed}) VALUES ({})", parameters.collect::<Vec<_>>().join(", "));
    connection.prepare_cached(&sql)?.execute(params_from_iter(row)).map(drop)
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Real(number),
        ValueRef::Text(text) => Value::Text(text.to_vec()),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;
    use crate::store::content::Kind;
    use proptest::prelude::*;

    /// Makes a value that a column can have, also one that is hard to order.
    fn any_value(kind: Kind) -> BoxedStrategy<Value> {
        let text = || prop_oneof![".{0,6}", "[a-c\0/%_]{0,3}"].prop_map(|text: String| Value::Text(text.into_bytes()));
        match kind {
            Kind::Int => prop_oneof![any::<i64>(), -1..2i64].prop_map(Value::Int).boxed(),
            Kind::Count => prop_oneof![0..=i64::MAX, 0..3i64].prop_map(Value::Int).boxed(),
            Kind::Name | Kind::Text => text().boxed(),
            Kind::Bytes => prop::collection::vec(any::<u8>(), 0..6).prop_map(Value::Bytes).boxed(),
        }
    }

    fn any_row(table: Table) -> BoxedStrategy<Row> {
        let values = table.layout().columns.iter().map(|column| match column.is_optional {
            true => prop_oneof![Just(Value::Null), any_value(column.kind)].boxed(),
            false => any_value(column.kind),
        });
        values.collect::<Vec<_>>().boxed()
    }

    fn any_rows() -> impl Strategy<Value = (Table, Vec<Row>)> {
        // The keys of events are those of other tables, and their types need names.
        let tables = Table::ALL.into_iter().filter(|table| *table != Table::Events).collect::<Vec<_>>();
        prop::sample::select(tables).prop_flat_map(|table| (Just(table), prop::collection::vec(any_row(table), 1..12)))
    }

    /// Orders values as both stores do.
    fn order(one: &Value, other: &Value) -> std::cmp::Ordering {
        one.int().cmp(&other.int()).then_with(|| one.bytes().cmp(other.bytes()))
    }

    proptest! {
        #[test]
        fn rows_are_read_in_the_order_of_their_keys_from_any_row_on((table, rows) in any_rows()) {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("events.sqlite");
            let (connection, mut dictionary) = (schema::open_or_make(&file).expect("a store"), Dictionary::default());
            let key = table.layout().key;
            let mut kept: Vec<Row> = Vec::new();
            for row in rows {
                let is_unique = |other: &Row| match table {
                    // A subscription has a timer of a name once.
                    Table::Callbacks => other[0] != row[0] && (&other[1], &other[2]) != (&row[1], &row[2]),
                    _ => other[..key] != row[..key],
                };
                if kept.iter().all(is_unique) {
                    if table == Table::ArchivedStreams {
                        dictionary.aggregate_type(&connection, &(*row[0].text()).into()).expect("a type");
                    }
                    insert(&connection, &mut dictionary, table, &row).expect("it is kept");
                    kept.push(row);
                }
            }
            kept.sort_by(|one, other| {
                let keys = one[..key].iter().zip(&other[..key]);
                keys.map(|(one, other)| order(one, other)).find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
            });
            let mut view = View { connection: &connection, file: &file };
            let mut pages = crate::store::content::Rows::of(table);
            for row in &kept {
                let read = pages.next(&mut view).expect("it is read");
                prop_assert_eq!(read.as_ref(), Some(row));
            }
            prop_assert_eq!(pages.next(&mut view).expect("it is read"), None);
            for (at, row) in kept.iter().enumerate() {
                let mut after = Vec::new();
                // The archived streams of each type are a page.
                let mut last = row.clone();
                loop {
                    let page = view.page(table, Some(&last)).expect("it is read");
                    let Some(row) = page.last() else { break };
                    last = row.clone();
                    after.extend(page);
                }
                prop_assert_eq!(&after[..], &kept[at + 1..]);
            }
        }
    }
}
