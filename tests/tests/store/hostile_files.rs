//! Files as a disk, a person or another program may leave them. None is trusted, each is reported in a sentence, and
//! nothing of it is lost.

use super::files::{Stored, allow, as_nobody, is_lost};
use rusqlite::Connection;
use std::fs;
use std::path::Path;
use std::process;
use wasmill::model::*;
use wasmill::store::sqlite::{FILE_NAME, verify};
use wasmill::store::*;
use wasmill_tests::built;
use wasmill_tests::store_conformance::requests::*;

/// What a disk, a person or another program may make of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    Truncated,
    Flipped,
    Empty,
    Folder,
    Unreadable,
    AnotherStores,
    Newer,
}

impl Damage {
    const ALL: [Self; 7] =
        [Self::Truncated, Self::Flipped, Self::Empty, Self::Folder, Self::Unreadable, Self::AnotherStores, Self::Newer];

    /// Does it to a file; `other` is the same file of another store.
    fn inflict(self, file: &Path, other: &Path) {
        let content = fs::read(file).unwrap();
        match self {
            Self::Truncated => fs::write(file, &content[..content.len() / 2]).unwrap(),
            // In the header: how pages are laid out.
            Self::Flipped => fs::write(file, [&content[..16], &[content[16] ^ 0x41], &content[17..]].concat()).unwrap(),
            Self::Empty => fs::write(file, b"").unwrap(),
            Self::Folder => fs::remove_file(file).and_then(|()| fs::create_dir(file)).unwrap(),
            Self::Unreadable => allow(file, 0o000),
            Self::AnotherStores => drop(fs::copy(other, file).unwrap()),
            Self::Newer => Connection::open(file).unwrap().execute_batch("PRAGMA user_version = 99").unwrap(),
        }
    }
}

fn is_left(damage: Damage, file: &Path, before: Option<Vec<u8>>) -> bool {
    match damage {
        Damage::Folder => file.is_dir(),
        _ => fs::read(file).ok() == before,
    }
}

#[test]
fn a_hostile_store_is_refused_in_a_sentence_and_left_as_it_is() {
    for (damage, words) in Damage::ALL.into_iter().zip([
        ["damaged", "restore it from a backup"],
        ["damaged", "restore it from a backup"],
        ["damaged", "restore it from a backup"],
        ["unable to open database file", "check that the folder exists and may be written to"],
        ["unable to open database file", "check that the folder exists and may be written to"],
        ["", ""],
        ["format 99", "run a newer wasmill"],
    ]) {
        let (stored, other) = (Stored::new(), Stored::new());
        allow(stored.folder.path(), 0o777);
        allow(&stored.file().with_extension("lock"), 0o666);
        damage.inflict(&stored.file(), &other.file());
        let before = fs::read(stored.file()).ok();
        if damage == Damage::AnotherStores {
            // Whose it is can be told: everything that was made of a store keeps its identity.
            let identity = other.open().unwrap().identity();
            assert_eq!(stored.open().unwrap().identity(), identity);
            continue;
        }
        println!("{damage:?}");
        as_nobody(|| stored.is_refused(&words));
        assert!(verify(&stored.file()).is_err() || damage == Damage::Unreadable, "{damage:?}");
        assert!(is_left(damage, &stored.file(), before), "{damage:?}: nothing of it was changed");
    }
}

/// Snapshots are a cache: whatever is in their file, the host starts, believes nothing that is not true, and keeps new ones.
#[test]
fn hostile_snapshots_are_never_believed_and_give_way() {
    let with_snapshot = |state: &[u8]| {
        let stored = Stored::new();
        let store = stored.open().unwrap();
        let snapshot = Snapshot { stream: order(1), version: Version(5), code: "code".into(), state: state.to_vec() };
        store.keep_snapshot(snapshot.clone());
        store.close();
        (stored, snapshot)
    };
    let flipped_state = "UPDATE snapshots SET state = CAST('the stale' AS BLOB)";
    for damage in Damage::ALL.map(Some).into_iter().chain([None]) {
        println!("{damage:?}");
        let ((stored, snapshot), (other, _)) = (with_snapshot(b"the state"), with_snapshot(b"of another"));
        let file = |stored: &Stored| stored.folder.path().join("snapshots.sqlite");
        allow(stored.folder.path(), 0o777);
        for name in fs::read_dir(stored.folder.path()).unwrap().map(Result::unwrap) {
            allow(&name.path(), 0o666);
        }
        match damage {
            Some(damage) => damage.inflict(&file(&stored), &file(&other)),
            None => Connection::open(file(&stored)).unwrap().execute_batch(flipped_state).unwrap(),
        }
        as_nobody(|| {
            let store = stored.open().unwrap();
            let found = reader(&store).snapshot(&order(1), "code").unwrap();
            assert!(found.is_none(), "{damage:?}: {found:?}");
            store.keep_snapshot(snapshot.clone());
            store.close();
            let found = reader(&stored.open().unwrap()).snapshot(&order(1), "code").unwrap();
            assert_eq!(found.as_ref(), Some(&snapshot), "{damage:?}");
        });
        assert_eq!(all_events(&stored.open().unwrap()).len(), 124);
    }
}

