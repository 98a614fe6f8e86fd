//! Changing a running host: another manifest, or new code of plugins.
//!
//! A change is applied as a whole or not at all. Everything that can be checked is checked before anything is stopped: the
//! manifest, its new code, whether all of it fits, and the places in the store. Then the parts that end or are made from something
//! else stop, in the order of a stop, new code is put into service, and what is missing starts, in the order of a start. All
//! other parts keep running. If a part does not start, the host goes back to what it was before.

use super::Host;
use super::canary::{self, Found};
use super::checking::{refuse_idle, subscribed, wanted};
use super::fitting::problems;
use super::idle_keys::idle_keys;
use super::orphans;
use super::parts::{Error, Moves, Parts};
use super::plan::{Kind, PartName, Plan};
use super::sharing::Applied;
use super::startup::Startup;
use super::unmatched::unmatched;
use crate::access;
use crate::http;
use crate::kafka;
use crate::manifest::{ChangedState, KeyChange, Manifest};
use crate::model::Position;
use crate::paths;
use crate::plugin::{CatalogChange, Choice, Plugin, Staged};
use crate::status::{KeyStatus, ManifestChange, ManifestStatus, PartChange, Rebuilding, Reloaded};
use crate::store::{Part, Place};
use crate::supervise::{self, Held as _};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Why code does not serve any more, if a person or a build has replaced it.
pub(super) const REPLACED: &str = "replaced";

/// Longest time for which aggregates are rebuilt by new code before it serves.
const PREBUILD_MAX: Duration = Duration::from_secs(5);

/// Longest time that parts which end or restart may take. Others wait for them, such as commands of a type that restarts. What they leave
/// undone is done when they start again.
pub(super) const STOP_MAX: Duration = Duration::from_secs(12);

/// What a host knows of the manifest on disk.
#[derive(Default)]
pub(super) struct OnDisk {
    /// The keys by which it differs from the manifest that the host applies.
    differences: Vec<KeyChange>,
    /// Why it can't be applied.
    error: Option<String>,
    /// The files of its plugins, for which it may have to wait.
    files: Vec<PathBuf>,
}

/// A change that is loaded and checked, and not applied yet.
struct Prepared {
    manifest: Arc<Manifest>,
    applied: Applied,
    staged: Staged,
    /// The parts that are to run on this host.
    plan: Plan,
    /// The parts whose place in the store gets another name.
    moves: Vec<(Part, String)>,
    /// What it does, in words.
    shown: ManifestChange,
}

/// A change that does not fit.
struct Refused {
    staged: Staged,
    error: Error,
}

impl Host {
    /// Applies the manifest as it is on disk now, or only says what that would change.
    pub async fn reload_manifest(self: &Arc<Self>, dry_run: bool) -> Result<ManifestChange, String> {
        let host = self.clone();
        let applied = tokio::task::spawn_blocking(move || host.apply_manifest(&BTreeMap::new(), dry_run));
        applied.await.map_err(|error| error.to_string())?
    }

    /// Applies the manifest as it is on disk now, and loads these plugins again. This blocks.
    pub(super) fn apply_manifest(
        &self,
        again: &BTreeMap<&str, Choice<'_>>,
        dry_run: bool,
    ) -> Result<ManifestChange, String> {
        let read = || self.parts().manifest.read_again().map_err(|error| Error::One(error.to_string()));
        let changed = self.change_to(read, again, REPLACED, dry_run);
        let error = changed.as_ref().err().map(ToString::to_string);
        if !dry_run {
            if let Some(error) = &error {
                tracing::error!("the manifest is not applied: {error}");
            }
            let found = if error.is_some() { self.on_disk_now() } else { OnDisk::default() };
            *self.on_disk.held() = OnDisk { error: error.clone(), ..found };
        }
        changed.map_err(|_| error.unwrap_or_default())
    }

