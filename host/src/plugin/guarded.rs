//! A wasm store that is called with deadlines. Its failures say who is at fault: the guest, an unknown item of a batch,
//! or the host.

use super::bindings::wasmill::plugin::types;
use super::clock::{Interrupted, ticks};
use super::guest_text;
use super::meter::GuestMeter;
use super::sandbox::{Refused, Sandbox};
use super::wasi::{HANDLES_MAX, RANDOM_BYTES_MAX};
use super::{Error, Plugin, RoleName, failure};
use crate::model::{Failure, RecordedEvent};
use std::str::Utf8Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::component::{Instance, ResourceTableError};
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// The handles of a wasm store in addition to those of its live aggregates.
const HANDLES_SPARE: usize = 100_000;

/// The text of wasmtime's error when a guest hands over more than it may. The types of this error and of the next ones are
/// private.
const HANDED_OVER_TOO_MUCH: &str = "fuel allocated for hostcalls has been exhausted";

/// The text of wasmtime's error when a guest has too many resources.
const TOO_MANY_RESOURCES: &str = "store handle limit exceeded";

/// The beginning of the text of wasmtime-wasi's error when a guest asks for too much randomness.
const TOO_MUCH_RANDOMNESS: &str = "requested len";

/// The text of wasmtime-wasi's error when a guest waits for nothing.
const EMPTY_POLL: &str = "empty poll list";

/// The text of wasmtime's error when a component has more instances, memories or tables than it may.
const TOO_MANY: &str = "resource limit exceeded";

/// The time of an item of a caller that is in a hurry. See [`Guarded::hurry`].
const SHORT: Duration = Duration::from_millis(100);

/// A wasm store of a plugin, called with deadlines.
pub(super) struct Guarded {
    pub(super) store: Store<Sandbox>,
    pub(super) label: Arc<str>,
    /// The function that is called, or was called last; `None` while the instance is created.
    function: Option<&'static str>,
    ticks: u64,
    /// The time of one item, which is shorter if the caller is in a hurry.
    item_ticks: u64,
    limit: Duration,
    output_bytes_max: usize,
    /// Whether each item is called alone, because the guest may ask WASI for its time or randomness.
    is_item_by_item: bool,
    meter: GuestMeter,
}

/// What a guest is called with, if it is of an item: its time, in milliseconds since 1970-01-01T00:00:00Z, and its id.
pub(super) trait Item {
    fn moment(&self) -> (u64, &str);
}

impl Item for types::RecordedEvent<'_> {
    fn moment(&self) -> (u64, &str) {
        (self.metadata.time, self.metadata.id)
    }
}

impl Item for types::Delivery<'_> {
    fn moment(&self) -> (u64, &str) {
        (self.metadata.time, self.metadata.id)
    }
}

impl Guarded {
    /// Creates a wasm store with an instance of the plugin, which has its settings and, if it is of a role that gets them, the
    /// secrets.
    pub(super) fn instantiate(plugin: &Plugin, gets_secrets: bool) -> Result<(Self, Instance), Error> {
        let mut guarded = Self {
            store: store(plugin),
            label: plugin.label.clone(),
            function: None,
            ticks: ticks(plugin.limits.event_time),
            item_ticks: ticks(plugin.limits.event_time),
            limit: plugin.limits.event_time,
            output_bytes_max: plugin.limits.output_bytes_max,
            is_item_by_item: plugin.wasi.of_item,
            meter: plugin.meter.guest(),
        };
        match guarded.run(None, 1, |store| plugin.pre.instantiate(store)) {
            Ok(instance) => {
                plugin.configuration.give(plugin, &mut guarded, &instance, gets_secrets)?;
                guarded.store.data_mut().usage.begin();
                Ok((guarded, instance))
            }
            Err(error) => Err(guarded.not_made(&error)),
        }
    }

    /// Decides whether the caller is in a hurry, because items of other keys wait for it. An item that takes longer than a
    /// short time is interrupted with [`Error::Slow`] then, and can be handled elsewhere in the time of its limit.
    pub(super) fn hurry(&mut self, is_hurried: bool) {
        self.item_ticks = if is_hurried { self.ticks.min(ticks(SHORT)) } else { self.ticks };
    }

    /// Calls a function of the guest with a batch of `items`. The time limit is that of one item. Few batches need more,
    /// and after an [`Error::Overrun`] their items are handled one by one. If the guest says which item it begins, each item
    /// has the limit, and no item begins after the limit of the batch.
    #[inline]
    pub(super) fn call<T>(
        &mut self,
        function: &'static str,
        items: usize,
        call: impl FnOnce(&mut Store<Sandbox>) -> wasmtime::Result<T>,
    ) -> Result<T, Error> {
        self.run(Some(function), items, call).map_err(|error| self.failed(items, &error))
    }

