//! The settings and secrets of plugins, from the manifest and the places that it names.

use crate::manifest::{Manifest, Plugin as PluginSettings};
use crate::paths;
use crate::plugin::{Configuration, Configurations};
use crate::secret;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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

/// The manifest as it is on disk now.
pub(super) struct FromManifest(pub(super) PathBuf);

impl Configurations for FromManifest {
    fn file(&self) -> &Path {
        &self.0
    }

    fn of(&self, plugin: &str) -> Result<Configuration, String> {
        let refused = |error: &dyn std::fmt::Display| format!("the manifest has changed and is refused: {error}");
        // A named pipe would block.
        paths::require_file(&self.0).map_err(|error| refused(&error))?;
        let manifest = Manifest::load(&self.0).map_err(|error| refused(&error))?;
        match manifest.plugins.get(plugin) {
            Some(settings) => configuration(plugin, settings),
            None => Err(format!(
                "{} no longer has plugin {plugin}, which serves until the host is restarted",
                self.0.display()
            )),
        }
    }
}
