//! The contract of transfers.

use wasmill_guest::prelude::*;

/// The commands to a transfer. Amounts are in cents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TransferCommand {
    Request { from: String, to: String, cents: i64 },
    Approve,
    Complete,
    Fail { reason: String },
}

/// The events of a transfer. Amounts are in cents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Contract)]
#[contract(Transfer, type = "transfer", command = TransferCommand)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TransferEvent {
    Requested { from: String, to: String, cents: i64 },
    Approved,
    Completed,
    Failed { reason: String },
}
