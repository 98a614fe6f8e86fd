//! Upcasting: events of an older schema version are migrated to the current one before they are decoded.
//!
//! A recorded event never changes, so code that changes the shape of an event must still read the old shape. If serde's
//! attributes suffice, use them: `#[serde(default)]` for a new field, `#[serde(alias = "…")]` for a new name of a field
//! or of the event itself. For other changes an aggregate lists [`Upcasts`]. An event starts at schema version 1, and
//! each function in the list migrates it from one version to the next. The host looks up [`Upcasts`] by the recorded
//! name: if you rename an event, keep its [`Upcasts`] under the old name beside those under the new one.
//!
//! ```
//! use wasmill_guest::prelude::*;
//!
//! #[derive(Default)]
//! struct Member { first_name: String, last_name: String }
//!
//! #[derive(Serialize, Deserialize)]
//! enum Event { Registered { first_name: String, last_name: String } }
//!
//! /// Version 1 had one `name`.
//! fn split_name(mut event: Json) -> Result<Json, String> {
//!     let name = event["name"].as_str().ok_or("it has no `name`")?;
//!     let (first, last) = name.split_once(' ').unwrap_or((name, ""));
//!     event = json!({ "first_name": first, "last_name": last });
//!     Ok(event)
//! }
//!
//! impl Aggregate for Member {
//!     const UPCASTS: &'static [Upcasts] = &[Upcasts::of("Registered", &[split_name])];
//!     // …
//! #    const TYPE: &'static str = "member";
//! #    type Command = String;
//! #    type Event = Event;
//! #    type Error = String;
//! #    fn handle(&self, _: String) -> Result<Vec<Event>, String> { Ok(vec![]) }
//! #    fn apply(&mut self, Event::Registered { first_name, last_name }: Event) {
//! #        *self = Self { first_name, last_name };
//! #    }
//! }
//!
//! use wasmill_guest::testing::given_json;
//! let member = given_json::<Member>([("Registered", r#"{"name":"Ada Lovelace"}"#)]);
//! assert_eq!(member.state().last_name, "Lovelace");
//! ```
//!
//! From version 2 on, the payload contains the version, as the first member `@schema` of its object. Content that is
//! not an object, or that begins with a member `@value`, moves into a member `@value`. An event of a newer version than the
//! code knows is an error, never a guess: its aggregate is not rebuilt until newer code is loaded.
//!
//! Those who read the events of other aggregates upcast them with the same steps: see [`reading`](crate::reading).

use crate::codec::{self, Encoded, Error};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::cmp::Ordering;

pub use serde_json::{Value as Json, json};

/// A function that migrates the content of an event to the next schema version. The text of its error says what is
/// wrong with the content.
pub type Upcast = fn(Json) -> Result<Json, String>;

/// The steps that migrate old versions of one event to the current version.
#[derive(Clone, Copy, Debug)]
pub struct Upcasts {
    event: &'static str,
    steps: &'static [Upcast],
}

impl Upcasts {
    /// Lists the steps for the event with this name. The first step migrates version 1 to version 2, the second one
    /// version 2 to version 3, and so on. Never remove a step while a store has events of its version.
    ///
    /// An event without steps is one of version 1. If you rename an event and its shape stays, list it so under its old
    /// name: then `wasmill check` knows that readers may subscribe to that name.
    pub const fn of(event: &'static str, steps: &'static [Upcast]) -> Self {
        Self { event, steps }
    }

    const fn version(&self) -> u64 {
        1 + self.steps.len() as u64
    }
}

/// Returns the names of all events that are read: those of the enum, and those that only the upcasts name.
pub(crate) fn names<T: DeserializeOwned>(upcasts: &[Upcasts]) -> Result<Vec<String>, String> {
    let variants = codec::variants::<T>("events")?;
    let only_read = upcasts.iter().map(|upcasts| upcasts.event).filter(|event| !variants.contains(event));
    Ok(variants.iter().copied().chain(only_read).map(str::to_owned).collect())
}

const MARK: &[u8] = b"{\"@schema\":";
const VALUE: &[u8] = b"\"@value\":";

