//! Tests of sagas: given its own events, when an input arrives, then these events and effects, and whether it ends.

use super::effects::{self, comparable};
use super::{envelope, expect_outcome, readable};
use crate::bindings::types;
use crate::codec::Encoded;
use crate::glue::LiveSaga;
use crate::log::native;
use crate::saga::{self, End, Saga};
use crate::subscriber::{Delivery, Effect};
use crate::{Failure, readback};
use std::collections::VecDeque;

/// The most bytes of the name of a timer.
pub(super) const TIMER_NAME_BYTES_MAX: usize = 255;

/// Makes a saga with these events in its stream. Without events there is no saga yet.
///
/// # Panics
/// If an event of the history is not the same after encoding and decoding.
#[must_use = "add `when`"]
#[track_caller]
pub fn given_saga<S: Saga>(history: impl IntoIterator<Item = S::Event>) -> GivenSaga<S> {
    readback::check_all();
    let history: Vec<_> = history.into_iter().map(|event| recorded::<S>(&event)).collect();
    GivenSaga { live: rebuilt(&history), history }
}

/// Returns the key of the saga that an event is for. A key that the host would refuse is not checked.
pub fn key_of<S: Saga>(event: &Delivery) -> Result<Option<String>, Failure> {
    saga::key::<S>(&mut event.clone())
}

#[track_caller]
fn recorded<S: Saga>(event: &S::Event) -> (String, Vec<u8>) {
    match readback::encode_event(event, S::UPCASTS) {
        Ok(Encoded { name, payload, .. }) => (name.to_owned(), payload),
        Err(error) => panic!("an event does not encode: {error}"),
    }
}

/// Rebuilds a saga from its events, as after a restart.
#[track_caller]
fn rebuilt<S: Saga>(history: &[(String, Vec<u8>)]) -> LiveSaga<S> {
    let live = LiveSaga::empty();
    let recorded = history
        .iter()
        .zip(1..)
        .map(|((name, payload), place)| envelope::recorded((S::TYPE, "test"), place, name, payload.clone()));
    if let Err(failure) = live.replay(recorded.collect()) {
        panic!("event {} of the history does not decode: {:?}", failure.index + 1, failure.outcome);
    }
    live
}

/// A saga that waits for an input.
///
/// Each input is decided twice: by the live saga, and by one that is rebuilt from its encoded events. If the two differ the
/// test fails, because a restart of the host would change the saga.
pub struct GivenSaga<S: Saga> {
    live: LiveSaga<S>,
    history: Vec<(String, Vec<u8>)>,
}

/// The events, the effects and the end that a saga decided on.
pub(super) type Decision = (Vec<types::NewEvent>, VecDeque<Effect>, Option<End>);

/// What a saga decided, if it did not skip the input, or why it failed.
pub(super) type Decided = Result<Option<Decision>, types::Outcome>;

impl<S: Saga> GivenSaga<S> {
    /// Borrows the state.
    pub fn state(&self) -> std::cell::Ref<'_, S> {
        self.live.state()
    }

    /// Lets the saga decide on an input, which [`event`](super::event), [`event_json`](super::event_json),
    /// [`outcome`](super::outcome), [`timer`](super::timer) or [`response`](super::response) makes.
    ///
    /// # Panics
    /// If a rebuilt saga decides differently, or if the host would refuse the decision: the first step has no event, or the
    /// name of a timer is wrong. Also if an outcome, a timer or a response arrives before there is a saga.
    #[track_caller]
    pub fn when(self, input: Delivery) -> WhenSaga<S> {
        let Self { live, history } = self;
        // The rebuilt saga repeats the log lines of the live one, so they are dropped.
        let (by_rebuilt, _) = native::logs(|| decided(&rebuilt::<S>(&history), input.clone()));
        let decided = decided(&live, input.clone());
        assert_eq!(
            readable_decided(&by_rebuilt),
            readable_decided(&decided),
            "a saga that is rebuilt from its events decides differently (left) than the live one (right)"
        );
        let is_event = matches!(input.0.origin, types::Origin::Event(_));
        assert!(
            is_event || !history.is_empty(),
            "there is no saga, and the host ignores an outcome, a timer or a response then"
        );
        let is_skipped = matches!(decided, Ok(None));
        let result = decided.map(Option::unwrap_or_default);
        if let Ok((events, effects, end)) = &result {
            let is_silent = events.is_empty() && (!effects.is_empty() || end.is_some());
            assert!(!(history.is_empty() && is_silent), "the first step of a saga has no event: record one");
            effects.iter().for_each(check_timer);
        }
        WhenSaga { live, history, result, is_skipped, checked_events: false }
    }
}

