//! The embedded store does what every event store must do.

use std::sync::Arc;
use wasmill::store::EventStore;
use wasmill::store::sqlite::{FILE_NAME, Options, SqliteStore, verify};
use wasmill_tests::store_conformance::Place;

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
