//! Callbacks: the outcomes that a subscription asked for, and its timers.

use super::Place;
use super::requests::*;
use std::collections::HashSet;
use std::sync::Arc;
use wasmill::model::*;
use wasmill::store::*;

const SUBSCRIPTION: &str = "checkout";

/// Far in the future, and still a number that a store can keep.
const LATER: u64 = 4_000_000_000_000;

fn asking(number: u64, key: &str) -> Command {
    let request = OutcomeRequest { key: Some(key.into()), attachment: number.to_string().into_bytes() };
    Command {
        outcome_use: OutcomeUse::Delivered(request),
        ..numbered(&order(key), &SubscriptionName::Plugin(SUBSCRIPTION, Segment::WHOLE).ledger().to_string(), number)
    }
}

/// Has the subscription send commands that ask for their outcomes, with these keys and the numbers from 0 on.
fn send(store: &dyn EventStore, keys: &[&str]) {
    let commands = (0..).zip(keys).map(|(number, key)| asking(number, key)).collect();
    advance(store, Step { commands, ..step(SUBSCRIPTION, Position(0), Position(0)) }).unwrap();
}

fn timer(name: &str, key: &str, due: Due) -> CallbackChange {
    let content = CallbackContent::Wake { name: name.into(), payload: name.into() };
    CallbackChange::Set { name: Some(name.into()), due, callback: callback(key, content) }
}

fn set(store: &dyn EventStore, callbacks: Vec<CallbackChange>) {
    let end = reader(store).checkpoint(SUBSCRIPTION).unwrap().unwrap_or_default();
    advance(store, Step { callbacks, ..step(SUBSCRIPTION, end, end) }).unwrap();
}

fn due_at(store: &dyn EventStore, now_ms: u64) -> Vec<KeptCallback> {
    reader(store).due_callbacks(SUBSCRIPTION, now_ms, &HashSet::new(), usize::MAX).unwrap()
}

fn names(callbacks: &[KeptCallback]) -> Vec<&str> {
    callbacks.iter().map(KeptCallback::name).collect()
}

fn handled(callbacks: &[KeptCallback], commands: Vec<Command>) -> Step {
    let numbers = callbacks.iter().map(|kept| kept.number).collect();
    Step { reached: Reached::Callbacks(numbers), commands, ..step(SUBSCRIPTION, Position(0), Position(0)) }
}

/// However a command ends, its outcome is kept in the transaction that settles it, and nothing is dead-lettered.
pub fn an_outcome_that_was_asked_for_is_kept_and_nothing_is_dead_lettered<P: Place>() {
    let place = P::new();
    let store = place.open();
    let (actual, expected) = (Version(3), ExpectedVersion::NoStream);
    let undecided = [
        Undecided::Conflict { actual, expected },
        Undecided::Archived("archived".to_owned()),
        Undecided::Unserved("unserved".to_owned()),
        Undecided::Exhausted("exhausted".to_owned()),
    ];
    let mut decisions = vec![
        (happened(2), Ending::Accepted { version: Version(2), position: Position(2) }),
        (Decision::Rejected("no".to_owned()), Ending::Rejected("no".to_owned())),
        (Decision::Malformed("what?".to_owned()), Ending::Malformed("what?".to_owned())),
    ];
    decisions.extend(undecided.map(|end| (Decision::Undecided(end.clone()), Ending::Undecided(end))));
    send(&*store, &["a"; 8]);
    let endings: Vec<Ending> = decisions.iter().map(|(_, ending)| ending.clone()).collect();
    for (number, (decision, _)) in (0..).zip(decisions) {
        append(&*store, asking(number, "a"), ExpectedVersion::Any, decision).unwrap();
        // A repetition has no effect.
        let again = append(&*store, asking(number, "a"), ExpectedVersion::Any, happened(1));
        assert!(matches!(again, Err(Error::Duplicate { .. })), "{again:?}");
    }
    let found = due_at(&*store, 0);
    assert_eq!(found.len(), endings.len());
    for ((number, kept), expected) in (0..).zip(&found).zip(&endings) {
        let CallbackContent::Outcome { stream, name, ending, attachment } = &kept.callback.content else {
            panic!("{kept:?}");
        };
        let command = asking(number, "a");
        assert_eq!((stream, name, ending), (&command.stream, &command.name, expected));
        assert_eq!(*attachment, number.to_string().into_bytes());
        assert_eq!((&kept.callback.key, &kept.callback.causation_id), (&Some(b"a".to_vec()), &command.id));
        assert!(kept.time_ms > 0, "{kept:?}");
    }
    assert_eq!(letters(&*store, 10), (Vec::new(), 0));
    let ledger = SubscriptionName::Plugin(SUBSCRIPTION, Segment::WHOLE).ledger().to_string();
    assert_eq!(reader(&*store).ledger(&ledger).unwrap().next, endings.len() as u64);
    // The sender of a command that nobody asked about learns nothing.
    let plain = Command { outcome_use: OutcomeUse::Counted, ..asking(endings.len() as u64, "a") };
    append(&*store, plain, ExpectedVersion::Any, Decision::Undecided(Undecided::Unserved("nobody".to_owned())))
        .unwrap();
    assert_eq!(due_at(&*store, 0).len(), endings.len());
    assert_eq!(letters(&*store, 10).1, 1);
    store.close();
}

