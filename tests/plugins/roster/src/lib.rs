//! A subscriber and a projection that know nothing of older shapes: the host upcasts what they get.

mod known;

use known::Known;
use wasmill_guest::prelude::*;

/// Publishes the name of each member to the topic `echoes`.
pub struct Echo;

impl Subscriber for Echo {
    const SUBSCRIPTIONS: &'static [&'static str] = &["member.Registered"];
    const SHAPE: Shape = Shape::Newest;

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let Known::Registered { name } = delivery.decode()?;
        outbox.publish(Message::to("echoes").json(&format!("{}, {}", name.last, name.first))?);
        Ok(())
    }
}
export_subscriber!(Echo);

/// The names of the members.
pub struct Roster;

/// What the roster answers.
#[derive(Deserialize)]
#[expect(missing_docs, reason = "the name says it")]
pub enum Query {
    Names,
}

impl Projection for Roster {
    const NAME: &'static str = "roster";
    const SUBSCRIPTIONS: &'static [&'static str] = &["member.Registered"];
    const SHAPE: Shape = Shape::Newest;
    const SCHEMA: &'static str = "CREATE TABLE names (id TEXT NOT NULL, name TEXT NOT NULL)";
    type Query = Query;

    fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
        let Known::Registered { name } = event.decode()?;
        let name = format!("{} {}", name.first, name.last);
        sql.execute("INSERT INTO names VALUES (?1, ?2)", params![event.aggregate_id(), name])?;
        Ok(())
    }

    fn query(Query::Names: Query, sql: &Sql) -> Result<Answer, QueryError> {
        Answer::json(&sql.rows::<String>("SELECT name FROM names ORDER BY rowid", &[])?)
    }
}
export_projection!(Roster);
