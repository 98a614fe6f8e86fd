//! Power loss, which takes what was not synced to the disk. All that was acknowledged is there, once and in order, and
//! the store verifies and can be written to. Read models and compiled code are whole or recreated.
//! `WASMILL_TEST_SEED` gives the seed, which is printed.

use crate::power::{self, Recorded, told};
use fastrand::Rng;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use tokio::runtime::Runtime;
use wasmill::ack::Ack;
use wasmill::model::*;
use wasmill::plugin::{AggregateGuest, Catalog, Compiler, Demand, Wanted};
use wasmill::projection::{self, Projection, Takeover};
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore, verify};
use wasmill::store::*;
use wasmill_tests::built;
use wasmill_tests::store_conformance::requests::*;

const SEED: &str = "WASMILL_TEST_SEED";
const CUTS: usize = 150;
/// Each starts a projection and has it catch up.
const READ_MODEL_CUTS: usize = 40;
const STREAMS: u64 = 9;

/// What is told: an append's number, or a step's position above this.
const STEPS: u64 = 1 << 32;
/// The store is open, so it is made.
const MADE: u64 = u64::MAX;

fn seeded() -> Rng {
    let given = std::env::var(SEED).ok().map(|seed| seed.parse().expect("the seed is a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{SEED}={seed}");
    Rng::with_seed(seed)
}

/// Opens a store that fills its index and folds its log all the time.
fn open(folder: &Path) -> SqliteStore {
    let options =
        Options { batch_max: 20, index_run: 60, index_slice: 7, log_bytes_max: 96 << 10, ..Options::default() };
    SqliteStore::open(&folder.join(FILE_NAME), options).expect("the store opens")
}

/// Appends, and takes a step and keeps a snapshot now and then. Tells of each append and step when it is acknowledged.
fn work(store: &SqliteStore, numbers: Range<u64>) {
    let mut checkpoint = reader(store).checkpoint("warehouse").unwrap().unwrap_or_default();
    for number in numbers {
        let (answer, answered) = sync_channel(1);
        let stream = order(number % STREAMS);
        let command = numbered(&stream, "kafka/a/a/0", number);
        let append =
            Append { command: command.into(), expected: ExpectedVersion::Any, decision: happened(2), chain: None };
        let acknowledged = move |result: Result<Appended, Error>| {
            let appended = result.expect("the disk works");
            told(number);
            let _ = answer.send(appended);
        };
        store.append(append, Ack::new(acknowledged));
        if number % 8 == 7 {
            let to = answered.recv_timeout(PATIENCE).expect("it is answered").position;
            let messages = vec![message(&to.to_string())];
            advance(store, Step { messages, ..step("warehouse", checkpoint, to) }).unwrap();
            told(STEPS + to.0);
            let state = format!("state at {}", to.0).into_bytes();
            store.keep_snapshot(Snapshot { stream, version: Version(2), code: "code".into(), state });
            checkpoint = to;
        }
    }
}

/// Loses the power at a moment and looks: what was told is there, and what is there fits together and can be written to.
fn check(recorded: &Recorded, moment: usize, rng: &mut Rng) {
    let folder = tempfile::tempdir().unwrap();
    let told = recorded.lose_power(folder.path(), moment, rng);
    let at = format!("the power went at {moment} of {}", recorded.moments());
    let file = folder.path().join(FILE_NAME);
    assert!(file.exists() || told.is_empty(), "{at}: the store is gone");
    if file.exists() {
        let report = verify(&file).unwrap_or_else(|error| panic!("{at}: {error}"));
        assert!(report.is_sound(), "{at}: {report:#?}");
    }
    let store = open(folder.path());
    check_appends(&store, &told, &at);
    let checkpoint = reader(&store).checkpoint("warehouse").unwrap().unwrap_or_default();
    let newest = told.range(STEPS..MADE).next_back().map_or(0, |step| step - STEPS);
    assert!(checkpoint.0 >= newest, "{at}: the checkpoint {newest} was acknowledged, and it is {checkpoint}");
    let messages = reader(&store).messages(0, usize::MAX).unwrap();
    let last = messages.last().map_or("0".to_owned(), |(_, message)| message.id.to_string());
    assert_eq!(last, checkpoint.to_string(), "{at}: a step's messages are as durable as its checkpoint");
    record(&store, &order(1), 1);
    store.close();
}

/// Commands came in the order of their numbers: those that are there are the first ones, each once, with both its events.
fn check_appends(store: &SqliteStore, told: &BTreeSet<u64>, at: &str) {
    let causes: Vec<String> = all_events(store).iter().map(|event| event.causation_id.to_string()).collect();
    let appends = causes.len() as u64 / 2;
    let expected: Vec<String> = (0..appends).flat_map(|n| [n, n]).map(|n| format!("kafka/a/a/0:{n}")).collect();
    assert_eq!(causes, expected, "{at}");
    let lost: Vec<_> = told.range(appends..STEPS).collect();
    assert!(lost.is_empty(), "{at}: these appends were acknowledged and are lost: {lost:?}");
    for id in 0..STREAMS {
        let mut reader = reader(store);
        whole_stream(&mut *reader, &order(id));
        // A snapshot may be lost; one that is found is whole.
        let snapshot = reader.snapshot(&order(id), "code").unwrap();
        assert!(snapshot.is_none_or(|snapshot| snapshot.state.starts_with(b"state at ")), "{at}");
    }
}

#[test]
fn what_was_acknowledged_outlasts_the_power() {
    let mut rng = seeded();
    let recorded = power::record(|folder| {
        for numbers in [0..40, 40..240, 240..400] {
            let store = open(folder);
            told(MADE);
            work(&store, numbers);
            store.close();
        }
    });
    for _ in 0..CUTS {
        check(&recorded, rng.usize(..=recorded.moments()), &mut rng);
    }
}

#[test]
fn a_store_that_was_being_made_is_made() {
    let mut rng = seeded();
    let recorded = power::record(|folder| {
        let store = open(folder);
        told(MADE);
        store.close();
    });
    for moment in 0..=recorded.moments() {
        check(&recorded, moment, &mut rng);
    }
}

/// A read model is not synced with each transaction: it may have lost its last ones, or be damaged and noticed to be.
/// Either way it ends up with each event once.
#[test]
fn a_read_model_that_lost_power_answers_as_one_that_did_not() {
    let (mut rng, place) = (seeded(), tempfile::tempdir().unwrap());
    let store: Arc<dyn EventStore> = Arc::new(open(place.path()));
    let sales = Sales::new(&store);
    let mut expected = Vec::new();
    let recorded = power::record(|folder| {
        for orders in [0..10, 10..60, 60..90] {
            let projection = sales.start(folder);
            orders.for_each(|number| sell(&*store, number));
            expected = sales.answers(&projection);
            projection.stop();
        }
    });
    for _ in 0..READ_MODEL_CUTS {
        let (folder, moment) = (tempfile::tempdir().unwrap(), rng.usize(..=recorded.moments()));
        recorded.lose_power(folder.path(), moment, &mut rng);
        let projection = sales.start(folder.path());
        let answers = sales.answers(&projection);
        assert_eq!(answers, expected, "the power went at {moment} of {}", recorded.moments());
        projection.stop();
    }
    store.close();
}

/// The plugin `sales` over a store.
struct Sales {
    store: Arc<dyn EventStore>,
    catalog: Arc<Catalog>,
    runtime: Runtime,
}

impl Sales {
    fn new(store: &Arc<dyn EventStore>) -> Self {
        let catalog = Arc::new(compiled("sales", None));
        Self { store: store.clone(), catalog, runtime: Runtime::new().expect("a runtime") }
    }

    /// With small transactions, so that there are many moments between them.
    fn start(&self, folder: &Path) -> Projection {
        let options = projection::Options { batch_max: 3, ..projection::Options::default() };
        let slot = self.catalog.slots().next().expect("the plugin");
        let started = Projection::start(&slot, &self.catalog, options, folder, &self.store, self.runtime.handle());
        started.expect("it starts").expect("the plugin is a projection")
    }

    /// The answers once all events are in them.
    fn answers(&self, projection: &Projection) -> Vec<String> {
        let head = *self.store.head().borrow();
        self.runtime.block_on(async {
            let plugin = self.catalog.slots().next().unwrap().current();
            let (mut reached, digest) = (projection.reached(), &plugin.digest);
            let caught_up = async {
                reached.wait_for(|reached| *reached >= head).await.expect("it is at work");
                let answering = projection.takeover(digest, PATIENCE).await;
                assert_eq!(answering, Takeover::Answers);
            };
            tokio::time::timeout(PATIENCE, caught_up).await.unwrap_or_else(|_| panic!("{:?}", projection.status()));
            let mut answers = Vec::new();
            for (query, params) in [("totals", "null"), ("store-sales", r#"{"limit":100}"#)] {
                let answer = projection.query(query.to_owned(), params.into()).await.expect("it answers");
                answers.push(String::from_utf8(answer).expect("text"));
            }
            answers
        })
    }
}

/// An order that is placed and confirmed.
fn sell(store: &dyn EventStore, number: u64) {
    let item = r#"{"quantity":2,"discount_cents":1}"#;
    let placed = format!(
        r#"{{"household_id":"{}","store_id":"{}","placed_at":"now","items":[{item}],"amount_cents":{number}}}"#,
        number % 7,
        number % 5
    );
    let events = vec![event("OrderCreated", placed), event("OrderConfirmed", "null")];
    let command = command(&order(number), &format!("order-{number}"));
    append(store, command, ExpectedVersion::Any, Decision::Events(events)).expect("it is recorded");
}

/// The catalog of one plugin, whose compiled code lies in `cache`.
fn compiled(plugin: &str, cache: Option<&Path>) -> Catalog {
    let compiler = Compiler::new(cache, Demand::default()).expect("an engine");
    Catalog::open(compiler, [(plugin, Wanted::of(built::plugin(plugin)))]).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// What is left of compiled code is whole, or is compiled again.
#[test]
fn compiled_code_that_lost_power_is_never_run_in_part() {
    let mut rng = seeded();
    let recorded = power::record(|folder| drop(compiled("cart", Some(folder))));
    assert!(recorded.moments() > 4, "it is kept");
    for moment in 0..=recorded.moments() {
        let folder = tempfile::tempdir().unwrap();
        recorded.lose_power(folder.path(), moment, &mut rng);
        let catalog = compiled("cart", Some(folder.path()));
        let plugin = catalog.slots().next().expect("the plugin").current();
        AggregateGuest::new(&plugin, "cart").and_then(|mut guest| guest.create("1")).expect("its code runs");
    }
}

/// The losses of rows by a file of SQLite's that is written with this `synchronous`, of so many.
fn losses(synchronous: &str, of: usize) -> usize {
    let mut rng = seeded();
    let recorded = power::record(|folder| {
        let file = Connection::open(folder.join("rows.sqlite")).unwrap();
        let begin = "PRAGMA journal_mode = WAL; CREATE TABLE t (n)";
        file.execute_batch(&format!("PRAGMA synchronous = {synchronous}; {begin}")).unwrap();
        for n in 0..20 {
            file.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
            told(n);
        }
    });
    let is_lost = |_: &usize| {
        let folder = tempfile::tempdir().unwrap();
        let told = recorded.lose_power(folder.path(), rng.usize(..=recorded.moments()), &mut rng);
        let file = Connection::open(folder.path().join("rows.sqlite")).unwrap();
        let kept = file.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, usize>(0)).unwrap_or_default();
        kept < told.len()
    };
    (0..of).filter(is_lost).count()
}

/// The tool takes away what it should and no more.
#[test]
fn rows_are_lost_where_nobody_syncs_and_only_there() {
    assert_ne!(losses("OFF", 50), 0);
    assert_ne!(losses("NORMAL", 50), 0);
    assert_eq!(losses("FULL", 200), 0);
}

/// A file that is renamed before it was synced, or whose folder was not, is found out too.
#[test]
fn names_are_lost_where_nobody_syncs_the_folder() {
    let mut rng = seeded();
    let mut outcomes = |syncs_file: bool, syncs_folder: bool| -> BTreeSet<Option<Vec<u8>>> {
        let recorded = power::record(|folder| {
            let [aside, place] = ["aside", "place"].map(|name| folder.join(name));
            std::fs::write(&aside, "whole").unwrap();
            let sync = |path: &Path| std::fs::File::open(path).unwrap().sync_all().unwrap();
            if syncs_file {
                sync(&aside);
            }
            std::fs::rename(&aside, &place).unwrap();
            if syncs_folder {
                sync(folder);
            }
        });
        let mut found = || {
            let folder = tempfile::tempdir().unwrap();
            recorded.lose_power(folder.path(), recorded.moments(), &mut rng);
            std::fs::read(folder.path().join("place")).ok()
        };
        (0..200).map(|_| found()).collect()
    };
    let (whole, empty) = (Some(b"whole".to_vec()), Some(Vec::new()));
    assert_eq!(outcomes(true, true), BTreeSet::from([whole.clone()]));
    assert_eq!(outcomes(true, false), BTreeSet::from([whole.clone(), None]));
    assert_eq!(outcomes(false, true), BTreeSet::from([whole, empty]));
}
