//! Ledgers: commands of a numbered sequence are settled once, together with their effects.

use super::Place;
use super::requests::*;
use wasmill::model::*;
use wasmill::store::*;

const LEDGER: &str = "kafka/baskets/baskets/0";

fn ledger(store: &dyn EventStore) -> (u64, Vec<(u64, u64)>) {
    let Ledger { next, ahead } = reader(store).ledger(LEDGER).expect("a ledger is read");
    (next, ahead.into_iter().collect())
}

fn settle(store: &dyn EventStore, first: u64, last: u64) -> Result<Appended, Error> {
    let command = Command { origin: Some(origin(LEDGER, first, last)), ..command(&order(last), &last.to_string()) };
    append(store, command, ExpectedVersion::Any, happened(1))
}

/// Checks repetitions in flight together, later, and in a reopened store, with and without events.
pub fn a_repeated_origin_adds_nothing<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let decisions = [|| happened(2), || happened(0), || Decision::Rejected("no".to_owned())];
    for (n, decide) in decisions.into_iter().enumerate() {
        let number = n as u64;
        let send = |store: &dyn EventStore| {
            ask_append(store, numbered(&order(1), LEDGER, number), ExpectedVersion::Any, decide())
        };
        let (first, at_once) = (send(&*store), send(&*store));
        first.answer().unwrap();
        let mut repetitions = vec![at_once.answer(), send(&*store).answer()];
        store.close();
        store = place.open();
        repetitions.push(send(&*store).answer());
        for repeated in repetitions {
            assert!(matches!(&repeated, Err(Error::Duplicate { outcome: None, .. })), "{repeated:?}");
        }
        assert_eq!(ledger(&*store), (number + 1, vec![]));
    }
    assert_eq!(all_events(&*store).len(), 2);
    assert_eq!(reader(&*store).tallies().unwrap()[0].accepted, 2);
}

/// Checks gaps, because Kafka skips the offsets of transaction markers and of compacted records.
pub fn an_origin_settles_the_gap_before_it<P: Place>() {
    let place = P::new();
    let store = place.open();
    settle(&*store, 0, 3).unwrap();
    assert_eq!(ledger(&*store), (4, vec![]));
    settle(&*store, 6, 9).unwrap();
    assert_eq!(ledger(&*store), (4, vec![(6, 9)]));
    settle(&*store, 4, 5).unwrap();
    assert_eq!(ledger(&*store), (10, vec![]));
    // The same record may have another gap before it, for example after a rebalance.
    assert!(matches!(settle(&*store, 8, 9), Err(Error::Duplicate { .. })));
    assert_eq!(all_events(&*store).len(), 3);
}

/// Checks that items may be settled in any order, and that the ranges above the watermark survive a reopening.
pub fn settling_out_of_order_leaves_the_ranges_ahead<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let mut expected = Ledger::default();
    for number in [9, 2, 3, 7, 1, 5, 8, 12, 0, 4] {
        settle(&*store, number, number).unwrap();
        expected.settle(number, number);
        if number % 4 == 0 {
            store.close();
            store = place.open();
        }
        assert_eq!(ledger(&*store), (expected.next, expected.ahead.clone().into_iter().collect()));
        assert!(matches!(settle(&*store, number, number), Err(Error::Duplicate { .. })), "{number}");
    }
    assert_eq!(ledger(&*store), (6, vec![(7, 9), (12, 12)]));
}

/// Checks a source that starts at the end of a topic.
pub fn a_ledger_starts_where_it_is_told_and_never_goes_back<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for (start, expected) in [(0, 0), (100, 100), (40, 100), (100, 100), (101, 101)] {
        ask(|done| store.start_ledger(LEDGER, start, done)).answer().unwrap();
        assert_eq!(ledger(&*store), (expected, vec![]), "{start}");
        store.close();
        store = place.open();
    }
    assert!(matches!(settle(&*store, 99, 99), Err(Error::Duplicate { .. })));
    settle(&*store, 105, 105).unwrap();
    ask(|done| store.start_ledger(LEDGER, 105, done)).answer().unwrap();
    assert_eq!(ledger(&*store), (106, vec![]));
}

/// Checks that of those who begin a ledger at the same time the first one decides where it starts.
pub fn a_ledger_is_begun_once<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for (begin, expected) in [(5, (5, vec![])), (9, (5, vec![])), (0, (5, vec![]))] {
        ask(|done| store.begin_ledger(LEDGER, begin, done)).answer().unwrap();
        assert_eq!(ledger(&*store), expected, "{begin}");
    }
    settle(&*store, 7, 7).unwrap();
    let both = [7, 100].map(|begin| ask(|done| store.begin_ledger(LEDGER, begin, done)));
    both.into_iter().for_each(|asked| asked.answer().unwrap());
    assert_eq!(ledger(&*store), (5, vec![(7, 7)]));
    store.close();
    store = place.open();
    ask(|done| store.begin_ledger(LEDGER, 100, done)).answer().unwrap();
    assert_eq!(ledger(&*store), (5, vec![(7, 7)]));
    // One that is there with nothing settled is there too, also in the transaction that makes it.
    let other = "kafka/till/other/0";
    let first = ask(|done| store.start_ledger(other, 0, done));
    let second = ask(|done| store.begin_ledger(other, 3, done));
    first.answer().unwrap();
    second.answer().unwrap();
    assert_eq!(reader(&*store).ledger(other).unwrap(), Ledger::default());
}

