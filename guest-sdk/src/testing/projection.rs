//! Tests of projections: a read model in memory, with real SQLite and the projection's own schema and statements.

use super::{envelope, readable};
use crate::bindings::sql::Rows;
use crate::bindings::types;
use crate::codec;
use crate::contract::Contract;
use crate::failure::Failure;
use crate::glue::answer;
use crate::projection::{Event, QueryError};
use crate::projection::{Projection, dispatch};
use crate::sql::{Database, Error, Sql, Value};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};
use serde::Serialize;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;
use wasmill_read_model::{Guarded, Limits};

/// The most bytes of an answer: the default of `limits.output_mib`.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// The most time for the statements of one call. It is longer than in a host, because tests run on busy machines.
const EVENT_TIME: Duration = Duration::from_secs(10);
const SCHEMA_TIME: Duration = EVENT_TIME;

/// The read model of a projection, for tests.
///
/// Statements run in the same way as in the host and under the same rules: the rows of an event are one transaction, a
/// query cannot write, and a statement that the host refuses is refused here with the same text. The limits are the
/// manifest's defaults, with two exceptions: memory is not counted here, and statements have more time.
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
    /// Makes an empty read model with the projection's schema.
    ///
    /// # Panics
    /// If SQLite refuses the schema.
    #[track_caller]
    pub fn new() -> Self {
        let connection = Connection::open_in_memory().expect("SQLite opens a database in memory");
        let guarded = Guarded::new(connection, Limits::default()).expect("SQLite takes its limits");
        guarded.allow(SCHEMA_TIME);
        guarded.create(P::SCHEMA).unwrap_or_else(|error| panic!("SQLite refuses the schema: {error}"));
        Self { database: Sqlite(guarded), position: 0, time_ms: 0, projection: PhantomData }
    }

    /// Sets the time of the next events, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn at(&mut self, time_ms: u64) -> &mut Self {
        self.time_ms = time_ms;
        self
    }

    /// Folds an event into the read model.
    ///
    /// # Panics
    /// If the projection fails.
    #[track_caller]
    pub fn project(&mut self, aggregate_type: &str, aggregate_id: &str, event: &impl Serialize) -> &mut Self {
        let (name, payload) = codec::encode(event).unwrap_or_else(|error| panic!("the event does not encode: {error}"));
        self.try_project(aggregate_type, aggregate_id, name, payload)
            .unwrap_or_else(|failure| panic!("{name} of {aggregate_type}/{aggregate_id} failed: {failure}"));
        self
    }

    /// Folds an event into the read model, given by its name and JSON.
    ///
    /// # Panics
    /// If the projection fails.
    #[track_caller]
    pub fn project_json(&mut self, aggregate_type: &str, aggregate_id: &str, name: &str, payload: &str) -> &mut Self {
        self.try_project(aggregate_type, aggregate_id, name, payload)
            .unwrap_or_else(|failure| panic!("{name} of {aggregate_type}/{aggregate_id} failed: {failure}"));
        self
    }

    /// Folds an event of a contract into the read model.
    ///
    /// # Panics
    /// If the projection fails.
    #[track_caller]
    pub fn project_of<C: Contract>(&mut self, aggregate_id: &str, event: &C::Event) -> &mut Self {
        let (name, payload) = envelope::encoded::<C>(event);
        self.try_project(C::TYPE, aggregate_id, name, payload)
            .unwrap_or_else(|failure| panic!("{name} of {}/{aggregate_id} failed: {failure}", C::TYPE));
        self
    }

    /// Folds an event into the read model, given by its name and bytes. On failure the read model stays unchanged. An event
    /// that the host skips is a [`Failure::UnknownEvent`].
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
        match self.fold(event)? {
            true => Ok(()),
            false => Err(Failure::UnknownEvent(format!("the code does not know {name}, so the host skips it"))),
        }
    }

    /// Folds an event into the read model. On failure the read model stays unchanged. Returns false if the event is skipped.
    pub(super) fn fold(&mut self, event: types::RecordedEvent) -> Result<bool, Failure> {
        self.database.owner("BEGIN")?;
        self.database.0.in_transaction(true);
        self.database.0.allow(EVENT_TIME);
        let result = dispatch::<P>(&mut Event(event), &self.database);
        self.database.0.in_transaction(false);
        if self.database.0.owner().is_autocommit() {
            // SQLite has already rolled back the transaction.
            return result.and_then(|_| {
                Err(Failure::retry(Duration::ZERO, "it passed over an error that had undone its transaction"))
            });
        }
        self.database.owner(if matches!(result, Ok(true)) { "COMMIT" } else { "ROLLBACK" })?;
        result
    }

    /// Runs a query and returns its answer.
    ///
    /// # Panics
    /// If the query fails.
    #[track_caller]
    pub fn query(&self, query: &impl Serialize) -> serde_json::Value {
        let (name, params) = codec::encode(query).unwrap_or_else(|error| panic!("the query does not encode: {error}"));
        self.try_query(name, &params).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs a query, given by its name and its parameters as bytes.
    pub fn try_query(&self, name: &str, params: impl AsRef<[u8]>) -> Result<serde_json::Value, QueryError> {
        self.database.owner("PRAGMA query_only = ON")?;
        self.database.0.allow(EVENT_TIME);
        let result = answer::<P>(name, params.as_ref(), &Sql(&self.database));
        self.database.owner("PRAGMA query_only = OFF")?;
        let answer = result?.0;
        if answer.len() > OUTPUT_BYTES_MAX {
            return Err(QueryError::Failed(format!(
                "the answer has {} bytes and the limit is {OUTPUT_BYTES_MAX}: ask for less or raise limits.output_mib",
                answer.len()
            )));
        }
        Ok(readable(&answer))
    }
}

struct Sqlite(Guarded);

impl Sqlite {
    fn owner(&self, statement: &str) -> Result<(), Error> {
        self.0.owner().execute_batch(statement).map_err(|error| refused(&error, statement))
    }
}

impl Database for Sqlite {
    fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, Error> {
        let executed = self.0.execute(statement, params_from_iter(parameters.iter().map(Bound)));
        executed.map_err(|error| refused(&error, statement))
    }

    fn query(&self, statement: &str, parameters: &[Value]) -> Result<Rows, Error> {
        let found = self.0.query(statement, params_from_iter(parameters.iter().map(Bound)), taken);
        let found = found.map_err(|error| refused(&error, statement))?;
        Ok(Rows { columns: found.columns, rows: found.rows })
    }
}

fn refused(error: &impl fmt::Display, statement: &str) -> Error {
    Error { message: error.to_string(), statement: statement.to_owned() }
}

struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(integer) => ValueRef::Integer(*integer),
            Value::Unsigned(unsigned) => ValueRef::Integer(wasmill_read_model::unsigned(*unsigned)?),
            Value::Real(real) => ValueRef::Real(*real),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
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