/// Encodes an event, with its schema version if that is not 1.
pub(crate) fn encode(event: &impl Serialize, upcasts: &[Upcasts]) -> Result<Encoded, Error> {
    let encoded = codec::encode_variant(event)?;
    match upcasts.iter().find(|upcasts| upcasts.event == encoded.name) {
        Some(upcasts) if upcasts.version() > 1 => {
            Ok(Encoded { payload: marked(upcasts.version(), &encoded.payload), ..encoded })
        }
        _ => Ok(encoded),
    }
}

fn marked(version: u64, payload: &[u8]) -> Vec<u8> {
    let mut marked = [MARK, version.to_string().as_bytes()].concat();
    match payload {
        b"{}" => marked.push(b'}'),
        [b'{', rest @ ..] if !rest.starts_with(VALUE) => {
            marked.push(b',');
            marked.extend_from_slice(rest);
        }
        other => {
            marked.push(b',');
            marked.extend_from_slice(VALUE);
            marked.extend_from_slice(other);
            marked.push(b'}');
        }
    }
    marked
}

/// Decodes an event of any version up to the one that the code knows.
///
/// This is always inlined and the list is constant, so a plugin without upcasts contains no code for JSON values.
#[inline(always)]
pub(crate) fn decode<T: DeserializeOwned>(name: &str, mut payload: Vec<u8>, upcasts: &[Upcasts]) -> Result<T, Error> {
    codec::decode(name, &current(name, &mut payload, upcasts)?)
}

/// Returns the content of an event in the version that the code knows, without a mark.
#[inline(always)]
pub(crate) fn current<'a>(name: &str, payload: &'a mut [u8], upcasts: &[Upcasts]) -> Result<Cow<'a, [u8]>, Error> {
    let (version, content) = unmarked(name, payload)?;
    if upcasts.is_empty() {
        return if version == 1 { Ok(Cow::Borrowed(content)) } else { Err(newer(name, version, 1)) };
    }
    let steps = upcasts.iter().find(|upcasts| upcasts.event == name).map_or([].as_slice(), |upcasts| upcasts.steps);
    let known = 1 + steps.len() as u64;
    match version.cmp(&known) {
        Ordering::Equal => Ok(Cow::Borrowed(content)),
        Ordering::Less => Ok(Cow::Owned(brought_up(name, version, content, &steps[version as usize - 1..])?)),
        Ordering::Greater => Err(newer(name, version, known)),
    }
}

fn newer(name: &str, version: u64, known: u64) -> Error {
    Error::Other(format!(
        "{name}: the event has schema version {version} and this code knows up to {known}: run the newer code that \
         recorded it"
    ))
}

/// Applies these steps to the content. The first step is the one from `version`.
fn brought_up(name: &str, version: u64, content: &[u8], steps: &[Upcast]) -> Result<Vec<u8>, Error> {
    let mut event: Json = codec::json(content)?;
    for (step, from) in steps.iter().zip(version..) {
        event = step(event)
            .map_err(|why| Error::Other(format!("{name}: it can't be migrated from schema version {from}: {why}")))?;
    }
    codec::to_json(&event)
}

