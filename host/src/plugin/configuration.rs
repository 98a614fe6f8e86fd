//! The settings and the secrets of a plugin.
//!
//! Settings change what code does, so they belong to the code: a digest covers both, and a copy of the code carries its
//! settings in a custom section. Secrets do not belong to it, and only subscribers and sagas get them.

use super::bindings::exports::wasmill::plugin::configuration as export;
use super::guarded::Guarded;
use super::{Error, Plugin};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use wasmparser::{Parser, Payload};
use wasmtime::component::Instance;

/// The custom section of a copy that has the settings of its code.
const SECTION: &str = "wasmill:settings";

/// The settings of a plugin that has none.
const NONE: &str = "{}";

/// What an operator gives a plugin beside its code.
#[derive(Clone, PartialEq, Eq)]
pub struct Configuration {
    settings: Arc<str>,
    secrets: Arc<BTreeMap<String, String>>,
}

/// Tells the settings and secrets of plugins as they are now.
pub trait Configurations: Send + Sync {
    /// Returns the file that has them. Plugins whose settings or secrets have changed are reloaded when it changes.
    fn file(&self) -> &Path;

    /// Returns those of a plugin, or says why they can't be used.
    fn of(&self, plugin: &str) -> Result<Configuration, String>;
}

impl Configuration {
    /// Makes a configuration of settings and of secrets by name.
    pub fn new(settings: &serde_json::Map<String, serde_json::Value>, secrets: BTreeMap<String, String>) -> Self {
        let settings = serde_json::to_string(settings).expect("JSON can be written");
        Self { settings: settings.into(), secrets: secrets.into() }
    }

    /// Returns the settings as a JSON object. Equal settings are equal texts.
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// Returns the names of the secrets.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.secrets.keys().map(String::as_str)
    }

    /// Returns whether the secrets of both are the same.
    pub(super) fn has_secrets_of(&self, other: &Self) -> bool {
        self.secrets == other.secrets
    }

    /// Returns the configuration of a copy of code: the copy's own settings, and these secrets.
    pub(super) fn with_settings(&self, settings: Option<&str>) -> Self {
        Self { settings: settings.unwrap_or(NONE).into(), secrets: self.secrets.clone() }
    }

    /// Appends the settings to code.
    pub(super) fn append_to(&self, code: &[u8]) -> Vec<u8> {
        let mut bytes = code.to_owned();
        if *self.settings != *NONE {
            let mut content = leb128(SECTION.len());
            content.extend_from_slice(SECTION.as_bytes());
            content.extend_from_slice(self.settings.as_bytes());
            bytes.push(0);
            bytes.extend(leb128(content.len()));
            bytes.extend(content);
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
            guarded.refused(&format!("its interface for settings does not fit this host's contract: {error:#}"))
        })?;
        let secrets = || self.secrets.iter().map(|(name, value)| export::Secret { name, value }).collect();
        let secrets: Option<Vec<_>> = gets_secrets.then(secrets);
        let settings = self.settings.as_bytes();
        let given = guarded.call(1, |store| guest.call_configure(store, settings, secrets.as_deref()))?;
        given.map_err(|cause| {
            let section = if cause.starts_with("secrets") { "secrets" } else { "settings" };
            guarded.refused(&format!(
                "it refuses its configuration: {cause}; correct `plugins.{}.{section}` in the manifest",
                plugin.name
            ))
        })
    }

    fn not_taken(&self, plugin: &Plugin) -> Result<(), Error> {
        let given = match (*self.settings == *NONE, self.secrets.is_empty()) {
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

impl Default for Configuration {
    fn default() -> Self {
        Self { settings: NONE.into(), secrets: Arc::default() }
    }
}

/// The values of secrets are not shown.
impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.secret_names().collect();
        f.debug_struct("Configuration").field("settings", &self.settings).field("secrets", &names).finish()
    }
}

/// Separates code from the settings that a host has appended to it.
pub(super) fn separate(bytes: &[u8]) -> (&[u8], Option<&str>) {
    let appended = Parser::new(0).parse_all(bytes).map_while(Result::ok).find_map(|payload| match payload {
        Payload::CustomSection(section) if section.name() == SECTION && section.range().end == bytes.len() as u64 => {
            let content = section.range();
            let length = usize::try_from(content.end - content.start).ok()?;
            let start = bytes.len().checked_sub(length + leb128(length).len() + 1)?;
            Some((&bytes[..start], str::from_utf8(section.data()).ok()?))
        }
        _ => None,
    });
    appended.map_or((bytes, None), |(code, settings)| (code, Some(settings)))
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
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
            let configuration = Configuration::new(settings.as_object().unwrap(), BTreeMap::new());
            let bytes = configuration.append_to(code);
            assert_eq!(separate(&bytes), (code.as_slice(), Some(configuration.settings())));
        }
        assert_eq!(Configuration::default().append_to(code), code);
        assert_eq!(separate(code), (code.as_slice(), None));
        assert_eq!(separate(b"no wasm"), (b"no wasm".as_slice(), None));
    }

    #[test]
    fn debug_shows_no_value_of_a_secret() {
        let secrets = BTreeMap::from([("api_key".to_owned(), "hush".to_owned())]);
        let configuration = Configuration::new(&serde_json::Map::new(), secrets);
        assert_eq!(format!("{configuration:?}"), "Configuration { settings: \"{}\", secrets: [\"api_key\"] }");
    }
}
