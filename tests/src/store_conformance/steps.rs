//! Steps of subscriptions and of sinks: a checkpoint and its effects move together, and only from the present position.

use super::Place;
use super::requests::*;
use std::sync::Barrier;
use std::thread;
use wasmill::model::*;
use wasmill::store::*;

const LEDGER: &str = "subscription/warehouse";

fn moved(answer: Result<impl std::fmt::Debug, Error>) -> (u64, u64) {
    match answer {
        Err(Error::CheckpointMoved { actual, expected, .. }) => (actual, expected),
        other => panic!("nobody was in the way: {other:?}"),
    }
}

fn commands(ids: impl IntoIterator<Item = u64>) -> Vec<Command> {
    ids.into_iter().map(|id| command(&order(id), &format!("c{id}"))).collect()
}

fn messages(ids: impl IntoIterator<Item = u64>) -> Vec<Message> {
    ids.into_iter().map(|id| message(&format!("m{id}"))).collect()
}

fn pending(store: &dyn EventStore) -> Vec<(u64, String)> {
    let commands = reader(store).pending_commands("warehouse").expect("pending commands are read");
    commands.iter().map(|command| (command.origin.as_ref().unwrap().last, command.id.to_string())).collect()
}

/// Checks two threads that both believe that they own the subscription.
pub fn of_two_owners_of_a_checkpoint_one_loses_with_all_its_effects<P: Place>() {
    let place = P::new();
    let store = place.open();
    for round in 0..20 {
        let end = record(&*store, &order(1), 1).position;
        let from = reader(&*store).checkpoint("warehouse").unwrap().unwrap_or_default();
        let barrier = Barrier::new(2);
        let answers: Vec<_> = thread::scope(|scope| {
            let owners = [0, 1].map(|owner| {
                let (store, barrier) = (&store, &barrier);
                let progress = Step {
                    commands: commands([owner]),
                    messages: messages([owner]),
                    dead_letters: vec![letter(&owner.to_string())],
                    ..step("warehouse", from, end)
                };
                scope.spawn(move || {
                    barrier.wait();
                    advance(&**store, progress)
                })
            });
            owners.map(|owner| owner.join().unwrap()).into()
        });
        let winner = answers.iter().position(Result::is_ok).expect("one owner wins");
        let loser = answers.into_iter().find(Result::is_err).expect("one owner loses");
        assert_eq!(moved(loser), (end.0, from.0));
        let mut reader = reader(&*store);
        assert_eq!(reader.checkpoint("warehouse").unwrap(), Some(end));
        let kept = pending(&*store);
        assert_eq!((kept.len(), &*kept[round].1), (round + 1, &*format!("c{winner}")));
        let kept = reader.messages(0, 100).unwrap();
        assert_eq!((kept.len(), &*kept[round].1.id), (round + 1, &*format!("m{winner}")));
        let (letters, total) = letters(&*store, 1);
        assert_eq!((total, &*letters[0].place), (round as u64 + 1, &*winner.to_string()));
    }
}

/// Checks this over steps, subscriptions and reopened stores, also after earlier commands are settled.
pub fn commands_get_consecutive_origins<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let end = record(&*store, &order("end"), 1).position;
    let mut sent = 0;
    for count in [3, 0, 1, 2] {
        let from = reader(&*store).checkpoint("warehouse").unwrap().unwrap_or_default();
        let progress = Step { commands: commands(sent..sent + count), ..step("warehouse", from, end) };
        let Advanced { commands } = advance(&*store, progress).unwrap();
        let expected = (sent..sent + count).map(|number| Some(origin(LEDGER, number, number)));
        assert!(commands.iter().map(|command| command.origin.clone()).eq(expected), "{commands:?}");
        sent += count;
        for command in commands {
            append(&*store, command, ExpectedVersion::Any, happened(1)).unwrap();
        }
        let other = Step { commands: commands_of_another(), ..step("other", Position(0), Position(0)) };
        let Advanced { commands } = advance(&*store, other).unwrap();
        assert_eq!(&*commands[0].origin.as_ref().unwrap().ledger, "subscription/other");
        store.close();
        store = place.open();
    }
    assert!(pending(&*store).is_empty());
    assert_eq!(reader(&*store).pending_commands("other").unwrap().len(), 4);
}

