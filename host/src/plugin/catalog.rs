//! All plugins of a host, and their change while it runs.
//!
//! New code is loaded beside the code that serves. Whoever changes the catalog decides then, with what the new code says about
//! itself, whether all of it is put into service or none.

use super::upcasting::PluginUpcasts;
use super::{Compiler, Error, HeldBack, History, Plugin, Role, Slot, Wanted, Watch};
use crate::supervise::Held as _;
use crate::upcasts::Upcasts;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

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
    /// Whether it has served before.
    is_kept: bool,
}

/// What a change of a catalog has replaced.
pub struct Replaced {
    slots: Arc<Slots>,
    /// The code that served, of the slots that have new code.
    code: Vec<(Arc<Slot>, Arc<Plugin>)>,
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
        if let (Choice::Kept(digest), Some(history)) = (choice, &self.history) {
            let code = history.code(name, digest);
            let code = code.ok_or_else(|| Error::Plugin(format!("the code {digest} of plugin {name} is not kept")))?;
            return Plugin::load_kept(&self.compiler, name, wanted, &code);
        }
        let plugin = Plugin::load(&self.compiler, name, wanted.clone())?;
        let held_back = |history: &History| {
            let held = history.of(name).held_back.filter(|held| held.digest == plugin.digest)?;
            Some((history.code(name, &held.serves)?, held))
        };
        let Some((code, held)) = self.history.as_ref().filter(|_| choice == Choice::Wanted).and_then(held_back) else {
            return Ok(plugin);
        };
        let HeldBack { digest, reason, serves } = held;
        tracing::warn!(
            "plugin {name}: the code {} of its file is held back ({reason}), and {} serves; `wasmill plugins reload {name} --force` \
             takes it all the same",
            &digest[..12],
            &serves[..12]
        );
        Plugin::load_kept(&self.compiler, name, wanted, &code)
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
                is_kept: true,
            });
        };
        let old = slot.current();
        if again.is_none() && wanted == old.wanted() {
            return Ok(StagedPlugin { slot, plugin: old, is_loaded: false, is_kept: true });
        }
        let new = self.catalog.load(name, wanted.clone(), choice)?;
        let is_same = new.digest == old.digest && wanted == old.wanted();
        let is_kept = matches!(choice, Choice::Kept(_)) || new.digest == old.digest;
        Ok(StagedPlugin { plugin: if is_same { old } else { Arc::new(new) }, slot, is_loaded: true, is_kept })
    }

    /// Logs why plugins do not switch that were to be loaded again, and keeps it for the status. Those that could be loaded wait for
    /// the others. What is wrong with a changed manifest is told by whoever applies it.
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
        for StagedPlugin { slot, .. } in asked_again(&staged.0, again) {
            tracing::error!("plugin {} keeps serving: its new code is refused: {reason}", slot.current().label());
            slot.note(Some(format!("its new code is refused: {reason}")));
        }
    }

    /// Puts loaded code into service. Plugins that read events switch before those that record them, so that no reader meets an
    /// event of newer code than its own. Returns what it replaced.
    pub fn put(&self, staged: &Staged) -> Replaced {
        let slots: Slots = staged.0.iter().map(|(name, staged)| (name.clone(), staged.slot.clone())).collect();
        let mut new: Vec<&StagedPlugin> = staged.0.values().filter(|staged| staged.is_new_code()).collect();
        new.sort_by_key(|staged| rank(&staged.plugin));
        let code = new.iter().map(|staged| (staged.slot.clone(), staged.slot.current())).collect();
        let replaced = Replaced { slots: self.catalog.slots.swap(Arc::new(slots)), code };
        self.catalog.compiler.recorders().set(self.catalog.slots.load().values());
        for StagedPlugin { slot, plugin, is_kept, .. } in new {
            tracing::info!("plugin {} now serves, digest {}", plugin.label(), &plugin.digest[..12]);
            let rule = plugin.wanted().watch;
            let is_watched = !is_kept && !rule.window.is_zero();
            slot.put(plugin.clone(), is_watched.then(|| Watch::new(plugin.clone(), slot.current(), rule)));
        }
        staged.0.values().filter(|staged| staged.is_loaded).for_each(|staged| staged.slot.note(None));
        replaced
    }

    /// Notes in the histories what serves now. `ended` says why other code does not serve any more. Code that is not in the way any
    /// more is not held back any more.
    pub fn record(&self, now_ms: u64, ended: &str) {
        let Some(history) = &self.catalog.history else { return };
        for plugin in self.catalog.plugins() {
            let held = history.of(&plugin.name).held_back;
            if held.is_some_and(|held| held.serves != plugin.digest)
                && let Err(error) = history.hold_back(&plugin.name, None)
            {
                tracing::warn!("the history of plugin {} can't be written: {error}", plugin.name);
            }
            history.serves(&plugin, now_ms, ended);
        }
    }

    /// Puts back what a change has replaced.
    pub fn put_back(&self, Replaced { slots, code }: Replaced) {
        for (slot, plugin) in code {
            tracing::warn!("plugin {} serves again, digest {}", plugin.label(), &plugin.digest[..12]);
            slot.put(plugin, None);
        }
        self.catalog.slots.store(slots);
        self.catalog.compiler.recorders().set(self.catalog.slots.load().values());
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
