//! Sagas: their events are recorded in the step that handles the input, and events that wait for a saga are callbacks.

use super::Place;
use super::requests::*;
use std::collections::HashSet;
use std::sync::Arc;
use wasmill::model::*;
use wasmill::store::*;

const SUBSCRIPTION: &str = "transfers";

fn saga(key: &str) -> StreamId {
    StreamId::new("transfer-process", key)
}

/// The events of an input, at the version that the saga's stream is expected to have.
fn decided(key: &str, expected: u64, events: &[&str]) -> SagaAppend {
    let input = command(&saga(key), &format!("input of {key} at {expected}"));
    let events = events.iter().map(|name| event(name, 1)).collect();
    SagaAppend { input, expected: Version(expected), events, ends: false }
}

fn ending(append: SagaAppend) -> SagaAppend {
    SagaAppend { ends: true, ..append }
}

fn take(store: &dyn EventStore, step: Step) -> Result<(), Error> {
    advance(store, step).map(drop)
}

/// A step of sagas that moves no checkpoint.
fn deciding(sagas: Vec<SagaAppend>) -> Step {
    Step { sagas, ..step(SUBSCRIPTION, Position(0), Position(0)) }
}

fn names(store: &dyn EventStore, key: &str) -> Vec<String> {
    let events = reader(store).read_stream(&saga(key), Version(0), 100).unwrap();
    events.iter().map(|event| event.name.to_string()).collect()
}

fn timer(key: &str, name: &str) -> CallbackChange {
    let content = CallbackContent::Wake { name: name.into(), payload: Vec::new() };
    CallbackChange::Set { name: Some(saga_timer(key, name).into()), due: Due::At(1), callback: callback(key, content) }
}

fn deferred(key: &str, position: u64) -> CallbackChange {
    CallbackChange::Defer { key: saga(key), callback: callback(key, CallbackContent::Event(Position(position))) }
}

fn due(store: &dyn EventStore) -> Vec<KeptCallback> {
    reader(store).due_callbacks(SUBSCRIPTION, 10, &HashSet::new(), 100).unwrap()
}

fn texts(callbacks: &[KeptCallback]) -> Vec<String> {
    callbacks.iter().map(KeptCallback::place).collect()
}

fn hold(key: &str, from: Option<Version>) -> KeyChange {
    KeyChange { stream: saga(key), from, to: KeyState::BehindDeadLetter(Version(0)) }
}

/// The events of several inputs, also of one saga, are one step: all of it or nothing.
pub fn a_step_of_sagas_is_recorded_whole_or_not_at_all<P: Place>() {
    let place = P::new();
    let store = place.open();
    let first =
        vec![decided("a", 0, &["Started", "Debited"]), decided("b", 0, &["Started"]), decided("a", 2, &["Credited"])];
    take(&*store, deciding(first)).unwrap();
    assert_eq!(names(&*store, "a"), ["Started", "Debited", "Credited"]);
    let stream = reader(&*store).read_stream(&saga("a"), Version(2), 1).unwrap();
    assert_eq!((stream[0].version, &*stream[0].causation_id), (Version(3), "input of a at 2"));
    let wrong = vec![decided("c", 0, &["Started"]), decided("b", 0, &["Started"])];
    let sent = vec![command(&order(1), "sent")];
    let refused = take(&*store, Step { commands: sent, ..deciding(wrong) }).unwrap_err();
    assert!(matches!(refused, Error::Conflict { actual: Version(1), .. }), "{refused}");
    assert!(names(&*store, "c").is_empty() && reader(&*store).pending_commands(SUBSCRIPTION).unwrap().is_empty());
    let large = SagaAppend { events: vec![event("Large", "x".repeat(8 << 20))], ..decided("c", 0, &[]) };
    let refused = take(&*store, deciding(vec![decided("d", 0, &["Started"]), large])).unwrap_err();
    assert!(refused.to_string().contains("store.event_bytes_max"), "{refused}");
    assert!(names(&*store, "d").is_empty());
    drop(store);
    let store = place.open();
    assert_eq!((names(&*store, "a").len(), names(&*store, "b").len()), (3, 1));
}

