//! The store's file. Each problem with it is reported in a sentence, and nothing is lost.

use rusqlite::Connection;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use wasmill::model::*;
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore, backup, statistics, verify};
use wasmill::store::*;
use wasmill_tests::built;
use wasmill_tests::raised::Raised;
use wasmill_tests::store_conformance::requests::*;

/// A folder with a store that has a little of everything, and is closed.
pub(super) struct Stored {
    pub(super) folder: tempfile::TempDir,
}

impl Stored {
    pub(super) fn new() -> Self {
        let stored = Self { folder: tempfile::tempdir().unwrap() };
        let store = stored.open().unwrap();
        let end = (0..120).map(|n| record(&store, &order(n % 7), 1)).last().unwrap().position;
        let remembered = Command { durable_id: true, ..command(&order(2), "remembered") };
        append(&store, remembered, ExpectedVersion::Any, happened(0)).unwrap();
        for number in [0, 1, 5, 9] {
            let command = numbered(&order(1), "kafka/a/a/0", number);
            append(&store, command, ExpectedVersion::Any, happened(1)).unwrap();
        }
        for (from, to) in [(Position(0), Position(9)), (Position(9), end)] {
            let commands = (0..3).map(|n| command(&order(n), "sent")).collect();
            let messages = (0..3).map(|n| message(&n.to_string())).collect();
            advance(&store, Step { commands, messages, ..step("warehouse", from, to) }).unwrap();
        }
        ask(|done| store.published("kafka", 0, 2, Vec::new(), done)).answer().unwrap();
        ask(|done| store.dead_letter(letter("there"), None, done)).answer().unwrap();
        store.close();
        stored
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join(FILE_NAME)
    }

    pub(super) fn open(&self) -> Result<SqliteStore, Error> {
        SqliteStore::open(&self.file(), Options { index_run: 50, ..Options::default() })
    }

    pub(super) fn sql(&self, statements: &str) {
        Connection::open(self.file()).unwrap().execute_batch(statements).unwrap();
    }

    pub(super) fn count(&self, table: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM {table}");
        Connection::open(self.file()).unwrap().query_row(&sql, [], |row| row.get(0)).unwrap()
    }