    /// Loads plugins again and switches all of them, or none if one can't be loaded. It waits until the projections among them
    /// answer with the new code, fail, or the time is up.
    pub async fn reload(
        self: &Arc<Self>,
        plugins: BTreeSet<String>,
        is_forced: bool,
        timeout: Duration,
    ) -> Result<Vec<Reloaded>, String> {
        let deadline = Instant::now() + timeout;
        let host = self.clone();
        let names = plugins.clone();
        let reloaded = tokio::task::spawn_blocking(move || {
            let choice = if is_forced { Choice::Forced } else { Choice::Wanted };
            let names = names.iter().map(|name| (name.as_str(), choice)).collect();
            host.reload_plugins(&names, REPLACED).map_err(|error| error.to_string())
        });
        reloaded.await.map_err(|error| error.to_string())??;
        if let Some((name, held)) =
            plugins.iter().filter(|_| !is_forced).find_map(|name| Some((name, self.held_back(name)?)))
        {
            return Err(format!(
                "plugin {name} is held back, {held}; `wasmill plugins reload {name} --force` takes it all the same"
            ));
        }
        let mut reloaded = Vec::new();
        for slot in plugins.iter().filter_map(|name| self.core.catalog.slot(name)) {
            let plugin = slot.current();
            let left = deadline.saturating_duration_since(Instant::now());
            reloaded.push(Reloaded {
                plugin: plugin.name.to_string(),
                version: plugin.description.version.clone(),
                digest: format!("sha256:{}", plugin.digest),
                building: self.taken_over(&plugin, left).await?,
            });
        }
        Ok(reloaded)
    }

    /// Loads plugins again, with the settings of the manifest that the host applies. `ended` says why the code before does not serve
    /// any more. This blocks.
    pub(super) fn reload_plugins(&self, plugins: &BTreeMap<&str, Choice<'_>>, ended: &str) -> Result<(), Error> {
        self.reload_alone(&self.core.catalog.change(), plugins, ended)
    }

    /// Does what [`reload_plugins`](Self::reload_plugins) does, for one who may change the catalog already.
    pub(super) fn reload_alone(
        &self,
        alone: &CatalogChange<'_>,
        plugins: &BTreeMap<&str, Choice<'_>>,
        ended: &str,
    ) -> Result<(), Error> {
        self.change_alone(alone, || Ok((*self.parts().manifest).clone()), plugins, ended, false).map(drop)
    }

    /// Waits for the projection of a plugin to take over new code. Returns its progress if it is still building.
    async fn taken_over(&self, plugin: &Plugin, timeout: Duration) -> Result<Option<Rebuilding>, String> {
        let parts = self.parts();
        let Some(found) = parts.projections.values().find(|other| other.plugin() == &*plugin.name) else {
            return Ok(None);
        };
        let projection = found.name().to_owned();
        match found.takeover(&plugin.digest, timeout).await {
            crate::projection::Takeover::Answers => Ok(None),
            crate::projection::Takeover::Building { reached: Position(position) } => {
                let of = self.core.store.head().borrow().0;
                Ok(Some(Rebuilding { projection, position, of }))
            }
            crate::projection::Takeover::Failed(reason) => {
                Err(format!("projection {projection} does not take the new code: {reason}"))
            }
        }
    }

    /// Returns what is known of the manifest on disk.
    pub fn manifest_status(&self) -> ManifestStatus {
        let OnDisk { differences, error, .. } = &*self.on_disk.held();
        ManifestStatus {
            path: paths::absolute(&self.parts().manifest.path).display().to_string(),
            differs: !differences.is_empty() || error.is_some(),
            keys: differences.iter().map(KeyStatus::from).collect(),
            error: error.clone(),
        }
    }

    /// Notes how the manifest on disk differs, which has changed. Returns whether it does.
    pub(super) fn look_at_manifest(&self) -> bool {
        let manifest = self.parts().manifest.clone();
        let found = self.on_disk_now();
        let differs = !found.differences.is_empty();
        if differs {
            let keys: Vec<String> = found.differences.iter().map(ToString::to_string).collect();
            let path = manifest.path.display();
            tracing::info!("{path} has changed ({}): `wasmill reload` applies it", keys.join(", "));
        }
        if let Some(error) = &found.error {
            tracing::warn!("the manifest has changed and can't be used; the host keeps the one before: {error}");
        }
        *self.on_disk.held() = found;
        differs
    }

    fn on_disk_now(&self) -> OnDisk {
        let manifest = self.parts().manifest.clone();
        match manifest.read_again() {
            Ok(found) => OnDisk {
                differences: manifest.differences(&found),
                error: None,
                files: found.plugins.into_values().map(|plugin| plugin.file).collect(),
            },
            Err(error) => OnDisk { error: Some(error.to_string()), ..OnDisk::default() },
        }
    }

    /// Returns the files of the plugins of a manifest on disk that is not applied.
    pub(super) fn awaited_files(&self) -> Vec<PathBuf> {
        self.on_disk.held().files.clone()
    }

