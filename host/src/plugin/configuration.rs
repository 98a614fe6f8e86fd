//! The settings and the secrets of a plugin.
//!
//! Settings change what code does, so they belong to the code: a digest covers both, and a copy of the code carries its
//! settings in a custom section. Secrets do not belong to it, and only subscribers and sagas get them.

use super::bindings::exports::wasmill::plugin::configuration as export;
use super::guarded::Guarded;
use super::{Error, Plugin, guest_text};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use wasm_encoder::{CustomSection, Section as _};
use wasmparser::{Parser, Payload};
use wasmtime::component::Instance;

/// The custom section of a copy that has the settings of its code.
const SECTION: &str = "wasmill:settings";

/// The settings of a plugin, a JSON object.
pub type Settings = serde_json::Map<String, serde_json::Value>;

/// What an operator gives a plugin beside its code.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    settings: Arc<Settings>,
    secrets: Arc<BTreeMap<String, String>>,
}

impl Configuration {
    /// Makes a configuration of settings and of secrets by name.
    pub fn new(settings: Settings, secrets: BTreeMap<String, String>) -> Self {
        Self { settings: settings.into(), secrets: secrets.into() }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the settings as the text of a JSON object. Equal settings are equal texts.
    fn text(&self) -> String {
        serde_json::to_string(&*self.settings).expect("JSON can be written")
    }

    /// Returns the names of the secrets.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.secrets.keys().map(String::as_str)
    }

    /// Returns the configuration of a copy of code: the copy's own settings, and these secrets.
    pub(super) fn with_settings(&self, settings: Settings) -> Self {
        Self { settings: settings.into(), secrets: self.secrets.clone() }
    }

    /// Appends the settings to code.
    pub(super) fn append_to(&self, code: &[u8]) -> Vec<u8> {
        let mut bytes = code.to_owned();
        if !self.settings.is_empty() {
            bytes.extend(section(&self.text()));
        }
        bytes
    }

    /// Gives them to an instance of a plugin.
    pub(super) fn give(
        &self,
        plugin: &Plugin,
        guarded: &mut Guarded,
        instance: &Instance,
        gets_secrets: bool,
    ) -> Result<(), Error> {
        let Ok(indices) = export::GuestIndices::new(&plugin.pre) else { return self.not_taken(plugin) };
        let guest = indices.load(&mut guarded.store, instance).map_err(|error| {
            let cause = guest_text::of_library(&format_args!("{error:#}"));
            guarded.refused(&format!(
                "its interface for settings is not as the contract has it: {cause}; docs/languages.md says what to export"
            ))
        })?;
        let secrets = || self.secrets.iter().map(|(name, value)| export::Secret { name, value }).collect();
        let secrets: Option<Vec<_>> = gets_secrets.then(secrets);
        let settings = self.text();
        let given = guarded
            .call("configure", 1, |store| guest.call_configure(store, settings.as_bytes(), secrets.as_deref()))?;
        given.map_err(|cause| {
            let section = if cause.starts_with("secrets") { "secrets" } else { "settings" };
            guarded.refused(&format!(
                "it refuses its configuration: {}; correct `plugins.{}.{section}` in the manifest",
                guest_text::reason_line(&cause),
                plugin.name
            ))
        })
    }

    fn not_taken(&self, plugin: &Plugin) -> Result<(), Error> {
        let given = match (self.settings.is_empty(), self.secrets.is_empty()) {
            (true, true) => return Ok(()),
            (false, _) => "settings",
            (true, false) => "secrets",
        };
        Err(Error::Plugin(format!(
            "plugin {} takes no {given}: remove `plugins.{}.{given}` from the manifest, or call export_settings! in the plugin",
            plugin.label, plugin.name
        )))
    }
}

/// The values of secrets are not shown.
impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.secret_names().collect();
        f.debug_struct("Configuration").field("settings", &self.text()).field("secrets", &names).finish()
    }
}

/// Separates code from the settings that a host has appended to it, if there are any.
pub(super) fn separate(bytes: &[u8]) -> (&[u8], Settings) {
    let appended = Parser::new(0).parse_all(bytes).map_while(Result::ok).find_map(|payload| match payload {
        Payload::CustomSection(found) if found.name() == SECTION => {
            let text = str::from_utf8(found.data()).ok()?;
            Some((bytes.strip_suffix(section(text).as_slice())?, serde_json::from_str(text).ok()?))
        }
        _ => None,
    });
    appended.unwrap_or((bytes, Settings::new()))
}

/// Returns the custom section that has these settings.
fn section(settings: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    CustomSection { name: SECTION.into(), data: settings.as_bytes().into() }.append_to(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn code_and_its_settings_can_be_separated() {
        let code = b"\0asm\x01\0\0\0\0\x05\x04name";
        for length in [1, 100, 200, 20_000] {
            let settings = json!({ "text": "x".repeat(length) });
            let configuration = Configuration::new(settings.as_object().unwrap().clone(), BTreeMap::new());
            let bytes = configuration.append_to(code);
            assert_eq!(separate(&bytes), (code.as_slice(), configuration.settings().clone()));
        }
        assert_eq!(Configuration::default().append_to(code), code);
        assert_eq!(separate(code), (code.as_slice(), Settings::new()));
        assert_eq!(separate(b"no wasm"), (b"no wasm".as_slice(), Settings::new()));
    }

    #[test]
    fn debug_shows_no_value_of_a_secret() {
        let secrets = BTreeMap::from([("api_key".to_owned(), "hush".to_owned())]);
        let configuration = Configuration::new(Settings::new(), secrets);
        assert_eq!(format!("{configuration:?}"), "Configuration { settings: \"{}\", secrets: [\"api_key\"] }");
    }
}
