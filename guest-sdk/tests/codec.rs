//! The codec's round trip: a value that encodes decodes to the same value, and a payload that does not decode says why.

use serde::{Deserialize, Serialize};
use wasmill_guest::codec::{decode, encode, json};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Event<'a> {
    Unit,
    Newtype(u64),
    Tuple(i32, Option<String>),
    Struct {
        text: String,
        numbers: Vec<f64>,
    },
    Empty {},
    #[serde(rename = "renamed.to")]
    Renamed {
        borrowed: &'a str,
    },
}

#[test]
fn every_kind_of_variant_comes_back() {
    let events = [
        Event::Unit,
        Event::Newtype(u64::MAX),
        Event::Tuple(-1, Some("ü\"\n".into())),
        Event::Struct { text: String::new(), numbers: vec![0.1, -2e300] },
        Event::Empty {},
        Event::Renamed { borrowed: "stays in the payload" },
    ];
    for event in events {
        let (name, payload) = encode(&event).unwrap();
        assert!(serde_json::from_slice::<serde_json::Value>(&payload).is_ok(), "{name} is JSON");
        assert_eq!(decode::<Event>(name, &payload).unwrap(), event);
    }
}

/// A live aggregate has the number that was recorded, and a rebuilt one has the number that was read.
#[test]
fn every_number_comes_back_as_it_was() {
    let mut random = fastrand::Rng::with_seed(1);
    let any = std::iter::repeat_with(|| f64::from_bits(random.u64(..))).filter(|number| number.is_finite());
    let mut others = fastrand::Rng::with_seed(2);
    let usual = std::iter::repeat_with(|| others.f64() * 100.0);
    for numbers in [any.take(20_000).collect::<Vec<_>>(), usual.take(20_000).collect()] {
        let event = Event::Struct { text: String::new(), numbers };
        let (name, payload) = encode(&event).unwrap();
        assert_eq!(decode::<Event>(name, &payload).unwrap(), event);
    }
    let error = encode(&Event::Struct { text: String::new(), numbers: vec![f64::NAN] }).unwrap_err();
    assert!(error.to_string().contains("NaN is not a JSON number"), "{error}");
}

#[test]
fn no_payload_is_enough_where_nothing_is_missing() {
    for payload in ["", "null", "{}", " {} "] {
        assert_eq!(decode::<Event>("Unit", payload.as_bytes()).unwrap(), Event::Unit);
        assert_eq!(decode::<Event>("Empty", payload.as_bytes()).unwrap(), Event::Empty {});
    }
    let error = decode::<Event>("Struct", b"").unwrap_err();
    assert!(error.to_string().contains("missing field `text`"), "{error}");
}

#[test]
fn what_does_not_decode_says_why() {
    let cases: [(&str, &[u8], &str); 6] = [
        ("Unit", b"7", "Unit: expected no payload"),
        ("Newtype", b"7 8", "Newtype: trailing characters at line 1 column 3"),
        ("Struct", br#"{"text":"","numbers":[1,null]}"#, "Struct: numbers[1]: invalid type: null"),
        ("Struct", b"not json", "Struct: expected ident at line 1 column 2"),
        ("Newtype", b"\xff", "the payload is not text"),
        ("unit", b"", "unknown name `unit`: known are Unit, Newtype, Tuple, Struct, Empty, renamed.to"),
    ];
    for (name, payload, part) in cases {
        let error = decode::<Event>(name, payload).unwrap_err().to_string();
        assert!(error.contains(part), "expected `{part}` in `{error}`");
    }
}

#[test]
fn a_payload_alone_names_its_type_in_errors() {
    #[derive(Debug, Deserialize)]
    struct Basket {
        #[expect(dead_code)]
        store: u32,
    }
    let error = json::<Basket>(br#"{"store":"a"}"#).unwrap_err();
    assert!(error.to_string().starts_with("Basket: store: invalid type: string \"a\""), "{error}");
}

#[test]
fn enums_with_a_shape_of_their_own_are_refused() {
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "type")]
    enum Tagged {
        A { number: u32 },
    }
    assert!(encode(&Tagged::A { number: 1 }).unwrap_err().to_string().contains("without `tag`"));
    assert!(decode::<Tagged>("A", b"{}").unwrap_err().to_string().contains("without `tag`"));
}
