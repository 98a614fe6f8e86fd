//! The history of each plugin's code: what served, from when to when, and why it does not serve any more.
//!
//! The code of the newest entries is kept with its settings, so that it can serve again after its file was overwritten, and after
//! a restart. Code that was reverted is held back: it is not loaded again until the file changes or a person insists. Nothing
//! depends on this but a revert: where the disk is full, code serves without an entry.

use super::Plugin;
use crate::paths;
use crate::supervise::Held as _;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

/// The most entries of a plugin. Those beyond the number of kept codes are only shown.
const ENTRIES_MAX: usize = 50;

const BOOK: &str = "history.json";

/// Code that served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Its digest, in hexadecimal.
    pub digest: String,
    /// The version that its author gave it.
    pub version: String,
    /// When it began to serve, in milliseconds since 1970-01-01T00:00:00Z.
    pub since_ms: u64,
    /// When it ended to serve.
    pub until_ms: Option<u64>,
    /// Why it ended.
    pub ended: Option<String>,
}

/// Code that is not loaded again, and what serves in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// The digest of the code that is held back.
    pub digest: String,
    /// The digest of the code without its settings: other settings do not make it other code.
    pub code: String,
    /// Why.
    pub reason: String,
    /// The digest of the code that serves.
    pub serves: String,
}

/// The history of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginHistory {
    /// What served, the newest last.
    pub entries: Vec<HistoryEntry>,
    /// What is held back.
    pub held_back: Option<HeldBack>,
}

/// The histories of a host's plugins, in a folder.
pub struct History {
    folder: PathBuf,
    /// How many codes of each plugin are kept.
    kept: usize,
    books: Mutex<BTreeMap<String, PluginHistory>>,
}

impl HeldBack {
    /// Holds a plugin's code back, because that with another digest serves.
    pub fn new(plugin: &Plugin, reason: &str, serves: &str) -> Self {
        let (digest, code) = (plugin.digest.clone(), plugin.code_digest().to_owned());
        Self { digest, code, reason: reason.to_owned(), serves: serves.to_owned() }
    }
}

impl History {
    /// Opens the histories in a folder, which is created when it is needed.
    pub fn open(folder: PathBuf, kept: usize) -> Self {
        Self { folder, kept: kept.max(1), books: Mutex::default() }
    }

    /// Returns the history of a plugin.
    pub fn of(&self, plugin: &str) -> PluginHistory {
        let mut books = self.books.held();
        self.book(&mut books, plugin).clone()
    }

    /// Returns the file of kept code, if there is one.
    pub fn code(&self, plugin: &str, digest: &str) -> Option<PathBuf> {
        let file = self.file(plugin, digest);
        file.is_file().then_some(file)
    }

