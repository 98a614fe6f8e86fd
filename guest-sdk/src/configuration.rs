//! The settings and the secrets that an operator gives a plugin in the manifest.
//!
//! A setting is a threshold, a price, an address: a value that differs between installations and does not belong into the
//! code. The types that [`export_settings!`](crate::export_settings) names say what a plugin takes. The host decodes the
//! settings when it loads the plugin, so a wrong or unknown one is refused there, and not found by the first command.
//!
//! ```
//! use wasmill_guest::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Rules {
//!     overdraft_cents_max: u64,
//!     #[serde(default)]
//!     is_closed_on_sundays: bool,
//! }
//!
//! #[derive(Deserialize)]
//! struct Keys {
//!     signing_key: Secret,
//! }
//!
//! wasmill_guest::export_settings!(Rules, secrets = Keys);
//! ```
//!
//! ```toml
//! [plugins.accounts.settings]
//! overdraft_cents_max = 50_000
//!
//! [plugins.accounts.secrets]
//! signing_key = { env = "SIGNING_KEY" }    # or { file = "signing-key" }
//! ```
//!
//! The code of every role reads them with [`settings`], and the code of a subscriber or a saga with [`secrets`]. A secret that
//! only goes into a header of HTTP requests is better a secret of the endpoint, which the plugin never gets: see
//! [`Request::bearer_secret`](crate::subscriber::Request::bearer_secret).
//!
//! A changed setting is a changed rule: it counts as new code, so a read model is rebuilt and live aggregates are built
//! again from their history. Recorded events stay as they are. Therefore `apply` and `project` should use settings with
//! care: they see the history with today's settings.

use crate::codec;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::any::{Any, type_name};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// Returns the settings of the plugin, of the type that [`export_settings!`](crate::export_settings) names. They are
/// constant while a guest lives.
///
/// In a native test they are those of [`testing::settings`](crate::testing::settings), or else the defaults of `S`.
///
/// # Panics
/// If the plugin exports settings of another type; in a native test, if there are no settings and a field of `S` has no
/// default.
pub fn settings<S: DeserializeOwned + 'static>() -> Rc<S> {
    SETTINGS.with(|slot| {
        current(slot, "settings", "a test gives them with `testing::settings` or `Plugins::with_settings`")
    })
}

/// Returns the secrets of the plugin, of the type that [`export_settings!`](crate::export_settings) names.
///
/// # Panics
/// If the role is an aggregate or a projection: they get no secrets. Otherwise as [`settings`]; a native test gives them
/// with [`testing::secrets`](crate::testing::secrets).
pub fn secrets<K: DeserializeOwned + 'static>() -> Rc<K> {
    let hint = "only subscribers and sagas get secrets, and a test gives them with `testing::secrets` or `Plugins::with_secrets`";
    SECRETS.with(|slot| current(slot, "secrets", hint))
}

/// A text that nobody should see. It is not serializable and `Debug` does not show it, so that it does not get into an event
/// or the log by accident.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Makes a secret, for tests.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text. Do not record, publish or log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The settings of a plugin that takes none.
#[doc(hidden)]
#[derive(Deserialize)]
pub struct Nothing {}

thread_local! {
    static SETTINGS: Slot = const { RefCell::new(None) };
    static SECRETS: Slot = const { RefCell::new(None) };
}

type Slot = RefCell<Option<Kept>>;

/// What was given: JSON until it is read for the first time, and then a value.
#[derive(Clone)]
pub(crate) enum Kept {
    #[cfg_attr(
        target_family = "wasm",
        allow(dead_code, reason = "the host's JSON is decoded at once; a test's is kept")
    )]
    Json(Vec<u8>),
    Value(Rc<dyn Any>, &'static str),
}

impl Kept {
    pub(crate) fn value<T: 'static>(value: T) -> Self {
        Self::Value(Rc::new(value), type_name::<T>())
    }
}