pub(super) fn decided<S: Saga>(live: &LiveSaga<S>, mut input: Delivery) -> Decided {
    let decision = live.decide(&mut input).map_err(types::Outcome::from)?;
    Ok(decision.map(|decision| (decision.events, decision.effects.into(), decision.end)))
}

#[track_caller]
fn check_timer(effect: &Effect) {
    let name = match effect {
        Effect::Later(Some(name), ..) | Effect::Wake(name, ..) | Effect::Cancel(name) => name,
        Effect::Later(None, ..) | Effect::Send(_) | Effect::Publish(_) | Effect::Http(_) => return,
    };
    let is_sound =
        (1..=TIMER_NAME_BYTES_MAX).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_control());
    assert!(
        is_sound,
        "the name of a saga's timer has 1 to {TIMER_NAME_BYTES_MAX} bytes, no `/` and no control characters, found {name:?}"
    );
}

/// Returns a decision in a form that compares by content and is easy to read.
pub(super) fn readable_decided(result: &Decided) -> Result<serde_json::Value, String> {
    let decision = result.as_ref().map_err(|outcome| format!("{outcome:?}"))?;
    let Some((events, effects, end)) = decision else { return Ok(serde_json::json!("skipped")) };
    let events: Vec<_> = events.iter().map(|event| (event.name.as_str(), readable(&event.payload))).collect();
    let effects: Vec<_> = effects.iter().map(comparable).collect();
    Ok(serde_json::json!({ "events": events, "effects": effects, "end": format!("{end:?}") }))
}

/// A decision of a saga. First come the events, if there are any, then the effects in the order of the calls, then the end.
#[must_use = "end with `then_goes_on`, `then_completed`, `then_compensated`, or a failure"]
pub struct WhenSaga<S: Saga> {
    live: LiveSaga<S>,
    history: Vec<(String, Vec<u8>)>,
    result: Result<Decision, types::Outcome>,
    is_skipped: bool,
    checked_events: bool,
}

