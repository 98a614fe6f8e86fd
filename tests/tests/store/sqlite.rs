//! The embedded store passes the suite of every event store.

use rusqlite::Connection;
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use wasmill::clock::Clock;
use wasmill::model::{Command, DeadLetter, ExpectedVersion, Position};
use wasmill::store::sqlite::{DeadLetterLimits, FILE_NAME, Options, SqliteStore, verify};
use wasmill::store::{Appended, DeadLetterQuery, DeadLetters as _, Decision, Error, EventStore, Progress as _, Step};
use wasmill_tests::store_conformance::Place;
use wasmill_tests::store_conformance::requests::*;

/// A folder with limits so small that runs of the index, their slices and foldings of the log happen all the time.
struct Folder(tempfile::TempDir);

impl Place for Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("make a temporary folder"))
    }

    fn try_open(&self) -> Result<Arc<dyn EventStore>, Error> {
        let options = Options {
            batch_max: 64,
            batch_bytes_max: 2_000,
            index_run: 50,
            index_slice: 7,
            heads_max: 1,
            log_bytes_max: 64 << 10,
            ..Options::default()
        };
        Ok(Arc::new(SqliteStore::open(&self.0.path().join(FILE_NAME), options)?))
    }

    fn let_go(&self) {
        // A lock on a file that is deleted keeps nobody away.
        let _ = std::fs::remove_file(self.0.path().join(FILE_NAME).with_extension("lock"));
    }

    fn standstill(&self) -> Box<dyn Any> {
        Box::new(Standstill::of(self.0.path()))
    }
}

/// While it is held no transaction of a store begins; after 5 s the store gives up on one.
pub(crate) struct Standstill(Connection);

impl Standstill {
    /// Of the store in a folder.
    pub(crate) fn of(folder: &Path) -> Self {
        let connection = Connection::open(folder.join(FILE_NAME)).expect("the store's file");
        connection.busy_timeout(Duration::from_secs(60)).expect("a time-out");
        connection.execute_batch("BEGIN IMMEDIATE").expect("the writer rests");
        Self(connection)
    }

    /// Lets the store go on.
    pub(crate) fn end(self) {
        self.0.execute_batch("ROLLBACK").expect("nothing was begun");
    }
}

/// Whatever was done to it, what is left must be sound.
impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let report = verify(&self.0.path().join(FILE_NAME)).expect("look the store over");
            assert!(report.is_sound(), "{report:#?}");
        }
    }
}

wasmill_tests::store_conformance!(Folder);

fn durable_to(store: &SqliteStore, id: &str, content: &str, decision: Decision) -> Result<Appended, Error> {
    let command = Command { id: id.into(), durable_id: true, payload: content.into(), ..command(&order(1), "c") };
    append(store, command, ExpectedVersion::Any, decision)
}

/// A wall clock that is wrong must not let a repetition be a second event.
#[test]
fn an_outcome_is_forgotten_when_the_wall_clock_and_the_running_time_are_past_its_window() {
    const HOUR_MS: u64 = 3_600_000;
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let open = |clock: &Clock| {
        let options = Options { outcomes_window_ms: 2 * HOUR_MS, clock: clock.clone(), ..Options::default() };
        SqliteStore::open(&folder.path().join(FILE_NAME), options).expect("open the store")
    };
    let send = |store: &SqliteStore, id: &str, content: &str| durable_to(store, id, content, happened(1));
    let remembered = |store: &SqliteStore| statistics(store, false).outcomes;
    let start_ms = 1_700_000_000_000;
    let clock = Clock::manual(start_ms);
    let store = open(&clock);
    for n in 0..30 {
        send(&store, &format!("old-{n}"), "content").expect("it is new");
    }
    let is_remembered = |store: &SqliteStore| {
        let again = send(store, "old-0", "content");
        let since =
            matches!(&again, Err(Error::Duplicate { outcome: Some(was), .. }) if was.remembered_from_ms == start_ms);
        assert!(since, "{again:?}");
        assert!(matches!(send(store, "old-0", "other"), Err(Error::IdReused { .. })));
    };
    // The wall alone, in this host and in later ones.
    clock.jump_to_ms(start_ms + 48 * HOUR_MS);
    is_remembered(&store);
    clock.advance_ms(HOUR_MS);
    is_remembered(&store);
    store.close();
    let clock = Clock::manual(start_ms + 480 * HOUR_MS);
    let store = open(&clock);
    is_remembered(&store);
    // The running time alone.
    clock.jump_to_ms(start_ms);
    clock.advance_ms(HOUR_MS + 1);
    is_remembered(&store);
    clock.jump_to_ms(start_ms + 2 * HOUR_MS + 1);
    send(&store, "old-0", "other").expect("the id is free again");
    store.close();
    let store = open(&clock);
    send(&store, "new", "content").expect("it is new");
    assert_eq!(remembered(&store), 2, "the others went with the first one that this host stored");
    assert!(matches!(send(&store, "old-0", "other"), Err(Error::Duplicate { outcome: Some(_), .. })));
}

