//! The glue between the generated exports and the traits. It is generic over the author's type, so the export macros
//! stay thin. Nothing in it is meant to be called directly.

mod aggregate;
mod configuration;
mod macros;
mod projection;
mod saga;
mod subscriber;

pub use aggregate::{AggregateRole, Aggregates, Beside, Live, Only};
pub use configuration::Configured;
pub use projection::ProjectionRole;
#[cfg(all(feature = "testing-sql", not(target_family = "wasm")))]
pub(crate) use projection::answer;
pub use saga::{LiveSaga, SagaRole};
pub use subscriber::SubscriberRole;

use crate::Failure;
use crate::bindings::types;
use crate::upcast::{self, Upcasts};

/// Handles a list in order, up to the first item that fails.
fn each<T>(items: Vec<T>, mut handle: impl FnMut(u32, T) -> Result<(), Failure>) -> Result<(), types::Failure> {
    (0..).zip(items).try_for_each(|(index, item)| {
        handle(index, item).map_err(|failure| types::Failure { index, outcome: failure.into() })
    })
}

/// Migrates the payloads of recorded events to the version that the code knows.
fn upcast(events: Vec<types::RecordedPayload>, upcasts: &[Upcasts]) -> Vec<Result<Vec<u8>, String>> {
    let current = |types::RecordedPayload { name, mut payload }| {
        let content = upcast::current(&name, &mut payload, upcasts).map_err(|error| error.to_string())?;
        Ok(content.into_owned())
    };
    events.into_iter().map(current).collect()
}
