//! Races of a shard: the store fails, others write, an aggregate is busy or asks for a retry. No state runs ahead of
//! the store, no command overtakes another, and no aggregate waits for another one.

use crate::sqlite::Standstill;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wasmill::aggregates::{Aggregates, Options};
use wasmill::model::Refusal;
use wasmill::model::{Command, ExpectedVersion, NewEvent, Outcome, Version};
use wasmill::status::State;
use wasmill::store::sqlite::{FILE_NAME, Options as StoreOptions, SqliteStore};
use wasmill::store::{Decision, EventStore};
use wasmill_tests::scripted::{Counters, Outcomes, Script, count, counter, numbered};
use wasmill_tests::store_conformance::requests;
use wasmill_tests::waiting::until;

/// A store and counters.
struct Setting {
    folder: tempfile::TempDir,
    store: Arc<dyn EventStore>,
    aggregates: Aggregates,
    outcomes: Outcomes,
}

impl Setting {
    fn new(options: Options, script: impl FnOnce(&Arc<dyn EventStore>) -> Script) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join(FILE_NAME), StoreOptions::default()).expect("a store");
        let store: Arc<dyn EventStore> = Arc::new(store);
        let aggregates = Counters::serve(&store, options, script(&store));
        let outcomes = Outcomes::new(&store);
        Self { folder, store, aggregates, outcomes }
    }

    fn obedient() -> Self {
        Self::new(Options::default(), |_| Arc::new(|_| Ok(())))
    }

    /// One whose shard decides on a command until it is told to go on.
    fn held(options: Options) -> (Self, crossbeam_channel::Sender<()>) {
        let (go_on, held) = crossbeam_channel::bounded::<()>(0);
        let (started, is_held) = crossbeam_channel::bounded(1);
        let setting = Self::new(options, |_| {
            Arc::new(move |command| {
                if &*command.name == "held" {
                    started.send(()).expect("the test waits");
                    held.recv().expect("the test lets it go on");
                }
                Ok(())
            })
        });
        setting.send(count("a", "held"));
        is_held.recv().expect("it is decided on");
        (setting, go_on)
    }

    fn send(&self, command: Command) {
        self.outcomes.of(&self.aggregates, command);
    }

    /// Sends it and waits for its outcome.
    fn ask(&self, command: Command) -> Outcome {
        self.send(command);
        self.outcomes.next().1
    }

    fn standstill(&self) -> Standstill {
        Standstill::of(self.folder.path())
    }

    /// The counts that a counter has recorded.
    fn counts(&self, id: &str) -> Vec<String> {
        let events = requests::whole_stream(&mut *requests::reader(&*self.store), &counter(id));
        events.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect()
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.aggregates.stop();
        self.store.close();
    }
}

fn is_accepted(outcome: &Outcome, at: u64) -> bool {
    matches!(outcome, Outcome::Accepted { version, .. } if *version == Version(at))
}

fn is_failed(outcome: &Outcome, with: &str) -> bool {
    matches!(outcome, Outcome::Failed { reason } if reason.contains(with))
}

#[test]
fn what_the_store_failed_leaves_no_trace_in_a_live_aggregate() {
    let setting = Setting::obedient();
    assert!(is_accepted(&setting.ask(count("a", "first")), 1));
    let standstill = setting.standstill();
    let failed = setting.ask(count("a", "lost"));
    assert!(is_failed(&failed, "locked"), "{failed:?}");
    standstill.end();
    assert!(is_accepted(&setting.ask(count("a", "second")), 2));
    assert_eq!(setting.counts("a"), ["1", "2"]);
}

/// Each is decided on the state after the one before, and answered once it is durable, which [`Outcomes`] checks.
#[test]
fn many_commands_to_one_aggregate_share_a_commit() {
    const COMMANDS: u64 = 300;
    let setting = Setting::new(Options::default(), |_| {
        Arc::new(|command| match &*command.name {
            "rejected" => Err(Refusal::Rejected("no".into())),
            _ => Ok(()),
        })
    });
    let commits = || setting.store.measures().batch_size.count();
    let before = commits();
    let standstill = setting.standstill();
    for number in 1..=COMMANDS {
        setting.send(count("a", if number % 3 == 0 { "rejected" } else { "accepted" }));
    }
    standstill.end();
    let mut version = 0;
    for number in 1..=COMMANDS {
        match setting.outcomes.next() {
            (name, Outcome::Rejected { .. }) => assert!(number % 3 == 0 && name == "rejected"),
            (name, outcome) => {
                version += 1;
                assert!(is_accepted(&outcome, version) && name == "accepted", "{number}: {outcome:?}");
            }
        }
    }
    let counted: Vec<String> = (1..=version).map(|count| count.to_string()).collect();
    assert_eq!(setting.counts("a"), counted);
    let commits = commits() - before;
    assert!(commits < 20, "{commits} commits for {COMMANDS} commands");
}

