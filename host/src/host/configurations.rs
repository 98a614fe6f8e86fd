//! The settings and secrets of plugins, from the manifest and the places that it names.

use crate::manifest::Plugin as PluginSettings;
use crate::plugin::Configuration;
use crate::secret;
use std::collections::BTreeMap;

/// Reads the secrets of a plugin and returns them with its settings. The error names every secret that can't be read.
pub(super) fn configuration(name: &str, plugin: &PluginSettings) -> Result<Configuration, String> {
    let (mut secrets, mut unread) = (BTreeMap::new(), Vec::new());
    for (secret, place) in &plugin.secrets {
        match secret::value(place) {
            Ok(value) => _ = secrets.insert(secret.clone(), value),
            Err(cause) => unread.push(format!("the secret `plugins.{name}.secrets.{secret}` {cause}")),
        }
    }
    if unread.is_empty() { Ok(Configuration::new(plugin.settings.clone(), secrets)) } else { Err(unread.join("\n")) }
}
