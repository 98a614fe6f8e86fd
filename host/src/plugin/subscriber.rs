//! The subscriber role: it turns deliveries into effects.

use super::bindings::exports::wasmill::plugin::subscriber as export;
use super::bindings::wasmill::plugin::types::Delivery;
use super::lowering::{CallbackLender, Lender, RecordLender};
use super::upcasting::ReaderShape;
use super::{Effects, Error, Guarded, Identity, Plugin, Role, RoleName, description};
use crate::model::{Failure, KeptCallback, Record, RecordedEvent};

/// A wasm store with one subscriber. After an [`Error`] it must be dropped.
pub struct SubscriberGuest {
    guarded: Guarded,
    guest: export::Guest,
    shape: ReaderShape,
}

/// Returns what the role says about itself.
pub(super) fn describe(plugin: &Plugin) -> Result<(Identity, Vec<Role>), Error> {
    let (mut guarded, guest) = instantiate(plugin)?;
    let described = guarded.call("describe", 1, |store| guest.call_describe(store))?;
    guarded.described(RoleName::Subscriber, described, |described| {
        let export::Description { plugin, subscriptions, shape, endpoints } = described;
        let role = Role::Subscriber {
            subscriptions: description::subscriptions(subscriptions)?,
            shape: description::shape(shape),
            endpoints: description::endpoints(&endpoints)?,
        };
        Ok((description::identity(plugin)?, vec![role]))
    })
}

fn instantiate(plugin: &Plugin) -> Result<(Guarded, export::Guest), Error> {
    let misfit = |error| plugin.misfit(RoleName::Subscriber, &error);
    let indices = export::GuestIndices::new(&plugin.pre).map_err(misfit)?;
    let (mut guarded, instance) = Guarded::instantiate(plugin, true)?;
    let guest = indices.load(&mut guarded.store, &instance).map_err(misfit)?;
    Ok((guarded, guest))
}

impl SubscriberGuest {
    /// Creates a guest in a new wasm store.
    pub fn new(plugin: &Plugin) -> Result<Self, Error> {
        let (guarded, guest) = instantiate(plugin)?;
        let shape = ReaderShape::new(plugin, |role| matches!(role, Role::Subscriber { .. }));
        Ok(Self { guarded, guest, shape })
    }

    /// Decides whether an event that takes long is interrupted with [`Error::Slow`], because events of other keys wait.
    pub fn hurry(&mut self, is_hurried: bool) {
        self.guarded.hurry(is_hurried);
        self.shape.hurry(is_hurried);
    }

    /// Delivers events. The result has the effects of all of them, or none if one failed.
    pub fn handle(&mut self, events: &[RecordedEvent]) -> Result<Result<Effects, Failure>, Error> {
        match self.shape.of(events)? {
            Ok(events) => self.deliver(&Lender::new(&events).deliveries()),
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Delivers records of a source. The result has the effects of all of them, or none if one failed.
    pub fn handle_records(&mut self, source: &str, records: &[&Record]) -> Result<Result<Effects, Failure>, Error> {
        self.deliver(&RecordLender::new(source, records).deliveries())
    }

    /// Delivers outcomes and timers. The result has the effects of all of them, or none if one failed.
    pub fn handle_callbacks(&mut self, callbacks: &[KeptCallback]) -> Result<Result<Effects, Failure>, Error> {
        self.deliver(&CallbackLender::new(callbacks).deliveries())
    }

    /// Whether the guest should be recreated, because it has taken much of what it may have and gives nothing back.
    pub fn is_worn(&self) -> bool {
        self.guarded.is_worn()
    }

    fn deliver(&mut self, deliveries: &[Delivery<'_>]) -> Result<Result<Effects, Failure>, Error> {
        let mut effects = Effects { deliveries: 0, list: Vec::new() };
        let guest = &self.guest;
        // One call, or one for each delivery.
        let handled = self.guarded.call_with_list("handle", deliveries, |store, of_call| {
            store.data_mut().begin_effects(of_call.len());
            let handled = guest.call_handle(&mut *store, of_call);
            effects.append(store.data_mut().take_effects());
            handled
        });
        Ok(handled?.map(|_| effects))
    }
}