    /// Opening fails with a sentence that names the place and has these words.
    pub(super) fn is_refused(&self, words: &[&str]) {
        let said = refusal(self.open());
        let folder = self.folder.path().to_str().unwrap();
        assert!(words.iter().chain([&folder]).all(|word| said.contains(word)), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

fn refusal(opened: Result<SqliteStore, Error>) -> String {
    match opened {
        Ok(_) => panic!("the store opens"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_second_host_is_kept_away_until_the_first_has_closed() {
    let stored = Stored::new();
    let first = stored.open().unwrap();
    stored.is_refused(&["in use by another host or `wasmill store` command", "stop that host"]);
    assert!(verify(&stored.file()).unwrap_err().to_string().contains("in use by another host"));
    record(&first, &order(1), 1);
    first.close();
    record(&stored.open().unwrap(), &order(1), 1);
}

#[test]
fn a_file_of_another_format_is_left_as_it_is() {
    let stored = Stored::new();
    for (format, words) in [(99, ["format 99", "run a newer wasmill"]), (4, ["format 4", "choose another data folder"])]
    {
        stored.sql(&format!("PRAGMA user_version = {format}"));
        let before = fs::read(stored.file()).unwrap();
        stored.is_refused(&words);
        assert!(verify(&stored.file()).unwrap_err().to_string().contains(words[1]));
        assert_eq!(fs::read(stored.file()).unwrap(), before);
    }
}

/// Waits until a store says that it is lost; returns how.
pub(super) fn is_lost(store: &impl EventStore) -> Error {
    let mut loss = store.loss();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let lost = async { tokio::time::timeout(PATIENCE, loss.wait_for(Option::is_some)).await.unwrap().unwrap().clone() };
    runtime.block_on(lost).unwrap()
}

/// A second host can start once somebody deletes the lock's file, or on a file system without locks.
#[test]
fn of_two_hosts_without_a_lock_the_first_ends_and_no_version_is_given_twice() {
    let stored = Stored::new();
    let lock = stored.file().with_extension("lock");
    let mut last = stored.open().unwrap();
    let (mut lost, mut recorded) = (Vec::new(), 124);
    for _ in 0..3 {
        fs::remove_file(&lock).unwrap();
        let next = stored.open().unwrap();
        // Both write to the same streams at once.
        let asked: Vec<_> = (0..200)
            .map(|n| {
                [&last, &next]
                    .map(|store| ask_append(store, command(&order(n % 7), "c"), ExpectedVersion::Any, happened(1)))
            })
            .collect();
        for [old, new] in asked {
            assert!(
                matches!(old.answer(), Err(Error::Lost { how: Loss::TakenOver, .. })),
                "an old owner writes nothing"
            );
            new.answer().unwrap();
            recorded += 1;
        }
        // The answers come before its last words.
        assert!(matches!(is_lost(&last), Error::Lost { how: Loss::TakenOver, .. }));
        assert!(next.loss().borrow().is_none());
        lost.push(std::mem::replace(&mut last, next));
    }
    // An idle one finds out by itself.
    fs::remove_file(&lock).unwrap();
    let next = stored.open().unwrap();
    assert_eq!(next.identity(), last.identity());
    is_lost(&last);
    assert_eq!(all_events(&next).len(), recorded);
    drop((lost, last, next));
    let report = verify(&stored.file()).unwrap();
    assert!(report.is_sound(), "{report:#?}");
}

#[test]
fn a_database_of_another_program_is_left_as_it_is() {
    let stored = Stored { folder: tempfile::tempdir().unwrap() };
    stored.sql("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)");
    for version in [0, 1, 5, -1] {
        stored.sql(&format!("PRAGMA user_version = {version}"));
        let before = fs::read(stored.file()).unwrap();
        stored.is_refused(&["another program", "choose another data folder"]);
        assert_eq!(fs::read(stored.file()).unwrap(), before);
    }
}

#[test]
fn a_damaged_file_is_refused_with_the_remedy() {
    let stored = Stored::new();
    let whole = fs::read(stored.file()).unwrap();
    let mut files: Vec<Vec<u8>> = [0, 1, 50, 99, 100, 512, 4_096, 5_000, whole.len() / 2, whole.len() - 4_096]
        .map(|len| whole[..len].to_vec())
        .into();
    files.push(b"not a database at all, but text. ".repeat(1_000));
    files.push([vec![0; 4_096], whole[4_096..].to_vec()].concat());
    for file in files {
        fs::write(stored.file(), &file).unwrap();
        stored.is_refused(&["damaged", "restore it from a backup"]);
        assert_eq!(fs::read(stored.file()).unwrap(), file, "a damaged file of {} bytes is left as it is", file.len());
    }
    fs::write(stored.file(), whole).unwrap();
    assert!(stored.open().is_ok());
}

/// A store that was killed: much of it is in the log beside it.
fn killed() -> (Stored, Vec<u8>) {
    let stored = Stored::new();
    let store = stored.open().unwrap();
    for n in 0..300 {
        record(&store, &order(n % 9), 1);
    }
    let folder = tempfile::tempdir().unwrap();
    let log = |folder: &tempfile::TempDir| folder.path().join(format!("{FILE_NAME}-wal"));
    fs::copy(stored.file(), folder.path().join(FILE_NAME)).unwrap();
    fs::copy(log(&stored.folder), log(&folder)).unwrap();
    let logged = fs::read(log(&folder)).unwrap();
    assert!(logged.len() > 100_000, "{}", logged.len());
    (Stored { folder }, logged)
}

#[test]
fn a_file_that_its_log_does_not_fit_is_refused_and_left_as_it_is() {
    let (stored, logged) = killed();
    let whole = fs::read(stored.file()).unwrap();
    let pages = whole.len() / 4_096;
    for length in [0, 1, 4_096, 4_096 * (pages / 2) + 7, 4_096 * (pages - 3)] {
        fs::write(stored.file(), &whole[..length]).unwrap();
        for said in [refusal(stored.open()), verify(&stored.file()).unwrap_err().to_string()] {
            assert!(said.contains("damaged") && said.contains("restore it from a backup"), "{length}: {said}");
        }
        assert_eq!(fs::read(stored.file()).unwrap(), whole[..length]);
    }
    // What is told is done by halves.
    fs::remove_file(stored.file()).unwrap();
    stored.is_refused(&["is gone", "events.sqlite-wal is still there", "delete the log as well"]);
    let copy = stored.folder.path().join("copy");
    backup(&Stored::new().file(), &copy).unwrap();
    fs::rename(copy, stored.file()).unwrap();
    stored.is_refused(&["was put in the place of another", "events.sqlite-wal", "delete the log"]);
    assert_eq!(fs::read(stored.folder.path().join("events.sqlite-wal")).unwrap(), logged);
    // And whole.
    fs::remove_file(stored.folder.path().join("events.sqlite-wal")).unwrap();
    let store = stored.open().unwrap();
    assert_eq!(all_events(&store).len(), 124);
}

#[test]
fn a_copy_takes_no_name_that_the_host_uses_in_its_folder() {
    let stored = Stored::new();
    for name in [
        "events.sqlite-journal",
        "events.sqlite-wal",
        "events.lock",
        "events-restoring.sqlite",
        "snapshots.sqlite",
        "host.json",
        "audit.1.jsonl",
        "read-models",
        "replaced-now",
    ] {
        let refused = backup(&stored.file(), &stored.folder.path().join(name)).unwrap_err().to_string();
        assert!(refused.contains(name) && refused.contains("choose another name"), "{refused}");
    }
    backup(&stored.file(), &stored.folder.path().join("copy.sqlite")).expect("any other name is taken");
    let elsewhere = tempfile::tempdir().unwrap();
    backup(&stored.file(), &elsewhere.path().join(FILE_NAME)).expect("and any name in another folder");
}

/// A crash may come while the log is folded into the file: then what the file lacks is still in the log.
#[test]
fn a_file_that_its_log_makes_whole_is_opened() {
    let (stored, logged) = killed();
    stored.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let folded = fs::read(stored.file()).unwrap();
    let in_log = |page: usize| logged[32..].chunks(24 + 4_096).any(|frame| frame[..4] == (page as u32).to_be_bytes());
    let pages = folded.len() / 4_096;
    let kept = (1..=pages).rev().find(|page| !in_log(*page)).unwrap();
    assert!(kept < pages - 5, "{kept} of {pages}");
    fs::write(stored.file(), &folded[..4_096 * kept]).unwrap();
    fs::write(stored.folder.path().join("events.sqlite-wal"), &logged).unwrap();
    assert_eq!(all_events(&stored.open().unwrap()).len(), 424);
}

/// As a user who may not write there, whoever runs the tests.
pub(super) fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            // SAFETY: changes the identity of this thread alone, for access to files alone; without the right to
            // do so it does nothing.
            unsafe { libc::setfsuid(65_534) };
            act()
        });
        nobody.join().unwrap()
    })
}

pub(super) fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_may_not_be_written_to_is_said() {
    let stored = Stored::new();
    allow(stored.folder.path(), 0o555);
    as_nobody(|| stored.is_refused(&["events.lock", "Permission denied", "may be written to"]));
    allow(stored.folder.path(), 0o777);
    allow(&stored.folder.path().join("events.lock"), 0o666);
    allow(&stored.file(), 0o444);
    as_nobody(|| stored.is_refused(&["read-only: allow writing to it"]));
    // A copy may lie where nobody can write.
    let (copies, store) = (tempfile::tempdir().unwrap(), stored.file());
    let copy = copies.path().join("copy.sqlite");
    backup(&store, &copy).unwrap();
    allow(copies.path(), 0o555);
    as_nobody(|| assert!(verify(&copy).unwrap().is_sound() && statistics(&copy, true).is_ok()));
    assert_eq!(fs::read_dir(copies.path()).unwrap().count(), 1, "looking at it made no file");
    allow(copies.path(), 0o777);
    let absent = SqliteStore::open(&stored.folder.path().join("absent").join(FILE_NAME), Options::default());
    let absent = refusal(absent);
    assert!(absent.contains("absent/events.lock") && absent.contains("check that the folder exists"), "{absent}");
    fs::create_dir(stored.folder.path().join("folder")).unwrap();
    let folder = SqliteStore::open(&stored.folder.path().join("folder"), Options::default());
    assert!(refusal(folder).contains("unable to open database file"));
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_goes_on_when_there_is_room() {
    let stored = Stored::new();
    // Once the log does not fit, once the log does and the file that it is folded into does not.
    for bytes in [150_000, 300_000] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE_NAME);
        fs::copy(stored.file(), &file).unwrap();
        let args = ["full", file.to_str().unwrap(), &bytes.to_string()];
        let output = process::Command::new(env!("CARGO_BIN_EXE_store-worker")).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0].contains("disk"), "{said}");
        let report = verify(&file).unwrap();
        assert!(report.is_sound(), "{report:#?}");
        assert_eq!(report.events, lines[1].parse::<u64>().unwrap());
    }
}

