//! Changes that the system may not report, and files that change at other files' cost.

use super::*;
use std::fs;
use std::sync::mpsc::{Sender, channel};

struct Recorded {
    files: Vec<PathBuf>,
    changed: Sender<BTreeSet<PathBuf>>,
}

impl Watched for Recorded {
    fn files(&self) -> Vec<(PathBuf, Option<FileIdentity>)> {
        self.files.iter().map(|file| (file.clone(), None)).collect()
    }

    fn changed(&mut self, files: BTreeSet<PathBuf>) {
        self.changed.send(files).unwrap();
    }
}

struct Files {
    folder: tempfile::TempDir,
    watch: FileWatch,
    changes: Receiver<BTreeSet<PathBuf>>,
}

impl Files {
    /// Watches files that exist, and takes the first report, which is of all of them.
    fn watch(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
        for file in &files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "one").unwrap();
        }
        let (changed, changes) = channel();
        let watch = FileWatch::start(Recorded { files: files.clone(), changed }).unwrap();
        let found = Self { folder, watch, changes };
        assert_eq!(found.next(), files.into_iter().collect());
        found
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn next(&self) -> BTreeSet<PathBuf> {
        self.changes.recv_timeout(Duration::from_secs(60)).expect("a change is reported")
    }
}

#[test]
fn a_link_that_is_swapped_is_a_changed_file() {
    let files = Files::watch(&["one/p.wasm", "two/p.wasm", "three"]);
    // This is how Kubernetes mounts a map of files: the link to the folder is swapped.
    std::os::unix::fs::symlink("one", files.path("current")).unwrap();
    std::os::unix::fs::symlink("current/p.wasm", files.path("p.wasm")).unwrap();
    let (changed, changes) = channel();
    let file = files.path("p.wasm");
    let _watch = FileWatch::start(Recorded { files: vec![file.clone()], changed }).unwrap();
    let next = || changes.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(next(), BTreeSet::from([file.clone()]));
    std::os::unix::fs::symlink("two", files.path("new")).unwrap();
    fs::rename(files.path("new"), files.path("current")).unwrap();
    assert_eq!(next(), BTreeSet::from([file]));
}

#[test]
fn a_folder_that_is_deleted_and_recreated_is_watched_again() {
    let files = Files::watch(&["built/p.wasm", "other"]);
    let file = files.path("built/p.wasm");
    for text in ["two", "three"] {
        fs::remove_dir_all(files.path("built")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while files.watch.unseen(&file).is_none() {
            assert!(Instant::now() < deadline, "the missing file is noticed");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        fs::create_dir(files.path("built")).unwrap();
        fs::write(&file, text).unwrap();
        assert_eq!(files.next(), BTreeSet::from([file.clone()]));
    }
    assert_eq!(files.watch.unseen(&file), None);
}

#[test]
fn files_that_change_together_are_reported_together_whatever_else_changes() {
    let files = Files::watch(&["a", "b", "c"]);
    let (stop, stopped) = channel::<()>();
    let noise = files.path("noise");
    let noisy = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            fs::write(&noise, "x").unwrap();
        }
    });
    fs::write(files.path("a"), "two").unwrap();
    fs::write(files.path("b"), "four").unwrap();
    assert_eq!(files.next(), BTreeSet::from([files.path("a"), files.path("b")]));
    drop(stop);
    noisy.join().unwrap();
}

#[test]
fn a_file_that_never_rests_does_not_hold_up_another() {
    let files = Files::watch(&["quiet", "restless"]);
    let restless = files.path("restless");
    let (stop, stopped) = channel::<()>();
    let writer = std::thread::spawn(move || {
        let mut length = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            length += 1;
            fs::write(&restless, "x".repeat(length % 1000)).unwrap();
        }
    });
    fs::write(files.path("quiet"), "two").unwrap();
    assert_eq!(files.next(), BTreeSet::from([files.path("quiet")]));
    drop(stop);
    writer.join().unwrap();
    assert_eq!(files.next(), BTreeSet::from([files.path("restless")]));
}
