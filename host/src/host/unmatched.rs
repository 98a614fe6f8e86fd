//! Subscriptions that no event of the loaded plugins matches. The events of an aggregate are known only once its plugin is
//! loaded.
//!
//! `wasmill check` refuses a subscription to an event that a loaded aggregate does not have, which is a misspelt name most of
//! the time. A host starts with it, because the store may have such events: an aggregate that renamed one lists its upcasts
//! under the old name, so that the name is known.

use crate::filter::Filter;
use crate::manifest::nearest;
use crate::plugin::{Plugin, Role};
use std::sync::Arc;

/// What does not match, in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unmatched {
    /// Subscriptions to events that a loaded aggregate or saga does not have.
    pub(super) unknown_events: Vec<String>,
    /// Subscriptions to events of types that no loaded plugin has.
    pub(super) unknown_types: Vec<String>,
}

pub(super) fn unmatched(plugins: &[Arc<Plugin>]) -> Unmatched {
    let recorded: Vec<(&str, Vec<&str>)> = plugins
        .iter()
        .flat_map(|plugin| plugin.recorded_events())
        .map(|(aggregate_type, events)| (&**aggregate_type, events))
        .collect();
    let mut found = Unmatched::default();
    for plugin in plugins {
        for pattern in plugin.description.roles.iter().flat_map(Role::subscriptions) {
            found.add(plugin.label(), pattern, &recorded);
        }
    }
    found
}

impl Unmatched {
    fn add(&mut self, plugin: &str, pattern: &str, recorded: &[(&str, Vec<&str>)]) {
        let filter = Filter::parse([pattern]).expect("patterns are checked when a plugin is loaded");
        let events = || recorded.iter().flat_map(|(of, events)| events.iter().map(move |event| (*of, *event)));
        if events().any(|(aggregate_type, event)| filter.matches(aggregate_type, event)) {
            return;
        }
        let names: Vec<String> = events().map(|(aggregate_type, event)| format!("{aggregate_type}.{event}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let hint = nearest(pattern, &names).map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
        let of = pattern.split('.').next().unwrap_or(pattern);
        match recorded.iter().find(|(aggregate_type, _)| *aggregate_type == of) {
            Some((aggregate_type, events)) => self.unknown_events.push(format!(
                "plugin {plugin} subscribes to `{pattern}`, and {aggregate_type} has no such event{hint}; its events are {}",
                if events.is_empty() { "not known".to_owned() } else { events.join(", ") }
            )),
            None => self.unknown_types.push(format!(
                "plugin {plugin} subscribes to `{pattern}`, and no plugin of this manifest records such events{hint}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_event_is_told_from_one_of_another_manifest() {
        let recorded = [("account", vec!["Opened", "Debited"]), ("empty", Vec::new())];
        let mut found = Unmatched::default();
        for pattern in ["account.Opened", "account.*", "*.Debited", "**"] {
            found.add("fees 1.0.0", pattern, &recorded);
        }
        assert_eq!(found, Unmatched::default());
        for pattern in ["account.Debitted", "empty.*", "acount.Opened", "order.*"] {
            found.add("fees 1.0.0", pattern, &recorded);
        }
        let unknown_events = [
            "plugin fees 1.0.0 subscribes to `account.Debitted`, and account has no such event (did you mean \
             `account.Debited`?); its events are Opened, Debited",
            "plugin fees 1.0.0 subscribes to `empty.*`, and empty has no such event; its events are not known",
        ];
        let unknown_types = [
            "plugin fees 1.0.0 subscribes to `acount.Opened`, and no plugin of this manifest records such events (did you \
             mean `account.Opened`?)",
            "plugin fees 1.0.0 subscribes to `order.*`, and no plugin of this manifest records such events",
        ];
        assert_eq!(found.unknown_events, unknown_events);
        assert_eq!(found.unknown_types, unknown_types);
    }
}
