//! The events that a guest decides on, checked before they are recorded: what is recorded can be read back.
//!
//! The contract says that a payload is JSON in UTF-8. A payload that is not JSON would be recorded for ever, and its readers would
//! stop at it: the aggregate itself when it is rebuilt, and each subscriber and projection. Every command that records events pays
//! for this check, so it looks at the encoding and at both ends of a payload, and parses nothing.

use super::bindings::wasmill::plugin::types;
use crate::model::NewEvent;
use crate::names::{self, Rule};

/// Returns the events as they are recorded, or says what is wrong with one of them.
pub(super) fn new_events(decided: Vec<types::NewEvent>) -> Result<Vec<NewEvent>, String> {
    decided.into_iter().map(new_event).collect()
}

fn new_event(types::NewEvent { name, payload }: types::NewEvent) -> Result<NewEvent, String> {
    if let Err(cause) = names::checked(&name, Rule::Message) {
        return Err(format!("the name of an event that it decided on {cause}"));
    }
    match check(&payload) {
        Ok(()) => Ok(NewEvent { name, payload }),
        Err(cause) => {
            Err(format!("the payload of the event {name} that it decided on {cause}: a payload is JSON in UTF-8"))
        }
    }
}

/// Refuses what is not UTF-8, and what can't be JSON because of how it begins and ends.
fn check(payload: &[u8]) -> Result<(), String> {
    if let Err(error) = str::from_utf8(payload) {
        return Err(format!("is not UTF-8, from its byte {} on", error.valid_up_to()));
    }
    let may_be_json = match payload.trim_ascii() {
        [] => return Err("is empty".to_owned()),
        [b'{', .., b'}'] | [b'[', .., b']'] | [b'"', .., b'"'] => true,
        [b'-', .., b'0'..=b'9'] | [b'0'..=b'9', .., b'0'..=b'9'] | [b'0'..=b'9'] => true,
        text => matches!(text, b"true" | b"false" | b"null"),
    };
    if may_be_json { Ok(()) } else { Err(format!("is not JSON: it begins with {}", shown(payload))) }
}

/// Returns the beginning of a payload that is text.
fn shown(payload: &[u8]) -> String {
    const SHOWN_BYTES: usize = 20;
    let text = str::from_utf8(payload).unwrap_or_default();
    format!("{:?}", &text[..text.floor_char_boundary(SHOWN_BYTES)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_payload_that_nobody_can_read_is_refused_with_its_place() {
        for (payload, said) in [
            (
                &b"{\"a\":\"\xff\"}"[..],
                "the payload of the event Done that it decided on is not UTF-8, from its byte 6 on: a ",
            ),
            (b"", "is empty: a payload is JSON in UTF-8"),
            (b" \n", "is empty"),
            (b"hello", r#"is not JSON: it begins with "hello""#),
            (b"{\"a\":1", r#"is not JSON: it begins with "{\"a\":1""#),
            ("\u{feff}{}".as_bytes(), r#"is not JSON: it begins with "\u{feff}{}""#),
            (b"\0\x1b", r#"is not JSON: it begins with "\0\u{1b}""#),
            (b"\"", "is not JSON"),
            (b"-", "is not JSON"),
            (b"nul", "is not JSON"),
        ] {
            let event = types::NewEvent { name: "Done".to_owned(), payload: payload.to_vec() };
            let refused = new_events(vec![event]).unwrap_err();
            assert!(refused.contains(said) && !refused.chars().any(char::is_control), "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_json_passes(number in any::<f64>(), text in "(?s:.{0,20})", space in "[ \n\r\t]{0,3}") {
            use serde_json::json;
            for value in [json!(number), json!(text), json!(null), json!(true), json!([]), json!([text]), json!({}), json!({ "a": 0 })] {
                let payload = format!("{space}{value}{space}");
                prop_assert_eq!(check(payload.as_bytes()), Ok(()), "{}", payload);
            }
        }
    }
}
