//! The projection role: it folds events into a read model and answers queries from it.

use super::bindings::exports::wasmill::plugin::projection as export;
use super::lowering::Lender;
use super::upcasting::ReaderShape;
use super::{Error, Guarded, Identity, Plugin, ReadModel, Role, RoleName, description, guest_text};
use crate::clock::Clock;
use crate::model::Failure;
use crate::model::RecordedEvent;
use crate::names::Rule;

/// A wasm store with one projection. After an [`Error`] it must be dropped.
pub struct ProjectionGuest {
    guarded: Guarded,
    guest: export::Guest,
    shape: ReaderShape,
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The projection has no such query.
    #[error("no such query; this projection answers {}", .known.join(", "))]
    Unknown {
        /// The queries it has.
        known: Vec<String>,
    },
    /// The parameters can't be decoded.
    #[error("the parameters do not fit: {0}")]
    Malformed(String),
    /// The query failed in another way.
    #[error("{0}")]
    Failed(String),
}

/// Returns what the role says about itself.
pub(super) fn describe(plugin: &Plugin) -> Result<(Identity, Vec<Role>), Error> {
    let (mut guarded, guest) = instantiate(plugin)?;
    let described = guarded.call("describe", 1, |store| guest.call_describe(store))?;
    let described = guarded.described(RoleName::Projection, described, |described| {
        let export::Description { plugin, name, subscriptions, shape, queries } = described;
        let role = Role::Projection {
            name: description::name("the name of the projection", &name)?,
            subscriptions: description::subscriptions(subscriptions)?,
            shape: description::shape(shape),
            queries: description::messages("queries", "a query", queries)?,
        };
        Ok((description::identity(plugin)?, vec![role]))
    })?;
    guarded.call("schema", 1, |store| guest.call_schema(store))?;
    Ok(described)
}

fn instantiate(plugin: &Plugin) -> Result<(Guarded, export::Guest), Error> {
    let misfit = |error| plugin.misfit(RoleName::Projection, &error);
    let indices = export::GuestIndices::new(&plugin.pre).map_err(misfit)?;
    let (mut guarded, instance) = Guarded::instantiate(plugin, false)?;
    let guest = indices.load(&mut guarded.store, &instance).map_err(misfit)?;
    Ok((guarded, guest))
}

impl ProjectionGuest {
    /// Creates a guest in a new wasm store.
    pub fn new(plugin: &Plugin) -> Result<Self, Error> {
        let (guarded, guest) = instantiate(plugin)?;
        let shape = ReaderShape::new(plugin, |role| matches!(role, Role::Projection { .. }));
        Ok(Self { guarded, guest, shape })
    }

    /// Returns the statements that create the read model.
    pub fn schema(&mut self) -> Result<String, Error> {
        self.guarded.call("schema", 1, |store| self.guest.call_schema(store))
    }

    /// Folds events into a read model. The caller begins and ends the transaction.
    pub fn project(
        &mut self,
        events: &[RecordedEvent],
        read_model: Box<dyn ReadModel>,
    ) -> Result<Result<(), Failure>, Error> {
        let events = match self.shape.of(events)? {
            Ok(events) => events,
            Err(failure) => return Ok(Err(failure)),
        };
        let lender = Lender::new(&events);
        let lent = lender.events();
        self.guarded.store.data_mut().read_model = Some(read_model);
        let guest = &self.guest;
        let projected = self.guarded.call_with_list("project", &lent, |store, lent| guest.call_project(store, lent));
        self.guarded.store.data_mut().read_model = None;
        Ok(projected?.map(drop))
    }

    /// Answers a query from a read model.
    pub fn query(
        &mut self,
        name: &str,
        params: &[u8],
        read_model: Box<dyn ReadModel>,
    ) -> Result<Result<Vec<u8>, QueryError>, Error> {
        self.guarded.store.data_mut().read_model = Some(read_model);
        // A query is no item. It may see the time at which it is asked, by the clock that the rest of the host reads.
        let item = (Clock::system().now_ms(), "");
        let answered = self.guarded.call_with("query", item, |store| self.guest.call_query(store, name, params));
        self.guarded.store.data_mut().read_model = None;
        Ok(match answered? {
            Ok(answer) => Ok(answer),
            Err(export::QueryError::Unknown(mut known)) => {
                known.retain(|name| Rule::Message.allows(name));
                known.truncate(description::DESCRIBED_MAX);
                Err(QueryError::Unknown { known })
            }
            Err(export::QueryError::Malformed(reason)) => Err(QueryError::Malformed(guest_text::reason(reason))),
            Err(export::QueryError::Failed(reason)) => Err(QueryError::Failed(guest_text::reason(reason))),
        })
    }

    /// Whether the guest should be recreated, because it has taken much of what it may have and gives nothing back.
    pub fn is_worn(&self) -> bool {
        self.guarded.is_worn()
    }
}
