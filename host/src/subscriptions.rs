//! Subscriptions: a subscriber turns recorded events, or records of Kafka sources, into commands, messages and timers.
//!
//! Each subscription has a thread with a guest of its own. It reads from its checkpoint. What the subscriber asks for
//! goes into the outbox in one transaction with the next checkpoint. Only then are the commands sent, each under a
//! number of the subscription's ledger, so a command that is sent twice after a crash takes effect once.
//!
//! If an event fails, its key is held, and all other keys go on. A second thread, the key worker, retries the event and
//! handles the later events of its key. A third one handles the outcomes of commands and the timers.

mod callbacks;
mod effects;
mod handler;
mod key_worker;
mod keys;
mod outbox;
mod pausing;
mod records;
mod replay;
mod resets;
mod steps;
mod transform;
mod worker;

pub use callbacks::CallbackEnvironment;
pub use records::{RecordInbox, RecordOptions, RecordRun, RecordSubscription};
pub use replay::ReplayError;
pub use resets::Reset;
pub use transform::{Transformer, Transforming, Untransformed};

use crate::aggregates::Aggregates;
use crate::backoff::{BACKOFF_MAX, Backoff};
use crate::bounds::Bounds;
use crate::follow::{FollowerProgress, Running, Stop};
use crate::manifest::{OnFailure, Start};
use crate::model::{DeadLetter, DeadLetterContent, Position, RecordedEvent};
use crate::plugin::{Role, Slot};
use crate::status::{State, SubscriptionStatus};
use crate::store::{self, EventStore};
use crate::supervise::{self, Held as _};
use callbacks::{CallbackLinks, CallbackOptions, Callbacks};
use effects::Outgoing;
use key_worker::KeyWorker;
use keys::{HeldKeys, KeyLinks, KeyRequest, KeysSummary};
use outbox::Outbox;
use pausing::Pausing;
use replay::Again;
use resets::Resets;
use std::sync::{Arc, Mutex};
use std::time::Duration;
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
    /// The pauses between the tries.
    pub backoff: Backoff,
    /// What happens to later events after one was dead-lettered.
    pub on_failure: OnFailure,
    /// The most keys that are held at the same time.
    pub held_keys_max: usize,
    /// Bounds of its pauses and of its chains of causes.
    pub bounds: Bounds,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            start: Start::Beginning,
            batch_max: 256,
            attempts_max: 5,
            backoff: Backoff { first: Duration::from_millis(100), max: BACKOFF_MAX },
            on_failure: OnFailure::HoldKey,
            held_keys_max: 10_000,
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
    key_worker: supervise::Thread,
    callbacks: Callbacks,
}

/// The parts that a subscription and its worker share.
#[derive(Clone)]
struct SubscriptionLinks {
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    progress: Arc<FollowerProgress>,
    pausing: Arc<Pausing>,
    keys: KeyLinks,
    resets: Arc<Resets>,
    /// Held while a dead letter is replayed, until its commands are sent.
    replays: Arc<Mutex<()>>,
}

impl Subscription {
    /// Starts the subscription of a plugin, if it has the role.
    pub fn start(
        slot: &Arc<Slot>,
        options: Options,
        store: &Arc<dyn EventStore>,
        aggregates: &Arc<Aggregates>,
        environment: &CallbackEnvironment,
    ) -> Result<Option<Self>, store::Error> {
        if !slot.current().description.roles.iter().any(|role| matches!(role, Role::Subscriber { .. })) {
            return Ok(None);
        }
        let name = slot.name.clone();
        let (stop, stopped) = Stop::new();
        let (keys, ends) = HeldKeys::new();
        let shared = SubscriptionLinks {
            store: store.clone(),
            outbox: Arc::new(Outbox::new(name.clone(), store.clone(), aggregates.clone())),
            progress: Arc::default(),
            pausing: Arc::new(Pausing::load(name.clone(), store.clone())?),
            keys: keys.links().clone(),
            resets: Arc::default(),
            replays: Arc::default(),
        };
        let bounds = options.bounds;
        let (key_slot, key_options) = (slot.clone(), options.clone());
        let callbacks = Callbacks::start(shared.callback_links(slot), options.of_callbacks(), environment.clone())?;
        let runtime = environment.runtime.clone();
        let worker = SubscriptionWorker::new(slot.clone(), options, shared.clone(), keys, stopped, runtime)?;
        let key_worker = KeyWorker::new(key_slot, key_options, shared.clone(), ends)?;
        let key_worker =
            supervise::restarting(format!("keys-{name}"), || Ok(key_worker), KeyWorker::begin_again, KeyWorker::run)
                .map_err(|error| store::Error::Failed(format!("can't start the key worker of {name}: {error}")))?;
        let progress = shared.progress.clone();
        let requests = shared.keys.requests.clone();
        let running = Running::start(
            name,
            &**store,
            progress,
            stop,
            worker,
            SubscriptionWorker::begin_again,
            SubscriptionWorker::run,
        )
        .inspect_err(|_| drop(requests.send(KeyRequest::Stop)))?;
        Ok(Some(Self { slot: slot.clone(), bounds, shared, running, key_worker, callbacks }))
    }

