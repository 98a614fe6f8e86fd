//! Whether a person has paused a subscription. This is durable, so that a restart does not resume it.
//!
//! It is the fact `subscription/NAME/paused` of the store, with the time of the pause, and the event or record behind
//! which the host paused it, if no person did. The fact is absent while the subscription runs.

use crate::ack;
use crate::clock::Clock;
use crate::model::{FactName, RecordedEvent, SubscriptionName};
use crate::store::{self, EventStore};
use crate::supervise::Held as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Returns the name of the fact that a subscription is paused.
pub fn fact(subscription: &str) -> String {
    FactName::Paused(SubscriptionName::parse(subscription)).to_string()
}

/// Whether a subscription is paused, shared by its thread and the API.
pub(super) struct Pausing {
    subscription: Arc<str>,
    store: Arc<dyn EventStore>,
    is_paused: AtomicBool,
    /// The event or record behind which the host paused it, as text.
    behind: Mutex<Option<String>>,
}

impl Pausing {
    /// Loads the state from the store.
    pub(super) fn load(subscription: Arc<str>, store: Arc<dyn EventStore>) -> Result<Self, store::Error> {
        let pausing = Self { subscription, store, is_paused: false.into(), behind: Mutex::default() };
        pausing.reload()?;
        Ok(pausing)
    }

    /// Loads the state again, which may come from segments before.
    pub(super) fn reload(&self) -> Result<(), store::Error> {
        let mut behind = self.behind.held();
        let paused = self.store.reader()?.fact(&fact(&self.subscription))?;
        *behind = paused.as_ref().and_then(|value| value.split_once(' ')).map(|(_, event)| event.to_owned());
        self.is_paused.store(paused.is_some(), Ordering::Release);
        Ok(())
    }

    /// Returns the name of the subscription.
    pub(super) fn subscription(&self) -> &str {
        &self.subscription
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// Returns why it is paused, and how to resume it.
    pub(super) fn remedy(&self) -> String {
        let who = match &*self.behind.held() {
            None => "paused by a person".to_owned(),
            Some(event) => format!(
                "stopped because {event} was dead-lettered and `on_failure` is \"stop\": replay or discard its dead letter"
            ),
        };
        format!("{who}; `wasmill subscriptions resume {}` resumes it", self.subscription)
    }

    /// Pauses or resumes the subscription for a person: first durably, then for its threads. This blocks.
    pub(super) fn set(&self, paused: bool) -> Result<(), store::Error> {
        let mut behind = self.behind.held();
        let value = paused.then(|| Clock::system().now_ms().to_string());
        ack::wait(|ack| self.store.set_fact(&fact(&self.subscription), value, ack))?;
        *behind = None;
        self.is_paused.store(paused, Ordering::Release);
        let now = if paused { "paused" } else { "resumed" };
        tracing::info!("subscription {} is {now}", self.subscription);
        Ok(())
    }

    /// Returns the fact that the subscription is stopped behind an event or a record. The step that dead-letters it keeps
    /// the fact.
    pub(super) fn stop_fact(&self, place: &str) -> (String, String) {
        (fact(&self.subscription), format!("{} {place}", Clock::system().now_ms()))
    }

    /// Stops the subscription's threads, after the step that dead-letters the event or record.
    pub(super) fn has_stopped_behind(&self, place: &str) {
        let mut behind = self.behind.held();
        *behind = Some(place.to_owned());
        self.is_paused.store(true, Ordering::Release);
        tracing::warn!("subscription {} is stopped behind {place}, as the manifest says", self.subscription);
    }
}

/// Returns the place of an event, as it is shown.
pub(super) fn event_place(event: &RecordedEvent) -> String {
    format!("event {}", event.position)
}
