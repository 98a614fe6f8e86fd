//! All plugins of a host, and their change while it runs.
//!
//! New code is loaded beside the code that serves. Whoever changes the catalog decides then, with what the new code says about
//! itself, whether all of it is put into service or none.

use super::upcasting::PluginUpcasts;
use super::{Compiler, Error, HeldBack, History, Plugin, Role, Slot, Wanted, Watch};
use crate::file_watch::FileIdentity;
use crate::supervise::Held as _;
use crate::upcasts::Upcasts;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

type Slots = BTreeMap<String, Arc<Slot>>;

/// Which code of a plugin is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice<'a> {
    /// That of its file, unless it is held back.
    #[default]
    Wanted,
    /// That of its file.
    Forced,
    /// Kept code with this digest.
    Kept(&'a str),
}

/// All plugins, by name.
pub struct Catalog {
    compiler: Compiler,
    slots: ArcSwap<Slots>,
    /// What served before, if that is kept.
    history: Option<History>,
    /// Held while the catalog is changed.
    changes: Mutex<()>,
}

/// The right to change a catalog, which one has at a time.
pub struct CatalogChange<'c> {
    catalog: &'c Catalog,
    _alone: MutexGuard<'c, ()>,
}

/// The plugins of a catalog as they would be after a change. New code is loaded and does not serve yet.
pub struct Staged(BTreeMap<String, StagedPlugin>);

struct StagedPlugin {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    /// Whether its file was read.
    is_loaded: bool,
    /// Whether it is kept code, which has proved itself.
    is_kept: bool,
}

/// What a change of a catalog has replaced.
pub struct Replaced {
    slots: Arc<Slots>,
    /// The code that served, of the slots that have new code, with its watch.
    code: Vec<ReplacedCode>,
}

struct ReplacedCode {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    watch: Option<Arc<Watch>>,
}

impl Catalog {
    /// Loads every plugin, or returns an error for each that fails.
    pub fn open<'a>(
        compiler: Compiler,
        plugins: impl IntoIterator<Item = (&'a str, Wanted)>,
    ) -> Result<Self, Vec<Error>> {
        Self::open_with(compiler, plugins, None)
    }

