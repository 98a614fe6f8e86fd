//! The content of a store in PostgreSQL, read and written as rows that both stores have.

use super::connection::{Change, Connection, Value as Parameter, int, uint, value};
use crate::store::Error;
use crate::store::PAGE_BYTES_MAX;
use crate::store::content::{Column, Head, Kind, Layout, MARK, PAGE_ROWS_MAX, ROW_BYTES, Row, Table, Value};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// The statements of a table.
struct Statements {
    /// Reads the first page.
    first: String,
    /// Reads the page after a row, by its key.
    next: String,
    insert: String,
}

/// The statements of all tables, and those of outcomes in the order of their age.
static STATEMENTS: LazyLock<Vec<(Table, Statements)>> = LazyLock::new(|| {
    Table::ALL.into_iter().chain([Table::OutcomesByAge]).map(|table| (table, statements(table))).collect()
});

fn statements_of(table: Table) -> &'static Statements {
    let found = STATEMENTS.iter().find(|(of, _)| *of == table);
    &found.expect("every table has its statements").1
}

fn statements(table: Table) -> Statements {
    let Layout { name, columns, .. } = table.layout();
    let listed = list(columns.iter().map(|column| column.name.to_owned()));
    let keys = keys_of(table);
    let bound = format!("({}) > ({})", list(keys.iter().map(|&key| key.to_owned())), parameters(1..=keys.len()));
    let arrays = list(columns.iter().enumerate().map(|(at, column)| format!("${}::{}[]", at + 1, sql_type(column))));
    let insert = match table {
        Table::Events => format!(
            "INSERT INTO events (position, type, aggregate_type, aggregate_id, version, id, time_ms, correlation_id, causation_id,
             headers, payload) SELECT u.position, t.id, a.id, u.aggregate_id, u.version, u.id, u.time_ms, u.correlation_id,
             u.causation_id, u.headers, u.payload FROM unnest({arrays}) AS u({listed})
             JOIN aggregate_types a ON a.name = u.aggregate_type
             JOIN event_types t ON t.aggregate_type = a.id AND t.name = u.event ORDER BY u.position"
        ),
        Table::ArchivedStreams => format!(
            "INSERT INTO archived_streams (aggregate_type, aggregate_id, time_ms) SELECT a.id, u.aggregate_id, u.time_ms
             FROM unnest({arrays}) AS u({listed}) JOIN aggregate_types a ON a.name = u.aggregate_type"
        ),
        _ => format!("INSERT INTO {name} ({listed}) SELECT * FROM unnest({arrays})"),
    };
    Statements { first: page(table, "TRUE"), next: page(table, &bound), insert }
}

/// Makes the statement that reads a page of the rows within a bound. The sum over the rows before costs less than to send what does
/// not fit.
fn page(table: Table, bound: &str) -> String {
    let Layout { name, columns, .. } = table.layout();
    let listed = list(columns.iter().map(|column| column.name.to_owned()));
    let keys = list(keys_of(table).into_iter().map(str::to_owned));
    let sizes = columns.iter().filter(|column| matches!(column.kind, Kind::Text | Kind::Bytes));
    let sizes = sizes.map(|column| format!(" + coalesce(octet_length({}), 0)", column.name)).collect::<String>();
    let rows = match table {
        Table::Events => format!(
            "(SELECT e.position, a.name AS aggregate_type, t.name AS event, e.aggregate_id, e.version, e.id, e.time_ms,
             e.correlation_id, e.causation_id, e.headers, e.payload FROM (
                 SELECT * FROM events WHERE {bound} ORDER BY position LIMIT {PAGE_ROWS_MAX}) AS e
             LEFT JOIN event_types t ON t.id = e.type AND t.aggregate_type = e.aggregate_type
             LEFT JOIN aggregate_types a ON a.id = e.aggregate_type) AS e"
        ),
        // The index has their types as numbers, so each page is of one type.
        Table::ArchivedStreams => format!(
            "(SELECT $1 AS aggregate_type, aggregate_id, time_ms FROM archived_streams
             WHERE aggregate_type = (SELECT id FROM aggregate_types WHERE name = $1) AND aggregate_id {} $2
             ORDER BY aggregate_id LIMIT {PAGE_ROWS_MAX}) AS s",
            // The first page of a type begins at an empty id.
            if bound == "TRUE" { ">=" } else { ">" }
        ),
        Table::Facts => format!(
            "(SELECT * FROM facts WHERE name <> '{MARK}' AND {bound} ORDER BY {keys} LIMIT {PAGE_ROWS_MAX}) AS f"
        ),
        _ => format!("(SELECT * FROM {name} WHERE {bound} ORDER BY {keys} LIMIT {PAGE_ROWS_MAX}) AS r"),
    };
    format!(
        "SELECT {listed} FROM (SELECT {listed}, sum(size) OVER (ORDER BY {keys} ROWS UNBOUNDED PRECEDING) - size AS before
         FROM (SELECT {listed}, {ROW_BYTES}{sizes} AS size FROM {rows}) AS sized) AS page
         WHERE before < {PAGE_BYTES_MAX} ORDER BY {keys}"
    )
}