/// What was decided on an event that is not recorded is decided again, in the same order. Others' events bring the stream to the
/// version that the next decisions expect, which must not make them valid.
#[test]
fn decisions_behind_one_that_fails_are_made_again() {
    const COMMANDS: u64 = 200;
    let overtaken = Mutex::new(HashSet::new());
    let setting = Setting::new(Options::default(), |store| {
        let store = store.clone();
        Arc::new(move |command: &Command| {
            let number: u64 = command.name.parse().expect("a number");
            if number % 50 == 25 && overtaken.lock().expect("one thread").insert(number) {
                let of_others = requests::command(&command.stream, "of others");
                drop(requests::ask_append(&*store, of_others, ExpectedVersion::Any, requests::happened(1)));
            }
            Ok(())
        })
    });
    let standstill = setting.standstill();
    (0..COMMANDS).for_each(|number| setting.send(count("a", &number.to_string())));
    standstill.end();
    let mut last = Version(0);
    for number in 0..COMMANDS {
        let (name, outcome) = setting.outcomes.next();
        let Outcome::Accepted { version, .. } = outcome else { panic!("{name}: {outcome:?}") };
        assert!(name == number.to_string() && version > last, "{number}: {name} at {version} after {last}");
        last = version;
    }
    let counts = setting.counts("a");
    let own = counts.iter().enumerate().filter(|(before, count)| **count == (before + 1).to_string()).count() as u64;
    assert!(own == COMMANDS && counts.len() as u64 == COMMANDS + 4, "each is decided on all before it: {counts:?}");
}

/// Although it never comes to rest.
#[test]
fn an_aggregate_that_is_always_busy_has_its_snapshots() {
    let setting = Setting::new(Options { snapshot_every: 10, ..Options::default() }, |_| Arc::new(|_| Ok(())));
    let standstill = setting.standstill();
    (0..95).for_each(|_| setting.send(count("a", "hot")));
    standstill.end();
    (1..=95).for_each(|version| assert!(is_accepted(&setting.outcomes.next().1, version)));
    let snapshot = || setting.store.reader().and_then(|mut reader| reader.snapshot(&counter("a"), "counters 1"));
    until("there is a snapshot", || snapshot().is_ok_and(|kept| kept.is_some_and(|kept| kept.version >= Version(90))));
    let kept = snapshot().expect("it is read").expect("it is there");
    assert_eq!(kept.state, kept.version.to_string().into_bytes(), "it has what the store has up to its version");
}

/// The source of a command that the store failed sends it again. Until then nothing of its ledger overtakes it.
#[test]
fn what_the_store_failed_is_settled_before_what_came_after_it() {
    let setting = Setting::obedient();
    let standstill = setting.standstill();
    let failed = setting.ask(numbered("a", "0", 0));
    assert!(is_failed(&failed, "locked"), "{failed:?}");
    standstill.end();
    let overtaking = setting.ask(numbered("a", "1", 1));
    assert!(is_failed(&overtaking, "an earlier command"), "{overtaking:?}");
    assert!(is_accepted(&setting.ask(numbered("b", "2", 2)), 1), "another aggregate goes on");
    assert!(is_accepted(&setting.ask(count("a", "sent")), 1), "so does another sender");
    assert!(is_accepted(&setting.ask(numbered("a", "0", 0)), 2));
    assert!(is_accepted(&setting.ask(numbered("a", "1", 1)), 3));
}

