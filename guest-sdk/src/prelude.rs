//! Everything that a plugin needs: `use wasmill_guest::prelude::*;`.
//!
//! Two macros are not in it, because the compiler refuses a glob import that hides a macro of the standard library:
//! `use wasmill_guest::{dbg, println};` has [`println!`](crate::println) and [`dbg!`](crate::dbg) write to the host's log.

pub use crate::aggregate::{Aggregate, Applied, Context, Snapshots};
pub use crate::configuration::{Secret, secrets, settings};
pub use crate::contract::Contract;
pub use crate::failure::Failure;
pub use crate::metadata::Metadata;
pub use crate::projection::{Answer, Event, Projection, QueryError};
pub use crate::reading::{Reads, Shape, UnknownEvents};
pub use crate::saga::{Saga, Step};
pub use crate::schema::{JsonSchema, Schema};
pub use crate::sql::Sql;
pub use crate::subscriber::{
    Delivery, Due, Ending, HttpAnswer, HttpResponse, Message, Outbox, Outcome, OutgoingCommand, Record, Request,
    Response, Subscriber, Timer,
};
pub use crate::upcast::{Json, Upcasts, json};
pub use crate::{debug, error, info, trace, warn};
pub use crate::{export_aggregate, export_projection, export_saga, export_settings, export_subscriber, params};
pub use serde::{Deserialize, Serialize};
pub use std::time::Duration;
