//! A projection's access to its read model: typed parameters in, typed rows out.
//!
//! Statements run one by one, with positional parameters (`?1`, `?2`, …). The host prepares each text once and keeps
//! the prepared statement, so keep the texts constant. Nothing here knows where the database is: on wasm it is behind
//! the host's import, and in the test kit it is SQLite in memory.

mod row;
mod value;

pub use crate::bindings::sql::Value;

use crate::bindings::sql as wit;
use serde::de::DeserializeOwned;
use std::fmt;

/// An error of a statement. `?` turns it into a [`Failure`](crate::Failure) that is retried, or into a
/// [`QueryError`](crate::projection::QueryError).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The reason.
    pub message: String,
    /// The statement's text.
    pub statement: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (in: {})", self.message, self.statement)
    }
}

impl std::error::Error for Error {}

impl From<wit::Error> for Error {
    fn from(wit::Error { message, statement }: wit::Error) -> Self {
        Self { message, statement }
    }
}

/// A place to run statements.
pub(crate) trait Database {
    fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, Error>;
    fn query(&self, statement: &str, parameters: &[Value]) -> Result<wit::Rows, Error>;
}

/// The host's database, through the import.
pub(crate) struct Host;

impl Database for Host {
    fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, Error> {
        Ok(wit::execute(statement, parameters)?)
    }

    fn query(&self, statement: &str, parameters: &[Value]) -> Result<wit::Rows, Error> {
        Ok(wit::query(statement, parameters)?)
    }
}

/// The projection's read model.
pub struct Sql<'a>(pub(crate) &'a dyn Database);

impl Sql<'_> {
    /// Runs one statement and returns the number of rows that it changed. Make the parameters with
    /// [`params!`](crate::params).
    pub fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, Error> {
        self.0.execute(statement, parameters)
    }

    /// Runs one statement and returns all of its rows, in the statement's order. A struct takes the columns by name, a
    /// tuple takes them in order, and any other type takes the only column.
    pub fn rows<T: DeserializeOwned>(&self, statement: &str, parameters: &[Value]) -> Result<Vec<T>, Error> {
        let wit::Rows { columns, rows } = self.0.query(statement, parameters)?;
        let of_statement = |cause: row::Error| Error { message: cause.to_string(), statement: statement.to_owned() };
        rows.into_iter().map(|values| row::decode(&columns, values).map_err(of_statement)).collect()
    }

    /// Runs one statement and returns its first row, if there is one. All rows are read: add a `LIMIT` if there may be
    /// many.
    pub fn row<T: DeserializeOwned>(&self, statement: &str, parameters: &[Value]) -> Result<Option<T>, Error> {
        Ok(self.rows(statement, parameters)?.into_iter().next())
    }
}

/// Makes the parameters of a statement, from anything that converts into a [`Value`].
///
/// ```
/// use wasmill_guest::{params, sql::Value};
///
/// let name: Option<&str> = None;
/// assert_eq!(params![1_u32, "two", name], &[Value::Integer(1), Value::Text("two".into()), Value::Null]);
/// ```
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$($crate::sql::Value::from($value)),*]
    };
}