/// Returns the columns by which pages are ordered.
fn keys_of(table: Table) -> Vec<&'static str> {
    let Layout { columns, key, .. } = table.layout();
    match table {
        Table::OutcomesByAge => vec!["running_ms", "id"],
        _ => columns[..*key].iter().map(|column| column.name).collect(),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn parameters(numbers: std::ops::RangeInclusive<usize>) -> String {
    list(numbers.map(|number| format!("${number}")))
}

fn sql_type(column: &Column) -> &'static str {
    match column.kind {
        Kind::Int | Kind::Count => "bigint",
        Kind::Name => "text",
        Kind::Text | Kind::Bytes => "bytea",
    }
}

/// Reads the head row.
pub(super) fn head(connection: &Connection) -> Result<Head, Error> {
    let sql = "SELECT identity, position, newest_id, message, dead_letter, callback, http_request, dead_letters, dead_letter_bytes,
               dead_letters_dropped, running_ms, wall_ms FROM head WHERE number = 1";
    let row = connection.first("reading the head of the store", sql, &[])?;
    let identity = super::schema::identity(connection)?;
    let row = row.as_ref();
    let number = |column| row.map_or(0, |row| uint(row, column));
    Ok(Head {
        identity,
        position: number(1),
        newest_id: row.and_then(|row| row.get(2)),
        message: number(3),
        dead_letter: number(4),
        callback: number(5),
        http_request: number(6),
        dead_letters: number(7),
        dead_letter_bytes: number(8),
        dead_letters_dropped: number(9),
        running_ms: number(10),
        wall_ms: number(11),
    })
}

/// Makes the change that writes everything of a head but the identity.
pub(super) fn change_of_head(head: &Head) -> Change {
    let sql = "UPDATE head SET commits = commits + 1, position = $1, message = $2, dead_letter = $3, callback = $4,
               http_request = $5, dead_letters = $6, dead_letter_bytes = $7, dead_letters_dropped = $8, running_ms = $9,
               wall_ms = $10, newest_id = $11 WHERE number = 1";
    let numbers = [
        head.position,
        head.message,
        head.dead_letter,
        head.callback,
        head.http_request,
        head.dead_letters,
        head.dead_letter_bytes,
        head.dead_letters_dropped,
        head.running_ms,
        head.wall_ms,
    ];
    let mut values: Vec<_> = numbers.into_iter().map(|number| value(int(number))).collect();
    values.push(value(head.newest_id.clone()));
    Change { doing: "ending a copy", sql, values }
}

/// Reads a page.
pub(super) fn read(connection: &Connection, table: Table, after: Option<&[Value]>) -> Result<Vec<Row>, Error> {
    const DOING: &str = "reading the store's tables";
    if table == Table::ArchivedStreams {
        return archived_streams(connection, after);
    }
    let Layout { columns, .. } = table.layout();
    let Statements { first, next, .. } = statements_of(table);
    let rows = match after {
        None => connection.query(DOING, first, &[])?,
        Some(row) => {
            let at = |key: &str| columns.iter().position(|column| column.name == key).unwrap_or(0);
            let keys: Vec<_> = keys_of(table).into_iter().map(at).map(|at| parameter(&columns[at], &row[at])).collect();
            let keys: Vec<&(dyn ToSql + Sync)> = keys.iter().map(|key| &**key as _).collect();
            connection.query(DOING, next, &keys)?
        }
    };
    Ok(rows.iter().map(|row| of_row(table, row)).collect())
}

/// Reads the archived streams of one type after another.
fn archived_streams(connection: &Connection, after: Option<&[Value]>) -> Result<Vec<Row>, Error> {
    const DOING: &str = "reading the archived streams";
    let statements = statements_of(Table::ArchivedStreams);
    let mut place = after.map(|row| (row[0].text().into_owned(), Some(row[1].bytes().to_vec())));
    loop {
        if let Some((name, id)) = &place {
            let sql = if id.is_some() { &statements.next } else { &statements.first };
            let rows = connection.query(DOING, sql, &[name, &id.clone().unwrap_or_default()])?;
            if !rows.is_empty() {
                return Ok(rows.iter().map(|row| of_row(Table::ArchivedStreams, row)).collect());
            }
        }
        let sql = "SELECT name FROM aggregate_types WHERE $1::text IS NULL OR name > $1 ORDER BY name LIMIT 1";
        let last = place.map(|(name, _)| name);
        let Some(row) = connection.first(DOING, sql, &[&last])? else { return Ok(Vec::new()) };
        place = Some((row.get(0), None));
    }
}

