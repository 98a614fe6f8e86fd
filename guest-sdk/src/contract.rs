//! Contracts: what one plugin says to others about its aggregate, in a crate that all of them depend on.
//!
//! Without a contract, the names of another plugin's aggregate, commands and events are texts, and a misspelt one shows only
//! when it is sent or subscribed to. With one, it does not compile. Put the commands and events into a crate of its own that
//! exports no role, and derive [`Contract`] on the enum of the events:
//!
//! ```
//! // The crate `account-contract`.
//! pub mod account {
//!     use wasmill_guest::prelude::*;
//!
//!     #[derive(Debug, Serialize, Deserialize)]
//!     pub enum AccountCommand { Open { first_name: String, last_name: String }, Debit { cents: i64 } }
//!
//!     #[derive(Debug, PartialEq, Serialize, Deserialize, Contract)]
//!     #[contract(Account, type = "account", command = AccountCommand, upcasts = UPCASTS)]
//!     pub enum AccountEvent { Opened { first_name: String, last_name: String }, Debited { cents: i64 } }
//!
//!     const UPCASTS: &[Upcasts] = &[Upcasts::of("Opened", &[split_name])];
//!
//!     /// Version 1 had one `name`.
//!     fn split_name(event: Json) -> Result<Json, String> {
//!         let name = event["name"].as_str().ok_or("it has no `name`")?;
//!         let (first, last) = name.split_once(' ').unwrap_or((name, ""));
//!         Ok(json!({ "first_name": first, "last_name": last }))
//!     }
//! }
//!
//! // A plugin that reads its events and sends commands to it.
//! use account::{Account, AccountCommand, AccountEvent};
//! use wasmill_guest::prelude::*;
//!
//! struct Fees;
//!
//! impl Subscriber for Fees {
//!     const SUBSCRIPTIONS: &'static [&'static str] = &[Account::OPENED];
//!     const READS: &'static [Reads] = &[Reads::of::<Account>()];
//!
//!     fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
//!         if let AccountEvent::Opened { .. } = delivery.decode()? {
//!             outbox.send_to::<Account>(delivery.aggregate_id()?, &AccountCommand::Debit { cents: 100 })?;
//!         }
//!         Ok(())
//!     }
//! }
//! export_subscriber!(Fees);
//!
//! use wasmill_guest::testing::{deliver, event_json};
//! // An event of version 1 arrives in its newest shape.
//! deliver::<Fees>(event_json("account", "7", "Opened", r#"{"name":"Ada Lovelace"}"#))
//!     .then_command("account", "7", &AccountCommand::Debit { cents: 100 })
//!     .then_nothing();
//! ```
//!
//! The aggregate itself takes all four from its contract, so that both agree:
//!
//! ```text
//! impl Aggregate for State {
//!     const TYPE: &'static str = Account::TYPE;
//!     const UPCASTS: &'static [Upcasts] = Account::UPCASTS;
//!     type Command = AccountCommand;
//!     type Event = AccountEvent;
//!     // …
//! }
//! ```
//!
//! `#[derive(Contract)]` makes the struct that `#[contract(…)]` names. It implements [`Contract`] and has a constant for each
//! event, such as `Account::DEBITED` (`"account.Debited"`), and `Account::ALL_EVENTS` (`"account.*"`). The names follow serde's
//! `rename` and `rename_all`. An enum that serde would encode with a tag does not compile.

use crate::upcast::Upcasts;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use wasmill_guest_macros::Contract;

/// What other plugins may know of an aggregate type. See the [module](self).
pub trait Contract: 'static {
    /// The aggregate type.
    const TYPE: &'static str;

    /// The upcasts of its events. See [`upcast`](crate::upcast).
    const UPCASTS: &'static [Upcasts] = &[];

    /// Its commands: a plain serde enum.
    type Command: Serialize;

    /// Its events: a plain serde enum.
    type Event: Serialize + DeserializeOwned;
}
