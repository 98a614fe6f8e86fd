//! Code that a host is started with, and that has never served: it is tried as new code of a running host is.

use super::canary;
use super::fitting::problems;
use super::startup::Startup;
use crate::manifest::Manifest;
use crate::plugin::{Catalog, Plugin, Slot};
use crate::store::EventStore;
use std::sync::Arc;

/// Has code that differs from what served last replay recent histories, before anything starts. Code that is refused is held back,
/// and the code before serves. Other new code is watched for a while.
pub(super) fn have_replayed(catalog: &Catalog, manifest: &Manifest, store: &dyn EventStore, startup: &Startup) {
    for slot in catalog.slots() {
        if let Some(old) = catalog.served_last(&slot) {
            startup.does(format!("trying the new code of plugin {}", slot.name));
            try_one(catalog, manifest, store, &slot, old);
        }
    }
}

fn try_one(catalog: &Catalog, manifest: &Manifest, store: &dyn EventStore, slot: &Slot, old: Arc<Plugin>) {
    let new = slot.current();
    let reason = match canary::replay(store, &old, &new) {
        Ok(found) => found.refused,
        Err(error) => {
            tracing::warn!("the new code of plugin {} replays no history: {error}", slot.name);
            None
        }
    };
    let alone = catalog.change();
    let Some(reason) = reason else { return alone.watch_against(slot, old) };
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
