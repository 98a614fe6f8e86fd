//! Sagas: events, outcomes and timers become events of the saga's own stream and effects.
//!
//! A subscription of sagas has one thread with one guest, which holds the live sagas. Each of its steps has the events of
//! several inputs, their effects, and the progress past the inputs, in one transaction. An input is handled once: a saga is
//! rebuilt from the events of its own stream, and never from its inputs.
//!
//! If an input fails, the key of its saga is paused, and all other sagas go on. Events that come meanwhile are deferred: they
//! become callbacks, so the checkpoint passes them.

mod inputs;
mod keys;
mod live;
mod slow;
mod under_way;
mod worker;

use super::callbacks::Environment;
use super::division::{Settling, Successor};
use super::outbox::Outbox;
use super::pausing::Pausing;
use super::replay::ReplayError;
use super::requests::Requests;
use super::resets::{Reset, Resets, reset};
use super::{Options, Subscription, named};
use crate::aggregates::Aggregates;
use crate::clock::Clock;
use crate::follow::{FollowerProgress, Running, Stop};
use crate::manifest::Start;
use crate::model::{DeadLetterContent, Position, Segment};
use crate::plugin::{Role, SagaEnd, Slot};
use crate::status::{SagaStatus, State, SubscriptionStatus};
use crate::store::{self, EventStore, Reader};
use crate::supervise::{self, Held as _};
use crossbeam_channel::Sender;
use slow::{SlowLinks, SlowRequest, SlowWorker};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};
use worker::SagaWorker;

/// A running subscription of sagas.
pub(super) struct SagaSubscription {
    slot: Arc<Slot>,
    links: SagaLinks,
    reader: Mutex<Box<dyn Reader>>,
    clock: Clock,
    running: Running,
    slow: supervise::Thread,
    slow_requests: Sender<SlowRequest>,
}

/// The parts that the subscription and its thread share.
#[derive(Clone)]
struct SagaLinks {
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    progress: Arc<FollowerProgress>,
    pausing: Arc<Pausing>,
    resets: Arc<Resets>,
    settling: Arc<Settling>,
    replays: Arc<Requests<ReplayRequest, Result<(), ReplayError>>>,
    /// Wakes the thread for a request.
    asked: Arc<Notify>,
    view: Arc<SagaView>,
    saga_type: Arc<str>,
}

/// A dead letter to replay: its number and content.
type ReplayRequest = (u64, DeadLetterContent);

/// What others may know of the thread.
#[derive(Default)]
struct SagaView {
    /// Whether inputs are being handled, until their commands are sent.
    is_working: AtomicBool,
    /// Why inputs are retried.
    trouble: Mutex<Option<String>>,
    paused_keys: AtomicU64,
    held_keys: AtomicU64,
    live: AtomicU64,
    started: AtomicU64,
    completed: AtomicU64,
    compensated: AtomicU64,
    ignored: AtomicU64,
    handled_callbacks: AtomicU64,
}

impl SagaView {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn has_ended(&self, end: SagaEnd) {
        Self::count(match end {
            SagaEnd::Completed => &self.completed,
            SagaEnd::Compensated => &self.compensated,
        });
    }
}

impl SagaSubscription {
    /// Starts the subscription of a plugin that has the role of a saga, or a segment of it.
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
        let links = SagaLinks {
            store: store.clone(),
            outbox: Arc::new(Outbox::new(name.clone(), store.clone(), aggregates.clone(), environment.flows.clone())),
            progress: Arc::default(),
            pausing: Arc::new(Pausing::load(name.clone(), store.clone())?),
            resets: Arc::default(),
            settling: Arc::default(),
            replays: Arc::default(),
            asked: Arc::default(),
            view: Arc::default(),
            saga_type: saga_type(slot),
        };
        let (slow, ends) = SlowLinks::new();
        let slow_requests = slow.requests();
        let Environment { flows, .. } = environment;
        let successor = Successor::new(slot, segment, store, aggregates, flows, &links.settling);
        let worker = SagaWorker::new(slot.clone(), successor, options, links.clone(), slow, environment, stopped)?;
        let slow = SlowWorker::start(slot, links.saga_type.clone(), &**store, ends, links.asked.clone())?;
        let running = Running::start(
            name,
            &**store,
            links.progress.clone(),
            stop,
            worker,
            SagaWorker::begin_again,
            SagaWorker::run,
        )
        .inspect_err(|_| drop(slow_requests.send(SlowRequest::Stop)))?;
        let (slot, clock) = (slot.clone(), environment.clock.clone());
        Ok(Self { slot, links, reader: Mutex::new(store.reader()?), clock, running, slow, slow_requests })
    }
}

