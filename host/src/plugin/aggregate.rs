//! The aggregate role: live aggregates in one wasm store.

use super::bindings::exports::wasmill::plugin::aggregate as export;
use super::bindings::wasmill::plugin::types;
use super::decision::new_events;
use super::lowering::{Lender, lend_cause, lend_headers, lend_payloads};
use super::{Error, Guarded, Identity, Plugin, Role, RoleName, description, guest_text, refusal};
use crate::model::{Command, Failure, NewEvent, RecordedEvent, Refusal, Version};
use crate::names::Name;
use std::sync::Arc;
use wasmtime::component::ResourceAny;

/// A wasm store with the live aggregates of one shard. After an [`Error`] it must be dropped with all of them.
pub struct AggregateGuest {
    guarded: Guarded,
    guest: export::Guest,
    aggregate_type: Arc<str>,
}

/// A live aggregate. It is valid in the guest that created it, until it is discarded there.
#[derive(Debug)]
pub struct Live(ResourceAny);

/// Returns what the role says about itself.
pub(super) fn describe(plugin: &Plugin) -> Result<(Identity, Vec<Role>), Error> {
    let (mut guarded, guest) = instantiate(plugin)?;
    let described = guarded.call("describe", 1, |store| guest.call_describe(store))?;
    guarded.described(RoleName::Aggregate, described, |export::Description { plugin, aggregate_types }| {
        description::bounded("aggregate types", &aggregate_types)?;
        let roles = aggregate_types.into_iter().map(role).collect::<Result<Vec<Role>, String>>()?;
        if roles.is_empty() {
            return Err("there is no aggregate type".to_owned());
        }
        let mut names: Vec<&Name> = roles.iter().filter_map(Role::recorded).map(|(name, _)| name).collect();
        names.sort();
        match names.windows(2).find(|two| two[0] == two[1]) {
            Some(doubled) => Err(format!("there are two aggregate types named {}: rename one of them", doubled[0])),
            None => Ok((description::identity(plugin)?, roles)),
        }
    })
}

fn role(described: export::AggregateType) -> Result<Role, String> {
    let export::AggregateType { name, commands, events, state } = described;
    let aggregate_type = description::name("the name of an aggregate type", &name)?;
    let of_type = |cause: String| format!("aggregate type {aggregate_type}: {cause}");
    Ok(Role::Aggregate {
        commands: description::messages("commands", "a command", commands).map_err(of_type)?,
        events: description::messages("events", "an event", events).map_err(of_type)?,
        state: description::schema("the state", state).map_err(of_type)?,
        aggregate_type,
    })
}

fn instantiate(plugin: &Plugin) -> Result<(Guarded, export::Guest), Error> {
    let misfit = |error| plugin.misfit(RoleName::Aggregate, &error);
    let indices = export::GuestIndices::new(&plugin.pre).map_err(misfit)?;
    let (mut guarded, instance) = Guarded::instantiate(plugin, false)?;
    let guest = indices.load(&mut guarded.store, &instance).map_err(misfit)?;
    Ok((guarded, guest))
}

impl AggregateGuest {
    /// Creates a guest for aggregates of one of the plugin's types, in a new wasm store.
    pub fn new(plugin: &Plugin, aggregate_type: &str) -> Result<Self, Error> {
        let (guarded, guest) = instantiate(plugin)?;
        Ok(Self { guarded, guest, aggregate_type: aggregate_type.into() })
    }

    /// Decides whether a call that takes long is interrupted with [`Error::Slow`].
    pub(super) fn hurry(&mut self, is_hurried: bool) {
        self.guarded.hurry(is_hurried);
    }

    /// Migrates the payloads of events to the version that the code knows. An inner error is the guest's, if it can't.
    pub fn upcast(&mut self, events: &[&RecordedEvent]) -> Result<Vec<Result<Vec<u8>, String>>, Error> {
        let lent = lend_payloads(events);
        let migrated = self
            .guarded
            .call("upcast", events.len(), |store| self.guest.call_upcast(store, &self.aggregate_type, &lent))?;
        self.guarded.migrated(events, migrated)
    }

    /// Creates a live aggregate without history.
    pub fn create(&mut self, id: &str) -> Result<Live, Error> {
        self.guarded
            .call("constructor", 1, |store| self.guest.instance().call_constructor(store, &self.aggregate_type, id))
            .map(Live)
    }

    /// Applies recorded events.
    pub fn apply(&mut self, live: &Live, events: &[RecordedEvent]) -> Result<Result<(), Failure>, Error> {
        let lender = Lender::new(events);
        let lent = lender.events();
        let instance = self.guest.instance();
        let applied =
            self.guarded.call_with_list("apply", &lent, |store, lent| instance.call_apply(store, live.0, lent))?;
        Ok(applied.map(drop))
    }

    /// Applies the events of the previous decision, which must be durable, and decides on a command.
    pub fn handle(&mut self, live: &Live, command: &Command) -> Result<Result<Vec<NewEvent>, Refusal>, Error> {
        let headers = lend_headers(&command.headers);
        let lent = types::Command {
            name: &command.name,
            payload: &command.payload,
            metadata: types::Metadata {
                id: &command.id,
                time: command.time_ms,
                cause: lend_cause(command),
                headers: headers.as_deref(),
            },
        };
        let item = (command.time_ms, &*command.id);
        let decided =
            self.guarded.call_with("handle", item, |store| self.guest.instance().call_handle(store, live.0, lent))?;
        match decided {
            Ok(events) => new_events(events).map(Ok).map_err(|cause| self.guarded.broke_the_contract(cause)),
            Err(outcome) => Ok(Err(refusal(outcome))),
        }
    }

    /// Whether the events of a decision must be passed to `apply` once they are durable, because the code may ask WASI for the time or
    /// randomness of each.
    pub fn takes_recorded_events(&self) -> bool {
        self.guarded.is_item_by_item()
    }

    /// Applies the events of the previous decision, which must be durable, and returns the state as bytes if the
    /// aggregate takes snapshots.
    pub fn snapshot(&mut self, live: &Live) -> Result<Option<Vec<u8>>, Error> {
        self.guarded.call("snapshot", 1, |store| self.guest.instance().call_snapshot(store, live.0))
    }

    /// Restores the state from a snapshot at a version. The inner error is the guest's, if it can't decode the bytes.
    pub fn restore(&mut self, live: &Live, state: &[u8], version: Version) -> Result<Result<(), String>, Error> {
        self.guarded
            .call("restore", 1, |store| self.guest.instance().call_restore(store, live.0, state, version.0))
            .map(|restored| restored.map_err(|cause| guest_text::reason_line(&cause)))
    }

    /// Returns the bytes of its linear memory, which never shrinks. Freed memory is reused.
    pub fn memory_bytes(&self) -> usize {
        self.guarded.store.data().usage.memory_bytes()
    }

    /// Whether the guest should be recreated, because it has taken much of what it may have and gives nothing back.
    pub fn is_worn(&self) -> bool {
        self.guarded.is_worn()
    }

    /// Frees a live aggregate.
    pub fn discard(&mut self, live: Live) -> Result<(), Error> {
        self.guarded.call("drop", 1, |store| live.0.resource_drop(store))
    }
}