#[test]
fn a_nearly_full_disk_is_told_until_what_was_refused_would_fit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE_NAME);
    let args = ["nearly-full", file.to_str().unwrap()];
    let output = process::Command::new(env!("CARGO_BIN_EXE_store-worker")).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().starts_with("events.")), "{left:?}");
}

#[test]
fn an_event_beyond_the_limit_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE_NAME);
    let store = SqliteStore::open(&file, Options { event_bytes_max: 1_000, ..Options::default() }).unwrap();
    let of = |name: &str, bytes: usize| NewEvent { name: name.to_owned(), payload: vec![7; bytes] };
    let command = Command { durable_id: true, ..numbered(&order(1), "kafka/a/a/0", 0) };
    // Names, ids and headers count too.
    let room = 1_000 - "Big".len() - "1".len() - command.id.len() - command.correlation_id.len();
    let header = |bytes: usize| vec![Header { name: "name".to_owned(), value: Some(vec![0; bytes]) }];
    let refusals = [
        (command.clone(), of("Big", room + 1)),
        (command.clone(), of("Bigger", room)),
        (command.clone(), of(&"Big".repeat(1_000), 0)),
        (Command { headers: header(1_000), ..command.clone() }, of("Big", 0)),
        (Command { headers: header(500), ..command.clone() }, of("Big", room - 500)),
        (Command { correlation_id: "c".repeat(1_000).into(), ..command.clone() }, of("Big", 1)),
    ];
    for (command, event) in refusals {
        let events = Decision::Events(vec![event, of("Small", 1)]);
        let refused = append(&store, command, ExpectedVersion::Any, events).unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{refused:?}");
        let said = refused.to_string();
        assert!(["Big", "order/1", "1000", "event_bytes_max"].iter().all(|word| said.contains(word)), "{said}");
        assert!(said.len() < 500, "{said}");
    }
    let mut reader = reader(&store);
    assert_eq!(reader.ledger("kafka/a/a/0").unwrap(), Ledger::default());
    assert!(reader.tallies().unwrap().is_empty() && all_events(&store).is_empty());
    append(&store, command, ExpectedVersion::NoStream, Decision::Events(vec![of("Big", room)])).unwrap();
}

