//! Tests of read models in any state, and of guests that ask for too much.

use super::read_model::{Database, Fault, Mark, Origin};
use super::shelf::Shelf;
use crate::model::Position;
use crate::plugin::{Limits, SqlValue};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use uuid::Uuid;

const TIME: Duration = Duration::from_secs(20);
const STORE: Uuid = Uuid::from_u128(7);

fn origin() -> Origin {
    Origin { store: STORE, code: "c0de".repeat(16) }
}

fn mark(position: u64) -> Mark {
    Mark { position: Position(position), event: Uuid::from_u128(position.into()) }
}

fn made() -> (tempfile::TempDir, PathBuf, Database) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.sqlite");
    let database = Database::create(&file, "CREATE TABLE t (n INTEGER)", &origin(), &Limits::default()).unwrap();
    (folder, file, database)
}

fn insert(database: &Database, number: i64) {
    let values = vec![SqlValue::Integer(number)];
    database.for_guest(TIME).execute("INSERT INTO t VALUES (?1)", values).unwrap();
}

fn numbers(file: &Path) -> Vec<Vec<SqlValue>> {
    let reader = Database::open_read_only(file, &Limits::default()).unwrap();
    reader.for_guest(TIME).query("SELECT n FROM t", vec![]).unwrap().rows
}

#[test]
fn rows_and_checkpoint_are_one_transaction() {
    let (_folder, file, database) = made();
    database.begin().unwrap();
    insert(&database, 1);
    assert!(database.commit(Position(0), mark(7)).unwrap());
    database.begin().unwrap();
    insert(&database, 2);
    assert!(!database.commit(Position(3), mark(9)).unwrap(), "another owner has moved the checkpoint");
    database.answers().unwrap();
    drop(database);
    assert_eq!(numbers(&file), [[SqlValue::Integer(1)]]);
    let (_, about) = Database::open(&file, &Limits::default()).unwrap();
    assert_eq!((about.mark, about.has_answered, about.origin), (mark(7), true, origin()));
}

#[test]
fn a_query_only_reads() {
    let (_folder, file, _database) = made();
    let reader = Database::open_read_only(&file, &Limits::default()).unwrap();
    let error = reader.for_guest(TIME).execute("INSERT INTO t VALUES (1)", vec![]).unwrap_err();
    assert!(error.0.contains("read-only"), "{error:?}");
}

#[test]
fn after_an_error_that_undid_the_transaction_nothing_is_written() {
    let (_folder, file, database) = made();
    database.begin().unwrap();
    database.mark().unwrap();
    let endless = "INSERT INTO t WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT n FROM n";
    let mut guest = database.for_guest(Duration::from_millis(20));
    assert!(guest.execute(endless, vec![]).is_err());
    let error = guest.execute("INSERT INTO t VALUES (1)", vec![]).unwrap_err();
    assert!(error.0.contains("undone"), "{error:?}");
    assert!(!database.unmark(true).unwrap(), "nothing is left of it");
    database.roll_back().unwrap();
    database.begin().unwrap();
    database.mark().unwrap();
    insert(&database, 2);
    assert!(database.unmark(true).unwrap());
    assert!(database.commit(Position(0), mark(1)).unwrap());
    assert!(numbers(&file).is_empty());
}

/// The memory of a thread is known only in a process with the host's allocator, as this one is.
#[test]
fn a_statement_that_takes_too_much_memory_is_interrupted_with_the_name_of_the_limit() {
    let (_folder, _file, database) = made();
    drop(database);
    let limits = Limits { sql_memory_bytes_max: 16 << 20, ..Limits::default() };
    let folder = tempfile::tempdir().unwrap();
    let small = Database::create(&folder.path().join("m"), "CREATE TABLE t (n)", &origin(), &limits).unwrap();
    let endless = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n)";
    for statement in [
        // A sort, a DISTINCT, a queue and a materialized table of rows that are large or many.
        format!("{endless} SELECT n FROM n ORDER BY randomblob(1000)"),
        format!("{endless} SELECT count(DISTINCT randomblob(1000)) FROM n"),
        "WITH RECURSIVE n(n) AS (SELECT x'' UNION SELECT randomblob(1000) FROM n) SELECT count(*) FROM n".to_owned(),
        format!("{endless}, m AS MATERIALIZED (SELECT randomblob(1000) AS x FROM n) SELECT max(m.x) FROM m, m AS o"),
        format!("{endless} SELECT max(sum) FROM (SELECT count(*) AS sum FROM n GROUP BY randomblob(1000))"),
    ] {
        let error = small.for_guest(TIME).query(&statement, vec![]).unwrap_err();
        assert!(error.0.contains("limits.sql_memory_mib"), "{statement}: {error:?}");
        assert_eq!(small.take_trouble(), None, "the statement is at fault, not the machine");
        assert!(small.for_guest(TIME).query("SELECT 1", vec![]).is_ok());
    }
}

