//! The projection `statements`: the entries and balances of accounts.

mod query;

use bank_contract::{Account, AccountEvent};
pub use query::StatementsQuery;
use wasmill_guest::prelude::*;

/// The read model of statements.
pub struct Statements;

impl Projection for Statements {
    const NAME: &'static str = "statements";
    const SUBSCRIPTIONS: &'static [&'static str] = &[Account::ALL_EVENTS];
    const READS: &'static [Reads] = &[Reads::of::<Account>()];
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
            AccountEvent::Opened { first_name, last_name } => {
                let name = format!("{first_name} {last_name}");
                sql.execute(OPEN, params![event.aggregate_id(), name.trim_end()])?;
                Ok(())
            }
            AccountEvent::Deposited { cents } => entry("deposit", cents, None),
            AccountEvent::Debited { transfer_id, cents } => entry("debit", -cents, Some(transfer_id)),
            AccountEvent::Credited { transfer_id, cents } => entry("credit", cents, Some(transfer_id)),
            AccountEvent::Refunded { transfer_id, cents } => entry("refund", cents, Some(transfer_id)),
            AccountEvent::Closed => {
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
