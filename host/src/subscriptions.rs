//! Subscriptions: events out of the store and records of Kafka sources, through a subscriber, into commands and messages.
//!
//! Each subscriber has a thread with a wasm store of its own. It reads from its checkpoint, and what the subscriber
//! asked for becomes durable in one transaction with the next checkpoint (the outbox). Only then are the commands
//! sent, each under a number of the subscription's ledger: sent twice after a crash, they count once.

mod effects;
mod handler;
mod outbox;
mod pausing;
mod records;
mod replay;
mod steps;
mod transform;
mod worker;

pub use records::{RecordInbox, RecordOptions, RecordRun, RecordSubscription};
pub use replay::ReplayError;
pub use transform::{Transformer, Transforming, Untransformed};

use crate::aggregates::Aggregates;
use crate::bounds::Bounds;
use crate::follow::{Progress, Running, Stop};
use crate::manifest::Start;
use crate::model::{DeadLetterContent, Position};
use crate::plugin::{Role, Slot};
use crate::status::SubscriptionStatus;
use crate::store::{self, EventStore};
use outbox::Outbox;
use pausing::Pausing;
use replay::Again;
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
    /// Times an event is tried before it is dead-lettered.
    pub attempts_max: u32,
    /// The pause before the second try; it doubles with each.
    pub backoff: Duration,
    /// What bounds its pauses and its chains of causes.
    pub bounds: Bounds,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            start: Start::Beginning,
            batch_max: 256,
            attempts_max: 5,
            backoff: Duration::from_millis(100),
            bounds: Bounds::default(),
        }
    }
}

/// A running subscription.
pub struct Subscription {
    slot: Arc<Slot>,
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    bounds: Bounds,
    pausing: Arc<Pausing>,
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
        let pausing = Arc::new(Pausing::load(name.clone(), store.clone())?);
        let bounds = options.bounds;
        let worker = Worker::new(
            slot.clone(),
            options,
            store.clone(),
            outbox.clone(),
            progress.clone(),
            pausing.clone(),
            stopped,
            runtime.clone(),
        )?;
        let running = Running::start(name, &**store, progress, stop, worker, Worker::begin_again, Worker::run)?;
        Ok(Some(Self { slot: slot.clone(), store: store.clone(), outbox, bounds, pausing, running }))
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

    /// Its name: that of its plugin.
    pub fn name(&self) -> &Arc<str> {
        self.running.name()
    }

    /// Whether a person has paused it.
    pub fn is_paused(&self) -> bool {
        self.pausing.is_paused()
    }

    /// Pauses or resumes it, also over restarts. Blocks.
    pub fn set_paused(&self, paused: bool) -> Result<(), store::Error> {
        self.pausing.set(paused)
    }

    /// Tries an event again that was dead-lettered; with its effects the dead letter goes. Blocks.
    pub fn replay(&self, number: u64, content: &DeadLetterContent) -> Result<(), ReplayError> {
        let Self { slot, store, outbox, bounds, .. } = self;
        Again { slot, bounds: *bounds, subscription: &slot.name, consumer: &slot.name, store, outbox }
            .replay(number, content)
    }

    /// Ends after the step it is at.
    pub fn stop(&self) {
        self.outbox.stop();
        self.running.stop();
    }
}
