//! Older code of a plugin that serves again, and the history of a plugin's code.

use super::Host;
use crate::plugin::{Choice, HeldBack, Plugin};
use crate::status::{CodeStatus, PluginHistory};
use std::collections::BTreeMap;
use std::sync::Arc;

const NO_HISTORY: &str = "this host keeps no history of its plugins";

impl Host {
    /// Returns which code of a plugin served, if the host has the plugin.
    pub fn plugin_history(&self, name: &str) -> Option<PluginHistory> {
        let catalog = &self.core.catalog;
        catalog.slot(name)?;
        let history = catalog.history()?;
        let codes = history.of(name).entries.into_iter().rev().map(|entry| CodeStatus {
            kept: history.code(name, &entry.digest).is_some(),
            digest: format!("sha256:{}", entry.digest),
            version: entry.version,
            since_ms: entry.since_ms,
            until_ms: entry.until_ms,
            ended: entry.ended,
        });
        Some(PluginHistory { codes: codes.collect(), held_back: self.held_back(name) })
    }

    /// Says why the code of a plugin's file is held back, if it is.
    pub(super) fn held_back(&self, name: &str) -> Option<String> {
        let held = self.core.catalog.history()?.of(name).held_back?;
        Some(format!("the code {} of its file: {}", &held.digest[..12], held.reason))
    }

    /// Puts older code of a plugin into service again: the one whose digest begins so, or the one before the code that serves. The code
    /// of the file is held back until the file changes. The error says why it is not done.
    pub async fn revert(self: &Arc<Self>, name: &str, digest: Option<&str>) -> Result<PluginHistory, String> {
        let (host, name) = (self.clone(), name.to_owned());
        let digest = digest.map(str::to_owned);
        let reverted = tokio::task::spawn_blocking(move || {
            host.revert_to(&name, digest.as_deref(), None, "a person reverted it")?;
            Ok(host.plugin_history(&name).unwrap_or_default())
        });
        reverted.await.map_err(|error| error.to_string())?
    }

    /// Does what [`revert`](Self::revert) does, for this reason, unless other code than `of` serves by now. This blocks.
    fn revert_to(
        &self,
        name: &str,
        digest: Option<&str>,
        of: Option<&Arc<Plugin>>,
        reason: &str,
    ) -> Result<(), String> {
        // Others would lift the hold, because other code serves yet.
        let alone = self.core.catalog.change();
        let slot = self.core.catalog.slot(name).ok_or_else(|| format!("no plugin is named {name}"))?;
        let current = slot.current();
        if of.is_some_and(|of| !Arc::ptr_eq(of, &current)) {
            return Ok(());
        }
        let serves = self.kept_code(name, digest)?;
        let history = self.core.catalog.history().ok_or(NO_HISTORY)?;
        let before = history.of(name).held_back;
        // The file has the code that serves, unless it is held back already.
        let held = match before.clone() {
            // A person wants the code of the file.
            Some(held) if held.digest == serves => None,
            Some(held) => Some(HeldBack { reason: reason.to_owned(), serves: serves.clone(), ..held }),
            None => Some(HeldBack::new(&current, reason, &serves)),
        };
        // First, so that the code does not come back if the host ends now.
        history.hold_back(name, held.clone()).map_err(|error| {
            format!(
                "the history of plugin {name} can't be written, so the code would come back at the next start: {error}"
            )
        })?;
        match self.reload_alone(&alone, &BTreeMap::from([(name, Choice::Kept(&serves))]), reason) {
            Ok(()) => {
                tracing::warn!("plugin {name} is back at the code {}: {reason}", &serves[..12]);
                // If only its settings are other ones, only these settings are held back.
                if let Some(held) = held
                    && held.code == slot.current().code_digest()
                    && let Err(error) = history.hold_back(name, Some(HeldBack { code: String::new(), ..held }))
                {
                    tracing::warn!("the history of plugin {name} can't be written: {error}");
                }
                Ok(())
            }
            Err(error) => {
                if let Err(error) = history.hold_back(name, before) {
                    tracing::error!("the history of plugin {name} can't be written: {error}");
                }
                Err(error.to_string())
            }
        }
    }

    /// Puts the code before back into service where new code has failed at too many commands.
    pub(super) async fn revert_condemned(self: &Arc<Self>) {
        for slot in self.core.catalog.slots() {
            let Some((watch, reason)) = slot.condemned() else { continue };
            tracing::error!("{reason}; the code before returns");
            let (host, name, condemned) = (self.clone(), slot.name.clone(), watch.clone());
            let why = format!("reverted: {reason}");
            let reverted = tokio::task::spawn_blocking(move || {
                let (new, old) = (condemned.new_code(), &condemned.old().digest);
                host.revert_to(&name, Some(old), Some(new), &why)
            });
            let reverted = reverted.await.unwrap_or_else(|panic| Err(panic.to_string()));
            if let Err(error) = reverted {
                tracing::error!("plugin {} keeps the code that fails: {error}", slot.name);
                slot.end_watch(&watch);
                slot.note_unreverted(format!("plugin {}: {reason}; the code before can't return: {error}", slot.name));
            }
        }
    }

    /// Returns the digest of the code to which a plugin reverts.
    fn kept_code(&self, name: &str, digest: Option<&str>) -> Result<String, String> {
        let slot = self.core.catalog.slot(name).ok_or_else(|| format!("no plugin is named {name}"))?;
        let serves = slot.current().digest.clone();
        let history = self.core.catalog.history().ok_or(NO_HISTORY)?;
        let wanted = digest.map(|digest| digest.trim_start_matches("sha256:").to_ascii_lowercase());
        let mut found = history.matching(name, wanted.as_deref().unwrap_or_default());
        // Without a digest, code that failed or that a person did not want is not put back.
        let reverted = history.reverted(name);
        found.retain(|digest| *digest != serves && (wanted.is_some() || !reverted.contains(digest)));
        let shown = "`wasmill plugins history` shows what is kept";
        match (found.as_slice(), &wanted) {
            ([], None) => {
                Err(format!("no older code of plugin {name} is kept that was not reverted: name a digest; {shown}"))
            }
            ([], Some(wanted)) if serves.starts_with(wanted.as_str()) => {
                Err(format!("the code {wanted} of plugin {name} serves already"))
            }
            ([], Some(wanted)) => Err(format!("no code {wanted} of plugin {name} is kept; {shown}")),
            ([newest, ..], None) => Ok(newest.clone()),
            ([one], Some(_)) => Ok(one.clone()),
            ([_, _, ..], Some(wanted)) => Err(format!(
                "several kept codes of plugin {name} begin with {wanted}: give more of the digest; {shown}"
            )),
        }
    }
}