#[test]
fn what_is_settled_or_published_leaves_the_outbox() {
    let stored = Stored::new();
    assert_eq!(
        (stored.count("outbox WHERE kind = 'commands'"), stored.count("outbox WHERE kind = 'messages'")),
        (2, 2)
    );
    let store = stored.open().unwrap();
    let commands = reader(&store).pending_commands("warehouse").unwrap();
    for command in commands.into_iter().rev() {
        append(&store, command, ExpectedVersion::Any, happened(0)).unwrap();
    }
    ask(|done| store.published("kafka", 2, 5, Vec::new(), done)).answer().unwrap();
    store.close();
    assert_eq!(
        (stored.count("outbox WHERE kind = 'commands'"), stored.count("outbox WHERE kind = 'messages'")),
        (0, 1)
    );
    let store = stored.open().unwrap();
    ask(|done| store.published("kafka", 5, 6, Vec::new(), done)).answer().unwrap();
    store.close();
    assert_eq!(stored.count("outbox WHERE kind = 'messages'"), 0);
    let report = verify(&stored.file()).unwrap();
    assert!(report.is_sound(), "{report:#?}");
}

#[test]
fn the_index_keeps_up_with_writers_that_never_pause() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE_NAME);
    let options = Options { batch_max: 50, index_run: 100, index_slice: 1, ..Options::default() };
    let store = SqliteStore::open(&file, options).unwrap();
    let asked: Vec<_> = (0..5_000)
        .map(|n| ask_append(&store, command(&order(n % 300), "c"), ExpectedVersion::Any, happened(4)))
        .collect();
    for pending in asked {
        pending.answer().unwrap();
    }
    store.close();
    let report = verify(&file).unwrap();
    assert!(report.is_sound(), "{report:#?}");
    // What is not indexed is in memory: two runs, each as long as what came in while the one before was filled.
    assert!(report.position - report.indexed < 2_000, "{report:#?}");
}