fn of_row(table: Table, row: &tokio_postgres::Row) -> Row {
    let columns = table.layout().columns.iter().enumerate();
    let value = |(at, column): (usize, &Column)| match column.kind {
        Kind::Int | Kind::Count => row.get::<_, Option<i64>>(at).map(Value::Int),
        Kind::Name => row.get::<_, Option<String>>(at).map(|name| Value::Text(name.into_bytes())),
        Kind::Text => row.get::<_, Option<Vec<u8>>>(at).map(Value::Text),
        Kind::Bytes => row.get::<_, Option<Vec<u8>>>(at).map(Value::Bytes),
    };
    columns.map(value).map(|value| value.unwrap_or(Value::Null)).collect()
}

fn parameter(column: &Column, found: &Value) -> Parameter {
    match column.kind {
        Kind::Int | Kind::Count => value(found.int()),
        Kind::Name => value(found.text().into_owned()),
        Kind::Text | Kind::Bytes => value(found.bytes().to_vec()),
    }
}

/// Makes the changes that add rows. Fails if one has a value that PostgreSQL can't hold.
pub(super) fn changes(table: Table, rows: &[Row]) -> Result<Vec<Change>, Error> {
    for row in rows {
        refuse_unfit(table, row)?;
    }
    let doing = "adding what is moved";
    let mut changes = Vec::new();
    if table == Table::Events {
        changes.extend(changes_of_names(rows));
    }
    let columns = table.layout().columns.iter().enumerate();
    let values = columns.map(|(at, column)| array(column, rows.iter().map(|row| &row[at]))).collect();
    changes.push(Change { doing, sql: &statements_of(table).insert, values });
    Ok(changes)
}

/// Makes the changes that number the types of events that have no number yet.
fn changes_of_names(rows: &[Row]) -> [Change; 2] {
    let doing = "numbering the types of events";
    let types: BTreeSet<String> = rows.iter().map(|row| row[1].text().into_owned()).collect();
    let types = value(types.into_iter().collect::<Vec<_>>());
    let names: BTreeSet<_> = rows.iter().map(|row| (row[1].text().into_owned(), row[2].text().into_owned())).collect();
    let (of, names): (Vec<_>, Vec<_>) = names.into_iter().unzip();
    // A conflict would use up numbers.
    let new_types = "INSERT INTO aggregate_types (name) SELECT name FROM unnest($1::text[]) AS u(name)
                     WHERE NOT EXISTS (SELECT 1 FROM aggregate_types a WHERE a.name = u.name)";
    let new_names =
        "INSERT INTO event_types (aggregate_type, name) SELECT a.id, u.name FROM unnest($1::text[], $2::text[])
                     AS u(aggregate_type, name) JOIN aggregate_types a ON a.name = u.aggregate_type
                     WHERE NOT EXISTS (SELECT 1 FROM event_types t WHERE t.aggregate_type = a.id AND t.name = u.name)";
    [
        Change { doing, sql: new_types, values: vec![types] },
        Change { doing, sql: new_names, values: vec![value(of), value(names)] },
    ]
}

fn array<'r>(column: &Column, values: impl Iterator<Item = &'r Value>) -> Parameter {
    let values = values.map(|value| (!value.is_null()).then_some(value));
    match column.kind {
        Kind::Int | Kind::Count => value(values.map(|value| value.map(Value::int)).collect::<Vec<_>>()),
        Kind::Name => value(values.map(|value| value.map(|name| name.text().into_owned())).collect::<Vec<_>>()),
        Kind::Text | Kind::Bytes => {
            value(values.map(|value| value.map(|bytes| bytes.bytes().to_vec())).collect::<Vec<_>>())
        }
    }
}

fn refuse_unfit(table: Table, row: &[Value]) -> Result<(), Error> {
    let columns = table.layout().columns;
    let unfit = columns.iter().zip(row).find(|(column, value)| column.kind == Kind::Name && value.bytes().contains(&0));
    match unfit {
        Some((column, _)) => Err(Error::Invalid(format!(
            "{} has a NUL in its `{}`, which PostgreSQL can't hold in a name: give that part another name in the manifest (`was`), or \
             forget it with `wasmill store orphans --forget`, and run the same command again",
            crate::escape::escape(&table.place(row)),
            column.name
        ))),
        None => Ok(()),
    }
}

/// Returns the mark of a move, as text.
pub(super) fn mark(connection: &Connection) -> Result<Option<String>, Error> {
    super::reader::fact(connection, MARK)
}

/// Makes the change that sets the mark of a move, or takes it off.
pub(super) fn change_of_mark(text: Option<&str>) -> Change {
    let doing = "marking a store that is moved";
    match text {
        Some(text) => {
            let sql = "INSERT INTO facts (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
            Change { doing, sql, values: vec![value(MARK), value(text.as_bytes().to_vec())] }
        }
        None => Change { doing, sql: "DELETE FROM facts WHERE name = $1", values: vec![value(MARK)] },
    }
}

/// Makes the change that gives a new store its identity.
pub(super) fn change_of_identity(identity: Uuid) -> Change {
    let values = vec![value(identity.as_bytes().to_vec())];
    Change { doing: "making the store", sql: "UPDATE head SET identity = $1 WHERE number = 1", values }
}
