//! Whether a person has paused a subscription: durable, so that a restart does not resume it.
//!
//! The fact `subscription/NAME/paused` of the store, with the time at which it was paused; there is none while it runs.

use crate::ack;
use crate::clock::Clock;
use crate::model::{FactName, SubscriptionName};
use crate::store::{self, EventStore};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The name of the fact that a subscription is paused.
fn fact(subscription: &str) -> String {
    FactName::Paused(SubscriptionName::parse(subscription)).to_string()
}

/// Whether a subscription is paused, for the thread that does its work and for those who ask.
pub(super) struct Pausing {
    subscription: Arc<str>,
    store: Arc<dyn EventStore>,
    is_paused: AtomicBool,
}

impl Pausing {
    /// As the store has it.
    pub(super) fn load(subscription: Arc<str>, store: Arc<dyn EventStore>) -> Result<Self, store::Error> {
        let is_paused = store.reader()?.fact(&fact(&subscription))?.is_some();
        Ok(Self { subscription, store, is_paused: is_paused.into() })
    }

    pub(super) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Acquire)
    }

    /// How it is resumed, in words.
    pub(super) fn remedy(&self) -> String {
        format!("paused by a person; `wasmill subscriptions resume {}` resumes it", self.subscription)
    }

    /// Pauses or resumes it: durably, then for its thread. Blocks.
    pub(super) fn set(&self, paused: bool) -> Result<(), store::Error> {
        let value = paused.then(|| Clock::system().now_ms().to_string());
        ack::wait(|ack| self.store.set_fact(&fact(&self.subscription), value, ack))?;
        self.is_paused.store(paused, Ordering::Release);
        let now = if paused { "paused" } else { "resumed" };
        tracing::info!("subscription {} is {now}", self.subscription);
        Ok(())
    }
}
