//! What the plugins of the bank example say to each other: the commands and events of accounts and transfers.
//!
//! The aggregates take their commands, events and upcasts from here, and so do those who send the commands and read the
//! events. A name that does not exist does not compile.

mod account;
mod transfer;

pub use account::{Account, AccountCommand, AccountEvent};
pub use transfer::{Transfer, TransferCommand, TransferEvent};
