//! The end of a store: an orderly stop loses nothing.

use super::Place;
use super::requests::*;
use wasmill::model::*;
use wasmill::store::*;

/// Checks that all earlier requests are answered and durable.
pub fn a_closed_store_has_finished_what_was_queued<P: Place>() {
    let place = P::new();
    let store = place.open();
    let asked: Vec<_> =
        (0..500).map(|n| ask_append(&*store, command(&order(n % 9), "c"), ExpectedVersion::Any, happened(1))).collect();
    store.close();
    for pending in asked {
        pending.answer().expect("what is queued is finished");
    }
    assert_eq!(all_events(&*place.open()).len(), 500);
}

/// Checks every request, after any number of closes. Readers keep working.
pub fn a_closed_store_answers_that_it_is_closed<P: Place>() {
    let place = P::new();
    let store = place.open();
    record(&*store, &order(1), 1);
    let mut open = reader(&*store);
    store.close();
    store.close();
    let stream = order(1);
    let refusals = [
        append(&*store, command(&stream, "c"), ExpectedVersion::Any, happened(1)).err(),
        advance(&*store, step("warehouse", Position(0), Position(1))).err(),
        ask(|done| store.published("kafka", 0, 0, Vec::new(), done)).answer().err(),
        ask(|done| store.dead_letter(letter("x"), None, done)).answer().err(),
        ask(|done| store.start_ledger("kafka/a/b/0", 1, done)).answer().err(),
        ask(|done| store.reset_ledger("kafka/a/b/0", 1, done)).answer().err(),
        ask(|done| store.archive(stream.clone(), done)).answer().err(),
        ask(|done| store.restore(stream.clone(), done)).answer().err(),
        ask(|done| store.discard_dead_letter(1, done)).answer().err(),
        ask(|done| store.republish_dead_letter(1, done)).answer().err(),
        ask(|done| store.explain_dead_letter(1, "x".to_owned(), done)).answer().err(),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Some(Error::Closed)), "{refusal:?}");
    }
    assert_eq!(whole_stream(&mut *open, &stream).len(), 1);
}