#[test]
fn a_number_that_sqlite_does_not_have_is_refused() {
    let (_folder, _file, database) = made();
    let insert = "INSERT INTO t VALUES (?1)";
    let error = database.for_guest(TIME).execute(insert, vec![SqlValue::Unsigned(u64::MAX)]).unwrap_err();
    assert!(error.0.contains("as text"), "{error:?}");
    assert_eq!(database.for_guest(TIME).execute(insert, vec![SqlValue::Unsigned(9)]), Ok(1));
}

#[test]
fn a_file_that_is_no_read_model_is_found_to_be_damaged() {
    let (_folder, file, database) = made();
    database.begin().unwrap();
    (0..2_000).for_each(|number| insert(&database, number));
    assert!(database.commit(Position(0), mark(7)).unwrap());
    drop(database);
    let sound = fs::read(&file).unwrap();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at..at + 64].iter_mut().for_each(|byte| *byte ^= 0xff);
        bytes
    };
    let page = 4096;
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("a beginning", sound[..100].to_vec()),
        ("cut in a page", sound[..sound.len() - page / 2].to_vec()),
        ("half of it", sound[..sound.len() / 2 / page * page].to_vec()),
        ("no database", b"{}".repeat(10_000)),
        ("bits flipped in the header", flipped(0)),
        ("bits flipped in the schema", flipped(page - 200)),
        ("bits flipped in a table", flipped(page * 4)),
    ] {
        fs::write(&file, bytes).unwrap();
        let found = Database::open(&file, &Limits::default()).map(|(_, about)| about);
        assert!(matches!(found, Err(Fault::Damaged(_))), "{what}: {found:?}");
    }
    fs::write(&file, &sound).unwrap();
    assert!(Database::open(&file, &Limits::default()).is_ok(), "as it was");
    let newer = rusqlite::Connection::open(&file).unwrap();
    newer.execute("UPDATE _wasmill_model SET format = 99", []).unwrap();
    drop(newer);
    let found = Database::open(&file, &Limits::default()).map(|(_, about)| about);
    assert!(matches!(&found, Err(Fault::Damaged(cause)) if cause.contains("its format is 99")), "{found:?}");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let found = Database::open(&file, &Limits::default()).map(|(_, about)| about);
    assert_eq!(found, Err(Fault::Damaged("it is no file".to_owned())));
}

#[test]
fn no_name_is_used_twice_and_only_own_names_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let digest = "0123456789abcdef0123";
    let path = |name: &str| folder.path().join(name);
    for name in ["notes.sqlite", "000004-0123456789abcdef.sqlite", "unusable-000009-0123456789abcdef.sqlite", "x.wasm"]
    {
        fs::write(path(name), "").unwrap();
    }
    fs::write(path("fedcba9876543210.wasm"), "").unwrap();
    let shelf = Shelf::new(folder.path().to_owned());
    let titles = shelf.titles().unwrap();
    assert_eq!(titles.iter().map(|title| title.number).collect::<Vec<_>>(), [4]);
    let next = shelf.next_title(digest);
    assert_eq!(next.number, 10, "what was set aside counts too");
    let files = shelf.files(next);
    fs::write(files.path(), "").unwrap();
    assert_eq!(shelf.leftovers().iter().map(|title| title.number).collect::<Vec<_>>(), [4], "10 is open");
    files.retire();
    assert_eq!(shelf.titles().unwrap().len(), 1, "nothing opens it any more");
    assert!(files.path().exists(), "whoever has it open keeps it");
    let file = files.path();
    drop(files);
    assert!(!file.exists());
    assert!(!path("fedcba9876543210.wasm").exists(), "code without a read model");
    assert!(path("notes.sqlite").exists() && path("x.wasm").exists(), "not made here");
    for _ in 0..4 {
        let files = shelf.files(shelf.next_title(digest));
        fs::write(files.path(), "").unwrap();
        files.set_aside();
        assert!(!files.path().exists());
    }
    let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut aside: Vec<_> = names.filter(|name| name.starts_with("unusable-")).collect();
    aside.sort();
    assert_eq!(aside, ["unusable-000013-0123456789abcdef.sqlite", "unusable-000014-0123456789abcdef.sqlite"]);
}

#[test]
fn a_read_model_that_cannot_be_opened_for_want_of_files_says_so() {
    let (_folder, file, database) = made();
    drop(database);
    let test = "projection::tests::a_read_model_that_cannot_be_opened_for_want_of_files_says_so";
    crate::exhaustion::without_files(test, || {
        let opened = [
            Database::open(&file, &Limits::default()).err(),
            Database::open_read_only(&file, &Limits::default()).err(),
        ];
        for fault in opened {
            assert!(matches!(&fault, Some(Fault::Passing(cause)) if cause.contains("ulimit -Hn")), "{fault:?}");
        }
    });
}