/// That holds for one that its aggregate refused, too: it changed nothing, but decided on a later state it may.
#[test]
fn what_was_refused_and_not_recorded_is_settled_before_what_came_after_it() {
    let setting = Setting::new(Options::default(), |_| {
        Arc::new(|command| match &*command.name {
            "rejected" => Err(Refusal::Rejected("no".into())),
            "malformed" => Err(Refusal::Malformed("what?".into())),
            _ => Ok(()),
        })
    });
    for (id, refused, number) in [("a", "rejected", 0), ("b", "malformed", 2)] {
        let standstill = setting.standstill();
        setting.send(numbered(id, refused, number));
        setting.send(numbered(id, "later", number + 1));
        let (first, failed) = setting.outcomes.next();
        assert!(first == refused && is_failed(&failed, "locked"), "{first}: {failed:?}");
        standstill.end();
        let (later, overtaking) = setting.outcomes.next();
        assert!(later == "later" && is_failed(&overtaking, "an earlier command"), "{later}: {overtaking:?}");
        let again = setting.ask(numbered(id, refused, number));
        assert!(matches!(again, Outcome::Rejected { .. } | Outcome::Malformed { .. }), "{again:?}");
        assert!(is_accepted(&setting.ask(numbered(id, "later", number + 1)), 1));
    }
}

/// Or it is settled in another way, and never comes again.
#[test]
fn what_is_settled_elsewhere_holds_up_nothing() {
    let setting = Setting::obedient();
    let standstill = setting.standstill();
    assert!(is_failed(&setting.ask(numbered("a", "0", 0)), "locked"));
    standstill.end();
    let settled = requests::append(&*setting.store, numbered("a", "0", 0), ExpectedVersion::Any, requests::happened(1));
    settled.expect("it is settled");
    assert!(is_accepted(&setting.ask(numbered("a", "1", 1)), 2));
}

/// Another writer appends to the stream while the aggregate decides: so many times.
fn overtaken(times: usize, decisions: &Arc<AtomicUsize>) -> Setting {
    let decisions = decisions.clone();
    Setting::new(Options { attempts_max: 3, ..Options::default() }, |store| {
        let store = store.clone();
        Arc::new(move |command: &Command| {
            if decisions.fetch_add(1, Ordering::Relaxed) < times {
                requests::record(&*store, &command.stream, 1);
            }
            Ok(())
        })
    })
}

#[test]
fn a_conflict_is_decided_again_on_what_the_stream_is_now() {
    let decisions = Arc::default();
    let setting = overtaken(2, &decisions);
    assert!(is_accepted(&setting.ask(count("a", "overtaken twice")), 3));
    assert_eq!(setting.counts("a")[2], "3", "it knows of the others' events");
    assert_eq!(decisions.load(Ordering::Relaxed), 3);
}

/// What a sender expects is held against the stream, not against a live aggregate that others have left behind.
#[test]
fn an_expected_version_is_that_of_the_stream_whatever_the_live_aggregate_knows() {
    let setting = Setting::obedient();
    let expecting = |id: &str, expected| Command { expected: Some(expected), ..count(id, "expecting") };
    let exactly = |version| ExpectedVersion::Exact(Version(version));
    for (id, expected) in [("a", exactly(2)), ("b", ExpectedVersion::StreamExists)] {
        if id == "a" {
            assert!(is_accepted(&setting.ask(count(id, "first")), 1));
        } else {
            let conflict = setting.ask(expecting(id, expected));
            assert!(matches!(conflict, Outcome::Conflict { actual: Version(0), .. }), "{conflict:?}");
        }
        requests::record(&*setting.store, &counter(id), 1);
        let version = setting.counts(id).len() as u64 + 1;
        assert!(is_accepted(&setting.ask(expecting(id, expected)), version), "it is there");
        assert_eq!(setting.counts(id).last(), Some(&version.to_string()), "and it knows of the others' event");
    }
    requests::record(&*setting.store, &counter("a"), 1);
    let conflict = setting.ask(expecting("a", exactly(3)));
    let expected = Outcome::Conflict { actual: Version(4), expected: exactly(3) };
    assert_eq!(conflict, expected, "the live aggregate is at 3, the stream is not");
    let known = Command { durable_id: true, ..expecting("a", exactly(4)) };
    let accepted = setting.ask(known.clone());
    assert!(is_accepted(&accepted, 5));
    assert_eq!(setting.ask(known).what(), &accepted, "what was recorded before is told, whatever it expected");
}

/// It might have been accepted, had the aggregate known what the others wrote.
#[test]
fn a_refusal_is_decided_again_where_others_wrote_to_the_stream() {
    let setting = Setting::new(Options::default(), |store| {
        let store = store.clone();
        let decisions = AtomicUsize::new(0);
        Arc::new(move |command: &Command| match &*command.name {
            "refused at first" if decisions.fetch_add(1, Ordering::Relaxed) == 0 => {
                requests::record(&*store, &command.stream, 1);
                Err(Refusal::Rejected("nothing was counted".into()))
            }
            _ => Ok(()),
        })
    });
    assert!(is_accepted(&setting.ask(numbered("a", "refused at first", 0)), 2));
    assert_eq!(setting.counts("a").last(), Some(&"2".to_owned()));
}