/// An ended saga takes no more events, and its named timers are gone, but not those of others.
pub fn an_ended_saga_is_archived_and_its_timers_are_cancelled<P: Place>() {
    let place = P::new();
    let store = place.open();
    let timers = vec![timer("a", "t"), timer("a", "u"), timer("a/b", "t"), timer("b", "t")];
    let begun = ["a", "a/b", "b"].map(|key| decided(key, 0, &["Started"])).into();
    take(&*store, Step { callbacks: timers, ..deciding(begun) }).unwrap();
    assert_eq!(due(&*store).len(), 4);
    take(&*store, deciding(vec![ending(decided("a", 1, &["Ended"]))])).unwrap();
    let left: Vec<_> = due(&*store).into_iter().map(|kept| kept.timer.unwrap().to_string()).collect();
    assert_eq!(left, ["a/b/t", "b/t"]);
    assert!(reader(&*store).is_archived(&saga("a")).unwrap());
    let late = take(&*store, deciding(vec![decided("a", 2, &["Late"])])).unwrap_err();
    assert!(matches!(late, Error::Archived { .. }), "{late}");
    let both = vec![ending(decided("b", 1, &[])), decided("b", 1, &["Late"])];
    assert!(matches!(take(&*store, deciding(both)).unwrap_err(), Error::Archived { .. }));
    assert!(!reader(&*store).is_archived(&saga("b")).unwrap(), "the step is refused whole");
}

/// Events that are deferred are due at once and before all else, unless their saga is held behind a dead letter.
pub fn an_event_that_is_deferred_waits_while_its_saga_is_held<P: Place>() {
    let place = P::new();
    let store = place.open();
    let callbacks = vec![timer("a", "t"), deferred("a", 1), deferred("a", 2), deferred("b", 3)];
    take(&*store, Step { callbacks, ..step(SUBSCRIPTION, Position(0), Position(0)) }).unwrap();
    assert_eq!(texts(&due(&*store)), ["event 1", "event 2", "event 3", "timer t"]);
    let counts = reader(&*store).deferred(SUBSCRIPTION).unwrap();
    assert_eq!(counts, [(Some(b"a".to_vec()), 2), (Some(b"b".to_vec()), 1)]);
    let (first, second) = (vec![due(&*store)[0].number], due(&*store)[1].number);
    let dead = DeadLetter { content: DeadLetterContent::Event(Position(1)), ..letter("event 1") };
    let held = Step {
        reached: Reached::Callbacks(first),
        dead_letters: vec![dead],
        key: Some(hold("a", None)),
        ..step(SUBSCRIPTION, Position(0), Position(0))
    };
    take(&*store, held).unwrap();
    assert_eq!(texts(&due(&*store)), ["event 3", "timer t"]);
    let waiting = Step { reached: Reached::Callbacks(vec![second]), ..step(SUBSCRIPTION, Position(0), Position(0)) };
    assert!(
        matches!(take(&*store, waiting).unwrap_err(), Error::CallbackGone { .. }),
        "it may not pass the dead letter"
    );
    let later = vec![deferred("a", 4), deferred("b", 5)];
    take(&*store, Step { callbacks: later, ..step(SUBSCRIPTION, Position(0), Position(0)) }).unwrap();
    assert_eq!(texts(&due(&*store)), ["event 3", "event 5", "timer t"]);
    let (letters, _) =
        reader(&*store).dead_letters(&DeadLetterQuery { consumer: None, before: None, limit: 1 }).unwrap();
    assert_eq!(letters[0].waiting, 2, "events 2 and 4");
    let next = reader(&*store).next_callback(SUBSCRIPTION, 10).unwrap();
    assert_eq!((next.is_due, next.later_ms, next.timer_ms), (true, None, Some(1)), "what waits is not due");
    drop(store);
    let store = place.open();
    assert_eq!(reader(&*store).deferred(SUBSCRIPTION).unwrap()[0], (Some(b"a".to_vec()), 2));
    ask(|done| store.discard_dead_letter(letters[0].number, done)).answer().unwrap();
    assert_eq!(texts(&due(&*store)), ["event 2", "event 3", "event 4", "event 5", "timer t"]);
    let held = reader(&*store).held_keys(SUBSCRIPTION).unwrap();
    assert_eq!(held, [HeldKey { stream: saga("a"), next: Version(0), behind: None }]);
    let free = KeyChange { stream: saga("a"), from: Some(Version(0)), to: KeyState::Free };
    let mut numbers: Vec<u64> = due(&*store).iter().map(|kept| kept.number).collect();
    let freed = Step {
        reached: Reached::Callbacks(numbers.drain(..4).collect()),
        key: Some(free),
        ..step(SUBSCRIPTION, Position(0), Position(0))
    };
    take(&*store, freed).unwrap();
    assert!(reader(&*store).held_keys(SUBSCRIPTION).unwrap().is_empty());
    assert_eq!(texts(&due(&*store)), ["timer t"]);
}

/// A reset forgets what was deferred, because the events are read again.
pub fn a_reset_forgets_the_events_that_were_deferred<P: Place>() {
    let place = P::new();
    let store = place.open();
    let callbacks = vec![timer("a", "t"), deferred("a", 1)];
    take(&*store, Step { callbacks, ..step(SUBSCRIPTION, Position(0), Position(0)) }).unwrap();
    take(&*store, Step::new(Arc::from(SUBSCRIPTION), Reached::Reset(Position(0)))).unwrap();
    assert_eq!(texts(&due(&*store)), ["timer t"]);
}
