//! A store that moves from a file into PostgreSQL and back keeps everything, and starts in one place at a time, whatever ends the move.

use crate::kills::{TURN, Worker};
use fastrand::Rng;
use rusqlite::Connection;
use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command as Process, Output};
use std::sync::{Arc, PoisonError};
use wasmill::model::*;
use wasmill::store::sqlite::{FILE_NAME, FaultPoint, KILL_AT};
use wasmill::store::*;
use wasmill_tests::postgres::{Postgres, address};
use wasmill_tests::store_conformance::requests::*;
use wasmill_tests::store_workload;

/// The tables with content, as both stores name them.
const TABLES: [&str; 13] = [
    "events",
    "ledgers",
    "checkpoints",
    "held_keys",
    "outbox",
    "callbacks",
    "http_requests",
    "sinks",
    "outcomes",
    "tallies",
    "dead_letters",
    "archived_streams",
    "facts",
];

/// Two places for one store.
pub(super) struct Places {
    _server: Arc<Postgres>,
    pub(super) url: String,
    pub(super) folder: tempfile::TempDir,
}

impl Places {
    /// Returns none if there can be no server.
    pub(super) fn new() -> Option<Self> {
        let server = Postgres::shared()?;
        let (url, folder) = (server.database(), tempfile::tempdir().expect("make a temporary folder"));
        Some(Self { _server: server, url, folder })
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join(FILE_NAME)
    }

    pub(super) fn embedded(&self) -> Location {
        Location::Sqlite(self.file())
    }

    pub(super) fn postgres(&self) -> Location {
        Location::Postgres(Box::new(address(&self.url)))
    }

    /// Returns both, the one that the store moves from first.
    fn both(&self, is_out: bool) -> [Location; 2] {
        let both = [self.embedded(), self.postgres()];
        let [file, database] = both;
        if is_out { [file, database] } else { [database, file] }
    }

    /// Moves in another process, which may be killed on the way.
    fn move_in_process(&self, is_out: bool, kill_at: Option<&str>) -> Output {
        let (file, url) = (self.file().display().to_string(), self.url.clone());
        let [from, to] = if is_out { [file, url] } else { [url, file] };
        let mut command = Process::new(env!("CARGO_BIN_EXE_store-worker"));
        command.args(["migrate", &from, &to]).envs(kill_at.map(|point| (KILL_AT, point)));
        command.output().expect("start a worker")
    }
}

pub(super) fn opened(location: &Location) -> Arc<dyn EventStore> {
    open(location, Options::default()).unwrap_or_else(|error| panic!("{location}: {error}"))
}