#[test]
fn a_copy_made_while_others_write_is_a_store_of_its_own() {
    let stored = Stored::new();
    let store = stored.open().unwrap();
    ask(|done| store.archive(order(6), done)).answer().unwrap();
    let folder = stored.folder.path().join("backups");
    let copy = |name: &str| store.backup_in(&folder, &CopyName::parse(name).unwrap(), &|| false);
    let over = AtomicBool::new(false);
    let copies: Vec<(PathBuf, Backup)> = std::thread::scope(|scope| {
        let _over = Raised(&over);
        for writer in 0..2 {
            let (store, over) = (&store, &over);
            scope.spawn(move || {
                let numbers = (0..).take_while(|_| !over.load(Ordering::Relaxed));
                numbers.for_each(|n: u64| _ = record(store, &order(n % 5), 1 + writer));
            });
        }
        let names = (0..4).map(|n| format!("copy-{n}.sqlite"));
        names.map(|name| (folder.join(&name), copy(&name).unwrap())).collect()
    });
    let whole = all_events(&store);
    for (n, (file, backup)) in copies.iter().enumerate() {
        for beside in ["-wal", "-shm", "-journal"] {
            let beside = PathBuf::from(format!("{}{beside}", file.display()));
            assert!(!beside.exists(), "a copy is one file: {}", beside.display());
        }
        let report = verify(file).unwrap();
        assert!(report.is_sound(), "{report:#?}");
        assert_eq!((report.position, fs::metadata(file).unwrap().len()), (backup.position, backup.bytes));
        let copy = SqliteStore::open(file, Options::default()).unwrap();
        assert_eq!(all_events(&copy), whole[..backup.position as usize]);
        assert_eq!((reader(&copy).is_archived(&order(6)).unwrap(), letters(&copy, 5).1), (true, 1));
        assert_eq!(record(&copy, &order(1), 1).position.0, backup.position + 1, "copy {n} goes on by itself");
    }
    // Of two to one file, one is made.
    let [one, other] = std::thread::scope(|scope| {
        [0, 1].map(|_| scope.spawn(|| copy("contested.sqlite"))).map(|copying| copying.join().unwrap())
    });
    let (made, refused) = if one.is_ok() { (one, other) } else { (other, one) };
    assert!(matches!(&refused, Err(Error::Invalid(said)) if said.contains("exists")), "{refused:?}");
    assert_eq!(verify(&folder.join("contested.sqlite")).unwrap().position, made.unwrap().position);
    let taken = copy("copy-0.sqlite");
    assert!(matches!(&taken, Err(Error::Invalid(said)) if said.contains("exists")), "{taken:?}");
    let nowhere = stored.folder.path().join("absent").join("copy.sqlite");
    store.close();
    assert!(backup(&stored.file(), &nowhere).unwrap_err().to_string().contains("absent"));
    let folders = [stored.folder.path(), &folder].map(|folder| fs::read_dir(folder).unwrap());
    let left: Vec<_> = folders.into_iter().flatten().map(|file| file.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains(".part")), "{left:?}");
}