    /// Returns its status.
    pub fn status(&self) -> SubscriptionStatus {
        let KeysSummary { retried, waiting, reason } = self.shared.keys.view.summary();
        let (mut state, mut error) = self.running.condition();
        if retried > 0 && matches!(state, State::CatchingUp | State::Following) {
            state = if reason.is_some() { State::Retrying } else { State::CatchingUp };
            error = reason;
        }
        if let Some(trouble) = self.callbacks.trouble()
            && matches!(state, State::CatchingUp | State::Following)
        {
            (state, error) = (State::Retrying, Some(trouble));
        }
        (state, error) = self.key_worker.monitor().state((state, error));
        (state, error) = self.callbacks.monitor().state((state, error));
        let (checkpoint, behind) = self.running.place();
        let callbacks = self.callbacks.progress();
        SubscriptionStatus {
            name: self.running.name().to_string(),
            plugin: self.slot.name.to_string(),
            state,
            error,
            checkpoint,
            behind,
            retried_keys: retried,
            waiting_keys: waiting,
            due_callbacks: callbacks.is_busy,
            handled_callbacks: callbacks.handled,
            next_timer_ms: callbacks.next_timer_ms,
        }
    }

    /// Returns a watch on the position that it has reached.
    pub fn reached(&self) -> watch::Receiver<Position> {
        self.running.reached()
    }

    /// Returns whether commands to the aggregates are in flight, or events of a held key move without any input.
    pub fn is_busy(&self) -> bool {
        let SubscriptionLinks { store, outbox, keys, .. } = &self.shared;
        // A dead letter may be gone, and the key worker has not noticed it yet.
        let is_released = || {
            let held = store.reader().and_then(|mut reader| reader.held_keys(&self.slot.name));
            held.is_ok_and(|held| held.iter().any(|held| held.behind.is_none()))
        };
        let moves = || keys.view.is_busy() || (keys.view.summary().waiting > 0 && is_released());
        // A command that is settled may leave an outcome, and an outcome may send a command.
        outbox.is_busy() || (!self.is_paused() && (self.callbacks.progress().is_busy || moves())) || outbox.is_busy()
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
        self.shared.pausing.set(paused)?;
        self.shared.keys.wake();
        Ok(())
    }

    /// Moves its checkpoint and frees all of its keys. Events after the new checkpoint are handled again, with all of their
    /// effects. It blocks.
    pub fn reset(&self, to: Start) -> Result<Reset, store::Error> {
        self.shared.resets.ask(to, || self.shared.keys.wake())
    }

    /// Retries a dead-lettered event. The dead letter is deleted in the transaction of its effects. It blocks.
    pub fn replay(&self, number: u64, content: &DeadLetterContent) -> Result<(), ReplayError> {
        let Self { slot, bounds, shared: SubscriptionLinks { store, outbox, keys, replays, .. }, .. } = self;
        let replay = replays.held();
        let replayed = Again { slot, bounds: *bounds, subscription: &slot.name, consumer: &slot.name, store, outbox }
            .replay(number, content);
        drop(replay);
        // An error means that the key worker has ended, because the subscription stops.
        let _ = keys.requests.send(KeyRequest::Look);
        replayed
    }

    /// Stops after the current step.
    pub fn stop(&self) {
        self.shared.outbox.stop();
        self.running.stop();
        let _ = self.shared.keys.requests.send(KeyRequest::Stop);
        self.key_worker.join();
        self.callbacks.stop();
    }
}

impl Options {
    fn of_callbacks(&self) -> CallbackOptions {
        let Self { batch_max, attempts_max, backoff, bounds, .. } = *self;
        CallbackOptions { batch_max, attempts_max, backoff, bounds }
    }
}

impl SubscriptionLinks {
    fn callback_links(&self, slot: &Arc<Slot>) -> CallbackLinks {
        let Self { store, outbox, pausing, .. } = self.clone();
        CallbackLinks { subscription: slot.name.clone(), slot: slot.clone(), store, outbox, pausing }
    }

    /// Returns the effects of dead-lettering an event, and the fact to keep if the subscription stops behind it.
    fn dead_letter(
        &self,
        on_failure: OnFailure,
        event: &RecordedEvent,
        reason: String,
    ) -> (Outgoing, Option<(String, String)>) {
        let letter = failed_event(self.pausing.subscription(), event, reason);
        let fact = (on_failure == OnFailure::Stop).then(|| self.pausing.stop_fact(event));
        (Outgoing { dead_letters: vec![letter], ..Outgoing::default() }, fact)
    }
}

/// Makes the dead letter of an event that a subscription can't handle.
fn failed_event(subscription: &str, event: &RecordedEvent, reason: String) -> DeadLetter {
    tracing::warn!("subscription {subscription}: event {} can't be handled: {reason}", event.position);
    DeadLetter {
        consumer: subscription.to_owned(),
        place: format!("event {} of {} version {} ({})", event.position, event.stream, event.version, event.name),
        key: Some(event.stream.aggregate_id.to_string()),
        reason,
        time_ms: Some(event.time_ms),
        content: DeadLetterContent::Event(event.position),
    }
}
