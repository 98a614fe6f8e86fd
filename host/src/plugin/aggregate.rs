//! The aggregate role: live aggregates inside one wasm store.

use super::bindings::exports::wasmill::plugin::aggregate as export;
use super::bindings::wasmill::plugin::types;
use super::lowering::{Lender, lend_cause, lend_headers};
use super::{Error, Failure, Guarded, Plugin, Refusal, failure, refusal};
use crate::model::{Command, NewEvent, RecordedEvent};
use crate::names::{self, Rule};
use wasmtime::component::ResourceAny;

/// A wasm store with the live aggregates of one shard. After [`Error::Trap`] it must be thrown away with all of them.
pub struct AggregateGuest {
    guarded: Guarded,
    guest: export::Guest,
}

/// A live aggregate. Valid in the guest that made it, until it is dropped there.
#[derive(Debug)]
pub struct Live(ResourceAny);

/// What an aggregate understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateNames {
    /// Names of its commands.
    pub commands: Vec<String>,
    /// Names of its events.
    pub events: Vec<String>,
}

impl AggregateGuest {
    /// A fresh wasm store.
    pub fn new(plugin: &Plugin) -> Result<Self, Error> {
        let indices = export::GuestIndices::new(&plugin.pre).map_err(|error| plugin.lacks("an aggregate", &error))?;
        let (mut guarded, instance) = Guarded::instantiate(plugin)?;
        let guest =
            indices.load(&mut guarded.store, &instance).map_err(|error| plugin.lacks("an aggregate", &error))?;
        Ok(Self { guarded, guest })
    }

    /// What the aggregate understands.
    pub fn describe(&mut self) -> Result<AggregateNames, Error> {
        let export::Description { commands, events } = self.guarded.call(1, |store| self.guest.call_describe(store))?;
        for (kind, name) in
            commands.iter().map(|name| ("command", name)).chain(events.iter().map(|name| ("event", name)))
        {
            names::checked(name, Rule::Message).map_err(|cause| {
                Error::Plugin(format!("plugin {}: the name of a {kind} {cause}; rename it", self.guarded.label))
            })?;
        }
        Ok(AggregateNames { commands, events })
    }

    /// An aggregate without history.
    pub fn create(&mut self, id: &str) -> Result<Live, Error> {
        self.guarded.call(1, |store| self.guest.instance().call_constructor(store, id)).map(Live)
    }

    /// Applies history.
    pub fn apply(&mut self, live: &Live, events: &[RecordedEvent]) -> Result<Result<(), Failure>, Error> {
        let lender = Lender::new(events);
        let lent = lender.events();
        let applied =
            self.guarded.call(events.len(), |store| self.guest.instance().call_apply(store, live.0, &lent))?;
        Ok(applied.map_err(failure))
    }

    /// Applies what it decided last, which must be durable, and decides on a command.
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
        let decided = self.guarded.call(1, |store| self.guest.instance().call_handle(store, live.0, lent))?;
        let events = match decided {
            Ok(events) => events,
            Err(outcome) => return Ok(Err(refusal(outcome))),
        };
        if let Some(cause) = events.iter().find_map(|event| names::checked(&event.name, Rule::Message).err()) {
            return Err(self.guarded.broke_the_contract(format!("the name of an event that it decided on {cause}")));
        }
        Ok(Ok(events.into_iter().map(|event| NewEvent { name: event.name, payload: event.payload }).collect()))
    }

    /// Applies what it decided last, which must be durable, and gives the state as bytes, where the aggregate keeps
    /// snapshots.
    pub fn snapshot(&mut self, live: &Live) -> Result<Option<Vec<u8>>, Error> {
        self.guarded.call(1, |store| self.guest.instance().call_snapshot(store, live.0))
    }

    /// Takes the state from a snapshot. The inner error is the guest's own: it can't make sense of the bytes.
    pub fn restore(&mut self, live: &Live, state: &[u8]) -> Result<Result<(), String>, Error> {
        self.guarded.call(1, |store| self.guest.instance().call_restore(store, live.0, state))
    }

    /// Bytes of its linear memory, which never shrinks: what is free of it is used again.
    pub fn memory_bytes(&self) -> usize {
        self.guarded.store.data().usage.memory_bytes()
    }

    /// Whether the linear memory, which never shrinks, has grown so near its limit that a fresh wasm store is due.
    pub fn is_worn(&self) -> bool {
        self.guarded.store.data().usage.is_worn()
    }

    /// Frees a live aggregate.
    pub fn discard(&mut self, live: Live) -> Result<(), Error> {
        self.guarded.call(1, |store| live.0.resource_drop(store))
    }
}
