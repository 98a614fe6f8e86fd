//! The store in PostgreSQL passes the suite of every event store.

use std::any::Any;
use std::sync::Arc;
use wasmill::store::postgres::PostgresStore;
use wasmill::store::{Error, EventStore, Location, Options, migrate, verify};
use wasmill_tests::postgres::{Postgres, Session, address, sql};
use wasmill_tests::store_conformance::Place;

/// A database with limits so small that transactions are many and hints leave memory all the time.
pub(crate) struct Database {
    _server: Arc<Postgres>,
    pub(crate) url: String,
}

impl Place for Database {
    fn is_left_out() -> bool {
        Postgres::shared().is_none()
    }

    fn new() -> Self {
        let server = Postgres::shared().expect("it is not left out");
        let url = server.database();
        Self { _server: server, url }
    }

    fn try_open(&self) -> Result<Arc<dyn EventStore>, Error> {
        let options = Options { batch_max: 64, batch_bytes_max: 2_000, heads_max: 1, ..Options::default() };
        Ok(Arc::new(PostgresStore::open(&address(&self.url), options)?))
    }

    fn let_go(&self) {
        sql(&self.url, "UPDATE wasmill.hosts SET lease_until = clock_timestamp() - interval '1 second'");
    }

    fn standstill(&self) -> Box<dyn Any> {
        let session = Session::start(&self.url);
        session.run("SET search_path = wasmill; BEGIN; SELECT 1 FROM head FOR UPDATE");
        Box::new(session)
    }
}

/// Whatever was done to it, what is left must be sound, also in a file.
impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let (database, folder) =
            (Location::Postgres(Box::new(address(&self.url))), tempfile::tempdir().expect("a folder"));
        let report = verify(&database).expect("look the store over");
        assert!(report.is_sound(), "{report:#?}");
        let moved = migrate(&database, &Location::of_folder(folder.path()), &mut |_, _, _| ());
        assert_eq!(moved.expect("it moves into a file").position, report.position);
    }
}

wasmill_tests::store_conformance!(Database);
