//! Command ids that their sender chose: the same id gives the same outcome.

use super::Place;
use super::requests::*;
use std::sync::Arc;
use wasmill::model::*;
use wasmill::store::*;

fn outcome(answer: Result<Appended, Error>) -> Outcome {
    match answer {
        Err(Error::Duplicate { id, outcome: Some(Remembered { outcome, remembered_from_ms }) }) => {
            assert_eq!(&*id, "mine");
            let age_ms = wasmill::clock::Clock::system().now_ms() - remembered_from_ms;
            assert!(age_ms < PATIENCE.as_millis() as u64, "it says from when it is remembered");
            *outcome
        }
        other => panic!("not a repetition: {other:?}"),
    }
}

/// Checks repetitions in flight together, later, and in a store that was opened again.
pub fn a_repeated_command_id_gets_its_first_outcome<P: Place>() {
    let place = P::new();
    let store = place.open();
    let stream = order(1);
    let send = |store: &Arc<dyn EventStore>| {
        // The expected version was right the first time and no longer is.
        ask_append(&**store, durable(&stream, "mine"), ExpectedVersion::NoStream, happened(2))
    };
    let (first, at_once) = (send(&store), send(&store));
    let first = first.answer().unwrap();
    let expected = Outcome::Accepted { version: Version(2), position: first.position, events: 2 };
    assert_eq!(outcome(at_once.answer()), expected);
    record(&*store, &stream, 1);
    assert_eq!(outcome(send(&store).answer()), expected);
    store.close();
    let store = place.open();
    assert_eq!(outcome(send(&store).answer()), expected);
    assert_eq!(whole_stream(&mut *reader(&*store), &stream).len(), 3);
}

/// Checks another stream, another name and another payload.
pub fn a_command_id_with_other_content_is_refused<P: Place>() {
    let place = P::new();
    let store = place.open();
    let original = durable(&order(1), "mine");
    append(&*store, original.clone(), ExpectedVersion::Any, happened(1)).unwrap();
    for other in [
        Command { stream: order(2), ..original.clone() },
        Command { stream: StreamId::new("other", "1"), ..original.clone() },
        Command { name: "Undo".into(), ..original.clone() },
        Command { payload: b"{ }".to_vec(), ..original.clone() },
    ] {
        let refused = append(&*store, other, ExpectedVersion::Any, happened(1));
        assert!(matches!(&refused, Err(Error::IdReused { id }) if &**id == "mine"), "{refused:?}");
    }
    // Time and headers may differ, because a sender that tries again makes new ones.
    let again = Command { time_ms: 5, headers: vec![Header { name: "try".to_owned(), value: None }], ..original };
    outcome(append(&*store, again, ExpectedVersion::Any, happened(1)));
    assert_eq!(all_events(&*store).len(), 1);
}

/// Checks that the aggregate is not asked again, whatever it would decide now.
pub fn a_refusal_is_remembered_like_a_success<P: Place>() {
    let reason = || "not on Sundays".to_owned();
    for (decision, expected) in [
        (Decision::Rejected(reason()), Outcome::Rejected { reason: reason() }),
        (Decision::Malformed(reason()), Outcome::Malformed { reason: reason() }),
    ] {
        let place = P::new();
        let store = place.open();
        append(&*store, durable(&order(1), "mine"), ExpectedVersion::Any, decision).unwrap();
        store.close();
        let store = place.open();
        let again = append(&*store, durable(&order(1), "mine"), ExpectedVersion::Any, happened(1));
        assert_eq!(outcome(again), expected);
        assert!(all_events(&*store).is_empty());
    }
}

/// Checks that the sender may try again with the actual version.
pub fn a_conflict_is_not_remembered<P: Place>() {
    let place = P::new();
    let store = place.open();
    let refused = append(&*store, durable(&order(1), "mine"), ExpectedVersion::StreamExists, happened(1));
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    append(&*store, durable(&order(1), "mine"), ExpectedVersion::NoStream, happened(1)).unwrap();
}
