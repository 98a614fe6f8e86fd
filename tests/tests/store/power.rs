//! Power loss: the files of a folder as a disk may have them when unsynced data is lost, in part or as a whole.
//!
//! All changes of this program to the files of one folder, SQLite's as well as Rust's, are recorded in order, together
//! with what was acknowledged. [`Recorded::lose_power`] makes a folder as it may be found after a power loss at any
//! moment. Synced writes are always in it. Of the writes since a file's last sync it has any subset, and each of them
//! may be torn at a sector. If files were created, renamed or deleted since the folder's last sync, it has the first of
//! these changes and not the later ones, because file systems journal them in order.

mod calls;

use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// A file, whatever its name is.
type Id = usize;

/// What happens to a file's content.
pub(crate) enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
    Sync,
}

/// Something that happened, in order.
enum Entry {
    File(Id, Change),
    Create(String, Id),
    Rename(String, String),
    Delete(String),
    /// The folder was synced: the names in it are durable.
    Names,
    /// Somebody was told that this is durable.
    Told(u64),
}

/// What is being recorded.
pub(crate) struct Recording {
    folder: PathBuf,
    folder_number: u64,
    /// The files by their numbers with the system, which it gives to other files later.
    files: HashMap<u64, Id>,
    /// The numbers of files by their names.
    names: HashMap<String, u64>,
    ids: Id,
    entries: Vec<Entry>,
}

static RECORDING: Mutex<Option<Recording>> = Mutex::new(None);

fn recording() -> MutexGuard<'static, Option<Recording>> {
    RECORDING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recording {
    fn name(&self, path: &Path) -> Option<String> {
        path.strip_prefix(&self.folder).ok()?.to_str().map(str::to_owned)
    }

    fn created(&mut self, path: &Path, number: u64) {
        if let Some(name) = self.name(path) {
            self.ids += 1;
            self.files.insert(number, self.ids);
            self.names.insert(name.clone(), number);
            self.entries.push(Entry::Create(name, self.ids));
        }
    }

    fn changed(&mut self, number: u64, change: Change) {
        if number == self.folder_number {
            self.entries.push(Entry::Names);
        } else if let Some(id) = self.files.get(&number) {
            self.entries.push(Entry::File(*id, change));
        }
    }

    fn deleted(&mut self, path: &Path) {
        if let Some(name) = self.name(path) {
            self.forget(&name);
            self.entries.push(Entry::Delete(name));
        }
    }

    fn renamed(&mut self, from: &Path, to: &Path) {
        if let (Some(from), Some(to)) = (self.name(from), self.name(to)) {
            self.forget(&to);
            if let Some(number) = self.names.remove(&from) {
                self.names.insert(to.clone(), number);
            }
            self.entries.push(Entry::Rename(from, to));
        }
    }

    /// Somebody else's file may have the number next.
    fn forget(&mut self, name: &str) {
        if let Some(number) = self.names.remove(name) {
            self.files.remove(&number);
        }
    }
}

/// Records what `work` does to the files of a new folder. One at a time.
pub(crate) fn record(work: impl FnOnce(&Path)) -> Recorded {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().expect("make a folder");
    let folder_number = fs::metadata(folder.path()).expect("look at the folder").ino();
    let (files, names) = (HashMap::new(), HashMap::new());
    let begun = Recording { folder: folder.path().into(), folder_number, files, names, ids: 0, entries: Vec::new() };
    *recording() = Some(begun);
    work(folder.path());
    Recorded(recording().take().expect("it is being recorded").entries)
}

/// Notes that somebody was told that something is durable.
pub(crate) fn told(what: u64) {
    if let Some(recording) = &mut *recording() {
        recording.entries.push(Entry::Told(what));
    }
}

/// What was done to the files of a folder.
pub(crate) struct Recorded(Vec<Entry>);

impl Recorded {
    /// How many moments there are at which the power may go.
    pub(crate) fn moments(&self) -> usize {
        self.0.len()
    }

    /// Fills the empty folder `to` as the power may have left it at a moment. Returns what had been told by then.
    pub(crate) fn lose_power(&self, to: &Path, moment: usize, rng: &mut Rng) -> BTreeSet<u64> {
        let past = &self.0[..moment];
        // How much of what is not synced arrives: nothing, all, or anything between.
        let share = [0.0, 0.1, 0.5, 0.9, 1.0][rng.usize(..5)];
        for (name, id) in names(past, rng) {
            let file = to.join(name);
            fs::create_dir_all(file.parent().expect("it is in the folder")).expect("make the file's folder");
            fs::write(file, content(past, id, share, rng)).expect("write a file");
        }
        past.iter().filter_map(|entry| if let Entry::Told(what) = entry { Some(*what) } else { None }).collect()
    }
}

/// The names in the folder once the power is lost.
fn names(past: &[Entry], rng: &mut Rng) -> BTreeMap<String, Id> {
    let synced = past.iter().rposition(|entry| matches!(entry, Entry::Names)).unwrap_or_default();
    let mut names = BTreeMap::new();
    for entry in &past[..rng.usize(synced..=past.len())] {
        match entry {
            Entry::Create(name, id) => drop(names.insert(name.clone(), *id)),
            Entry::Rename(from, to) => {
                let id = names.remove(from).expect("a file that is renamed is there");
                names.insert(to.clone(), id);
            }
            Entry::Delete(name) => drop(names.remove(name)),
            Entry::File(..) | Entry::Names | Entry::Told(_) => {}
        }
    }
    names
}

/// What a file has once the power is lost.
fn content(past: &[Entry], file: Id, share: f64, rng: &mut Rng) -> Vec<u8> {
    let changes = past.iter().filter_map(|entry| match entry {
        Entry::File(id, change) if *id == file => Some(change),
        _ => None,
    });
    let changes: Vec<&Change> = changes.collect();
    let synced = changes.iter().rposition(|change| matches!(change, Change::Sync)).unwrap_or_default();
    let mut content = Vec::new();
    for (at, change) in changes.into_iter().enumerate() {
        let is_synced = at < synced;
        if !is_synced && rng.f64() >= share {
            continue;
        }
        match change {
            Change::Write(offset, bytes) => {
                let is_torn = !is_synced && rng.bool();
                write(&mut content, *offset, bytes, || !is_torn || rng.bool());
            }
            Change::Truncate(length) => content.resize(*length, 0),
            Change::Sync => {}
        }
    }
    content
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8], mut arrives: impl FnMut() -> bool) {
    let mut from = 0;
    while from < bytes.len() {
        // Sectors are those of the file, not those of the write.
        let to = bytes.len().min(((offset + from) / SECTOR + 1) * SECTOR - offset);
        if arrives() {
            content.resize(content.len().max(offset + to), 0);
            content[offset + from..offset + to].copy_from_slice(&bytes[from..to]);
        }
        from = to;
    }
}
