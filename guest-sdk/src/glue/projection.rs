//! The exports of a projection.

use crate::bindings::projection::exports::wasmill::plugin::projection as wit;
use crate::bindings::types;
use crate::codec;
use crate::declared::{Crate, identity, owned};
use crate::log::install_panic_hook;
use crate::projection::{Answer, Event, Projection, QueryError, dispatch};
use crate::reading::skipped;
use crate::sql::{Host, Sql};
use std::marker::PhantomData;

/// The exports of the projection `P`, in the crate `C`.
pub struct ProjectionRole<P, C>(PhantomData<(P, C)>);

impl<P: Projection, C: Crate> wit::Guest for ProjectionRole<P, C> {
    fn describe() -> Result<wit::Description, String> {
        install_panic_hook();
        let queries = owned(codec::variants::<P::Query>("queries")?);
        Ok(wit::Description {
            plugin: identity::<C>(),
            name: P::NAME.to_owned(),
            subscriptions: owned(P::SUBSCRIPTIONS),
            shape: P::SHAPE.into(),
            queries: P::QUERY_SCHEMA.describe(queries),
        })
    }

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
