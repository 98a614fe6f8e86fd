//! Files as a disk, a person or another program may leave them: none is believed, each is answered by a sentence, and
//! nothing of it is lost.

use super::files::{Stored, allow, as_nobody};
use rusqlite::Connection;
use std::fs;
use std::path::Path;
use std::process;
use wasmill::model::*;
use wasmill::store::sqlite::verify;
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