#[test]
fn statistics_say_what_is_there() {
    let stored = Stored::new();
    let store = stored.open().unwrap();
    ask(|done| store.archive(order(6), done)).answer().unwrap();
    store.close();
    let at_rest = statistics(&stored.file(), true).unwrap();
    let counted = at_rest.counted.clone().unwrap();
    assert_eq!((at_rest.position, counted.events, counted.streams), (124, 124, 7));
    assert_eq!((counted.types.len(), &*counted.types[0].name, counted.types[0].events), (1, "Happened", 124));
    assert!(counted.bytes > 0 && at_rest.file_bytes > counted.bytes);
    assert_eq!((at_rest.subscriptions, at_rest.ledgers, at_rest.archived_streams), (1, 1, 1));
    assert_eq!((at_rest.outbox_commands, at_rest.outbox_messages), (6, 6));
    assert_eq!((at_rest.dead_letters, at_rest.outcomes), (1, 1));
    let store = stored.open().unwrap();
    append(&store, durable(&order(1), "mine"), ExpectedVersion::Any, happened(1)).unwrap();
    let running = wasmill_tests::store_conformance::requests::statistics(&store, false);
    assert_eq!((running.position, running.outcomes, running.counted), (125, 2, None));
    assert!(running.log_bytes > 0, "what was just written is in the log");
    assert!(statistics(&stored.file(), false).unwrap_err().to_string().contains("in use by another host"));
    let absent = stored.folder.path().join("absent.sqlite");
    assert!(statistics(&absent, false).is_err() && backup(&absent, &absent).is_err());
    assert!(!absent.with_extension("lock").exists(), "asking makes no file");
}

#[test]
fn verify_finds_what_does_not_fit_together() {
    let stored = Stored::new();
    let sound = verify(&stored.file()).unwrap();
    assert!(sound.is_sound(), "{sound:#?}");
    assert_eq!((sound.events, sound.streams, sound.position), (124, 7, 124));
    assert!(sound.indexed >= 100, "{sound:#?}");
    let whole = fs::read(stored.file()).unwrap();
    for (damage, said) in [
        ("DELETE FROM events WHERE position = 30", "after version"),
        ("UPDATE events SET version = 40 WHERE position = 30", "is version 40"),
        ("UPDATE events SET headers = x'ff' WHERE position = 30", "position 30: headers"),
        ("UPDATE events SET type = 77 WHERE position = 30", "the event at position 30"),
        ("UPDATE events SET id = x'00' WHERE position = 124", "position 124"),
        ("UPDATE stream_index SET position = position + 500", "the stream index has position 5"),
        ("UPDATE stream_index SET more = x'0105' WHERE version = 1", "the stream index has position"),
        ("UPDATE stream_index SET more = x'05' WHERE version = 1", "a row of the stream index does not decode"),
        ("UPDATE stream_index SET more = NULL WHERE version = 1", "the stream index lacks version"),
        ("DELETE FROM stream_index", "the stream index lacks version"),
        ("UPDATE marks SET value = 500 WHERE name = 'indexed'", "past the newest event"),
        ("UPDATE ledgers SET next = 7 WHERE name LIKE 'kafka%'", "settled ahead"),
        ("UPDATE ledgers SET ahead = x'ffff'", "ledger kafka/a/a/0 does not decode"),
        ("INSERT INTO ledgers VALUES ('subscription/warehouse', 7, x'00')", "has settled 7 commands of 6"),
        ("UPDATE checkpoints SET position = 125", "past the newest event, 124"),
        ("UPDATE checkpoints SET commands = 7", "the newest commands of subscription warehouse are missing"),
        ("DELETE FROM checkpoints", "no checkpoint"),
        (
            "DELETE FROM checkpoints; DELETE FROM outbox WHERE kind = 'commands'; INSERT INTO ledgers VALUES ('subscription/warehouse', 6, x'00')",
            "of a subscription without a checkpoint",
        ),
        ("UPDATE checkpoints SET position = -1", "its `position` is -1"),
        ("UPDATE ledgers SET next = -1", "its `next` is -1"),
        ("UPDATE marks SET value = -1 WHERE name = 'indexed'", "reading the mark indexed"),
        ("UPDATE events SET position = -1 WHERE position = 1", "position -1 comes after 0"),
        ("UPDATE events SET id = (SELECT id FROM events WHERE position = 7) WHERE position = 9", "was assigned twice"),
        ("UPDATE stream_index SET position = 9223372036854775800", "the stream index has position 9223372036854775800"),
        ("UPDATE outcomes SET outcome = '{}'", "the outcome of command "),
        ("UPDATE outcomes SET fingerprint = x'00'", "has no fingerprint"),
        ("UPDATE tallies SET accepted = -1", "its `accepted` is -1"),
        ("DELETE FROM outbox WHERE kind = 'commands' AND first = 0", "some are missing"),
        ("DELETE FROM outbox WHERE kind = 'commands' AND first = 3", "the newest commands"),
        ("UPDATE outbox SET first = 1 WHERE kind = 'commands' AND first = 0", "other numbers inside"),
        ("UPDATE outbox SET body = x'ff' WHERE kind = 'commands'", "does not decode"),
        ("DELETE FROM outbox WHERE kind = 'messages' AND first = 1", "some are missing"),
        ("DELETE FROM outbox WHERE kind = 'messages' AND first = 4", "the newest messages"),
        ("UPDATE outbox SET last = 7 WHERE kind = 'messages' AND first = 4", "are 3 messages"),
        ("UPDATE sinks SET position = 7", "past the newest message, 6"),
        ("UPDATE dead_letters SET content = x'ff'", "the content of dead letter 1 does not decode"),
        ("UPDATE marks SET value = 3 WHERE name = 'dead_letters'", "3 dead letters of"),
        (
            "UPDATE sqlite_sequence SET seq = 0 WHERE name = 'dead_letters'",
            "past the newest number that was assigned, 0",
        ),
        ("INSERT INTO archived_streams VALUES (1, 'nobody', 0)", "nobody is archived and has no events"),
    ] {
        fs::write(stored.file(), &whole).unwrap();
        stored.sql(damage);
        let report = verify(&stored.file()).unwrap();
        assert!(report.problems.iter().any(|problem| problem.contains(said)), "{damage}: {report:#?}");
    }
}

