//! What the loaded plugins say about themselves, for the API.

use super::Host;
use crate::plugin::{MessageType, Plugin, Role};
use crate::status::{MessageDescription, PluginDescription, RoleDescription};
use crate::upcasts::Shape;

impl Host {
    /// Returns what the code of a plugin that serves now says about itself, if the host has the plugin.
    pub fn description(&self, name: &str) -> Option<PluginDescription> {
        Some(described(&self.core.catalog.slot(name)?.current()))
    }

    /// Returns what the code of all plugins that serves now says about itself, ordered by the names of the plugins.
    pub fn descriptions(&self) -> Vec<PluginDescription> {
        self.core.catalog.slots().map(|slot| described(&slot.current())).collect()
    }

    /// Returns the digests of the code of all plugins that serves now, each after the name of its plugin and in this order.
    pub fn digests(&self) -> Vec<String> {
        let digest = |plugin: &Plugin| format!("{} {}", plugin.name, plugin.digest);
        self.core.catalog.slots().map(|slot| digest(&slot.current())).collect()
    }
}

fn described(plugin: &Plugin) -> PluginDescription {
    let description = &plugin.description;
    PluginDescription {
        name: plugin.name.to_string(),
        plugin: description.plugin.clone(),
        version: description.version.clone(),
        contract: description.api_version.to_string(),
        digest: format!("sha256:{}", plugin.digest),
        roles: description.roles.iter().map(role).collect(),
    }
}

fn role(role: &Role) -> RoleDescription {
    match role {
        Role::Aggregate { aggregate_type, commands, events, state } => RoleDescription::Aggregate {
            aggregate_type: aggregate_type.to_string(),
            commands: messages(commands),
            events: messages(events),
            state: state.clone(),
        },
        Role::Subscriber { subscriptions, shape, endpoints } => RoleDescription::Subscriber {
            subscriptions: subscriptions.clone(),
            shape: in_words(*shape),
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
        },
        Role::Saga { aggregate_type, starts, subscriptions, shape, endpoints, events, state } => {
            RoleDescription::Saga {
                saga_type: aggregate_type.to_string(),
                starts: starts.clone(),
                subscriptions: subscriptions.clone(),
                shape: in_words(*shape),
                endpoints: endpoints.iter().map(ToString::to_string).collect(),
                events: messages(events),
                state: state.clone(),
            }
        }
        Role::Projection { name, subscriptions, shape, queries } => RoleDescription::Projection {
            name: name.to_string(),
            subscriptions: subscriptions.clone(),
            shape: in_words(*shape),
            queries: messages(queries),
        },
    }
}

fn messages(messages: &[MessageType]) -> Vec<MessageDescription> {
    let described =
        |message: &MessageType| MessageDescription { name: message.name.clone(), schema: message.schema.clone() };
    messages.iter().map(described).collect()
}

fn in_words(shape: Shape) -> String {
    match shape {
        Shape::Recorded => "recorded",
        Shape::Newest => "newest",
    }
    .to_owned()
}
