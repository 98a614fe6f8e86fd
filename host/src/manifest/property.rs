//! Properties of librdkafka's clients, and the login by token: where their values are, which may be secrets.
//!
//! A value stands in the manifest, in an environment variable or in a file. Only the place is known here; the value is
//! read when a client is made. None is ever shown by `Debug`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Properties by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, Value>);

/// Where the value of a property is.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// In the manifest.
    Text(String),
    /// In this environment variable.
    Env(String),
    /// In this file, without the end of the last line.
    File(PathBuf),
}

impl Properties {
    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether a property is set.
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

/// Without the values that stand in the manifest, which may be secrets.
impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Without a value that stands in the manifest, which may be a secret.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("…"),
            Self::Env(variable) => write!(f, "{{ env = {variable:?} }}"),
            Self::File(path) => write!(f, "{{ file = {path:?} }}"),
        }
    }
}

/// Login by token: SASL OAUTHBEARER.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OAuth {
    /// Where a token comes from, each time that one is needed.
    pub token: Token,
    /// How long a token counts that does not say itself when it ends.
    pub lifetime_ms: u64,
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Token {
    /// An environment variable.
    Env(String),
    /// A file, which somebody else keeps fresh.
    File(PathBuf),
    /// The standard output of a program, with its arguments.
    Command(Vec<String>),
    /// Made here, for this principal, and not signed: brokers take it that are set up for trying things out.
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