pub(super) fn moved(from: &Location, to: &Location) -> Moved {
    migrate(from, to, &mut |_, _, _| ()).unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn refused(from: &Location, to: &Location) -> String {
    match migrate(from, to, &mut |_, _, _| ()) {
        Ok(moved) => panic!("it is not refused: {moved:?}"),
        Err(error) => error.to_string(),
    }
}

pub(super) fn is_sound(location: &Location) -> Report {
    let report = verify(location).unwrap_or_else(|error| panic!("{location}: {error}"));
    assert!(report.is_sound(), "{location}: {report:#?}");
    report
}

/// Adds rows of every kind.
pub(super) fn fill(store: &dyn EventStore) {
    const LATER: u64 = 4_000_000_000_000;
    let stream = StreamId::new("odd", "a\0b/é'\"");
    record(store, &stream, 3);
    let end = *store.head().borrow();
    let timer = |name: Option<&str>, due| CallbackChange::Set {
        name: name.map(Into::into),
        due,
        callback: Box::new(Callback {
            key: Some(vec![0, 255]),
            correlation_id: "c\0".into(),
            causation_id: "cause".into(),
            hops: 2,
            first_ms: 1,
            headers: vec![Header { name: "h".into(), value: None }],
            content: CallbackContent::Wake { name: "w".into(), payload: vec![0] },
        }),
    };
    let request = |id: &str, key: Option<&str>| HttpRequest {
        id: id.into(),
        endpoint: "payments".into(),
        method: "POST".to_owned(),
        path: "charges".to_owned(),
        headers: Vec::new(),
        body: vec![0, 1],
        response: Some(Vec::new()),
        key: key.map(|key| key.as_bytes().to_vec()),
        correlation_id: "c\0".into(),
        causation_id: "cause".into(),
        hops: 1,
        time_ms: 5,
        first_ms: 5,
        trace: Vec::new(),
    };
    let failed = DeadLetter { reason: "it has a \0 in it".to_owned(), ..letter("behind") };
    let reached = Step {
        key: Some(KeyChange { stream: stream.clone(), from: None, to: KeyState::BehindDeadLetter(Version(2)) }),
        dead_letters: vec![failed],
        commands: vec![command(&order(1), "sent")],
        messages: vec![message("first"), message("second")],
        callbacks: vec![timer(Some("late\0"), Due::At(LATER)), timer(None, Due::At(LATER))],
        requests: vec![request("a", Some("k")), request("b", Some("k")), request("c", None)],
        ..step("filler", Position(0), end)
    };
    advance(store, reached).expect("nobody else moves the checkpoint");
    let queue = RequestQueue { subscription: "filler", endpoint: "payments" };
    let due = reader(store).due_requests(queue, LATER, 1).expect("requests are read");
    ask(|done| store.begin_attempt(due[0].number, done)).answer().expect("it is due");
    ask(|done| store.dead_letter(letter("alone"), Some(origin("kafka/fill/fill/0", 7, 9)), done))
        .answer()
        .expect("it is new");
    append(store, durable(&order(1), "chosen\0"), ExpectedVersion::Any, happened(1)).expect("it is new");
    ask(|done| store.archive(order(1), done)).answer().expect("it has events");
    ask(|done| store.set_fact("kafka/cluster", Some("c\0".to_owned()), done)).answer().expect("a fact is kept");
    ask(|done| store.published("filled", 0, 1, Vec::new(), done)).answer().expect("nobody else publishes");
}

/// What the traits return of a store that [`fill`] has filled.
#[derive(Debug, PartialEq)]
struct Seen {
    identity: String,
    events: Vec<RecordedEvent>,
    stream: Vec<RecordedEvent>,
    ledgers: Vec<Ledger>,
    checkpoints: Vec<Option<Position>>,
    held: Vec<HeldKey>,
    commands: Vec<Command>,
    newest_message: Option<u64>,
    callbacks: Vec<KeptCallback>,
    timers: usize,
    requests: String,
    positions: Vec<Option<u64>>,
    letters: String,
    archived: bool,
    fact: Option<String>,
    tallies: String,
}

impl Seen {
    fn of(store: &dyn EventStore) -> Self {
        let mut reader = reader(store);
        let names = ["kafka/items/items/0", "kafka/fill/fill/0", "subscription/copier", "subscription/filler"];
        let (letters, total) = reader.dead_letters(&DeadLetterQuery::newest(usize::MAX)).expect("letters are read");
        let requests = RequestQuery { subscription: None, after: 0, limit: usize::MAX };
        Self {
            identity: store.identity().to_string(),
            events: all_events(store),
            stream: whole_stream(&mut *reader, &StreamId::new("odd", "a\0b/é'\"")),
            ledgers: names.map(|name| reader.ledger(name).expect("a ledger is read")).into(),
            checkpoints: ["copier", "filler", "none"].map(|name| reader.checkpoint(name).expect("it is read")).into(),
            held: reader.held_keys("filler").expect("held keys are read"),
            commands: reader.pending_commands("filler").expect("commands are read"),
            newest_message: reader.messages(0, usize::MAX).expect("messages are read").pop().map(|(number, _)| number),
            callbacks: reader.due_callbacks("filler", u64::MAX, &HashSet::new(), 99).expect("callbacks are read"),
            timers: reader.timers(&TimerQuery { subscription: None, limit: 99 }).expect("timers are read").0.len(),
            requests: format!("{:?}", reader.requests(&requests).expect("requests are read")),
            positions: ["kafka", "filled"].map(|sink| reader.sink_position(sink).expect("it is read")).into(),
            letters: format!("{total} {letters:?}"),
            archived: reader.is_archived(&order(1)).expect("it is read"),
            fact: reader.fact("kafka/cluster").expect("a fact is read"),
            tallies: format!("{:?}", reader.tallies().expect("tallies are read")),
        }
    }
}

#[test]
fn a_store_with_something_of_every_kind_moves_into_postgresql_and_back() {
    let Some(places) = Places::new() else { return };
    let [file, database] = places.both(true);
    let store = opened(&file);
    for n in 0..90 {
        record(&*store, &order(n % 7), 50);
    }
    fill(&*store);
    let before = Seen::of(&*store);
    store.close();
    drop(store);
    let sqlite = Connection::open(places.file()).expect("the store's file");
    for table in TABLES {
        let count = |sql: &str| sqlite.query_row(sql, [], |row| row.get::<_, u64>(0)).expect("it is counted");
        assert!(count(&format!("SELECT count(*) FROM {table}")) > 0, "the store has no {table}");
    }
    drop(sqlite);
    let report = is_sound(&file);

    let done = moved(&file, &database);
    let known = (done.identity.to_string(), done.events, done.position);
    assert_eq!(known, (before.identity.clone(), report.events, report.position));
    // The stream index is full in PostgreSQL.
    assert_eq!(is_sound(&database), Report { indexed: report.position, ..report.clone() });
    assert_eq!(is_sound(&file), report, "the source is as it was");
    let store = opened(&database);
    assert_eq!(Seen::of(&*store), before);
    let letter_number = goes_on(&*store, &before);
    let before = Seen::of(&*store);
    store.close();
    drop(store);
    let report = is_sound(&database);

    // Back into the file, which still has the events that it had.
    let there = done.events;
    let done = moved(&database, &file);
    assert_eq!(done.events, report.events - there, "what was there is not copied again");
    let back = is_sound(&file);
    assert_eq!(back, Report { indexed: back.indexed, ..report });
    let store = opened(&file);
    assert_eq!(Seen::of(&*store), before);
    assert!(goes_on(&*store, &before) > letter_number, "a number is never given twice");
    store.close();
    drop(store);
    is_sound(&file);
}

/// Has a store record more after it was moved: every number goes on, and what was settled stays settled. Returns the number of a
/// dead letter, which is discarded.
fn goes_on(store: &dyn EventStore, before: &Seen) -> u64 {
    let newest = before.events.last().expect("there are events");
    let next = record(store, &order(2), 1);
    assert_eq!(next.position.0, newest.position.0 + 1);
    let recorded = all_events(store).pop().expect("there are events");
    assert!(recorded.id > newest.id, "ids go on rising");
    let earlier = before.events.iter().filter(|event| event.stream == order(2)).count() as u64;
    assert_eq!(recorded.version, Version(earlier + 1));
    let repeated = append(store, durable(&order(1), "chosen\0"), ExpectedVersion::Any, happened(1));
    assert!(matches!(repeated, Err(Error::Duplicate { outcome: Some(_), .. })), "{repeated:?}");
    let settled = append(store, numbered(&order(2), "kafka/fill/fill/0", 8), ExpectedVersion::Any, happened(1));
    assert!(matches!(settled, Err(Error::Duplicate { .. })), "{settled:?}");
    let archived = append(store, command(&order(1), "c"), ExpectedVersion::Any, happened(1));
    assert!(matches!(archived, Err(Error::Archived { .. })), "{archived:?}");
    let end = *store.head().borrow();
    let from = reader(store).checkpoint("filler").expect("it is read").expect("it has one");
    let more =
        Step { commands: vec![command(&order(2), "sent")], messages: vec![message("m")], ..step("filler", from, end) };
    let sent = advance(store, more).expect("nobody else moves it").commands;
    let number = |command: &Command| command.origin.as_ref().map(|origin| origin.last);
    assert_eq!(number(&sent[0]), before.commands.last().and_then(number).map(|last| last + 1));
    let newest_message =
        reader(store).messages(0, usize::MAX).expect("messages are read").pop().map(|(number, _)| number);
    assert_eq!(newest_message, before.newest_message.map(|number| number + 1));
    ask(|done| store.dead_letter(letter("new"), None, done)).answer().expect("there is room");
    let letters = reader(store).dead_letters(&DeadLetterQuery::newest(1)).expect("letters are read").0;
    let number = letters[0].number;
    ask(|done| store.discard_dead_letter(number, done)).answer().expect("it is there");
    number
}

/// What a worker was told is there wherever the store is, and the worker goes on there.
#[test]
fn a_store_that_a_worker_has_used_moves_with_all_that_was_acknowledged() {
    let Some(places) = Places::new() else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let [file, database] = places.both(true);
    let path = places.file().display().to_string();
    let mut acknowledged = Vec::new();
    let stages =
        [(&file, &*path, 1_500, &database), (&database, &*places.url, 300, &file), (&file, &*path, 300, &database)];
    for (from, place, count, to) in stages {
        acknowledged.extend(Worker::start(place, Rng::new().u64(..), None).killed_after(count));
        let check = |location: &Location| {
            let store = opened(location);
            store_workload::check(&*store, &acknowledged);
            let seen = Seen::of(&*store);
            store.close();
            seen
        };
        let before = check(from);
        let report = is_sound(from);
        moved(from, to);
        assert_eq!(check(to), before);
        let there = is_sound(to);
        assert_eq!(there, Report { indexed: there.indexed, ..report });
    }
}

/// Never do both start, and never is there no way on.
#[test]
fn a_kill_at_any_step_leaves_one_place_where_the_store_starts_or_a_move_that_goes_on() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let points: Vec<_> = FaultPoint::ALL.iter().filter(|point| point.is_of_moving()).collect();
    for is_out in [true, false] {
        for (n, point) in points.iter().enumerate() {
            let Some(places) = Places::new() else { return };
            let [from, to] = places.both(is_out);
            let store = opened(&from);
            for n in 0..60 {
                record(&*store, &order(n % 7), 50);
            }
            fill(&*store);
            let before = Seen::of(&*store);
            store.close();
            drop(store);
            let passage = if **point == FaultPoint::PageMoved { 1 + n as u64 } else { 1 };
            let kill_at = format!("{}:{passage}", point.name());
            let output = places.move_in_process(is_out, Some(&kill_at));
            assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{kill_at}: {output:?}");
            let is_marked = matches!(point, FaultPoint::SourceMarked | FaultPoint::MoveEnded);
            let starts = [&from, &to].map(|location| match open(location, Options::default()) {
                Ok(store) => {
                    assert_eq!(Seen::of(&*store), before, "{kill_at}");
                    store.close();
                    true
                }
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.contains("`wasmill store migrate --from "), "{kill_at}: {said}");
                    assert!(!said.contains(xtask::postgres::PASSWORD), "{said}");
                    false
                }
            });
            assert_eq!(starts, [!is_marked, **point == FaultPoint::MoveEnded], "{kill_at}");
            // A target that is not complete can't be taken for a store by anything else.
            if !starts[1] {
                assert!(verify(&to).is_err() && inspect(&to).is_err(), "{kill_at}");
            }
            let again = places.move_in_process(is_out, None);
            assert!(again.status.success(), "{kill_at}: {again:?}");
            let store = opened(&to);
            assert_eq!(Seen::of(&*store), before, "{kill_at}");
            store.close();
            drop(store);
            is_sound(&to);
            let said = open(&from, Options::default()).err().expect("it was moved").to_string();
            assert!(said.contains("was moved to"), "{kill_at}: {said}");
        }
    }
}