impl<S: Saga> WhenSaga<S> {
    /// Expects exactly these events, in this order. Without this call no event is expected.
    ///
    /// # Panics
    /// If the decision is anything else.
    #[track_caller]
    pub fn then_events(mut self, expected: impl IntoIterator<Item = S::Event>) -> Self {
        let (events, ..) = self.decision();
        let actual: Vec<_> = events.iter().map(|event| (event.name.clone(), readable(&event.payload))).collect();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|event| {
                let (name, payload) = recorded::<S>(&event);
                (name, readable(&payload))
            })
            .collect();
        assert_eq!(actual, expected, "the events (left) are not the expected ones (right)");
        self.checked_events = true;
        self
    }

    super::effects::then_effects!();

    /// Expects no more effects, and that the saga goes on. Returns it for the next input.
    ///
    /// # Panics
    /// If there is another effect, or if the saga ends or failed.
    #[track_caller]
    pub fn then_goes_on(mut self) -> GivenSaga<S> {
        self.expect_end(None);
        let Self { live, mut history, result, .. } = self;
        let (events, ..) = result.unwrap_or_default();
        history.extend(events.into_iter().map(|types::NewEvent { name, payload }| (name, payload)));
        GivenSaga { live, history }
    }

    /// Expects the event to be skipped, because the saga does not know it. See [`reading`](crate::reading).
    ///
    /// # Panics
    /// If it is handled or fails.
    #[track_caller]
    pub fn then_skipped(mut self) -> GivenSaga<S> {
        let (events, effects, _) = self.decision();
        let (events, effects) = (events.len(), effects.len());
        assert!(
            self.is_skipped,
            "expected it to be skipped, and it was handled with {events} events and {effects} effects"
        );
        GivenSaga { live: self.live, history: self.history }
    }

    /// Expects no more effects, and that the saga ends because it has reached its goal.
    ///
    /// # Panics
    /// If there is another effect, or if it does not end so.
    #[track_caller]
    pub fn then_completed(mut self) {
        self.expect_end(Some(End::Completed));
    }

    /// Expects no more effects, and that the saga ends because all is undone.
    ///
    /// # Panics
    /// If there is another effect, or if it does not end so.
    #[track_caller]
    pub fn then_compensated(mut self) {
        self.expect_end(Some(End::Compensated));
    }

    /// Expects the input to be rejected with a reason that contains this text.
    ///
    /// # Panics
    /// If the result is anything else.
    #[track_caller]
    pub fn then_rejected(self, part_of_the_reason: &str) -> GivenSaga<S> {
        self.failed("rejected", part_of_the_reason)
    }

    /// Expects the input to be malformed, with a reason that contains this text.
    ///
    /// # Panics
    /// If the result is anything else.
    #[track_caller]
    pub fn then_malformed(self, part_of_the_reason: &str) -> GivenSaga<S> {
        self.failed("malformed", part_of_the_reason)
    }

    /// Expects the saga to ask for a retry with a reason that contains this text.
    ///
    /// # Panics
    /// If the result is anything else.
    #[track_caller]
    pub fn then_retry(self, part_of_the_reason: &str) -> GivenSaga<S> {
        self.failed("retry", part_of_the_reason)
    }

    #[track_caller]
    fn failed(self, kind: &str, part: &str) -> GivenSaga<S> {
        expect_outcome(&self.result, kind, part);
        GivenSaga { live: self.live, history: self.history }
    }

    #[track_caller]
    fn expect_end(&mut self, expected: Option<End>) {
        assert!(!self.is_skipped, "the saga does not know the event, so it is skipped: expect `then_skipped`");
        if !self.checked_events {
            let (events, ..) = self.decision();
            let names: Vec<_> = events.iter().map(|event| event.name.clone()).collect();
            assert!(names.is_empty(), "expected no events, got: {names:?}; expect them with `then_events`");
        }
        let (_, effects, end) = self.decision();
        if let Some(effect) = effects.pop_front() {
            panic!("expected no more effects, got: {:#?}", comparable(&effect));
        }
        assert_eq!(*end, expected, "how the saga ends (left) is not what is expected (right)");
    }

    #[track_caller]
    fn then(mut self, expected: Effect) -> Self {
        let (_, effects, _) = self.decision();
        effects::expect_next(effects, &expected);
        self
    }

    #[track_caller]
    fn decision(&mut self) -> &mut Decision {
        match &mut self.result {
            Ok(decision) => decision,
            Err(outcome) => panic!("the input failed: {outcome:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::Step;
    use crate::subscriber::Ending;
    use crate::testing::{event_json, outcome, timer};
    use serde::{Deserialize, Serialize};
    use std::time::Duration;

    /// A saga that does what its events are called.
    #[derive(Default)]
    struct Errand {
        sum: f64,
    }

    #[derive(Serialize, Deserialize)]
    enum Event {
        Added {
            #[serde(serialize_with = "rounded")]
            amount: f64,
        },
    }

    fn rounded<S: serde::Serializer>(amount: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(amount.round())
    }

    impl Saga for Errand {
        const TYPE: &'static str = "errand";
        const STARTS: &'static [&'static str] = &["desk.*"];
        type Event = Event;

        fn handle(&self, event: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
            match event.name() {
                "Add" => step.record(Event::Added { amount: event.json()? }),
                "Wake" => step.wake(event.json::<String>()?, Duration::ZERO, "")?,
                "Tell" => step.wake("sum", Duration::ZERO, &self.sum)?,
                "Wait" => {
                    step.record(Event::Added { amount: 9.0 });
                    return Err(Failure::retry(Duration::ZERO, "not yet"));
                }
                "Ignore" => {}
                "Undo" => {
                    step.complete();
                    step.compensated();
                }
                _ => step.complete(),
            }
            Ok(())
        }

        fn apply(&mut self, Event::Added { amount }: Event) {
            self.sum += amount;
        }
    }

    fn input(name: &str, payload: &str) -> Delivery {
        event_json("desk", "1", name, payload)
    }

    fn added(amount: f64) -> Event {
        Event::Added { amount }
    }

    #[test]
    fn a_saga_goes_on_with_what_it_decided() {
        let saga = given_saga::<Errand>([]).when(input("Add", "1.0")).then_events([added(1.0)]).then_goes_on();
        assert!((saga.state().sum - 1.0).abs() < f64::EPSILON);
        saga.when(input("End", "null")).then_completed();
        assert_eq!(key_of::<Errand>(&input("Add", "1.0")), Ok(Some("1".to_owned())));
    }

    #[test]
    fn what_cannot_be_compensated_is_malformed() {
        let saga = given_saga::<Errand>([added(1.0)]);
        let saga = saga.when(timer("late", "")).then_malformed("timer late is due, and `Saga::compensate`");
        let refused = outcome("desk", "1", "Pay", Ending::Rejected("no"), "");
        let saga = saga.when(refused).then_malformed("Pay: rejected: no");
        let accepted = Ending::Accepted { version: 1, position: 1 };
        saga.when(outcome("desk", "1", "Pay", accepted, "")).then_goes_on();
    }

    #[test]
    #[should_panic(expected = "a saga that is rebuilt from its events decides differently")]
    fn a_live_saga_that_knows_more_than_its_events_fails() {
        let saga = given_saga::<Errand>([]).when(input("Add", "2.4")).then_events([added(2.4)]).then_goes_on();
        let _ = saga.when(input("Tell", "null"));
    }

    #[test]
    #[should_panic(expected = "the first step of a saga has no event")]
    fn the_first_step_has_an_event() {
        let _ = given_saga::<Errand>([]).when(input("End", "null"));
    }

    #[test]
    fn an_input_may_be_ignored_before_there_is_a_saga() {
        given_saga::<Errand>([]).when(input("Ignore", "null")).then_goes_on();
    }

    #[test]
    #[should_panic(expected = "the first step of a saga has no event")]
    fn the_first_step_has_an_event_beside_its_effects() {
        let _ = given_saga::<Errand>([]).when(input("Tell", "null"));
    }

    #[test]
    fn the_last_end_of_a_step_counts() {
        given_saga::<Errand>([added(1.0)]).when(input("Undo", "null")).then_compensated();
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let saga = given_saga::<Errand>([added(1.0)]).when(input("Wait", "null")).then_retry("not yet");
        saga.when(input("Tell", "null")).then_wake("sum", Duration::ZERO, &1.0).then_goes_on();
    }

    #[test]
    fn the_name_of_a_timer_has_a_length_and_no_slash() {
        let wake = |name: &str| {
            let input = input("Wake", &serde_json::json!(name).to_string());
            std::panic::catch_unwind(|| given_saga::<Errand>([added(1.0)]).when(input))
        };
        for name in ["a", "a:b c", &"a".repeat(TIMER_NAME_BYTES_MAX)] {
            wake(name).unwrap().then_wake(name, Duration::ZERO, "").then_goes_on();
        }
        for name in ["", "a/b", "a\n", &"a".repeat(TIMER_NAME_BYTES_MAX + 1), &"ä".repeat(128)] {
            let panic = wake(name).err().and_then(|panic| panic.downcast::<String>().ok()).expect(name);
            assert!(panic.contains("no `/` and no control characters"), "{panic}");
        }
    }

    #[test]
    #[should_panic(expected = "expected no events")]
    fn events_must_be_expected() {
        let _ = given_saga::<Errand>([]).when(input("Add", "1.0")).then_goes_on();
    }
}
