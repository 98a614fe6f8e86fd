//! The aggregates of a plugin, as shards call them.

use crate::aggregates::{CodeWatch, Guest, GuestError, Handlers, Options, Service};
use crate::model::{Command, Failure, NewEvent, RecordedEvent, Refusal, Version};
use crate::names::Name;
use crate::plugin::{AggregateGuest, Error, Live, Plugin, Role, Slot, Watch};
use std::sync::Arc;
use std::time::Duration;

/// Returns the aggregate types of a plugin, each served by `shards` threads.
pub fn aggregate_services(slot: &Arc<Slot>, shards: usize, options: &Options) -> Vec<Service> {
    let plugin = slot.current();
    let types = plugin.description.roles.iter().filter_map(aggregate_type);
    types.map(|name| aggregate_service(slot, name, shards, options)).collect()
}

/// Returns one aggregate type of a plugin, served by `shards` threads.
pub(super) fn aggregate_service(slot: &Arc<Slot>, name: &str, shards: usize, options: &Options) -> Service {
    let aggregate_type = Name::parse(name).expect("it is the name of a role");
    Service::new(name, PluginHandlers { slot: slot.clone(), aggregate_type }, shards, options.clone())
}

/// Returns the aggregate type of a role, if it is that of an aggregate.
pub(super) fn aggregate_type(role: &Role) -> Option<&Name> {
    match role {
        Role::Aggregate { aggregate_type, .. } => Some(aggregate_type),
        _ => None,
    }
}

/// Handlers in WebAssembly: one aggregate of the plugin in a slot.
struct PluginHandlers {
    slot: Arc<Slot>,
    aggregate_type: Name,
}

/// A guest of a plugin, with its own wasm store.
struct PluginGuest {
    plugin: Arc<Plugin>,
    code: Arc<str>,
    guest: AggregateGuest,
}

impl Handlers for PluginHandlers {
    type Guest = PluginGuest;

    fn name(&self) -> Arc<str> {
        self.slot.name.clone()
    }

    fn guest(&self) -> Result<PluginGuest, GuestError> {
        self.guest_of(self.slot.current())
    }

    fn candidate(&self) -> Option<Result<PluginGuest, GuestError>> {
        Some(self.guest_of(self.slot.candidate()?))
    }

    fn is_current(&self, guest: &PluginGuest) -> bool {
        self.slot.is_current(&guest.plugin)
    }

    fn watch(&self, guest: &PluginGuest) -> Option<Arc<dyn CodeWatch>> {
        let watch = self.slot.watch_of(&guest.plugin)?;
        Some(watch)
    }

    fn guest_before(&self) -> Option<Result<PluginGuest, GuestError>> {
        let watch = self.slot.watch_of(&self.slot.current())?;
        Some(self.guest_of(watch.old().clone()))
    }
}

impl PluginHandlers {
    fn guest_of(&self, plugin: Arc<Plugin>) -> Result<PluginGuest, GuestError> {
        // The digest covers all of the code, including the layout of the state.
        let guest = AggregateGuest::new(&plugin, &self.aggregate_type).map_err(failed)?;
        Ok(PluginGuest { guest, code: plugin.digest.as_str().into(), plugin })
    }
}

impl CodeWatch for Watch {
    fn handled(&self) {
        self.handled(1);
    }

    fn failed(&self, reason: &str) {
        self.failed(reason);
    }

    fn rest(&self) -> Duration {
        self.rest()
    }
}

impl Guest for PluginGuest {
    type Live = Live;

    fn label(&self) -> Arc<str> {
        self.plugin.label().clone()
    }

    fn code(&self) -> Arc<str> {
        self.code.clone()
    }

    fn instances_max(&self) -> usize {
        self.plugin.limits.instances_max
    }

    fn memory_bytes(&self) -> usize {
        self.guest.memory_bytes()
    }

    fn live_bytes_max(&self) -> usize {
        self.plugin.limits.live_bytes_max
    }

    fn is_worn(&self) -> bool {
        self.guest.is_worn()
    }

    fn create(&mut self, id: &str) -> Result<Live, GuestError> {
        self.guest.create(id).map_err(failed)
    }

    fn apply(&mut self, live: &Live, events: &[RecordedEvent]) -> Result<Result<(), Failure>, GuestError> {
        self.guest.apply(live, events).map_err(failed)
    }

    fn takes_recorded_events(&self) -> bool {
        self.guest.takes_recorded_events()
    }

    fn handle(&mut self, live: &Live, command: &Command) -> Result<Result<Vec<NewEvent>, Refusal>, GuestError> {
        self.guest.handle(live, command).map_err(failed)
    }

    fn snapshot(&mut self, live: &Live) -> Result<Option<Vec<u8>>, GuestError> {
        self.guest.snapshot(live).map_err(failed)
    }

    fn restore(&mut self, live: &Live, state: &[u8], version: Version) -> Result<Result<(), String>, GuestError> {
        self.guest.restore(live, state, version).map_err(failed)
    }

    fn discard(&mut self, live: Live) -> Result<(), GuestError> {
        self.guest.discard(live).map_err(failed)
    }
}

fn failed(error: Error) -> GuestError {
    let text = error.to_string();
    match error {
        Error::Host(_) | Error::Stopping => GuestError::Host(text),
        Error::Overrun { .. } => GuestError::Overrun(text),
        Error::Plugin(_) | Error::Slow { .. } => GuestError::Failed { cause: text.clone(), text },
        Error::Trap { cause, .. } => GuestError::Failed { text, cause },
    }
}
