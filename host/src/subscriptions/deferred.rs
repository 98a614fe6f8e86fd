//! The keys of a subscription for which events or records are deferred.
//!
//! What a subscription can't handle now is deferred: it becomes a callback, and so does everything later of its key until none
//! of it is left. So a key keeps its order, and the checkpoint or the ledger passes what waits.

use crate::model::{CallbackKey, StreamId};
use crate::store::HeldKey;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The most events or records of one subscription that are deferred at the same time.
pub(super) const DEFERRED_MAX: u64 = 1_000_000;

/// The keys for which something is deferred.
#[derive(Default)]
pub(super) struct DeferredKeys {
    /// The number of events or records of each key that are deferred.
    deferred: HashMap<Arc<str>, u64>,
    /// The number of all that are deferred.
    total: u64,
    /// The keys that are held behind a dead letter, or were until it was removed.
    held: HashSet<Arc<str>>,
}

impl DeferredKeys {
    /// Takes over what the store has.
    pub(super) fn restart(&mut self, deferred: Vec<(CallbackKey, u64)>, held: Vec<HeldKey>) {
        let text = |key: CallbackKey| String::from_utf8_lossy(&key.unwrap_or_default()).into();
        self.deferred = deferred.into_iter().map(|(key, count)| (text(key), count)).collect();
        self.total = self.deferred.values().sum();
        self.held = held.into_iter().map(|held| held.stream.aggregate_id).collect();
    }

    /// Whether nothing is deferred, and no key is held.
    pub(super) fn is_empty(&self) -> bool {
        self.deferred.is_empty() && self.held.is_empty()
    }

    /// Whether what comes of a key must be deferred, because something before it waits.
    pub(super) fn waits(&self, key: &str) -> bool {
        !self.is_empty() && (self.deferred.contains_key(key) || self.held.contains(key))
    }

    /// Whether no more can be deferred.
    pub(super) fn is_full(&self) -> bool {
        self.total >= DEFERRED_MAX
    }

    /// Notes that something of a key is deferred.
    pub(super) fn add(&mut self, key: &Arc<str>) {
        *self.deferred.entry(key.clone()).or_default() += 1;
        self.total += 1;
    }

    /// Whether a key that was held becomes free with the next one of it that is handled.
    pub(super) fn is_last(&self, key: &str) -> bool {
        self.held.contains(key) && self.deferred.get(key).is_none_or(|left| *left <= 1)
    }

    /// Notes that something of a key that was deferred is handled or dead-lettered.
    pub(super) fn taken(&mut self, key: &str) {
        let Some(left) = self.deferred.get_mut(key) else { return };
        *left -= 1;
        self.total -= 1;
        if *left == 0 {
            self.deferred.remove(key);
        }
    }

    /// Whether a key is held behind a dead letter, or was until it was removed.
    pub(super) fn is_held(&self, key: &str) -> bool {
        self.held.contains(key)
    }

    /// Returns the keys of these that wait behind no dead letter any more and have nothing deferred: they can be freed.
    pub(super) fn released(&self, held: Vec<HeldKey>) -> Vec<StreamId> {
        let is_released =
            |held: &HeldKey| held.behind.is_none() && !self.deferred.contains_key(&held.stream.aggregate_id);
        held.into_iter().filter(is_released).map(|held| held.stream).collect()
    }

    /// Returns the number of held keys.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Holds a key behind a dead letter.
    pub(super) fn hold(&mut self, key: &Arc<str>) {
        self.held.insert(key.clone());
    }

    /// Frees a held key.
    pub(super) fn free(&mut self, key: &str) {
        self.held.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_a_key_waits_until_nothing_is_deferred() {
        let mut keys = DeferredKeys::default();
        let key: Arc<str> = "a".into();
        assert!(keys.is_empty() && !keys.waits("a"));
        keys.add(&key);
        keys.add(&key);
        keys.taken("a");
        assert!(keys.waits("a") && !keys.waits("b") && !keys.is_last("a"));
        keys.taken("a");
        assert!(!keys.waits("a") && keys.is_empty());
    }

    #[test]
    fn a_held_key_becomes_free_with_its_last_one() {
        let mut keys = DeferredKeys::default();
        let held = HeldKey { stream: StreamId::new("saga", "a"), next: HeldKey::NO_VERSION, behind: None };
        keys.restart(vec![(Some(b"a".to_vec()), 2)], vec![held]);
        assert!(!keys.is_last("a"));
        keys.taken("a");
        assert!(keys.is_last("a"));
        keys.taken("a");
        assert!(keys.waits("a"), "it is held still");
        let held = |behind| HeldKey { stream: StreamId::new("saga", "a"), next: HeldKey::NO_VERSION, behind };
        assert_eq!((keys.released(vec![held(Some(1))]).len(), keys.released(vec![held(None)]).len()), (0, 1));
        keys.free("a");
        assert!(!keys.waits("a"));
    }
}
