//! Archived streams: they take no more events, and everything else stays as it was.

use super::Place;
use super::requests::*;
use wasmill::model::*;
use wasmill::store::*;

fn archive(store: &dyn EventStore, stream: &StreamId) -> Result<(), Error> {
    ask(|done| store.archive(stream.clone(), done)).answer()
}

fn restore(store: &dyn EventStore, stream: &StreamId) -> Result<(), Error> {
    ask(|done| store.restore(stream.clone(), done)).answer()
}

fn is_refused(answer: Result<Appended, Error>, of: &StreamId) {
    match answer {
        Err(error @ Error::Archived { .. }) => {
            let said = error.to_string();
            assert!(said.contains(&of.to_string()) && said.contains("streams restore"), "{said}");
        }
        other => panic!("{of} is archived: {other:?}"),
    }
}

/// Checks appends with any expectation, also in a store that was opened again, and while it does deferred work.
pub fn an_archived_stream_takes_no_more_events_and_reads_as_before<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for n in 0..40 {
        record(&*store, &order(n), 1 + n % 5);
    }
    let before = all_events(&*store);
    for n in 0..20 {
        archive(&*store, &order(n)).unwrap();
    }
    for _ in 0..2 {
        let mut reader = reader(&*store);
        for n in 0..40 {
            let stream = order(n);
            assert_eq!(reader.is_archived(&stream).unwrap(), n < 20);
            let expected: Vec<_> = before.iter().filter(|event| event.stream == stream).cloned().collect();
            assert_eq!(whole_stream(&mut *reader, &stream), expected);
        }
        assert_eq!(all_events(&*store), before, "positions stay");
        for expected in [ExpectedVersion::Any, ExpectedVersion::StreamExists, ExpectedVersion::Exact(Version(4))] {
            is_refused(append(&*store, command(&order(3), "c"), expected, happened(1)), &order(3));
        }
        is_refused(append(&*store, command(&order(3), "c"), ExpectedVersion::Any, happened(0)), &order(3));
        assert!(!reader.is_archived(&StreamId::new("another", "3")).unwrap());
        drop(reader);
        store.close();
        store = place.open();
    }
    let refusal = Decision::Rejected("no".to_owned());
    append(&*store, command(&order(3), "c"), ExpectedVersion::Any, refusal).expect("a refusal adds no event");
    assert_eq!(record(&*store, &order(30), 1).version, Version(2), "other streams go on");
}

/// Checks that it is as if it had never been archived, however often.
pub fn a_restored_stream_goes_on_where_it_was<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    record(&*store, &order(1), 3);
    for round in 0..3 {
        archive(&*store, &order(1)).unwrap();
        archive(&*store, &order(1)).expect("archiving twice is archiving");
        store.close();
        store = place.open();
        is_refused(append(&*store, command(&order(1), "c"), ExpectedVersion::Any, happened(1)), &order(1));
        restore(&*store, &order(1)).unwrap();
        restore(&*store, &order(1)).expect("restoring twice is restoring");
        let version = Version(3 + round);
        append(&*store, command(&order(1), "c"), ExpectedVersion::Exact(version), happened(1)).unwrap();
    }
    assert_eq!(whole_stream(&mut *reader(&*store), &order(1)).len(), 6);
}

/// Checks requests that are in flight together.
pub fn what_was_asked_before_is_recorded_and_what_comes_after_is_not<P: Place>() {
    let place = P::new();
    let store = place.open();
    let send = |n: u64| ask_append(&*store, command(&order(n % 7), "c"), ExpectedVersion::Any, happened(1));
    let before: Vec<_> = (0..70).map(send).collect();
    let archived: Vec<_> = (0..7).map(|n| ask(|done| store.archive(order(n), done))).collect();
    let after: Vec<_> = (0..70).map(send).collect();
    before.into_iter().for_each(|pending| assert!(pending.answer().is_ok()));
    archived.into_iter().for_each(|pending| pending.answer().unwrap());
    after.into_iter().zip(0..).for_each(|(pending, n): (_, u64)| is_refused(pending.answer(), &order(n % 7)));
    assert_eq!(all_events(&*store).len(), 70);
}

/// Checks that the command can be delivered again, or be dead-lettered by its sender.
pub fn a_command_to_an_archived_stream_settles_nothing<P: Place>() {
    const LEDGER: &str = "kafka/baskets/baskets/0";
    let place = P::new();
    let store = place.open();
    record(&*store, &order(1), 1);
    archive(&*store, &order(1)).unwrap();
    let send = || append(&*store, numbered(&order(1), LEDGER, 0), ExpectedVersion::Any, happened(1));
    is_refused(send(), &order(1));
    let durable = || append(&*store, durable(&order(1), "mine"), ExpectedVersion::Any, happened(1));
    is_refused(durable(), &order(1));
    assert_eq!(reader(&*store).ledger(LEDGER).unwrap(), Ledger::default());
    restore(&*store, &order(1)).unwrap();
    assert_eq!(send().unwrap().version, Version(2));
    assert_eq!(durable().unwrap().version, Version(3), "the refusal is not remembered");
}

/// Checks that a mistyped id is an error and does not prevent the stream from being created later.
pub fn only_a_stream_with_events_is_archived<P: Place>() {
    let place = P::new();
    let store = place.open();
    record(&*store, &order(1), 1);
    for stream in [order(2), StreamId::new("other", "1"), StreamId::new("", "")] {
        for answer in [archive(&*store, &stream), restore(&*store, &stream)] {
            assert!(matches!(answer, Err(Error::NotFound(_))), "{answer:?}");
        }
        assert!(!reader(&*store).is_archived(&stream).unwrap());
        record(&*store, &stream, 1);
    }
}

/// Checks the order, the pages and what is not listed any more.
pub fn archived_streams_are_listed_by_type_and_id<P: Place>() {
    let place = P::new();
    let store = place.open();
    let streams: Vec<StreamId> =
        ["b", "a"].iter().flat_map(|kind| ["10", "1", "9", "x/y"].map(|id| StreamId::new(*kind, id))).collect();
    for stream in &streams {
        record(&*store, stream, 1);
        archive(&*store, stream).unwrap();
    }
    record(&*store, &StreamId::new("a", "2"), 1);
    restore(&*store, &StreamId::new("b", "1")).unwrap();
    let mut expected = streams;
    expected.sort();
    expected.retain(|stream| *stream != StreamId::new("b", "1"));
    let mut reader = reader(&*store);
    for limit in 1..10 {
        let (mut found, mut after): (Vec<StreamId>, Option<StreamId>) = (Vec::new(), None);
        loop {
            let page = reader.archived_streams(after.as_ref(), limit).unwrap();
            assert!(page.len() <= limit && page.iter().all(|archived| archived.time_ms > 0));
            found.extend(page.iter().map(|archived| archived.stream.clone()));
            match page.last() {
                Some(last) => after = Some(last.stream.clone()),
                None => break,
            }
        }
        assert_eq!(found, expected, "pages of {limit}");
    }
}
