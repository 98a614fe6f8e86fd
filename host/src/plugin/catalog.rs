//! All plugins of a manifest. A plugin is reloaded when its file changes or on request.

use super::slot::Switch;
use super::upcasting::PluginUpcasts;
use super::{Compiler, Configuration, Configurations, Error, FileIdentity, Limits, Plugin, Role, Slot};
use crate::supervise;
use crate::upcasts::Upcasts;
use notify::{RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// How long a plugin's file must stay unchanged before it is read, because a build writes it in several steps.
const QUIET: Duration = Duration::from_millis(200);

/// How often the files are checked, whether or not the system reports changes.
const LOOK: Duration = Duration::from_secs(2);

/// The queue of changed files: a build may write many, and a plugin takes a while to load.
const CHANGES_MAX: usize = 1_024;

/// All plugins, by name.
pub struct Catalog {
    compiler: Compiler,
    slots: BTreeMap<String, Arc<Slot>>,
    configurations: Option<Box<dyn Configurations>>,
}

/// A watch of the plugins' files. Dropping it ends the watch.
pub struct FileWatch {
    /// Both hold a sender to the thread, which ends once they are dropped.
    watcher: Option<notify::RecommendedWatcher>,
    open: Option<SyncSender<PathBuf>>,
    thread: supervise::Thread,
}

impl Catalog {
    /// Loads every plugin, or returns an error for each that fails. Without `configurations`, plugins keep the settings and
    /// secrets that they have now.
    pub fn open<'a>(
        compiler: Compiler,
        plugins: impl IntoIterator<Item = (&'a str, PathBuf, Limits, Configuration)>,
        configurations: Option<Box<dyn Configurations>>,
    ) -> Result<Self, Vec<Error>> {
        let mut slots = BTreeMap::new();
        let mut errors = Vec::new();
        for (name, file, limits, configuration) in plugins {
            match Slot::open(&compiler, name, file, limits, configuration) {
                Ok(slot) => {
                    slots.insert(name.to_owned(), Arc::new(slot));
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        compiler.recorders().set(slots.values());
        Ok(Self { compiler, slots, configurations })
    }

    /// Returns the migration of recorded events by the code that serves.
    pub fn upcasts(&self) -> Upcasts {
        let recorders = self.compiler.recorders().clone();
        Upcasts::new(move || Box::new(PluginUpcasts::new(recorders.clone())))
    }

    /// Interrupts long calls, now and from now on, because the host is stopping.
    pub fn interrupt(&self) {
        self.compiler.interrupt();
    }

    /// Removes compiled code that no plugin uses. Only the host that owns the data folder may call this.
    pub fn clean(&self) {
        self.compiler.clean();
    }

    /// Returns the slots of all plugins, ordered by name.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.slots.values()
    }

    /// Loads a copy of code of a plugin, with the plugin's limits and secrets, without putting it into service.
    pub fn load_other(&self, slot: &Slot, file: &Path) -> Result<Plugin, Error> {
        Plugin::load_copy(&self.compiler, &slot.name, file, slot.limits(), &slot.current().configuration)
    }

    /// Reloads plugins, with the settings and secrets that they have now. All of them switch, or none if one can't be loaded.
    /// Those that read events switch before those that record them, so that no reader meets an event of newer code than its
    /// own. Returns the code that serves, in the order of the plugins' names.
    pub fn reload(&self, names: &BTreeSet<&str>) -> Result<Vec<Arc<Plugin>>, Error> {
        let slots = names.iter().map(|name| self.slot(name)).collect::<Result<Vec<&Arc<Slot>>, Error>>()?;
        let _alone: Vec<_> = slots.iter().map(|slot| slot.alone()).collect();
        let load = |slot: &&Arc<Slot>| slot.load_beside(&self.compiler, self.configuration_of(slot)?);
        let loaded: Vec<Result<Switch, Error>> = slots.iter().map(load).collect();
        if loaded.iter().any(Result::is_err) {
            return Err(refused(&slots, loaded));
        }
        let (mut new, mut serving) = (Vec::new(), Vec::new());
        for (slot, switch) in slots.into_iter().zip(loaded.into_iter().flatten()) {
            slot.note(None);
            serving.push(match switch {
                Switch::Unchanged(plugin) => {
                    tracing::info!("plugin {} is unchanged", plugin.label());
                    plugin
                }
                Switch::New(plugin) => {
                    new.push((slot, plugin.clone()));
                    plugin
                }
            });
        }
        new.sort_by_key(|(_, plugin)| rank(plugin));
        for (slot, plugin) in new {
            tracing::info!("plugin {} now serves, digest {}", plugin.label(), &plugin.digest[..12]);
            slot.put(plugin);
        }
        Ok(serving)
    }

    fn slot(&self, name: &str) -> Result<&Arc<Slot>, Error> {
        self.slots.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.slots.keys().map(String::as_str).collect();
            Error::Plugin(format!("no plugin is named {name}; the manifest has {}", known.join(", ")))
        })
    }

    /// Reloads plugins whose file changes. The system reports changes, and the files are also checked at intervals,
    /// because the system may have run out of watches, and some file systems never report changes.
    pub fn watch(self: &Arc<Self>) -> Result<FileWatch, Error> {
        let (tell, told) = sync_channel(CHANGES_MAX);
        let watcher = self
            .notified(tell.clone())
            .inspect_err(|error| {
                tracing::warn!(
                    "the system does not report changed files ({error}), so plugins' files are checked every {LOOK:?}; \
                     if inotify has run out of instances or watches, raise the sysctl fs.inotify.max_user_instances or \
                     fs.inotify.max_user_watches"
                );
            })
            .ok();
        let catalog = self.clone();
        let work = move |catalog: &mut Arc<Self>| catalog.reload_changed(&told);
        let thread = supervise::restarting("plugin-files", || Ok(catalog), |_| Ok::<_, Error>(()), work)
            .map_err(|error| Error::Host(format!("can't watch the plugins' files: {error}")))?;
        Ok(FileWatch { watcher, open: Some(tell), thread })
    }

    /// Has the system report changes in the plugins' folders, not files, because a build may replace a file by a new
    /// one.
    fn notified(&self, tell: SyncSender<PathBuf>) -> notify::Result<notify::RecommendedWatcher> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event
                && !event.kind.is_access()
            {
                for path in event.paths {
                    // The receiver lives as long as the watcher. A change that finds the queue full is seen at the next
                    // check.
                    let _ = tell.try_send(path);
                }
            }
        })?;
        let folders: BTreeSet<&Path> = self.watched().map(|(_, file)| folder_of(file)).collect();
        for folder in folders {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }

    /// Returns the configuration that a plugin has from now on.
    fn configuration_of(&self, slot: &Slot) -> Result<Configuration, Error> {
        let Some(configurations) = &self.configurations else { return Ok(slot.current().configuration.clone()) };
        configurations.of(&slot.name).map_err(Error::Plugin)
    }

    /// Returns the files that are watched: those of the plugins, by their names, and the one of the configurations.
    fn watched(&self) -> impl Iterator<Item = (Option<&str>, &Path)> {
        let plugins = self.slots.iter().map(|(name, slot)| (Some(name.as_str()), slot.file()));
        plugins.chain(self.configurations.iter().map(|configurations| (None, configurations.file())))
    }

    fn reload_changed(&self, told: &Receiver<PathBuf>) {
        // The identity of each file when it was last loaded, with or without success.
        let mut tried: BTreeMap<Option<&str>, Option<FileIdentity>> = BTreeMap::new();
        for (of, file) in self.watched() {
            tried.insert(of, FileIdentity::of(file).ok());
        }
        for (name, slot) in &self.slots {
            tried.insert(Some(name), Some(slot.current().file_identity));
        }
        let mut waiting: BTreeSet<Option<&str>> = BTreeSet::new();
        // Plugins that were refused together. They are tried together again when one of them has changed.
        let mut refused: BTreeSet<&str> = BTreeSet::new();
        loop {
            supervise::round();
            match told.recv_timeout(if waiting.is_empty() { LOOK } else { QUIET }) {
                Ok(path) => waiting.extend(self.watched().filter(|(_, file)| is_same(file, &path)).map(|(of, _)| of)),
                Err(RecvTimeoutError::Timeout) if waiting.is_empty() => {
                    let changed = self.watched().filter(|(of, file)| {
                        let found = FileIdentity::of(file).ok();
                        found.is_some() && tried.get(of) != Some(&found)
                    });
                    waiting.extend(changed.map(|(of, _)| of));
                }
                Err(RecvTimeoutError::Timeout) => {
                    for (of, file) in self.watched().filter(|(of, _)| waiting.contains(of)) {
                        tried.insert(of, FileIdentity::of(file).ok());
                    }
                    self.reload_files(waiting.iter().copied().flatten().collect(), &mut refused);
                    if waiting.contains(&None) {
                        self.reload_configured(&mut refused);
                    }
                    waiting.clear();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Reloads plugins together whose files have changed together. If they are refused, they are tried again when one of them
    /// has changed.
    fn reload_files<'c>(&'c self, mut changed: BTreeSet<&'c str>, refused: &mut BTreeSet<&'c str>) {
        if changed.iter().any(|name| refused.contains(name)) {
            changed.append(refused);
        }
        // `reload` logs an error and keeps it for `status`.
        if self.reload(&changed).is_err() {
            refused.append(&mut changed);
        }
    }

    /// Reloads the plugins whose settings or secrets have changed, and those that could not be reloaded before, each by itself:
    /// the settings of one have nothing to do with those of another.
    fn reload_configured<'c>(&'c self, refused: &mut BTreeSet<&'c str>) {
        for (name, slot) in &self.slots {
            let is_same = |found: Configuration| found == slot.current().configuration && slot.error().is_none();
            if !self.configuration_of(slot).is_ok_and(is_same) && !refused.contains(name.as_str()) {
                let _ = self.reload(&BTreeSet::from([name.as_str()]));
            }
        }
        if !refused.is_empty() {
            let together = std::mem::take(refused);
            self.reload_files(together, refused);
        }
    }
}

/// Notes and returns why plugins do not switch. Those that could have been loaded wait for the others.
fn refused(slots: &[&Arc<Slot>], loaded: Vec<Result<Switch, Error>>) -> Error {
    let at_fault = slots.iter().zip(&loaded).filter(|(_, result)| result.is_err());
    let at_fault: Vec<&str> = at_fault.map(|(slot, _)| &*slot.name).collect();
    let at_fault = at_fault.join(" and ");
    let mut first = None;
    let mut causes = Vec::new();
    for (slot, result) in slots.iter().zip(loaded) {
        let label = slot.current().label().clone();
        match result {
            Err(error) => {
                tracing::error!(
                    "plugin {label} keeps serving, because its new code or configuration is refused: {error}"
                );
                slot.note(Some(error.to_string()));
                causes.push(error.to_string());
                first.get_or_insert(error);
            }
            Ok(Switch::New(_)) => {
                let cause =
                    format!("its new code waits for plugin {at_fault}, which is loaded together with it and refused");
                tracing::error!("plugin {label} keeps serving: {cause}");
                slot.note(Some(cause));
            }
            Ok(Switch::Unchanged(_)) => {}
        }
    }
    match first {
        Some(error) if causes.len() == 1 => error,
        _ => Error::Plugin(causes.join("\n")),
    }
}

/// Returns the place of a plugin in the order in which plugins switch.
fn rank(plugin: &Plugin) -> usize {
    let roles = &plugin.description.roles;
    let is_aggregate = |role: &Role| matches!(role, Role::Aggregate { .. });
    match (roles.iter().any(is_aggregate), roles.iter().all(is_aggregate)) {
        (true, true) => 3,
        (true, false) => 2,
        (false, _) if roles.iter().any(|role| matches!(role, Role::Saga { .. })) => 1,
        (false, _) => 0,
    }
}

/// Whether both paths name the same file. The manifest may name it through links or `..`, and the watcher names it by
/// the path of its folder.
fn is_same(file: &Path, changed: &Path) -> bool {
    file == changed
        || (file.file_name() == changed.file_name()
            && folder_of(file).canonicalize().ok() == folder_of(changed).canonicalize().ok())
}

/// Returns the folder of a file. A bare file name is in the working folder.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        drop(self.watcher.take());
        drop(self.open.take());
        self.thread.join();
    }
}
