//! Snapshots: a cache that is never wrong.

use super::Place;
use super::requests::*;
use std::sync::Arc;
use wasmill::model::*;
use wasmill::store::*;

const CODE: &str = "sha256:aa";

fn snapshot(stream: &StreamId, version: u64) -> Snapshot {
    let state = format!("{stream} at {version}").into_bytes();
    Snapshot { stream: stream.clone(), version: Version(version), code: CODE.into(), state }
}

/// Closes a store, which writes queued snapshots, and opens it again.
fn opened_anew<P: Place>(place: &P, store: Arc<dyn EventStore>) -> Arc<dyn EventStore> {
    store.close();
    drop(store);
    place.open()
}

fn found(store: &dyn EventStore, stream: &StreamId, code: &str) -> Option<Snapshot> {
    reader(store).snapshot(stream, code).expect("a snapshot is looked for")
}

/// Checks that a snapshot is found only for its own stream and for the code that made it.
pub fn the_newest_snapshot_is_found_by_its_stream_and_code<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    record(&*store, &order(1), 5);
    record(&*store, &order(2), 5);
    assert_eq!(found(&*store, &order(1), CODE), None);
    for version in [2, 4] {
        store.keep_snapshot(snapshot(&order(1), version));
        store = opened_anew(&place, store);
        assert_eq!(found(&*store, &order(1), CODE), Some(snapshot(&order(1), version)));
    }
    assert_eq!(found(&*store, &order(1), "sha256:bb"), None, "other code");
    assert_eq!(found(&*store, &order(2), CODE), None, "another stream");
    let cart = StreamId::new("cart", &*order(1).aggregate_id);
    assert_eq!(found(&*store, &cart, CODE), None, "another type");
}

/// Checks that new code has snapshots of its own, whatever the version of the old one was.
pub fn a_snapshot_of_other_code_takes_the_place_of_the_old_one<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    record(&*store, &order(1), 5);
    store.keep_snapshot(snapshot(&order(1), 5));
    let of_new_code = Snapshot { code: "sha256:bb".into(), ..snapshot(&order(1), 3) };
    store.keep_snapshot(of_new_code.clone());
    store = opened_anew(&place, store);
    assert_eq!(found(&*store, &order(1), CODE), None);
    assert_eq!(found(&*store, &order(1), "sha256:bb"), Some(of_new_code));
}

/// Checks a stream that was restored from a backup older than the snapshot.
pub fn a_snapshot_past_the_end_of_its_stream_is_not_found<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    record(&*store, &order(1), 3);
    for (stream, version) in [(order(1), 4), (order(2), 1)] {
        store.keep_snapshot(snapshot(&stream, version));
        store = opened_anew(&place, store);
        assert_eq!(found(&*store, &stream, CODE), None);
        assert_eq!(reader(&*store).stream_version(&order(1)).unwrap(), Version(3));
    }
}
