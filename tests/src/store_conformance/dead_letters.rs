//! Dead letters: each stays until it is processed or discarded, and takes effect once.

use super::Place;
use super::requests::{command, *};
use wasmill::clock::Clock;
use wasmill::model::*;
use wasmill::store::*;

fn dead_letter(store: &dyn EventStore, letter: DeadLetter) {
    ask(|done| store.dead_letter(letter, None, done)).answer().expect("a letter is dead-lettered");
}

fn discard(store: &dyn EventStore, number: u64) -> Result<(), Error> {
    ask(|done| store.discard_dead_letter(number, done)).answer()
}

fn numbers(store: &dyn EventStore) -> Vec<u64> {
    let (letters, total) =
        reader(store).dead_letters(&DeadLetterQuery::newest(usize::MAX)).expect("dead letters are read");
    assert_eq!(letters.len() as u64, total);
    letters.into_iter().map(|kept| kept.number).collect()
}

fn is_absent<T: std::fmt::Debug>(answer: Result<T, Error>) {
    assert!(matches!(answer, Err(Error::NotFound(_))), "{answer:?}");
}

fn record_of(topic: &str) -> Record {
    Record {
        topic: topic.into(),
        partition: 3,
        offset: i64::MAX,
        time_ms: 5,
        key: Some(vec![0, 255]),
        headers: vec![
            Header { name: "h".to_owned(), value: None },
            Header { name: "h".to_owned(), value: Some(vec![0]) },
        ],
        payload: None,
    }
}

/// Checks the content byte for byte, in a store that was opened again.
pub fn a_letter_keeps_what_it_takes_to_try_it_again<P: Place>() {
    let place = P::new();
    let store = place.open();
    let rich = Command {
        origin: Some(origin("kafka/a/b/0", 1, 2)),
        headers: record_of("t").headers,
        expected: Some(ExpectedVersion::Exact(Version(9))),
        ..command(&StreamId::new("order", "odd \u{0} id"), "c")
    };
    let contents = [
        DeadLetterContent::Gone,
        DeadLetterContent::Record(record_of("baskets")),
        DeadLetterContent::Command(rich),
        DeadLetterContent::Event(Position(7)),
        DeadLetterContent::Message("outbox".to_owned(), message("m")),
    ];
    // The dead letter says when it happened, and the store when it was dead-lettered.
    let before_ms = Clock::system().now_ms();
    let kept: Vec<_> =
        contents.map(|content| DeadLetter { content, key: Some("k".to_owned()), ..letter("there") }).into();
    kept.iter().for_each(|letter| dead_letter(&*store, letter.clone()));
    store.close();
    let store = place.open();
    let mut reader = reader(&*store);
    for (number, letter) in (1..).zip(&kept) {
        let kept = reader.dead_letter(number).unwrap().expect("it is there");
        assert_eq!((kept.number, &kept.letter), (number, letter));
        assert!(kept.dead_lettered_ms >= before_ms && kept.dead_lettered_ms <= Clock::system().now_ms(), "{kept:?}");
    }
    for absent in [0, 7, u64::MAX] {
        assert_eq!(reader.dead_letter(absent).unwrap(), None);
    }
}

/// Checks that no number is reused, even if the newest are discarded. An old number must not mean a new dead letter.
pub fn a_number_is_never_given_twice<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for round in 0..3 {
        dead_letter(&*store, letter("a"));
        dead_letter(&*store, letter("b"));
        let newest = 2 * (round + 1);
        assert_eq!((numbers(&*store), *store.dead_letters_head().borrow()), (vec![newest, newest - 1], newest));
        discard(&*store, newest).unwrap();
        discard(&*store, newest - 1).unwrap();
        is_absent(discard(&*store, newest));
        store.close();
        store = place.open();
        assert_eq!((numbers(&*store), *store.dead_letters_head().borrow()), (vec![], newest));
    }
}

/// Checks the pages, and the count of all.
pub fn dead_letters_are_listed_newest_first_by_consumer<P: Place>() {
    let place = P::new();
    let store = place.open();
    for n in 0..10 {
        dead_letter(&*store, DeadLetter { consumer: ["even", "odd"][n % 2].to_owned(), ..letter(&n.to_string()) });
    }
    discard(&*store, 8).unwrap();
    let mut reader = reader(&*store);
    let mut list = |consumer, before, limit| -> (Vec<u64>, u64) {
        let (letters, total) = reader.dead_letters(&DeadLetterQuery { consumer, before, limit }).unwrap();
        for kept in &letters {
            assert_eq!(kept.letter.place, (kept.number - 1).to_string());
        }
        (letters.into_iter().map(|kept| kept.number).collect(), total)
    };
    assert_eq!(list(None, None, 3), (vec![10, 9, 7], 9));
    assert_eq!(list(None, Some(7), 3), (vec![6, 5, 4], 9));
    assert_eq!(list(Some("odd"), None, 2), (vec![10, 6], 4));
    assert_eq!(list(Some("odd"), Some(6), 9), (vec![4, 2], 4));
    assert_eq!(list(Some("nobody"), None, 9), (vec![], 0));
    assert_eq!(list(None, Some(u64::MAX), usize::MAX).0.len(), 9);
}