fn commands_of_another() -> Vec<Command> {
    commands([100])
}

/// Checks that they are in the order of sending, even if they are settled in any order.
pub fn pending_commands_are_those_not_settled_in_order<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for numbers in [0..3, 3..4, 4..9] {
        let rich = |command| Command {
            headers: vec![Header { name: "h".to_owned(), value: Some(vec![0]) }],
            expected: Some(ExpectedVersion::NoStream),
            ..command
        };
        let commands = commands(numbers).into_iter().map(rich).collect();
        advance(&*store, Step { commands, ..step("warehouse", Position(0), Position(0)) }).unwrap();
    }
    let all = reader(&*store).pending_commands("warehouse").unwrap();
    let mut left: Vec<u64> = (0..9).collect();
    for (n, number) in [4, 0, 8, 1, 2, 3, 7, 6, 5].into_iter().enumerate() {
        let command = all[number as usize].clone();
        assert_eq!((&*command.id, command.headers.len()), (&*format!("c{number}"), 1));
        match n % 3 {
            0 => drop(append(&*store, command, ExpectedVersion::Any, happened(1)).unwrap()),
            1 => drop(append(&*store, command, ExpectedVersion::Any, Decision::Rejected("no".to_owned())).unwrap()),
            _ => ask(|done| store.dead_letter(letter("c"), command.origin, done)).answer().unwrap(),
        }
        left.retain(|left| *left != number);
        for _ in 0..2 {
            let expected: Vec<_> = left.iter().map(|number| (*number, format!("c{number}"))).collect();
            assert_eq!(pending(&*store), expected);
            store.close();
            store = place.open();
        }
    }
}

/// Checks this over steps and reopened stores, and after all earlier messages are published and deleted.
pub fn messages_are_numbered_without_gaps<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let (mut newest, mut published) = (0, 0);
    for (count, publish) in [(2, 0), (3, 1), (0, 3), (1, 6), (4, 6), (2, 12), (1, 13)] {
        let progress =
            Step { messages: messages(newest + 1..=newest + count), ..step("notifier", Position(0), Position(0)) };
        advance(&*store, progress).unwrap();
        newest += count;
        assert_eq!(*store.outbox_head().borrow(), newest);
        ask(|done| store.published("kafka", published, publish, Vec::new(), done)).answer().unwrap();
        published = publish;
        store.close();
        store = place.open();
        assert_eq!(*store.outbox_head().borrow(), newest);
        let mut reader = reader(&*store);
        assert_eq!(reader.sink_position("kafka").unwrap(), Some(published));
        for after in published..=newest {
            let found = reader.messages(after, usize::MAX).unwrap();
            let expected: Vec<_> =
                (after + 1..=newest).map(|number| (number, message(&format!("m{number}")))).collect();
            assert_eq!(found, expected, "after {after} of {newest}");
            let some = reader.messages(after, 1).unwrap();
            assert_eq!(some.first(), expected.first(), "a limit leaves out the last, not the first");
        }
    }
}

/// Checks two threads of one sink, and a sink that was not told of a step.
pub fn the_position_of_a_sink_moves_only_from_where_it_is<P: Place>() {
    let place = P::new();
    let store = place.open();
    advance(&*store, Step { messages: messages(1..=5), ..step("n", Position(0), Position(0)) }).unwrap();
    let publish = |from, to| ask(|done| store.published("kafka", from, to, Vec::new(), done)).answer();
    assert_eq!(moved(publish(1, 2)), (0, 1));
    publish(0, 2).unwrap();
    assert_eq!(moved(publish(0, 3)), (2, 0));
    publish(2, 5).unwrap();
    assert_eq!(reader(&*store).sink_position("kafka").unwrap(), Some(5));
    assert_eq!(reader(&*store).sink_position("another").unwrap(), None);
}

