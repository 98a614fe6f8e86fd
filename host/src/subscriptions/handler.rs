//! A subscriber's guest as its threads use it: made when it is needed, thrown away after a trap, renewed when there is
//! new code.

use crate::filter::Filter;
use crate::model::{Record, RecordedEvent};
use crate::plugin::{self, Effects, Failure, Plugin, Refusal, Slot, SubscriberGuest};
use std::sync::Arc;
use std::time::Duration;

/// See the module.
pub(super) struct Handler {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    guest: Option<SubscriberGuest>,
}

/// Why a list has no effects.
#[derive(Debug)]
pub(super) enum Unhandled {
    /// The item at this index was refused.
    Refused(Failure),
    /// The wasm store is lost; it is not known at which item.
    Trap(String),
}

/// What to do with an item that failed by itself.
pub(super) enum Verdict {
    /// Put it aside.
    Park(String),
    /// Try it again, after at least so long.
    Again(String, Duration),
}

impl Handler {
    pub(super) fn new(slot: Arc<Slot>) -> Self {
        Self { plugin: slot.current(), slot, guest: None }
    }

    /// Takes new code, if there is any. Between two calls only.
    pub(super) fn renew(&mut self) -> bool {
        let is_new = !self.slot.is_current(&self.plugin);
        if is_new {
            self.plugin = self.slot.current();
            self.guest = None;
        }
        is_new
    }

    /// Which events the code wants.
    pub(super) fn filter(&self) -> Filter {
        self.plugin.subscriber_filter()
    }

    /// All effects of these events, or none.
    pub(super) fn events(&mut self, events: &[RecordedEvent]) -> Result<Effects, Unhandled> {
        self.call(|guest| guest.handle(events))
    }

    /// All effects of these records of a source, or none.
    pub(super) fn records(&mut self, source: &str, records: &[&Record]) -> Result<Effects, Unhandled> {
        self.call(|guest| guest.handle_records(source, records))
    }

    fn call(
        &mut self,
        call: impl FnOnce(&mut SubscriberGuest) -> Result<Result<Effects, Failure>, plugin::Error>,
    ) -> Result<Effects, Unhandled> {
        let handled = match &mut self.guest {
            Some(guest) => call(guest),
            None => SubscriberGuest::new(&self.plugin).and_then(|guest| call(self.guest.insert(guest))),
        };
        match handled {
            Ok(Ok(effects)) => Ok(effects),
            Ok(Err(failure)) => Err(Unhandled::Refused(failure)),
            Err(error) => {
                self.guest = None;
                Err(Unhandled::Trap(error.to_string()))
            }
        }
    }
}

impl Unhandled {
    /// Of a list of one.
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::Refused(Failure { refusal: Refusal::Retry { after, reason }, .. }) => Verdict::Again(reason, after),
            Self::Trap(reason) => Verdict::Again(reason, Duration::ZERO),
            Self::Refused(Failure { refusal, .. }) => Verdict::Park(refusal.to_string()),
        }
    }

    /// How many items of a list to try next: those before the one that failed, or half where that is not known.
    pub(super) fn fewer(&self, count: usize) -> usize {
        match self {
            Self::Refused(failure) => failure.index.clamp(1, count - 1),
            Self::Trap(_) => count / 2,
        }
    }
}

impl std::fmt::Display for Unhandled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(failure) => failure.refusal.fmt(f),
            Self::Trap(reason) => f.write_str(reason),
        }
    }
}
