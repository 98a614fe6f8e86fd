//! A wasm store that is called with deadlines, and whose failures are explained: who is at fault, the guest, a list of
//! items, or the host.

use super::clock::{Interrupted, ticks};
use super::sandbox::{Beyond, Sandbox};
use super::{Error, Plugin};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::Instance;
use wasmtime::{Store, Trap, UpdateDeadline};

/// Handles of a wasm store beside those of its live aggregates.
const HANDLES_SPARE: usize = 100_000;

/// What wasmtime says when a guest hands over more than it may. Its type is private.
const HANDED_OVER_TOO_MUCH: &str = "fuel allocated for hostcalls has been exhausted";

/// What wasmtime says when a component has more instances, memories or tables than it may.
const TOO_MANY: &str = "resource limit exceeded";

/// A wasm store of a plugin.
pub(super) struct Guarded {
    pub(super) store: Store<Sandbox>,
    pub(super) label: Arc<str>,
    ticks: u64,
    limit: Duration,
    output_bytes_max: usize,
}

impl Guarded {
    /// A fresh wasm store with an instance of the plugin in it.
    pub(super) fn instantiate(plugin: &Plugin) -> Result<(Self, Instance), Error> {
        let mut guarded = Self {
            store: store(plugin),
            label: plugin.label.clone(),
            ticks: ticks(plugin.limits.event_time),
            limit: plugin.limits.event_time,
            output_bytes_max: plugin.limits.output_bytes_max,
        };
        match guarded.run(|store| plugin.pre.instantiate(store)) {
            Ok(instance) => Ok((guarded, instance)),
            Err(error) => Err(guarded.not_made(&error)),
        }
    }

    /// Calls into the guest with a list of so many items. The time is that of one item: more is needed by few lists, and
    /// [`Error::Overrun`] has those handled item by item.
    #[inline]
    pub(super) fn call<T>(
        &mut self,
        items: usize,
        call: impl FnOnce(&mut Store<Sandbox>) -> wasmtime::Result<T>,
    ) -> Result<T, Error> {
        self.run(call).map_err(|error| self.failed(items, &error))
    }

    #[inline]
    fn run<T>(&mut self, call: impl FnOnce(&mut Store<Sandbox>) -> wasmtime::Result<T>) -> wasmtime::Result<T> {
        self.store.data_mut().begin_call(self.ticks);
        self.store.set_epoch_deadline(1);
        call(&mut self.store)
    }

    /// The guest handed over what its role may not.
    pub(super) fn broke_the_contract(&self, cause: String) -> Error {
        Error::Trap { label: self.label.clone(), cause }
    }

    /// The instance could not be made: the guest's own start is at fault, or its limits; else the system.
    #[cold]
    fn not_made(&mut self, error: &wasmtime::Error) -> Error {
        let is_of_guest = error.is::<Trap>() || error.is::<Interrupted>() || error.is::<Beyond>();
        if is_of_guest || error.root_cause().to_string().contains(TOO_MANY) {
            return self.failed(1, error);
        }
        Error::Host(format!(
            "the system gives no memory for a guest of plugin {}: {}; raise `ulimit -v` or the machine's memory, or lower \
             `plugins.NAME.shards`",
            self.label,
            error.root_cause()
        ))
    }

    #[cold]
    fn failed(&mut self, items: usize, error: &wasmtime::Error) -> Error {
        let sandbox = self.store.data_mut();
        let (said, refused) = (sandbox.last_error.take(), sandbox.usage.refused_by_system.take());
        if let Some(refused) = refused {
            return Error::Host(format!("the system gives plugin {} no more memory: {refused}", self.label));
        }
        let (label, limit) = (self.label.clone(), self.limit);
        let cause = match (error.downcast_ref::<Interrupted>(), error.downcast_ref::<Trap>(), said) {
            (Some(Interrupted::Stopping), ..) => return Error::Stopping,
            (Some(Interrupted::Overrun), ..) if items > 1 => return Error::Overrun { label, limit },
            (Some(Interrupted::Overrun), ..) => {
                format!("it took longer than {limit:?}: make it faster or raise limits.event_time_ms")
            }
            (None, Some(Trap::UnreachableCodeReached), Some(said)) => explained(said),
            (None, Some(trap), _) => trap.to_string(),
            (None, None, _) if error.root_cause().to_string().contains(HANDED_OVER_TOO_MUCH) => format!(
                "it hands over more than {} bytes in one call: hand over less or raise limits.output_mib",
                self.output_bytes_max
            ),
            (None, None, _) => error.root_cause().to_string(),
        };
        Error::Trap { label, cause }
    }
}

fn store(plugin: &Plugin) -> Store<Sandbox> {
    let sandbox = Sandbox::new(plugin);
    let mut store = Store::new(plugin.pre.component().engine(), sandbox);
    store.limiter(|sandbox| &mut sandbox.usage);
    // A live aggregate has a handle on either side, and some are lent to calls. The cache bounds them; this is only to be
    // above it.
    store.set_max_component_handles(plugin.limits.instances_max.saturating_mul(4).saturating_add(HANDLES_SPARE));
    // A list may name the same bytes again and again: what it becomes in the host is bounded, not what it is in the guest.
    store.set_hostcall_fuel(plugin.limits.output_bytes_max);
    // At each tick of the clock a guest at work asks whether it may go on.
    store.epoch_deadline_callback(|context| {
        context.data().may_go_on()?;
        Ok(UpdateDeadline::Continue(1))
    });
    store
}

/// What a guest said before it trapped, with a remedy where the standard library has none.
fn explained(said: String) -> String {
    if said.contains("not implemented on this platform") || said.contains("not supported on this platform") {
        return format!(
            "{said}: plugins have no clock, no threads and no I/O; take the time from the command or event \
             (`context.metadata().time_ms()`)"
        );
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_asks_for_the_clock_is_told_where_the_time_is() {
        let said = explained("time not implemented on this platform".to_owned());
        assert!(said.contains("plugins have no clock") && said.contains("metadata().time_ms()"), "{said}");
        assert_eq!(explained("told to panic".to_owned()), "told to panic");
    }
}