/// Checks that a sink that lost a race dead-letters nothing, and the one that won does.
pub fn what_a_sink_could_not_publish_is_kept_with_its_position_or_not_at_all<P: Place>() {
    let place = P::new();
    let store = place.open();
    advance(&*store, Step { messages: messages(1..=3), ..step("n", Position(0), Position(0)) }).unwrap();
    let publish = |from, to, refused| ask(|done| store.published("kafka", from, to, refused, done)).answer();
    assert_eq!(moved(publish(1, 2, vec![letter("lost")])), (0, 1));
    assert_eq!(letters(&*store, 10), (vec![], 0));
    publish(0, 2, vec![letter("a"), letter("b")]).unwrap();
    assert_eq!(moved(publish(0, 2, vec![letter("a"), letter("b")])), (2, 0));
    store.close();
    let store = place.open();
    assert_eq!(reader(&*store).sink_position("kafka").unwrap(), Some(2));
    assert_eq!(letters(&*store, 10), (["b", "a"].map(letter).to_vec(), 2));
}

/// Checks also that sinks that count something else neither keep nor lose messages.
pub fn a_sink_counts_what_its_name_says<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let end = record(&*store, &order(1), 3).position.0;
    advance(&*store, Step { messages: messages(1..=2), ..step("n", Position(0), Position(0)) }).unwrap();
    for number in 1..=4 {
        ask(|done| store.dead_letter(letter(&number.to_string()), None, done)).answer().unwrap();
    }
    ask(|done| store.discard_dead_letter(4, done)).answer().unwrap();
    store.close();
    store = place.open();
    assert_eq!(*store.dead_letters_head().borrow(), 4, "also where the newest is gone");
    let kept = reader(&*store).dead_letters_after(1, 10).unwrap();
    assert_eq!(kept.into_iter().map(|kept| kept.number).collect::<Vec<_>>(), [2, 3]);
    let oldest = reader(&*store).dead_letters_after(0, 1).unwrap();
    assert_eq!(oldest.into_iter().map(|kept| (kept.number, kept.letter)).collect::<Vec<_>>(), [(1, letter("1"))]);
    for (sink, newest) in [("events/orders", end), ("dead-letters/till", 4), ("kafka", 2)] {
        let publish = |from, to| ask(|done| store.published(sink, from, to, Vec::new(), done)).answer();
        assert!(matches!(publish(0, newest + 1), Err(Error::Invalid(_))), "{sink}");
        publish(0, 1).unwrap();
        assert_eq!(
            reader(&*store).messages(0, 10).unwrap().len(),
            2,
            "{sink}: a step is kept until all of it is published"
        );
        publish(1, newest).unwrap();
    }
    assert_eq!(reader(&*store).messages(2, 10).unwrap(), []);
}

/// Checks this because a position past the end would skip what comes next.
pub fn nothing_moves_past_the_end<P: Place>() {
    let place = P::new();
    let store = place.open();
    let end = record(&*store, &order(1), 3).position;
    let beyond = Step { messages: messages([1]), ..step("notifier", Position(0), Position(end.0 + 1)) };
    let refused = advance(&*store, beyond).unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    assert_eq!(reader(&*store).checkpoint("notifier").unwrap(), None);
    advance(&*store, Step { messages: messages([1]), ..step("notifier", Position(0), end) }).unwrap();
    let refused = ask(|done| store.published("kafka", 0, 2, Vec::new(), done)).answer().unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    ask(|done| store.published("kafka", 0, 1, Vec::new(), done)).answer().unwrap();
}

/// Checks also that all dead letters are counted.
pub fn what_a_step_dead_letters_is_kept_newest_first<P: Place>() {
    let place = P::new();
    let store = place.open();
    let dead_letters = (0..10).map(|n| letter(&n.to_string())).collect();
    advance(&*store, Step { dead_letters, ..step("warehouse", Position(0), Position(0)) }).unwrap();
    ask(|done| store.dead_letter(letter("10"), None, done)).answer().unwrap();
    store.close();
    let store = place.open();
    assert_eq!(letters(&*store, 3), (["10", "9", "8"].map(letter).to_vec(), 11));
}

