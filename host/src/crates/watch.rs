//! Watching the sources of crates, and of the crates that they depend on by path.
//!
//! The system reports changes, and the files are also looked at every second, because the system may have run out of watches,
//! and some file systems never report changes. What counts is the identity of the files, not what the system reports.

use crate::file_watch::FileIdentity;
use notify::{RecursiveMode, Watcher as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The interval at which the files are looked at, whether or not the system reports changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The time without a report after which a change is taken as complete: an editor writes a file in several steps.
const SETTLED: Duration = Duration::from_millis(15);

/// The longest wait for that, because other files in the same folder may change all the time.
const SETTLED_MAX: Duration = Duration::from_millis(150);

/// The most files of one crate that are watched.
const SOURCE_FILES_MAX: usize = 20_000;

/// The folders of a crate that are watched with everything in them.
const FOLDERS: [&str; 3] = ["src", "tests", "cases"];

/// The files of a crate that are watched beside those folders.
const FILES: [&str; 2] = ["Cargo.toml", "build.rs"];

/// A watch of the sources of several crates.
pub struct Watch {
    crates: Vec<Sources>,
    watcher: Option<notify::RecommendedWatcher>,
    /// The folders that the watcher has.
    watched: BTreeSet<PathBuf>,
    told: Receiver<()>,
    /// Without a watcher nobody sends, and then the receiver must not be disconnected.
    _tell: SyncSender<()>,
}

/// A crate whose sources have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The index of the crate.
    pub index: usize,
    /// The files that were changed, added or removed.
    pub files: Vec<PathBuf>,
}

/// The sources of a crate as they were when it was last built.
struct Sources {
    /// The folders of the crate and of those that it depends on by path.
    roots: BTreeSet<PathBuf>,
    /// Files that the compiler has read, also outside of the watched folders.
    read: BTreeSet<PathBuf>,
    seen: BTreeMap<PathBuf, FileIdentity>,
}

impl Watch {
    /// Watches the sources in these folders, as they are now. The second value says why the system does not report changes, if it
    /// does not.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> (Self, Option<String>) {
        // One report is as good as many.
        let (tell, told) = sync_channel(1);
        let send = tell.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // If the queue is full, a report is in it already.
                let _ = send.try_send(());
            }
        });
        let (watcher, unreported) = match watcher {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let crates = folders.into_iter().map(Sources::of).collect();
        let mut watch = Self { crates, watcher, watched: BTreeSet::new(), told, _tell: tell };
        let unreported = watch.add_folders().err().map(|error| error.to_string()).or(unreported);
        (watch, unreported)
    }

    /// Learns from the compiler which files a crate is made of.
    pub fn learn(&mut self, index: usize, module: &Path) {
        let sources = &mut self.crates[index];
        sources.learn(&fs::read_to_string(module.with_extension("d")).unwrap_or_default());
        // A folder that can't be watched is looked at every second.
        let _ = self.add_folders();
    }

    /// Waits for a change, or until the time is up. Each change is returned once.
    pub fn wait(&mut self, timeout: Duration) -> Vec<Changed> {
        let since = Instant::now();
        loop {
            let left = timeout.saturating_sub(since.elapsed());
            let is_told = self.told.recv_timeout(left.min(LOOK_EVERY)).is_ok();
            if is_told {
                self.settle();
            }
            let changed = self.changed();
            if !changed.is_empty() || left.is_zero() {
                return changed;
            }
        }
    }

    fn settle(&self) {
        let until = Instant::now() + SETTLED_MAX;
        while Instant::now() < until && self.told.recv_timeout(SETTLED).is_ok() {}
    }

    fn changed(&mut self) -> Vec<Changed> {
        let changed =
            self.crates.iter_mut().enumerate().map(|(index, sources)| Changed { index, files: sources.changed() });
        changed.filter(|changed| !changed.files.is_empty()).collect()
    }

    /// Has the system report changes in the folders of all crates.
    fn add_folders(&mut self) -> notify::Result<()> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        for (folder, mode) in self.crates.iter().flat_map(Sources::folders) {
            if !self.watched.contains(&folder) && folder.is_dir() {
                watcher.watch(&folder, mode)?;
                self.watched.insert(folder);
            }
        }
        Ok(())
    }
}

impl Sources {
    fn of(folder: PathBuf) -> Self {
        let mut sources = Self { roots: BTreeSet::from([folder]), read: BTreeSet::new(), seen: BTreeMap::new() };
        sources.seen = sources.found();
        sources
    }

    /// Takes the files from what the compiler wrote about them. What is new to the watch counts as seen.
    fn learn(&mut self, dependencies: &str) {
        let files: BTreeSet<PathBuf> = files_in(dependencies).collect();
        if files.is_empty() || files == self.read {
            return;
        }
        for file in &files {
            let root = file.ancestors().skip(1).find(|folder| folder.join("Cargo.toml").is_file());
            self.roots.extend(root.map(Path::to_owned));
        }
        self.read = files;
        for (file, identity) in self.found() {
            self.seen.entry(file).or_insert(identity);
        }
    }