/// Checks the reset of a person who wants records to be processed again.
pub fn a_ledger_that_is_reset_settles_again_from_there<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for number in [0, 1, 2, 5] {
        settle(&*store, number, number).unwrap();
    }
    for next in [9, 1] {
        ask(|done| store.reset_ledger(LEDGER, next, done)).answer().unwrap();
        assert_eq!(ledger(&*store), (next, vec![]), "{next}");
        store.close();
        store = place.open();
        assert_eq!(ledger(&*store), (next, vec![]), "{next}");
    }
    assert!(matches!(settle(&*store, 0, 0), Err(Error::Duplicate { .. })));
    settle(&*store, 1, 1).unwrap();
    settle(&*store, 5, 5).unwrap();
    assert_eq!(ledger(&*store), (2, vec![(5, 5)]));
}

/// Checks that the command can be delivered again.
pub fn a_refused_append_settles_nothing<P: Place>() {
    let place = P::new();
    let store = place.open();
    let refused = append(&*store, numbered(&order(1), LEDGER, 0), ExpectedVersion::StreamExists, happened(1));
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    assert_eq!(ledger(&*store), (0, vec![]));
    settle(&*store, 0, 0).unwrap();
}

/// Checks that the dead letter has the place of the record and the reason, and that nothing else happens.
pub fn a_malformed_command_is_settled_and_dead_lettered_once<P: Place>() {
    let place = P::new();
    let store = place.open();
    for _ in 0..3 {
        let command = Command { payload: vec![255, 0], ..numbered(&order("key"), LEDGER, 0) };
        drop(append(&*store, command, ExpectedVersion::Any, Decision::Malformed("not JSON".to_owned())));
    }
    let (letters, total) = super::requests::letters(&*store, 10);
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((total, &*letter.consumer, letter.payload()), (1, "baskets", Some(&[255, 0][..])));
    assert_eq!((&*letter.place, letter.key.as_deref()), ("topic baskets partition 0 offset 0", Some("key")));
    assert!(letter.reason.contains("not JSON"), "{}", letter.reason);
    assert_eq!(ledger(&*store), (1, vec![]));
    assert_eq!(reader(&*store).tallies().unwrap()[0].malformed, 1);
    // A sender that waits gets the answer, so its command is not dead-lettered.
    let waiting = append(&*store, command(&order(1), "c"), ExpectedVersion::Any, Decision::Malformed("no".to_owned()));
    assert!(waiting.is_ok());
    assert_eq!(super::requests::letters(&*store, 10).1, 1);
}

/// Checks also that a retry that is refused again leaves the dead letter with the newest reason.
pub fn a_refused_command_is_dead_lettered_if_it_asks_for_it<P: Place>() {
    let place = P::new();
    let store = place.open();
    let refused = |reason: &str| Decision::Rejected(reason.to_owned());
    let command = |number| Command { outcome_use: OutcomeUse::DeadLettered, ..numbered(&order("key"), LEDGER, number) };
    drop(append(&*store, numbered(&order("key"), LEDGER, 0), ExpectedVersion::Any, refused("no")));
    assert_eq!(super::requests::letters(&*store, 10).1, 0, "it did not ask for it");
    for _ in 0..3 {
        drop(append(&*store, command(1), ExpectedVersion::Any, refused("too late")));
    }
    let reason = || {
        let (letters, total) = super::requests::letters(&*store, 10);
        assert_eq!((total, &*letters[0].consumer), (1, "baskets"));
        letters[0].reason.clone()
    };
    assert!(reason().contains("rejected: too late"), "{}", reason());
    assert_eq!(ledger(&*store), (2, vec![]));
    assert_eq!(reader(&*store).tallies().unwrap()[0].rejected, 2);
    let again = |decision| {
        let again = Command { origin: Some(dead_letter_origin(1)), ..command(1) };
        append(&*store, again, ExpectedVersion::Any, decision).unwrap();
    };
    again(refused("much too late"));
    assert!(reason().contains("rejected: much too late"), "{}", reason());
    again(happened(1));
    assert_eq!(super::requests::letters(&*store, 10).1, 0);
}

/// Checks a record that can't become a command.
pub fn dead_lettering_settles_its_origin_and_happens_once<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for _ in 0..3 {
        for number in [0, 5] {
            let origin = origin(LEDGER, number, number);
            ask(|done| store.dead_letter(letter(&number.to_string()), Some(origin), done)).answer().unwrap();
        }
        store.close();
        store = place.open();
    }
    assert_eq!(ledger(&*store), (1, vec![(5, 5)]));
    assert_eq!(letters(&*store, 10), (vec![letter("5"), letter("0")], 2));
    assert!(matches!(settle(&*store, 5, 5), Err(Error::Duplicate { .. })));
}

/// Checks that the partitions of a source are listed together.
pub fn ledgers_are_listed_by_how_they_begin<P: Place>() {
    let place = P::new();
    let store = place.open();
    let names = ["kafka/a/t/0", "kafka/a/t/1", "kafka/ab/t/0", "kafka/A/t/0", "kafka/a_/t/0", "elsewhere/a"];
    for (next, name) in (1..).zip(names) {
        ask(|done| store.start_ledger(name, next, done)).answer().unwrap();
    }
    let mut reader = reader(&*store);
    let mut listed = |prefix: &str| -> Vec<(String, u64)> {
        let mut found: Vec<_> =
            reader.ledgers(prefix).unwrap().into_iter().map(|(name, ledger)| (name, ledger.next)).collect();
        found.sort();
        found
    };
    assert_eq!(listed("kafka/a/"), [("kafka/a/t/0".to_owned(), 1), ("kafka/a/t/1".to_owned(), 2)]);
    assert_eq!(listed("kafka/a_/"), [("kafka/a_/t/0".to_owned(), 5)]);
    assert_eq!(listed("").len(), 6);
    assert!(listed("kafka/%").is_empty());
    assert_eq!(reader.ledger("unheard of").unwrap(), Ledger::default());
}
