//! Filters for the records of a topic: by key, by header and by a field of the value.

use crate::model::Record;
use serde_json::Value;

/// The filters that a record must match. It must match all of them.
#[derive(clap::Args)]
pub(super) struct Matching {
    /// Only records with this key.
    #[arg(long, value_name = "TEXT")]
    key: Option<String>,
    /// Only records with this header, and with this value if one is given; may be given several times.
    #[arg(long, value_name = "NAME[=VALUE]")]
    header: Vec<String>,
    /// Only records whose value is JSON with this field, such as store_id=9 or items.0.product_id=3; may be given
    /// several times.
    #[arg(long, value_name = "PATH=VALUE", value_parser = field)]
    field: Vec<(String, String)>,
}

fn field(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("not PATH=VALUE")?;
    Ok((path.to_owned(), value.to_owned()))
}

impl Matching {
    pub(super) fn wants(&self, record: &Record) -> bool {
        self.wants_key(record) && self.wants_headers(record) && self.wants_fields(record)
    }

    fn wants_key(&self, record: &Record) -> bool {
        self.key.as_ref().is_none_or(|key| record.key.as_deref() == Some(key.as_bytes()))
    }

    fn wants_headers(&self, record: &Record) -> bool {
        self.header.iter().all(|wanted| {
            let (name, value) =
                wanted.split_once('=').map_or((wanted.as_str(), None), |(name, value)| (name, Some(value)));
            let fits = |found: Option<&[u8]>| value.is_none_or(|value| found == Some(value.as_bytes()));
            record.headers.iter().any(|header| header.name == name && fits(header.value.as_deref()))
        })
    }

    fn wants_fields(&self, record: &Record) -> bool {
        if self.field.is_empty() {
            return true;
        }
        let value = record.payload.as_ref().and_then(|payload| serde_json::from_slice::<Value>(payload).ok());
        value.is_some_and(|value| self.field.iter().all(|(path, wanted)| has(&value, path, wanted)))
    }
}

fn has(value: &Value, path: &str, wanted: &str) -> bool {
    match find(value, path) {
        Some(Value::String(text)) => text == wanted,
        Some(other) => format!("{other}") == wanted,
        None => false,
    }
}

/// Finds a value by its path: names of fields and indexes of items, separated by dots.
fn find<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Header;

    #[test]
    fn all_that_is_asked_for_must_hold() {
        let record = Record {
            topic: "baskets".into(),
            partition: 0,
            offset: 0,
            time_ms: 0,
            key: Some(b"b1".to_vec()),
            headers: vec![Header { name: "till".into(), value: Some(b"7".to_vec()) }],
            payload: Some(br#"{"store":"3","items":[{"cents":250}],"loyal":true}"#.to_vec()),
        };
        let wants = |key: Option<&str>, headers: &[&str], fields: &[&str]| {
            let header = headers.iter().map(|header| header.to_string()).collect();
            let field = fields.iter().map(|text| field(text).unwrap()).collect();
            Matching { key: key.map(str::to_owned), header, field }.wants(&record)
        };
        assert!(wants(None, &[], &[]));
        assert!(wants(Some("b1"), &["till", "till=7"], &["store=3", "items.0.cents=250", "loyal=true"]));
        assert!(!wants(Some("b2"), &[], &[]));
        assert!(!wants(None, &["till=8"], &[]) && !wants(None, &["flag"], &[]));
        assert!(!wants(None, &[], &["items.1.cents=250"]) && !wants(None, &[], &["store=3", "loyal=false"]));
    }
}
