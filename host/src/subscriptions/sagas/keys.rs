//! The keys of sagas that take no input at the moment.
//!
//! An event that its saga can't take is put off: it becomes a callback, and so do all later events of that key until none of
//! them is left. So events of a key keep their order, and the checkpoint passes them.

use crate::model::CallbackKey;
use crate::store::HeldKey;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most events of one subscription that are put off at the same time.
pub(super) const PUT_OFF_MAX: u64 = 1_000_000;

/// The keys of sagas that take no input at the moment.
#[derive(Default)]
pub(super) struct SagaKeys {
    /// The number of events of each key that are put off.
    put_off: HashMap<Arc<str>, u64>,
    /// The number of all events that are put off.
    total: u64,
    /// The keys that are held behind a dead letter, or were until it was removed.
    held: HashSet<Arc<str>>,
    /// The keys of which an input failed.
    paused: HashMap<Arc<str>, PausedKey>,
}

/// A key of which an input failed.
struct PausedKey {
    /// The number of attempts that count.
    attempts: u32,
    until: Instant,
    reason: String,
}

impl SagaKeys {
    /// Takes over what the store has, and ends all pauses.
    pub(super) fn restart(&mut self, put_off: Vec<(CallbackKey, u64)>, held: Vec<HeldKey>) {
        let text = |key: CallbackKey| String::from_utf8_lossy(&key.unwrap_or_default()).into();
        self.put_off = put_off.into_iter().map(|(key, count)| (text(key), count)).collect();
        self.total = self.put_off.values().sum();
        self.held = held.into_iter().map(|held| held.stream.aggregate_id).collect();
        self.paused.clear();
    }

    /// Whether an event of a key must be put off, because an input before it waits.
    pub(super) fn waits(&self, key: &str) -> bool {
        let is_any = !self.put_off.is_empty() || !self.held.is_empty() || !self.paused.is_empty();
        is_any && (self.put_off.contains_key(key) || self.held.contains(key) || self.paused.contains_key(key))
    }

    /// Whether no more events can be put off.
    pub(super) fn is_full(&self) -> bool {
        self.total >= PUT_OFF_MAX
    }

    /// Notes that an event of a key is put off.
    pub(super) fn put_off(&mut self, key: &Arc<str>) {
        *self.put_off.entry(key.clone()).or_default() += 1;
        self.total += 1;
    }

    /// Notes that an event of a key that was put off is handled or dead-lettered. Returns whether the key is held and was
    /// released, and none of its events is put off any more: it becomes free.
    pub(super) fn taken(&mut self, key: &str) -> bool {
        let left = self.put_off.get_mut(key).map_or(0, |left| {
            *left = left.saturating_sub(1);
            *left
        });
        self.total = self.total.saturating_sub(1);
        if left == 0 {
            self.put_off.remove(key);
        }
        left == 0 && self.held.contains(key)
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
        self.paused.remove(key);
    }

    /// Frees a held key.
    pub(super) fn free(&mut self, key: &str) {
        self.held.remove(key);
    }

    /// Returns how many attempts at the input of a key have failed.
    pub(super) fn attempts(&self, key: &str) -> u32 {
        self.paused.get(key).map_or(0, |paused| paused.attempts)
    }

    /// Pauses a key, because an input failed.
    pub(super) fn pause(&mut self, key: &Arc<str>, attempts: u32, pause: Duration, reason: String) {
        self.paused.insert(key.clone(), PausedKey { attempts, until: Instant::now() + pause, reason });
    }

    /// Ends the pause of a key, because its input is handled or dead-lettered.
    pub(super) fn go_on(&mut self, key: &str) {
        if !self.paused.is_empty() {
            self.paused.remove(key);
        }
    }

    /// Ends all pauses. The attempts are counted from 0.
    pub(super) fn go_on_all(&mut self) {
        self.paused.clear();
    }

    /// Returns the keys that are paused now.
    pub(super) fn paused_now(&self) -> HashSet<CallbackKey> {
        let now = Instant::now();
        let paused = self.paused.iter().filter(|(_, paused)| paused.until > now);
        paused.map(|(key, _)| Some(key.as_bytes().to_vec())).collect()
    }

    /// Returns the number of keys that are paused.
    pub(super) fn paused(&self) -> usize {
        self.paused.len()
    }

    /// Returns how long it takes until the first pause ends.
    pub(super) fn next_end(&self) -> Option<Duration> {
        let now = Instant::now();
        self.paused.values().map(|paused| paused.until.saturating_duration_since(now)).min()
    }

    /// Returns why the keys are paused, with the reason of the first one.
    pub(super) fn reason(&self) -> Option<String> {
        let first = self.paused.iter().min_by_key(|(key, _)| (*key).clone());
        first.map(|(key, paused)| format!("saga {key}: {}", paused.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{StreamId, Version};

    #[test]
    fn events_of_a_key_wait_until_none_is_put_off() {
        let mut keys = SagaKeys::default();
        let key: Arc<str> = "a".into();
        assert!(!keys.waits("a"));
        keys.pause(&key, 1, Duration::ZERO, "why".into());
        assert!(keys.waits("a") && !keys.waits("b"));
        assert_eq!((keys.attempts("a"), keys.reason().as_deref()), (1, Some("saga a: why")));
        keys.put_off(&key);
        keys.put_off(&key);
        keys.go_on("a");
        assert!(keys.waits("a"));
        assert!(!keys.taken("a") && keys.waits("a"));
        assert!(!keys.taken("a") && !keys.waits("a"));
    }

    #[test]
    fn a_held_key_becomes_free_with_its_last_event() {
        let mut keys = SagaKeys::default();
        let held = HeldKey { stream: StreamId::new("saga", "a"), next: Version(0), behind: None };
        keys.restart(vec![(Some(b"a".to_vec()), 2)], vec![held]);
        assert!(!keys.taken("a"));
        assert!(keys.taken("a"), "it is free with this one");
        assert!(keys.waits("a"));
        keys.free("a");
        assert!(!keys.waits("a"));
    }
}
