//! A subscriber's guest as its threads use it: made when it is needed, thrown away after a trap, renewed when there is
//! new code.

use crate::filter::Filter;
use crate::model::{Record, RecordedEvent};
use crate::plugin::{self, Effects, Failure, Pace, Plugin, Refusal, Slot, SubscriberGuest};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A subscriber's guest, and how many items it gets at once.
pub(super) struct Handler {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    pace: Pace,
    guest: Option<SubscriberGuest>,
}

/// Why a list has no effects.
#[derive(Debug)]
pub(super) enum Unhandled {
    /// The item at this index was refused.
    Refused(Failure),
    /// The wasm store is lost; it is not known at which item.
    Trap(String),
    /// The list took longer than an item may; it is not known which item is at fault, if any is.
    Overrun(String),
    /// The host could not call the subscriber. The items are as good as before.
    Host(String),
}

/// What to do with an item that failed by itself.
pub(super) enum RetryDecision {
    /// Dead-letter it.
    DeadLetter(String),
    /// Try it again, after at least so long.
    Again(String, Duration),
    /// Try it again later, and do not count it: the host is in trouble, not the item.
    Later(String),
}

/// The code that records are delivered to, as the thread that delivers them sees it.
pub(super) trait TakesRecords {
    /// Takes new code, if there is any. Between two calls only.
    fn renew(&mut self) -> bool;

    /// Gives up its guest, which may be in the middle of a call, after a panic.
    fn replace(&mut self);

    /// How many of the next items to handle at once.
    fn list(&self, items: usize) -> usize;

    /// All effects of these records of a source, or none.
    fn records(&mut self, source: &str, records: &[&Record]) -> Result<Effects, Unhandled>;
}

impl TakesRecords for Handler {
    fn renew(&mut self) -> bool {
        Self::renew(self)
    }

    fn replace(&mut self) {
        Self::replace(self);
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
        Self { pace: Pace::new(plugin.limits.event_time), plugin, slot, guest: None }
    }

    /// Takes new code, if there is any. Between two calls only.
    pub(super) fn renew(&mut self) -> bool {
        let is_new = self.is_outdated();
        if is_new {
            self.plugin = self.slot.current();
            self.pace = Pace::new(self.plugin.limits.event_time);
            self.guest = None;
        }
        is_new
    }

    /// The guest may be in the middle of a call, after a panic: the next call has a new one.
    pub(super) fn replace(&mut self) {
        self.guest = None;
    }

    /// Whether there is new code to take.
    pub(super) fn is_outdated(&self) -> bool {
        !self.slot.is_current(&self.plugin)
    }

    /// Which events the code wants.
    pub(super) fn filter(&self) -> Filter {
        self.plugin.subscriber_filter()
    }

    /// How many of the next items to handle at once.
    pub(super) fn list(&self, items: usize) -> usize {
        self.pace.list(items)
    }

    /// All effects of these events, or none.
    pub(super) fn events(&mut self, events: &[RecordedEvent]) -> Result<Effects, Unhandled> {
        self.call(events.len(), |guest| guest.handle(events))
    }

    /// All effects of these records of a source, or none.
    pub(super) fn records(&mut self, source: &str, records: &[&Record]) -> Result<Effects, Unhandled> {
        self.call(records.len(), |guest| guest.handle_records(source, records))
    }

    fn call(
        &mut self,
        items: usize,
        call: impl FnOnce(&mut SubscriberGuest) -> Result<Result<Effects, Failure>, plugin::Error>,
    ) -> Result<Effects, Unhandled> {
        let began = Instant::now();
        let handled = match &mut self.guest {
            Some(guest) => call(guest),
            None => SubscriberGuest::new(&self.plugin).and_then(|guest| call(self.guest.insert(guest))),
        };
        match &handled {
            Err(plugin::Error::Overrun { .. }) => self.pace.overran(items),
            _ => self.pace.took(items, began),
        }
        handled.map_err(|error| self.lost(&error))?.map_err(Unhandled::Refused)
    }

    fn lost(&mut self, error: &plugin::Error) -> Unhandled {
        self.guest = None;
        let reason = error.to_string();
        match error {
            plugin::Error::Host(_) | plugin::Error::Stopping => Unhandled::Host(reason),
            plugin::Error::Overrun { .. } => Unhandled::Overrun(reason),
            plugin::Error::Plugin(_) | plugin::Error::Trap { .. } => Unhandled::Trap(reason),
        }
    }
}

impl Unhandled {
    /// The verdict on a list of one item.
    pub(super) fn decision(self) -> RetryDecision {
        match self {
            Self::Refused(Failure { refusal: Refusal::Retry { after, reason }, .. }) => {
                RetryDecision::Again(reason, after)
            }
            Self::Trap(reason) | Self::Overrun(reason) => RetryDecision::Again(reason, Duration::ZERO),
            Self::Host(reason) => RetryDecision::Later(reason),
            Self::Refused(Failure { refusal, .. }) => RetryDecision::DeadLetter(refusal.to_string()),
        }
    }

    /// How many items of a list to try next: those before the one that failed, or half if that is not known. One, if one
    /// of them may never end.
    pub(super) fn fewer(&self, count: usize) -> usize {
        match self {
            Self::Refused(failure) => failure.index.clamp(1, count - 1),
            Self::Trap(_) => count / 2,
            Self::Overrun(_) => 1,
            Self::Host(_) => count,
        }
    }
}

impl std::fmt::Display for Unhandled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(failure) => failure.refusal.fmt(f),
            Self::Trap(reason) | Self::Overrun(reason) | Self::Host(reason) => f.write_str(reason),
        }
    }
}
