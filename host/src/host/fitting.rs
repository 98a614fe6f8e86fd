//! Checks that the plugins fit each other and the rest of the manifest, before anything is started.

use crate::http::not_granted;
use crate::manifest::{Brokers, Commands, Deliveries, Kafka, Manifest, Schedule, Target, Transaction};
use crate::model::IdRule;
use crate::names::Name;
use crate::plugin::{Plugin, Role};
use std::sync::Arc;

/// Returns a sentence for each thing that does not fit.
pub(super) fn problems(manifest: &Manifest, plugins: &[Arc<Plugin>]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut served: Vec<(Name, Arc<Plugin>)> = Vec::new();
    let mut sagas: Vec<(Name, Arc<Plugin>)> = Vec::new();
    let mut projections: Vec<(Name, String)> = Vec::new();
    for plugin in plugins {
        for role in plugin.description.roles.clone() {
            match role {
                Role::Aggregate { aggregate_type, .. } => served.push((aggregate_type, plugin.clone())),
                Role::Saga { aggregate_type, .. } => sagas.push((aggregate_type, plugin.clone())),
                Role::Projection { name, .. } => match projections.iter().find(|(other, _)| *other == name) {
                    Some((_, other)) => problems.push(format!(
                        "plugins {other} and {} both have a projection {name}: remove one of them from the manifest",
                        plugin.name
                    )),
                    None => projections.push((name, plugin.name.to_string())),
                },
                Role::Subscriber { .. } => {}
            }
        }
    }
    problems.extend(doubled(&served, &sagas));
    problems.extend(ungranted(manifest, plugins));
    let place = manifest.path.display();
    for (name, source) in &manifest.sources {
        let of_source: Vec<String> = match &source.target {
            Target::Commands(commands) => source_problems(name, commands, &served),
            Target::Deliveries(deliveries) => {
                let transaction = transaction_problem(name, deliveries, manifest.kafka.as_ref());
                transaction.into_iter().chain(delivery_problem(name, &deliveries.subscriber, plugins)).collect()
            }
        };
        problems.extend(of_source.into_iter().map(|problem| format!("{place}: {problem}")));
    }
    for (name, schedule) in &manifest.schedules {
        let of_schedule = schedule_problems(name, schedule, manifest.store.id_bytes_max, &served);
        problems.extend(of_schedule.into_iter().map(|problem| format!("{place}: {problem}")));
    }
    for name in manifest.subscriptions.keys() {
        if !plugins.iter().any(|plugin| &*plugin.name == name && has_subscription(plugin)) {
            problems.push(format!("{place}: `subscriptions.{name}` names no plugin that is a subscriber or has sagas"));
        }
    }
    for name in
        manifest.projections.keys().filter(|name| !projections.iter().any(|(projection, _)| **projection == ***name))
    {
        problems.push(format!("{place}: `projections.{name}` names no projection of any plugin"));
    }
    problems
}

/// Returns what is wrong with a source whose commands no aggregate would take. Names that come from the records are not
/// known yet; a record with a wrong one is dead-lettered later.
fn source_problems(source: &str, commands: &Commands, served: &[(Name, Arc<Plugin>)]) -> Vec<String> {
    let Some(aggregate) = commands.aggregate.fixed() else { return Vec::new() };
    let named = [("command", commands.command.fixed()), ("tombstone", commands.tombstone.as_deref())];
    let named: Vec<_> = named.into_iter().filter_map(|(key, name)| Some((key, name?))).collect();
    command_problems(&format!("sources.{source}"), aggregate, &named, served)
}

/// Returns what is wrong with a schedule whose command no aggregate would take.
fn schedule_problems(
    name: &str,
    schedule: &Schedule,
    id_bytes_max: usize,
    served: &[(Name, Arc<Plugin>)],
) -> Vec<String> {
    let section = format!("schedules.{name}");
    let ids = IdRule { bytes_max: id_bytes_max };
    let of_id = ids.check("aggregate id", &schedule.stream.aggregate_id);
    let of_id = of_id.err().map(|cause| format!("`{section}.id`: {cause}"));
    let named = [("command", schedule.command.as_str())];
    let of_command = command_problems(&section, &schedule.stream.aggregate_type, &named, served);
    of_command.into_iter().chain(of_id).collect()
}

