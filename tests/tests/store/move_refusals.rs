//! What can't be moved is refused with the place, the cause and the remedy, and is as it was before.

use super::files::Stored;
use super::moves::{Places, fill, is_sound, moved, opened, refused};
use rusqlite::Connection;
use std::process::Command as Process;
use wasmill::model::*;
use wasmill::store::postgres::PostgresStore;
use wasmill::store::*;
use wasmill_tests::postgres::{Postgres, Session, address, sql};
use wasmill_tests::store_conformance::requests::*;
use xtask::postgres::PASSWORD;

/// Makes a store with events and more in the file.
fn filled(location: &Location) {
    let store = opened(location);
    fill(&*store);
    store.close();
}

fn says(said: &str, words: &[&str]) {
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert!(!said.contains(PASSWORD) && said.lines().count() == 1, "{said}");
}

#[test]
fn what_is_no_source_is_refused() {
    let Some(places) = Places::new() else { return };
    let (file, database) = (places.embedded(), places.postgres());
    says(&refused(&file, &database), &["there is no store", "events.sqlite"]);
    says(&refused(&database, &file), &["there is no store postgres://"]);
    assert!(!places.file().exists() && !places.file().with_extension("lock").exists(), "asking makes no file");
    says(&refused(&file, &file), &["both are the same store"]);
    says(&refused(&database, &database), &["both are the same store"]);
    let other = Location::of_folder(&places.folder.path().join("other"));
    says(&refused(&file, &other), &["both are files", "wasmill store backup"]);
    let other = Location::Postgres(Box::new(address(&format!("{}?schema=other", places.url))));
    says(&refused(&database, &other), &["both are in PostgreSQL", "pg_dump"]);

    filled(&file);
    let store = opened(&file);
    says(&refused(&file, &database), &["in use by another host or `wasmill store` command", "stop that host"]);
    store.close();
    drop(store);
    assert_eq!(sql(&places.url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'wasmill'"), ["0"]);

    moved(&file, &database);
    let elsewhere = Location::Postgres(Box::new(address(&format!("{}?schema=elsewhere", places.url))));
    says(&refused(&file, &elsewhere), &["was moved to postgres://", "`wasmill store migrate --from "]);
    // The same command again says that it is done, also while a host is there.
    let host = opened(&database);
    let again = moved(&file, &database);
    assert_eq!((again.rows, again.identity), (0, host.identity()));
    says(&refused(&database, &file), &["in use by another host or `wasmill store` command", "stop that host"]);
    host.close();
}

#[test]
fn a_source_of_another_schema_or_that_is_not_sound_is_refused() {
    let Some(places) = Places::new() else { return };
    let (file, database) = (places.embedded(), places.postgres());
    filled(&file);
    let change = |statements: &str| {
        Connection::open(places.file()).expect("the store's file").execute_batch(statements).expect("it is changed");
    };
    for (format, words) in
        [(99, ["has format 99", "run a newer wasmill"]), (3, ["has format 3", "run the wasmill that made it"])]
    {
        let current: i64 = Connection::open(places.file())
            .expect("the store's file")
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .expect("it has a format");
        change(&format!("PRAGMA user_version = {format}"));
        says(&refused(&file, &database), &words);
        change(&format!("PRAGMA user_version = {current}"));
    }
    change("UPDATE checkpoints SET position = position + 500");
    says(
        &refused(&file, &database),
        &["has problems", "past the newest event", "`wasmill store verify`", "restore the store from a backup"],
    );
    change("UPDATE checkpoints SET position = position - 500");
    assert_eq!(
        sql(&places.url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'wasmill'"),
        ["0"],
        "nothing was made"
    );
    moved(&file, &database);
    sql(&places.url, "INSERT INTO wasmill.migrations VALUES (99, '9.9.9')");
    says(&refused(&database, &file), &["schema version 99", "run a newer wasmill"]);
    sql(
        &places.url,
        "DELETE FROM wasmill.migrations WHERE version = 99; DELETE FROM wasmill.events WHERE position = 1",
    );
    says(&refused(&database, &file), &["has problems", "is version 2", "`wasmill store verify`"]);
}

#[test]
fn a_target_with_anything_else_is_refused_and_left_alone() {
    let Some(places) = Places::new() else { return };
    let (file, database) = (places.embedded(), places.postgres());
    filled(&file);
    // Another store.
    let other = opened(&database);
    record(&*other, &order(1), 2);
    let identity = other.identity().to_string();
    other.close();
    drop(other);
    says(
        &refused(&file, &database),
        &["has another store", &identity, "choose a place for the new store that has none"],
    );
    assert_eq!(sql(&places.url, "SELECT count(*) FROM wasmill.events"), ["2"]);
    // The target of the move of another store.
    let stored = Stored::new();
    let schema = |name: &str| Location::Postgres(Box::new(address(&format!("{}?schema={name}", places.url))));
    let unfinished = Process::new(env!("CARGO_BIN_EXE_store-worker"))
        .args(["migrate", stored.file().to_str().expect("a path"), &format!("{}?schema=half", places.url)])
        .env("WASMILL_KILL_AT", "move-copied:1")
        .output()
        .expect("start a worker");
    assert!(!unfinished.status.success());
    says(&refused(&file, &schema("half")), &["is the target of a move of another store", "end that one with"]);
    says(&refused(&schema("half"), &places_of(&stored)), &["is not complete", "end it with"]);
    let refused_host = open(&schema("half"), Options::default()).err().expect("it is not complete").to_string();
    says(&refused_host, &["is not complete", "`wasmill store migrate --from "]);
    // Tables of something else.
    sql(&places.url, "CREATE SCHEMA tables; CREATE TABLE tables.customers (id INT)");
    says(&refused(&file, &schema("tables")), &["has tables of something else", "schema=NAME"]);
    // A copy of the same store on which a host may have worked.
    moved(&file, &schema("moved"));
    reopen(&file).expect("it was moved");
    says(&refused(&file, &schema("moved")), &["has a complete copy of this store already"]);
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let copy = folder.path().join("events.sqlite");
    filled(&Location::Sqlite(copy.clone()));
    says(&refused(&schema("moved"), &Location::Sqlite(copy)), &["has another store", "choose a place"]);
    is_sound(&schema("moved"));
}

fn places_of(stored: &Stored) -> Location {
    Location::Sqlite(stored.file())
}

/// A backup may end before the store that was moved, or go on in another way.
#[test]
fn a_target_whose_events_are_not_those_of_the_source_is_refused() {
    let Some(places) = Places::new() else { return };
    let (file, database) = (places.embedded(), places.postgres());
    filled(&file);
    moved(&file, &database);
    let change = |statements: &str| {
        Connection::open(places.file()).expect("the store's file").execute_batch(statements).expect("it is changed");
    };
    let payload = |position: u64, payload: &str| {
        change(&format!("UPDATE events SET payload = CAST('{payload}' AS BLOB) WHERE position = {position}"));
    };
    payload(3, "another");
    says(&refused(&database, &file), &["the event at position 3 is not the same", "choose a place"]);
    let said = open(&file, Options::default()).err().expect("it is not complete").to_string();
    says(&said, &["is not complete"]);
    payload(3, "2");
    let newest: u64 = sql(&places.url, "SELECT max(position) FROM wasmill.events")[0].parse().expect("a number");
    payload(newest, "another");
    says(&refused(&database, &file), &["has another event at position", "nothing was moved"]);
    payload(newest, "0");
    moved(&database, &file);
    is_sound(&file);
}

#[test]
fn a_database_that_can_not_be_used_is_refused_before_anything_is_moved() {
    let Some(server) = Postgres::own(&[]) else { return };
    let stored = Stored::new();
    let file = Location::Sqlite(stored.file());
    let url = server.database();
    let to = |url: &str| Location::Postgres(Box::new(address(url)));
    says(&refused(&file, &to(&url.replace(PASSWORD, "hush"))), &["password authentication failed", "check the user"]);
    says(&refused(&file, &to(&url.replace("/test_", "/absent_"))), &["does not exist", "createdb"]);
    sql(&url, "ALTER DATABASE test_0 SET default_transaction_read_only = on");
    says(&refused(&file, &to(&url)), &["read-only", "name the primary"]);
    let session = Session::start(&url);
    session.run("SET default_transaction_read_only = off");
    session.run("ALTER DATABASE test_0 RESET default_transaction_read_only");
    drop(session);
    let store = stored.open().expect("the store is as it was");
    store.close();
    drop(store);
    moved(&file, &to(&url));
    is_sound(&to(&url));
}

/// A name with a NUL can be in a file, and not in a `TEXT` of PostgreSQL.
#[test]
fn a_name_that_postgresql_can_not_hold_is_named() {
    let Some(places) = Places::new() else { return };
    let (file, database) = (places.embedded(), places.postgres());
    let store = opened(&file);
    record(&*store, &order(1), 1);
    ask(|done| store.start_ledger("schedule/a\0b", 3, done)).answer().expect("a ledger is started");
    store.close();
    drop(store);
    let said = refused(&file, &database);
    says(&said, &["ledger schedule/a", "has a NUL in its `name`", "run the same command again"]);
    assert!(!said.contains('\0'), "{said:?}");
    let store = opened(&file);
    store.close();
    drop(store);
    Connection::open(places.file())
        .expect("the store's file")
        .execute("DELETE FROM ledgers", [])
        .expect("it is removed");
    moved(&file, &database);
    is_sound(&database);
}

#[test]
fn a_server_that_goes_away_in_the_middle_ends_the_move_and_the_next_one_goes_on() {
    let Some(server) = Postgres::own(&["fsync = on"]) else { return };
    let url = server.database();
    let database = Location::Postgres(Box::new(address(&url)));
    let stored = Stored::new();
    let file = Location::Sqlite(stored.file());
    for (step, is_out) in [
        (MoveStep::CopyEvents, true),
        (MoveStep::CopyRest, true),
        (MoveStep::VerifyTarget, true),
        (MoveStep::Compare, true),
        (MoveStep::VerifySource, false),
        (MoveStep::CopyRest, false),
        (MoveStep::Compare, false),
    ] {
        let [from, to] = if is_out { [&file, &database] } else { [&database, &file] };
        let mut is_away = false;
        let failed = migrate(from, to, &mut |at, _, _| {
            if at == step && !std::mem::replace(&mut is_away, true) {
                server.restart(|| ());
            }
        });
        // What was read before may be all that the step needs.
        // The process is still there, which the lease is of.
        sql(&url, "UPDATE wasmill.hosts SET lease_until = clock_timestamp() - interval '1 second'");
        if let Err(error) = &failed {
            says(&error.to_string(), &["PostgreSQL at"]);
            assert!(
                open(from, Options::default()).map(|store| store.close()).is_ok(),
                "{step:?}: the source is as it was"
            );
        }
        assert!(is_away, "{step:?}");
        println!("{step:?}: {failed:?}");
        moved(from, to);
        is_sound(to);
        // Back, for the next round.
        if step != MoveStep::Compare {
            moved(to, from);
        }
    }
}

#[test]
fn a_disk_that_is_full_ends_the_move_and_the_next_one_goes_on() {
    let Some(places) = Places::new() else { return };
    let (file, database) = (places.embedded(), places.postgres());
    let store = opened(&database);
    for n in 0..20 {
        let large = Decision::Events(vec![NewEvent { name: "Large".to_owned(), payload: vec![n; 100_000] }]);
        append(&*store, command(&order(n), "c"), ExpectedVersion::Any, large).expect("there is room");
    }
    store.close();
    drop(store);
    let mut worker = Process::new(env!("CARGO_BIN_EXE_store-worker"));
    worker.args(["migrate-full", &places.url, places.file().to_str().expect("a path"), "1000000"]);
    let output = worker.output().expect("start a worker");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    says(said.trim_end(), &["disk", "run the same command again"]);
    assert!(open(&file, Options::default()).is_err(), "it is not complete");
    moved(&database, &file);
    assert_eq!(is_sound(&file).events, 20);
}

/// The lease is renewed also while the other store takes long.
#[test]
fn a_host_does_not_take_over_a_store_that_is_moved() {
    let Some(places) = Places::new() else { return };
    let (file, database) = (places.embedded(), places.postgres());
    filled(&database);
    let mut is_tried = false;
    let lease = "SELECT lease_until > clock_timestamp() + interval '9 seconds' FROM wasmill.hosts";
    migrate(&database, &file, &mut |step, _, _| {
        if step == MoveStep::VerifyTarget && !std::mem::replace(&mut is_tried, true) {
            let said = open(&database, Options::default()).err().expect("it is owned").to_string();
            says(&said, &["in use by another host or `wasmill store` command"]);
            let session = Session::start(&places.url);
            session.run("UPDATE wasmill.hosts SET lease_until = clock_timestamp() + interval '5 seconds'");
            wasmill_tests::waiting::until("the lease is renewed", || session.run(lease) == ["t"]);
        }
    })
    .expect("nobody was in the way");
    assert!(is_tried);
}

/// A host that takes the source over nevertheless, because the lease had expired, ends the move.
#[test]
fn a_move_that_lost_its_source_marks_nothing() {
    let Some(places) = Places::new() else { return };
    let (file, database) = (places.embedded(), places.postgres());
    filled(&database);
    let mut host = None;
    let lost = migrate(&database, &file, &mut |step, _, _| {
        if step == MoveStep::Compare && host.is_none() {
            // The lease is renewed all the time.
            wasmill_tests::waiting::until("the lease has expired", || {
                sql(&places.url, "UPDATE wasmill.hosts SET lease_until = clock_timestamp() - interval '1 minute'");
                host = PostgresStore::open(&address(&places.url), Options::default()).ok();
                host.is_some()
            });
            record(host.as_ref().expect("it is open"), &order(2), 1);
        }
    });
    let error = lost.expect_err("the source is another's");
    assert!(matches!(error, Error::Lost { .. } | Error::Failed(_)), "{error}");
    let host = host.expect("it was opened");
    record(&host, &order(2), 1);
    host.close();
    drop(host);
    assert!(open(&file, Options::default()).is_err(), "what the host has recorded is not there");
    moved(&database, &file);
    is_sound(&file);
}
