//! Watching files for changes.
//!
//! A file has changed if its identity differs from before: its device, inode, length or times. Links are followed, so a link
//! that is swapped to another file counts as a change. The identities are compared at intervals, whatever the system reports,
//! because many file systems report nothing, the system may have run out of watches, and a folder that is deleted and
//! recreated is another one. What the system does report makes the comparison earlier.
//!
//! A changed file is reported once its identity has stayed the same for a while, because a build writes a file in several
//! steps. Files that change together are reported together.

use crate::paths;
use crate::supervise::{self, Held as _};
use notify::{RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a changed file must stay the same before it is reported.
const QUIET: Duration = Duration::from_millis(200);

/// How long files that are quiet wait for one that is not.
const QUIET_MAX: Duration = Duration::from_secs(2);

/// How often the identities are compared, whether or not the system reports changes.
const LOOK: Duration = Duration::from_secs(1);

/// When the identities are compared after a report of the system, and while a file is changing.
const LOOK_SOON: Duration = Duration::from_millis(50);

/// How often folders are watched again that could not be watched.
const RENEW: Duration = Duration::from_secs(5);

/// The most reports of the system that wait. A report for which there is no room is not needed: another one waits.
const REPORTS_MAX: usize = 64;

/// The metadata that shows whether a file has changed, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    /// Returns the identity of the file at a path, or behind the link at it.
    pub fn of(file: &Path) -> std::io::Result<Self> {
        std::fs::metadata(file).map(|about| Self::from(&about))
    }
}

impl From<&std::fs::Metadata> for FileIdentity {
    fn from(about: &std::fs::Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
            length: about.len(),
            modified: (about.mtime(), about.mtime_nsec()),
            changed: (about.ctime(), about.ctime_nsec()),
        }
    }
}

/// What is done with changed files.
pub trait Watched: Send + 'static {
    /// Returns the files to watch now, each with its identity when it was last read. `None` is a file that was not read.
    fn files(&self) -> Vec<(PathBuf, Option<FileIdentity>)>;

    /// Handles files that have changed. Each is reported once for each change.
    fn changed(&mut self, files: BTreeSet<PathBuf>);
}

/// A running watch. Dropping it ends the watch.
pub struct FileWatch {
    /// The thread ends once this and the system's watcher, which the thread has, are dropped.
    reports: Option<SyncSender<()>>,
    board: Arc<Board>,
    thread: supervise::Thread,
}

/// What others may know of the watch.
#[derive(Default)]
struct Board {
    ends: AtomicBool,
    /// Why the system does not report changes, if it does not.
    trouble: Mutex<Option<String>>,
    /// The files that can't be looked at, and why.
    unseen: Mutex<BTreeMap<PathBuf, String>>,
}

impl FileWatch {
    /// Starts a watch.
    pub fn start(watched: impl Watched) -> Result<Self, String> {
        let (report, reports) = sync_channel(REPORTS_MAX);
        let board = Arc::new(Board::default());
        let state = State {
            watched,
            board: board.clone(),
            system: SystemWatch { report: report.clone(), watcher: None, folders: BTreeMap::new(), failed: None },
            files: BTreeMap::new(),
        };
        let thread = supervise::restarting(
            "file-watch",
            || Ok::<_, String>(state),
            |_| Ok(()),
            move |state| state.run(&reports),
        );
        let thread = thread.map_err(|error| format!("can't watch files: {error}"))?;
        Ok(Self { reports: Some(report), board, thread })
    }

    /// Returns why the system does not report changes, so that they are noticed a little later; `None` if it does.
    pub fn trouble(&self) -> Option<String> {
        self.board.trouble.held().clone()
    }

    /// Returns why a file can't be looked at, if it can't.
    pub fn unseen(&self, file: &Path) -> Option<String> {
        self.board.unseen.held().get(file).cloned()
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        self.board.ends.store(true, Ordering::Release);
        if let Some(reports) = self.reports.take() {
            // No room means that the thread wakes up anyway.
            let _ = reports.try_send(());
        }
        // The last user of what is watched may be the thread itself, which then ends by itself.
        if std::thread::current().id() != self.thread.thread().id() {
            self.thread.join();
        }
    }
}

/// The state of the thread.
struct State<W> {
    watched: W,
    board: Arc<Board>,
    system: SystemWatch,
    files: BTreeMap<PathBuf, Seen>,
}

/// A file as it was seen.
struct Seen {
    /// Its identity when it was last read or reported.
    known: Option<FileIdentity>,
    /// The changed identity that it has now, since when it has it, and since when it differs from the known one.
    changing: Option<(FileIdentity, Instant, Instant)>,
}

