//! Code that a host is started with, and that has never served: it is tried as new code of a running host is.

use super::canary;
use super::fitting::problems;
use super::startup::Startup;
use crate::manifest::{ChangedState, Manifest};
use crate::plugin::{Catalog, Plugin, Slot};
use crate::store::EventStore;
use std::sync::Arc;
use std::time::Duration;

/// Has code that differs from what served last replay recent histories, before anything starts. Code that is refused is held back,
/// and the code before serves. Other new code is watched for a while.
pub(super) fn have_replayed(
    catalog: &Catalog,
    manifest: &Manifest,
    store: &dyn EventStore,
    now_ms: u64,
    startup: &Startup,
) {
    for slot in catalog.slots() {
        if let Some(old) = catalog.served_last(&slot) {
            startup.does(format!("trying the new code of plugin {}", slot.name));
            try_one(catalog, manifest, store, &slot, old);
        } else if let Some((old, rest_ms)) = catalog.unwatched(&slot, now_ms) {
            // Code that fails may have ended the host.
            catalog.change().watch_against(&slot, old, Some(Duration::from_millis(rest_ms)));
        }
    }
}

fn try_one(catalog: &Catalog, manifest: &Manifest, store: &dyn EventStore, slot: &Slot, old: Arc<Plugin>) {
    let new = slot.current();
    let alone = catalog.change();
    let Some(reason) = refused(manifest, store, &old, &new) else { return alone.watch_against(slot, old, None) };
    let fits = || {
        let plugins = catalog.plugins().into_iter();
        let with_old = plugins.map(|plugin| if plugin.name == old.name { old.clone() } else { plugin });
        problems(manifest, &with_old.collect::<Vec<_>>())
    };
    let in_the_way = match fits() {
        problems if problems.is_empty() => alone.hold_back(slot, &old, &reason).err().map(|error| error.to_string()),
        problems => Some(problems.join("; ")),
    };
    match in_the_way {
        None => tracing::error!(
            "the new code of plugin {} is refused, and the code before serves: {reason}; `wasmill plugins reload {} --force` takes \
             it all the same",
            new.label(),
            slot.name
        ),
        Some(cause) => {
            let cause = format!("{reason}; the code before can't serve: {cause}");
            tracing::error!("the new code of plugin {} serves, although it should not: {cause}", new.label());
            slot.note_unreverted(format!("plugin {}: {cause}", slot.name));
        }
    }
}

/// Returns why new code must not serve, if that is so.
fn refused(manifest: &Manifest, store: &dyn EventStore, old: &Plugin, new: &Plugin) -> Option<String> {
    let roles = |plugin: &Plugin| plugin.description.roles.iter().map(ToString::to_string).collect::<Vec<_>>();
    let new_roles = roles(new);
    if let Some(lost) = roles(old).into_iter().find(|role| !new_roles.contains(role)) {
        return Some(format!("it does not have the role {lost} any more"));
    }
    let found = match canary::replay(store, old, new) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("the new code of plugin {} replays no history: {error}", new.name);
            return None;
        }
    };
    let settings = manifest.plugins.get(&*new.name);
    let refuses = settings.is_some_and(|settings| settings.changed_state == ChangedState::Refuse);
    let other_state = || found.differences.first().map(|first| format!("it makes another state of {first}"));
    found.refused.or_else(|| other_state().filter(|_| refuses))
}
