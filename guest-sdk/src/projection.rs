//! The role that turns events into a read model and answers queries from it.

mod event;
mod query;

pub use event::Event;
pub use query::{Answer, QueryError};

use crate::Failure;
use crate::bindings::sql::Rows;
use crate::reading::{Reading, Reads, Shape, UnknownEvents};
use crate::schema::Schema;
use crate::sql::{Database, Error, Sql, Value};
use serde::de::DeserializeOwned;
use std::cell::Cell;

/// A read model. It folds events into its own tables and answers queries from them.
///
/// A projection must keep no state outside of its read model. The host commits the rows and the checkpoint in one
/// transaction.
///
/// ```
/// use wasmill_guest::prelude::*;
///
/// #[derive(Serialize, Deserialize)]
/// enum OrderEvent { OrderCreated { store_id: String, amount_cents: i64 } }
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(rename_all = "kebab-case")]
/// enum Query { SalesOf { store_id: String } }
///
/// struct Stores;
///
/// impl Projection for Stores {
///     const NAME: &'static str = "stores";
///     const SUBSCRIPTIONS: &'static [&'static str] = &["order.OrderCreated"];
///     const SCHEMA: &'static str = "CREATE TABLE sales (store_id TEXT PRIMARY KEY, cents INTEGER NOT NULL)";
///     type Query = Query;
///
///     fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
///         let OrderEvent::OrderCreated { store_id, amount_cents } = event.decode()?;
///         sql.execute(
///             "INSERT INTO sales VALUES (?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + excluded.cents",
///             params![store_id, amount_cents],
///         )?;
///         Ok(())
///     }
///
///     fn query(Query::SalesOf { store_id }: Query, sql: &Sql) -> Result<Answer, QueryError> {
///         let cents: Option<i64> = sql.row("SELECT cents FROM sales WHERE store_id = ?1", params![store_id])?;
///         Answer::json(&cents.unwrap_or(0))
///     }
/// }
/// export_projection!(Stores);
///
/// # #[cfg(feature = "testing-sql")] {
/// use wasmill_guest::testing::ReadModel;
/// let mut stores = ReadModel::<Stores>::new();
/// stores.project("order", "1", &OrderEvent::OrderCreated { store_id: "a".into(), amount_cents: 5 });
/// stores.project("order", "2", &OrderEvent::OrderCreated { store_id: "a".into(), amount_cents: 7 });
/// assert_eq!(stores.query(&Query::SalesOf { store_id: "a".into() }), 12);
/// # }
/// ```
pub trait Projection: 'static {
    /// The projection's name: 1 to 64 characters of `a-z`, `0-9` and `-`.
    const NAME: &'static str;

    /// The events that the projection receives: patterns over `aggregate-type.EventName`. In a pattern, `*` stands for
    /// one segment between dots and `**` for any number of segments.
    const SUBSCRIPTIONS: &'static [&'static str];

    /// The upcasts of the events that it reads, by aggregate type: those events arrive in the newest shape that this code knows.
    /// See [`reading`](crate::reading).
    const READS: &'static [Reads] = &[];

    /// The shape in which the host delivers events, if it is not the one in which they were recorded. It takes the place of
    /// [`READS`](Self::READS).
    const SHAPE: Shape = Shape::Recorded;

    /// What becomes of an event that only a wildcard selects, and for whose name the code has no variant. By default it is
    /// skipped and counted.
    const UNKNOWN_EVENTS: UnknownEvents = UnknownEvents::Skip;

    /// The SQL statements that create the read model in an empty database.
    const SCHEMA: &'static str;

    /// The queries: a plain serde enum. A query's name is the variant's name, and its parameters are the variant's
    /// content.
    type Query: DeserializeOwned;

    /// The JSON Schema of the queries' parameters: `Schema::of::<Query>()`. By default there is none. See
    /// [`schema`](crate::schema).
    const QUERY_SCHEMA: Schema = Schema::none();

    /// Folds one event into the read model. Events arrive in position order. On failure the changes of this event are
    /// undone. The projection stops at an event that is rejected or malformed, or that still fails after five attempts.
    fn project(event: &Event, sql: &Sql) -> Result<(), Failure>;

    /// Answers a query. Here the read model is read-only.
    fn query(query: Self::Query, sql: &Sql) -> Result<Answer, QueryError>;
}

/// Passes an event to the projection. Returns false if it is skipped.
pub(crate) fn dispatch<P: Projection>(event: &mut Event, database: &impl Database) -> Result<bool, Failure> {
    let reading = Reading { reads: P::READS, subscriptions: [P::SUBSCRIPTIONS, &[]], unknown: P::UNKNOWN_EVENTS };
    let recorded = &mut event.0;
    reading.migrate(&recorded.aggregate_type, &recorded.name, &mut recorded.payload)?;
    let watched = Watched { database, has_run: Cell::new(false) };
    let projected = P::project(event, &Sql(&watched));
    reading.judge(Some((event.aggregate_type(), event.name())), projected, watched.has_run.get())
}

/// A database that knows whether a statement has run.
struct Watched<'d, D> {
    database: &'d D,
    has_run: Cell<bool>,
}

impl<D: Database> Database for Watched<'_, D> {
    fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, Error> {
        self.has_run.set(true);
        self.database.execute(statement, parameters)
    }

    fn query(&self, statement: &str, parameters: &[Value]) -> Result<Rows, Error> {
        // A query can write too: `INSERT … RETURNING`.
        self.has_run.set(true);
        self.database.query(statement, parameters)
    }
}