#[test]
fn a_move_that_is_killed_at_random_moments_goes_on_and_ends() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(places) = Places::new() else { return };
    let [file, database] = places.both(true);
    let path = places.file().display().to_string();
    let acknowledged = Worker::start(&path, Rng::new().u64(..), None).killed_after(1_500);
    let store = opened(&file);
    let before = Seen::of(&*store);
    store.close();
    drop(store);
    let mut rng = Rng::new();
    for round in 0..6 {
        let is_out = round % 2 == 0;
        let [_, to] = places.both(is_out);
        for kill in 0..3 {
            // The number of a page is a moment that no other point marks.
            let kill_at = format!("page-moved:{}", rng.u64(1..20));
            println!("round {round}, kill {kill} at {kill_at}");
            let output = places.move_in_process(is_out, Some(&kill_at));
            assert!(output.status.success() || output.status.signal() == Some(libc::SIGKILL), "{output:?}");
        }
        let output = places.move_in_process(is_out, None);
        assert!(output.status.success(), "round {round}: {output:?}");
        is_sound(&to);
    }
    let store = opened(&file);
    assert_eq!(Seen::of(&*store), before);
    store_workload::check(&*store, &acknowledged);
    store.close();
    drop(store);
    assert!(open(&database, Options::default()).is_err());
}

/// The store that was moved goes on in the file if the database is lost.
#[test]
fn a_store_that_was_moved_is_opened_again_if_the_other_one_is_lost() {
    let Some(places) = Places::new() else { return };
    let [file, database] = places.both(true);
    let store = opened(&file);
    fill(&*store);
    let before = Seen::of(&*store);
    store.close();
    drop(store);
    let said = reopen(&file).expect_err("it was not moved").to_string();
    assert!(said.contains("was not moved"), "{said}");
    moved(&file, &database);
    let other = reopen(&file).expect("it was moved");
    assert!(other.starts_with("postgres://wasmill@") && !other.contains(xtask::postgres::PASSWORD), "{other}");
    let store = opened(&file);
    assert_eq!(Seen::of(&*store), before);
    store.close();
}
