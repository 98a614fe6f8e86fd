//! Properties of librdkafka's clients, and the login by token. Their values may be secrets.
//!
//! A value is in the manifest, in an environment variable or in a file. A variable or file is read only when a client
//! is made. `Debug` never shows a value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Properties by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, Value>);

/// The place of a property's value.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// The manifest, with this text.
    Text(String),
    /// This environment variable.
    Env(String),
    /// This file. The last line end is not a part of the value.
    File(PathBuf),
}

impl Properties {
    /// Returns all properties, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Returns whether a property is set.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Sets a property.
    pub fn set(&mut self, name: impl Into<String>, value: Value) {
        self.0.insert(name.into(), value);
    }
}

impl From<BTreeMap<String, String>> for Properties {
    fn from(properties: BTreeMap<String, String>) -> Self {
        Self(properties.into_iter().map(|(name, value)| (name, Value::Text(value))).collect())
    }
}

/// Values in the manifest are not shown, because they may be secrets.
impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value in the manifest is not shown, because it may be a secret.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("…"),
            Self::Env(variable) => write!(f, "{{ env = {variable:?} }}"),
            Self::File(path) => write!(f, "{{ file = {path:?} }}"),
        }
    }
}

/// The login by token: SASL OAUTHBEARER.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OAuth {
    /// The origin of the tokens. It is read each time that a token is needed.
    pub token: Token,
    /// The lifetime of tokens that do not contain it.
    pub lifetime_ms: u64,
}

/// The origin of tokens.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Token {
    /// An environment variable.
    Env(String),
    /// A file, which another program keeps up to date.
    File(PathBuf),
    /// The standard output of a program, given with its arguments.
    Command(Vec<String>),
    /// An unsigned token for this principal, made by the host. Only brokers for testing accept it.
    Unsecured(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_where_a_value_is_but_no_value() {
        let mut properties = Properties::from(BTreeMap::from([("sasl.password".to_owned(), "hush".to_owned())]));
        properties.set("sasl.username", Value::Env("KAFKA_USER".to_owned()));
        assert_eq!(format!("{properties:?}"), "{\"sasl.password\": …, \"sasl.username\": { env = \"KAFKA_USER\" }}");
    }
}