/// More of it than is read at once.
#[test]
fn a_history_of_large_events_is_applied_to_its_end() {
    let setting = Setting::obedient();
    for _ in 0..25 {
        let large = NewEvent { name: "Counted".to_owned(), payload: vec![b'1'; 900_000] };
        let events = Decision::Events(vec![large]);
        requests::append(&*setting.store, count("a", "large"), ExpectedVersion::Any, events).expect("it is recorded");
    }
    assert!(is_accepted(&setting.ask(count("a", "next")), 26));
    let newest = setting.store.reader().and_then(|mut reader| reader.read_stream(&counter("a"), Version(25), 1));
    assert_eq!(newest.expect("it is read")[0].payload, b"26", "it knows all events");
}

#[test]
fn conflicts_without_end_are_given_up() {
    let decisions = Arc::default();
    let setting = overtaken(usize::MAX, &decisions);
    let outcome = setting.ask(count("a", "always overtaken"));
    assert!(is_failed(&outcome, "others write to it"), "{outcome:?}");
    assert_eq!(decisions.load(Ordering::Relaxed), 20);
}

/// Its own later commands wait behind it, and those to others do not.
#[test]
fn a_retry_comes_when_it_was_asked_for_and_holds_up_nobody_else() {
    const AFTER: Duration = Duration::from_millis(300);
    let tries = AtomicUsize::new(0);
    let setting = Setting::new(Options::default(), |_| {
        Arc::new(move |command| match &*command.name {
            "not yet" if tries.fetch_add(1, Ordering::Relaxed) == 0 => {
                Err(Refusal::Retry { after: AFTER, reason: "not yet".into() })
            }
            _ => Ok(()),
        })
    });
    let started = Instant::now();
    setting.send(numbered("a", "not yet", 0));
    setting.send(numbered("a", "behind it", 1));
    setting.send(numbered("b", "another", 2));
    let order: Vec<String> = (0..3).map(|_| setting.outcomes.next().0).collect();
    assert_eq!(order, ["another", "not yet", "behind it"]);
    assert!(started.elapsed() >= AFTER);
    assert_eq!(setting.counts("a"), ["1", "2"]);
}

/// When the host stops, who asked for time is given back: its source sends it again at the next start.
#[test]
fn a_stop_does_not_wait_for_a_retry() {
    let setting = Setting::new(Options::default(), |_| {
        Arc::new(|_| Err(Refusal::Retry { after: Duration::from_secs(3_600), reason: "not yet".into() }))
    });
    setting.send(numbered("a", "first", 0));
    setting.send(numbered("a", "second", 1));
    setting.aggregates.stop();
    for name in ["first", "second"] {
        let (next, outcome) = setting.outcomes.next();
        assert!(next == name && matches!(outcome, Outcome::Failed { .. }), "{next}: {outcome:?}");
    }
}

/// One aggregate takes a quarter of the room, and what is more is told to come later.
#[test]
fn a_hot_aggregate_leaves_room_for_the_others() {
    let setting = Setting::new(Options { in_flight_max: 64, ..Options::default() }, |_| Arc::new(|_| Ok(())));
    let standstill = setting.standstill();
    // One, a quarter behind it, and three too many.
    (0..1 + 16 + 3).for_each(|_| setting.send(count("hot", "hot")));
    for _ in 0..3 {
        let (_, outcome) = setting.outcomes.next();
        assert!(matches!(outcome, Outcome::Busy { .. }), "{outcome:?}");
    }
    (0..10).for_each(|n| setting.send(count(&format!("cold-{n}"), "cold")));
    standstill.end();
    for _ in 0..17 + 10 {
        let (name, outcome) = setting.outcomes.next();
        assert!(matches!(outcome, Outcome::Accepted { .. }), "{name}: {outcome:?}");
    }
}