/// Removes the mark in place. Returns the version, and the content as it was encoded.
fn unmarked<'a>(name: &str, payload: &'a mut [u8]) -> Result<(u64, &'a [u8]), Error> {
    if !payload.starts_with(MARK) {
        return Ok((1, payload));
    }
    let digits = payload[MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let end = MARK.len() + digits;
    let version = str::from_utf8(&payload[MARK.len()..end]).ok().and_then(|digits| digits.parse().ok());
    let refused = || Error::Other(format!("{name}: `@schema` is not a schema version: it must be a number from 1"));
    let Some(version @ 1..) = version else { return Err(refused()) };
    if payload.ends_with(b"}") && payload[end] == b',' && payload[end + 1..].starts_with(VALUE) {
        let last = payload.len() - 1;
        return Ok((version, &payload[end + 1 + VALUE.len()..last]));
    }
    match &mut payload[end..] {
        [b'}'] => Ok((version, b"{}")),
        [first @ b',', ..] => {
            *first = b'{';
            Ok((version, &payload[end..]))
        }
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Event {
        Named {
            name: String,
            born: Option<u32>,
        },
        Counted(u32),
        Closed,
        Plain {
            size: u32,
        },
        Odd {
            #[serde(rename = "@value")]
            value: u32,
            more: u32,
        },
    }

    fn named(event: Json) -> Result<Json, String> {
        let text = event.as_str().ok_or("it is no text")?;
        Ok(json!({ "name": text }))
    }

    fn no_change(event: Json) -> Result<Json, String> {
        Ok(event)
    }

    const UPCASTS: &[Upcasts] = &[
        Upcasts::of("Named", &[named, no_change]),
        Upcasts::of("Counted", &[no_change]),
        Upcasts::of("Closed", &[no_change]),
        Upcasts::of("Odd", &[no_change]),
    ];

    fn text(payload: &[u8]) -> &str {
        str::from_utf8(payload).unwrap()
    }

    #[test]
    fn an_event_is_marked_with_its_version_and_comes_back() {
        for (event, expected) in [
            (Event::Named { name: "a".into(), born: None }, r#"{"@schema":3,"name":"a","born":null}"#),
            (Event::Counted(7), r#"{"@schema":2,"@value":7}"#),
            (Event::Closed, r#"{"@schema":2,"@value":null}"#),
            (Event::Plain { size: 1 }, r#"{"size":1}"#),
            (Event::Odd { value: 1, more: 2 }, r#"{"@schema":2,"@value":{"@value":1,"more":2}}"#),
        ] {
            let Encoded { name, payload, .. } = encode(&event, UPCASTS).unwrap();
            assert_eq!(text(&payload), expected);
            assert_eq!(decode::<Event>(name, payload, UPCASTS).unwrap(), event);
        }
    }

    #[test]
    fn an_old_event_takes_every_step_from_its_version_on() {
        let expected = Event::Named { name: "a".into(), born: None };
        for old in [r#""a""#, r#"{"@schema":1,"@value":"a"}"#, r#"{"@schema":2,"name":"a"}"#] {
            assert_eq!(decode::<Event>("Named", old.into(), UPCASTS).unwrap(), expected, "{old}");
        }
    }

    #[test]
    fn what_cannot_be_brought_up_is_an_error_that_says_why() {
        for (name, payload, why) in [
            ("Named", r#"{"@schema":4,"name":"a"}"#, "schema version 4 and this code knows up to 3"),
            ("Plain", r#"{"@schema":2,"size":1}"#, "schema version 2 and this code knows up to 1"),
            ("Plain", r#"{"@schema":18446744073709551615}"#, "knows up to 1"),
            ("Named", "7", "can't be migrated from schema version 1: it is no text"),
            ("Named", r#"{"@schema":0}"#, "not a schema version"),
            ("Named", r#"{"@schema":"2"}"#, "not a schema version"),
            ("Named", r#"{"@schema":2"#, "not a schema version"),
            ("Named", r#"{"@schema":2x}"#, "not a schema version"),
            ("Named", r#"{"@schema":2x"@value":"a"}"#, "not a schema version"),
            ("Named", r#"{"@schema":2,"#, "EOF"),
            ("Named", r#"{"@schema":2,"@value":"#, "EOF"),
            ("Named", r#"{"@schema":2,"@value":}"#, "EOF"),
        ] {
            let error = decode::<Event>(name, payload.into(), UPCASTS).unwrap_err().to_string();
            assert!(error.contains(why), "{payload}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_mark_is_taken_off_as_it_was_put_on(version in 2_u64.., content in "[{]?\\PC{0,40}[}]?", value in 0..3) {
            // Objects as the encoder writes them, and other content.
            let content = match value {
                0 => content.into_bytes(),
                1 => serde_json::to_vec(&json!({ "a": content })).unwrap(),
                _ => b"{}".to_vec(),
            };
            // Content that begins with a brace must be valid JSON.
            let is_object = content.first() == Some(&b'{');
            prop_assume!(!is_object || serde_json::from_slice::<Json>(&content).is_ok());
            let mut payload = marked(version, &content);
            let (found, unmarked) = unmarked("Named", &mut payload).unwrap();
            prop_assert_eq!((found, unmarked), (version, content.as_slice()));
        }

        #[test]
        fn any_payload_is_decoded_or_refused_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            name in prop::sample::select(vec!["Named", "Counted", "Closed", "Plain", "Odd", "Unknown"]),
        ) {
            for payload in [bytes.clone(), [MARK, &bytes].concat(), [MARK, b"2,", VALUE, &bytes].concat()] {
                let _ = decode::<Event>(name, payload.clone(), UPCASTS);
                let _ = decode::<Event>(name, payload, &[]);
            }
        }
    }
}
