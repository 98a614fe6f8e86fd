//! Everything that a plugin needs: `use wasmill_guest::prelude::*;`.

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
    Delivery, Due, Ending, HttpAnswer, HttpResponse, Message, Outbox, Outcome, OutgoingCommand, Request, Response,
    Subscriber, Timer,
};
pub use crate::upcast::{Json, Upcasts, json};
pub use crate::{debug, error, info, trace, warn};
pub use crate::{export_aggregate, export_projection, export_saga, export_settings, export_subscriber, params};
pub use serde::{Deserialize, Serialize};
