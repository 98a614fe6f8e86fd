//! What the steps under way do to callbacks that the store still has.

use crate::model::{CallbackContent, KeptCallback};
use crate::store::CallbackChange;
use crate::subscriptions::effects::Outgoing;
use std::collections::HashSet;
use std::sync::Arc;

/// What the steps under way do to callbacks that the store still has.
#[derive(Default)]
pub(super) struct UnderWay {
    /// The callbacks that are handled.
    pub(super) handled: HashSet<u64>,
    /// The timers that are set or cancelled, by their names in the store.
    timers: HashSet<Arc<str>>,
    /// The sagas that end, whose named timers are cancelled.
    ended: HashSet<Arc<str>>,
    /// The sagas that are held, whose events wait.
    pub(super) held: HashSet<Arc<str>>,
}

impl UnderWay {
    /// Whether a callback is not there any more, or not for certain, once the steps are durable.
    pub(super) fn concerns(&self, key: &str, kept: &KeptCallback) -> bool {
        let is_changed = |timer: &Arc<str>| self.timers.contains(timer) || self.ended.contains(key);
        let waits = matches!(kept.callback.content, CallbackContent::Event(_)) && self.held.contains(key);
        waits || self.handled.contains(&kept.number) || kept.timer.as_ref().is_some_and(is_changed)
    }

    pub(super) fn add(&mut self, outgoing: &Outgoing) {
        for change in &outgoing.callbacks {
            if let CallbackChange::Cancel(name) | CallbackChange::Set { name: Some(name), .. } = change {
                self.timers.insert(name.clone());
            }
        }
        let ended = outgoing.sagas.iter().filter(|saga| saga.ends);
        self.ended.extend(ended.map(|saga| saga.input.stream.aggregate_id.clone()));
    }

    pub(super) fn clear(&mut self) {
        self.handled.clear();
        self.timers.clear();
        self.ended.clear();
        self.held.clear();
    }
}
