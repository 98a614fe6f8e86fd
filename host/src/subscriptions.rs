//! Subscriptions: events out of the store, through a subscriber, into commands and messages.
//!
//! Each subscriber has a thread with a wasm store of its own. It reads from its checkpoint, and what the subscriber
//! asked for becomes durable in one transaction with the next checkpoint (the outbox). Only then are the commands
//! sent, each under a number of the subscription's ledger: sent twice after a crash, they count once.

mod outbox;
mod worker;

use crate::aggregates::Aggregates;
use crate::follow::{Progress, Running, Stop};
use crate::manifest::Start;
use crate::model::Position;
use crate::plugin::{Role, Slot};
use crate::status::SubscriptionStatus;
use crate::store::{self, EventStore};
use outbox::Outbox;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use worker::Worker;

/// Settings of a subscription, from the manifest.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it begins when it has no checkpoint.
    pub start: Start,
    /// Events in one call at most.
    pub batch_max: usize,
    /// Times an event is tried before it is put aside.
    pub attempts_max: u32,
    /// The pause before the second try; it doubles with each.
    pub backoff: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { start: Start::Beginning, batch_max: 256, attempts_max: 5, backoff: Duration::from_millis(100) }
    }
}

/// A running subscription.
pub struct Subscription {
    slot: Arc<Slot>,
    outbox: Arc<Outbox>,
    running: Running,
}

impl Subscription {
    /// Starts the subscription of a plugin, if it has the role.
    pub fn start(
        slot: &Arc<Slot>,
        options: Options,
        store: &Arc<dyn EventStore>,
        aggregates: &Arc<Aggregates>,
        runtime: &Handle,
    ) -> Result<Option<Self>, store::Error> {
        if !slot.current().description.roles.iter().any(|role| matches!(role, Role::Subscriber { .. })) {
            return Ok(None);
        }
        let name = slot.name.clone();
        let (stop, stopped) = Stop::new();
        let progress = Arc::new(Progress::default());
        let outbox = Arc::new(Outbox::new(name.clone(), store.clone(), aggregates.clone()));
        let worker = Worker::new(
            slot.clone(),
            options,
            store.clone(),
            outbox.clone(),
            progress.clone(),
            stopped,
            runtime.clone(),
        )?;
        let running = Running::start(name, &**store, progress, stop, move || worker.run())?;
        Ok(Some(Self { slot: slot.clone(), outbox, running }))
    }

    /// How it is doing.
    pub fn status(&self) -> SubscriptionStatus {
        let (state, error) = self.running.condition();
        let (checkpoint, behind) = self.running.place();
        let name = self.running.name().to_string();
        SubscriptionStatus { name, plugin: self.slot.name.to_string(), state, error, checkpoint, behind }
    }

    /// How far it is.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.running.reached()
    }

    /// Whether commands are on their way to the aggregates.
    pub fn has_commands(&self) -> bool {
        self.outbox.is_busy()
    }

    /// Ends after the step it is at.
    pub fn stop(&self) {
        self.running.stop();
    }
}
