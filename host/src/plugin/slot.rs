//! The slot of a plugin, in which its code is looked up and swapped.

use super::{Compiler, Error, Plugin, Wanted, Watch};
use crate::supervise::Held as _;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A plugin of the manifest with the code that serves now.
///
/// Threads check [`Slot::is_current`] between calls, and create a new guest when the code has changed.
pub struct Slot {
    /// The plugin's name in the manifest.
    pub name: Arc<str>,
    current: ArcSwap<Plugin>,
    loads: AtomicU64,
    /// Why the last load failed, until one succeeds.
    error: Mutex<Option<String>>,
    /// The watch of the code that serves, while it is new.
    watch: ArcSwapOption<Watch>,
    /// Why code that should not serve any longer does.
    unreverted: Mutex<Option<String>>,
}

impl Slot {
    /// Loads a plugin.
    pub fn open(compiler: &Compiler, name: &str, wanted: Wanted) -> Result<Self, Error> {
        Ok(Self::new(Arc::new(Plugin::load(compiler, name, wanted)?)))
    }

    pub(super) fn new(plugin: Arc<Plugin>) -> Self {
        Self {
            name: plugin.name.clone(),
            current: ArcSwap::new(plugin),
            loads: AtomicU64::new(1),
            error: Mutex::default(),
            watch: ArcSwapOption::empty(),
            unreverted: Mutex::default(),
        }
    }

    /// Returns the code that serves now.
    pub fn current(&self) -> Arc<Plugin> {
        self.current.load_full()
    }

    /// Whether this code still serves.
    pub fn is_current(&self, plugin: &Arc<Plugin>) -> bool {
        Arc::ptr_eq(&self.current.load(), plugin)
    }

    /// Puts code into service, and begins its watch.
    pub(super) fn put(&self, new: Arc<Plugin>, watch: Option<Watch>) {
        self.watch.store(watch.map(Arc::new));
        *self.unreverted.held() = None;
        self.current.store(new);
        self.loads.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps the reason for `status` why newer code does not serve, or that it does.
    pub(super) fn note(&self, error: Option<String>) {
        *self.error.held() = error;
    }

    /// Returns the watch of code, if it has just begun to serve.
    pub fn watch_of(&self, plugin: &Arc<Plugin>) -> Option<Arc<Watch>> {
        let watch = self.watch.load();
        watch.as_ref().filter(|watch| watch.is_of(plugin) && !watch.rest().is_zero()).cloned()
    }

    /// Ends the watch of new code. Returns it, and why the code must not serve any longer, if that is so.
    pub fn condemned(&self) -> Option<(Arc<Watch>, String)> {
        let watch = self.watch.load_full()?;
        let verdict = watch.verdict();
        if verdict.is_some() || watch.rest().is_zero() {
            self.watch.store(None);
        }
        verdict.map(|verdict| (watch, verdict))
    }

    /// Keeps for `ready` why code that should not serve any longer does.
    pub fn note_unreverted(&self, reason: String) {
        *self.unreverted.held() = Some(reason);
    }

    /// Returns why code that should not serve any longer does, if that is so.
    pub fn unreverted(&self) -> Option<String> {
        self.unreverted.held().clone()
    }

    /// Returns how many times code was put into service, including the first time.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    /// Returns why the last load failed, if it did.
    pub fn error(&self) -> Option<String> {
        self.error.held().clone()
    }
}