fn current<T: DeserializeOwned + 'static>(slot: &Slot, what: &str, hint: &str) -> Rc<T> {
    let given = slot.borrow().clone();
    let (value, kept) = match given {
        Some(Kept::Value(value, kept)) => (value, kept),
        other => {
            let json = if let Some(Kept::Json(json)) = &other { json.as_slice() } else { b"{}" };
            let decoded =
                decode::<T>(json).unwrap_or_else(|error| panic!("the {what} do not decode ({error}): {hint}"));
            let decoded = Rc::new(decoded);
            slot.replace(Some(Kept::Value(decoded.clone(), type_name::<T>())));
            return decoded;
        }
    };
    value.downcast().unwrap_or_else(|_| {
        let asked = type_name::<T>();
        panic!("the plugin's {what} are of the type {kept}, which `export_settings!` or the test names, not {asked}")
    })
}

/// Decodes a JSON object and refuses fields that the type does not have.
fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    let mut unknown = Vec::new();
    let decoded = codec::json_noting(json, |path| unknown.push(path));
    let unknown = unknown.join("`, `");
    match decoded {
        Ok(decoded) if unknown.is_empty() => Ok(decoded),
        Ok(_) => Err(format!("unknown: `{unknown}`")),
        Err(error) if unknown.is_empty() => Err(placed(error)),
        // It may be the misspelt name of what is missing.
        Err(error) => Err(format!("{}, and unknown: `{unknown}`", placed(error))),
    }
}

/// Returns the text of an error with its place in the object. Line and column are those of JSON that nobody wrote.
fn placed(error: codec::Error) -> String {
    match error {
        codec::Error::Json { path, cause, .. } => {
            let said = cause.to_string();
            let place = format!(" at line {} column {}", cause.line(), cause.column());
            let said = said.strip_suffix(&place).unwrap_or(&said);
            if path.is_empty() { said.to_owned() } else { format!("`{path}`: {said}") }
        }
        other => other.to_string(),
    }
}

/// Keeps what the host gives a guest, if it decodes as the plugin's types.
pub(crate) fn configure<S, K>(settings: &[u8], secrets: Option<Vec<(String, String)>>) -> Result<(), String>
where
    S: DeserializeOwned + 'static,
    K: DeserializeOwned + 'static,
{
    let settings: S = decode(settings).map_err(|cause| format!("settings: {cause}"))?;
    SETTINGS.with(|slot| slot.replace(Some(Kept::value(settings))));
    if let Some(secrets) = secrets {
        let secrets: K = decode_secrets(secrets).map_err(|cause| format!("secrets: {cause}"))?;
        SECRETS.with(|slot| slot.replace(Some(Kept::value(secrets))));
    }
    Ok(())
}

/// Decodes secrets. No error has a value of them.
fn decode_secrets<K: DeserializeOwned>(secrets: Vec<(String, String)>) -> Result<K, String> {
    let object: serde_json::Map<String, serde_json::Value> =
        secrets.into_iter().map(|(name, value)| (name, value.into())).collect();
    let json = serde_json::to_vec(&object).expect("texts are JSON");
    decode(&json).map_err(|error| {
        let is_harmless = error.starts_with("missing field") || error.starts_with("unknown: ");
        if is_harmless { error } else { "they do not fit their type: make each field a `Secret`".to_owned() }
    })
}

/// Settings or secrets of a native test, in force until this is dropped.
#[cfg(not(target_family = "wasm"))]
#[must_use = "they are in force until this is dropped"]
pub struct InForce {
    slot: &'static std::thread::LocalKey<Slot>,
    before: Option<Kept>,
}

#[cfg(not(target_family = "wasm"))]
impl InForce {
    pub(crate) fn settings(given: Kept) -> Self {
        Self::new(&SETTINGS, given)
    }

    pub(crate) fn secrets(given: Kept) -> Self {
        Self::new(&SECRETS, given)
    }

