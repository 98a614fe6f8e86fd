//! The identity of a store, and the facts that it keeps.

use super::Place;
use super::requests::*;

/// Checks that the identity is made with the store and that no other store has it.
pub fn a_store_keeps_its_identity<P: Place>() {
    let (place, other) = (P::new(), P::new());
    let store = place.open();
    let identity = store.identity();
    assert!(!identity.is_nil() && identity != other.open().identity());
    store.close();
    assert_eq!(place.open().identity(), identity);
}

/// Checks that a fact is kept, replaced, forgotten, and listed by the prefix of its name.
pub fn facts_are_kept_until_they_are_forgotten<P: Place>() {
    let place = P::new();
    let store = place.open();
    let set = |name: &str, value: Option<&str>| {
        ask(|done| store.set_fact(name, value.map(str::to_owned), done)).answer().expect("a fact is kept");
    };
    set("kafka/topic/till/baskets", Some("one"));
    set("kafka/cluster", Some("first"));
    set("kafka/cluster", Some("second"));
    set("subscription/warehouse/paused", Some(""));
    set("subscription/notifier/paused", Some("yes"));
    set("subscription/notifier/paused", None);
    set("never/there", None);
    let first = |name: &str, value: &str| {
        ask(|done| store.keep_first_fact(name, value.to_owned(), done)).answer().expect("a fact is kept");
    };
    first("kafka/cluster", "third");
    first("kafka/start/till", "one");
    first("kafka/start/till", "two");
    store.close();
    let store = place.open();
    let mut reader = reader(&*store);
    assert_eq!(reader.fact("kafka/cluster").expect("it is read").as_deref(), Some("second"));
    assert_eq!(reader.fact("subscription/notifier/paused").expect("it is read"), None);
    assert_eq!(reader.fact("subscription/warehouse/paused").expect("it is read").as_deref(), Some(""));
    let kafka = reader.facts("kafka/").expect("they are listed");
    let names: Vec<_> = kafka.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [("kafka/cluster", "second"), ("kafka/start/till", "one"), ("kafka/topic/till/baskets", "one")];
    assert_eq!(names, expected);
    assert_eq!(reader.facts("").expect("they are listed").len(), 4);
}
