//! A restore that is killed at any of its steps leaves the old store or the new one, and the old one's files whole.

use super::files::Stored;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use wasmill::model::{ExpectedVersion, Position};
use wasmill::store::sqlite::{FaultPoint, KILL_AT, Restore, backup, exists, is_in_use, verify};
use wasmill::store::{EventStore as _, Events as _};
use wasmill_tests::store_conformance::requests::*;

/// Restores in another process, which may be killed on the way.
fn restore(backup: &Path, file: &Path, kill_at: Option<&str>) -> std::process::ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_store-worker"));
    command.arg("restore").args([backup, file]).envs(kill_at.map(|point| (KILL_AT, point)));
    command.status().expect("start a worker")
}

/// A store whose newest events are only in its log, and an older backup of it.
fn store_and_backup() -> (Stored, PathBuf, Position, Position) {
    let stored = Stored::new();
    let copy = stored.folder.path().join("copy.sqlite");
    let older = Position(backup(&stored.file(), &copy).expect("a backup").position);
    let store = stored.open().expect("open the store");
    let newest = (0..40).map(|n| record(&store, &order(n), 1)).last().expect("some").position;
    // What a host that was killed leaves: the log is not folded.
    for name in ["events.sqlite", "events.sqlite-wal", "events.sqlite-shm"] {
        std::fs::copy(stored.folder.path().join(name), stored.folder.path().join(format!("kept-{name}")))
            .expect("copy");
    }
    store.close();
    drop(store);
    for name in ["events.sqlite", "events.sqlite-wal", "events.sqlite-shm"] {
        std::fs::rename(stored.folder.path().join(format!("kept-{name}")), stored.folder.path().join(name))
            .expect("put it back");
    }
    (stored, copy, older, newest)
}

#[test]
fn a_kill_at_any_step_leaves_the_old_store_or_the_new_one() {
    let points = FaultPoint::ALL.iter().filter(|point| point.is_of_restoring());
    // Three files move aside.
    let passages = |point: &FaultPoint| if *point == FaultPoint::StoreMovedAside { 1..=3 } else { 1..=1 };
    for kill_at in points.flat_map(|point| passages(point).map(|passage| format!("{}:{passage}", point.name()))) {
        let (stored, copy, older, newest) = store_and_backup();
        let status = restore(&copy, &stored.file(), Some(&kill_at));
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{kill_at}: {status}");
        assert!(exists(&stored.file()) && !is_in_use(&stored.file()), "{kill_at}");
        let report = verify(&stored.file()).expect("look the store over");
        assert!(report.is_sound(), "{kill_at}: {report:#?}");
        let is_decided = !kill_at.starts_with("restore-prepared");
        assert_eq!(report.position, if is_decided { older.0 } else { newest.0 }, "{kill_at}");
        let aside = stored.folder.path().join("replaced-now/events.sqlite");
        if is_decided {
            let kept = verify(&aside).expect("look the old store over");
            assert!(kept.is_sound() && kept.position == newest.0, "{kill_at}: {kept:#?}");
        }
        // What is left is no dead end.
        let store = stored.open().expect("open the store");
        append(&store, command(&order(1), "c"), ExpectedVersion::Any, happened(1)).expect("it takes events");
        store.close();
        drop(store);
        assert!(restore(&copy, &stored.file(), None).success(), "{kill_at}");
        assert_eq!(verify(&stored.file()).expect("look the store over").position, older.0);
        let names = std::fs::read_dir(stored.folder.path()).expect("list it");
        let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name().into_string().unwrap()).collect();
        assert!(!names.iter().any(|name| name.contains("restor")), "{kill_at}: {names:?}");
    }
}

#[test]
fn a_host_that_starts_after_a_kill_has_the_new_store() {
    let (stored, copy, older, _) = store_and_backup();
    restore(&copy, &stored.file(), Some("store-moved-aside:1"));
    assert!(!stored.file().exists(), "its file is on the way");
    let store = stored.open().expect("open the store");
    assert_eq!(*store.head().borrow(), older);
    store.close();
}

#[test]
fn a_restore_that_is_given_up_leaves_nothing() {
    let (stored, copy, ..) = store_and_backup();
    let before = std::fs::read(stored.file()).expect("read the store");
    drop(Restore::prepare(&copy, &stored.file()).expect("copy the backup"));
    assert_eq!(std::fs::read(stored.file()).expect("read the store"), before);
    assert!(!stored.folder.path().join("events-restoring.sqlite").exists());
}

#[test]
fn a_restore_is_completed_although_somebody_has_removed_the_folder_for_the_old_files() {
    let (stored, copy, older, newest) = store_and_backup();
    restore(&copy, &stored.file(), Some("restore-decided:1"));
    let aside = stored.folder.path().join("replaced-now");
    std::fs::remove_dir(&aside).expect("it is empty");
    let store = stored.open().expect("open the store");
    assert_eq!(*store.head().borrow(), older);
    store.close();
    assert_eq!(verify(&aside.join("events.sqlite")).expect("the old store is there").position, newest.0);
}

#[test]
fn a_backup_at_the_place_of_the_copy_is_refused_and_kept() {
    let (stored, copy, older, _) = store_and_backup();
    let unlucky = stored.folder.path().join("events-restoring.sqlite");
    std::fs::rename(&copy, &unlucky).expect("rename the backup");
    let refused = Restore::prepare(&unlucky, &stored.file()).err().expect("it is refused").to_string();
    assert!(refused.contains("give it another name"), "{refused}");
    assert_eq!(verify(&unlucky).expect("it is there").position, older.0);
}