    fn new(slot: &'static std::thread::LocalKey<Slot>, given: Kept) -> Self {
        Self { slot, before: slot.with(|slot| slot.replace(Some(given))) }
    }
}

#[cfg(not(target_family = "wasm"))]
impl Drop for InForce {
    fn drop(&mut self) {
        self.slot.with(|slot| slot.replace(self.before.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Rules {
        cents_max: u64,
        #[serde(default)]
        shops: Vec<Shop>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Shop {
        name: String,
    }

    #[derive(Debug, Deserialize)]
    struct Keys {
        api_key: Secret,
    }

    fn pairs(pairs: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_guest_keeps_what_the_host_gives_it() {
        let configured = configure::<Rules, Keys>(br#"{"cents_max":7}"#, pairs(&[("api_key", "hush")]));
        assert_eq!(configured, Ok(()));
        assert_eq!(*settings::<Rules>(), Rules { cents_max: 7, shops: Vec::new() });
        assert_eq!(secrets::<Keys>().api_key.expose(), "hush");
        assert_eq!(format!("{:?}", secrets::<Keys>()), "Keys { api_key: Secret(…) }");
    }

    #[test]
    fn what_does_not_fit_is_named_and_secrets_are_not_shown() {
        #[derive(Debug, Deserialize)]
        struct Numbers {
            #[allow(dead_code, reason = "it never decodes")]
            api_key: u32,
        }
        let refused = |json: &str| configure::<Rules, Keys>(json.as_bytes(), None).unwrap_err();
        assert_eq!(refused("{}"), "settings: missing field `cents_max`");
        assert_eq!(refused(r#"{"cents_max":"7"}"#), "settings: `cents_max`: invalid type: string \"7\", expected u64");
        assert_eq!(refused(r#"{"cents_max":7,"cent_max":7}"#), "settings: unknown: `cent_max`");
        assert_eq!(refused(r#"{"cent_max":7}"#), "settings: missing field `cents_max`, and unknown: `cent_max`");
        let nested = r#"{"cents_max":7,"shops":[{"name":"a","nam":"b"}]}"#;
        assert_eq!(refused(nested), "settings: unknown: `shops[0].nam`");
        let refused = |secrets| configure::<Nothing, Keys>(b"{}", pairs(secrets)).unwrap_err();
        assert_eq!(refused(&[]), "secrets: missing field `api_key`");
        assert_eq!(refused(&[("api_key", "hush"), ("api", "hush")]), "secrets: unknown: `api`");
        assert_eq!(refused(&[("api", "hush")]), "secrets: missing field `api_key`, and unknown: `api`");
        let wrong = configure::<Nothing, Numbers>(b"{}", pairs(&[("api_key", "hush")])).unwrap_err();
        assert!(wrong.contains("`Secret`") && !wrong.contains("hush"), "{wrong}");
    }

    #[test]
    fn a_test_has_settings_for_as_long_as_it_keeps_them() {
        let outer = testing::settings(Rules { cents_max: 1, shops: Vec::new() });
        {
            let _inner = testing::settings(Rules { cents_max: 2, shops: Vec::new() });
            assert_eq!(settings::<Rules>().cents_max, 2);
        }
        assert_eq!(settings::<Rules>().cents_max, 1);
        drop(outer);
        let unset = std::panic::catch_unwind(settings::<Rules>).unwrap_err();
        let unset = unset.downcast_ref::<String>().unwrap();
        assert!(unset.contains("missing field `cents_max`") && unset.contains("`testing::settings`"), "{unset}");
        let _other = testing::settings(7_u32);
        let other = std::panic::catch_unwind(settings::<Rules>).unwrap_err();
        assert!(other.downcast_ref::<String>().unwrap().contains("of the type u32"), "{other:?}");
        let none = std::panic::catch_unwind(secrets::<Keys>).unwrap_err();
        assert!(none.downcast_ref::<String>().unwrap().contains("only subscribers and sagas"));
    }
}
