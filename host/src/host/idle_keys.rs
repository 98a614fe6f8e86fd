//! Keys of the manifest that have no effect, because their plugin lacks the role that they are for. Roles are known
//! only once a plugin is loaded.
//!
//! Such keys are reported, not refused: the host works without them, and another version of the plugin may have the
//! role. A key that is written with its default value is not detected.

use crate::manifest::{Manifest, Plugin as Settings};
use crate::plugin::{Plugin, Role};
use std::sync::Arc;

/// Returns a sentence for each such key.
pub(super) fn idle_keys(manifest: &Manifest, plugins: &[Arc<Plugin>]) -> Vec<String> {
    let place = manifest.path.display();
    let keys = plugins.iter().flat_map(|plugin| {
        let name = plugin.name.to_string();
        let idle = of_plugin(&manifest.plugins[&name], &plugin.description.roles);
        idle.into_iter().map(move |(key, role)| (name.clone(), key, role))
    });
    let sentence = |(name, key, role): (String, &str, &str)| {
        format!("{place}: `plugins.{name}.{key}` has no effect, since plugin {name} has no {role}: remove the key")
    };
    keys.map(sentence).chain(unused_endpoints(manifest, plugins)).collect()
}

/// Returns a sentence for each endpoint that a plugin does not declare.
fn unused_endpoints(manifest: &Manifest, plugins: &[Arc<Plugin>]) -> Vec<String> {
    let place = manifest.path.display();
    let of_plugin = |plugin: &Arc<Plugin>| {
        let name = plugin.name.to_string();
        let is_declared = |endpoint: &str| plugin.description.endpoints().any(|declared| **declared == *endpoint);
        let has_role =
            plugin.description.roles.iter().any(|role| matches!(role, Role::Subscriber { .. } | Role::Saga { .. }));
        let unused = manifest.plugins[&name].http.keys().filter(|endpoint| has_role && !is_declared(endpoint));
        let sentence = |endpoint: &String| {
            format!(
                "{place}: `plugins.{name}.http.{endpoint}` has no effect, since plugin {name} does not declare this endpoint: remove \
                 the section, or correct its name"
            )
        };
        unused.map(sentence).collect::<Vec<_>>()
    };
    plugins.iter().flat_map(of_plugin).collect()
}

/// Returns the keys that have no effect for these roles, each with the role that it is for.
fn of_plugin(settings: &Settings, roles: &[Role]) -> Vec<(&'static str, &'static str)> {
    let default = Settings::new("");
    let (own, usual) = (&settings.limits, &default.limits);
    let keys = [
        ("shards", "aggregate", settings.shards != default.shards),
        ("queue_max", "aggregate", settings.queue_max != default.queue_max),
        ("queue_mib", "aggregate", settings.queue_mib != default.queue_mib),
        ("in_flight_max", "aggregate", settings.in_flight_max != default.in_flight_max),
        ("attempts_max", "aggregate", settings.attempts_max != default.attempts_max),
        ("snapshot_every", "aggregate", settings.snapshot_every != default.snapshot_every),
        ("limits.live_mib", "aggregate", own.live_mib != usual.live_mib),
        ("limits.instances", "aggregate or saga", own.instances != usual.instances),
        ("limits.effects_max", "subscriber or saga", own.effects_max != usual.effects_max),
        ("http", "subscriber or saga", !settings.http.is_empty()),
        ("limits.sql_value_mib", "projection", own.sql_value_mib != usual.sql_value_mib),
        ("limits.sql_memory_mib", "projection", own.sql_memory_mib != usual.sql_memory_mib),
        ("limits.read_model_mib", "projection", own.read_model_mib != usual.read_model_mib),
    ];
    let has = |wanted: &str| roles.iter().any(|role| wanted.split(" or ").any(|wanted| name_of(role) == wanted));
    keys.into_iter().filter(|(_, role, is_set)| *is_set && !has(role)).map(|(key, role, _)| (key, role)).collect()
}

fn name_of(role: &Role) -> &'static str {
    match role {
        Role::Aggregate { .. } => "aggregate",
        Role::Subscriber { .. } => "subscriber",
        Role::Projection { .. } => "projection",
        Role::Saga { .. } => "saga",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Name;
    use crate::upcasts::Shape;

    #[test]
    fn a_key_has_an_effect_where_its_role_is() {
        let text = "[plugins.p]\nfile = 'p'\nshards = 2\nqueue_max = 3\nqueue_mib = 4\nin_flight_max = 5\nattempts_max = 6\n\
                    snapshot_every = 7\n[plugins.p.limits]\nevent_time_ms = 8\nmemory_mib = 9\nlive_mib = 8\noutput_mib = 9\n\
                    table_elements = 10\ninstances = 11\neffects_max = 12\nsql_value_mib = 13\nsql_memory_mib = 14\n\
                    read_model_mib = 15\n[plugins.p.http.e]\nurl = 'https://e'";
        let manifest = Manifest::parse(text, "m.toml".as_ref()).unwrap();
        let idle = |roles: &[Role]| of_plugin(&manifest.plugins["p"], roles).len();
        let aggregate = Role::Aggregate {
            aggregate_type: Name::parse("order").unwrap(),
            commands: Vec::new(),
            events: Vec::new(),
            state: None,
        };
        let subscriber = Role::Subscriber { subscriptions: Vec::new(), shape: Shape::Recorded, endpoints: Vec::new() };
        let (name, shape) = (Name::parse("sales").unwrap(), Shape::Recorded);
        let projection = Role::Projection { name, subscriptions: Vec::new(), shape, queries: Vec::new() };
        for (roles, expected) in [
            (vec![aggregate.clone()], 2 + 3),
            (vec![subscriber.clone()], 8 + 3),
            (vec![projection.clone()], 8 + 2),
            (vec![aggregate, subscriber, projection], 0),
        ] {
            assert_eq!(idle(&roles), expected, "{roles:?}");
        }
        assert_eq!(of_plugin(&Settings::new("p"), &[]), []);
    }
}