    /// Whether the manifest on disk is one that the host does not apply, as far as it knows.
    pub(super) fn is_manifest_unapplied(&self) -> bool {
        let OnDisk { differences, error, .. } = &*self.on_disk.held();
        !differences.is_empty() || error.is_some()
    }

    /// Changes the host to a manifest, loading these plugins again. This blocks.
    fn change_to(
        &self,
        read: impl FnOnce() -> Result<Manifest, Error>,
        again: &BTreeMap<&str, Choice<'_>>,
        ended: &str,
        dry_run: bool,
    ) -> Result<ManifestChange, Error> {
        self.change_alone(&self.core.catalog.change(), read, again, ended, dry_run)
    }

    /// Does what [`change_to`](Self::change_to) does, for one who may change the catalog already.
    fn change_alone(
        &self,
        alone: &CatalogChange<'_>,
        read: impl FnOnce() -> Result<Manifest, Error>,
        again: &BTreeMap<&str, Choice<'_>>,
        ended: &str,
        dry_run: bool,
    ) -> Result<ManifestChange, Error> {
        // Parts make clients that need the runtime.
        let _runtime = self.core.environment.runtime.enter();
        let stopping = || Error::One("the host is stopping".to_owned());
        if self.stopping.load(Ordering::Acquire) {
            return Err(stopping());
        }
        let current = self.parts();
        let prepared = self.prepare(&current, read()?, again, alone)?;
        if dry_run {
            return Ok(prepared.shown);
        }
        if self.stopping.load(Ordering::Acquire) {
            return Err(stopping());
        }
        self.core.aggregates.prebuild(&alone.announce(&prepared.staged), Instant::now() + PREBUILD_MAX);
        // What people do with a part is done before it stops, or afterwards to the one in its place.
        let in_use = self.in_use.blocking_write();
        self.changing.store(true, Ordering::Release);
        let applied = self.apply(&current, prepared, alone);
        self.changing.store(false, Ordering::Release);
        drop(in_use);
        if applied.is_ok() {
            alone.record(self.clock.now_ms(), ended);
        }
        applied
    }

    /// Loads and checks a change. Nothing that runs is touched.
    fn prepare(
        &self,
        current: &Parts,
        mut manifest: Manifest,
        again: &BTreeMap<&str, Choice<'_>>,
        alone: &CatalogChange<'_>,
    ) -> Result<Prepared, Error> {
        let keys = current.manifest.restart_keys(&manifest);
        if !keys.is_empty() {
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
            return Err(Error::One(format!(
                "{}: {} can't change while the host runs: restart it, or set the old value again to apply the rest",
                manifest.path.display(),
                keys.join(" and ")
            )));
        }
        manifest.api = current.manifest.with_bound_port(&manifest);
        refuse_idle(&manifest).map_err(Error::One)?;
        // What is applied was checked. Checking it makes clients, which takes longer than all the rest.
        if !current.manifest.differences(&manifest).is_empty() {
            let has_other_access = current.manifest.api != manifest.api;
            let of_access = if has_other_access { access::check(&manifest) } else { Vec::new() };
            let wrong = [kafka::check(&manifest), http::check(&manifest), of_access].concat();
            if !wrong.is_empty() {
                return Err(Error::Many(wrong));
            }
        }
        let wanted = wanted(&manifest).map_err(Error::Many)?;
        let loaded = alone.load(wanted, again);
        let staged = loaded.map_err(|errors| Error::Many(errors.iter().map(ToString::to_string).collect()))?;
        let prepared = self.fitted(current, manifest.into(), staged).and_then(|prepared| self.tried(prepared, again));
        prepared.map_err(|refused| {
            let Refused { staged, error } = *refused;
            alone.refuse(&staged, again, &error.to_string());
            error
        })
    }

