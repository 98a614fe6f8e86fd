//! Subscriptions: a subscriber turns recorded events, or records of Kafka sources, into commands and messages.
//!
//! Each subscription has a thread with a guest of its own. It reads from its checkpoint. What the subscriber asks for
//! goes into the outbox in one transaction with the next checkpoint. Only then are the commands sent, each under a
//! number of the subscription's ledger, so a command that is sent twice after a crash takes effect once.

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
use crate::follow::{FollowerProgress, Running, Stop};
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
use worker::SubscriptionWorker;

/// Settings of a subscription, from the manifest.
#[derive(Clone, Debug)]
pub struct Options {
    /// Start of a subscription without a checkpoint.
    pub start: Start,
    /// Largest number of events in one call.
    pub batch_max: usize,
    /// Number of tries before an event is dead-lettered.
    pub attempts_max: u32,
    /// The pause before the second try. It doubles with each further one.
    pub backoff: Duration,
    /// Bounds of its pauses and of its chains of causes.
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
    bounds: Bounds,
    shared: SubscriptionLinks,
    running: Running,
}

/// The parts that a subscription and its worker share.
#[derive(Clone)]
struct SubscriptionLinks {
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    progress: Arc<FollowerProgress>,
    pausing: Arc<Pausing>,
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
        let shared = SubscriptionLinks {
            store: store.clone(),
            outbox: Arc::new(Outbox::new(name.clone(), store.clone(), aggregates.clone())),
            progress: Arc::default(),
            pausing: Arc::new(Pausing::load(name.clone(), store.clone())?),
        };
        let bounds = options.bounds;
        let worker = SubscriptionWorker::new(slot.clone(), options, shared.clone(), stopped, runtime.clone())?;
        let progress = shared.progress.clone();
        let running = Running::start(
            name,
            &**store,
            progress,
            stop,
            worker,
            SubscriptionWorker::begin_again,
            SubscriptionWorker::run,
        )?;
        Ok(Some(Self { slot: slot.clone(), bounds, shared, running }))
    }

    /// Returns its status.
    pub fn status(&self) -> SubscriptionStatus {
        let (state, error) = self.running.condition();
        let (checkpoint, behind) = self.running.place();
        let name = self.running.name().to_string();
        SubscriptionStatus { name, plugin: self.slot.name.to_string(), state, error, checkpoint, behind }
    }

    /// Returns a watch on the position that it has reached.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.running.reached()
    }

    /// Returns whether commands to the aggregates are in flight.
    pub fn has_commands(&self) -> bool {
        self.shared.outbox.is_busy()
    }

    /// Returns the name of the subscription. It has the name of its plugin.
    pub fn name(&self) -> &Arc<str> {
        self.running.name()
    }

    /// Returns whether a person has paused it.
    pub fn is_paused(&self) -> bool {
        self.shared.pausing.is_paused()
    }

    /// Pauses or resumes it. The setting survives restarts. It blocks.
    pub fn set_paused(&self, paused: bool) -> Result<(), store::Error> {
        self.shared.pausing.set(paused)
    }

    /// Retries a dead-lettered event. The dead letter is deleted in the transaction of its effects. It blocks.
    pub fn replay(&self, number: u64, content: &DeadLetterContent) -> Result<(), ReplayError> {
        let Self { slot, bounds, shared: SubscriptionLinks { store, outbox, .. }, .. } = self;
        Again { slot, bounds: *bounds, subscription: &slot.name, consumer: &slot.name, store, outbox }
            .replay(number, content)
    }

    /// Stops after the current step.
    pub fn stop(&self) {
        self.shared.outbox.stop();
        self.running.stop();
    }
}