/// A callback is removed in the transaction of its effects. If it is gone, the step has no effect.
pub fn a_callback_goes_with_what_came_of_it<P: Place>() {
    let place = P::new();
    let store = place.open();
    set(&*store, vec![timer("one", "a", Due::At(1)), timer("two", "b", Due::At(2))]);
    let due = due_at(&*store, 2);
    assert_eq!(names(&due), ["one", "two"]);
    let sent = |id: &str| vec![command(&order("x"), id)];
    advance(&*store, handled(&due[..1], sent("first"))).unwrap();
    let refused = advance(&*store, handled(&due, sent("second")));
    assert!(matches!(refused, Err(Error::CallbackGone { number }) if number == due[0].number), "{refused:?}");
    assert_eq!(names(&due_at(&*store, 2)), ["two"]);
    let pending: Vec<_> = reader(&*store).pending_commands(SUBSCRIPTION).unwrap();
    assert!(pending.iter().map(|command| &*command.id).eq(["first"]), "{pending:?}");
    // Another subscription can't remove it.
    let foreign = Step { subscription: "other".into(), ..handled(&due[1..], Vec::new()) };
    assert!(matches!(advance(&*store, foreign), Err(Error::CallbackGone { .. })));
    store.close();
}

/// After a step of a row that failed none of the row takes effect, also none that would not fail by what it has reached.
pub fn steps_in_a_row_fail_together_whatever_they_have_reached<P: Place>() {
    let place = P::new();
    let store = place.open();
    set(&*store, vec![timer("one", "a", Due::At(1)), timer("two", "b", Due::At(2))]);
    let due = due_at(&*store, 2);
    ask(|done| store.cancel_timer(due[0].number, done)).answer().unwrap();
    let in_row = |number, step: Step| ask(|done| store.advance(Step { row: Some(number), ..step }, done));
    let to = Position(0);
    let steps = [
        in_row(0, handled(&due[..1], vec![command(&order("x"), "first")])),
        in_row(1, handled(&due[1..], vec![command(&order("x"), "second")])),
        in_row(2, Step { commands: vec![command(&order("x"), "third")], ..step(SUBSCRIPTION, to, to) }),
    ];
    let steps = steps.map(|step| step.answer());
    assert!(matches!(steps[0], Err(Error::CallbackGone { .. })), "{steps:?}");
    assert!(steps[1..].iter().all(|step| matches!(step, Err(Error::OutOfRow { .. }))), "{steps:?}");
    assert_eq!(names(&due_at(&*store, 2)), ["two"]);
    assert!(reader(&*store).pending_commands(SUBSCRIPTION).unwrap().is_empty());
    in_row(0, handled(&due[1..], Vec::new())).answer().unwrap();
    assert!(due_at(&*store, 2).is_empty(), "a new row");
    store.close();
}

