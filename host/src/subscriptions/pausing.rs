//! Whether a person has paused a subscription. This is durable, so that a restart does not resume it.
//!
//! It is the fact `subscription/NAME/paused` of the store, with the time of the pause. The fact is absent while the
//! subscription runs.

use crate::ack;
use crate::clock::Clock;
use crate::model::{FactName, SubscriptionName};
use crate::store::{self, EventStore};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Returns the name of the fact that a subscription is paused.
fn fact(subscription: &str) -> String {
    FactName::Paused(SubscriptionName::parse(subscription)).to_string()
}

/// Whether a subscription is paused, shared by its thread and the API.
pub(super) struct Pausing {
    subscription: Arc<str>,
    store: Arc<dyn EventStore>,
    is_paused: AtomicBool,
}

impl Pausing {
    /// Loads the state from the store.
    pub(super) fn load(subscription: Arc<str>, store: Arc<dyn EventStore>) -> Result<Self, store::Error> {
        let is_paused = store.reader()?.fact(&fact(&subscription))?.is_some();
        Ok(Self { subscription, store, is_paused: is_paused.into() })
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// Returns how to resume it.
    pub(super) fn remedy(&self) -> String {
        format!("paused by a person; `wasmill subscriptions resume {}` resumes it", self.subscription)
    }

    /// Pauses or resumes the subscription: first durably, then for its thread. This blocks.
    pub(super) fn set(&self, paused: bool) -> Result<(), store::Error> {
        let value = paused.then(|| Clock::system().now_ms().to_string());
        ack::wait(|ack| self.store.set_fact(&fact(&self.subscription), value, ack))?;
        self.is_paused.store(paused, Ordering::Release);
        let now = if paused { "paused" } else { "resumed" };
        tracing::info!("subscription {} is {now}", self.subscription);
        Ok(())
    }
}