    /// Calls a function of the guest with an item.
    #[inline]
    pub(super) fn call_with<T>(
        &mut self,
        function: &'static str,
        item: (u64, &str),
        call: impl FnOnce(&mut Store<Sandbox>) -> wasmtime::Result<T>,
    ) -> Result<T, Error> {
        if self.is_item_by_item {
            self.store.data_mut().set_item(Some(item));
        }
        let called = self.call(function, 1, call);
        if self.is_item_by_item {
            self.store.data_mut().set_item(None);
        }
        called
    }

    /// Calls a function of the guest with a list of items: at once, or one by one if it may ask WASI for the time or
    /// randomness of each. Returns the results of the calls, or the first failure.
    pub(super) fn call_with_list<I: Item, T>(
        &mut self,
        function: &'static str,
        items: &[I],
        mut call: impl FnMut(&mut Store<Sandbox>, &[I]) -> wasmtime::Result<Result<T, types::Failure>>,
    ) -> Result<Result<Vec<T>, Failure>, Error> {
        if !self.is_item_by_item {
            let called = self.call(function, items.len(), |store| call(store, items))?;
            return Ok(called.map(|one| vec![one]).map_err(failure));
        }
        self.store.data_mut().begin_list();
        let begun = Instant::now();
        let mut results = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            // As for a guest that says which item it begins, and as for one that asks for too many effects in a call. A guest that
            // holds many handles is recreated before the next call.
            let sandbox = self.store.data();
            if index > 0 && (begun.elapsed() > self.limit || sandbox.is_full() || sandbox.has_many_handles()) {
                return Err(Error::Overrun { label: self.label.clone(), limit: self.limit });
            }
            let called = self.call_with(function, item.moment(), |store| call(store, std::slice::from_ref(item)));
            match called.map_err(|error| error.at(index as u32))? {
                Ok(result) => results.push(result),
                Err(of_one) => return Ok(Err(Failure { index, ..failure(of_one) })),
            }
        }
        Ok(Ok(results))
    }

    /// Whether each item is called alone.
    pub(super) fn is_item_by_item(&self) -> bool {
        self.is_item_by_item
    }

    /// Whether the guest should be recreated before the next call, because it has taken much of what it may have and gives
    /// nothing back.
    pub(super) fn is_worn(&self) -> bool {
        self.store.data().is_worn()
    }

    #[inline]
    fn run<T>(
        &mut self,
        function: Option<&'static str>,
        items: usize,
        call: impl FnOnce(&mut Store<Sandbox>) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        let ticks = if items == 1 { self.item_ticks } else { self.ticks };
        self.function = function;
        self.store.data_mut().begin_call(ticks, self.item_ticks);
        self.store.set_epoch_deadline(1);
        let timed = self.meter.begin();
        let called = call(&mut self.store);
        self.store.data_mut().end_call();
        if let Some(begun) = timed {
            self.meter.end(begun, self.store.data().usage.memory_bytes());
        }
        called
    }

    /// Makes the error of a plugin that is not loaded, for this reason.
    pub(super) fn refused(&self, cause: &str) -> Error {
        Error::Plugin(format!("plugin {}: {cause}", self.label))
    }

    /// Takes the description of a role, which the guest may refuse to give, and the check may refuse.
    pub(super) fn described<D, T>(
        &self,
        role: RoleName,
        described: Result<D, String>,
        check: impl FnOnce(D) -> Result<T, String>,
    ) -> Result<T, Error> {
        let described = described.map_err(|cause| match cause.trim() {
            "" => self.refused(&format!(
                "its `describe` of the role {role} fails without a reason: return one that says what to do"
            )),
            cause => self.refused(&guest_text::line(cause)),
        })?;
        check(described).map_err(|cause| self.refused(&format!("its description of the role {role}: {cause}")))
    }

    /// Checks that a guest returned a payload for each event that it was to migrate.
    pub(super) fn migrated(
        &self,
        events: &[&RecordedEvent],
        migrated: Vec<Result<Vec<u8>, String>>,
    ) -> Result<Vec<Result<Vec<u8>, String>>, Error> {
        if migrated.len() == events.len() {
            let of_event = |payload: Result<_, String>| payload.map_err(|cause| guest_text::reason_line(&cause));
            return Ok(migrated.into_iter().map(of_event).collect());
        }
        Err(self.broke_the_contract(format!("it returned {} payloads of {} events", migrated.len(), events.len())))
    }

    /// Returns the error for a guest that handed over something invalid.
    pub(super) fn broke_the_contract(&self, cause: String) -> Error {
        self.meter.failed();
        Error::Trap { label: self.label.clone(), cause, item: None }
    }

    /// Explains why the instance could not be created: the guest's own start function or its limits are at fault, or
    /// else the system.
    #[cold]
    fn not_made(&mut self, error: &wasmtime::Error) -> Error {
        let is_of_guest = error.is::<Trap>()
            || error.is::<Interrupted>()
            || error.is::<Refused>()
            || error.is::<I32Exit>()
            // It ran, and called what it may not call.
            || error.is::<WasmBacktrace>();
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
        let error = self.explained(items, error);
        if let Error::Trap { .. } = error {
            self.meter.failed();
        }
        error
    }

    fn explained(&mut self, items: usize, error: &wasmtime::Error) -> Error {
        let sandbox = self.store.data_mut();
        let (said, no_memory) = (sandbox.take_said(), sandbox.usage.refused_by_system.take());
        let item = sandbox.item();
        if let Some(cause) = no_memory {
            return Error::Host(format!("the system gives plugin {} no more memory: {cause}", self.label));
        }
        let (label, limit) = (self.label.clone(), self.limit);
        if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
            let said = said.map_or_else(String::new, |said| format!(": {said}"));
            let cause =
                format!("it called exit with status {status}{said}; return an error instead of ending the process");
            return Error::Trap { label, cause, item };
        }
        let cause = match (error.downcast_ref::<Interrupted>(), error.downcast_ref::<Trap>(), said) {
            (Some(Interrupted::Stopping), ..) => return Error::Stopping,
            (Some(Interrupted::Overrun), ..) if items > 1 && item.is_none() => return Error::Overrun { label, limit },
            (Some(Interrupted::Overrun), ..) if self.item_ticks < self.ticks => return Error::Slow { label, item },
            (Some(Interrupted::Overrun), ..) => {
                format!("it took longer than {limit:?}: make it faster or raise limits.event_time_ms")
            }
            (None, Some(Trap::UnreachableCodeReached), Some(said)) => explained(said),
            (None, Some(trap), _) => trap.to_string(),
            (None, None, _) => self.in_words(error),
        };
        Error::Trap { label, cause, item }
    }

    /// Says what the guest did wrong without a trap of its own, and what to do.
    fn in_words(&self, error: &wasmtime::Error) -> String {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return refused.to_string();
        }
        let bytes_max = self.output_bytes_max;
        let place = self.function.map_or("while it starts".to_owned(), |function| format!("in `{function}`"));
        if let Some(error) = error.downcast_ref::<Utf8Error>() {
            let at = error.valid_up_to();
            return format!(
                "it hands over a text that is not UTF-8, from its byte {at} on, {place}: write texts in UTF-8"
            );
        }
        if let Some(error) = error.downcast_ref::<ResourceTableError>() {
            let handles = "handles of WASI (streams, pollables and other resources)";
            return match error {
                ResourceTableError::Full => format!(
                    "it holds {HANDLES_MAX} {handles} and needs another one {place}: drop those that it no longer needs"
                ),
                error => format!(
                    "it misuses its {handles} {place} ({error}): use a handle only until it is dropped, and drop those that \
                     were made from it first"
                ),
            };
        }
        let cause = guest_text::of_library(error.root_cause());
        if cause.contains(HANDED_OVER_TOO_MUCH) {
            format!("it hands over more than {bytes_max} bytes in one call: hand over less or raise limits.output_mib")
        } else if cause.contains(TOO_MANY) {
            format!(
                "it has more memories, tables or core instances than a guest may have ({cause}): docs/limits.md has the \
                 numbers"
            )
        } else if cause.contains(TOO_MANY_RESOURCES) {
            format!("it has too many resources {place}: drop those that it no longer needs")
        } else if cause.starts_with(TOO_MUCH_RANDOMNESS) {
            format!(
                "it asks WASI for more than {RANDOM_BYTES_MAX} bytes of randomness at once {place}: ask for fewer, or \
                 several times"
            )
        } else if cause == EMPTY_POLL {
            format!("it waits for an empty list of pollables of WASI {place}, which never ends: name one to wait for")
        } else {
            format!(
                "it breaks a rule of the component model or of WASI {place} ({cause}): build it again with current tools of \
                 its language, and report it to their authors if that does not help"
            )
        }
    }
}

fn store(plugin: &Plugin) -> Store<Sandbox> {
    let sandbox = Sandbox::new(plugin);
    let mut store = Store::new(plugin.pre.component().engine(), sandbox);
    store.limiter(|sandbox| &mut sandbox.usage);
    // A live aggregate has a handle on each side, and some are lent to calls. Their number is bounded by the live
    // aggregates; this limit only has to be higher.
    store.set_max_component_handles(plugin.limits.instances_max.saturating_mul(4).saturating_add(HANDLES_SPARE));
    // A list in the guest may refer to the same bytes many times, so the limit is on its size in the host.
    store.set_hostcall_fuel(plugin.limits.output_bytes_max);
    // At each tick of the clock, a running guest asks whether it may go on.
    store.epoch_deadline_callback(|context| {
        context.data().may_go_on()?;
        Ok(UpdateDeadline::Continue(1))
    });
    store
}

/// Returns what a guest logged before it trapped, with a remedy if the standard library's message has none.
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
