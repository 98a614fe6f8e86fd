//! The contract of accounts.

use wasmill_guest::prelude::*;

/// The commands to an account. Amounts are in cents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum AccountCommand {
    Open { first_name: String, last_name: String },
    Deposit { cents: i64 },
    Debit { transfer_id: String, cents: i64 },
    Credit { transfer_id: String, cents: i64 },
    Refund { transfer_id: String, cents: i64 },
    Close,
}

/// The events of an account. Amounts are in cents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Contract)]
#[contract(Account, type = "account", command = AccountCommand, upcasts = UPCASTS)]
#[expect(missing_docs, reason = "the names say it")]
pub enum AccountEvent {
    Opened { first_name: String, last_name: String },
    Deposited { cents: i64 },
    Debited { transfer_id: String, cents: i64 },
    Credited { transfer_id: String, cents: i64 },
    Refunded { transfer_id: String, cents: i64 },
    Closed,
}

const UPCASTS: &[Upcasts] = &[Upcasts::of("Opened", &[split_name])];

/// Version 1 of `Opened` had one `name`.
fn split_name(event: Json) -> Result<Json, String> {
    let name = event["name"].as_str().ok_or("it has no `name`")?;
    let (first_name, last_name) = name.split_once(' ').unwrap_or((name, ""));
    Ok(json!({ "first_name": first_name, "last_name": last_name }))
}