/// Timers are due in the order of their times. One of the same name replaces the earlier one, with a new number.
pub fn a_timer_is_replaced_or_cancelled_by_its_name<P: Place>() {
    let place = P::new();
    let store = place.open();
    set(&*store, vec![timer("b", "k", Due::At(20)), timer("a", "k", Due::At(10)), timer("c", "k", Due::At(LATER))]);
    assert_eq!(names(&due_at(&*store, 9)), Vec::<&str>::new());
    assert_eq!(names(&due_at(&*store, 10)), ["a"]);
    assert_eq!(names(&due_at(&*store, LATER)), ["a", "b", "c"]);
    let next = |now_ms| reader(&*store).next_callback(SUBSCRIPTION, now_ms).unwrap();
    assert_eq!(next(9), NextCallback { is_due: false, later_ms: Some(10), timer_ms: Some(10) });
    assert_eq!(next(10), NextCallback { is_due: true, later_ms: Some(20), timer_ms: Some(10) });
    assert_eq!(next(LATER), NextCallback { is_due: true, later_ms: None, timer_ms: Some(10) });
    let number = |name: &str| due_at(&*store, LATER).iter().find(|kept| kept.name() == name).unwrap().number;
    let (a, c) = (number("a"), number("c"));
    set(
        &*store,
        vec![timer("a", "k", Due::At(30)), CallbackChange::Cancel("b".into()), CallbackChange::Cancel("x".into())],
    );
    assert_eq!(names(&due_at(&*store, LATER)), ["a", "c"]);
    assert!(number("a") > c && number("a") > a, "no number is used twice");
    // In one step the order of the changes counts.
    set(&*store, vec![timer("d", "k", Due::At(5)), CallbackChange::Cancel("d".into()), timer("e", "k", Due::At(6))]);
    assert_eq!(names(&due_at(&*store, 10)), ["e"]);
    let wanted = TimerQuery { subscription: None, limit: 2 };
    let (timers, total) = reader(&*store).timers(&wanted).unwrap();
    assert_eq!((timers.len(), total, &*timers[0].subscription), (2, 3, SUBSCRIPTION));
    let of_nobody = TimerQuery { subscription: Some("nobody"), limit: 2 };
    assert_eq!(reader(&*store).timers(&of_nobody).unwrap(), (Vec::new(), 0));
    ask(|done| store.cancel_timer(c, done)).answer().unwrap();
    let gone = ask(|done| store.cancel_timer(c, done)).answer();
    assert!(matches!(&gone, Err(Error::NotFound(text)) if text.contains("no timer")), "{gone:?}");
    // An outcome is no timer.
    send(&*store, &["k"]);
    append(&*store, asking(0, "k"), ExpectedVersion::Any, happened(1)).unwrap();
    let outcome = due_at(&*store, 0)[0].number;
    assert!(ask(|done| store.cancel_timer(outcome, done)).answer().is_err());
    store.close();
    // Numbers are not used again after all rows are gone.
    let store = place.open();
    let all = due_at(&*store, u64::MAX);
    let newest = all.iter().map(|kept| kept.number).max().unwrap();
    advance(&*store, handled(&all, Vec::new())).unwrap();
    store.close();
    let store = place.open();
    set(&*store, vec![timer("a", "k", Due::At(1))]);
    assert!(due_at(&*store, 1)[0].number > newest);
    store.close();
}

