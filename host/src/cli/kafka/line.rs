//! Records as lines of JSON: `consume --json` prints the format that `produce --format json` reads.
//!
//! Text is written as a string. A value that is a JSON object or list is written as it is, so that other tools can read
//! it. Bytes that are not UTF-8 are written in base64 under another name. A record survives the round trip unchanged.

use crate::kafka::admin::produce::NewRecord;
use crate::model::{Header, Record};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Serialize)]
struct Out<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    time_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<OutHeader<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

#[derive(Serialize)]
struct OutHeader<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Json(&'a RawValue),
    Text(&'a str),
}

/// Formats a record as a line, without the line end.
pub(super) fn print(record: &Record) -> String {
    let (key, key_base64) = text_or_base64(record.key.as_deref());
    let (value, value_base64) = text_or_base64(record.payload.as_deref());
    let headers = record.headers.iter().map(|header| {
        let (value, value_base64) = text_or_base64(header.value.as_deref());
        OutHeader { name: &header.name, value, value_base64 }
    });
    let out = Out {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
        time_ms: record.time_ms,
        key,
        key_base64,
        headers: headers.collect(),
        value: value.map(|text| json(text).map_or(Value::Text(text), Value::Json)),
        value_base64,
    };
    serde_json::to_string(&out).expect("it has nothing that is not JSON")
}

fn text_or_base64(bytes: Option<&[u8]>) -> (Option<&str>, Option<String>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => (None, None),
        Some((_, Ok(text))) => (Some(text), None),
        Some((bytes, Err(_))) => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

/// Returns a text as JSON if it is an object or a list on a single line.
fn json(text: &str) -> Option<&RawValue> {
    let is_nested = text.starts_with(['{', '[']) && text.ends_with(['}', ']']);
    if is_nested && !text.contains(['\n', '\r']) { serde_json::from_str(text).ok() } else { None }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct In<'a> {
    /// The place that the record was read from, which is ignored.
    #[serde(default, rename = "topic")]
    _topic: Option<String>,
    #[serde(default, rename = "offset")]
    _offset: Option<i64>,
    partition: Option<i32>,
    time_ms: Option<u64>,
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    headers: Vec<InHeader>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    value_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InHeader {
    name: String,
    value: Option<String>,
    value_base64: Option<String>,
}

/// Parses a line into a record. The error says what is wrong with the line.
pub(super) fn parse(line: &str) -> Result<NewRecord, String> {
    let line: In<'_> = serde_json::from_str(line).map_err(|error| {
        format!("{error}; a line is an object with key, headers, value, partition and time_ms, each of which may be left out")
    })?;
    let value = match line.value.map(RawValue::get) {
        None | Some("null") => None,
        Some(text) if text.starts_with('"') => {
            Some(serde_json::from_str(text).map_err(|error| format!("`value`: {error}"))?)
        }
        Some(json) => Some(json.to_owned()),
    };
    let headers = line.headers.into_iter().map(|header| {
        let value = bytes(&format!("the header {:?}", header.name), header.value, header.value_base64)?;
        Ok(Header { name: header.name, value })
    });
    Ok(NewRecord {
        partition: line.partition,
        key: bytes("`key`", line.key, line.key_base64)?,
        value: bytes("`value`", value, line.value_base64)?,
        headers: headers.collect::<Result<_, String>>()?,
        time_ms: line.time_ms,
    })
}

fn bytes(what: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Vec<u8>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("{what} is given twice, as text and in base64: keep one")),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(base64)) => {
            BASE64_STANDARD.decode(base64).map(Some).map_err(|error| format!("{what} is not base64: {error}"))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(key: Option<&[u8]>, payload: Option<&[u8]>) -> Record {
        Record {
            topic: "baskets".into(),
            partition: 2,
            offset: 7,
            time_ms: 1_000,
            key: key.map(<[u8]>::to_vec),
            headers: vec![
                Header { name: "flag".into(), value: None },
                Header { name: "raw".into(), value: Some(vec![0xff]) },
            ],
            payload: payload.map(<[u8]>::to_vec),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let values: [Option<&[u8]>; 7] = [
            None,
            Some(b""),
            Some(b"null"),
            Some(b"\"quoted\""),
            Some(b"{ \"a\": 1.50, \"a\": 2 }"),
            Some(b"[1,\n2]"),
            Some(&[0, 0xff]),
        ];
        for value in values {
            for key in [None, Some(&b"k\n"[..]), Some(&[0xfe][..])] {
                let record = record(key, value);
                let line = print(&record);
                assert!(!line.contains('\n'), "{line}");
                let back = parse(&line).unwrap();
                assert_eq!((&back.key, &back.value), (&record.key, &record.payload), "{line}");
                assert_eq!((back.headers, back.partition, back.time_ms), (record.headers, Some(2), Some(1_000)));
            }
        }
    }

    #[test]
    fn an_object_is_not_put_into_quotes() {
        assert!(print(&record(Some(b"k"), Some(b"{\"a\":1}"))).ends_with("\"value\":{\"a\":1}}"));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, expected) in [
            ("{\"vaule\":1}", "unknown field `vaule`"),
            ("{\"key\":\"a\",\"key_base64\":\"YQ==\"}", "`key` is given twice"),
            ("{\"value_base64\":\"?\"}", "`value` is not base64"),
            ("basket", "a line is an object"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        let any_bytes = prop::collection::vec(any::<u8>(), 0..30);
        let text = prop_oneof!["(?s:.{0,30})", "[\\[{][\"a-c:,0-9 \n]{0,12}[\\]}]"].prop_map(String::into_bytes);
        prop::option::of(prop_oneof![any_bytes, text])
    }

    proptest! {
        #[test]
        fn any_record_comes_back_as_it_was(
            key in bytes(),
            payload in bytes(),
            headers in prop::collection::vec(("(?s:.{0,6})", bytes()), 0..3),
            place in any::<(i32, i64, u64)>(),
        ) {
            let headers: Vec<Header> = headers.into_iter().map(|(name, value)| Header { name, value }).collect();
            let (partition, offset, time_ms) = place;
            let record = Record { topic: "t".into(), partition, offset, time_ms, key, headers, payload };
            let line = print(&record);
            prop_assert!(!line.contains(['\n', '\r']), "{}", line);
            let back = parse(&line).unwrap();
            prop_assert_eq!((back.key, back.value, back.headers), (record.key, record.payload, record.headers));
            prop_assert_eq!((back.partition, back.time_ms), (Some(partition), Some(time_ms)));
        }

        #[test]
        fn any_text_is_a_line_or_told_what_one_is(text in "(?s:.{0,60})|\\{[\"a-z_:,0-9 {}\\[\\]]{0,60}\\}") {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.is_empty());
            }
        }
    }
}