    /// Has new code replay recent histories.
    fn tried(&self, mut prepared: Prepared, again: &BTreeMap<&str, Choice<'_>>) -> Result<Prepared, Box<Refused>> {
        let mut refused = Vec::new();
        for name in prepared.staged.new_code().filter(|name| again.get(name) != Some(&Choice::Forced)) {
            let (Some(old), Some(new)) = (self.core.catalog.slot(name), prepared.staged.plugin(name)) else { continue };
            let is_kept = matches!(again.get(name), Some(Choice::Kept(_)));
            // A build that lost a role by mistake must not end a part.
            if let Some(reason) = changed_roles(&old.current(), new).filter(|_| again.contains_key(name) && !is_kept) {
                refused.push(reason);
                continue;
            }
            let mut found = Ok(Found::default());
            let replay = || found = canary::replay(&*self.core.store, &old.current(), new);
            supervise::behind_others("canary", [Box::new(replay) as Box<dyn FnOnce() + Send>]);
            let found = match found {
                Ok(found) => found,
                Err(error) => {
                    prepared.shown.notes.push(format!("the new code of plugin {name} replays no history: {error}"));
                    continue;
                }
            };
            refused.extend(found.refused.map(|reason| match is_kept {
                true => format!("the older code of plugin {} can't serve: {reason}", new.label()),
                false => {
                    format!(
                        "the new code of plugin {} is refused: {reason}; `--force` takes it all the same",
                        new.label()
                    )
                }
            }));
            if let Some(first) = found.differences.first().filter(|_| !is_kept) {
                let count = found.differences.len();
                let text =
                    format!("the new code of plugin {name} makes another state of {count} streams, such as {first}");
                match prepared.manifest.plugins[name].changed_state {
                    ChangedState::Report => prepared.shown.notes.push(text),
                    ChangedState::Refuse => {
                        refused.push(format!("{text}, and `plugins.{name}.changed_state` is \"refuse\""));
                    }
                }
            }
        }
        if refused.is_empty() {
            return Ok(prepared);
        }
        Err(Refused { staged: prepared.staged, error: Error::Many(refused) }.into())
    }

    fn fitted(&self, current: &Parts, manifest: Arc<Manifest>, staged: Staged) -> Result<Prepared, Box<Refused>> {
        let plugins = staged.plugins();
        let plan_of = || {
            let problems = problems(&manifest, &plugins);
            if !problems.is_empty() {
                return Err(Error::Many(problems));
            }
            let places = self.core.store.reader()?.places()?;
            let named = |text: &String| format!("{}: {text}", manifest.path.display());
            let moves = orphans::decide(&manifest, &subscribed(&plugins), &places)
                .map_err(|problems| Error::Many(problems.iter().map(named).collect()))?;
            self.core.shared.refuse_moves(&moves)?;
            let plan = Plan::of(&manifest, &plugins)?;
            let applied = Applied::of(&manifest, &plugins, plan.clone());
            Ok((self.core.shared.expected(plan), places, moves, applied))
        };
        match plan_of() {
            Ok((plan, places, moves, applied)) => {
                let shown = self.shown(current, &manifest, &staged, &plan, &places, &moves);
                Ok(Prepared { manifest, applied, staged, plan, moves, shown })
            }
            Err(error) => Err(Refused { staged, error }.into()),
        }
    }

    /// Describes a change.
    fn shown(
        &self,
        current: &Parts,
        manifest: &Manifest,
        staged: &Staged,
        plan: &Plan,
        places: &[Place],
        moves: &[(Part, String)],
    ) -> ManifestChange {
        let running = current.running();
        let change = |name: &PartName, change: &str| PartChange { part: name.to_string(), change: change.to_owned() };
        let removed = running.without(plan).filter(|(name, _)| !plan.has(name));
        let mut parts: Vec<PartChange> = removed.map(|(name, _)| change(name, "stops")).collect();
        parts.extend(plan.without(running).map(|(name, _)| match running.has(name) {
            true => change(name, "restarts"),
            false => change(name, "starts"),
        }));
        let new_code = staged.new_code().filter_map(|name| staged.plugin(name));
        parts.extend(new_code.map(|plugin| PartChange {
            part: format!("plugin {}", plugin.name),
            change: format!("gets the code of {} (sha256:{})", plugin.label(), plugin.digest),
        }));
        let plugins = staged.plugins();
        let mut notes: Vec<String> = moves.iter().map(|(old, new)| format!("{old} will be named {new}")).collect();
        notes.extend(self.left_by(current, manifest, plan, places, moves));
        let before = warnings(&current.manifest, &self.core.catalog.plugins());
        notes.extend(warnings(manifest, &plugins).into_iter().filter(|warning| !before.contains(warning)));
        let keys = current.manifest.differences(manifest).iter().map(KeyStatus::from).collect();
        ManifestChange { applied: false, keys, parts, notes }
    }

