//! How subscribers, sagas and projections read events of other aggregates that have changed since they were recorded, or that
//! did not exist when the reader was written.
//!
//! - An event of an **older schema version** is upcast before the reader sees it, if the reader lists its aggregate type in
//!   `READS`. It uses the steps that are compiled into it, so take them from the crate that the aggregate takes them from: a
//!   [`Contract`]. An event of a newer version than they lead to is malformed. Events of types that are not in `READS` arrive
//!   as they were recorded. A reader that can't share that crate has [`Shape::Newest`] instead: the host has the loaded code of the
//!   aggregate upcast each event before the reader gets it. A read model that is built again later may then see events in a newer
//!   shape than it did the first time.
//! - An **unknown event** is one for whose name the reader's enum has no variant. If only a wildcard of the subscriptions
//!   selects it (`account.*`), the event is skipped and counted, so that an aggregate can record new events beside readers that
//!   do not know them. If a subscription names it, it is malformed. A reader that must know every event says so with
//!   [`UnknownEvents::Refuse`].
//!
//! The host counts skipped events in the status of the plugin (`unknown_events`) and in
//! `wasmill_plugin_unknown_events_total`.

use crate::bindings::{log as wit, types};
use crate::contract::Contract;
use crate::failure::Failure;
use crate::upcast::{self, Upcasts};
use std::borrow::Cow;

/// The upcasts of the events of one aggregate type, for those who read them.
#[derive(Clone, Copy, Debug)]
pub struct Reads {
    aggregate_type: &'static str,
    upcasts: &'static [Upcasts],
}

impl Reads {
    /// Reads the events of a contract.
    pub const fn of<C: Contract>() -> Self {
        Self::with(C::TYPE, C::UPCASTS)
    }

    /// Reads the events of this aggregate type, for which there is no contract, with these upcasts.
    pub const fn with(aggregate_type: &'static str, upcasts: &'static [Upcasts]) -> Self {
        Self { aggregate_type, upcasts }
    }
}

/// The shape in which recorded events reach a reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// As they were recorded. The reader upcasts those of the types in its `READS`.
    #[default]
    Recorded,
    /// As the loaded code of their aggregate or saga upcasts them. There must be no `READS`: each event would be upcast twice.
    ///
    /// The reader follows each new version of that code at once. Both must agree on the shape, so the reader decodes the old shape
    /// and the new one before the aggregate changes, for example with serde's `alias` and `default`. What it can't decode fails as
    /// usual: a subscriber's or saga's event is dead-lettered, and a projection stops until the code of either has changed.
    ///
    /// An event that the code can't upcast is malformed. If the code traps or takes too long, the event is retried like one
    /// at which the reader itself does. An event of a type that no plugin of the host records arrives as it was recorded.
    Newest,
}

impl Shape {
    /// Fails the build if upcasts are listed although the host upcasts: each event would be upcast twice.
    #[doc(hidden)]
    pub const fn check(self, reads: &[Reads]) {
        assert!(
            matches!(self, Self::Recorded) || reads.is_empty(),
            "SHAPE = Shape::Newest leaves the upcasts to the host: remove READS, or remove SHAPE"
        );
    }
}

/// What becomes of an event that only a wildcard selects, and for whose name the reader has no variant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownEvents {
    /// It is skipped and counted.
    #[default]
    Skip,
    /// It is malformed.
    Refuse,
}

/// How one reader reads.
pub(crate) struct Reading {
    pub(crate) reads: &'static [Reads],
    pub(crate) subscriptions: [&'static [&'static str]; 2],
    pub(crate) unknown: UnknownEvents,
}

impl Reading {
    /// Migrates the payload of an event to the version that the reader knows.
    pub(crate) fn migrate(&self, aggregate_type: &str, name: &str, payload: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(reads) = self.reads.iter().find(|reads| reads.aggregate_type == aggregate_type) else {
            return Ok(());
        };
        let length = payload.len();
        let migrated = match upcast::current(name, payload, reads.upcasts)? {
            Cow::Borrowed(content) if content.len() == length => return Ok(()),
            content => content.into_owned(),
        };
        *payload = migrated;
        Ok(())
    }

    /// Migrates a delivery if it is an event.
    pub(crate) fn migrate_delivery(&self, delivery: &mut types::Delivery) -> Result<(), Failure> {
        match (&delivery.origin, &mut delivery.payload) {
            (types::Origin::Event(event), Some(payload)) => {
                self.migrate(&event.aggregate_type, &delivery.name, payload)
            }
            _ => Ok(()),
        }
    }

    /// Returns whether an event was handled, or else skipped because the reader does not know it. `event` is its type and name,
    /// or `None` for a delivery that is no event.
    pub(crate) fn judge(
        &self,
        event: Option<(&str, &str)>,
        result: Result<(), Failure>,
        has_run_sql: bool,
    ) -> Result<bool, Failure> {
        let Err(Failure::UnknownEvent(reason)) = result else { return result.map(|()| true) };
        match event {
            Some((aggregate_type, name)) if self.may_skip(aggregate_type, name) => {}
            _ => return Err(Failure::Malformed(reason)),
        }
        if has_run_sql {
            return Err(Failure::Malformed(format!(
                "{reason}; it can't be skipped, because a statement has run before it was decoded: decode it first"
            )));
        }
        Ok(false)
    }

    /// Whether the event arrives only because of a wildcard, and the reader need not know all events.
    fn may_skip(&self, aggregate_type: &str, name: &str) -> bool {
        let has_wildcard = self.subscriptions.iter().copied().flatten().any(|pattern| pattern.contains('*'));
        self.unknown == UnknownEvents::Skip && has_wildcard && !self.names(aggregate_type, name)
    }

    /// Whether a subscription names the event, without a wildcard.
    fn names(&self, aggregate_type: &str, name: &str) -> bool {
        let is_it = |pattern: &&str| {
            let rest = pattern.strip_prefix(aggregate_type).and_then(|rest| rest.strip_prefix('.'));
            rest == Some(name)
        };
        self.subscriptions.iter().any(|subscriptions| subscriptions.iter().any(is_it))
    }
}

/// Tells the host that an event is skipped.
#[cold]
pub(crate) fn skipped(aggregate_type: &str, name: &str) {
    wit::unknown_event(&format!("{aggregate_type}.{name}"));
}

/// Tells the host that a delivery, which is an event, is skipped.
#[cold]
pub(crate) fn skipped_delivery(delivery: &types::Delivery) {
    named_event(delivery).into_iter().for_each(|(aggregate_type, name)| skipped(aggregate_type, name));
}

/// Returns the type and the name of a delivery that is an event.
pub(crate) fn named_event(delivery: &types::Delivery) -> Option<(&str, &str)> {
    match &delivery.origin {
        types::Origin::Event(event) => Some((&event.aggregate_type, &delivery.name)),
        types::Origin::Kafka(_) | types::Origin::Outcome(_) | types::Origin::Timer | types::Origin::Response(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Reads, Shape};

    const READS: &[Reads] = &[Reads::with("account", &[])];

    #[test]
    fn a_reader_upcasts_or_leaves_it_to_the_host() {
        Shape::Recorded.check(READS);
        Shape::Recorded.check(&[]);
        Shape::Newest.check(&[]);
    }

    #[test]
    #[should_panic(expected = "SHAPE = Shape::Newest leaves the upcasts to the host: remove READS")]
    fn a_reader_that_would_upcast_twice_does_not_compile() {
        Shape::Newest.check(READS);
    }
}
