//! A subscriber's guest as a thread uses it: created when it is needed, dropped after a trap, and recreated when there
//! is new code.

use crate::filter::Filter;
use crate::model::{Failing, Failure, KeptCallback, Record, RecordedEvent, Refusal};
use crate::plugin::{self, Effects, Pace, Plugin, Slot, SubscriberGuest, Watch};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A subscriber's guest, and the size of its batches.
pub(super) struct Handler {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    pace: Pace,
    guest: Option<SubscriberGuest>,
    /// A guest of the code before, while new code is watched.
    guest_before: Option<SubscriberGuest>,
    is_hurried: bool,
}

/// Why a batch has no effects.
#[derive(Debug)]
pub(super) enum Unhandled {
    /// The item at this index was refused.
    Refused(Failure),
    /// The wasm store is lost. The item at this index is at fault, if it is known.
    Trap(String, Option<usize>),
    /// The batch took longer than one item may. It is not known which item is at fault, if any is.
    Overrun(String),
    /// It took longer than a thread with other keys waits for it. The item at this index is slow, if it is known.
    Slow(String, Option<usize>),
    /// The item at this index failed with new code, and the code before does not fail at it in this way. It is held until the
    /// code changes or is not watched any more.
    Held(String, usize),
    /// The host could not call the subscriber. The items can be retried.
    Host(String),
}

/// What to do with an item that failed by itself.
pub(super) enum RetryDecision {
    /// It is dead-lettered.
    DeadLetter(String),
    /// It is retried after at least this time.
    Again(String, Duration),
    /// It is retried later, and the attempt does not count, because the host is at fault.
    Later(String),
}

/// The code that handles records, as the delivering thread uses it.
pub(super) trait TakesRecords {
    /// Switches to new code, if there is any, and returns whether there was. This may only be called between two calls.
    fn renew(&mut self) -> bool;

    /// Drops its guest after a panic, because the guest may be in the middle of a call.
    fn replace(&mut self);

    /// Decides whether a record that takes long is interrupted, because records of other keys wait. Code that has no other
    /// place to handle it does not interrupt it.
    fn hurry(&mut self, _is_hurried: bool) {}

    /// Returns how many of the next items to put into a batch.
    fn list(&self, items: usize) -> usize;

    /// Returns all effects of these records of a source, or none.
    fn records(&mut self, source: &str, records: &[&Record]) -> Result<Effects, Unhandled>;
}

impl TakesRecords for Handler {
    fn renew(&mut self) -> bool {
        Self::renew(self)
    }

    fn replace(&mut self) {
        Self::replace(self);
    }

    fn hurry(&mut self, is_hurried: bool) {
        Self::hurry(self, is_hurried);
    }

    fn list(&self, items: usize) -> usize {
        Self::list(self, items)
    }

    fn records(&mut self, source: &str, records: &[&Record]) -> Result<Effects, Unhandled> {
        Self::records(self, source, records)
    }
}

impl Handler {
    pub(super) fn new(slot: Arc<Slot>) -> Self {
        let plugin = slot.current();
        Self {
            pace: Pace::new(plugin.limits.event_time),
            plugin,
            slot,
            guest: None,
            guest_before: None,
            is_hurried: false,
        }
    }

    /// Switches to new code, if there is any, and returns whether there was. This may only be called between two calls.
    pub(super) fn renew(&mut self) -> bool {
        let is_new = self.is_outdated();
        if is_new {
            self.plugin = self.slot.current();
            self.pace = Pace::new(self.plugin.limits.event_time);
            (self.guest, self.guest_before) = (None, None);
        }
        is_new
    }

    /// Decides whether an event that takes long is interrupted, because events of other keys wait.
    pub(super) fn hurry(&mut self, is_hurried: bool) {
        self.is_hurried = is_hurried;
    }

    /// Drops the guest, so that the next call gets a new one. After a panic the old one may be in the middle of a call.
    pub(super) fn replace(&mut self) {
        (self.guest, self.guest_before) = (None, None);
    }

    /// Whether there is new code.
    pub(super) fn is_outdated(&self) -> bool {
        !self.slot.is_current(&self.plugin)
    }

    /// Returns the filter of the events that the code wants.
    pub(super) fn filter(&self) -> Filter {
        self.plugin.subscriber_filter()
    }

    /// Returns how many of the next items to put into a batch.
    pub(super) fn list(&self, items: usize) -> usize {
        self.pace.list(items)
    }

    /// Returns all effects of these events, or none.
    pub(super) fn events(&mut self, events: &[RecordedEvent]) -> Result<Effects, Unhandled> {
        self.call(events.len(), |guest, range| guest.handle(&events[range]))
    }

    /// Returns all effects of these records of a source, or none.
    pub(super) fn records(&mut self, source: &str, records: &[&Record]) -> Result<Effects, Unhandled> {
        self.call(records.len(), |guest, range| guest.handle_records(source, &records[range]))
    }

    /// Returns all effects of these outcomes and timers, or none.
    pub(super) fn callbacks(&mut self, callbacks: &[KeptCallback]) -> Result<Effects, Unhandled> {
        self.call(callbacks.len(), |guest, range| guest.handle_callbacks(&callbacks[range]))
    }

    fn call(
        &mut self,
        items: usize,
        call: impl Fn(&mut SubscriberGuest, Range<usize>) -> Result<Result<Effects, Failure>, plugin::Error>,
    ) -> Result<Effects, Unhandled> {
        let handled = self.call_current(items, &call);
        let Some(watch) = self.slot.watch_of(&self.plugin) else {
            self.guest_before = None;
            return handled;
        };
        watch.handled(items);
        match handled {
            Err(unhandled) => Err(self.unless_before(unhandled, items, &watch, &call)),
            handled => handled,
        }
    }

