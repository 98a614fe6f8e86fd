//! Sending the commands of a subscription once they are durable.

use crate::aggregates::{Aggregates, Unaccepted};
use crate::model::{Command, DeadLetter, Outcome, Parked};
use crate::store::EventStore;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The commands of one subscription on their way to the aggregates.
pub(super) struct Outbox {
    subscription: Arc<str>,
    store: Arc<dyn EventStore>,
    aggregates: Arc<Aggregates>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    in_flight: AtomicUsize,
    /// A command came back unsettled: the store has it still.
    unsettled: AtomicBool,
}

impl Outbox {
    pub(super) fn new(subscription: Arc<str>, store: Arc<dyn EventStore>, aggregates: Arc<Aggregates>) -> Self {
        Self { subscription, store, aggregates, state: Arc::default() }
    }

    /// Sends commands in order. Waits while a shard's queue is full.
    pub(super) fn send(&self, commands: Vec<Command>) {
        for command in commands {
            self.state.in_flight.fetch_add(1, Ordering::Relaxed);
            let state = self.state.clone();
            let subscription = self.subscription.clone();
            let (id, name, stream) = (command.id.clone(), command.name.clone(), command.stream.clone());
            let reply = Box::new(move |outcome| {
                if let Outcome::Failed { reason } = outcome {
                    tracing::warn!(
                        "subscription {subscription}: command {id} ({name} to {stream}) is sent again later: {reason}"
                    );
                    state.unsettled.store(true, Ordering::Release);
                }
                state.in_flight.fetch_sub(1, Ordering::Release);
            });
            match self.aggregates.send(command.into(), reply) {
                Ok(()) => {}
                Err(Unaccepted::Full(..)) => unreachable!("send waits while a queue is full"),
                Err(Unaccepted::NoSuchAggregate { known, command, .. }) => self.put_aside(&command, &known),
            }
        }
    }

    /// Whether commands are sent and not settled, or wait to be sent again.
    pub(super) fn is_busy(&self) -> bool {
        self.state.in_flight.load(Ordering::Acquire) > 0 || self.state.unsettled.load(Ordering::Acquire)
    }

    /// Whether commands came back unsettled and all others are settled, so that they can be sent again in order.
    /// Asking resets it.
    pub(super) fn must_resend(&self) -> bool {
        self.state.in_flight.load(Ordering::Acquire) == 0 && self.state.unsettled.swap(false, Ordering::AcqRel)
    }

    /// What the store has could not be read: it is asked for again.
    pub(super) fn resend_later(&self) {
        self.state.unsettled.store(true, Ordering::Release);
    }

    /// No plugin serves it: it would wait for ever.
    fn put_aside(&self, command: &Command, known: &[String]) {
        let reason = format!(
            "no plugin serves aggregate type {}; served are: {}",
            command.stream.aggregate_type,
            known.join(", ")
        );
        tracing::warn!("subscription {}: command {} put aside: {reason}", self.subscription, command.id);
        let letter = DeadLetter {
            consumer: self.subscription.to_string(),
            place: format!("command {}", command.id),
            key: Some(command.stream.aggregate_id.to_string()),
            reason,
            time_ms: crate::model::now_ms(),
            content: Parked::Command((*command).clone()),
        };
        let state = self.state.clone();
        self.store.park(
            letter,
            command.origin.clone(),
            Box::new(move |parked| {
                if parked.is_err() {
                    state.unsettled.store(true, Ordering::Release);
                }
                state.in_flight.fetch_sub(1, Ordering::Release);
            }),
        );
    }
}
