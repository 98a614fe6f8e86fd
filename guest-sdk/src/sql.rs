//! A projection's access to its read model: typed parameters in, typed rows out.
//!
//! Statements run one by one, with positional parameters (`?1`, `?2`, …). They are prepared once: keep their text
//! constant. Nothing here knows where the database is: the host's import on wasm, SQLite in memory in the test kit.

mod row;
mod value;

pub use crate::bindings::sql::Value;

use crate::bindings::sql as wit;
use serde::de::DeserializeOwned;
use std::fmt;

/// What SQLite said, and the statement it said it of.
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

/// Where statements run.
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
    /// Runs one statement and returns the number of rows it changed. Parameters come from [`params!`](crate::params).
    pub fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, Error> {
        self.0.execute(statement, parameters)
    }

    /// All rows of a statement: as structs by the columns' names, as tuples by their order, or as the one column.
    pub fn rows<T: DeserializeOwned>(&self, statement: &str, parameters: &[Value]) -> Result<Vec<T>, Error> {
        let wit::Rows { columns, rows } = self.0.query(statement, parameters)?;
        let of_statement = |cause: row::Error| Error { message: cause.to_string(), statement: statement.to_owned() };
        rows.into_iter().map(|values| row::decode(&columns, values).map_err(of_statement)).collect()
    }

    /// The first row of a statement, if there is one.
    pub fn row<T: DeserializeOwned>(&self, statement: &str, parameters: &[Value]) -> Result<Option<T>, Error> {
        Ok(self.rows(statement, parameters)?.into_iter().next())
    }
}

/// The parameters of a statement: anything that [`Value`] can be made from, by value or by reference.
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