fn saga_type(slot: &Slot) -> Arc<str> {
    let plugin = slot.current();
    let of_saga = plugin.description.roles.iter().find_map(|role| match role {
        Role::Saga { aggregate_type, .. } => Some((**aggregate_type).into()),
        _ => None,
    });
    of_saga.expect("the plugin has the role of a saga")
}

impl Subscription for SagaSubscription {
    fn status(&self) -> SubscriptionStatus {
        let SagaLinks { view, saga_type, .. } = &self.links;
        let (mut state, mut error) = self.running.condition();
        if let Some(trouble) = view.trouble.held().clone()
            && matches!(state, State::CatchingUp | State::Following)
        {
            (state, error) = (State::Retrying, Some(trouble));
        }
        (state, error) = self.slow.monitor().state((state, error));
        let (checkpoint, behind) = self.running.place();
        let next = self.reader.held().next_callback(self.name(), self.clock.now_ms()).unwrap_or_default();
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SubscriptionStatus {
            name: self.running.name().to_string(),
            plugin: self.slot.name.to_string(),
            state,
            error,
            checkpoint,
            behind,
            retried_keys: number(&view.paused_keys),
            waiting_keys: number(&view.held_keys),
            due_callbacks: next.is_due,
            handled_callbacks: number(&view.handled_callbacks),
            next_timer_ms: next.timer_ms,
            saga: Some(SagaStatus {
                saga_type: saga_type.to_string(),
                live: number(&view.live),
                started: number(&view.started),
                completed: number(&view.completed),
                compensated: number(&view.compensated),
                ignored: number(&view.ignored),
            }),
        }
    }

    fn reached(&self) -> watch::Receiver<Position> {
        self.running.reached()
    }

    fn is_busy(&self) -> bool {
        let SagaLinks { outbox, view, .. } = &self.links;
        // The rows are read first: when they are gone, their commands may not be sent yet. A command that is settled may
        // leave an outcome, and an outcome may send a command.
        let moves = || {
            let next = self.reader.held().next_callback(self.name(), self.clock.now_ms());
            next.unwrap_or_default().is_due || view.is_working.load(Ordering::Acquire)
        };
        outbox.is_busy() || (!self.is_paused() && moves()) || outbox.is_busy()
    }

    fn name(&self) -> &Arc<str> {
        self.running.name()
    }

    fn is_paused(&self) -> bool {
        self.links.pausing.is_paused()
    }

    fn set_paused(&self, paused: bool) -> Result<(), store::Error> {
        self.links.pausing.set(paused)?;
        self.links.asked.notify_one();
        Ok(())
    }

    fn reset(&self, to: Start) -> Result<Reset, store::Error> {
        reset(&self.links.resets, to, || self.links.asked.notify_one())
    }

    fn replay(&self, number: u64, content: &DeadLetterContent) -> Result<(), ReplayError> {
        let request = (number, content.clone());
        let answer = self.links.replays.ask(request, "replay", || self.links.asked.notify_one());
        answer.unwrap_or_else(|unanswered| Err(store::Error::Failed(unanswered).into()))
    }

    fn stop(&self) {
        self.links.settling.stop();
        self.links.outbox.stop();
        self.running.stop();
        let _ = self.slow_requests.send(SlowRequest::Stop);
        self.slow.join();
    }
}