    /// Counts the failure of an item against code that is watched, unless the code before fails at the item in the same way.
    fn unless_before(
        &mut self,
        unhandled: Unhandled,
        items: usize,
        watch: &Watch,
        call: impl Fn(&mut SubscriberGuest, Range<usize>) -> Result<Result<Effects, Failure>, plugin::Error>,
    ) -> Unhandled {
        let (Some(how), Some(index)) = (unhandled.failing(), unhandled.index_within(items)) else { return unhandled };
        let guest = self.guest_before.take().filter(|guest| !guest.is_worn());
        let Ok(mut guest) = guest.map_or_else(|| SubscriberGuest::new(watch.old()), Ok) else { return unhandled };
        let before = call(&mut guest, index..index + 1);
        self.guest_before = before.is_ok().then_some(guest);
        let before = match before {
            Ok(Ok(_)) => None,
            Ok(Err(failure)) => Unhandled::Refused(failure).failing(),
            Err(error) => Unhandled::from(&error).failing(),
        };
        if before == Some(how) {
            return unhandled;
        }
        let reason = unhandled.to_string();
        watch.failed(&reason);
        Unhandled::Held(reason, index)
    }

    fn call_current(
        &mut self,
        items: usize,
        call: impl Fn(&mut SubscriberGuest, Range<usize>) -> Result<Result<Effects, Failure>, plugin::Error>,
    ) -> Result<Effects, Unhandled> {
        let began = Instant::now();
        let is_hurried = self.is_hurried;
        let call = |guest: &mut SubscriberGuest| {
            guest.hurry(is_hurried);
            call(guest, 0..items)
        };
        self.guest = self.guest.take().filter(|guest| !guest.is_worn());
        let handled = match &mut self.guest {
            Some(guest) => call(guest),
            None => SubscriberGuest::new(&self.plugin).and_then(|guest| call(self.guest.insert(guest))),
        };
        match &handled {
            Err(plugin::Error::Overrun { .. }) => self.pace.overran(items),
            // The time is that of the item at fault, and says nothing about the others.
            Err(plugin::Error::Trap { item: Some(_), .. } | plugin::Error::Slow { .. }) => {}
            _ => self.pace.took(items, began),
        }
        handled.map_err(|error| self.lost(&error))?.map_err(Unhandled::Refused)
    }

    fn lost(&mut self, error: &plugin::Error) -> Unhandled {
        self.guest = None;
        Unhandled::from(error)
    }
}

impl From<&plugin::Error> for Unhandled {
    fn from(error: &plugin::Error) -> Self {
        let reason = error.to_string();
        match error {
            plugin::Error::Host(_) | plugin::Error::Stopping => Self::Host(reason),
            plugin::Error::Overrun { .. } => Self::Overrun(reason),
            plugin::Error::Slow { item, .. } => Self::Slow(reason, item.map(|item| item as usize)),
            plugin::Error::Trap { item, .. } => Self::Trap(reason, item.map(|item| item as usize)),
            plugin::Error::Plugin(_) => Self::Trap(reason, None),
        }
    }
}

impl Unhandled {
    /// Returns the decision about a batch that held a single item.
    pub(super) fn decision(self) -> RetryDecision {
        match self {
            Self::Refused(Failure { refusal: Refusal::Retry { after, reason }, .. }) => {
                RetryDecision::Again(reason, after)
            }
            Self::Trap(reason, _) | Self::Overrun(reason) => RetryDecision::Again(reason, Duration::ZERO),
            Self::Host(reason) | Self::Slow(reason, _) | Self::Held(reason, _) => RetryDecision::Later(reason),
            Self::Refused(Failure { refusal, .. }) => RetryDecision::DeadLetter(refusal.to_string()),
        }
    }

    /// Returns how the code fails, if the code is at fault.
    pub(super) fn failing(&self) -> Option<Failing> {
        match self {
            Self::Refused(Failure { refusal: Refusal::Malformed(_), .. }) => Some(Failing::Malformed),
            Self::Trap(..) | Self::Overrun(_) => Some(Failing::Trap),
            Self::Refused(_) | Self::Slow(..) | Self::Held(..) | Self::Host(_) => None,
        }
    }

    /// Returns the index of the item at fault in a batch of `count`, if it is known. A guest may name an item that it did not
    /// get, which says nothing.
    pub(super) fn index_within(&self, count: usize) -> Option<usize> {
        if count == 1 { Some(0) } else { self.index().filter(|index| *index < count) }
    }

    /// Returns the index that names the item at fault, if there is one.
    pub(super) fn index(&self) -> Option<usize> {
        match self {
            Self::Refused(failure) => Some(failure.index),
            Self::Trap(_, index) | Self::Slow(_, index) => *index,
            Self::Held(_, index) => Some(*index),
            Self::Overrun(_) | Self::Host(_) => None,
        }
    }

    /// Returns how many items of a batch to try next: those before the one that failed, or half of them if it is not
    /// known. The result is one if an item may never end.
    pub(super) fn fewer(&self, count: usize) -> usize {
        match self {
            Self::Refused(Failure { index, .. })
            | Self::Trap(_, Some(index))
            | Self::Slow(_, Some(index))
            | Self::Held(_, index) => (*index).clamp(1, count - 1),
            Self::Trap(_, None) | Self::Slow(_, None) => count / 2,
            Self::Overrun(_) => 1,
            Self::Host(_) => count,
        }
    }
}

impl std::fmt::Display for Unhandled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(failure) => failure.refusal.fmt(f),
            Self::Trap(reason, _)
            | Self::Slow(reason, _)
            | Self::Held(reason, _)
            | Self::Overrun(reason)
            | Self::Host(reason) => f.write_str(reason),
        }
    }
}