/// Returns what is wrong with a section that names commands of an aggregate. `commands` has them by their keys.
fn command_problems(
    section: &str,
    aggregate: &str,
    commands: &[(&str, &str)],
    served: &[(Name, Arc<Plugin>)],
) -> Vec<String> {
    let Some((aggregate_type, plugin)) = served.iter().find(|(aggregate_type, _)| **aggregate_type == *aggregate)
    else {
        return vec![format!("`{section}.aggregate`: no plugin serves aggregate type {aggregate}")];
    };
    let known = plugin.description.roles.iter().find_map(|role| match role {
        Role::Aggregate { aggregate_type: own, commands, .. } if own == aggregate_type => Some(commands),
        _ => None,
    });
    let known: Vec<&str> = known.into_iter().flatten().map(|command| command.name.as_str()).collect();
    let unknown = commands.iter().filter(|(_, name)| !known.contains(name));
    let problem = |(key, name): &(&str, &str)| {
        format!("`{section}.{key}`: aggregate {aggregate} has no command {name}; it has {}", known.join(", "))
    };
    unknown.map(problem).collect()
}

/// Returns what is wrong with a source that uses Kafka transactions although the development broker has none.
fn transaction_problem(source: &str, deliveries: &Deliveries, kafka: Option<&Kafka>) -> Option<String> {
    let is_embedded = kafka.is_some_and(|kafka| kafka.brokers == Brokers::Embedded);
    (is_embedded && deliveries.transaction == Transaction::Kafka).then(|| {
        format!(
            "`sources.{source}.transaction` is \"kafka\", and the development broker has no transactions: name a \
             cluster in `kafka.brokers`, or use \"store\""
        )
    })
}

/// Returns what is wrong with a source whose records no subscriber would take.
fn delivery_problem(source: &str, subscriber: &str, plugins: &[Arc<Plugin>]) -> Option<String> {
    let names: Vec<&str> = plugins.iter().filter(|plugin| is_subscriber(plugin)).map(|plugin| &*plugin.name).collect();
    if names.contains(&subscriber) {
        return None;
    }
    let known = if names.is_empty() { "no plugin is one".into() } else { format!("there are {}", names.join(", ")) };
    Some(format!("`sources.{source}.subscriber`: no plugin {subscriber} that is a subscriber; {known}"))
}

/// Returns a sentence for each endpoint that a plugin uses and the manifest does not grant.
fn ungranted(manifest: &Manifest, plugins: &[Arc<Plugin>]) -> Vec<String> {
    let place = manifest.path.display();
    let of_plugin = |plugin: &Arc<Plugin>| {
        let granted = &manifest.plugins[&*plugin.name].http;
        let missing = plugin.description.endpoints().filter(|endpoint| !granted.contains_key(&***endpoint));
        missing.map(|endpoint| format!("{place}: {}", not_granted(&plugin.name, endpoint))).collect::<Vec<_>>()
    };
    plugins.iter().flat_map(of_plugin).collect()
}

/// Returns a sentence for each aggregate type that has two owners. A saga owns the type of its streams.
fn doubled(aggregates: &[(Name, Arc<Plugin>)], sagas: &[(Name, Arc<Plugin>)]) -> Vec<String> {
    let of = |does: &'static str, owners: &[(Name, Arc<Plugin>)]| {
        owners.iter().map(|(name, plugin)| (name.clone(), plugin.name.clone(), does)).collect::<Vec<_>>()
    };
    let owners = [of("serves", aggregates), of("has sagas of", sagas)].concat();
    let mut problems = Vec::new();
    for (index, (name, plugin, does)) in owners.iter().enumerate() {
        if let Some((_, other, other_does)) = owners[..index].iter().find(|(other, ..)| other == name) {
            problems.push(format!(
                "plugin {other} {other_does} aggregate type {name}, and plugin {plugin} {does} it too: remove one of them from \
                 the manifest"
            ));
        }
    }
    problems
}

/// Returns whether a plugin has a subscription: it is a subscriber or has sagas.
pub(super) fn has_subscription(plugin: &Plugin) -> bool {
    plugin.description.roles.iter().any(|role| matches!(role, Role::Subscriber { .. } | Role::Saga { .. }))
}

/// Returns whether a plugin has the role of a subscriber.
fn is_subscriber(plugin: &Plugin) -> bool {
    plugin.description.roles.iter().any(|role| matches!(role, Role::Subscriber { .. }))
}
