//! Appends: expected versions, atomicity, order, and what an event keeps.

use super::Place;
use super::requests::*;
use std::collections::{HashMap, HashSet};
use std::sync::Barrier;
use std::thread;
use wasmill::model::ExpectedVersion::*;
use wasmill::model::*;
use wasmill::store::*;

/// Checks every mode on a stream with and without events.
pub fn an_expectation_is_met_or_the_conflict_names_the_actual_version<P: Place>() {
    let place = P::new();
    let store = place.open();
    for (n, (before, expected, met)) in [
        (0, Exact(Version(0)), true),
        (0, Exact(Version(1)), false),
        (0, NoStream, true),
        (0, StreamExists, false),
        (0, Any, true),
        (3, Exact(Version(3)), true),
        (3, Exact(Version(2)), false),
        (3, Exact(Version(4)), false),
        (3, Exact(Version(u64::MAX)), false),
        (3, Exact(Version(0)), false),
        (3, NoStream, false),
        (3, StreamExists, true),
        (3, Any, true),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = order(n);
        if before > 0 {
            record(&*store, &stream, before);
        }
        match append(&*store, command(&stream, "c"), expected, happened(2)) {
            Ok(appended) => {
                assert!(met && appended.version == Version(before as u64 + 2), "{before} {expected}: {appended:?}")
            }
            Err(Error::Conflict { stream: refused, actual, expected: wanted }) => {
                assert!(!met, "{before} {expected}");
                assert_eq!((refused, actual, wanted), (stream.clone(), Version(before as u64), expected));
            }
            Err(error) => panic!("{before} {expected}: {error}"),
        }
        let after = if met { before + 2 } else { before };
        assert_eq!(reader(&*store).stream_version(&stream).unwrap(), Version(after as u64), "{before} {expected}");
    }
}

/// Checks appends of which each was decided on the one before, where others bring the stream to the version that the next expects.
pub fn an_append_fails_with_the_one_that_it_depends_on<P: Place>() {
    let place = P::new();
    let store = place.open();
    for of_others in 0..3 {
        let stream = order(of_others);
        let held = place.standstill();
        if of_others > 0 {
            drop(ask_append(&*store, command(&stream, "others"), Any, happened(of_others)));
        }
        let chain = Chain::default();
        let ask_next = |version: usize, decision| {
            let (command, expected) = (command(&stream, "c").into(), Exact(Version(version as u64)));
            ask(|done| store.append(Append { command, expected, decision, chain: Some(chain.clone()) }, done))
        };
        let asked = [ask_next(0, happened(1)), ask_next(1, happened(1)), ask_next(2, Decision::Rejected("no".into()))];
        drop(held);
        let answers = asked.map(Pending::answer);
        if of_others == 0 {
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
            continue;
        }
        let actual = Version(of_others as u64);
        let is_conflict = |answer: &Result<Appended, Error>| matches!(answer, Err(Error::Conflict { actual: is, .. }) if *is == actual);
        assert!(answers.iter().all(is_conflict), "{answers:?}");
        let later = ask_next(of_others, happened(1)).answer();
        assert!(is_conflict(&later), "nothing of the chain succeeds any more: {later:?}");
        assert_eq!(reader(&*store).stream_version(&stream).unwrap(), actual);
    }
}

/// Checks senders that all saw the same version.
pub fn of_twenty_appends_on_one_version_one_succeeds<P: Place>() {
    let place = P::new();
    let store = place.open();
    for round in 0..20u64 {
        let (stream, barrier) = (order("contended"), Barrier::new(20));
        let answers: Vec<_> = thread::scope(|scope| {
            let senders = (0..20).map(|n| {
                let (store, stream, barrier) = (&store, &stream, &barrier);
                scope.spawn(move || {
                    let command = command(stream, &format!("{round}-{n}"));
                    barrier.wait();
                    append(&**store, command, Exact(Version(round)), happened(1))
                })
            });
            senders.collect::<Vec<_>>().into_iter().map(|sender| sender.join().unwrap()).collect()
        });
        let won =
            answers.iter().filter(|answer| answer.as_ref().is_ok_and(|a| a.version == Version(round + 1))).count();
        let lost = answers
            .iter()
            .filter(|answer| matches!(answer, Err(Error::Conflict { actual, .. }) if *actual == Version(round + 1)))
            .count();
        assert_eq!((won, lost), (1, 19), "{answers:?}");
    }
    assert_eq!(whole_stream(&mut *reader(&*store), &order("contended")).len(), 20);
}

