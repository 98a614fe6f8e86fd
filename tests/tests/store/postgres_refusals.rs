//! A database that can't have the store is refused with a sentence that says what to do, and never with the password.

use wasmill::store::postgres::{self, PostgresStore};
use wasmill::store::{EventStore as _, Options};
use wasmill_tests::certificates::Authority;
use wasmill_tests::postgres::{Postgres, Session, address, sql};
use wasmill_tests::store_conformance::requests::*;
use xtask::postgres::PASSWORD;

fn refused(url: &str) -> String {
    let refused = PostgresStore::open(&address(url), Options::default()).err();
    let said = refused.unwrap_or_else(|| panic!("{url} can't have a store")).to_string();
    assert!(!said.contains(PASSWORD) && !said.contains("hush"), "{said}");
    said
}

fn made(url: &str) {
    let store = PostgresStore::open(&address(url), Options::default()).expect("open the store");
    record(&store, &order(1), 2);
    store.close();
}

#[test]
fn what_is_wrong_with_the_url_is_said() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let own = server.server().address().to_string();
    for (url, words) in [
        (url.replace(PASSWORD, "hush"), vec!["password authentication failed", "check the user and the password"]),
        (url.replace("/test_", "/absent_"), vec!["does not exist", "createdb"]),
        (url.replace(&own, &nobody.to_string()), vec!["can reach it", "tried again"]),
        (format!("{url}?sslmode=require"), vec!["takes no encrypted connections"]),
        (format!("{url}?sslrootcert=/absent.pem"), vec!["/absent.pem", "can't be read"]),
    ] {
        let said = refused(&url);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[test]
fn a_schema_that_is_not_this_wasmills_is_left_alone() {
    let Some(server) = Postgres::shared() else { return };
    for (change, words) in [
        ("INSERT INTO wasmill.migrations VALUES (99, '9.9.9')", vec!["version 99", "run a newer wasmill"]),
        ("DROP TABLE wasmill.outbox", vec!["migrated by half", "restore"]),
        ("DELETE FROM wasmill.head", vec!["has no head", "restore"]),
        ("DROP TABLE wasmill.migrations", vec!["something else", "schema=NAME"]),
    ] {
        let url = server.database();
        made(&url);
        sql(&url, change);
        let said = refused(&url);
        assert!(words.iter().all(|word| said.contains(word)), "{change}: {said}");
        assert_eq!(sql(&url, "SELECT count(*) FROM wasmill.events"), ["2"], "{change}");
        // Two stores in one database do not know of each other.
        made(&format!("{url}?schema=other"));
        assert_eq!(sql(&url, "SELECT count(*) FROM other.events"), ["2"]);
    }
}

#[test]
fn several_hosts_that_start_at_once_migrate_once() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let opened = std::thread::scope(|scope| {
        let openers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| PostgresStore::open(&address(&url), Options::default()))).collect();
        openers.into_iter().map(|opener| opener.join().expect("it ends")).collect::<Vec<_>>()
    });
    assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), 1);
    for refused in opened.iter().filter_map(|opened| opened.as_ref().err()) {
        assert!(refused.to_string().contains("in use by another host"), "{refused}");
    }
    assert_eq!(sql(&url, "SELECT count(*) FROM wasmill.migrations"), ["1"]);
}

#[test]
fn a_standby_is_read_and_not_written() {
    let Some(primary) = Postgres::own(&[]) else { return };
    let url = primary.database();
    made(&url);
    let standby = primary.copy(&[], Some("standby.signal"));
    let copy = standby.url_like(&url);
    let said = refused(&copy);
    assert!(said.contains("is a standby") && said.contains("name the primary"), "{said}");
    let mut inspection = postgres::inspect(&address(&copy)).expect("a standby can be read");
    assert_eq!(inspection.newest.event, 2);
    assert_eq!(whole_stream(&mut *inspection.reader, &order(1)).len(), 2);
    assert!(!postgres::is_in_use(&address(&copy)));
    sql(&url, "ALTER DATABASE test_0 SET default_transaction_read_only = on");
    let said = refused(&url);
    assert!(said.contains("default_transaction_read_only"), "{said}");
}

#[test]
fn a_server_without_free_connections_is_told() {
    let Some(server) = Postgres::own(&["max_connections = 5", "superuser_reserved_connections = 0"]) else { return };
    let url = server.database();
    let others: Vec<Session> = (0..5).map(|_| Session::start(&url)).collect();
    let said = refused(&url);
    assert!(said.contains("too many clients") && said.contains("max_connections"), "{said}");
    drop(others);
}

#[test]
fn the_certificate_of_the_server_is_checked_as_the_url_says() {
    let authority = Authority::new("The authority of the database");
    let Some(server) = Postgres::own(&[]) else { return };
    let url = server.database();
    let issued = authority.issue(&["127.0.0.1"]);
    std::fs::write(server.server().data("server.crt"), &issued.certificate).expect("write the certificate");
    std::fs::write(server.server().data("server.key"), &issued.key).expect("write the key");
    for file in ["server.crt", "server.key"] {
        let file = server.server().data(file);
        server.server().give(&file).expect("give it to the server");
    }
    sql(&url, "ALTER SYSTEM SET ssl = on");
    server.restart(|| ());
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let root = |name: &str, authority: &Authority| {
        let file = folder.path().join(name);
        std::fs::write(&file, authority.pem()).expect("write the root");
        file.display().to_string()
    };
    let (own, other) = (root("own.pem", &authority), root("other.pem", &Authority::new("Another authority")));
    let by_name = url.replace("127.0.0.1", "localhost");
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND \
                     application_name = 'wasmill'";
    for (url, query) in [
        (&url, format!("sslmode=verify-full&sslrootcert={own}")),
        (&url, format!("sslrootcert={own}")),
        (&by_name, format!("sslmode=verify-ca&sslrootcert={own}")),
        (&by_name, "sslmode=require".to_owned()),
    ] {
        let store = PostgresStore::open(&address(&format!("{url}?{query}")), Options::default());
        let store = store.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_ne!(sql(url, encrypted), ["0"], "{query}");
        store.close();
    }
    for (url, query) in [
        (&url, format!("sslmode=verify-full&sslrootcert={other}")),
        (&url, format!("sslmode=verify-ca&sslrootcert={other}")),
        (&by_name, format!("sslmode=verify-full&sslrootcert={own}")),
    ] {
        let said = refused(&format!("{url}?{query}"));
        assert!(said.contains("certificate is not the expected one") && said.contains("sslrootcert"), "{said}");
    }
}