/// Checks that a batch of records becomes durable as a whole and once, however often it is tried.
pub fn records_are_settled_with_what_came_of_them<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let records = |runs: &[(u64, &[u64])]| {
        let origins = |&(first, items): &(u64, &[u64])| Origins {
            ledger: "kafka/taps/taps/0".into(),
            first,
            items: items.to_vec(),
        };
        Reached::Records { number: 0, records: runs.iter().map(origins).collect() }
    };
    let step = |reached, number| Step {
        reached,
        commands: commands([number]),
        messages: messages([number]),
        dead_letters: vec![letter(&number.to_string())],
        ..step("source/taps", Position(0), Position(0))
    };
    advance(&*store, step(records(&[(0, &[0, 2]), (5, &[5])]), 1)).unwrap();
    let again = advance(&*store, step(records(&[(3, &[3, 5, 6])]), 2)).unwrap_err();
    assert!(matches!(again, Error::Settled { .. }), "{again}");
    assert!(again.to_string().contains("topic taps partition 0 offset 5"), "{again}");
    advance(&*store, step(records(&[(3, &[4])]), 3)).unwrap();
    for _ in 0..2 {
        let mut reader = reader(&*store);
        assert_eq!(reader.ledger("kafka/taps/taps/0").unwrap(), Ledger { next: 6, ..Ledger::default() });
        let pending: Vec<_> = reader.pending_commands("source/taps").unwrap();
        let ids: Vec<_> = pending.iter().map(|command| &*command.id).collect();
        assert_eq!(ids, ["c1", "c3"]);
        assert_eq!(pending[1].origin, Some(origin("subscription/source/taps", 1, 1)));
        let sent = reader.messages(0, 10).unwrap();
        assert_eq!(sent.iter().map(|(_, message)| &*message.id).collect::<Vec<_>>(), ["m1", "m3"]);
        assert_eq!(letters(&*store, 5), (["3", "1"].map(letter).to_vec(), 2));
        store.close();
        store = place.open();
    }
}

/// Checks that a dead letter that is retried twice at once, or after it was discarded, takes effect at most once.
pub fn a_dead_letter_goes_with_what_came_of_it<P: Place>() {
    let place = P::new();
    let store = place.open();
    advance(
        &*store,
        Step { dead_letters: vec![letter("a"), letter("b")], ..step("warehouse", Position(0), Position(0)) },
    )
    .unwrap();
    let replay = |number, id| Step {
        reached: Reached::Replayed(number),
        commands: commands([id]),
        ..step("warehouse", Position(0), Position(0))
    };
    advance(&*store, replay(1, 7)).unwrap();
    let gone = advance(&*store, replay(1, 8)).unwrap_err();
    assert!(matches!(gone, Error::NotFound(_)), "{gone}");
    assert_eq!(letters(&*store, 5), (vec![letter("b")], 1));
    assert_eq!(pending(&*store), [(0, "c7".to_owned())]);
    assert_eq!(reader(&*store).checkpoint("warehouse").unwrap(), Some(Position(0)));
}

/// Checks that later records of a key do not pass those whose step failed, however many steps are in flight.
pub fn a_step_of_records_is_taken_only_directly_after_the_one_before_it<P: Place>() {
    let place = P::new();
    let store = place.open();
    let step = |number, item| {
        let records = vec![Origins { ledger: "kafka/taps/taps/0".into(), first: item, items: vec![item] }];
        let reached = Reached::Records { number, records };
        ask(|done| store.advance(Step { reached, ..step("source/taps", Position(0), Position(0)) }, done))
    };
    step(0, 0).answer().unwrap();
    // All are in flight together, and the first of them fails.
    let steps = [step(1, 0), step(2, 1), step(3, 2)].map(|step| step.answer());
    assert!(matches!(steps[0], Err(Error::Settled { .. })), "{steps:?}");
    assert!(steps[1..].iter().all(|step| matches!(step, Err(Error::OutOfRow { .. }))), "{steps:?}");
    assert!(matches!(step(4, 1).answer(), Err(Error::OutOfRow { .. })), "the row has ended");
    let steps = [step(0, 1), step(1, 2)].map(|step| step.answer());
    assert!(steps.iter().all(Result::is_ok), "{steps:?}");
    assert_eq!(reader(&*store).ledger("kafka/taps/taps/0").unwrap(), Ledger { next: 3, ..Ledger::default() });
}