    /// Loads every plugin, as [`open`](Self::open) does, and keeps what serves in a history. Code that is held back there does not
    /// serve.
    pub fn open_with<'a>(
        compiler: Compiler,
        plugins: impl IntoIterator<Item = (&'a str, Wanted)>,
        history: Option<History>,
    ) -> Result<Self, Vec<Error>> {
        let catalog = Self { compiler, slots: ArcSwap::default(), history, changes: Mutex::default() };
        let (mut slots, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, wanted) in plugins {
            match catalog.load(name, wanted, Choice::Wanted) {
                Ok(plugin) => _ = slots.insert(name.to_owned(), Arc::new(Slot::new(Arc::new(plugin)))),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        catalog.compiler.recorders().set(slots.values());
        catalog.slots.store(Arc::new(slots));
        Ok(catalog)
    }

    /// Loads the code of a plugin.
    fn load(&self, name: &str, wanted: Wanted, choice: Choice<'_>) -> Result<Plugin, Error> {
        if let Choice::Kept(digest) = choice {
            let read = self.slot(name).map(|slot| slot.current().file_identity);
            return self.load_kept(name, wanted, digest, read);
        }
        let plugin = Plugin::load(&self.compiler, name, wanted.clone())?;
        let history = self.history.as_ref().filter(|_| choice == Choice::Wanted);
        let held = history.and_then(|history| history.of(name).held_back);
        let Some(HeldBack { digest, code, reason, serves }) = held else { return Ok(plugin) };
        if digest != plugin.digest && code != plugin.code_digest {
            // The file has other code by now, so nothing is to be held back.
            if let Some(Err(error)) = history.map(|history| history.hold_back(name, None)) {
                tracing::warn!("the history of plugin {name} can't be written: {error}");
            }
            return Ok(plugin);
        }
        let (short, remedy) = (&digest[..12], format!("`wasmill plugins reload {name} --force` takes it all the same"));
        match self.load_kept(name, wanted, &serves, Some(plugin.file_identity)) {
            Ok(kept) => {
                let serves = &serves[..12];
                tracing::warn!(
                    "plugin {name}: the code {short} of its file is held back ({reason}), and {serves} serves; {remedy}"
                );
                Ok(kept)
            }
            Err(error) => {
                tracing::error!(
                    "plugin {name}: the code {short} of its file serves, although it is held back ({reason}): {error}"
                );
                Ok(plugin)
            }
        }
    }

    /// Returns the code before the one that serves, and the rest of its watch in milliseconds, if the host ended while it was
    /// watched.
    pub fn unwatched(&self, slot: &Slot, now_ms: u64) -> Option<(Arc<Plugin>, u64)> {
        let (before, since_ms) = self.history.as_ref()?.replaced(&slot.name)?;
        let current = slot.current();
        let rest_ms = (since_ms + current.wanted().watch.window.as_millis() as u64).checked_sub(now_ms)?;
        let before = self.load_kept(&slot.name, current.wanted(), &before, Some(current.file_identity)).ok()?;
        Some((Arc::new(before), rest_ms))
    }

    /// Loads kept code of a plugin.
    fn load_kept(&self, name: &str, wanted: Wanted, digest: &str, read: Option<FileIdentity>) -> Result<Plugin, Error> {
        let code = self.history.as_ref().and_then(|history| history.code(name, digest));
        let code = code.ok_or_else(|| Error::Plugin(format!("the code {digest} of plugin {name} is not kept")))?;
        let plugin = Plugin::load_kept(&self.compiler, name, wanted, &code, read)?;
        if plugin.digest != digest {
            return Err(Error::Plugin(format!(
                "the kept code of plugin {name} in {} is damaged: its digest is {}",
                code.display(),
                plugin.digest
            )));
        }
        Ok(plugin)
    }

    /// Returns the code of a plugin that served last, before the host was started with other code.
    pub fn served_last(&self, slot: &Slot) -> Option<Arc<Plugin>> {
        let current = slot.current();
        let last = self.history.as_ref()?.last(&slot.name).filter(|last| *last != current.digest)?;
        match self.load_kept(&slot.name, current.wanted(), &last, Some(current.file_identity)) {
            Ok(plugin) => Some(Arc::new(plugin)),
            Err(error) => {
                tracing::warn!("the code of plugin {} serves untried: {error}", slot.name);
                None
            }
        }
    }

    /// Returns the histories of the plugins, if they are kept.
    pub fn history(&self) -> Option<&History> {
        self.history.as_ref()
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
    pub fn slots(&self) -> impl Iterator<Item = Arc<Slot>> + use<> {
        let slots = self.slots.load_full();
        let slots: Vec<Arc<Slot>> = slots.values().cloned().collect();
        slots.into_iter()
    }

    /// Returns the slot of a plugin.
    pub fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        self.slots.load().get(name).cloned()
    }

    /// Returns the code of all plugins that serves now, ordered by name.
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.slots.load().values().map(|slot| slot.current()).collect()
    }

    /// Loads a copy of code of a plugin, with the plugin's limits and secrets, without putting it into service.
    pub fn load_other(&self, slot: &Slot, file: &Path) -> Result<Plugin, Error> {
        let current = slot.current();
        Plugin::load_copy(&self.compiler, &slot.name, file, &current.limits, &current.configuration)
    }

    /// Waits until nobody else changes the catalog, and keeps others from it until the result is dropped.
    pub fn change(&self) -> CatalogChange<'_> {
        CatalogChange { catalog: self, _alone: self.changes.held() }
    }
}

