//! What a shard needs of the code that decides for an aggregate type.
//!
//! The host's own code is in WebAssembly ([`WasmHandlers`]). Whoever embeds the host, or measures what WebAssembly
//! costs, can give it handlers in native code instead: all else is the same. A shard is generic over them, so that the
//! seam costs a command nothing.

use crate::model::{Command, NewEvent, RecordedEvent};
use crate::plugin::{AggregateGuest, Error, Failure, Live, Plugin, Refusal, Slot};
use std::sync::Arc;

/// The code of an aggregate type. Shards ask it for guests, one each, and for a new one when theirs is lost, is worn,
/// or is of code that no longer serves.
pub trait Handlers: Send + Sync + 'static {
    /// What it makes.
    type Guest: Guest;

    /// Who serves the type, as the status and errors name it: for a plugin its name in the manifest.
    fn name(&self) -> Arc<str>;

    /// A guest of the code that serves now.
    fn guest(&self) -> Result<Self::Guest, Error>;

    /// Whether the guest is of the code that serves now.
    fn is_current(&self, guest: &Self::Guest) -> bool;
}

/// The live aggregates of one shard, called by its thread alone. An [`Error`] of any call means that it is lost with
/// all of them.
///
/// An aggregate is called in this order: `create`; `apply` with its history; then `handle` for each command; `discard`
/// at the end. After a `handle` it is called again only once the events of it are durable.
pub trait Guest: Send + 'static {
    /// A live aggregate. Valid in the guest that made it.
    type Live: Send + 'static;

    /// The code's name and version, for errors and the log.
    fn label(&self) -> Arc<str>;

    /// Names the code that makes states and reads them: a snapshot of other code is not restored.
    fn code(&self) -> Arc<str>;

    /// How many live aggregates it may have at rest.
    fn instances_max(&self) -> usize;

    /// Bytes of memory that it has taken. 0 where nobody counts them.
    fn memory_bytes(&self) -> usize;

    /// Bytes of memory at which live aggregates begin to leave.
    fn live_bytes_max(&self) -> usize;

    /// Whether it has used up so much that a fresh one is due.
    fn is_worn(&self) -> bool;

    /// An aggregate without history.
    fn create(&mut self, id: &str) -> Result<Self::Live, Error>;

    /// Applies history. After a failure the live aggregate is discarded.
    fn apply(&mut self, live: &Self::Live, events: &[RecordedEvent]) -> Result<Result<(), Failure>, Error>;

    /// Applies the events of the `handle` before, which are durable now; then decides on a command, which must not change
    /// the state.
    fn handle(&mut self, live: &Self::Live, command: &Command) -> Result<Result<Vec<NewEvent>, Refusal>, Error>;

    /// Applies the events of the last `handle`, which are durable now; then gives the state as bytes, where the aggregate
    /// keeps snapshots.
    fn snapshot(&mut self, live: &Self::Live) -> Result<Option<Vec<u8>>, Error>;

    /// Gives an aggregate without history the state of a snapshot. The inner error says why it can't: the history is
    /// replayed instead.
    fn restore(&mut self, live: &Self::Live, state: &[u8]) -> Result<Result<(), String>, Error>;

    /// Frees a live aggregate.
    fn discard(&mut self, live: Self::Live) -> Result<(), Error>;
}

/// Handlers in WebAssembly: the code of a plugin, as its slot has it.
pub(super) struct WasmHandlers(pub(super) Arc<Slot>);

/// A wasm store of a plugin.
pub(super) struct WasmGuest {
    plugin: Arc<Plugin>,
    code: Arc<str>,
    guest: AggregateGuest,
}

impl Handlers for WasmHandlers {
    type Guest = WasmGuest;

    fn name(&self) -> Arc<str> {
        self.0.name.clone()
    }

    fn guest(&self) -> Result<WasmGuest, Error> {
        let plugin = self.0.current();
        // The digest is of all the code, the shape of the state included.
        Ok(WasmGuest { guest: AggregateGuest::new(&plugin)?, code: plugin.digest.as_str().into(), plugin })
    }

    fn is_current(&self, guest: &WasmGuest) -> bool {
        self.0.is_current(&guest.plugin)
    }
}

impl Guest for WasmGuest {
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

    fn create(&mut self, id: &str) -> Result<Live, Error> {
        self.guest.create(id)
    }

    fn apply(&mut self, live: &Live, events: &[RecordedEvent]) -> Result<Result<(), Failure>, Error> {
        self.guest.apply(live, events)
    }

    fn handle(&mut self, live: &Live, command: &Command) -> Result<Result<Vec<NewEvent>, Refusal>, Error> {
        self.guest.handle(live, command)
    }

    fn snapshot(&mut self, live: &Live) -> Result<Option<Vec<u8>>, Error> {
        self.guest.snapshot(live)
    }

    fn restore(&mut self, live: &Live, state: &[u8]) -> Result<Result<(), String>, Error> {
        self.guest.restore(live, state)
    }

    fn discard(&mut self, live: Live) -> Result<(), Error> {
        self.guest.discard(live)
    }
}
