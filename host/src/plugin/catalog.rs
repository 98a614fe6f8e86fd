//! All plugins of a manifest, and what makes them load anew: a changed file, or somebody who asks.

use super::{Compiler, Error, Limits, Plugin, Slot};
use crate::supervise;
use notify::{RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How long a plugin's file must be left alone before it is read: a build writes it in several steps.
const QUIET: Duration = Duration::from_millis(200);

/// The plugins by name.
pub struct Catalog {
    compiler: Compiler,
    slots: BTreeMap<String, Arc<Slot>>,
}

/// Watches the plugins' files until it is dropped.
pub struct FileWatch {
    /// Dropping it ends the thread's channel.
    watcher: Option<notify::RecommendedWatcher>,
    thread: supervise::Thread,
}

impl Catalog {
    /// Loads every plugin, or says of each that fails why.
    pub fn open<'a>(
        compiler: Compiler,
        plugins: impl IntoIterator<Item = (&'a str, PathBuf, Limits)>,
    ) -> Result<Self, Vec<Error>> {
        let mut slots = BTreeMap::new();
        let mut errors = Vec::new();
        for (name, file, limits) in plugins {
            match Slot::open(&compiler, name, file, limits) {
                Ok(slot) => {
                    slots.insert(name.to_owned(), Arc::new(slot));
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(Self { compiler, slots }) } else { Err(errors) }
    }

    /// Interrupts guests that are called for long, now and from now on: the host is stopping.
    pub fn interrupt(&self) {
        self.compiler.interrupt();
    }

    /// Removes compiled code that no plugin uses. To be called by the one host of the data folder.
    pub fn clean(&self) {
        self.compiler.clean();
    }

    /// Every plugin, by name.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.slots.values()
    }

    /// Loads a plugin's file anew; the old code goes on serving when that fails.
    pub fn reload(&self, name: &str) -> Result<Arc<Plugin>, Error> {
        let Some(slot) = self.slots.get(name) else {
            let known: Vec<&str> = self.slots.keys().map(String::as_str).collect();
            return Err(Error::Plugin(format!("no plugin is named {name}; the manifest has {}", known.join(", "))));
        };
        let old = slot.current();
        match slot.reload(&self.compiler) {
            Ok(new) if Arc::ptr_eq(&old, &new) => {
                tracing::info!("plugin {} is unchanged", new.label());
                Ok(new)
            }
            Ok(new) => {
                tracing::info!("plugin {} now serves, digest {}", new.label(), &new.digest[..12]);
                Ok(new)
            }
            Err(error) => {
                tracing::error!("plugin {} goes on serving: {error}", old.label());
                Err(error)
            }
        }
    }

    /// Reloads plugins whose file changes.
    pub fn watch(self: &Arc<Self>) -> Result<FileWatch, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::Host(format!("can't watch the plugins' files: {error}"));
        let (send, changed) = std::sync::mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event
                && !event.kind.is_access()
            {
                for path in event.paths {
                    // The receiver lives as long as the watcher.
                    let _ = send.send(path);
                }
            }
        })
        .map_err(|error| failed(&error))?;
        // The folders, not the files: a build replaces a file by another.
        let folders: BTreeSet<&Path> = self.slots.values().map(|slot| folder_of(slot.file())).collect();
        for folder in folders {
            watcher.watch(folder, RecursiveMode::NonRecursive).map_err(|error| failed(&error))?;
        }
        let catalog = self.clone();
        let work = move |catalog: &mut Arc<Self>| catalog.reload_changed(&changed);
        let thread = supervise::restarting("plugin-files", || Ok(catalog), |_| Ok::<_, Error>(()), work)
            .map_err(|error| failed(&error))?;
        Ok(FileWatch { watcher: Some(watcher), thread })
    }

    fn reload_changed(&self, changed: &Receiver<PathBuf>) {
        let mut waiting: BTreeSet<&str> = BTreeSet::new();
        loop {
            supervise::round();
            let path = if waiting.is_empty() {
                changed.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                changed.recv_timeout(QUIET)
            };
            match path {
                Ok(path) => waiting
                    .extend(self.slots.values().filter(|slot| is_same(slot.file(), &path)).map(|slot| &*slot.name)),
                Err(RecvTimeoutError::Timeout) => {
                    for name in std::mem::take(&mut waiting) {
                        // Its reason is logged and kept for `status`.
                        let _ = self.reload(name);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// A manifest may name a file through links or `..`; the watcher names it as the folder was given.
fn is_same(file: &Path, changed: &Path) -> bool {
    file == changed
        || (file.file_name() == changed.file_name()
            && folder_of(file).canonicalize().ok() == folder_of(changed).canonicalize().ok())
}

/// The folder that a file is in; a bare name is in the working folder.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        drop(self.watcher.take());
        self.thread.join();
    }
}
