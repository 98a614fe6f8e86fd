//! The role that turns events into a read model and answers queries from it.

mod event;
mod query;

pub use event::Event;
pub use query::{Answer, QueryError};

use crate::Failure;
use crate::sql::Sql;
use serde::de::DeserializeOwned;

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

    /// The SQL statements that create the read model in an empty database.
    const SCHEMA: &'static str;

    /// The queries: a plain serde enum. A query's name is the variant's name, and its parameters are the variant's
    /// content.
    type Query: DeserializeOwned;

    /// Folds one event into the read model. Events arrive in position order. On failure the changes of this event are
    /// undone. The projection stops at an event that is rejected or malformed, or that still fails after five attempts.
    fn project(event: &Event, sql: &Sql) -> Result<(), Failure>;

    /// Answers a query. Here the read model is read-only.
    fn query(query: Self::Query, sql: &Sql) -> Result<Answer, QueryError>;
}
