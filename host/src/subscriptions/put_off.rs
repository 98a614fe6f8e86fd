//! The keys of a subscription for which events or records are put off.
//!
//! What a subscription can't handle now is put off: it becomes a callback, and so does everything later of its key until none
//! of it is left. So a key keeps its order, and the checkpoint or the ledger passes what waits.

use crate::model::CallbackKey;
use crate::store::HeldKey;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The most events or records of one subscription that are put off at the same time.
pub(super) const PUT_OFF_MAX: u64 = 1_000_000;

/// The keys for which something is put off.
#[derive(Default)]
pub(super) struct PutOffKeys {
    /// The number of events or records of each key that are put off.
    put_off: HashMap<Arc<str>, u64>,
    /// The number of all that are put off.
    total: u64,
    /// The keys that are held behind a dead letter, or were until it was removed.
    held: HashSet<Arc<str>>,
}

impl PutOffKeys {
    /// Takes over what the store has.
    pub(super) fn restart(&mut self, put_off: Vec<(CallbackKey, u64)>, held: Vec<HeldKey>) {
        let text = |key: CallbackKey| String::from_utf8_lossy(&key.unwrap_or_default()).into();
        self.put_off = put_off.into_iter().map(|(key, count)| (text(key), count)).collect();
        self.total = self.put_off.values().sum();
        self.held = held.into_iter().map(|held| held.stream.aggregate_id).collect();
    }

    /// Whether nothing is put off, and no key is held.
    pub(super) fn is_empty(&self) -> bool {
        self.put_off.is_empty() && self.held.is_empty()
    }

    /// Whether what comes of a key must be put off, because something before it waits.
    pub(super) fn waits(&self, key: &str) -> bool {
        !self.is_empty() && (self.put_off.contains_key(key) || self.held.contains(key))
    }

    /// Whether no more can be put off.
    pub(super) fn is_full(&self) -> bool {
        self.total >= PUT_OFF_MAX
    }

    /// Notes that something of a key is put off.
    pub(super) fn add(&mut self, key: &Arc<str>) {
        *self.put_off.entry(key.clone()).or_default() += 1;
        self.total += 1;
    }

    /// Whether a key that was held becomes free with the next one of it that is handled.
    pub(super) fn is_last(&self, key: &str) -> bool {
        self.held.contains(key) && self.put_off.get(key).is_none_or(|left| *left <= 1)
    }

    /// Notes that something of a key that was put off is handled or dead-lettered.
    pub(super) fn taken(&mut self, key: &str) {
        let Some(left) = self.put_off.get_mut(key) else { return };
        *left -= 1;
        self.total -= 1;
        if *left == 0 {
            self.put_off.remove(key);
        }
    }

    /// Whether a key is held behind a dead letter, or was until it was removed.
    pub(super) fn is_held(&self, key: &str) -> bool {
        self.held.contains(key)
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
    use crate::model::StreamId;

    #[test]
    fn what_comes_of_a_key_waits_until_nothing_is_put_off() {
        let mut keys = PutOffKeys::default();
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
        let mut keys = PutOffKeys::default();
        let held = HeldKey { stream: StreamId::new("saga", "a"), next: HeldKey::NO_VERSION, behind: None };
        keys.restart(vec![(Some(b"a".to_vec()), 2)], vec![held]);
        assert!(!keys.is_last("a"));
        keys.taken("a");
        assert!(keys.is_last("a"));
        keys.taken("a");
        assert!(keys.waits("a"), "it is held still");
        keys.free("a");
        assert!(!keys.waits("a"));
    }
}