/// Makes a step that changes a key and nothing else.
fn key_step(stream: &StreamId, from: Option<u64>, to: KeyState) -> Step {
    let key = Some(KeyChange { stream: stream.clone(), from: from.map(Version), to });
    Step { reached: Reached::Key, key, ..step("warehouse", Position(0), Position(0)) }
}

fn held(store: &dyn EventStore) -> Vec<(String, u64, Option<u64>)> {
    let held = reader(store).held_keys("warehouse").expect("held keys are read");
    held.into_iter().map(|HeldKey { stream, next, behind }| (stream.to_string(), next.0, behind)).collect()
}

/// Checks that a step is refused as a whole if its key is not held as it says, and that a key is held by its subscription
/// alone.
pub fn a_key_is_held_once_and_moves_by_compare_and_set<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let end = record(&*store, &order(1), 3).position;
    let (key, to) = (order(1), KeyState::Retried(Version(1)));
    let refused = |store: &dyn EventStore, progress: Step| {
        let before = (held(store), pending(store), letters(store, 5), reader(store).checkpoint("warehouse").unwrap());
        let error = advance(store, progress).unwrap_err();
        assert!(matches!(error, Error::KeyMoved { .. }), "{error}");
        assert_eq!(
            (held(store), pending(store), letters(store, 5), reader(store).checkpoint("warehouse").unwrap()),
            before
        );
        error.to_string()
    };
    let whole = |progress: Step| Step { commands: commands([9]), dead_letters: vec![letter("lost")], ..progress };
    let text = refused(&*store, whole(key_step(&key, Some(1), KeyState::Free)));
    assert!(text.contains("order/1 of subscription warehouse is not held, expected held from version 1 on"), "{text}");

    // A key is held together with the checkpoint that moves past its event.
    advance(&*store, Step { reached: Reached::Events { from: Position(0), to: end }, ..key_step(&key, None, to) })
        .unwrap();
    for _ in 0..2 {
        assert_eq!(held(&*store), [("order/1".to_owned(), 1, None)]);
        assert_eq!(reader(&*store).checkpoint("warehouse").unwrap(), Some(end));
        assert!(reader(&*store).held_keys("other").unwrap().is_empty());
        for from in [None, Some(0), Some(2)] {
            refused(&*store, whole(key_step(&key, from, KeyState::Retried(Version(3)))));
        }
        store.close();
        store = place.open();
    }
    let progress = Step { commands: commands([1]), ..key_step(&key, Some(1), KeyState::Retried(Version(3))) };
    advance(&*store, progress).unwrap();
    assert_eq!(held(&*store), [("order/1".to_owned(), 3, None)]);
    assert_eq!(pending(&*store), [(0, "c1".to_owned())]);
    advance(&*store, key_step(&order(2), None, to)).unwrap();
    advance(&*store, step("other", Position(0), Position(0))).unwrap();
    advance(&*store, Step { subscription: "other".into(), ..key_step(&key, None, to) }).unwrap();
    advance(&*store, key_step(&key, Some(3), KeyState::Free)).unwrap();
    assert_eq!(held(&*store), [("order/2".to_owned(), 1, None)]);
    assert_eq!(reader(&*store).held_keys("other").unwrap().len(), 1);
}

