//! Checks of a manifest before anything is started.

use super::configurations::configuration;
use super::fitting::{has_subscription, problems};
use super::idle_keys::idle_keys;
use super::inventory::Inventory;
use super::options::{demand, limits};
use super::orphans;
use super::startup::Startup;
use super::unmatched::{Unmatched, unmatched};
use crate::access;
use crate::http;
use crate::kafka;
use crate::manifest::Manifest;
use crate::plugin::{Catalog, Compiler, History, Plugin, Wanted, WatchRule};
use crate::store;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Result of checking a manifest before anything is started.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// What each plugin has, and what it may do and use.
    pub plugins: Vec<Inventory>,
    /// Keys of the manifest that have no effect, in words.
    pub idle_keys: Vec<String>,
    /// Subscriptions to events of aggregate types that no plugin of the manifest has, in words.
    pub unmatched: Vec<String>,
    /// Parts that the store knows and the manifest does not, in words.
    pub orphans: Vec<String>,
    /// Parts whose place the next start renames, in words.
    pub moves: Vec<String>,
    /// Why the store could not be checked, if there is one.
    pub unread: Option<String>,
}

/// Loads every plugin of a manifest and checks that all fits together, also with the store if it can be read. It starts
/// nothing. It returns what there is, or a line for each problem.
pub fn check(manifest: &Manifest) -> Result<Checked, Vec<String>> {
    refuse_idle(manifest).map_err(|problem| vec![problem])?;
    let compiler = Compiler::new(None, demand(manifest)).map_err(|error| vec![error.to_string()])?;
    let loaded = load_checked(manifest, compiler, None, &Startup::default());
    let of_files = [http::check(manifest), access::check(manifest)].concat();
    let catalog = match loaded {
        Ok(catalog) if of_files.is_empty() => catalog,
        Ok(_) => return Err(of_files),
        Err(problems) => return Err([problems, of_files].concat()),
    };
    let plugins = catalog.plugins();
    let Unmatched { unknown_events, unknown_types } = unmatched(&plugins);
    if !unknown_events.is_empty() {
        return Err(unknown_events);
    }
    let mut checked = Checked {
        plugins: plugins.iter().map(|plugin| Inventory::of(plugin, manifest)).collect(),
        idle_keys: idle_keys(manifest, &plugins),
        unmatched: unknown_types,
        ..Checked::default()
    };
    let location = super::store_location(manifest).map_err(|problem| vec![problem])?;
    if store::exists(&location) {
        match store::places(&location) {
            Ok(places) => {
                let moves = orphans::decide(manifest, &subscribed(&plugins), &places)?;
                let mut left = orphans::orphans(manifest, &places);
                left.retain(|orphan| !moves.iter().any(|(old, _)| *old == orphan.part));
                checked.orphans = left.iter().map(ToString::to_string).collect();
                checked.moves = moves.iter().map(|(old, new)| format!("{old} will be named {new}")).collect();
            }
            Err(error) => checked.unread = Some(error.to_string()),
        }
    }
    Ok(checked)
}

/// Loads every plugin of a manifest and returns those that have a subscription, or a line for each problem. It keeps what it
/// compiles in the data folder, for the start.
pub fn subscribers(manifest: &Manifest) -> Result<Vec<String>, Vec<String>> {
    let compiler = Compiler::new(Some(&manifest.data.join("compiled")), demand(manifest));
    let compiler = compiler.map_err(|error| vec![error.to_string()])?;
    Ok(subscribed(&load_checked(manifest, compiler, None, &Startup::default())?.plugins()))
}

/// Refuses a manifest without a plugin, because its host would never do anything.
pub(super) fn refuse_idle(manifest: &Manifest) -> Result<(), String> {
    if !manifest.plugins.is_empty() {
        return Ok(());
    }
    let remedy = "add a section [plugins.NAME] with its `file`";
    Err(format!("{} has no plugin, so a host of it does nothing: {remedy}", manifest.path.display()))
}

/// Returns the plugins that have a subscription.
pub(super) fn subscribed(plugins: &[Arc<Plugin>]) -> Vec<String> {
    plugins.iter().filter(|plugin| has_subscription(plugin)).map(|plugin| plugin.name.to_string()).collect()
}

/// Loads the plugins and checks the properties of Kafka. The problems of both are reported together.
pub(super) fn load_checked(
    manifest: &Manifest,
    compiler: Compiler,
    history: Option<History>,
    startup: &Startup,
) -> Result<Catalog, Vec<String>> {
    let of_kafka = kafka::check(manifest);
    match load(manifest, compiler, history, startup) {
        Ok(catalog) if of_kafka.is_empty() => Ok(catalog),
        Ok(_) => Err(of_kafka),
        Err(all) => Err([all, of_kafka].concat()),
    }
}

/// Loads the plugins and checks that they fit each other and the rest of the manifest.
fn load(
    manifest: &Manifest,
    compiler: Compiler,
    history: Option<History>,
    startup: &Startup,
) -> Result<Catalog, Vec<String>> {
    let wanted = wanted(manifest)?;
    let count = wanted.len();
    let plugins = wanted.iter().enumerate().map(|(index, (name, wanted))| {
        startup.does(format!("loading plugin {name}, {} of {count}", index + 1));
        (name.as_str(), wanted.clone())
    });
    let catalog = Catalog::open_with(compiler, plugins, history)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let problems = problems(manifest, &catalog.plugins());
    if problems.is_empty() { Ok(catalog) } else { Err(problems) }
}

/// Returns what a manifest wants of each plugin. It reads the plugins' secrets.
pub(super) fn wanted(manifest: &Manifest) -> Result<BTreeMap<String, Wanted>, Vec<String>> {
    let (mut wanted, mut unread) = (BTreeMap::new(), Vec::new());
    for (name, plugin) in &manifest.plugins {
        match configuration(name, plugin) {
            Ok(configuration) => {
                let (file, sha256, limits) = (plugin.file.clone(), plugin.sha256.clone(), limits(plugin));
                let watch = WatchRule { window: Duration::from_millis(plugin.watch_ms), percent: plugin.watch_percent };
                wanted.insert(name.clone(), Wanted { file, sha256, limits, configuration, watch });
            }
            Err(problem) => unread.push(problem),
        }
    }
    if unread.is_empty() { Ok(wanted) } else { Err(unread) }
}
