//! Where a plugin's code is looked up and swapped.

use super::{Compiler, Error, Limits, Plugin};
use crate::supervise::Held as _;
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A plugin of the manifest and the code that serves for it now.
///
/// Threads take [`Slot::current`] between calls and make new guests when it is no longer what they have.
pub struct Slot {
    /// The plugin's name in the manifest.
    pub name: Arc<str>,
    file: PathBuf,
    limits: Limits,
    current: ArcSwap<Plugin>,
    loads: AtomicU64,
    /// Keeps loads apart.
    loading: Mutex<()>,
    /// Why the last load failed, until one succeeds.
    error: Mutex<Option<String>>,
}

/// What came of a reload: the code that serves now.
pub enum Switch {
    /// It serves from now on.
    New(Arc<Plugin>),
    /// It served before: the file is the same.
    Unchanged(Arc<Plugin>),
}

impl Slot {
    /// Loads the plugin for the first time.
    pub fn open(compiler: &Compiler, name: &str, file: PathBuf, limits: Limits) -> Result<Self, Error> {
        let plugin = Plugin::load(compiler, name, &file, &limits)?;
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

    /// The code that serves now.
    pub fn current(&self) -> Arc<Plugin> {
        self.current.load_full()
    }

    /// Whether this code still serves.
    pub fn is_current(&self, plugin: &Arc<Plugin>) -> bool {
        Arc::ptr_eq(&self.current.load(), plugin)
    }

    /// Loads the file aside and switches to it. When any step fails the old code goes on serving, and the reason is
    /// kept for `status`. A file that is the same as before changes nothing. Of several that ask at the same time, one
    /// switches, and for the others the file is the same.
    pub fn reload(&self, compiler: &Compiler) -> Result<Switch, Error> {
        let _alone = self.loading.held();
        let result = self.load_beside(compiler);
        *self.error.held() = result.as_ref().err().map(ToString::to_string);
        result
    }

    fn load_beside(&self, compiler: &Compiler) -> Result<Switch, Error> {
        let old = self.current();
        let new = Plugin::load(compiler, &self.name, &self.file, &self.limits)?;
        if new.digest == old.digest {
            return Ok(Switch::Unchanged(old));
        }
        let roles = |plugin: &Plugin| plugin.description.roles.iter().map(ToString::to_string).collect::<Vec<_>>();
        if roles(&new) != roles(&old) {
            return Err(Error::Plugin(format!(
                "plugin {} now is {}, and was {}: restart the host for a change of roles",
                new.label(),
                roles(&new).join(" and "),
                roles(&old).join(" and ")
            )));
        }
        let new = Arc::new(new);
        self.current.store(new.clone());
        self.loads.fetch_add(1, Ordering::Relaxed);
        Ok(Switch::New(new))
    }

    /// Where the plugin is read from.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// What its guests may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many times new code was switched in, the first included.
    pub fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }

    /// Why the last load failed, if it did.
    pub fn error(&self) -> Option<String> {
        self.error.held().clone()
    }
}
