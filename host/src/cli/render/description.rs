//! What a plugin says about itself, as text.

use crate::escape::escape;
use crate::status::{MessageDescription, PluginDescription, RoleDescription};
use std::fmt::Write as _;

pub(in crate::cli) fn description(described: &PluginDescription) -> String {
    let PluginDescription { name, plugin, version, contract, digest, roles } = described;
    let digest = super::short_digest(digest);
    let mut text =
        format!("{name}: {plugin} {version}, built for version {contract} of the contract, digest {digest}\n");
    for role in roles {
        let (title, lines) = match role {
            RoleDescription::Aggregate { aggregate_type, commands, events, state: _ } => {
                (format!("aggregate {aggregate_type}"), vec![("commands", names(commands)), ("events", names(events))])
            }
            RoleDescription::Subscriber { subscriptions, shape, endpoints } => (
                "subscriber".to_owned(),
                vec![("subscriptions", in_shape(subscriptions, shape)), ("endpoints", endpoints.join(", "))],
            ),
            RoleDescription::Saga { saga_type, starts, subscriptions, shape, endpoints, events, state: _ } => (
                format!("saga {saga_type}"),
                vec![
                    ("starts", starts.join(", ")),
                    ("subscriptions", in_shape(subscriptions, shape)),
                    ("endpoints", endpoints.join(", ")),
                    ("events", names(events)),
                ],
            ),
            RoleDescription::Projection { name, subscriptions, shape, queries } => (
                format!("projection {name}"),
                vec![("subscriptions", in_shape(subscriptions, shape)), ("queries", names(queries))],
            ),
        };
        let _ = writeln!(text, "\n{title}");
        for (what, list) in lines.iter().filter(|(_, list)| !list.is_empty()) {
            let _ = writeln!(text, "  {what}: {}", escape(list));
        }
    }
    text
}

fn names(messages: &[MessageDescription]) -> String {
    let names: Vec<&str> = messages.iter().map(|message| message.name.as_str()).collect();
    names.join(", ")
}

fn in_shape(subscriptions: &[String], shape: &str) -> String {
    let subscriptions = subscriptions.join(", ");
    if shape == "recorded" || subscriptions.is_empty() {
        subscriptions
    } else {
        format!("{subscriptions} ({shape} shape)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_is_shown_with_the_names_that_it_has() {
        let described = serde_json::from_value(serde_json::json!({
            "name": "shop", "plugin": "shop-plugin", "version": "1.2.0", "contract": "1.1.0", "digest": "sha256:0123456789abcdef",
            "roles": [
                { "role": "aggregate", "type": "order", "state": null, "events": [],
                  "commands": [{ "name": "Place", "schema": { "type": "null" } }, { "name": "Cancel", "schema": null }] },
                { "role": "subscriber", "subscriptions": ["order.*"], "shape": "newest", "endpoints": ["mail"] },
                { "role": "projection", "name": "sales", "subscriptions": ["order.*"], "shape": "recorded", "queries": [] },
            ],
        }));
        let expected = "shop: shop-plugin 1.2.0, built for version 1.1.0 of the contract, digest 0123456789ab\n\
                        \naggregate order\n  commands: Place, Cancel\n\
                        \nsubscriber\n  subscriptions: order.* (newest shape)\n  endpoints: mail\n\
                        \nprojection sales\n  subscriptions: order.*\n";
        assert_eq!(description(&described.unwrap()), expected);
    }
}