    /// Returns the folders in which changes are reported.
    fn folders(&self) -> impl Iterator<Item = (PathBuf, RecursiveMode)> {
        let roots = self.roots.iter().map(|root| (root.clone(), RecursiveMode::NonRecursive));
        let inner = self.roots.iter().flat_map(|root| FOLDERS.map(|name| (root.join(name), RecursiveMode::Recursive)));
        let is_below =
            |file: &Path| self.roots.iter().any(|root| FOLDERS.iter().any(|name| file.starts_with(root.join(name))));
        let others = self.read.iter().filter(move |file| !is_below(file)).filter_map(|file| file.parent());
        let others = others.map(|folder| (folder.to_owned(), RecursiveMode::NonRecursive));
        roots.chain(inner).chain(others).collect::<Vec<_>>().into_iter()
    }

    /// Returns the files that differ from when this was last asked.
    fn changed(&mut self) -> Vec<PathBuf> {
        let found = self.found();
        if found == self.seen {
            return Vec::new();
        }
        let new = found.iter().filter(|(file, identity)| self.seen.get(*file) != Some(identity)).map(|(file, _)| file);
        let gone = self.seen.keys().filter(|file| !found.contains_key(*file));
        let mut changed: Vec<PathBuf> = new.chain(gone).cloned().collect();
        changed.sort();
        self.seen = found;
        changed
    }

    /// Looks at all files.
    fn found(&self) -> BTreeMap<PathBuf, FileIdentity> {
        let mut found = BTreeMap::new();
        for root in &self.roots {
            FOLDERS.iter().for_each(|name| collect(&root.join(name), &mut found));
            FILES.iter().for_each(|name| take(root.join(name), &mut found));
        }
        self.read.iter().for_each(|file| take(file.clone(), &mut found));
        found
    }
}

/// Collects the files of a folder, but not those that are hidden, and no links to folders, which may lead anywhere.
fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, FileIdentity>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !is_hidden => collect(&entry.path(), found),
            Ok(kind) if !kind.is_dir() && !is_hidden => take(entry.path(), found),
            _ => {}
        }
    }
}

fn take(file: PathBuf, found: &mut BTreeMap<PathBuf, FileIdentity>) {
    if found.len() < SOURCE_FILES_MAX
        && let Ok(metadata) = fs::metadata(&file)
        && metadata.is_file()
    {
        found.insert(file, FileIdentity::from(&metadata));
    }
}

/// Returns the files in what the compiler writes for `make`: the product, a colon, and the files with escaped spaces.
fn files_in(dependencies: &str) -> impl Iterator<Item = PathBuf> {
    let list = dependencies.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, list)| list);
    let mut files = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => files.last_mut().expect("there is one").extend(characters.next()),
            ' ' => files.push(String::new()),
            other => files.last_mut().expect("there is one").push(other),
        }
    }
    files.into_iter().filter(|file| !file.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(20);

    fn crate_in(folder: &Path) {
        fs::create_dir_all(folder.join("src")).unwrap();
        fs::write(folder.join("Cargo.toml"), "[package]").unwrap();
        fs::write(folder.join("src/lib.rs"), "one").unwrap();
    }

    #[test]
    fn a_change_of_a_source_is_returned_once_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        crate_in(&one);
        crate_in(&other);
        let (mut watch, _) = Watch::new([one.clone(), other.clone()]);
        assert_eq!(watch.wait(NOW), []);
        fs::write(other.join("src/lib.rs"), "changed").unwrap();
        assert_eq!(watch.wait(LONG), [Changed { index: 1, files: vec![other.join("src/lib.rs")] }]);
        assert_eq!(watch.wait(NOW), []);
        fs::create_dir_all(one.join("target")).unwrap();
        fs::write(one.join("target/out"), "").unwrap();
        fs::write(one.join("src/.lib.rs.swp"), "").unwrap();
        assert_eq!(watch.wait(NOW), []);
        fs::write(one.join("src/new.rs"), "").unwrap();
        fs::remove_file(one.join("src/lib.rs")).unwrap();
        let files = vec![one.join("src/lib.rs"), one.join("src/new.rs")];
        let mut seen = watch.wait(LONG);
        // Both may be seen one after the other.
        while seen.iter().map(|changed| changed.files.len()).sum::<usize>() < 2 {
            seen.extend(watch.wait(LONG));
        }
        let mut seen: Vec<_> = seen.into_iter().flat_map(|changed| changed.files).collect();
        seen.sort();
        assert_eq!(seen, files);
    }

    #[test]
    fn what_a_crate_depends_on_is_learned_from_the_compiler() {
        let folder = tempfile::tempdir().unwrap();
        let [one, shared] = ["one", "sha red"].map(|name| folder.path().join(name));
        crate_in(&one);
        crate_in(&shared);
        fs::write(one.join("schema.sql"), "one").unwrap();
        let (mut watch, _) = Watch::new([one.clone()]);
        let module = folder.path().join("one.wasm");
        let escaped = |path: PathBuf| path.display().to_string().replace(' ', "\\ ");
        let files = [one.join("src/lib.rs"), one.join("schema.sql"), shared.join("src/lib.rs")].map(escaped);
        fs::write(module.with_extension("d"), format!("{}: {}\n", module.display(), files.join(" "))).unwrap();
        watch.learn(0, &module);
        assert_eq!(watch.wait(NOW), [], "what is new to the watch is no change");
        for file in [one.join("schema.sql"), shared.join("src/new.rs")] {
            fs::write(&file, "changed").unwrap();
            assert_eq!(watch.wait(LONG), [Changed { index: 0, files: vec![file] }]);
        }
    }
}
