//! The readers of `directory` as they were first written: they know members with one name, and refuse any other.

use wasmill_guest::prelude::*;

/// What both know of members.
#[derive(Deserialize)]
enum Known {
    Registered { name: String },
}

/// Publishes the name of each member to the topic `echoes`.
pub struct Echo;

impl Subscriber for Echo {
    const SUBSCRIPTIONS: &'static [&'static str] = &["member.Registered"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let Known::Registered { name } = delivery.decode()?;
        outbox.publish(Message::to("echoes").json(&name)?);
        Ok(())
    }
}
export_subscriber!(Echo);

/// The names of the members.
pub struct Directory;

/// What the directory answers.
#[derive(Deserialize)]
#[expect(missing_docs, reason = "the name says it")]
pub enum Query {
    Names,
}

impl Projection for Directory {
    const NAME: &'static str = "directory";
    const SUBSCRIPTIONS: &'static [&'static str] = &["member.Registered"];
    const SCHEMA: &'static str = "CREATE TABLE names (id TEXT NOT NULL, name TEXT NOT NULL)";
    type Query = Query;

    fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
        let Known::Registered { name } = event.decode()?;
        sql.execute("INSERT INTO names VALUES (?1, ?2)", params![event.aggregate_id(), name])?;
        Ok(())
    }

    fn query(Query::Names: Query, sql: &Sql) -> Result<Answer, QueryError> {
        Answer::json(&sql.rows::<String>("SELECT name FROM names ORDER BY rowid", &[])?)
    }
}
export_projection!(Directory);