#[test]
fn a_refusal_is_decided_again_where_the_manifest_says_so() {
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let open = |remember_refusals| {
        let options = Options { remember_refusals, ..Options::default() };
        SqliteStore::open(&folder.path().join(FILE_NAME), options).expect("open the store")
    };
    let refused = || Decision::Rejected("not on Sundays".to_owned());
    let store = open(true);
    durable_to(&store, "before", "content", refused()).expect("it is recorded");
    store.close();
    let store = open(false);
    for id in ["before", "now"] {
        durable_to(&store, id, "content", refused()).expect("it is decided");
        durable_to(&store, id, "content", happened(1)).expect("it is decided again");
        let again = durable_to(&store, id, "content", refused());
        assert!(matches!(again, Err(Error::Duplicate { .. })), "what was accepted stays so: {again:?}");
    }
    assert_eq!(all_events(&store).len(), 2);
}

/// A step or a page of a sink goes through whole or not at all, also if its first dead letter takes the last room.
#[test]
fn several_dead_letters_are_kept_together_or_not_at_all() {
    let tight = [
        DeadLetterLimits { count_max: 1, ..DeadLetterLimits::default() },
        DeadLetterLimits { bytes_max: 100, ..DeadLetterLimits::default() },
    ];
    for limits in tight {
        let folder = tempfile::tempdir().expect("make a temporary folder");
        let options = Options { dead_letters: limits, ..Options::default() };
        let store = SqliteStore::open(&folder.path().join(FILE_NAME), options).expect("open the store");
        record(&store, &order(1), 2);
        let kept =
            || reader(&store).dead_letters(&DeadLetterQuery::newest(100)).expect("dead letters are read").0.len();
        let long = || DeadLetter { reason: "long".repeat(100), ..letter("there") };
        let discard = || {
            let numbers: Vec<u64> = (1..100).collect();
            numbers.iter().filter(|n| ask(|done| store.discard_dead_letter(**n, done)).answer().is_ok()).count()
        };
        let to = |from, to| Step { dead_letters: vec![long(), long()], ..step("s", Position(from), Position(to)) };
        advance(&store, to(0, 1)).expect("an empty room takes a whole step");
        assert_eq!(kept(), 2);
        assert!(matches!(advance(&store, to(1, 2)), Err(Error::Full(_))));
        assert_eq!(reader(&store).checkpoint("s").expect("it is read"), Some(Position(1)));
        assert_eq!((discard(), kept()), (2, 0));
        let page = || ask(|done| store.published("events/sink", 0, 1, vec![long(), long()], done)).answer();
        page().expect("an empty room takes a whole page");
        assert_eq!(kept(), 2);
        let again = ask(|done| store.published("events/sink", 1, 2, vec![long(), long()], done)).answer();
        assert!(matches!(again, Err(Error::Full(_))), "{again:?}");
        assert_eq!((reader(&store).sink_position("events/sink").expect("it is read"), kept()), (Some(1), 2));
        store.close();
    }
}

