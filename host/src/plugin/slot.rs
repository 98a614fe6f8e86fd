//! The slot of a plugin, in which its code is looked up and swapped.

use super::{Compiler, Configuration, Error, Limits, Plugin};
use crate::supervise::Held as _;
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A plugin of the manifest with the code that serves now.
///
/// Threads check [`Slot::is_current`] between calls, and create a new guest when the code has changed.
pub struct Slot {
    /// The plugin's name in the manifest.
    pub name: Arc<str>,
    file: PathBuf,
    limits: Limits,
    current: ArcSwap<Plugin>,
    loads: AtomicU64,
    /// Serialises loads.
    loading: Mutex<()>,
    /// Why the last load failed, until one succeeds.
    error: Mutex<Option<String>>,
}

/// What a load has found.
pub(super) enum Switch {
    /// New code, which does not serve yet.
    New(Arc<Plugin>),
    /// The code that served before: neither the file nor the configuration has changed.
    Unchanged(Arc<Plugin>),
}

impl Slot {
    /// Loads the plugin for the first time.
    pub fn open(
        compiler: &Compiler,
        name: &str,
        file: PathBuf,
        limits: Limits,
        configuration: Configuration,
    ) -> Result<Self, Error> {
        let plugin = Plugin::load(compiler, name, &file, &limits, configuration)?;
        Ok(Self {
            name: name.into(),
            file,
            limits,
            current: ArcSwap::from_pointee(plugin),
            loads: AtomicU64::new(1),
            loading: Mutex::default(),
            error: Mutex::default(),
        })
    }

    /// Returns the code that serves now.
    pub fn current(&self) -> Arc<Plugin> {
        self.current.load_full()
    }

    /// Whether this code still serves.
    pub fn is_current(&self, plugin: &Arc<Plugin>) -> bool {
        Arc::ptr_eq(&self.current.load(), plugin)
    }

    /// Waits until nobody else loads code for the slot, and keeps others from it until the result is dropped. Whoever needs
    /// several slots takes them in the order of their names.
    pub(super) fn alone(&self) -> MutexGuard<'_, ()> {
        self.loading.held()
    }

    /// Loads the file with a configuration beside the code that serves. Only who is alone may call this.
    pub(super) fn load_beside(&self, compiler: &Compiler, configuration: Configuration) -> Result<Switch, Error> {
        let old = self.current();
        let new = Plugin::load(compiler, &self.name, &self.file, &self.limits, configuration)?;
        if new.digest == old.digest && new.configuration == old.configuration {
            return Ok(Switch::Unchanged(old));
        }
        let words = |roles: BTreeSet<String>| roles.into_iter().collect::<Vec<_>>().join(" and ");
        // The linker decides on their order.
        let roles = |plugin: &Plugin| plugin.description.roles.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        if roles(&new) != roles(&old) {
            return Err(Error::Plugin(format!(
                "plugin {} now has the roles {} instead of {}: restart the host to change roles",
                new.label(),
                words(roles(&new)),
                words(roles(&old))
            )));
        }
        Ok(Switch::New(Arc::new(new)))
    }

    /// Puts code into service. Only who is alone may call this.
    pub(super) fn put(&self, new: Arc<Plugin>) {
        self.current.store(new);
        self.loads.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps the reason for `status` why newer code does not serve, or that it does.
    pub(super) fn note(&self, error: Option<String>) {
        *self.error.held() = error;
    }

    /// Returns the path that the plugin is read from.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// Returns the limits of its guests.
    pub fn limits(&self) -> &Limits {
        &self.limits
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