/// Checks that the first accepted or rejected retry deletes the dead letter.
pub fn a_command_tried_again_takes_the_letter_away_once<P: Place>() {
    let place = P::new();
    let store = place.open();
    for (number, decide) in (1..).zip([|| happened(2), || happened(0), || Decision::Rejected("no".to_owned())]) {
        dead_letter(&*store, letter("a command"));
        let send = |store: &dyn EventStore| {
            let command = Command { origin: Some(dead_letter_origin(number)), ..command(&order(1), "again") };
            ask_append(store, command, ExpectedVersion::Any, decide())
        };
        let tries: Vec<_> = (0..5).map(|_| send(&*store)).collect();
        let mut answers: Vec<_> = tries.into_iter().map(Pending::answer).collect();
        assert!(answers.remove(0).is_ok());
        answers.push(send(&*store).answer());
        for answer in answers {
            assert!(matches!(answer, Err(Error::Duplicate { outcome: None, .. })), "{answer:?}");
        }
        assert!(numbers(&*store).is_empty());
    }
    store.close();
    let store = place.open();
    assert_eq!(all_events(&*store).len(), 2);
    assert!(reader(&*store).ledgers("").unwrap().is_empty(), "a letter needs no ledger");
}

/// Checks that the dead letter keeps its number.
pub fn a_command_that_fails_again_leaves_the_newest_reason<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    dead_letter(&*store, letter("first"));
    for reason in ["still not JSON", "not in this version either"] {
        let command = Command { origin: Some(dead_letter_origin(1)), ..command(&order(1), "again") };
        append(&*store, command, ExpectedVersion::Any, Decision::Malformed(reason.to_owned())).unwrap();
        store.close();
        store = place.open();
        let left = reader(&*store).dead_letter(1).unwrap().expect("the letter is there").letter;
        assert!(left.reason.contains(reason), "{}", left.reason);
        assert_eq!(DeadLetter { reason: letter("first").reason, ..left }, letter("first"));
        assert_eq!(numbers(&*store), [1]);
    }
    ask(|done| store.explain_dead_letter(1, "a reason of its own".to_owned(), done)).answer().unwrap();
    assert_eq!(reader(&*store).dead_letter(1).unwrap().unwrap().letter.reason, "a reason of its own");
    is_absent(ask(|done| store.explain_dead_letter(2, String::new(), done)).answer());
    // A conflict does not delete it either.
    let command = Command { origin: Some(dead_letter_origin(1)), ..command(&order(1), "again") };
    let refused = append(&*store, command, ExpectedVersion::StreamExists, happened(1));
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    assert_eq!(numbers(&*store), [1]);
}

/// Checks that it gets a new number, because its old one is long published.
pub fn a_message_goes_into_the_outbox_again_once<P: Place>() {
    let place = P::new();
    let store = place.open();
    let refused = message("refused");
    let progress = Step { messages: vec![message("sent"), refused.clone()], ..step("n", Position(0), Position(0)) };
    advance(&*store, progress).unwrap();
    ask(|done| store.published("kafka", 0, 2, Vec::new(), done)).answer().unwrap();
    dead_letter(
        &*store,
        DeadLetter { content: DeadLetterContent::Message("kafka".to_owned(), refused.clone()), ..letter("a message") },
    );
    dead_letter(&*store, letter("no message"));
    let republish = |number| ask(|done| store.republish_dead_letter(number, done)).answer();
    let no_message = republish(2);
    assert!(matches!(no_message, Err(Error::Invalid(_))), "{no_message:?}");
    republish(1).unwrap();
    is_absent(republish(1));
    is_absent(republish(3));
    assert_eq!((numbers(&*store), *store.outbox_head().borrow()), (vec![2], 3));
    store.close();
    let store = place.open();
    assert_eq!(reader(&*store).messages(2, 10).unwrap(), [(3, refused)]);
}

/// Checks that some are discarded at a time, oldest first, of one consumer or of all.
pub fn dead_letters_are_discarded_together<P: Place>() {
    let place = P::new();
    let store = place.open();
    for n in 0..10 {
        dead_letter(&*store, DeadLetter { consumer: ["even", "odd"][n % 2].to_owned(), ..letter(&n.to_string()) });
    }
    let discard = |consumer: Option<&str>, last, limit| {
        let which = Discard { consumer: consumer.map(str::to_owned), last, limit };
        ask(|done| store.discard_dead_letters(which, done)).answer().unwrap()
    };
    assert_eq!((discard(Some("odd"), 8, 3), numbers(&*store)), (3, vec![10, 9, 8, 7, 5, 3, 1]));
    assert_eq!(discard(Some("nobody"), u64::MAX, 3), 0);
    assert_eq!((discard(None, 8, 3), numbers(&*store)), (3, vec![10, 9, 8, 7]));
    assert_eq!((discard(None, u64::MAX, u64::MAX), numbers(&*store)), (4, vec![]));
}
