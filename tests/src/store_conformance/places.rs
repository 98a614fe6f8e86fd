//! Parts of a manifest keep their place in the store under their name, and a renamed part keeps its place.

use super::Place;
use super::requests::*;
use wasmill::model::*;
use wasmill::store::*;

fn part(text: &str) -> Part {
    text.parse().expect("a part")
}

fn names(store: &dyn EventStore) -> Vec<String> {
    reader(store).places().expect("places are read").into_iter().map(|place| place.part.to_string()).collect()
}

/// Fills a store with a subscription, a source with a subscriber, a sink and a schedule, each with all that it can have.
fn fill(store: &dyn EventStore) {
    let end = record(store, &order(1), 1).position;
    let letter = DeadLetter { content: DeadLetterContent::Event(end), ..letter("event 1") };
    let commands = |id: &str| vec![command(&order(2), id), command(&order(3), id)];
    let held = KeyChange { stream: order(1), from: None, to: KeyState::BehindDeadLetter(Version(1)) };
    let of_events = Step {
        commands: commands("c"),
        dead_letters: vec![letter],
        key: Some(held),
        ..step("warehouse", Position(0), end)
    };
    advance(store, of_events).unwrap();
    let records = vec![Origins { ledger: "kafka/taps/taps/0".into(), first: 0, items: vec![4] }];
    let of_records = Step {
        reached: Reached::Records { number: 0, records },
        commands: commands("r"),
        ..step("source/taps", Position(0), Position(0))
    };
    advance(store, of_records).unwrap();
    ask(|done| store.published("events/feed", 0, end.0, Vec::new(), done)).answer().unwrap();
    for fact in ["subscription/warehouse/paused", "kafka/start/taps", "kafka/topic/taps/taps"] {
        ask(|done| store.set_fact(fact, Some("1".into()), done)).answer().unwrap();
    }
    ask(|done| store.start_ledger("schedule/close-day", 1_767_225_601, done)).answer().unwrap();
    assert_eq!(names(store), ["subscription/warehouse", "source/taps", "sink/feed", "schedule/close-day"]);
    let schedule = reader(store).places().expect("places are read").pop().expect("the schedule is the last one");
    assert_eq!(schedule.to_string(), "schedule/close-day (at 2026-01-01T00:00:00Z)");
}

/// Checks also that its commands are settled under the new name, once.
pub fn a_part_goes_on_under_another_name_with_all_that_it_has<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    fill(&*store);
    let moves = [
        ("subscription/warehouse", "depot"),
        ("source/taps", "tills"),
        ("sink/feed", "orders"),
        ("schedule/close-day", "night"),
    ];
    for (old, new) in moves {
        ask(|done| store.carry_over(&[(part(old), new.to_owned())], done)).answer().unwrap();
        let again = ask(|done| store.carry_over(&[(part(old), "other".to_owned())], done)).answer();
        assert!(matches!(again, Err(Error::NotFound(_))), "{again:?}");
    }
    for _ in 0..2 {
        assert_eq!(names(&*store), ["subscription/depot", "source/tills", "sink/orders", "schedule/night"]);
        let mut found = reader(&*store);
        assert_eq!(found.checkpoint("depot").unwrap(), Some(Position(1)));
        assert_eq!(
            found.held_keys("depot").unwrap(),
            [HeldKey { stream: order(1), next: Version(1), behind: Some(1) }]
        );
        assert_eq!(found.sink_position("events/orders").unwrap(), Some(1));
        assert_eq!(found.ledger("kafka/tills/taps/0").unwrap().next, 5);
        assert_eq!(found.ledger("schedule/night").unwrap().next, 1_767_225_601);
        for fact in ["subscription/depot/paused", "kafka/start/tills", "kafka/topic/tills/taps"] {
            assert_eq!(found.fact(fact).unwrap().as_deref(), Some("1"), "{fact}");
        }
        let (letters, _) = letters(&*store, 1);
        assert_eq!(letters[0].consumer, "depot");
        for subscription in ["depot", "source/tills"] {
            let pending = found.pending_commands(subscription).unwrap();
            let origins: Vec<_> = pending.into_iter().filter_map(|command| command.origin).collect();
            let ledger = format!("subscription/{subscription}");
            assert_eq!(origins, [origin(&ledger, 0, 0), origin(&ledger, 1, 1)]);
        }
        assert_eq!(found.pending_commands("warehouse").unwrap(), []);
        store.close();
        store = place.open();
    }
    let pending = reader(&*store).pending_commands("depot").unwrap().remove(0);
    append(&*store, pending, ExpectedVersion::Any, happened(1)).unwrap();
    assert_eq!(reader(&*store).pending_commands("depot").unwrap().len(), 1, "it is settled under the new name");
    let taken = ask(|done| store.carry_over(&[(part("source/tills"), "tills".to_owned())], done)).answer();
    assert!(matches!(taken, Err(Error::Invalid(_))), "{taken:?}");
}

/// Checks that its unsent commands are forgotten and its dead letters stay.
pub fn a_part_that_is_forgotten_begins_again<P: Place>() {
    let place = P::new();
    let store = place.open();
    fill(&*store);
    for gone in ["subscription/warehouse", "source/taps", "sink/feed", "schedule/close-day"] {
        ask(|done| store.forget(&part(gone), done)).answer().unwrap();
        assert!(matches!(ask(|done| store.forget(&part(gone), done)).answer(), Err(Error::NotFound(_))));
    }
    assert_eq!(names(&*store), Vec::<String>::new());
    let mut found = reader(&*store);
    assert_eq!(found.checkpoint("warehouse").unwrap(), None);
    assert_eq!(found.held_keys("warehouse").unwrap(), []);
    assert_eq!(found.pending_commands("source/taps").unwrap(), []);
    for ledger in ["kafka/taps/taps/0", "schedule/close-day"] {
        assert_eq!(found.ledger(ledger).unwrap(), Ledger::default());
    }
    assert_eq!(found.facts("").unwrap(), []);
    assert_eq!(letters(&*store, 9).1, 1);
}