#[test]
fn the_command_line_verifies_a_folder_or_a_file() {
    let stored = Stored::new();
    let wasmill = |place: &Path| -> Output {
        let mut command = process::Command::new(built::program("wasmill"));
        command.args(["store", "verify", "--json"]).arg(place).output().unwrap()
    };
    let ok = |output: &Output| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["ok"].clone();
    for place in [stored.folder.path(), &stored.file()] {
        let output = wasmill(place);
        assert_eq!((output.status.code(), ok(&output)), (Some(0), true.into()), "{output:?}");
    }
    stored.sql("UPDATE checkpoints SET position = 999");
    let output = wasmill(stored.folder.path());
    assert_eq!((output.status.code(), ok(&output)), (Some(1), false.into()), "{output:?}");
    let absent = wasmill(Path::new("absent"));
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stdout).contains("there is no store absent"), "{absent:?}");
    assert!(!Path::new("absent").exists() && !Path::new("absent.lock").exists());
}

/// As beside a store that was restored from a copy and went another way since.
#[test]
fn a_snapshot_of_another_history_is_not_believed() {
    let [kept, other] = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let open =
        |folder: &tempfile::TempDir| SqliteStore::open(&folder.path().join(FILE_NAME), Options::default()).unwrap();
    let find = |store: &SqliteStore| reader(store).snapshot(&order(1), "code").unwrap();
    for folder in [&kept, &other] {
        let store = open(folder);
        record(&store, &order(1), 5);
        store.close();
    }
    let store = open(&kept);
    let snapshot = Snapshot { stream: order(1), version: Version(5), code: "code".into(), state: b"state".to_vec() };
    store.keep_snapshot(snapshot.clone());
    store.close();
    assert_eq!(find(&open(&kept)), Some(snapshot));
    for beside in ["", "-wal", "-shm"] {
        let name = format!("snapshots.sqlite{beside}");
        if kept.path().join(&name).exists() {
            fs::copy(kept.path().join(&name), other.path().join(&name)).unwrap();
        }
    }
    assert_eq!(find(&open(&other)), None, "the fifth event is another");
}
