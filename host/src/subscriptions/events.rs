//! The subscription of a subscriber to recorded events: its three threads as one part.

use super::callbacks::{CallbackLinks, CallbackOptions, Callbacks, Environment};
use super::division::{Settling, Successor};
use super::key_worker::KeyWorker;
use super::keys::{HeldKeys, KeyLinks, KeyRequest, KeysSummary};
use super::outbox::Outbox;
use super::pausing::Pausing;
use super::replay::{Again, ReplayError};
use super::resets::{Reset, Resets, reset};
use super::worker::SubscriptionWorker;
use super::{Options, Subscription, named};
use crate::aggregates::Aggregates;
use crate::bounds::Bounds;
use crate::follow::{FollowerProgress, Running, Stop};
use crate::manifest::Start;
use crate::model::{DeadLetterContent, Position, Segment};
use crate::plugin::Slot;
use crate::status::{State, SubscriptionStatus};
use crate::store::{self, EventStore};
use crate::supervise::{self, Held as _};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A running subscription of a subscriber.
pub(super) struct EventSubscription {
    slot: Arc<Slot>,
    bounds: Bounds,
    shared: SubscriptionLinks,
    running: Running,
    key_worker: supervise::Thread,
    callbacks: Callbacks,
}

/// The parts that a subscription and its worker share.
#[derive(Clone)]
pub(super) struct SubscriptionLinks {
    pub(super) store: Arc<dyn EventStore>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) progress: Arc<FollowerProgress>,
    pub(super) pausing: Arc<Pausing>,
    pub(super) keys: KeyLinks,
    pub(super) resets: Arc<Resets>,
    pub(super) settling: Arc<Settling>,
    /// Held while a dead letter is replayed, until its commands are sent.
    pub(super) replays: Arc<Mutex<()>>,
}

impl EventSubscription {
    /// Starts the subscription of a plugin that is a subscriber, or a segment of it.
    pub(super) fn start(
        slot: &Arc<Slot>,
        segment: Segment,
        options: Options,
        store: &Arc<dyn EventStore>,
        aggregates: &Arc<Aggregates>,
        environment: &Environment,
    ) -> Result<Self, store::Error> {
        let name = named(&slot.name, segment);
        let (stop, stopped) = Stop::new();
        let (keys, ends) = HeldKeys::new();
        let shared = SubscriptionLinks {
            store: store.clone(),
            outbox: Arc::new(Outbox::new(name.clone(), store.clone(), aggregates.clone(), environment.flows.clone())),
            progress: Arc::default(),
            pausing: Arc::new(Pausing::load(name.clone(), store.clone())?),
            keys: keys.links().clone(),
            resets: Arc::default(),
            settling: Arc::default(),
            replays: Arc::default(),
        };
        let bounds = options.bounds;
        let (key_slot, key_options) = (slot.clone(), options.clone());
        let callbacks =
            Callbacks::start(shared.callback_links(&name, slot), options.of_callbacks(), environment.clone())?;
        let runtime = environment.runtime.clone();
        let Environment { flows, .. } = environment;
        let successor = Successor::new(slot, segment, store, aggregates, flows, &shared.settling);
        let worker = SubscriptionWorker::new(slot.clone(), successor, options, shared.clone(), keys, stopped, runtime)?;
        let key_worker = KeyWorker::new(name.clone(), key_slot, key_options, shared.clone(), ends)?;
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
        Ok(Self { slot: slot.clone(), bounds, shared, running, key_worker, callbacks })
    }
}

impl Subscription for EventSubscription {
    fn status(&self) -> SubscriptionStatus {
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
            saga: None,
        }
    }

    fn reached(&self) -> watch::Receiver<Position> {
        self.running.reached()
    }

    fn is_busy(&self) -> bool {
        let SubscriptionLinks { store, outbox, keys, .. } = &self.shared;
        // A dead letter may be gone, and the key worker has not noticed it yet.
        let is_released = || {
            let held = store.reader().and_then(|mut reader| reader.held_keys(self.name()));
            held.is_ok_and(|held| held.iter().any(|held| held.behind.is_none()))
        };
        let moves = || keys.view.is_busy() || (keys.view.summary().waiting > 0 && is_released());
        // A command that is settled may leave an outcome, and an outcome may send a command.
        outbox.is_busy() || (!self.is_paused() && (self.callbacks.progress().is_busy || moves())) || outbox.is_busy()
    }

    fn name(&self) -> &Arc<str> {
        self.running.name()
    }

    fn is_paused(&self) -> bool {
        self.shared.pausing.is_paused()
    }

    fn set_paused(&self, paused: bool) -> Result<(), store::Error> {
        self.shared.pausing.set(paused)?;
        self.shared.keys.wake();
        Ok(())
    }

    fn reset(&self, to: Start) -> Result<Reset, store::Error> {
        reset(&self.shared.resets, to, || self.shared.keys.wake())
    }

    fn replay(&self, number: u64, content: &DeadLetterContent) -> Result<(), ReplayError> {
        let Self { slot, bounds, shared: SubscriptionLinks { store, outbox, keys, replays, .. }, .. } = self;
        if !outbox.has_caught_up() {
            let text = format!("subscription {} has not begun, and says why in its state: try again then", self.name());
            return Err(store::Error::NotYet(text).into());
        }
        let replay = replays.held();
        let replayed = Again { slot, bounds: *bounds, subscription: self.name(), consumer: &slot.name, store, outbox }
            .replay(number, content);
        drop(replay);
        // An error means that the key worker has ended, because the subscription stops.
        let _ = keys.requests.send(KeyRequest::Look);
        replayed
    }

    fn stop(&self) {
        self.shared.settling.stop();
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
    fn callback_links(&self, subscription: &Arc<str>, slot: &Arc<Slot>) -> CallbackLinks {
        let Self { store, outbox, pausing, .. } = self.clone();
        let (subscription, consumer, slot) = (subscription.clone(), slot.name.clone(), slot.clone());
        CallbackLinks { subscription, consumer, slot, store, outbox, pausing, records: None }
    }
}
