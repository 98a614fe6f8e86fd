//! The outbox: effects of subscriptions that are durable and not sent yet, all in one table.
//!
//! A row has the effects of one kind from one step. Effects are numbered within their queue, and the consumer of a queue deletes
//! the rows whose effects are all settled.

use super::connection::{Connection, int, uint};
use super::hints;
use crate::model::{Command, Message, SubscriptionName};
use crate::store::{Error, Ledger, encoding};

/// The kind of commands, whose queue is their subscription.
pub(super) const COMMANDS: &str = "commands";

/// The kind of messages, which all have the queue `''`.
pub(super) const MESSAGES: &str = "messages";

/// Returns the commands of a subscription that are not settled, in order.
pub(super) fn pending_commands(connection: &Connection, subscription: &str) -> Result<Vec<Command>, Error> {
    const DOING: &str = "reading the commands of a subscription";
    let sql = "SELECT body FROM outbox WHERE kind = 'commands' AND queue = $1 ORDER BY first";
    let steps = connection.query(DOING, sql, &[&subscription])?;
    // The ledger is read after the commands, so that it has what was settled meanwhile.
    let ledger = ledger(connection, &SubscriptionName::parse(subscription).ledger().to_string())?;
    let mut pending = Vec::new();
    for step in steps {
        let place = format!("the outbox of subscription {subscription}");
        let commands: Vec<Command> = encoding::decode(&place, step.get(0))?;
        let settled = |command: &Command| command.origin.as_ref().is_some_and(|origin| ledger.has(origin.last));
        pending.extend(commands.into_iter().filter(|command| !settled(command)));
    }
    Ok(pending)
}

/// Returns about `limit` messages after a number, in order.
pub(super) fn messages(connection: &Connection, after: u64, limit: usize) -> Result<Vec<(u64, Message)>, Error> {
    // A row has at least one message. The bound on `first` lets the index skip the rows before.
    let sql = "SELECT first, body FROM outbox WHERE kind = 'messages' AND queue = '' AND last > $1
               AND first >= coalesce((SELECT max(first) FROM outbox
                   WHERE kind = 'messages' AND queue = '' AND first <= $1), 0)
               ORDER BY first LIMIT $2";
    let rows = connection.query("reading the outbox", sql, &[&int(after), &int(limit as u64)])?;
    let mut messages = Vec::new();
    for row in rows {
        if messages.len() >= limit {
            break;
        }
        let step: Vec<Message> = encoding::decode("a row of the outbox", row.get(1))?;
        messages.extend((uint(&row, 0)..).zip(step).filter(|&(number, _)| number > after));
    }
    Ok(messages)
}

/// Reads the state of a ledger. A new one starts at 0.
pub(super) fn ledger(connection: &Connection, name: &str) -> Result<Ledger, Error> {
    let sql = "SELECT next, ahead FROM ledgers WHERE name = $1";
    let row = connection.first("reading a ledger", sql, &[&name])?;
    row.map_or(Ok(Ledger::default()), |row| hints::ledger(name, &row, 0))
}