/// Checks that a loser between winners leaves nothing behind, and that readers never see a part of an append.
pub fn the_events_of_an_append_are_recorded_all_or_none<P: Place>() {
    let place = P::new();
    let store = place.open();
    let stream = order(1);
    let asked: Vec<_> = (0..200u64)
        .map(|n| {
            let expected = if n % 3 == 2 { NoStream } else { Any };
            ask_append(&*store, command(&stream, &n.to_string()), expected, happened(5))
        })
        .collect();
    let mut reader = reader(&*store);
    for pending in asked {
        let seen = reader.stream_version(&stream).unwrap();
        assert_eq!(seen.0 % 5, 0, "a part of an append is visible");
        match pending.answer() {
            Ok(appended) => assert_eq!(appended.version.0 % 5, 0),
            Err(error) => assert!(matches!(error, Error::Conflict { .. }), "{error}"),
        }
    }
    let mut by_command: HashMap<_, usize> = HashMap::new();
    for event in whole_stream(&mut *reader, &stream) {
        *by_command.entry(event.causation_id).or_default() += 1;
    }
    assert_eq!(by_command.len(), 134);
    assert!(by_command.iter().all(|(id, events)| *events == 5 && id.parse::<u64>().unwrap() % 3 != 2));
}

/// Checks that an append that was answered comes before all that are requested later.
pub fn positions_increase_in_commit_order_and_versions_have_no_gaps<P: Place>() {
    let place = P::new();
    let store = place.open();
    thread::scope(|scope| {
        for sender in 0..4 {
            let store = &store;
            scope.spawn(move || {
                let mut last = Position(0);
                for n in 0..60u64 {
                    let command = command(&order(n % 5), &format!("{sender}-{n}"));
                    let appended = append(&**store, command, Any, happened(1 + n as usize % 3)).unwrap();
                    assert!(appended.position > last, "positions follow the order of commits");
                    last = appended.position;
                }
            });
        }
    });
    let events = all_events(&*store);
    assert_eq!(events.len(), 4 * 60 * 2);
    assert!(events.is_sorted_by(|one, next| one.position < next.position));
    assert_eq!(*store.head().borrow(), events.last().unwrap().position);
    let mut versions: HashMap<StreamId, u64> = HashMap::new();
    for event in &events {
        let version = versions.entry(event.stream.clone()).or_default();
        *version += 1;
        assert_eq!(event.version.0, *version, "{}", event.stream);
    }
    let ids: HashSet<_> = events.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), events.len(), "event ids are unique");
    assert!(ids.iter().all(|id| id.get_version_num() == 7));
}

/// Appends several times to more streams than a store may want to keep in memory, all at once.
pub fn many_streams_in_one_transaction_keep_their_versions<P: Place>() {
    let place = P::new();
    let store = place.open();
    let asked: Vec<_> = (0..600u64)
        .map(|n| {
            let (stream, version) = (order(n % 200), Version(n / 200 * 2));
            ask_append(&*store, command(&stream, "c"), Exact(version), happened(2))
        })
        .collect();
    asked.into_iter().for_each(|pending| assert!(pending.answer().is_ok()));
    let mut reader = reader(&*store);
    (0..200).for_each(|n| assert_eq!(whole_stream(&mut *reader, &order(n)).len(), 6));
}

/// Checks that everything but position, version and id comes from the command.
pub fn an_event_keeps_what_its_command_said<P: Place>() {
    let place = P::new();
    let store = place.open();
    let headers = vec![
        Header { name: "trace".to_owned(), value: Some(vec![0, 159, 146, 150]) },
        Header { name: "trace".to_owned(), value: None },
        Header { name: String::new(), value: Some(Vec::new()) },
    ];
    let command = Command {
        time_ms: 1_700_000_000_123,
        correlation_id: "first \u{0} cause".into(),
        headers: headers.clone(),
        ..command(&order(1), "the-command")
    };
    let payload: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let events = [("Big", payload.clone()), ("Empty", Vec::new())]
        .map(|(name, payload)| NewEvent { name: name.to_owned(), payload });
    let appended = append(&*store, command, NoStream, Decision::Events(events.into())).unwrap();
    store.close();
    let store = place.open();
    let read = whole_stream(&mut *reader(&*store), &order(1));
    assert_eq!(read, all_events(&*store), "both ways of reading say the same");
    assert_eq!((&*read[0].name, &read[0].payload), ("Big", &payload));
    assert_eq!((&*read[1].name, &read[1].payload, read[1].position), ("Empty", &Vec::new(), appended.position));
    for event in read {
        assert_eq!((&*event.causation_id, &*event.correlation_id), ("the-command", "first \u{0} cause"));
        assert_eq!((event.time_ms, event.headers), (1_700_000_000_123, headers.clone()));
    }
}

