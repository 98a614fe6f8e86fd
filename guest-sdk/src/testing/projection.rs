//! A read model in memory: real SQLite, the projection's own schema and statements.

use super::{envelope, readable};
use crate::Projection;
use crate::bindings::sql::Rows;
use crate::codec;
use crate::failure::Failure;
use crate::glue::answer;
use crate::projection::{Event, QueryError};
use crate::sql::{Database, Error, Sql, Value};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params_from_iter};
use serde::Serialize;
use std::marker::PhantomData;

/// The read model of a projection, for tests.
///
/// Statements run as the host runs them: an event's rows are one transaction, and a query cannot write.
pub struct ReadModel<P> {
    database: Sqlite,
    position: u64,
    time_ms: u64,
    projection: PhantomData<P>,
}

impl<P: Projection> Default for ReadModel<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Projection> ReadModel<P> {
    /// An empty read model with the projection's schema.
    ///
    /// # Panics
    /// When SQLite refuses the schema.
    #[track_caller]
    pub fn new() -> Self {
        let connection = Connection::open_in_memory().expect("SQLite opens a database in memory");
        connection.execute_batch(P::SCHEMA).unwrap_or_else(|error| panic!("SQLite refuses the schema: {error}"));
        Self { database: Sqlite(connection), position: 0, time_ms: 0, projection: PhantomData }
    }

    /// The next events come at this time, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn at(&mut self, time_ms: u64) -> &mut Self {
        self.time_ms = time_ms;
        self
    }

    /// Folds in an event.
    ///
    /// # Panics
    /// When the projection fails.
    #[track_caller]
    pub fn project(&mut self, aggregate_type: &str, aggregate_id: &str, event: &impl Serialize) -> &mut Self {
        let (name, payload) = codec::encode(event).unwrap_or_else(|error| panic!("the event does not encode: {error}"));
        self.try_project(aggregate_type, aggregate_id, name, payload)
            .unwrap_or_else(|failure| panic!("{name} of {aggregate_type}/{aggregate_id} failed: {failure}"));
        self
    }

    /// Folds in an event by its name and JSON.
    ///
    /// # Panics
    /// When the projection fails.
    #[track_caller]
    pub fn project_json(&mut self, aggregate_type: &str, aggregate_id: &str, name: &str, payload: &str) -> &mut Self {
        self.try_project(aggregate_type, aggregate_id, name, payload)
            .unwrap_or_else(|failure| panic!("{name} of {aggregate_type}/{aggregate_id} failed: {failure}"));
        self
    }

    /// Folds in an event by its name and bytes. On failure the read model stays as it was.
    pub fn try_project(
        &mut self,
        aggregate_type: &str,
        aggregate_id: &str,
        name: &str,
        payload: impl Into<Vec<u8>>,
    ) -> Result<(), Failure> {
        self.position += 1;
        let mut event = envelope::recorded((aggregate_type, aggregate_id), self.position, name, payload.into());
        event.metadata.time = self.time_ms;
        self.database.execute("SAVEPOINT event", &[])?;
        let result = P::project(&Event(event), &Sql(&self.database));
        if result.is_err() {
            self.database.execute("ROLLBACK TO event", &[])?;
        }
        self.database.execute("RELEASE event", &[])?;
        result
    }

    /// Asks a query and returns its answer.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn query(&self, query: &impl Serialize) -> serde_json::Value {
        let (name, params) = codec::encode(query).unwrap_or_else(|error| panic!("the query does not encode: {error}"));
        self.try_query(name, &params).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Asks a query by its name and bytes.
    pub fn try_query(&self, name: &str, params: impl AsRef<[u8]>) -> Result<serde_json::Value, QueryError> {
        self.database.query_only(true)?;
        let result = answer::<P>(name, params.as_ref(), &Sql(&self.database));
        self.database.query_only(false)?;
        Ok(readable(&result?.0))
    }
}

struct Sqlite(Connection);

impl Sqlite {
    fn query_only(&self, on: bool) -> Result<(), Error> {
        self.0.pragma_update(None, "query_only", on).map_err(|error| refused(error, "PRAGMA query_only"))
    }
}

impl Database for Sqlite {
    fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, Error> {
        let run = || self.0.prepare_cached(statement)?.execute(params_from_iter(parameters.iter().map(bound)));
        run().map(|changed| changed as u64).map_err(|error| refused(error, statement))
    }

    fn query(&self, statement: &str, parameters: &[Value]) -> Result<Rows, Error> {
        let run = || {
            let mut prepared = self.0.prepare_cached(statement)?;
            let columns = prepared.column_names().map(str::to_owned).collect::<Vec<_>>();
            let width = columns.len();
            let rows = prepared.query_map(params_from_iter(parameters.iter().map(bound)), |row| {
                (0..width).map(|column| Ok(taken(row.get_ref(column)?))).collect()
            })?;
            Ok(Rows { rows: rows.collect::<Result<_, _>>()?, columns })
        };
        run().map_err(|error: rusqlite::Error| refused(error, statement))
    }
}

fn refused(error: rusqlite::Error, statement: &str) -> Error {
    Error { message: error.to_string(), statement: statement.to_owned() }
}

fn bound(value: &Value) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(integer) => ValueRef::Integer(*integer),
        Value::Real(real) => ValueRef::Real(*real),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    })
}

fn taken(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}
