//! The keys of sagas that take no input at the moment: an input of them failed or takes long, or events of them are deferred.

use super::live::{Decided, Undecidable};
use crate::model::{CallbackKey, Position};
use crate::subscriptions::deferred::DeferredKeys;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pause of a key whose input is decided on elsewhere. It ends when there is an answer.
const UNTIL_ANSWERED: Duration = Duration::from_secs(86_400);

/// The keys of sagas that take no input at the moment.
#[derive(Default)]
pub(super) struct SagaKeys {
    /// The keys for which events are deferred.
    pub(super) deferred: DeferredKeys,
    /// The keys of which an input failed or takes long.
    paused: HashMap<Arc<str>, PausedKey>,
}

/// An input of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputId {
    /// The event at this position, also if it is deferred.
    Event(Position),
    /// The outcome or the timer with this number.
    Callback(u64),
}

/// A key of which an input failed or takes long.
struct PausedKey {
    input: InputId,
    /// The number of attempts that count.
    attempts: u32,
    until: Instant,
    /// Why it failed, or `None` if it only takes long.
    reason: Option<String>,
    /// If the input takes long, how far the thread for such inputs is with it.
    slow: Option<Slow>,
}

/// How far the thread for inputs that take long is with one.
enum Slow {
    /// It must be asked.
    Unasked,
    /// It was asked, with this number.
    Asked(u64),
    /// It has answered.
    Answered(Result<Decided, Undecidable>),
}

impl SagaKeys {
    /// Whether an event of a key must be deferred, because an input before it waits.
    pub(super) fn waits(&self, key: &str) -> bool {
        self.deferred.waits(key) || (!self.paused.is_empty() && self.paused.contains_key(key))
    }

    /// Returns how many attempts at an input of a key have failed.
    pub(super) fn attempts(&self, key: &str, input: InputId) -> u32 {
        self.paused_at(key, input).map_or(0, |paused| paused.attempts)
    }

    fn paused_at(&self, key: &str, input: InputId) -> Option<&PausedKey> {
        self.paused.get(key).filter(|paused| paused.input == input)
    }

    /// Pauses a key, because an input failed.
    pub(super) fn pause(&mut self, key: &Arc<str>, input: InputId, attempts: u32, pause: Duration, reason: String) {
        let is_slow = self.paused_at(key, input).is_some_and(|paused| paused.slow.is_some());
        let slow = is_slow.then_some(Slow::Unasked);
        let (until, reason) = (Instant::now() + pause, Some(reason));
        self.paused.insert(key.clone(), PausedKey { input, attempts, until, reason, slow });
    }

    /// Pauses a key, because an input takes long, until the thread for such inputs is asked.
    pub(super) fn takes_long(&mut self, key: &Arc<str>, input: InputId) {
        let (attempts, until, slow) = (self.attempts(key, input), Instant::now(), Some(Slow::Unasked));
        self.paused.insert(key.clone(), PausedKey { input, attempts, until, reason: None, slow });
    }

    /// Whether the thread for inputs that take long must be asked about an input.
    pub(super) fn must_ask(&self, key: &str, input: InputId) -> bool {
        self.paused_at(key, input).is_some_and(|paused| matches!(paused.slow, Some(Slow::Unasked)))
    }

    /// Pauses a key until the thread for inputs that take long answers the question with this number.
    pub(super) fn has_asked(&mut self, key: &str, number: u64) {
        if let Some(paused) = self.paused.get_mut(key) {
            (paused.until, paused.slow) = (Instant::now() + UNTIL_ANSWERED, Some(Slow::Asked(number)));
        }
    }

    /// Takes the answer to the question with this number, if it is still wanted.
    pub(super) fn answered(&mut self, key: &str, number: u64, answer: Result<Decided, Undecidable>) {
        if let Some(paused) = self.paused.get_mut(key)
            && matches!(paused.slow, Some(Slow::Asked(asked)) if asked == number)
        {
            (paused.until, paused.slow) = (Instant::now(), Some(Slow::Answered(answer)));
        }
    }

    /// Has all questions asked again that are not answered.
    pub(super) fn ask_again(&mut self) {
        for paused in self.paused.values_mut() {
            if let Some(Slow::Asked(_)) = paused.slow {
                (paused.until, paused.slow) = (Instant::now(), Some(Slow::Unasked));
            }
        }
    }

    /// Whether there is an answer about an input.
    pub(super) fn has_answer(&self, key: &str, input: InputId) -> bool {
        self.paused_at(key, input).is_some_and(|paused| matches!(paused.slow, Some(Slow::Answered(_))))
    }

    /// Returns the answer about an input, if there is one. An answer about another input of the saga is outdated now, because
    /// the saga takes this one first.
    pub(super) fn answer(&mut self, key: &str, input: InputId) -> Option<Result<Decided, Undecidable>> {
        let paused = self.paused.get_mut(key)?;
        let slow = paused.slow.as_mut()?;
        if !matches!(slow, Slow::Answered(_)) && paused.input == input {
            return None;
        }
        paused.until = paused.until.min(Instant::now());
        match std::mem::replace(slow, Slow::Unasked) {
            Slow::Answered(answer) if paused.input == input => Some(answer),
            _ => None,
        }
    }

    /// Ends the pause of a key behind an input, because the input is handled or dead-lettered.
    pub(super) fn go_on(&mut self, key: &str, input: InputId) {
        if self.paused.get(key).is_some_and(|paused| paused.input == input) {
            self.paused.remove(key);
        }
    }

    /// Returns the outcomes and timers behind which keys are paused.
    pub(super) fn paused_callbacks(&self) -> Vec<(Arc<str>, u64)> {
        let of_callback = |(key, paused): (&Arc<str>, &PausedKey)| match paused.input {
            InputId::Callback(number) => Some((key.clone(), number)),
            InputId::Event(_) => None,
        };
        self.paused.iter().filter_map(of_callback).collect()
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
        let reasons = self.paused.iter().filter_map(|(key, paused)| Some((key, paused.reason.as_ref()?)));
        reasons.min_by_key(|(key, _)| (*key).clone()).map(|(key, reason)| format!("saga {key}: {reason}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_paused_key_are_deferred_until_its_input_is_handled() {
        let mut keys = SagaKeys::default();
        let key: Arc<str> = "a".into();
        assert!(!keys.waits("a"));
        let input = InputId::Callback(7);
        keys.pause(&key, input, 1, Duration::ZERO, "why".into());
        assert!(keys.waits("a") && !keys.waits("b") && keys.paused_now().is_empty());
        assert_eq!((keys.attempts("a", input), keys.reason().as_deref()), (1, Some("saga a: why")));
        assert_eq!(keys.attempts("a", InputId::Event(Position(7))), 0, "another input");
        keys.go_on("a", InputId::Event(Position(7)));
        assert_eq!(keys.paused_callbacks(), [("a".into(), 7)]);
        keys.deferred.add(&key);
        keys.go_on("a", input);
        assert!(keys.waits("a"), "an event is deferred");
        keys.deferred.taken("a");
        assert!(!keys.waits("a"));
    }
}
