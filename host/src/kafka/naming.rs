//! The address of a record: its aggregate and its command, taken from the manifest, a header, or a field of its value.
//!
//! The key is the aggregate's id, either as text or encoded as text. If a record lacks a part of its address, the error
//! says what is missing and how to produce the record correctly.

use super::record::Incoming;
use crate::framing;
use crate::manifest::{Commands, Key, Name};
use base16ct::lower;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The aggregate and the command of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) aggregate: Arc<str>,
    pub(super) id: Arc<str>,
    pub(super) command: Arc<str>,
}

/// The rules by which the records of a source are addressed.
pub(super) struct Naming {
    source: Arc<str>,
    aggregate: From,
    command: From,
    key: Key,
    tombstone: Option<Arc<str>>,
}

enum From {
    Manifest(Arc<str>),
    Header(String),
    Field(String),
}

impl Naming {
    pub(super) fn new(source: &Arc<str>, commands: &Commands) -> Self {
        Self {
            source: source.clone(),
            aggregate: From::new(&commands.aggregate),
            command: From::new(&commands.command),
            key: commands.key,
            tombstone: commands.tombstone.as_deref().map(Into::into),
        }
    }

    /// Whether each record names the type of its aggregate.
    pub(super) fn is_addressed_by_records(&self) -> bool {
        !matches!(self.aggregate, From::Manifest(_))
    }

    /// Returns the address of a record, or what is wrong with it and the remedy.
    pub(super) fn address(&self, record: &Incoming<'_>) -> Result<Address, String> {
        let id = self.id(record)?;
        let command = match (record.payload, &self.tombstone) {
            (Some(_), _) => self.command.find(record, "command")?,
            (None, Some(tombstone)) => tombstone.clone(),
            (None, None) => {
                return Err(format!(
                    "the record has no value (a tombstone): produce it with the command's payload as its value, or \
                     name the command that it is with `tombstone` in [sources.{}]",
                    self.source
                ));
            }
        };
        Ok(Address { aggregate: self.aggregate.find(record, "aggregate")?, id, command })
    }

    fn id(&self, record: &Incoming<'_>) -> Result<Arc<str>, String> {
        let key = match record.key {
            None => return Err("the record has no key: produce it with the aggregate's id as its key".into()),
            Some(b"") => {
                return Err("the key is empty: produce the record with the aggregate's id as its key".into());
            }
            Some(key) => key,
        };
        match self.key {
            Key::Text => self.text(key).map(Into::into),
            Key::Hex => Ok(lower::encode_string(key).into()),
            Key::Base64 => Ok(BASE64_URL_SAFE_NO_PAD.encode(key).into()),
        }
    }

    fn text<'a>(&self, key: &'a [u8]) -> Result<&'a str, String> {
        let remedy = || {
            format!(
                "produce the record with the aggregate's id, as text, as its key, or have keys encoded as text with \
                 `key = \"hex\"` in [sources.{}]",
                self.source
            )
        };
        if let Some(hint) = framing::hint("key", key) {
            return Err(format!("{hint}; {}", remedy()));
        }
        std::str::from_utf8(key).map_err(|_| format!("the key is not UTF-8: {}", remedy()))
    }
}

impl From {
    fn new(name: &Name) -> Self {
        match name {
            Name::Fixed(name) => Self::Manifest(name.as_str().into()),
            Name::Header(header) => Self::Header(header.clone()),
            Name::Field(field) => Self::Field(field.clone()),
        }
    }

    /// Finds the name in a record. `what` is the manifest's key for it.
    fn find(&self, record: &Incoming<'_>, what: &str) -> Result<Arc<str>, String> {
        match self {
            Self::Manifest(name) => Ok(name.clone()),
            Self::Header(header) => header_text(record, header).map(Into::into).ok_or_else(|| {
                format!("the header {header}, which names the {what}, is missing or is no text: produce the record with it")
            }),
            Self::Field(path) => field_text(record.payload.unwrap_or_default(), path).map(Into::into).map_err(|cause| {
                let reason = format!("the field {path}, which names the {what}, {cause}: produce the record with it, as text, in a JSON object");
                framing::explained(reason, "value", record.payload.unwrap_or_default())
            }),
        }
    }
}

/// Returns the text of a header. The last header of a name counts, as in other clients.
fn header_text<'a>(record: &'a Incoming<'_>, name: &str) -> Option<&'a str> {
    let last = record.headers.list.iter().rfind(|header| header.name == name)?;
    std::str::from_utf8(last.value.as_deref()?).ok().filter(|text| !text.is_empty())
}

