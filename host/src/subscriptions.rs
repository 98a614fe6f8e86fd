//! Subscriptions: a subscriber turns recorded events, or records of Kafka sources, into commands, messages and timers.
//!
//! Each subscription has a thread with a guest of its own. It reads from its checkpoint. What the subscriber asks for
//! goes into the outbox in one transaction with the next checkpoint. Only then are the commands sent, each under a
//! number of the subscription's ledger, so a command that is sent twice after a crash takes effect once.
//!
//! If an event fails, its key is held, and all other keys go on. A second thread, the key worker, retries the event and
//! handles the later events of its key. A third one handles the outcomes of commands and the timers.
//!
//! A subscription may be divided into segments ([`crate::model::Segment`]). Each of them is a subscription of its own, with its own name
//! in the store.
//!
//! A subscription of sagas (`sagas.rs`) has the same place in the store and the same outbox. It has one thread.

mod callbacks;
mod deferred;
mod division;
mod effects;
mod events;
mod handler;
mod key_worker;
mod keys;
mod outbox;
mod pausing;
mod records;
mod replay;
mod requests;
mod resets;
mod sagas;
mod steps;
mod transform;
mod worker;

pub use callbacks::Environment;
pub use pausing::fact as pausing_fact;
pub use records::{RecordInbox, RecordOptions, RecordRun, RecordSubscription};
pub use replay::ReplayError;
pub use resets::Reset;
pub use transform::{Transformer, Transforming, Untransformed};

use crate::aggregates::Aggregates;
use crate::backoff::{BACKOFF_MAX, Backoff};
use crate::bounds::Bounds;
use crate::manifest::{OnFailure, Start};
use crate::model::{DeadLetter, DeadLetterContent, IdRule, Position, RecordedEvent, Segment, SubscriptionName};
use crate::plugin::{Role, Slot};
use crate::status::SubscriptionStatus;
use crate::store::{self, EventStore};
use effects::Outgoing;
use events::EventSubscription;
use pausing::{Pausing, event_place};
use sagas::SagaSubscription;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Settings of a subscription, from the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The rule for the keys of sagas.
    pub ids: IdRule,
    /// The most bytes of an event of a saga.
    pub event_bytes_max: usize,
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
            ids: IdRule::default(),
            event_bytes_max: store::Options::default().event_bytes_max,
        }
    }
}

/// A running subscription to recorded events: of a subscriber, or of sagas.
pub trait Subscription: Send + Sync {
    /// Returns its status.
    fn status(&self) -> SubscriptionStatus;

    /// Returns a watch on the position that it has reached.
    fn reached(&self) -> watch::Receiver<Position>;

    /// Returns whether commands to the aggregates are in flight, or deliveries move without any input.
    fn is_busy(&self) -> bool;

    /// Returns the name of the subscription, or of the segment. A subscription that is not divided has the name of its plugin.
    fn name(&self) -> &Arc<str>;

    /// Returns whether a person has paused it.
    fn is_paused(&self) -> bool;

    /// Pauses or resumes it. The setting survives restarts. It blocks.
    fn set_paused(&self, paused: bool) -> Result<(), store::Error>;

    /// Moves its checkpoint and frees all of its keys. Events after the new checkpoint are handled again, with all of their
    /// effects. It is refused while a saga of the subscription has not ended. It blocks.
    fn reset(&self, to: Start) -> Result<Reset, store::Error>;

    /// Retries a dead letter. The dead letter is deleted in the transaction of its effects. It blocks.
    fn replay(&self, number: u64, content: &DeadLetterContent) -> Result<(), ReplayError>;

    /// Stops after the current step.
    fn stop(&self);
}

/// Starts the subscription of a plugin, or a segment of it, if the plugin is a subscriber or has sagas.
pub fn start(
    slot: &Arc<Slot>,
    segment: Segment,
    options: Options,
    store: &Arc<dyn EventStore>,
    aggregates: &Arc<Aggregates>,
    environment: &Environment,
) -> Result<Option<Arc<dyn Subscription>>, store::Error> {
    let plugin = slot.current();
    let has = |is_wanted: fn(&Role) -> bool| plugin.description.roles.iter().any(is_wanted);
    if has(|role| matches!(role, Role::Subscriber { .. })) {
        return Ok(Some(Arc::new(EventSubscription::start(slot, segment, options, store, aggregates, environment)?)));
    }
    if has(|role| matches!(role, Role::Saga { .. })) {
        return Ok(Some(Arc::new(SagaSubscription::start(slot, segment, options, store, aggregates, environment)?)));
    }
    Ok(None)
}

/// Returns the name in the store of the subscription of a plugin, or of a segment of it.
fn named(plugin: &str, segment: Segment) -> Arc<str> {
    SubscriptionName::Plugin(plugin, segment).to_string().into()
}

/// Returns the consumer of the dead letters of a subscription. It is the same for all segments.
fn consumer(subscription: &str) -> String {
    SubscriptionName::parse(subscription).whole().to_string()
}

/// Returns the effects of dead-lettering an event, and the fact to keep if the subscription stops behind it.
fn dead_lettered(
    pausing: &Pausing,
    on_failure: OnFailure,
    event: &RecordedEvent,
    reason: String,
) -> (Outgoing, Option<(String, String)>) {
    let letter = failed_event(pausing.subscription(), event, reason);
    let fact = (on_failure == OnFailure::Stop).then(|| pausing.stop_fact(&event_place(event)));
    (Outgoing { dead_letters: vec![letter], ..Outgoing::default() }, fact)
}

/// Makes the dead letter of an event that a subscription can't handle.
fn failed_event(subscription: &str, event: &RecordedEvent, reason: String) -> DeadLetter {
    tracing::warn!("subscription {subscription}: event {} can't be handled: {reason}", event.position);
    DeadLetter {
        consumer: consumer(subscription),
        place: format!("event {} of {} version {} ({})", event.position, event.stream, event.version, event.name),
        key: Some(event.stream.aggregate_id.to_string()),
        reason,
        time_ms: Some(event.time_ms),
        content: DeadLetterContent::Event(event.position),
    }
}