impl CatalogChange<'_> {
    /// Loads the code of the plugins that are wanted otherwise than those that serve, of new ones, and of those to be loaded
    /// again. If one can't be loaded, there is an error for each such plugin, and the status of the others that would have new code
    /// says what they wait for.
    pub fn load(
        &self,
        wanted: BTreeMap<String, Wanted>,
        again: &BTreeMap<&str, Choice<'_>>,
    ) -> Result<Staged, Vec<Error>> {
        let (mut staged, mut errors) = (BTreeMap::new(), BTreeMap::new());
        for (name, wanted) in wanted {
            match self.load_one(&name, wanted, again.get(name.as_str()).copied()) {
                Ok(plugin) => _ = staged.insert(name, plugin),
                Err(error) => _ = errors.insert(name, error),
            }
        }
        if errors.is_empty() {
            return Ok(Staged(staged));
        }
        self.note_refusal(&staged, &errors, again);
        Err(errors.into_values().collect())
    }

    fn load_one(&self, name: &str, wanted: Wanted, again: Option<Choice<'_>>) -> Result<StagedPlugin, Error> {
        let choice = again.unwrap_or_default();
        let Some(slot) = self.catalog.slot(name) else {
            let plugin = Arc::new(self.catalog.load(name, wanted, choice)?);
            return Ok(StagedPlugin {
                slot: Arc::new(Slot::new(plugin.clone())),
                plugin,
                is_loaded: true,
                is_kept: false,
            });
        };
        let old = slot.current();
        if again.is_none() && wanted == old.wanted() {
            return Ok(StagedPlugin { slot, plugin: old, is_loaded: false, is_kept: false });
        }
        let new = self.catalog.load(name, wanted.clone(), choice)?;
        let is_same = new.digest == old.digest && wanted == old.wanted();
        let is_kept = matches!(choice, Choice::Kept(_));
        Ok(StagedPlugin { plugin: if is_same { old } else { Arc::new(new) }, slot, is_loaded: true, is_kept })
    }

    /// Logs why plugins do not switch that were to be loaded again, and keeps it for the status. Those that could be loaded wait for
    /// the others. The caller who applies a changed manifest tells what is wrong with it.
    fn note_refusal(
        &self,
        staged: &BTreeMap<String, StagedPlugin>,
        errors: &BTreeMap<String, Error>,
        again: &BTreeMap<&str, Choice<'_>>,
    ) {
        let at_fault: Vec<&str> = errors.keys().map(String::as_str).collect();
        let keeps_serving = |slot: &Slot, cause: String| {
            tracing::error!("plugin {} keeps serving: {cause}", slot.current().label());
            slot.note(Some(cause));
        };
        for (name, error) in errors.iter().filter(|(name, _)| again.contains_key(name.as_str())) {
            if let Some(slot) = self.catalog.slot(name) {
                keeps_serving(&slot, format!("its new code or configuration is refused: {error}"));
            }
        }
        for StagedPlugin { slot, .. } in asked_again(staged, again) {
            let at_fault = at_fault.join(" and ");
            let cause =
                format!("its new code waits for plugin {at_fault}, which is loaded together with it and refused");
            keeps_serving(slot, cause);
        }
    }

    /// Notes for the status why the new code of plugins does not serve that were to be loaded again.
    pub fn refuse(&self, staged: &Staged, again: &BTreeMap<&str, Choice<'_>>, reason: &str) {
        // What is refused of older code, its person is told.
        for StagedPlugin { slot, .. } in asked_again(&staged.0, again).filter(|staged| !staged.is_kept) {
            tracing::error!("plugin {} keeps serving: its new code is refused: {reason}", slot.current().label());
            slot.note(Some(format!("its new code is refused: {reason}")));
        }
    }

    /// Says which code is about to serve, so that others can prepare for it. Returns the aggregate types that it has.
    pub fn announce(&self, staged: &Staged) -> Vec<String> {
        let new = staged.0.values().filter(|staged| staged.is_new_code());
        let types = new.flat_map(|StagedPlugin { slot, plugin, .. }| {
            slot.announce(plugin.clone());
            plugin.description.roles.iter().filter_map(|role| match role {
                Role::Aggregate { aggregate_type, .. } => Some(aggregate_type.to_string()),
                _ => None,
            })
        });
        types.collect()
    }

    /// Puts loaded code into service. Plugins that read events switch before those that record them, so that no reader meets an
    /// event of newer code than its own. Returns what it replaced.
    pub fn put(&self, staged: &Staged) -> Replaced {
        let slots: Slots = staged.0.iter().map(|(name, staged)| (name.clone(), staged.slot.clone())).collect();
        let mut new: Vec<&StagedPlugin> = staged.0.values().filter(|staged| staged.is_new_code()).collect();
        new.sort_by_key(|staged| rank(&staged.plugin));
        let code = new
            .iter()
            .map(|StagedPlugin { slot, .. }| ReplacedCode {
                slot: slot.clone(),
                plugin: slot.current(),
                watch: slot.watch(),
            })
            .collect();
        let replaced = Replaced { slots: self.catalog.slots.swap(Arc::new(slots)), code };
        self.catalog.compiler.recorders().set(self.catalog.slots.load().values());
        for StagedPlugin { slot, plugin, is_kept, .. } in new {
            tracing::info!("plugin {} now serves, digest {}", plugin.label(), &plugin.digest[..12]);
            let watch = slot.watch_for(plugin).filter(|_| !is_kept);
            slot.put(plugin.clone(), watch);
        }
        staged.0.values().filter(|staged| staged.is_loaded).for_each(|staged| staged.slot.note(None));
        replaced
    }

    /// Notes in the histories what serves now. `ended` says why other code does not serve any more. Code that is not in the way any
    /// more is not held back any more.
    pub fn record(&self, now_ms: u64, ended: &str) {
        let Some(history) = &self.catalog.history else { return };
        for slot in self.catalog.slots() {
            let (plugin, watch) = (slot.current(), slot.watch());
            let held = history.of(&plugin.name).held_back;
            if held.is_some_and(|held| held.serves != plugin.digest)
                && let Err(error) = history.hold_back(&plugin.name, None)
            {
                tracing::warn!("the history of plugin {} can't be written: {error}", plugin.name);
            }
            history.serves(&plugin, watch.map(|watch| watch.old().digest.clone()).as_deref(), now_ms, ended);
        }
    }

    /// Puts back what a change has replaced, those first that record events.
    pub fn put_back(&self, Replaced { slots, code }: Replaced) {
        for ReplacedCode { slot, plugin, watch } in code.into_iter().rev() {
            tracing::warn!("plugin {} serves again, digest {}", plugin.label(), &plugin.digest[..12]);
            slot.put(plugin, watch);
        }
        self.catalog.slots.store(slots);
        self.catalog.compiler.recorders().set(self.catalog.slots.load().values());
    }
}