/// Returns a field of a JSON object, or with `/outer/inner` a field of an object in it. The rest is not decoded.
fn field_text<'a>(value: &'a [u8], path: &str) -> Result<Cow<'a, str>, &'static str> {
    let names: Vec<&str> = match path.strip_prefix('/') {
        Some(rest) => rest.split('/').collect(),
        None => vec![path],
    };
    let mut json = std::str::from_utf8(value).map_err(|_| "stands in a value that is no text")?;
    for name in names {
        let fields: BTreeMap<Cow<'a, str>, &'a RawValue> =
            serde_json::from_str(json).map_err(|_| "stands in a value that is no JSON object")?;
        json = fields.get(name).ok_or("is missing")?.get();
    }
    let text: Cow<'a, str> = serde_json::from_str(json).map_err(|_| "is no text")?;
    if text.is_empty() { Err("is empty") } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Rejected;
    use crate::model::{Header, Record};

    fn commands() -> Commands {
        let name = |name: &str| Name::Fixed(name.into());
        Commands {
            aggregate: name("order"),
            command: name("Create"),
            key: Key::Text,
            tombstone: None,
            rejected: Rejected::Count,
        }
    }

    fn address(commands: &Commands, key: &[u8], value: Option<&[u8]>) -> Result<(String, String, String), String> {
        let header =
            |name: &str, value: Option<&str>| Header { name: name.into(), value: value.map(|value| value.into()) };
        let headers = vec![header("command", Some("Old")), header("command", Some("Cancel")), header("empty", None)];
        let (key, payload) = (Some(key.to_vec()), value.map(<[u8]>::to_vec));
        let record = Record { topic: "t".into(), partition: 0, offset: 0, time_ms: 0, key, headers, payload };
        let found = Naming::new(&"till".into(), commands).address(&(&record).into())?;
        Ok((found.aggregate.to_string(), found.id.to_string(), found.command.to_string()))
    }

    #[test]
    fn names_stand_in_the_manifest_in_a_header_or_in_a_field() {
        let value = br#"{"kind":"cart","meta":{"name":"Add"},"n":1,"twice\u0021":"x"}"#.as_slice();
        let field = |path: &str| Name::Field(path.into());
        for (aggregate, command, expected) in [
            (Name::Fixed("order".into()), Name::Header("command".into()), ("order", "Cancel")),
            (field("kind"), field("/meta/name"), ("cart", "Add")),
            (field("twice!"), field("/kind"), ("x", "cart")),
        ] {
            let found = address(&Commands { aggregate, command, ..commands() }, b"1", Some(value)).unwrap();
            assert_eq!(found, (expected.0.into(), "1".into(), expected.1.into()));
        }
    }

    #[test]
    fn a_record_that_lacks_a_name_says_which() {
        for (command, value, expected) in [
            (Name::Header("none".into()), "{}", "the header none, which names the command, is missing"),
            (Name::Header("empty".into()), "{}", "is missing or is no text"),
            (Name::Field("kind".into()), "{}", "the field kind, which names the command, is missing"),
            (Name::Field("kind".into()), r#"{"kind":1}"#, "is no text"),
            (Name::Field("kind".into()), r#"{"kind":""}"#, "is empty"),
            (Name::Field("kind".into()), "[]", "is no JSON object"),
            (Name::Field("/kind/x".into()), r#"{"kind":"a"}"#, "is no JSON object"),
        ] {
            let error = address(&Commands { command, ..commands() }, b"1", Some(value.as_bytes())).unwrap_err();
            assert!(error.contains(expected) && error.contains("produce"), "{error}");
        }
    }

    #[test]
    fn raw_keys_are_written_as_text_where_the_manifest_says_so() {
        for (key, expected) in [(Key::Hex, "00ff7a"), (Key::Base64, "AP96")] {
            let found = address(&Commands { key, ..commands() }, b"\x00\xff\x7a", Some(b"{}")).unwrap();
            assert_eq!(found.1, expected);
        }
        let error = address(&commands(), b"\xff", Some(b"{}")).unwrap_err();
        assert!(error.contains("not UTF-8") && error.contains("`key = \"hex\"` in [sources.till]"), "{error}");
    }

    #[test]
    fn a_tombstone_is_the_command_that_the_manifest_names() {
        let with = Commands { tombstone: Some("Delete".into()), command: Name::Field("kind".into()), ..commands() };
        assert_eq!(address(&with, b"1", None).unwrap(), ("order".into(), "1".into(), "Delete".into()));
        assert!(address(&commands(), b"1", None).unwrap_err().contains("`tombstone` in [sources.till]"));
    }
}