#[test]
fn a_hostile_host_file_is_a_sentence_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("host.json");
    let whole = r#"{"pid":1,"url":"http://127.0.0.1:1","instance":"a","store":"b","folder":1}"#;
    let contents: [(&str, &[u8]); 6] = [
        ("truncated", &whole.as_bytes()[..40]),
        ("flipped", &[&whole.as_bytes()[..9], b"\xff", &whole.as_bytes()[10..]].concat()),
        ("empty", b""),
        ("of an older wasmill", br#"{"pid":1,"url":"http://127.0.0.1:1"}"#),
        ("of another folder", whole.as_bytes()),
        ("a folder", b""),
    ];
    for (what, content) in contents {
        fs::write(&file, content).unwrap();
        if what == "a folder" {
            fs::remove_file(&file).and_then(|()| fs::create_dir(&file)).unwrap();
        }
        let mut command = process::Command::new(built::program("wasmill"));
        let output = command.args(["dead-letters", "discard", "--all", "--data"]).arg(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let is_told = ["host.json", "wasmill run MANIFEST", "--url"].iter().all(|word| said.contains(word));
        assert!(output.status.code() == Some(1) && is_told && said.lines().count() == 1, "{what}: {said}");
    }
}

/// A log follows on one file. Beside an older copy of it, or beside the file of another store, it would change some pages and
/// leave out what came between.
#[test]
fn a_file_beside_a_log_that_does_not_follow_on_it_is_refused_and_left_as_it_is() {
    let stored = Stored::new();
    let write = |events: usize| {
        let store = stored.open().unwrap();
        for n in 0..events {
            record(&store, &order(n % 7), 1);
        }
        store
    };
    let log = stored.folder.path().join(format!("{FILE_NAME}-wal"));
    let place = |file: &[u8], log_bytes: &[u8]| {
        fs::write(stored.file(), file).unwrap();
        fs::write(&log, log_bytes).unwrap();
    };
    let mut events = 124;
    for (between, after) in [(50, 5), (1, 1), (0, 1), (300, 30), (2, 200), (0, 0)] {
        let old = fs::read(stored.file()).unwrap();
        write(between).close();
        let store = write(after);
        let [file, newer] = [fs::read(stored.file()).unwrap(), fs::read(&log).unwrap()];
        drop(store);
        for wrong in [&old, &fs::read(Stored::new().file()).unwrap()] {
            place(wrong, &newer);
            stored.is_refused(&["put in the place of another", "delete the log"]);
            assert!(verify(&stored.file()).is_err());
            assert!(fs::read(stored.file()).unwrap() == *wrong && fs::read(&log).unwrap() == newer);
            // Both ways out work.
            fs::remove_file(&log).unwrap();
            assert!(all_events(&stored.open().unwrap()).len() >= 124);
        }
        place(&file, &newer);
        events += between + after;
        assert_eq!(all_events(&stored.open().unwrap()).len(), events);
    }
}

/// What is written into a file that has no name any more is gone when the process ends.
#[test]
fn a_host_whose_file_was_removed_replaced_or_cut_ends_and_says_which() {
    let log = format!("{FILE_NAME}-wal");
    let cut = |file: &Path, bytes| fs::File::options().write(true).open(file).unwrap().set_len(bytes).unwrap();
    for (file, how, words) in [
        (FILE_NAME, Loss::Removed, "another program removed"),
        (FILE_NAME, Loss::Replaced, "another program put another file in the place of"),
        (FILE_NAME, Loss::Cut, "another program cut"),
        (&log, Loss::Removed, "another program removed"),
        (&log, Loss::Cut, "another program cut"),
    ] {
        let (stored, other) = (Stored::new(), Stored::new());
        let store = stored.open().unwrap();
        let path = stored.file().with_file_name(file);
        match how {
            Loss::Removed => fs::remove_file(&path).unwrap(),
            Loss::Replaced => fs::rename(other.file(), &path).unwrap(),
            Loss::Cut => cut(&path, if file == FILE_NAME { 8_192 } else { 0 }),
            Loss::TakenOver | Loss::LeaseTaken => unreachable!("no other host is there"),
        }
        let lost = is_lost(&store).to_string();
        let said = format!("{words} {}: this host no longer owns the store and ends; ", path.display());
        assert!(lost.starts_with(&said) && lost.contains("`wasmill store verify`"), "{lost}");
        let refused = append(&store, command(&order(1), "c"), ExpectedVersion::Any, happened(1)).unwrap_err();
        assert_eq!(refused.to_string(), lost);
    }
}
