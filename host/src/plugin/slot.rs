//! The slot of a plugin, in which its code is looked up and swapped.

use super::{Compiler, Error, Plugin, Wanted, Watch, WatchRule};
use crate::supervise::Held as _;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A plugin of the manifest with the code that serves now.
///
/// Threads check [`Slot::is_current`] between calls, and create a new guest when the code has changed.
pub struct Slot {
    /// The plugin's name in the manifest.
    pub name: Arc<str>,
    current: ArcSwap<Plugin>,
    /// The code that is about to serve.
    candidate: ArcSwapOption<Plugin>,
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
            candidate: ArcSwapOption::empty(),
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

    /// Returns the code that is about to serve, if there is any.
    pub fn candidate(&self) -> Option<Arc<Plugin>> {
        self.candidate.load_full()
    }

    /// Says which code is about to serve.
    pub(super) fn announce(&self, candidate: Arc<Plugin>) {
        self.candidate.store(Some(candidate));
    }

    /// Puts code into service, with its watch.
    pub(super) fn put(&self, new: Arc<Plugin>, watch: Option<Arc<Watch>>) {
        self.candidate.store(None);
        self.watch.store(watch);
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

    /// Returns the watch of code that must not serve any longer, and why, once. The watch stays until other code serves.
    pub fn condemned(&self) -> Option<(Arc<Watch>, String)> {
        let watch = self.watch.load_full()?;
        if let Some(verdict) = watch.condemn() {
            return Some((watch, verdict));
        }
        if watch.rest().is_zero() {
            self.end_watch(&watch);
        }
        None
    }

    /// Ends this watch, if it has not ended.
    pub fn end_watch(&self, watch: &Arc<Watch>) {
        self.watch.compare_and_swap(&Some(watch.clone()), None);
    }

    /// Returns the watch of the code that serves, while it is new.
    pub(super) fn watch(&self) -> Option<Arc<Watch>> {
        self.watch.load_full()
    }

    /// Returns the watch that begins when this code serves. Code that follows other code that is still watched has to prove itself
    /// against the code before that.
    pub(super) fn watch_for(&self, new: &Arc<Plugin>) -> Option<Arc<Watch>> {
        let (old, rule) = (self.current(), new.wanted().watch);
        let open = self.watch_of(&old);
        if rule.window.is_zero() {
            return None;
        }
        if new.digest == old.digest {
            return open.map(|open| Arc::new(open.of_same_code(new.clone())));
        }
        let before = open.map_or(old, |open| open.old().clone());
        (before.digest != new.digest).then(|| Arc::new(Watch::new(new.clone(), before, rule)))
    }

    /// Watches the code that serves, whose host was started with it, against the code before, for this time or for that of the
    /// manifest.
    pub(super) fn watch_against(&self, old: Arc<Plugin>, rest: Option<Duration>) {
        let current = self.current();
        let WatchRule { window, percent } = current.wanted().watch;
        let rule = WatchRule { window: rest.unwrap_or(window), percent };
        if !rule.window.is_zero() {
            self.watch.store(Some(Arc::new(Watch::new(current, old, rule))));
        }
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
