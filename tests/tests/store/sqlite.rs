//! The embedded store does what every event store must do.

use rusqlite::Connection;
use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use wasmill::model::{Command, ExpectedVersion};
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore, verify};
use wasmill::store::{Error, EventStore};
use wasmill_tests::store_conformance::Place;
use wasmill_tests::store_conformance::requests::*;

/// A folder with limits so small that runs of the index, their slices and foldings of the log happen all the time.
struct Folder(tempfile::TempDir);

impl Place for Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("make a temporary folder"))
    }

    fn open(&self) -> Arc<dyn EventStore> {
        let options = Options {
            batch_max: 64,
            batch_bytes_max: 2_000,
            index_run: 50,
            index_slice: 7,
            heads_max: 1,
            log_bytes_max: 64 << 10,
            ..Options::default()
        };
        Arc::new(SqliteStore::open(&self.0.path().join(FILE_NAME), options).expect("open the store"))
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

/// What is older than the window of the manifest is forgotten, whether or not it was cleaned up.
#[test]
fn an_outcome_is_remembered_for_its_window_and_not_longer() {
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let open = |window_ms| {
        let options = Options { outcomes_window_ms: window_ms, ..Options::default() };
        SqliteStore::open(&folder.path().join(FILE_NAME), options).expect("open the store")
    };
    let send = |store: &SqliteStore, id: &str, content: &str| {
        let command = Command { id: id.into(), durable_id: true, payload: content.into(), ..command(&order(1), "c") };
        append(store, command, ExpectedVersion::Any, happened(1))
    };
    let remembered = |store: &SqliteStore| reader(store).statistics(false).expect("statistics").outcomes;
    let store = open(60_000);
    for n in 0..30 {
        send(&store, &format!("old-{n}"), "content").expect("it is new");
    }
    assert!(matches!(send(&store, "old-0", "content"), Err(Error::Duplicate { outcome: Some(_), .. })));
    assert!(matches!(send(&store, "old-0", "other"), Err(Error::IdReused { .. })));
    store.close();
    let hours_ago = "UPDATE outcomes SET time_ms = time_ms - 3600000";
    Connection::open(folder.path().join(FILE_NAME))
        .and_then(|file| file.execute_batch(hours_ago))
        .expect("time passes");
    let store = open(60_000);
    send(&store, "old-0", "other").expect("the id is free again");
    assert_eq!(remembered(&store), 1, "the others went with the first one that was stored");
    store.close();
    let store = open(60_000);
    assert!(matches!(send(&store, "old-0", "other"), Err(Error::Duplicate { outcome: Some(_), .. })));
    assert!(matches!(send(&store, "old-0", "content"), Err(Error::IdReused { .. })));
}
