//! Two openers of one store: at most one of them has an effect.

use super::Place;
use super::requests::*;
use std::time::{Duration, Instant};
use wasmill::model::ExpectedVersion::*;
use wasmill::model::*;
use wasmill::store::*;

/// Checks that the refusal says what to do, and that the first opener does not notice.
pub fn a_second_opener_is_refused_while_the_first_one_owns_the_store<P: Place>() {
    let place = P::new();
    let store = place.open();
    record(&*store, &order(1), 2);
    for _ in 0..3 {
        let refused = place.try_open().err().expect("the store is in use").to_string();
        assert!(refused.contains("in use by another host") && refused.contains("stop that host"), "{refused}");
    }
    record(&*store, &order(1), 1);
    assert_eq!(whole_stream(&mut *reader(&*store), &order(1)).len(), 3);
    assert!(store.loss().borrow().is_none() && store.trouble().is_none());
}

/// Checks that a host that stops in order does not make the next one wait.
pub fn a_store_that_is_closed_can_be_opened_at_once<P: Place>() {
    let place = P::new();
    for n in 1..=5 {
        let store = place.open();
        record(&*store, &order(1), 1);
        store.close();
        assert_eq!(whole_stream(&mut *reader(&*place.open()), &order(1)).len(), n);
    }
}

/// Checks every kind of write of the host that lost its store.
pub fn a_host_that_lost_its_store_has_no_effect<P: Place>() {
    let place = P::new();
    let old = place.open();
    record(&*old, &order(1), 2);
    advance(&*old, step("s", Position(0), Position(1))).unwrap();
    place.let_go();
    let new = place.try_open().expect("nobody owns the store");
    let lost = [
        append(&*old, command(&order(1), "c"), Any, happened(1)).map(drop),
        append(&*old, command(&order(2), "c"), NoStream, happened(1)).map(drop),
        advance(&*old, step("s", Position(1), Position(2))).map(drop),
        ask(|done| old.published("events/sink", 0, 1, Vec::new(), done)).answer(),
        ask(|done| old.dead_letter(letter("there"), None, done)).answer(),
        ask(|done| old.start_ledger("kafka/a/a/0", 7, done)).answer(),
        ask(|done| old.set_fact("clock", Some("7".to_owned()), done)).answer(),
        ask(|done| old.archive(order(1), done)).answer(),
    ];
    for result in lost {
        assert!(matches!(result, Err(Error::Lost { .. })), "{result:?}");
    }
    assert!(matches!(*old.loss().borrow(), Some(Error::Lost { .. })), "the watch shows the loss");
    let mut reader = reader(&*new);
    assert_eq!(all_events(&*new).len(), 2);
    assert_eq!(reader.checkpoint("s").unwrap(), Some(Position(1)));
    assert_eq!(reader.sink_position("events/sink").unwrap(), None);
    assert_eq!((letters(&*new, 5).1, reader.fact("clock").unwrap()), (0, None));
    assert_eq!(reader.ledger("kafka/a/a/0").unwrap(), Ledger::default());
    assert_eq!(record(&*new, &order(1), 1).position, Position(3), "the new owner goes on without a gap");
    old.close();
    assert_eq!(record(&*new, &order(1), 1).position, Position(4), "also when the old one is gone");
    assert!(new.loss().borrow().is_none());
}

/// Checks that each append of the old owner is either before all of the new one's, or not there.
pub fn a_host_that_lost_its_store_has_no_effect_even_in_the_middle_of_its_work<P: Place>() {
    let place = P::new();
    let old = place.open();
    let asked: Vec<_> =
        (0..500).map(|n| ask_append(&*old, command(&order(n % 7), &format!("old-{n}")), Any, happened(1))).collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    let take_over = || loop {
        place.let_go();
        // A live owner may have renewed what it was asked to let go.
        match place.try_open() {
            Ok(new) => break new,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    let mut new = take_over();
    let mut appended = 0;
    while appended < 50 {
        match append(&*new, command(&order(appended % 7), &format!("new-{appended}")), Any, happened(1)) {
            Ok(_) => appended += 1,
            // The old owner was folding its log when it lost the store, so the log became shorter.
            Err(Error::Lost { how: Loss::Cut, .. }) => new = take_over(),
            Err(error) => panic!("{error}"),
        }
    }
    let accepted = asked.into_iter().filter_map(|pending| pending.answer().ok()).count();
    old.close();
    let events = all_events(&*new);
    assert_eq!(events.len(), accepted + 50);
    assert!(events.iter().zip(1..).all(|(event, position)| event.position == Position(position)), "no gap");
    let by_new = |event: &RecordedEvent| event.causation_id.starts_with("new-");
    assert_eq!(events.iter().position(by_new), Some(accepted), "nothing of the old owner is after the new one's first");
    for n in 0..7 {
        whole_stream(&mut *reader(&*new), &order(n));
    }
}