/// Checks odd names too, and types and ids that read the same together.
pub fn streams_are_told_apart_by_type_and_id<P: Place>() {
    let place = P::new();
    let store = place.open();
    let long = "x".repeat(5_000);
    let streams: Vec<StreamId> = [
        ("a", "b/c"),
        ("a/b", "c"),
        ("a", ""),
        ("a", " "),
        ("a", "B"),
        ("a", "b"),
        ("a", "b\0"),
        ("a", "b\0c"),
        ("a", "'; DROP TABLE events; --"),
        ("a", "%"),
        ("A", "b"),
        ("a", "é"),
        ("a", "e\u{301}"),
        ("a", "\u{1f980}"),
        ("a", &long),
    ]
    .into_iter()
    .map(|(aggregate_type, id)| StreamId::new(aggregate_type, id))
    .collect();
    for (count, stream) in streams.iter().enumerate() {
        append(&*store, command(stream, "c"), NoStream, happened(count + 1)).unwrap();
    }
    for _ in 0..2 {
        let mut reader = reader(&*store);
        for (count, stream) in streams.iter().enumerate() {
            assert_eq!(whole_stream(&mut *reader, stream).len(), count + 1, "{stream}");
        }
        // These are enough events to make the store do its deferred work.
        record(&*store, &order("other"), 500);
    }
}

/// Checks a success that changes nothing.
pub fn an_append_without_events_is_accepted_and_changes_nothing<P: Place>() {
    let place = P::new();
    let store = place.open();
    let before = record(&*store, &order(1), 3);
    let appended = append(&*store, command(&order(1), "idle"), Exact(Version(3)), happened(0)).unwrap();
    assert_eq!(appended, before);
    assert!(matches!(append(&*store, command(&order(1), "idle"), NoStream, happened(0)), Err(Error::Conflict { .. })));
    assert_eq!(append(&*store, command(&order(2), "idle"), NoStream, happened(0)).unwrap().version, Version(0));
    assert_eq!(all_events(&*store).len(), 3);
}

/// Checks that each command counts once, by its outcome. A refusal of the store is not an outcome.
pub fn outcomes_are_counted_exactly<P: Place>() {
    let place = P::new();
    for opened in 1..=2u64 {
        let store = place.open();
        let send = |name: &str, expected, decision| {
            let command = Command { name: name.into(), ..command(&order(name), name) };
            ask_append(&*store, command, expected, decision)
        };
        let mut asked: Vec<_> = (0..100).map(|n| send("Accepted", Any, happened(n % 3))).collect();
        asked.extend((0..30).map(|_| send("Mixed", Any, Decision::Rejected("no".to_owned()))));
        asked.extend((0..20).map(|_| send("Mixed", Any, Decision::Malformed("what?".to_owned()))));
        asked.extend((0..10).map(|_| send("Conflicting", StreamExists, happened(1))));
        asked.into_iter().for_each(|pending| drop(pending.answer()));
        let tally = |command: &str, accepted, rejected, malformed| Tally {
            aggregate_type: "order".to_owned(),
            command: command.to_owned(),
            accepted: opened * accepted,
            rejected: opened * rejected,
            malformed: opened * malformed,
        };
        let expected = [tally("Accepted", 100, 0, 0), tally("Mixed", 0, 30, 20)];
        assert_eq!(reader(&*store).tallies().unwrap(), expected);
        store.close();
    }
}

/// Checks the statistics of everything that a store keeps.
pub fn statistics_say_what_is_there<P: Place>() {
    let place = P::new();
    let store = place.open();
    assert_eq!(statistics(&*store, true).counted, Some(Counted::default()));
    let recorded: Vec<_> = (0..12).map(|n| record(&*store, &order(n % 3), 2)).collect();
    let end = recorded[11].position;
    let chosen = durable(&StreamId::new("household", "1"), "chosen");
    append(&*store, chosen, ExpectedVersion::NoStream, happened(1)).unwrap();
    append(&*store, numbered(&order(1), "kafka/a/a/0", 0), ExpectedVersion::Any, happened(0)).unwrap();
    let (commands, messages) = (vec![command(&order(1), "sent")], vec![message("1"), message("2")]);
    advance(&*store, Step { commands, messages, ..step("warehouse", Position(0), end) }).unwrap();
    ask(|done| store.dead_letter(letter("there"), None, done)).answer().unwrap();
    ask(|done| store.archive(order(1), done)).answer().unwrap();
    let found = statistics(&*store, true);
    let counted = found.counted.unwrap();
    assert_eq!((found.position, counted.events, counted.streams), (end.0 + 1, 25, 4));
    let types: Vec<_> = counted.types.iter().map(|of| (&*of.aggregate_type, &*of.name, of.events)).collect();
    assert_eq!(types, [("household", "Happened", 1), ("order", "Happened", 24)]);
    assert_eq!(counted.bytes, counted.types.iter().map(|of| of.bytes).sum::<u64>());
    assert_eq!((found.archived_streams, found.subscriptions, found.ledgers), (1, 1, 1));
    assert_eq!((found.outbox_commands, found.outbox_messages), (1, 2));
    assert_eq!((found.outcomes, found.dead_letters), (1, 1));
    assert_eq!(statistics(&*store, false).counted, None);
}
