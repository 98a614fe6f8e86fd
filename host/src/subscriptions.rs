//! Subscriptions: events out of the store, through a subscriber, into commands and messages.
//!
//! Each subscriber has a thread with a wasm store of its own. It reads from its checkpoint, and what the subscriber
//! asked for becomes durable in one transaction with the next checkpoint (the outbox). Only then are the commands
//! sent, each under a number of the subscription's ledger: sent twice after a crash, they count once.

mod outbox;
mod worker;

use crate::aggregates::Aggregates;
use crate::follow::{Progress, Stop};
use crate::manifest::Start;
use crate::plugin::{Role, Slot};
use crate::status::SubscriptionStatus;
use crate::store::{self, EventStore};
use outbox::Outbox;
use std::sync::{Arc, Mutex};
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
    name: Arc<str>,
    slot: Arc<Slot>,
    progress: Arc<Progress>,
    outbox: Arc<Outbox>,
    head: watch::Receiver<crate::model::Position>,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
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
        let plugin = slot.current();
        if !plugin.description.roles.iter().any(|role| matches!(role, Role::Subscriber { .. })) {
            return Ok(None);
        }
        let (stop, stopped) = Stop::new();
        let progress = Arc::new(Progress::default());
        let outbox = Arc::new(Outbox::new(slot.name.clone(), store.clone(), aggregates.clone()));
        let worker = Worker::new(
            slot.clone(),
            options,
            store.clone(),
            outbox.clone(),
            progress.clone(),
            stopped,
            runtime.clone(),
        )?;
        let thread = std::thread::Builder::new()
            .name(slot.name.to_string())
            .spawn(move || worker.run())
            .map_err(|error| store::Error::Failed(format!("can't start a subscription's thread: {error}")))?;
        let thread = Mutex::new(Some(thread));
        Ok(Some(Self {
            name: slot.name.clone(),
            slot: slot.clone(),
            progress,
            outbox,
            head: store.head(),
            stop,
            thread,
        }))
    }

    /// How it is doing.
    pub fn status(&self) -> SubscriptionStatus {
        let (state, error) = self.progress.condition();
        let checkpoint = self.progress.reached().borrow().0;
        SubscriptionStatus {
            name: self.name.to_string(),
            plugin: self.slot.name.to_string(),
            state,
            error,
            checkpoint,
            behind: self.head.borrow().0.saturating_sub(checkpoint),
        }
    }

    /// How far it is.
    pub fn reached(&self) -> watch::Receiver<crate::model::Position> {
        self.progress.reached()
    }

    /// Whether commands are on their way to the aggregates.
    pub fn has_commands(&self) -> bool {
        self.outbox.is_busy()
    }

    /// Ends after the step it is at.
    pub fn stop(&self) {
        // Nobody left to tell is as good.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.lock().expect("no holder panics").take()
            && thread.join().is_err()
        {
            tracing::error!("subscription {} panicked", self.name);
        }
    }
}