    /// Says what stays of parts that a change removes.
    fn left_by(
        &self,
        current: &Parts,
        manifest: &Manifest,
        plan: &Plan,
        places: &[Place],
        moves: &[(Part, String)],
    ) -> Vec<String> {
        let path = manifest.path.display();
        let is_moved = |part: &Part| moves.iter().any(|(old, _)| old == part);
        let was_named = |place: &&Place| orphans::is_named(&current.manifest, &place.part);
        let is_left = |place: &&Place| !orphans::is_named(manifest, &place.part) && !is_moved(&place.part);
        let of_places = places.iter().filter(was_named).filter(is_left).map(|place| {
            format!(
                "{place} stays in the store: it resumes there when it is added again; to forget it, stop the host and run \
                 `wasmill store orphans {path} --forget {}`",
                place.part
            )
        });
        let removed = current.running().without(plan).map(|(name, _)| name).filter(|name| !plan.has(name));
        let of_parts = removed.filter_map(|PartName { kind, name }| match kind {
            Kind::Aggregate => Some(format!(
                "the events of aggregate {name} stay in the store, and commands to it are refused until a plugin serves it again"
            )),
            Kind::Projection => Some(format!(
                "the read model of projection {name} stays in {}",
                self.core.data.join("read-models").display()
            )),
            _ => None,
        });
        of_places.chain(of_parts).collect()
    }

    /// Applies a change, or goes back to what was before.
    fn apply(
        &self,
        current: &Arc<Parts>,
        Prepared { manifest, applied, staged, plan, moves, shown }: Prepared,
        alone: &CatalogChange<'_>,
    ) -> Result<ManifestChange, Error> {
        let mut next = (**current).clone();
        next.manifest = manifest;
        next.applied = applied.into();
        next.missing.clear();
        let deadline = Instant::now() + next.manifest.host.stop_max().min(STOP_MAX);
        next.stop_unless_in(&plan, deadline);
        let replaced = alone.put(&staged);
        let mut moves = Moves::new(moves);
        // Before anything of the new manifest runs, others have to know that this host differs from them.
        let granted = || {
            self.core.shared.introduce(&next.manifest, &next.applied)?;
            self.core.shared.granted(&plan)
        };
        let started = granted().map_err(Error::from);
        let started = started.and_then(|plan| next.start_all(&plan, &mut moves, &Startup::of_change()));
        let Err(error) = started else {
            self.parts.send_replace(Arc::new(next));
            log_change(&shown);
            return Ok(ManifestChange { applied: true, ..shown });
        };
        tracing::error!("the change is undone: {error}");
        next.stop_unless_in(current.running(), deadline);
        alone.put_back(replaced);
        (next.manifest, next.applied) = (current.manifest.clone(), current.applied.clone());
        if let Err(error) = self.core.shared.introduce(&next.manifest, &next.applied) {
            tracing::error!("other hosts of the store are told later that the change is undone: {error}");
        }
        next.start_what_can_be(current.running(), moves.back());
        self.parts.send_replace(Arc::new(next));
        Err(error)
    }
}

/// Says that new code has other roles, if it has.
fn changed_roles(old: &Plugin, new: &Plugin) -> Option<String> {
    // The linker decides on their order.
    let roles = |plugin: &Plugin| plugin.description.roles.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let words = |roles: BTreeSet<String>| roles.into_iter().collect::<Vec<_>>().join(" and ");
    (roles(old) != roles(new)).then(|| {
        format!(
            "plugin {} now has the roles {} instead of {}: `wasmill plugins reload {} --force` starts and stops the parts of these \
             roles",
            new.label(),
            words(roles(new)),
            words(roles(old)),
            new.name
        )
    })
}

/// Returns what a person may have overlooked in a manifest with these plugins, a sentence each.
fn warnings(manifest: &Manifest, plugins: &[Arc<Plugin>]) -> Vec<String> {
    let unmatched = unmatched(plugins);
    let idle = idle_keys(manifest, plugins);
    idle.into_iter().chain(unmatched.unknown_events).chain(unmatched.unknown_types).collect()
}

fn log_change(shown: &ManifestChange) {
    if shown.keys.is_empty() {
        return shown.notes.iter().for_each(|note| tracing::info!("{note}"));
    }
    let keys: Vec<String> = shown.keys.iter().map(|key| format!("{} {}", key.key, key.change)).collect();
    let parts: Vec<String> = shown.parts.iter().map(|part| format!("{} {}", part.part, part.change)).collect();
    tracing::info!("the changed manifest is applied ({}): {}", keys.join(", "), parts.join("; "));
    shown.notes.iter().for_each(|note| tracing::warn!("{note}"));
}
