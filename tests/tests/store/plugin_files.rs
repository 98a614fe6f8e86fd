//! Files are also compared for changes if the system can't report these.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};
use wasmill::file_watch::{FileIdentity, FileWatch, Watched};

/// Inotify instances and descriptors, all that there are.
struct Exhausted(Vec<i32>);

impl Exhausted {
    fn new() -> Self {
        // SAFETY: it takes no pointers.
        let instances = std::iter::from_fn(|| Some(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) }));
        Self(instances.take_while(|instance| *instance >= 0).collect())
    }
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        for instance in self.0.drain(..) {
            // SAFETY: it is this value's own, and closed once.
            unsafe { libc::close(instance) };
        }
    }
}

struct OneFile {
    file: PathBuf,
    read: FileIdentity,
    changed: SyncSender<BTreeSet<PathBuf>>,
}

impl Watched for OneFile {
    fn files(&self) -> Vec<(PathBuf, Option<FileIdentity>)> {
        vec![(self.file.clone(), Some(self.read))]
    }

    fn changed(&mut self, files: BTreeSet<PathBuf>) {
        self.changed.send(files).expect("the test waits");
    }
}

#[test]
fn a_changed_file_is_reported_where_the_system_tells_of_none() {
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("cart.wasm");
    fs::write(&file, "one").expect("write a file");
    let read = FileIdentity::of(&file).expect("it is there");
    let (changed, changes) = sync_channel(1);

    let exhausted = Exhausted::new();
    let watch = FileWatch::start(OneFile { file: file.clone(), read, changed }).expect("the host starts all the same");
    let deadline = Instant::now() + Duration::from_secs(60);
    while watch.trouble().is_none() {
        assert!(Instant::now() < deadline, "the status says that the system tells of nothing");
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let trouble = watch.trouble().expect("it was there");
    assert!(trouble.contains("fs.inotify.max_user_instances"), "{trouble}");
    let new = file.with_extension("new");
    fs::write(&new, "two").and_then(|()| fs::rename(&new, &file)).expect("replace the file");
    let reported = changes.recv_timeout(Duration::from_secs(60)).expect("the change is reported");
    assert_eq!(reported, BTreeSet::from([file]));
    drop(exhausted);
    while watch.trouble().is_some() {
        assert!(Instant::now() < deadline, "the system tells of changes again: {:?}", watch.trouble());
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
