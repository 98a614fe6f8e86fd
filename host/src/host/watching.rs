//! The files of a host: plugins are reloaded when their files change, and a changed manifest is noted, or applied if it says so.

use super::Host;
use super::change::REPLACED;
use crate::file_watch::{FileIdentity, Watched};
use crate::manifest::Reload;
use crate::plugin::Choice;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Weak;

/// The files of a host, for the watch of files.
pub(super) struct HostFiles {
    pub(super) host: Weak<Host>,
    /// Plugins whose new files were refused together. They are tried together again when one of them has changed.
    pub(super) refused: BTreeSet<String>,
}

impl Watched for HostFiles {
    fn files(&self) -> Vec<(PathBuf, Option<FileIdentity>)> {
        let Some(host) = self.host.upgrade() else { return Vec::new() };
        let plugins = host.core.catalog.plugins();
        let of_plugins = plugins.iter().map(|plugin| (plugin.file().to_owned(), Some(plugin.file_identity())));
        let mut files: Vec<_> = of_plugins.chain([(host.parts().manifest.path.clone(), None)]).collect();
        let awaited = host.awaited_files().into_iter().filter(|file| !files.iter().any(|(other, _)| other == file));
        let awaited: Vec<_> = awaited.map(|file| (file, None)).collect();
        files.extend(awaited);
        files
    }

    fn changed(&mut self, files: BTreeSet<PathBuf>) {
        let Some(host) = self.host.upgrade() else { return };
        let plugins = host.core.catalog.plugins();
        let of_files = plugins.iter().filter(|plugin| files.contains(plugin.file()));
        let mut changed: BTreeSet<String> = of_files.map(|plugin| plugin.name.to_string()).collect();
        if changed.iter().any(|name| self.refused.contains(name)) {
            changed.append(&mut self.refused);
        }
        let names = changed.iter().map(|name| (name.as_str(), Choice::Wanted)).collect();
        let manifest = host.parts().manifest.clone();
        let differs =
            if files.contains(&manifest.path) { host.look_at_manifest() } else { host.is_manifest_unapplied() };
        // Both log an error, and keep it for the status. A manifest that is not applied yet may have waited for one of these files.
        let is_refused = if differs && manifest.reload == Reload::Auto {
            host.apply_manifest(&names, false).is_err()
        } else {
            !names.is_empty() && host.reload_plugins(&names, REPLACED).is_err()
        };
        if is_refused {
            self.refused.append(&mut changed);
        }
    }
}