#[test]
fn dead_letters_beyond_their_limits_are_refused_or_drop_the_oldest() {
    let place = || tempfile::tempdir().expect("make a temporary folder");
    let open = |folder: &tempfile::TempDir, letters, clock: &Clock| {
        let options = Options { dead_letters: letters, clock: clock.clone(), ..Options::default() };
        SqliteStore::open(&folder.path().join(FILE_NAME), options).expect("open the store")
    };
    let numbers = |store: &SqliteStore| -> Vec<u64> {
        let (letters, _) = reader(store).dead_letters(&DeadLetterQuery::newest(100)).expect("dead letters are read");
        letters.into_iter().map(|kept| kept.number).collect()
    };
    let bytes_of = |reason: &str| DeadLetter { reason: reason.to_owned(), ..letter("there") };
    let dead_letter = |store: &SqliteStore, letter, n| {
        ask(|done| store.dead_letter(letter, Some(origin("kafka/a/a/0", n, n)), done)).answer()
    };
    // Stop: what is refused is not settled, and comes again once there is room.
    let (clock, folder) = (Clock::manual(1_000_000_000_000), place());
    let limits = DeadLetterLimits { count_max: 3, ..DeadLetterLimits::default() };
    let mut store = open(&folder, limits, &clock);
    (0..3).for_each(|n| dead_letter(&store, letter("there"), n).expect("there is room"));
    for _ in 0..2 {
        let full = dead_letter(&store, letter("there"), 3).expect_err("there is no room");
        assert!(matches!(&full, Error::Full(said) if said.contains("dead_letters_max")), "{full:?}");
        let dead_letters = vec![letter("of a step")];
        let messages = vec![message("with it")];
        let refused = advance(&store, Step { dead_letters, messages, ..step("s", Position(0), Position(0)) });
        assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
        let malformed = Decision::Malformed("no".to_owned());
        let refused = append(&store, numbered(&order(1), "kafka/a/a/0", 4), ExpectedVersion::Any, malformed);
        assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
        store.close();
        store = open(&folder, limits, &clock);
    }
    assert_eq!((reader(&store).ledger("kafka/a/a/0").expect("it is read").next, *store.outbox_head().borrow()), (3, 0));
    assert!(reader(&store).tallies().expect("they are read").is_empty());
    ask(|done| store.discard_dead_letter(1, done)).answer().expect("it is there");
    dead_letter(&store, letter("there"), 3).expect("there is room again");
    store.close();
    // Drop the oldest, by number and by bytes.
    let limits = DeadLetterLimits { count_max: 4, bytes_max: 1_000, drops_oldest: true, ..limits };
    let store = open(&folder, limits, &clock);
    (4..7).for_each(|n| dead_letter(&store, letter("there"), n).expect("the oldest make room"));
    assert_eq!((numbers(&store), store.measures().dead_letters_dropped), (vec![7, 6, 5, 4], 2));
    dead_letter(&store, bytes_of(&"long ".repeat(190)), 7).expect("the oldest make room");
    dead_letter(&store, bytes_of(&"longer ".repeat(1_000)), 8).expect("one letter always fits");
    assert_eq!((numbers(&store), store.measures().dead_letters_dropped), (vec![9], 7));
    assert!((7_000..8_000).contains(&store.measures().dead_letter_bytes), "{}", store.measures().dead_letter_bytes);
    store.close();
    // By age, which a jump of the wall clock does not change.
    let limits = DeadLetterLimits { age_max_ms: Some(1_000_000), ..limits };
    let store = open(&folder, limits, &clock);
    clock.jump_to_ms(2_000_000_000_000);
    clock.advance_ms(500_000);
    record(&store, &order(1), 1);
    assert_eq!(numbers(&store), [9]);
    clock.advance_ms(600_000);
    record(&store, &order(1), 1);
    assert_eq!((numbers(&store), store.measures().clock_jumps, store.measures().dead_letter_bytes), (vec![], 1, 0));
    store.close();
    let report = verify(&folder.path().join(FILE_NAME)).expect("look the store over");
    assert!(report.is_sound(), "{report:#?}");
}
