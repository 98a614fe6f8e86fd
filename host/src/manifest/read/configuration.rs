//! The settings and the secrets of plugins. Only a plugin knows which ones it takes.

use super::*;
use serde_json::Value as Json;

const SETTING: &str = "a string, a number, true or false, a time, a list or a section";
const SECRET: &str = "{ env = \"VARIABLE\" } or { file = \"PATH\" }: a secret does not belong in the manifest";

/// Reads settings, which may be anything. A time becomes a text.
pub(super) fn settings(section: &Section<'_>) -> serde_json::Map<String, Json> {
    section.entries().filter_map(|(name, entry)| Some((name.to_owned(), setting(&entry)?))).collect()
}

fn setting(entry: &Entry<'_>) -> Option<Json> {
    let found = match entry.value.get_ref() {
        DeValue::String(text) => Some(Json::from(&**text)),
        DeValue::Boolean(value) => Some(Json::from(*value)),
        DeValue::Datetime(time) => Some(Json::from(time.to_string())),
        DeValue::Integer(digits) => integer(digits.as_str(), digits.radix()),
        DeValue::Float(digits) => digits.as_str().parse().ok().and_then(serde_json::Number::from_f64).map(Json::from),
        DeValue::Table(_) => Some(settings(&entry.section()?).into()),
        DeValue::Array(_) => return entry.each(SETTING, setting).map(Json::from),
    };
    if found.is_none() {
        entry.expected(SETTING);
    }
    found
}

fn integer(digits: &str, radix: u32) -> Option<Json> {
    let signed = i64::from_str_radix(digits, radix).map(Json::from);
    signed.or_else(|_| u64::from_str_radix(digits, radix).map(Json::from)).ok()
}

/// Reads the places of secrets.
pub(super) fn secrets(section: &Section<'_>) -> BTreeMap<String, Value> {
    let secret = |(name, entry): (&str, Entry<'_>)| {
        if let Err(cause) = names::checked(name, Rule::Message) {
            entry.document.problem(entry.key_span.clone(), format!("the name in `{}` {cause}", entry.path));
            return None;
        }
        match entry.value.get_ref() {
            DeValue::Table(_) => property::from_elsewhere(&entry).unwrap_or_else(|| {
                entry.note(&format!("must be {SECRET}"));
                None
            }),
            // What was found may be the secret itself, so it is not shown.
            _ => {
                entry.note(&format!("must be {SECRET}"));
                None
            }
        }
        .map(|place| (name.to_owned(), place))
    };
    section.entries().filter_map(secret).collect()
}
