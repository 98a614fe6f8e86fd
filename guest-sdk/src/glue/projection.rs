//! The exports of a projection.

use crate::bindings::projection::exports::wasmill::plugin::projection as wit;
use crate::bindings::types;
use crate::codec;
use crate::log::install_panic_hook;
use crate::projection::{Answer, Event, Projection, QueryError, dispatch};
use crate::reading::skipped;
use crate::sql::{Host, Sql};
use std::marker::PhantomData;

/// The exports of the projection `P`.
pub struct ProjectionRole<P>(PhantomData<P>);

impl<P: Projection> wit::Guest for ProjectionRole<P> {
    fn schema() -> String {
        install_panic_hook();
        P::SCHEMA.to_owned()
    }

    fn project(events: Vec<types::RecordedEvent>) -> Result<(), types::Failure> {
        install_panic_hook();
        super::each(events, |_, event| {
            let mut event = Event(event);
            if !dispatch::<P>(&mut event, &Host)? {
                skipped(event.aggregate_type(), event.name());
            }
            Ok(())
        })
    }

    fn query(name: String, params: Vec<u8>) -> Result<Vec<u8>, wit::QueryError> {
        install_panic_hook();
        Ok(answer::<P>(&name, &params, &Sql(&Host))?.0)
    }
}

/// Decodes a query and answers it.
pub(crate) fn answer<P: Projection>(name: &str, params: &[u8], sql: &Sql) -> Result<Answer, QueryError> {
    P::query(codec::decode(name, params)?, sql)
}
