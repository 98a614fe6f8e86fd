//! Read-back checks: before an event or a snapshot is recorded, samples are decoded and compared with what was encoded.
//!
//! The encoder refuses values that never read back. It can't see what the author's own types do, for example that they
//! leave out a field that has no default. So the first [`FIRST`] events of each variant, and every [`EVERY`]th after
//! them, are decoded in the same way as when their aggregate is rebuilt. So is everything that the encoder marks as
//! doubtful. The test kit checks all events.

use crate::codec::{self, Encoded, Error};
use crate::upcast::{self, Upcasts};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::{Cell, RefCell};

/// Number of events of each variant that are decoded at the beginning.
const FIRST: u32 = 100;

/// After the first ones, one event in this many is decoded.
const EVERY: u32 = 1_000;

/// Number of variants that are counted separately. Variants beyond it share the last count.
const KINDS_MAX: usize = 1_024;

/// Number of bytes of a payload that an error shows.
const SHOWN: usize = 60;

thread_local! {
    /// How often each variant was encoded, by its index.
    static ENCODED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static SNAPSHOTS: Cell<u32> = const { Cell::new(0) };
    static ALL: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread decode everything from now on, for tests.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn check_all() {
    ALL.set(true);
}

fn is_sample(seen: u32) -> bool {
    seen < FIRST || seen.is_multiple_of(EVERY) || ALL.get()
}

/// Counts an event and returns whether it is a sample.
#[inline]
fn is_event_due(variant: u32) -> bool {
    ENCODED.with_borrow_mut(|encoded| {
        let kind = (variant as usize).min(KINDS_MAX - 1);
        if kind >= encoded.len() {
            encoded.resize(kind + 1, 0);
        }
        let seen = encoded[kind];
        encoded[kind] = seen.wrapping_add(1);
        is_sample(seen)
    })
}

/// Encodes an event. If it is a sample or doubtful, this checks that it reads back the same.
#[inline]
pub(crate) fn encode_event<E: Serialize + DeserializeOwned>(
    event: &E,
    upcasts: &'static [Upcasts],
) -> Result<Encoded, Error> {
    let encoded = upcast::encode(event, upcasts)?;
    if is_event_due(encoded.variant) || encoded.is_doubtful {
        check_event::<E>(&encoded, upcasts)?;
    }
    Ok(encoded)
}

#[cold]
fn check_event<E: Serialize + DeserializeOwned>(encoded: &Encoded, upcasts: &'static [Upcasts]) -> Result<(), Error> {
    let Encoded { name, payload, .. } = encoded;
    let refused = |cause: &str| {
        Error::Other(format!(
            "the event {name} would not be read back, so nothing is recorded: {cause}; fix its serde attributes"
        ))
    };
    let decoded: E = upcast::decode(name, payload.clone(), upcasts).map_err(|error| refused(&error.to_string()))?;
    let again = upcast::encode(&decoded, upcasts).map_err(|error| refused(&error.to_string()))?;
    if again.name != *name {
        return Err(refused(&format!("it is read as {}", again.name)));
    }
    compare(payload, &again.payload).map_err(|difference| refused(&difference))
}

/// Encodes a state for a snapshot. If it is a sample or doubtful, this checks that it is restored the same.
pub(crate) fn encode_state<S: Serialize + DeserializeOwned>(state: &S) -> Result<Vec<u8>, String> {
    let (bytes, is_doubtful) = codec::to_json_doubted(state).map_err(|error| error.to_string())?;
    let seen = SNAPSHOTS.get();
    SNAPSHOTS.set(seen.wrapping_add(1));
    if is_sample(seen) || is_doubtful {
        let restored: S = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let again = codec::to_json(&restored).map_err(|error| error.to_string())?;
        compare(&bytes, &again)?;
    }
    Ok(bytes)
}

/// Compares a text with the text after decoding and encoding again. A different order does not count, because hash maps
/// have none.
fn compare(before: &[u8], after: &[u8]) -> Result<(), String> {
    if is_same(before, after) {
        return Ok(());
    }
    let at = before.iter().zip(after).take_while(|(one, other)| one == other).count();
    let shown = |text: &[u8]| {
        let from = at.saturating_sub(SHOWN / 2);
        String::from_utf8_lossy(&text[from..text.len().min(from + SHOWN)]).into_owned()
    };
    Err(format!("it is written as `{}` and read as `{}`", shown(before), shown(after)))
}

/// Returns whether two texts have the same bytes in any order.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    fn counted(text: &[u8]) -> [u32; 256] {
        let mut counts = [0_u32; 256];
        text.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        counts
    }
    one == other || one.len() == other.len() && counted(one) == counted(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::{HashMap, HashSet};

    #[derive(Serialize, Deserialize)]
    struct Wide {
        wide: u128,
    }

    #[derive(Serialize, Deserialize)]
    enum Event {
        Good {
            number: u64,
            set: HashSet<u32>,
            map: HashMap<String, f64>,
        },
        Plain(Wide),
        Flattened {
            #[serde(flatten)]
            wide: Wide,
        },
        Narrow {
            #[serde(deserialize_with = "narrow")]
            number: u128,
        },
        LeftOut {
            #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "number")]
            number: Option<u32>,
        },
        Forgotten {
            #[serde(skip_deserializing)]
            number: u32,
        },
        #[serde(rename(serialize = "Sent"))]
        Renamed,
    }

    fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        Option::deserialize(deserializer)
    }

    fn narrow<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        u64::deserialize(deserializer).map(u128::from)
    }

    fn said(event: &Event) -> String {
        encode_event(event, &[]).map(drop).map_err(|error| error.to_string()).unwrap_err()
    }

    #[test]
    fn an_event_that_comes_back_is_encoded() {
        let (set, map) = ((0..100).collect(), (0..100).map(|n| (n.to_string(), f64::from(n) / 3.0)).collect());
        assert!(encode_event(&Event::Good { number: u64::MAX, set, map }, &[]).is_ok());
        assert!(encode_event(&Event::Plain(Wide { wide: u128::MAX }), &[]).is_ok());
        assert!(encode_event(&Event::Narrow { number: 7 }, &[]).is_ok());
        assert!(encode_event(&Event::LeftOut { number: Some(1) }, &[]).is_ok());
    }

    #[test]
    fn an_event_that_would_not_come_back_is_refused() {
        for (event, part) in [
            (Event::LeftOut { number: None }, "missing field `number`"),
            (Event::Forgotten { number: 7 }, r#"is written as `{"number":7}` and read as `{"number":0}`"#),
            (Event::Renamed, "unknown name `Sent`"),
            (Event::Flattened { wide: Wide { wide: 7 } }, "the event Flattened would not be read back"),
            (Event::Narrow { number: u128::MAX }, "invalid type: floating point"),
        ] {
            let said = said(&event);
            assert!(said.contains(part) && said.contains("nothing is recorded"), "{said}");
        }
    }

    #[test]
    fn samples_are_taken_and_what_is_doubtful_is_always_decoded() {
        let narrow = |number| Event::Narrow { number };
        let forgotten = Event::Forgotten { number: 7 };
        for _ in 0..FIRST {
            assert!(encode_event(&forgotten, &[]).is_err());
            assert!(encode_event(&narrow(7), &[]).is_ok());
        }
        for _ in FIRST..EVERY {
            assert!(encode_event(&forgotten, &[]).is_ok(), "nobody looked");
        }
        assert!(encode_event(&forgotten, &[]).is_err(), "one in a thousand");
        assert!(encode_event(&narrow(u128::MAX), &[]).is_err(), "it is doubtful");
        check_all();
        assert!(encode_event(&forgotten, &[]).is_err(), "a test");
    }

    #[derive(Default, Serialize, Deserialize)]
    struct State {
        mean: Option<f64>,
        #[serde(skip_deserializing)]
        seen: u32,
    }

    #[test]
    fn a_state_that_would_not_be_restored_as_it_is_has_no_snapshot() {
        assert_eq!(encode_state(&State { mean: Some(1.5), seen: 0 }).unwrap(), br#"{"mean":1.5,"seen":0}"#);
        let nan = encode_state(&State { mean: Some(f64::NAN), seen: 0 }).unwrap_err();
        assert!(nan.contains("is not a JSON number"), "{nan}");
        let lost = encode_state(&State { mean: None, seen: 3 }).unwrap_err();
        assert!(lost.contains(r#""seen":3"#) && lost.contains(r#""seen":0"#), "{lost}");
    }
}