impl CatalogChange<'_> {
    /// Watches the code with which the host was started against the code before, for this time or for that of the manifest.
    pub fn watch_against(&self, slot: &Slot, old: Arc<Plugin>, rest: Option<Duration>) {
        slot.watch_against(old, rest);
    }

    /// Holds the code back with which the host was started, and puts the code that served last in its place.
    pub fn hold_back(&self, slot: &Slot, old: &Arc<Plugin>, reason: &str) -> std::io::Result<()> {
        let Some(history) = &self.catalog.history else { return Ok(()) };
        history.hold_back(&slot.name, Some(HeldBack::new(&slot.current(), reason, &old.digest)))?;
        slot.put(old.clone(), None);
        self.catalog.compiler.recorders().set(self.catalog.slots.load().values());
        Ok(())
    }
}

impl Staged {
    /// Returns the code of all plugins, ordered by name.
    pub fn plugins(&self) -> Vec<Arc<Plugin>> {
        self.0.values().map(|staged| staged.plugin.clone()).collect()
    }

    /// Returns the names of the plugins that serve already and have new code.
    pub fn new_code(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, staged)| staged.is_new_code()).map(|(name, _)| name.as_str())
    }

    /// Returns the code of a plugin.
    pub fn plugin(&self, name: &str) -> Option<&Arc<Plugin>> {
        self.0.get(name).map(|staged| &staged.plugin)
    }
}

impl StagedPlugin {
    /// Whether its slot has other code.
    fn is_new_code(&self) -> bool {
        !self.slot.is_current(&self.plugin)
    }
}

/// Returns the plugins with new code that were to be loaded again.
fn asked_again<'s>(
    staged: &'s BTreeMap<String, StagedPlugin>,
    again: &'s BTreeMap<&str, Choice<'_>>,
) -> impl Iterator<Item = &'s StagedPlugin> {
    let asked = staged.iter().filter(|(name, staged)| staged.is_new_code() && again.contains_key(name.as_str()));
    asked.map(|(_, staged)| staged)
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