/// While a shard is at work its queue takes so many more, and the next ones are handed back: to be told "busy".
#[test]
fn a_shard_hands_back_what_its_queue_has_no_room_for() {
    let (setting, go_on) = Setting::held(Options { queue_max: 4, ..Options::default() });
    let offer = |name: &str| setting.outcomes.offer(&setting.aggregates, count("a", name));
    assert!((0..4).all(|_| offer("queued")), "there is room for four");
    assert!(!offer("too many") && !offer("too many"));
    go_on.send(()).expect("it is held");
    let names: Vec<String> = (0..5)
        .map(|_| setting.outcomes.next())
        .map(|(name, outcome)| {
            assert!(matches!(outcome, Outcome::Accepted { .. }), "{name}: {outcome:?}");
            name
        })
        .collect();
    assert_eq!(names, ["held", "queued", "queued", "queued", "queued"]);
    assert!(offer("later"), "there is room again");
}

/// A panic is a defect of the host, or of native handlers: its shard answers for what it had begun, and begins again.
#[test]
fn a_shard_that_panics_answers_everybody_and_nothing_overtakes_what_failed() {
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    let panics = AtomicBool::new(true);
    let script: Script = Arc::new(move |command| {
        match &*command.name {
            "Gate" => gate.recv().expect("the test opens it"),
            "Panic" if panics.swap(false, Ordering::Relaxed) => panic!("a defect"),
            _ => {}
        }
        Ok(())
    });
    let setting = Setting::new(Options::default(), |_| script);
    let Setting { aggregates, outcomes, .. } = &setting;
    for (number, name) in [(1, "Gate"), (2, "Panic"), (3, "After")] {
        outcomes.of(aggregates, numbered("a", name, number));
    }
    open.send(()).expect("the shard is at the gate");
    let mut ended: Vec<_> = (0..3).map(|_| outcomes.next()).collect();
    ended.sort_by(|one, other| one.0.cmp(&other.0));
    let [(_, after), (_, gate), (_, panicked)] = &ended[..] else { panic!("{ended:?}") };
    // The panic may come before the append of the one before it is settled. Then its source sends it again, too.
    assert!(matches!(gate, Outcome::Accepted { .. } | Outcome::Failed { .. }), "{gate:?}");
    assert!(matches!((after, panicked), (Outcome::Failed { .. }, Outcome::Failed { .. })), "{ended:?}");
    // Who waits is answered while the thread unwinds, which is before its state tells.
    let restarting = (State::Restarting, Some("its thread panicked and restarts: a defect".to_owned()));
    until("the shard restarts", || aggregates.status().remove(0).condition == restarting);

    until("the append under way is durable", || setting.counts("a") == ["1"]);
    // Others are served, and the ledger's later commands wait until the source has sent the failed ones again.
    outcomes.of(aggregates, count("b", "Plain"));
    outcomes.of(aggregates, numbered("a", "Later", 4));
    let ended: Vec<_> = (0..2).map(|_| outcomes.next()).collect();
    let of = |name: &str| ended.iter().find(|(found, _)| found == name).map(|(_, outcome)| outcome);
    assert!(matches!(of("Plain"), Some(Outcome::Accepted { .. })), "{ended:?}");
    assert!(matches!(of("Later"), Some(Outcome::Failed { .. })), "it overtook what failed: {ended:?}");
    for (number, name) in [(2, "Panic"), (3, "After"), (4, "Later")] {
        outcomes.of(aggregates, numbered("a", name, number));
        let (_, outcome) = outcomes.next();
        assert!(matches!(outcome, Outcome::Accepted { version, .. } if version.0 == number), "{name}: {outcome:?}");
    }
    until("nothing is pending", || aggregates.status()[0].pending == 0);
}

/// However many commands its queue could take: what counts is what they hold.
#[test]
fn a_flood_of_large_commands_is_bounded_by_its_bytes() {
    const BYTES: usize = 1 << 20;
    let (setting, go_on) = Setting::held(Options { queue_bytes_max: 8 * BYTES, ..Options::default() });
    let large = || wasmill::model::Command { payload: vec![0; BYTES], ..count("a", "large") };
    let taken = (0..1_000).filter(|_| setting.outcomes.offer(&setting.aggregates, large())).count();
    assert_eq!(taken, 8, "the last one may go beyond the limit");
    assert!(!setting.outcomes.offer(&setting.aggregates, count("b", "small")), "senders are told that it is busy");
    go_on.send(()).expect("it is held");
    (0..9).for_each(|_| drop(setting.outcomes.next()));
    assert!(setting.outcomes.offer(&setting.aggregates, large()), "there is room again");
}