impl<W: Watched> State<W> {
    fn run(&mut self, reports: &Receiver<()>) {
        let mut next_look = Instant::now();
        loop {
            supervise::round();
            while let rest = next_look.saturating_duration_since(Instant::now())
                && !rest.is_zero()
            {
                match reports.recv_timeout(rest) {
                    // A report may concern any file of a folder. A look costs less than finding out. Looks are spaced, because other
                    // files of the folder may change all the time.
                    Ok(()) => next_look = next_look.min(Instant::now() + LOOK_SOON),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if self.board.ends.load(Ordering::Acquire) {
                    return;
                }
            }
            let ripe = self.look(Instant::now());
            if !ripe.is_empty() {
                self.watched.changed(ripe);
            }
            let is_changing = self.files.values().any(|seen| seen.changing.is_some());
            next_look = Instant::now() + if is_changing { LOOK_SOON } else { LOOK };
        }
    }

    /// Compares the identities. Returns the files that are to be reported.
    fn look(&mut self, now: Instant) -> BTreeSet<PathBuf> {
        let watched = self.watched.files();
        self.files.retain(|file, _| watched.iter().any(|(wanted, _)| wanted == file));
        let mut unseen = BTreeMap::new();
        for (file, read) in &watched {
            let seen = self.files.entry(file.clone()).or_insert(Seen { known: *read, changing: None });
            match FileIdentity::of(file) {
                Ok(found) => {
                    // It was read again since, for another reason.
                    seen.known = read.filter(|read| *read == found).or(seen.known);
                    seen.is(found, now);
                }
                Err(error) => {
                    seen.changing = None;
                    unseen.insert(file.clone(), error.to_string());
                }
            }
        }
        *self.board.unseen.held() = unseen;
        let folders = watched.iter().map(|(file, _)| paths::folder_of(file).to_owned()).collect();
        *self.board.trouble.held() = self.system.renew(folders, now);
        self.take_ripe(now)
    }

    fn take_ripe(&mut self, now: Instant) -> BTreeSet<PathBuf> {
        let changing = || self.files.values().filter_map(|seen| seen.changing);
        let is_quiet = |(_, same_since, _): (_, Instant, _)| now.duration_since(same_since) >= QUIET;
        let all_are_quiet = changing().all(is_quiet);
        let has_waited = changing().any(|(.., since)| now.duration_since(since) >= QUIET_MAX);
        if !all_are_quiet && !has_waited {
            return BTreeSet::new();
        }
        let mut ripe = BTreeSet::new();
        for (file, seen) in &mut self.files {
            if let Some(changing) = seen.changing.take_if(|changing| is_quiet(*changing)) {
                seen.known = Some(changing.0);
                ripe.insert(file.clone());
            }
        }
        ripe
    }
}

impl Seen {
    /// Notes the identity of the file.
    fn is(&mut self, found: FileIdentity, now: Instant) {
        self.changing = match self.changing {
            _ if self.known == Some(found) => None,
            Some((identity, same_since, since)) if identity == found => Some((identity, same_since, since)),
            Some((_, _, since)) => Some((found, now, since)),
            None => Some((found, now, now)),
        };
    }
}

/// The system's watch of the folders that the files are in. Folders are watched, not files, because a build may replace a file by
/// a new one.
struct SystemWatch {
    report: SyncSender<()>,
    watcher: Option<notify::RecommendedWatcher>,
    /// The folders that are watched, each with its device and inode.
    folders: BTreeMap<PathBuf, (u64, u64)>,
    /// When the folders could not be watched, and why.
    failed: Option<(Instant, String)>,
}

impl SystemWatch {
    /// Watches these folders from now on. Returns why the system does not report changes, if it does not.
    fn renew(&mut self, folders: BTreeSet<PathBuf>, now: Instant) -> Option<String> {
        let identity = |folder: &Path| std::fs::metadata(folder).ok().map(|about| (about.dev(), about.ino()));
        let there: BTreeMap<_, _> =
            folders.into_iter().filter_map(|folder| identity(&folder).map(|identity| (folder, identity))).collect();
        let failed_just_now = self.failed.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < RENEW);
        if !failed_just_now && (self.watcher.is_none() || self.folders != there) {
            // The watch of a folder that was deleted is gone, and a new one begins before the old one ends.
            let begun = self.begin(&there);
            let was_working = self.failed.is_none();
            (self.watcher, self.failed) = match begun {
                Ok(watcher) => (Some(watcher), None),
                Err(error) => (None, Some((now, error.to_string()))),
            };
            self.folders = there;
            if let Some((_, error)) = self.failed.as_ref().filter(|_| was_working) {
                tracing::warn!("{}", in_words(error));
            }
        }
        self.failed.as_ref().map(|(_, error)| in_words(error))
    }

    fn begin(&self, folders: &BTreeMap<PathBuf, (u64, u64)>) -> notify::Result<notify::RecommendedWatcher> {
        let report = self.report.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = report.try_send(());
            }
        })?;
        for folder in folders.keys() {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

fn in_words(error: &str) -> String {
    format!(
        "the system does not report changed files ({error}), so they are compared every {LOOK:?}; if inotify has run out of \
         instances or watches, raise the sysctl fs.inotify.max_user_instances or fs.inotify.max_user_watches"
    )
}

#[cfg(test)]
mod tests;