    /// Returns the digests of the kept codes of a plugin that begin with some characters, the newest first.
    pub fn matching(&self, plugin: &str, digest: &str) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for entry in self.of(plugin).entries.into_iter().rev() {
            let is_kept = entry.digest.starts_with(digest) && self.code(plugin, &entry.digest).is_some();
            if is_kept && !found.contains(&entry.digest) {
                found.push(entry.digest);
            }
        }
        found
    }

    /// Returns the digests of code that was reverted when it served last, and of the code that is held back.
    pub fn reverted(&self, plugin: &str) -> BTreeSet<String> {
        let PluginHistory { entries, held_back } = self.of(plugin);
        let mut reverted = BTreeSet::new();
        for HistoryEntry { digest, ended, .. } in entries {
            match ended {
                Some(ended) if ended.contains("reverted") => _ = reverted.insert(digest),
                _ => _ = reverted.remove(&digest),
            }
        }
        reverted.extend(held_back.map(|held| held.digest));
        reverted
    }

    /// Returns the digest of the code before the one that serves, and since when that one serves, if it replaced it in the usual way.
    pub(super) fn replaced(&self, plugin: &str) -> Option<(String, u64)> {
        let mut entries = self.of(plugin).entries;
        let (serves, before) = (entries.pop()?, entries.pop()?);
        let is_reverted = before.ended.is_some_and(|ended| ended.contains("reverted"));
        (!is_reverted && before.digest != serves.digest).then_some((before.digest, serves.since_ms))
    }

    /// Returns the digest of the code that served last.
    pub(super) fn last(&self, plugin: &str) -> Option<String> {
        self.of(plugin).entries.pop().map(|entry| entry.digest)
    }

    /// Notes that code serves from now on, and keeps it. `ended` says why the code before does not serve any more. The code `also` is
    /// kept, too.
    pub(super) fn serves(&self, plugin: &Plugin, also: Option<&str>, now_ms: u64, ended: &str) {
        let name = &*plugin.name;
        let written = self.keep(plugin).and_then(|()| {
            self.change(name, |book| {
                let last = book.entries.last_mut().filter(|last| last.until_ms.is_none());
                if last.as_ref().is_some_and(|last| last.digest == plugin.digest) {
                    return;
                }
                if let Some(last) = last {
                    (last.until_ms, last.ended) = (Some(now_ms), Some(ended.to_owned()));
                }
                book.entries.push(HistoryEntry {
                    digest: plugin.digest.clone(),
                    version: plugin.description.version.clone(),
                    since_ms: now_ms,
                    until_ms: None,
                    ended: None,
                });
                let too_many = book.entries.len().saturating_sub(ENTRIES_MAX);
                book.entries.drain(..too_many);
            })
        });
        match written {
            Ok(()) => self.trim(name, also),
            Err(error) => tracing::warn!(
                "the code of plugin {} is not kept, so it can't serve again later: {error}",
                plugin.label()
            ),
        }
    }

    /// Holds code of a plugin back, because other code serves in its place, or lets all code be loaded again.
    pub fn hold_back(&self, plugin: &str, held: Option<HeldBack>) -> io::Result<()> {
        self.change(plugin, |book| book.held_back = held)
    }

    fn keep(&self, plugin: &Plugin) -> io::Result<()> {
        paths::make_folder(&self.folder.join(&*plugin.name))?;
        let file = self.file(&plugin.name, &plugin.digest);
        if file.is_file() { Ok(()) } else { plugin.copy_code(&file).map_err(io::Error::other) }
    }

    /// Changes the book of a plugin, on disk and in memory.
    fn change(&self, plugin: &str, change: impl FnOnce(&mut PluginHistory)) -> io::Result<()> {
        let mut books = self.books.held();
        let before = self.book(&mut books, plugin).clone();
        let mut book = before.clone();
        change(&mut book);
        if book == before {
            return Ok(());
        }
        let folder = self.folder.join(plugin);
        paths::make_folder(&folder)?;
        paths::replace(&folder.join(BOOK), &serde_json::to_vec(&book)?)?;
        books.insert(plugin.to_owned(), book);
        Ok(())
    }

    /// Returns the book of a plugin, which is read once. One that can't be read begins again.
    fn book<'b>(&self, books: &'b mut BTreeMap<String, PluginHistory>, plugin: &str) -> &'b PluginHistory {
        books.entry(plugin.to_owned()).or_insert_with(|| {
            let file = self.folder.join(plugin).join(BOOK);
            let read = paths::require_file(&file).and_then(|()| fs::read(&file));
            let book = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
            book.unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(
                        "{} can't be read, so the history of plugin {plugin} begins again: {error}",
                        file.display()
                    );
                }
                PluginHistory::default()
            })
        })
    }

    /// Deletes the kept code of a plugin that is older than the newest ones, and is not needed.
    fn trim(&self, plugin: &str, also: Option<&str>) {
        let book = self.of(plugin);
        let mut keep: Vec<&str> = Vec::new();
        for entry in book.entries.iter().rev() {
            if keep.len() < self.kept && !keep.contains(&entry.digest.as_str()) {
                keep.push(&entry.digest);
            }
        }
        keep.extend(book.held_back.as_ref().map(|held| held.serves.as_str()));
        keep.extend(also);
        for entry in fs::read_dir(self.folder.join(plugin)).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let digest = name.strip_suffix(".wasm").filter(|digest| digest.len() == 64);
            if digest.is_some_and(|digest| !keep.contains(&digest))
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!("{} is not needed and can't be deleted: {error}", path.display());
            }
        }
    }

    fn file(&self, plugin: &str, digest: &str) -> PathBuf {
        self.folder.join(plugin).join(format!("{digest}.wasm"))
    }
}
