//! An aggregate and a projection that depend on settings, and a subscriber that has a secret.

use wasmill_guest::prelude::*;

#[derive(Deserialize)]
struct Tariffs {
    cents_per_unit: i64,
    #[serde(default)]
    zones: Vec<Zone>,
}

#[derive(Deserialize)]
struct Zone {
    name: String,
    factor: i64,
}

#[derive(Deserialize)]
struct Keys {
    signing_key: Secret,
}
export_settings!(Tariffs, secrets = Keys);

/// A bill, to which usage is added.
#[derive(Debug, Default)]
struct Bill;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Command {
    Add { units: i64, zone: String },
    Sign { length: u64 },
    Leak,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum BillEvent {
    Added { units: i64, cents: i64 },
    Signed { length: u64 },
}

impl Aggregate for Bill {
    const TYPE: &'static str = "bill";
    type Command = Command;
    type Event = BillEvent;
    type Error = String;

    fn handle(&self, command: Command) -> Result<Vec<BillEvent>, String> {
        let tariffs = settings::<Tariffs>();
        match command {
            Command::Add { units, zone } => {
                let factor = tariffs.zones.iter().find(|known| known.name == zone).map_or(1, |zone| zone.factor);
                Ok(vec![BillEvent::Added { units, cents: units * tariffs.cents_per_unit * factor }])
            }
            Command::Sign { length } => Ok(vec![BillEvent::Signed { length }]),
            // An aggregate gets no secrets.
            Command::Leak => Err(secrets::<Keys>().signing_key.expose().to_owned()),
        }
    }

    fn apply(&mut self, _: BillEvent) {}
}
export_aggregate!(Bill);

/// What all units would cost by the tariff of today.
pub struct Today;

/// What the projection answers.
#[derive(Deserialize)]
#[expect(missing_docs, reason = "the name says it")]
pub enum Query {
    Sum,
}

impl Projection for Today {
    const NAME: &'static str = "today";
    const SUBSCRIPTIONS: &'static [&'static str] = &["bill.Added"];
    const SCHEMA: &'static str = "CREATE TABLE costs (cents INTEGER NOT NULL)";
    type Query = Query;

    fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
        if let BillEvent::Added { units, .. } = event.decode()? {
            sql.execute("INSERT INTO costs VALUES (?1)", params![units * settings::<Tariffs>().cents_per_unit])?;
        }
        Ok(())
    }

    fn query(Query::Sum: Query, sql: &Sql) -> Result<Answer, QueryError> {
        Answer::json(&sql.row::<i64>("SELECT coalesce(sum(cents), 0) FROM costs", &[])?.unwrap_or(0))
    }
}
export_projection!(Today);

/// Signs what is added.
pub struct Signer;

impl Subscriber for Signer {
    const SUBSCRIPTIONS: &'static [&'static str] = &["bill.Added"];

    fn handle(event: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let length = secrets::<Keys>().signing_key.expose().len() as u64;
        outbox.send("bill", event.aggregate_id()?, &Command::Sign { length })?;
        Ok(())
    }
}
export_subscriber!(Signer);