/// Checks this for each way in which a dead letter is removed.
pub fn a_key_that_waits_behind_a_dead_letter_goes_on_when_it_is_removed<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    for id in 1..=3 {
        record(&*store, &order(id), 4);
    }
    for id in 1..=3_u64 {
        let failed = DeadLetter { content: DeadLetterContent::Event(Position(2)), ..letter(&id.to_string()) };
        let progress =
            Step { dead_letters: vec![failed], ..key_step(&order(id), None, KeyState::BehindDeadLetter(Version(2))) };
        advance(&*store, progress).unwrap();
    }
    // A key can wait behind one dead letter only.
    let two = Step {
        dead_letters: vec![letter("a"), letter("b")],
        ..key_step(&order(4), None, KeyState::BehindDeadLetter(Version(1)))
    };
    assert!(matches!(advance(&*store, two), Err(Error::Invalid(_))));
    let none = key_step(&order(4), None, KeyState::BehindDeadLetter(Version(1)));
    assert!(matches!(advance(&*store, none), Err(Error::Invalid(_))));

    let waiting = |store: &dyn EventStore| -> Vec<u64> {
        let (letters, _) = reader(store).dead_letters(&DeadLetterQuery::newest(9)).expect("dead letters are read");
        letters.into_iter().map(|kept| kept.waiting).collect()
    };
    store.close();
    store = place.open();
    let behind = |id: u64| (format!("order/{id}"), 2, Some(id));
    let free = |id: u64| (format!("order/{id}"), 3, None);
    assert_eq!(held(&*store), [behind(1), behind(2), behind(3)]);
    assert_eq!(waiting(&*store), [2, 2, 2]);
    assert_eq!(reader(&*store).dead_letter(2).unwrap().unwrap().waiting, 2);
    let early = advance(&*store, key_step(&order(1), Some(2), KeyState::Free)).unwrap_err();
    assert!(early.to_string().contains("behind dead letter 1"), "{early}");

    ask(|done| store.discard_dead_letter(1, done)).answer().unwrap();
    assert_eq!(held(&*store), [free(1), behind(2), behind(3)]);
    let replayed =
        Step { reached: Reached::Replayed(2), commands: commands([7]), ..step("warehouse", Position(0), Position(0)) };
    advance(&*store, replayed).unwrap();
    assert_eq!(held(&*store), [free(1), free(2), behind(3)]);
    let all = Discard { consumer: None, last: 9, limit: 9 };
    assert_eq!(ask(|done| store.discard_dead_letters(all, done)).answer().unwrap(), 1);
    store.close();
    store = place.open();
    assert_eq!(held(&*store), [free(1), free(2), free(3)]);
}

/// Checks this in both directions. Steps of before are refused, and commands keep their numbers.
pub fn a_reset_moves_a_checkpoint_anywhere_and_frees_all_keys<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let end = record(&*store, &order(1), 5).position;
    let sends = Step { commands: commands([1]), ..step("warehouse", Position(0), Position(3)) };
    advance(&*store, sends).unwrap();
    advance(&*store, key_step(&order(1), None, KeyState::Retried(Version(2)))).unwrap();
    advance(&*store, step("other", Position(0), Position(0))).unwrap();
    advance(&*store, Step { subscription: "other".into(), ..key_step(&order(1), None, KeyState::Retried(Version(2))) })
        .unwrap();
    let reset = |store: &dyn EventStore, to: Position| {
        advance(store, Step { reached: Reached::Reset(to), ..step("warehouse", Position(0), Position(0)) })
    };
    assert!(reset(&*store, Position(end.0 + 1)).is_err(), "past the newest event");
    assert_eq!(held(&*store).len(), 1);
    for to in [Position(0), end, Position(2)] {
        reset(&*store, to).unwrap();
        assert_eq!(reader(&*store).checkpoint("warehouse").unwrap(), Some(to));
        assert_eq!(held(&*store), []);
        store.close();
        store = place.open();
    }
    assert_eq!(moved(advance(&*store, step("warehouse", Position(3), end))), (2, 3));
    let late = advance(&*store, key_step(&order(1), Some(2), KeyState::Free)).unwrap_err();
    assert!(matches!(late, Error::KeyMoved { .. }), "{late}");
    let Advanced { commands } =
        advance(&*store, Step { commands: commands([1]), ..step("warehouse", Position(2), end) }).unwrap();
    assert_eq!(commands[0].origin, Some(origin(LEDGER, 1, 1)), "it takes effect again");
    assert_eq!(reader(&*store).held_keys("other").unwrap().len(), 1);
}
