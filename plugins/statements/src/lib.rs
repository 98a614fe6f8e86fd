//! The projection `statements`: the entries and balances of accounts.

mod query;

use query::StatementsQuery;
use wasmill_guest::prelude::*;

/// The read model of statements.
struct Statements;

/// The events of accounts.
#[derive(Deserialize)]
enum Seen {
    Opened(Holder),
    Deposited { cents: i64 },
    Debited { transfer_id: String, cents: i64 },
    Credited { transfer_id: String, cents: i64 },
    Refunded { transfer_id: String, cents: i64 },
    Closed,
}

/// The holder of an account. Events are not upcast for projections, so this reads both versions of the event.
#[derive(Deserialize)]
#[serde(untagged)]
enum Holder {
    Named { first_name: String, last_name: String },
    First { name: String },
}

impl Holder {
    fn name(self) -> String {
        match self {
            Self::Named { first_name, last_name } => format!("{first_name} {last_name}").trim_end().to_owned(),
            Self::First { name } => name,
        }
    }
}

impl Projection for Statements {
    const NAME: &'static str = "statements";
    const SUBSCRIPTIONS: &'static [&'static str] = &["account.*"];
    const SCHEMA: &'static str = include_str!("schema.sql");
    type Query = StatementsQuery;

    fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
        let entry = |kind: &str, cents: i64, transfer: Option<String>| {
            let (account, time_ms) = (event.aggregate_id(), event.metadata().time_ms());
            sql.execute(CHANGE_BALANCE, params![account, cents])?;
            sql.execute(ADD_ENTRY, params![account, kind, cents, transfer, time_ms])?;
            Ok(())
        };
        match event.decode()? {
            Seen::Opened(holder) => {
                sql.execute(OPEN, params![event.aggregate_id(), holder.name()])?;
                Ok(())
            }
            Seen::Deposited { cents } => entry("deposit", cents, None),
            Seen::Debited { transfer_id, cents } => entry("debit", -cents, Some(transfer_id)),
            Seen::Credited { transfer_id, cents } => entry("credit", cents, Some(transfer_id)),
            Seen::Refunded { transfer_id, cents } => entry("refund", cents, Some(transfer_id)),
            Seen::Closed => {
                sql.execute(CLOSE, params![event.aggregate_id()])?;
                Ok(())
            }
        }
    }

    fn query(query: StatementsQuery, sql: &Sql) -> Result<Answer, QueryError> {
        query.answer(sql)
    }
}
export_projection!(Statements);

const OPEN: &str = "INSERT INTO accounts VALUES (?1, ?2, 0, 0, FALSE)";
const CLOSE: &str = "UPDATE accounts SET is_closed = TRUE WHERE account = ?1";
const CHANGE_BALANCE: &str =
    "UPDATE accounts SET balance_cents = balance_cents + ?2, entries = entries + 1 WHERE account = ?1";
const ADD_ENTRY: &str = "INSERT INTO entries
    SELECT account, entries, ?2, ?3, balance_cents, ?4, ?5 FROM accounts WHERE account = ?1";

#[cfg(test)]
mod tests;