/// A subscription reads the callbacks that are due without those of the keys that it lets wait. No key is a key too.
pub fn callbacks_are_read_in_order_without_those_of_some_keys<P: Place>() {
    let place = P::new();
    let store = place.open();
    let unkeyed = |name: &str, ms| match timer(name, "", Due::At(ms)) {
        CallbackChange::Set { name, due, callback } => {
            CallbackChange::Set { name, due, callback: Box::new(Callback { key: None, ..*callback }) }
        }
        other => other,
    };
    set(&*store, vec![timer("a2", "a", Due::At(20)), timer("b1", "b", Due::At(11)), timer("a1", "a", Due::At(10))]);
    set(&*store, vec![unkeyed("none", 12), timer("empty", "", Due::At(13))]);
    send(&*store, &["a", "b"]);
    append(&*store, asking(0, "a"), ExpectedVersion::Any, happened(1)).unwrap();
    append(&*store, asking(1, "b"), ExpectedVersion::Any, happened(1)).unwrap();
    let without = |keys: &[Option<&str>], limit| {
        let keys = keys.iter().map(|key| key.map(|key| key.as_bytes().to_vec())).collect();
        let due = reader(&*store).due_callbacks(SUBSCRIPTION, 20, &keys, limit).unwrap();
        names(&due).join(" ")
    };
    assert_eq!(without(&[], 10), "Do Do a1 b1 none empty a2", "an outcome is due at once");
    assert_eq!(without(&[Some("a")], 10), "Do b1 none empty");
    assert_eq!(without(&[Some("a")], 2), "Do b1");
    assert_eq!(without(&[None], 10), "Do Do a1 b1 empty a2");
    assert_eq!(without(&[Some(""), Some("b")], 10), "Do a1 none a2");
    let number = due_at(&*store, 0)[0].number;
    assert!(reader(&*store).has_callback(number).unwrap() && !reader(&*store).has_callback(number + 100).unwrap());
    store.close();
}

/// The callbacks belong to the place of a part: they are renamed and forgotten with it.
pub fn callbacks_follow_the_name_of_their_subscription<P: Place>() {
    let place = P::new();
    let store = place.open();
    set(&*store, vec![timer("t", "a", Due::At(LATER))]);
    let sent = Step { commands: vec![asking(0, "a")], ..step(SUBSCRIPTION, Position(0), Position(0)) };
    advance(&*store, sent).unwrap();
    let part = Part { kind: PartKind::Subscription, name: SUBSCRIPTION.to_owned() };
    let callbacks = |reader: &mut dyn Reader| {
        reader.places().unwrap().into_iter().map(|place| (place.part.name, place.callbacks)).collect::<Vec<_>>()
    };
    assert_eq!(callbacks(&mut *reader(&*store)), [(SUBSCRIPTION.to_owned(), 1)]);
    ask(|done| store.carry_over(&[(part.clone(), "till".to_owned())], done)).answer().unwrap();
    // A command that was sent under the old name reports to the new one.
    let pending = reader(&*store).pending_commands("till").unwrap();
    append(&*store, pending[0].clone(), ExpectedVersion::Any, Decision::Rejected("no".to_owned())).unwrap();
    assert_eq!(callbacks(&mut *reader(&*store)), [("till".to_owned(), 2)]);
    assert!(due_at(&*store, LATER).is_empty());
    let due = reader(&*store).due_callbacks("till", LATER, &HashSet::new(), 10).unwrap();
    assert_eq!(names(&due), ["Do", "t"]);
    let renamed = Part { name: "till".to_owned(), ..part };
    ask(|done| store.forget(&renamed, done)).answer().unwrap();
    assert_eq!(callbacks(&mut *reader(&*store)), []);
    store.close();
}

/// Whoever waits for callbacks is woken when there is a new one.
pub fn a_new_callback_wakes_who_waits<P: Place>() {
    let place = P::new();
    let store: Arc<dyn EventStore> = place.open();
    let mut changed = store.callbacks_changed();
    changed.mark_unchanged();
    record(&*store, &order(1), 1);
    assert!(!changed.has_changed().unwrap(), "an event is none");
    set(&*store, vec![timer("t", "a", Due::After(LATER))]);
    assert!(changed.has_changed().unwrap());
    assert!(due_at(&*store, LATER).is_empty(), "it is due after the commit, not after 1970");
    store.close();
}
