//! What each plugin has, and what it may do and use, for a person who checks a manifest.

use crate::manifest::Manifest;
use crate::plugin::{MessageType, Plugin, Role};
use serde::Serialize;

/// What a plugin has, and what it may do and use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Its name in the manifest.
    pub name: String,
    /// The name and the version that its author gave it.
    pub label: String,
    /// Its roles, each with what it has, in words.
    pub roles: Vec<RoleInventory>,
    /// The endpoints to which it may send HTTP requests, because it declares them and the manifest grants them.
    pub endpoints: Vec<String>,
    /// What it may use of WASI, in words.
    pub wasi: Option<String>,
    /// The names of its settings.
    pub settings: Vec<String>,
    /// The names of its secrets.
    pub secrets: Vec<String>,
    /// The time of one input in milliseconds.
    pub event_time_ms: u64,
    /// The memory of one guest in bytes.
    pub memory_bytes_max: usize,
}

/// What a role has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RoleInventory {
    /// The role with its name, such as `aggregate order`.
    pub role: String,
    /// The commands of an aggregate.
    pub commands: Vec<String>,
    /// The events that an aggregate or a saga records or reads of itself.
    pub events: Vec<String>,
    /// The queries of a projection.
    pub queries: Vec<String>,
    /// The patterns of the events that it gets.
    pub subscriptions: Vec<String>,
}

impl Inventory {
    /// Returns what a plugin of a manifest has.
    pub(super) fn of(plugin: &Plugin, manifest: &Manifest) -> Self {
        let granted = manifest.plugins.get(&*plugin.name).map(|settings| &settings.http);
        let is_granted = |name: &str| granted.is_some_and(|granted| granted.contains_key(name));
        let endpoints = plugin.description.endpoints().map(ToString::to_string).filter(|name| is_granted(name));
        Self {
            name: plugin.name.to_string(),
            label: plugin.label().to_string(),
            roles: plugin.description.roles.iter().map(RoleInventory::of).collect(),
            endpoints: endpoints.collect(),
            wasi: plugin.wasi_in_words().map(str::to_owned),
            settings: plugin.configuration.settings().keys().cloned().collect(),
            secrets: plugin.configuration.secret_names().map(str::to_owned).collect(),
            event_time_ms: plugin.limits.event_time.as_millis() as u64,
            memory_bytes_max: plugin.limits.memory_bytes_max,
        }
    }

    /// Returns lines for a person.
    pub fn lines(&self) -> Vec<String> {
        let Self { label, roles, endpoints, wasi, settings, secrets, event_time_ms, memory_bytes_max, .. } = self;
        let names: Vec<&str> = roles.iter().map(|role| role.role.as_str()).collect();
        let mut lines = vec![format!("{label}: {}", names.join(", "))];
        for role in roles {
            let lists = [
                ("commands", &role.commands),
                ("events", &role.events),
                ("queries", &role.queries),
                ("subscribes to", &role.subscriptions),
            ];
            lines.extend(lists.into_iter().filter_map(|(what, list)| listed(what, list)));
        }
        lines.extend(listed("may send HTTP requests to", endpoints));
        lines.extend(wasi.as_ref().map(|wasi| format!("  uses of WASI {wasi}")));
        lines.extend(listed("settings", settings));
        lines.extend(listed("secrets", secrets));
        lines.push(format!(
            "  has {event_time_ms} ms for an input, and {} MiB of memory in a guest",
            memory_bytes_max >> 20
        ));
        lines
    }
}

fn listed(what: &str, list: &[String]) -> Option<String> {
    (!list.is_empty()).then(|| format!("  {what} {}", list.join(", ")))
}

impl RoleInventory {
    fn of(role: &Role) -> Self {
        let names = |types: &[MessageType]| types.iter().map(|one| one.name.clone()).collect();
        let mut found =
            Self { role: role.to_string(), subscriptions: role.subscriptions().to_vec(), ..Self::default() };
        match role {
            Role::Aggregate { commands, events, .. } => {
                (found.commands, found.events) = (names(commands), names(events));
            }
            Role::Saga { events, .. } => found.events = names(events),
            Role::Projection { queries, .. } => found.queries = names(queries),
            Role::Subscriber { .. } => {}
        }
        found
    }
}
